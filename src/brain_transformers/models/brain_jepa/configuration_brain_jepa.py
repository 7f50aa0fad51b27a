"""Configuration of Brain-JEPA."""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import Table
from ..configuration_roi import ROIConfig
from ..family import Family
from ..validation import CHOICES, RANGES, SHARE, Range, check_heads
from .family import FAMILY


def _scale(low: float, high: float) -> Any:
    return field(default_factory=lambda: [low, high])


@strict
class BrainJEPAConfig(ROIConfig):
    """Configuration of [`BrainJEPAModel`]: a ViT over (ROI, 16 frames) tokens, trained by latent prediction.

    Defaults are those of the released ViT-Base checkpoint and the released training configuration.
    Source: Dong et al., "Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and Spatiotemporal
    Masking", NeurIPS 2024 (arXiv 2409.19407).

    Args:
        n_rois: parcels of a sample (Tian S3 and Schaefer-400: 450).
        n_timepoints: frames of a window. Frames past the last whole patch are ignored; other lengths work at run time.
        patch_size: frames of a token.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: context and target encoder.
        predictor_hidden_size, predictor_num_hidden_layers, predictor_num_attention_heads,
            predictor_intermediate_size: predictor. (The released one has 6 layers; the authors' scripts say 12.)
        position_type: `"gradient"`: the ROI half of a position is projected from functional gradients, as released;
            `"index"`: from the ROI's row number (the authors' ablation).
        gradient_size: components of the gradient table.
        gradient_source: where the stored gradients came from. By default those of this package if it has them for
            `roi_order`; `None` means that none are stored and `set_gradients` must be called first.
        hidden_act: activation of the feed-forward blocks; `"gelu"` is the exact form.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout while training; 0 in the authors' runs.
        layer_norm_eps, initializer_range: as usual.
        pooling: how `pooler_output` is made of all tokens: `"mean"`, `"max"`, or `"first"` (ROI 0, window 0).
        pooler_norm: normalise the pooled vector (no learned scale), as the authors' downstream model does at its
            start.
        classifier_head: `"linear"`, or `"batch_norm_linear"` for linear probing.
        classifier_norm: learned LayerNorm on the pooled vector before the head; the authors have it with mean pooling.
        mask_rule: `"balanced"` or `"published"`, see `models.block_masks`. Balanced is the default for new training,
            since the published trimming nearly removes right-hemisphere parcels from the contexts.
        mask_observation: share of ROIs, and of windows, that the observed block spans, drawn from this range.
        mask_cross_rois, mask_cross_windows: ranges of the share of ROIs and windows of the cross-ROI target.
        mask_side_rois, mask_side_windows: ranges of the share of ROIs and windows of the two cross-time targets.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    table_sources = {"gradients": "gradient_source"}
    choices = {
        "position_type": ("gradient", "index"),
        "pooling": ("mean", "max", "first"),
        "classifier_head": ("linear", "batch_norm_linear"),
        "mask_rule": ("balanced", "published"),
        **CHOICES,
    }
    ranges = {"gradient_size": Range(1, 10_000), r"mask_\w+_(rois|windows)|mask_observation": SHARE, **RANGES}

    n_rois: int = 450
    n_timepoints: int = 160
    patch_size: int = 16
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    predictor_hidden_size: int = 384
    predictor_num_hidden_layers: int = 6
    predictor_num_attention_heads: int = 12
    predictor_intermediate_size: int = 1536
    position_type: str = "gradient"
    gradient_size: int = 30
    gradient_source: str | None = "package"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pooling: str = "mean"
    pooler_norm: bool = False
    classifier_head: str = "linear"
    classifier_norm: bool = True
    mask_rule: str = "balanced"
    mask_observation: list[float | int] = _scale(0.84, 1.0)
    mask_cross_rois: list[float | int] = _scale(0.45, 0.6)
    mask_cross_windows: list[float | int] = _scale(0.2, 0.6)
    mask_side_rois: list[float | int] = _scale(0.15, 0.3)
    mask_side_windows: list[float | int] = _scale(0.0, 0.4)
    roi_order: str | list[str] | None = "tian-s3+schaefer400-17net"
    # 0.735 s times 479/159: the authors pick 160 frames from 480.
    t_r: float | int | None = 2.2143

    @property
    def n_windows(self) -> int:
        """Tokens of an ROI in a window of `n_timepoints`."""
        return self.n_timepoints // self.patch_size

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainConfig.tables`]; positions by index need none."""
        if self.position_type != "gradient":
            return {}
        shape = (self.n_rois, self.gradient_size)
        return {"gradients": Table("functional gradients", shape, self.gradient_source, columns="gradient_size")}

    def t_r_for(self, t_r: float) -> float:
        """Ours for scans that are at least twice as fast, of which every n-th frame is taken; else theirs."""
        return t_r if self.t_r is None or round(self.t_r / t_r) <= 1 else self.t_r

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
        for name in (
            "mask_observation",
            "mask_cross_rois",
            "mask_cross_windows",
            "mask_side_rois",
            "mask_side_windows",
        ):
            scale = getattr(self, name)
            if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1:
                raise ValueError(f"{name} must be two shares [low, high] with 0 <= low <= high <= 1, got {scale}.")


__all__ = ["BrainJEPAConfig"]
