"""What the configurations of models that learn by latent prediction (JEPA) share."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_roi import ROIConfig
from .validation import CHOICES, RANGES, SHARE, Range, check_heads


def _scale(low: float, high: float) -> Any:
    return field(default_factory=lambda: [low, high])


@strict
class LatentPredictionConfig(ROIConfig):
    """Base of the configurations of Brain-JEPA and Harmonix-F: an encoder, a predictor, and block masks.

    Args:
        gradient_size: components of the gradient table.
        gradient_source: where the stored gradients came from. By default those of this package if it has them for
            `roi_order`; `None` means that none are stored and `set_table` must be called first.
        mask_rule: `"balanced"` or `"published"`, see `models.block_masks`. Balanced is the default for new training,
            since the published trimming nearly removes right-hemisphere parcels from the contexts.
        mask_observation: share of ROIs, and of windows, that the observed block spans, drawn from this range.
        mask_cross_rois, mask_cross_windows: ranges of the share of ROIs and windows of the cross-ROI target.
        mask_side_rois, mask_side_windows: ranges of the share of ROIs and windows of the two cross-time targets.
    """

    choices = {"mask_rule": ("balanced", "published"), **CHOICES}
    ranges = {
        "gradient_size|harmonics_size": Range(1, 10_000),
        r"mask_\w+_(rois|windows)|mask_observation": SHARE,
        **RANGES,
    }

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    predictor_hidden_size: int = 384
    predictor_num_hidden_layers: int = 6
    predictor_num_attention_heads: int = 12
    predictor_intermediate_size: int = 1536
    gradient_size: int = 30
    gradient_source: str | None = "package"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pooling: str = "mean"
    mask_rule: str = "balanced"
    mask_observation: list[float | int] = _scale(0.84, 1.0)
    mask_cross_rois: list[float | int] = _scale(0.45, 0.6)
    mask_cross_windows: list[float | int] = _scale(0.2, 0.6)
    mask_side_rois: list[float | int] = _scale(0.15, 0.3)
    mask_side_windows: list[float | int] = _scale(0.0, 0.4)

    @property
    def n_windows(self) -> int:
        """Tokens of an ROI in a window of `n_timepoints`."""
        return self.n_timepoints // self.patch_size

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        for name in ("", "predictor_"):
            width = getattr(self, f"{name}hidden_size")
            check_heads(f"{name}hidden_size", width, getattr(self, f"{name}num_attention_heads"))
            if width % 4:
                raise ValueError(f"{name}hidden_size must be a multiple of 4 for the position table, got {width}.")
        if self.n_timepoints < self.patch_size:
            raise ValueError(
                f"n_timepoints ({self.n_timepoints}) must be at least patch_size ({self.patch_size}): one token."
            )
        for name in ("observation", "cross_rois", "cross_windows", "side_rois", "side_windows"):
            scale = getattr(self, f"mask_{name}")
            if len(scale) != 2 or not 0 <= scale[0] <= scale[1] <= 1:
                raise ValueError(
                    f"mask_{name} must be two shares [low, high] with 0 <= low <= high <= 1, got {scale}."
                )
