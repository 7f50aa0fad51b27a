"""Configuration of Harmonix-F."""

from collections.abc import Mapping
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import ScanFacts, Table
from ..configuration_latent_prediction import LatentPredictionConfig
from ..family import Family
from ..validation import Range
from .family import FAMILY


@strict
class HarmonixFConfig(LatentPredictionConfig):
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
        hidden_size, ..., mask_side_windows: see [`LatentPredictionConfig`]; the authors released no masks.
        predictor_layer_norm_eps: of the predictor; the authors' factory is missing, and 1e-6 is that of Brain-JEPA.
        harmonics_size, harmonics_source: as those of the gradients, for the geometric harmonics.
        use_cls_token: put a learned token in front; the released encoder has none.
        padded_attention: what padded tokens get from attention: `"zero"`, nothing, as in the authors' flash path, or
            `"observed"`: they attend to what was observed, as in their eager one. Observed tokens are the same.
        pooling: `"mean"` of the observed tokens, or `"cls"`.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    table_sources = {"gradients": "gradient_source", "harmonics": "harmonics_source"}
    keys_to_ignore_at_inference = [*LatentPredictionConfig.keys_to_ignore_at_inference, "sample_losses"]
    choices = {
        "padded_attention": ("zero", "observed"),
        "pooling": ("mean", "cls"),
        **LatentPredictionConfig.choices,
    }
    ranges = {
        "patch_seconds": Range(0.1, 10_000),
        "predictor_layer_norm_eps": Range(1e-30, 1),
        **LatentPredictionConfig.ranges,
    }

    n_rois: int = 400
    n_timepoints: int = 864
    patch_size: int = 48
    patch_seconds: float | int = 35.28
    predictor_layer_norm_eps: float = 1e-6
    harmonics_size: int = 200
    harmonics_source: str | None = "package"
    use_cls_token: bool = False
    padded_attention: str = "zero"
    drop_path_rate: float | int = 0.0
    roi_order: str | list[str] | None = "schaefer400-17net"
    t_r: float | int | None = 0.735

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainConfig.tables`]."""
        gradients, harmonics = (self.n_rois, self.gradient_size), (self.n_rois, self.harmonics_size)
        return {
            "gradients": Table("functional gradients", gradients, self.gradient_source, columns="gradient_size"),
            "harmonics": Table("geometric harmonics", harmonics, self.harmonics_source, columns="harmonics_size"),
        }

    def fitted_to(self, facts: ScanFacts, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """See [`BrainConfig.fitted_to`]: scans of any repetition time bring the length of their patches."""
        return super().fitted_to(facts, {"t_r": self.t_r, **chosen})

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        super().validate_architecture()
        if self.pooling == "cls" and not self.use_cls_token:
            raise ValueError('pooling="cls" needs use_cls_token=True: the released encoder has no CLS token.')
