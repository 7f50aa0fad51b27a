"""Configuration of BrainHarmony."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..configuration_base import BrainConfig
from ..family import Family
from ..harmonix_f.configuration_harmonix_f import HarmonixFConfig
from ..harmonix_s.configuration_harmonix_s import HarmonixSConfig
from ..validation import CHOICES, RANGES, SHARE_BELOW_1, WIDTH, Range, check_heads
from .family import FAMILY


@strict
class BrainHarmonyConfig(BrainConfig):
    """Configuration of [`BrainHarmonyModel`]: hub tokens that gather what the tokens of two frozen encoders say.

    Defaults are those of the released base model. Source: Dong et al., "Brain Harmony: A Multimodal Foundation Model
    Unifying Morphology and Function into 1D Tokens", NeurIPS 2025 (arXiv 2509.24693), and the released code's
    behaviour.

    Args:
        n_fmri_tokens: tokens of a scan from Harmonix-F, ROI-major (400 ROIs x 18 patches); some may be padding.
        n_t1_tokens: tokens of a T1 volume from Harmonix-S; 0 for a model of fMRI alone.
        input_size: width of both encoders' tokens; another `hidden_size` has a linear layer in front.
        num_hub_tokens: learned tokens that are read in place of all others.
        drop_path_rate: the authors pretrain without, and fine-tune with 0.1.
        initializer_range: of the CLS and mask tokens; linear layers start with Xavier, hub tokens with unit, weights.
        norm_pix_loss: whether pretraining predicts tokens that are standardised over their width, each for itself.
        loss_on_padding: whether padded fMRI tokens count in the loss, as in the authors' code. They are no data.
        pooling: `"mean"` of the hub tokens, or `"cls"`.
        classifier_head: `"linear"`, or `"mlp"` with two hidden layers, which the authors use for regression.
        classifier_hidden_size: width of the MLP's hidden layers; half of `hidden_size` by default.
        label_smoothing: share of the label that is spread over all classes while training; the authors' is 0.1.
        final_norm: whether the encoder ends with its norm. A classifier on the mean of the hub tokens has one of its
            own instead, and sets this to `False`.
        fmri_config, t1_config: of the frozen Harmonix-F and Harmonix-S that the model holds and runs itself; `None`
            for a model that is given their tokens. What chooses code to run is not taken from a file here either.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    family: ClassVar[Family] = FAMILY
    model_type = FAMILY.model_type
    sub_configs = {"fmri_config": HarmonixFConfig, "t1_config": HarmonixSConfig}
    ranges = {
        "n_fmri_tokens|n_t1_tokens": Range(0, 1_000_000),
        "input_size|num_hub_tokens|classifier_hidden_size": WIDTH,
        "label_smoothing": SHARE_BELOW_1,
        **RANGES,
    }
    choices = {**CHOICES, "pooling": ("mean", "cls"), "classifier_head": ("linear", "mlp")}
    size_fields = ("num_hub_tokens", *BrainConfig.size_fields)

    n_fmri_tokens: int = 7200
    n_t1_tokens: int = 1200
    input_size: int = 768
    num_hub_tokens: int = 128
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    norm_pix_loss: bool = True
    loss_on_padding: bool = True
    pooling: str = "mean"
    classifier_head: str = "linear"
    classifier_hidden_size: int | None = None
    classifier_dropout: float | int = 0.0
    label_smoothing: float | int = 0.0
    final_norm: bool = True
    fmri_config: dict[str, Any] | PreTrainedConfig | None = None
    t1_config: dict[str, Any] | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, kind in self.sub_configs.items():
            if isinstance(given := getattr(self, name), dict):
                setattr(self, name, kind.from_dict(given, name_or_path=name))
        if self.classifier_hidden_size is None:
            self.classifier_hidden_size = max(self.hidden_size // 2, 1)
        super().__post_init__(**kwargs)

    @property
    def n_tokens(self) -> int:
        """Tokens of both encoders."""
        return self.n_fmri_tokens + self.n_t1_tokens

    def validate_architecture(self) -> None:
        """Check that the sizes fit each other."""
        check_heads("hidden_size", self.hidden_size, self.num_attention_heads)
        check_heads("decoder_hidden_size", self.decoder_hidden_size, self.decoder_num_attention_heads)
        if not self.n_tokens:
            raise ValueError("n_fmri_tokens and n_t1_tokens must not both be 0.")
        if self.hidden_size % 2 or self.decoder_hidden_size % 2:
            raise ValueError(
                f"hidden_size and decoder_hidden_size must be even, for sines and cosines of positions; got "
                f"{self.hidden_size} and {self.decoder_hidden_size}."
            )
        for name, kind in self.sub_configs.items():
            part: Any = getattr(self, name)
            if part is None:
                continue
            if not isinstance(part, kind):
                raise ValueError(f"{name} must be a {kind.__name__}, got {type(part).__name__}.")
            n_tokens = part.n_rois * part.n_windows if name == "fmri_config" else part.n_patches
            wanted = self.n_fmri_tokens if name == "fmri_config" else self.n_t1_tokens
            if (n_tokens, part.hidden_size) != (wanted, self.input_size):
                raise ValueError(
                    f"{name} must be of an encoder with {wanted} tokens of {self.input_size} numbers, got {n_tokens} "
                    f"of {part.hidden_size}."
                )

    def load_processor(self) -> Any:
        """See [`BrainConfig.load_processor`]: of tokens, or of scans and volumes where the model holds encoders."""
        return self.family.load_processor(joint=None not in (self.fmri_config, self.t1_config))

    def to_dict(self) -> dict[str, Any]:
        """See [`BrainConfig.to_dict`]; the parts are never loaded by code of a folder, so they name none."""
        output = super().to_dict()
        for name in self.sub_configs:
            if isinstance(output.get(name), dict):
                output[name].pop("auto_map", None)
        return output
