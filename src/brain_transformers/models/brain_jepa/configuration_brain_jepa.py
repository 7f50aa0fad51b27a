"""Configuration of Brain-JEPA."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import Table
from ..configuration_latent_prediction import LatentPredictionConfig
from ..family import Family
from .family import FAMILY


@strict
class BrainJEPAConfig(LatentPredictionConfig):
    """Configuration of [`BrainJEPAModel`]: a ViT over (ROI, 16 frames) tokens, trained by latent prediction.

    Defaults are those of the released ViT-Base checkpoint and the released training configuration.
    Source: Dong et al., "Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and Spatiotemporal
    Masking", NeurIPS 2024 (arXiv 2409.19407).

    Args:
        n_rois: parcels of a sample (Tian S3 and Schaefer-400: 450).
        n_timepoints: frames of a window. Frames past the last whole patch are ignored; other lengths work at run time.
        patch_size: frames of a token.
        hidden_size, ..., mask_side_windows: see [`LatentPredictionConfig`]. (The released predictor has 6 layers; the
            authors' scripts say 12.)
        position_type: `"gradient"`: the ROI half of a position is projected from functional gradients, as released;
            `"index"`: from the ROI's row number (the authors' ablation).
        pooling: how `pooler_output` is made of all tokens: `"mean"`, `"max"`, or `"first"` (ROI 0, window 0).
        pooler_norm: normalise the pooled vector (no learned scale), as the authors' downstream model does at its
            start.
        classifier_head: `"linear"`, or `"batch_norm_linear"` for linear probing.
        classifier_norm: learned LayerNorm on the pooled vector before the head; the authors have it with mean pooling.

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
        **LatentPredictionConfig.choices,
    }

    n_rois: int = 450
    n_timepoints: int = 160
    patch_size: int = 16
    position_type: str = "gradient"
    pooler_norm: bool = False
    classifier_head: str = "linear"
    classifier_norm: bool = True
    roi_order: str | list[str] | None = "tian-s3+schaefer400-17net"
    # 0.735 s times 479/159: the authors pick 160 frames from 480.
    t_r: float | int | None = 2.2143

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
