"""Configuration of BrainLM with parcel x time tokens."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..configuration_base import Table
from ..configuration_roi import ROIConfig
from ..family import Family
from ..validation import CHOICES, POOLINGS, RANGES, SHARE_BELOW_1, Range, check_heads
from .family import FAMILY


@strict
class BrainLMConfig(ROIConfig):
    """Configuration of [`BrainLMModel`], the first BrainLM (13M): one token per parcel and 20 timepoints.

    Defaults are those of the released 13M checkpoint; where the paper and the weights differ, the weights win.
    Source: Ortega Caro et al., "BrainLM: A foundation model for brain activity recordings", ICLR 2024.

    Args:
        n_rois: number of parcels of a sample (A424: 424).
        n_timepoints: timepoints of a window; other multiples of `patch_size` work at run time.
        patch_size: timepoints of one token.
        decoder_hidden_size: must equal `hidden_size`, since both parts add coordinates and positions of that width.
        embedding_dropout: dropout on embedded tokens while training; 0.1 is fixed in the authors' code.
        attention_probs_dropout_prob: kept from the authors' files and without effect, there as here.
        conv_kernel_size: odd length of the depthwise convolution along the tokens that is added to attention, or
            `None`.
        num_landmarks, segment_means_seq_len: landmark (Nystrom) attention for sequences of exactly
            `segment_means_seq_len` tokens with CLS. `None`, or equal numbers as in every released file: full
            attention.
        num_positions: rows of the time position table.
        use_tanh_decoder: tanh on the prediction.
        coordinate_init_scale: factor on the initial weights of both coordinate projections. 1 as published.
            Millimetres are about fifty times larger than a robust-scaled signal and drown it at first; 0.02 puts them
            on par, which a new model trained on little data needs.
        reconstruction_loss: `"mse"` or `"mae"`, over masked entries. The authors' name `loss_fn` is accepted.
        classifier_head: `"linear"` or the authors' three-layer `"mlp"`.
        coordinates_source: where the stored parcel centres came from; `None` means that none are stored and each call
            must pass `coordinates`.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    table_sources = {"coordinates": "coordinates_source"}
    choices = {
        "reconstruction_loss": ("mse", "mae"),
        "pooling": POOLINGS,
        "classifier_head": ("linear", "mlp"),
        **CHOICES,
    }
    ranges = {
        "mask_ratio": SHARE_BELOW_1,
        "conv_kernel_size": Range(1, 10_001),
        "num_landmarks|segment_means_seq_len|num_positions": Range(1, 1_000_000),
        "coordinate_init_scale": Range(0, 1_000),
        **RANGES,
    }
    authors_keys = ("num_brain_voxels", "timepoint_patching_size")
    authors_model_types = ("vit_mae",)
    attribute_map = {"loss_fn": "reconstruction_loss"}

    n_rois: int = 424
    n_timepoints: int = 200
    patch_size: int = 20
    hidden_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 2
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = 1024
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    embedding_dropout: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    conv_kernel_size: int | None = 65
    num_landmarks: int | None = None
    segment_means_seq_len: int | None = None
    num_positions: int = 5000
    use_tanh_decoder: bool = False
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    coordinate_init_scale: float | int = 1.0
    mask_ratio: float | int = 0.2
    reconstruction_loss: str = "mse"
    pooling: str = "cls"
    classifier_head: str = "linear"
    classifier_dropout: float | int = 0.0
    roi_order: str | list[str] | None = "a424"
    t_r: float | int | None = 0.735
    coordinates_source: str | None = None

    @property
    def uses_landmarks(self) -> bool:
        """Whether attention goes through landmarks; equal numbers mean full attention, as in the released files."""
        return self.num_landmarks is not None and self.num_landmarks != self.segment_means_seq_len

    @property
    def tables(self) -> dict[str, Table]:
        """See [`BrainConfig.tables`]."""
        return {
            "coordinates": Table(
                "centre in mm MNI", (self.n_rois, 3), self.coordinates_source, exchangeable=True, kind="coordinates"
            )
        }

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
        check_heads("decoder_hidden_size", self.decoder_hidden_size, self.decoder_num_attention_heads)
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size must be even for the position table, got {self.hidden_size}.")
        if self.decoder_hidden_size != self.hidden_size:
            raise ValueError(
                f"decoder_hidden_size ({self.decoder_hidden_size}) must equal hidden_size ({self.hidden_size}): "
                "the decoder adds coordinates and positions of the encoder's width."
            )
        if self.n_timepoints % self.patch_size:
            raise ValueError(
                f"n_timepoints ({self.n_timepoints}) must be a multiple of patch_size ({self.patch_size})."
            )
        if self.conv_kernel_size is not None and self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size must be odd or None, got {self.conv_kernel_size}.")
        if self.uses_landmarks and (
            not self.segment_means_seq_len or self.segment_means_seq_len % (self.num_landmarks or 1)
        ):
            raise ValueError(
                f"segment_means_seq_len ({self.segment_means_seq_len}) must be a multiple of num_landmarks "
                f"({self.num_landmarks})."
            )
