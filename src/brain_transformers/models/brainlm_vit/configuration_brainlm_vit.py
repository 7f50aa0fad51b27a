"""Configuration of BrainLM-ViT."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import Table
from ..configuration_roi import ROIConfig
from ..family import Family
from ..validation import CHOICES, POOLINGS, RANGES, SHARE_BELOW_1, check_heads
from .family import FAMILY

# Side of the padded square for each patch size that the authors' code knows.
_IMAGE_SIDES = {14: 434, 16: 432}


@strict
class BrainLMViTConfig(ROIConfig):
    """Configuration of [`BrainLMViTModel`], the later BrainLM (111M, 650M): a ViT over the parcel x time image.

    Defaults are those of the 111M checkpoint. Source: Ortega Caro et al., "BrainLM: A foundation model for brain
    activity recordings", ICLR 2024, and the released weights.

    Args:
        n_rois: rows of the image, or `None` to accept any; the weights expect A424 sorted by Y, posterior to anterior.
        n_timepoints: columns that the weights were trained with; others work at run time.
        patch_size: side of a square patch, parcels x timepoints; 16 goes with a padded square of 432, 14 with 434.
        image_size: side of that square; follows from `patch_size` if left out.
        num_channels: channels of the image; the published models repeat the signal three times.
        qkv_bias: bias of query, key and value.
        mask_ratio: share of the patches hidden by the pretraining head, padding included as in the authors' code.
        norm_pix_loss: reconstruct each parcel's series scaled to zero mean and unit variance over the window.
        train_mode: `"auto_encode"` (random masking), `"predict_last"` (hide the last patch columns) or
            `"predict_last_pixel"` (hide exactly the last `int(mask_ratio * n_timepoints)` timepoints).
        pooling: the authors' switch `use_mean_pooling` is accepted and means `"mean_with_cls"`.
        classifier_head: `"linear"` or the authors' three-layer `"mlp"`.
        classifier_loss: `None` for the loss that `problem_type` implies, or one of the authors' for a single output:
            `"mse"`, `"mae"`, `"binary_cross_entropy"`, `"weighted_mse"`. The authors' name `loss_fn` is accepted.
        sigmoid_outputs: return the sigmoid of the head's output as `logits`.
        pos_weight: weight of the positive class in `"binary_cross_entropy"`.
        classifier_mask_ratio: share of patches hidden while training a classifier; the authors used `mask_ratio` in
            training and at inference, which makes predictions random. Evaluation hides nothing.
        reconstruction_weight: above 0, the classifier keeps the decoder and adds that share of the reconstruction loss
            (0.5 in the authors' joint fine-tuning).

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    authors_keys = ("num_brain_voxels", "timepoint_patching_size")
    authors_model_types = ("vit_mae",)
    attribute_map = {"loss_fn": "classifier_loss"}
    choices = {
        "train_mode": ("auto_encode", "predict_last", "predict_last_pixel"),
        "pooling": POOLINGS,
        "classifier_head": ("linear", "mlp"),
        "classifier_loss": (None, "mse", "mae", "binary_cross_entropy", "weighted_mse"),
        **CHOICES,
    }
    ranges = {"mask_ratio": SHARE_BELOW_1, **RANGES}

    n_rois: int | None = 424
    n_timepoints: int = 200
    patch_size: int = 16
    image_size: int | None = None
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    mask_ratio: float | int = 0.75
    norm_pix_loss: bool = False
    train_mode: str = "auto_encode"
    pooling: str = "cls"
    classifier_head: str = "linear"
    classifier_dropout: float | int = 0.0
    classifier_loss: str | None = None
    sigmoid_outputs: bool = False
    pos_weight: list[float] | None = None
    classifier_mask_ratio: float | int = 0.0
    reconstruction_weight: float | int = 0.0
    roi_order: str | list[str] | None = "a424@y"
    t_r: float | int | None = 0.735

    def __post_init__(self, **kwargs: Any) -> None:
        if self.image_size is None:
            side = _IMAGE_SIDES.get(self.patch_size)
            if side is None:
                raise ValueError(f"patch_size {self.patch_size} needs an explicit image_size; known: {_IMAGE_SIDES}.")
            self.image_size = side
        super().__post_init__(**kwargs)

    @property
    def side(self) -> int:
        """Side of the padded square in pixels; `image_size`, which is filled in when the configuration is made."""
        if self.image_size is None:
            raise ValueError("image_size was set to None; give the side of the padded square.")
        return self.image_size

    @property
    def grid_size(self) -> int:
        """Patches along one side of the square."""
        return self.side // self.patch_size

    @property
    def use_mean_pooling(self) -> bool:
        """The authors' switch: mean over all tokens with CLS instead of CLS alone."""
        return self.pooling == "mean_with_cls"

    @use_mean_pooling.setter
    def use_mean_pooling(self, value: bool) -> None:
        self.pooling = "mean_with_cls" if value else "cls"

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainConfig.tables`]."""
        return {
            "coordinates": Table(
                "centre in mm MNI", (self.n_rois, 3), kept_in="processor", exchangeable=True, kind="coordinates"
            )
        }

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
        check_heads("decoder_hidden_size", self.decoder_hidden_size, self.decoder_num_attention_heads)
        for name in ("hidden_size", "decoder_hidden_size"):
            if getattr(self, name) % 4:
                raise ValueError(f"{name} must be a multiple of 4 for the position table, got {getattr(self, name)}.")
        if self.image_size is not None and self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size}).")
