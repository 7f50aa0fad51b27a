"""The published checkpoints and the configurations that go by a name."""

from dataclasses import dataclass, field
from typing import Any

from ..models.brainlm.configuration_brainlm import BrainLMConfig
from ..models.brainlm_vit.configuration_brainlm_vit import BrainLMViTConfig
from ..models.configuration_base import BrainConfig

_BRAINLM_PAPER = (
    "Ortega Caro et al., BrainLM: A foundation model for brain activity recordings, ICLR 2024 "
    "(bioRxiv 2023.09.12.557460)"
)
_BRAINLM_LICENSE = "cc-by-nc-nd-4.0"
_BRAINLM_LIMITS = (
    "Trained on UK Biobank (TR 0.735 s) in A424 parcels; the medians and quartiles of the robust scaling were never "
    "published, so statistics are fitted on your own data.",
    "No temporal resampling was part of training: scans of another TR are resampled first.",
    "The weights' licence forbids derivatives and commercial use: convert them for yourself, do not host converted or "
    "fine-tuned weights without asking the authors.",
)


@dataclass(frozen=True)
class ModelEntry:
    """A named configuration, and the published checkpoint that it belongs to, if there is one.

    Attributes:
        config_class: configuration class of the family.
        values: fields that differ from the defaults of the class.
        parameters: trainable parameters of the pretraining model.
        source: where the authors published the weights, or `None` for configurations of our own.
        license: licence of those weights, or `None` if there are none.
        citation: the paper.
        limits: what is known not to work.
    """

    config_class: type[BrainConfig]
    values: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    source: str | None = None
    license: str | None = None
    citation: str | None = None
    limits: tuple[str, ...] = ()


_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 48,
}

MODELS: dict[str, ModelEntry] = {
    "brainlm-13m": ModelEntry(
        BrainLMConfig,
        parameters=13_035_308,
        source="vandijklab/brainlm, folder old_13M",
        license=_BRAINLM_LICENSE,
        citation=_BRAINLM_PAPER,
        limits=(
            "The convolution along the tokens saw randomly ordered tokens in training and sees natural order here.",
            *_BRAINLM_LIMITS,
        ),
    ),
    "brainlm-111m": ModelEntry(
        BrainLMViTConfig,
        parameters=111_655_680,
        source="vandijklab/brainlm, folder vitmae_111M",
        license=_BRAINLM_LICENSE,
        citation=_BRAINLM_PAPER,
        limits=(
            "About half of the patches are constant padding, which costs time and adds nothing.",
            *_BRAINLM_LIMITS,
        ),
    ),
    "brainlm-650m": ModelEntry(
        BrainLMViTConfig,
        {
            "patch_size": 14,
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "intermediate_size": 5120,
        },
        parameters=656_613_964,
        source="vandijklab/brainlm, folder vitmae_650M",
        license=_BRAINLM_LICENSE,
        citation=_BRAINLM_PAPER,
        limits=(
            "About half of the patches are constant padding, which costs time and adds nothing.",
            *_BRAINLM_LIMITS,
        ),
    ),
    # Tiny ones, with real geometry and random weights, for tests and tutorials.
    "brainlm-tiny": ModelEntry(
        BrainLMConfig,
        {
            **_TINY,
            "n_rois": 12,
            "n_timepoints": 40,
            "patch_size": 10,
            "conv_kernel_size": 5,
            "num_positions": 64,
            "roi_order": None,
        },
    ),
    "brainlm-vit-tiny": ModelEntry(BrainLMViTConfig, {**_TINY, "n_rois": 24, "n_timepoints": 40, "roi_order": None}),
}


def list_models(published: bool = False) -> list[str]:
    """Names that [`load_config`] knows; with `published=True`, only those with released weights."""
    return [name for name, entry in MODELS.items() if entry.source is not None or not published]


def load_config(name: str, **overrides: Any) -> BrainConfig:
    """Configuration of a named model, for `AutoModel.from_config` and the like.

    Args:
        name: one of [`list_models`].
        overrides: fields to change.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model {name!r}. Known: {', '.join(MODELS)}.")
    entry = MODELS[name]
    return entry.config_class(**{**entry.values, **overrides})
