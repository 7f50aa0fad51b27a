"""Configuration of the made-up family."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_roi import ROIConfig
from ..family import Family
from ..validation import POOLINGS, SHARE_BELOW_1, check_choice, check_heads
from .family import FAMILY


@strict
class MadeUpConfig(ROIConfig):
    """Configuration of [`MadeUpModel`]; all defaults are made up.

    Args:
        n_rois, n_timepoints, patch_size, roi_order, t_r: see [`ROIConfig`].
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of encoder and decoder.
        hidden_act, layer_norm_eps, initializer_range: as everywhere.
        pooling: what `pooler_output` is.
        mask_ratio: share of tokens that masked modeling hides.
        classifier_head, classifier_dropout: of the classifier.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    ranges = {"mask_ratio": SHARE_BELOW_1, **ROIConfig.ranges}

    n_rois: int = 20
    n_timepoints: int = 60
    patch_size: int = 10
    hidden_size: int = 32
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 64
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    pooling: str = "mean"
    mask_ratio: float = 0.5
    classifier_head: str = "linear"
    classifier_dropout: float = 0.0

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_choice("pooling", self.pooling, POOLINGS)
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
