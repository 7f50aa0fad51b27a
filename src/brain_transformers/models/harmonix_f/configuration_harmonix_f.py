"""Configuration of Harmonix-F."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import ScanFacts, Table
from ..configuration_roi import ROIConfig
from ..family import Family
from ..validation import CHOICES, RANGES, SHARE, Range, check_heads
from .family import FAMILY


def _scale(low: float, high: float) -> Any:
    return field(default_factory=lambda: [low, high])


@strict
class HarmonixFConfig(ROIConfig):
    """Configuration of [`HarmonixFModel`]: a ViT over (ROI, patch of 35 s) tokens, for scans of any repetition time.

    Defaults are those of the released encoder and of the authors' code.
    Source: Dong et al., "Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D
    Tokens", NeurIPS 2025 (arXiv 2509.24693).

    Args:
        n_rois: parcels of a sample (Schaefer-400).
        n_timepoints: frames of a window of scans with `t_r`; for others as many patches, of another length.
        patch_size: frames of a token of such scans, the length of the stored kernel. Scans of another repetition time
            bring their own, `patch_seconds / t_r` rounded, and the kernel is resized to it.
        patch_seconds: seconds of a token.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: encoder.
        predictor_hidden_size, predictor_num_hidden_layers, predictor_num_attention_heads,
            predictor_intermediate_size: predictor.
        predictor_layer_norm_eps: of the predictor; the authors' factory is missing, and 1e-6 is that of Brain-JEPA.
        gradient_size, harmonics_size: columns of the two tables of the parcels.
        gradient_source, harmonics_source: where they came from. By default those of this package if it has them for
            `roi_order`; `None` means that none is stored and `set_table` must be called first.
        use_cls_token: put a learned token in front; the released encoder has none.
        padded_attention: what padded tokens get from attention: `"zero"`, nothing, as in the authors' flash path, or
            `"observed"`: they attend to what was observed, as in their eager one. Observed tokens are the same.
        hidden_act: activation of the feed-forward blocks; `"gelu"` is the exact form.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout while training; 0 in the authors' code.
        drop_path_rate: stochastic depth of the last layer; layers before it have linearly less.
        layer_norm_eps, initializer_range: as usual.
        pooling: `"mean"` of the observed tokens, or `"cls"`.
        mask_rule, mask_observation, mask_cross_rois, mask_cross_windows, mask_side_rois, mask_side_windows: masks of
            pretraining, see [`BrainJEPAConfig`]; the authors released none of their own.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    table_sources = {"gradients": "gradient_source", "harmonics": "harmonics_source"}
    keys_to_ignore_at_inference = [
        "sample_losses",
        "predictions",
        "targets",
        "target_mask",
        "context_indices",
        "target_indices",
        "context_hidden_state",
        "last_hidden_state",
        "pooler_output",
    ]
    choices = {
        "padded_attention": ("zero", "observed"),
        "pooling": ("mean", "cls"),
        "mask_rule": ("balanced", "published"),
        **CHOICES,
    }
    ranges = {
        "gradient_size|harmonics_size": Range(1, 10_000),
        "patch_seconds": Range(0.1, 10_000),
        "predictor_layer_norm_eps": Range(1e-30, 1),
        r"mask_\w+_(rois|windows)|mask_observation": SHARE,
        **RANGES,
    }

    n_rois: int = 400
    n_timepoints: int = 864
    patch_size: int = 48
    patch_seconds: float | int = 35.28
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    predictor_hidden_size: int = 384
    predictor_num_hidden_layers: int = 6
    predictor_num_attention_heads: int = 12
    predictor_intermediate_size: int = 1536
    predictor_layer_norm_eps: float = 1e-6
    gradient_size: int = 30
    gradient_source: str | None = "package"
    harmonics_size: int = 200
    harmonics_source: str | None = "package"
    use_cls_token: bool = False
    padded_attention: str = "zero"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pooling: str = "mean"
    mask_rule: str = "balanced"
    mask_observation: list[float | int] = _scale(0.84, 1.0)
    mask_cross_rois: list[float | int] = _scale(0.45, 0.6)
    mask_cross_windows: list[float | int] = _scale(0.2, 0.6)
    mask_side_rois: list[float | int] = _scale(0.15, 0.3)
    mask_side_windows: list[float | int] = _scale(0.0, 0.4)
    roi_order: str | list[str] | None = "schaefer400-17net"
    t_r: float | int | None = 0.735

    @property
    def n_windows(self) -> int:
        """Tokens of an ROI."""
        return self.n_timepoints // self.patch_size

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainConfig.tables`]."""
        sizes = {"gradients": self.gradient_size, "harmonics": self.harmonics_size}
        whats = {"gradients": "functional gradients", "harmonics": "geometric harmonics"}
        return {
            name: Table(
                whats[name],
                (self.n_rois, size),
                getattr(self, self.table_sources[name]),
                columns="gradient_size" if name == "gradients" else "harmonics_size",
            )
            for name, size in sizes.items()
        }

    def fitted_to(self, facts: ScanFacts, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """See [`BrainConfig.fitted_to`]: scans of any repetition time bring the length of their patches."""
        return super().fitted_to(facts, {"t_r": self.t_r, **chosen})

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
        check_heads("predictor_hidden_size", self.predictor_hidden_size, self.predictor_num_attention_heads)
        for name in ("hidden_size", "predictor_hidden_size"):
            if getattr(self, name) % 4:
                raise ValueError(f"{name} must be a multiple of 4 for the position table, got {getattr(self, name)}.")
        if self.n_timepoints < self.patch_size:
            raise ValueError(
                f"n_timepoints ({self.n_timepoints}) must be at least patch_size ({self.patch_size}): one token."
            )
        if self.pooling == "cls" and not self.use_cls_token:
            raise ValueError('pooling="cls" needs use_cls_token=True: the released encoder has no CLS token.')


__all__ = ["HarmonixFConfig"]
