"""The published checkpoints and the configurations that go by a name."""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..models.brain_jepa.configuration_brain_jepa import BrainJEPAConfig
from ..models.brain_semantoks.configuration_brain_semantoks import BrainSemantoksConfig
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

_BRAIN_JEPA_PAPER = (
    "Dong et al., Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and Spatiotemporal Masking, "
    "NeurIPS 2024 (arXiv 2409.19407)"
)
_BRAIN_JEPA_LIMITS = (
    "Linear probes at chance level were reported on data from outside UK Biobank. The likely cause is the scale: the "
    "weights were trained with a robust scaling that keeps each scan's own offset per ROI, and its parameters were "
    "never published.",
    "Trained on 160 frames at an effective TR of 2.2 s (every third frame of UK Biobank); other TRs are resampled.",
    "Right-hemisphere cortical parcels were hardly ever part of the context in training, because masks were cut from "
    "the end of the parcel order.",
    "The authors' downstream code scales every scan by one mean and standard deviation, not as in pretraining.",
)


@dataclass(frozen=True)
class ModelEntry:
    """A named configuration, and the published checkpoint that it belongs to, if there is one.

    Attributes:
        config_class: configuration class of the family.
        values: fields that differ from the defaults of the class.
        parameters: of the network that is released, which `AutoModel` loads.
        trained_parameters: what pretraining trains: that network, or its trained twin, and the parts that only
            training needs.
        source: where the authors published the weights, or `None` for configurations of our own.
        conversion: command that makes a model folder of the authors' files, without its `--output`.
        license: licence of those weights, `"unknown"` if their authors state none, or `None` if there are no weights.
        citation: the paper.
        limits: what is known not to work.
    """

    config_class: type[BrainConfig]
    values: dict[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    trained_parameters: int | None = None
    source: str | None = None
    conversion: str | None = None
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
        parameters=8_426_512,
        trained_parameters=13_035_308,
        source="vandijklab/brainlm, folder old_13M",
        conversion="convert_brainlm.py --checkpoint old_13M/ --coordinates A424_Coordinates.dat",
        license=_BRAINLM_LICENSE,
        citation=_BRAINLM_PAPER,
        limits=(
            "The convolution along the tokens saw randomly ordered tokens in training and sees natural order here.",
            *_BRAINLM_LIMITS,
        ),
    ),
    "brainlm-111m": ModelEntry(
        BrainLMViTConfig,
        parameters=85_647_360,
        trained_parameters=111_655_680,
        source="vandijklab/brainlm, folder vitmae_111M",
        conversion="convert_brainlm.py --checkpoint vitmae_111M/ --coordinates A424_Coordinates.dat",
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
        parameters=630_435_840,
        trained_parameters=656_613_964,
        source="vandijklab/brainlm, folder vitmae_650M",
        conversion="convert_brainlm.py --checkpoint vitmae_650M/ --coordinates A424_Coordinates.dat",
        license=_BRAINLM_LICENSE,
        citation=_BRAINLM_PAPER,
        limits=(
            "About half of the patches are constant padding, which costs time and adds nothing.",
            *_BRAINLM_LIMITS,
        ),
    ),
    "brain-jepa-small": ModelEntry(
        BrainJEPAConfig,
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "predictor_num_attention_heads": 6},
        parameters=21_306_816,
        trained_parameters=32_256_384,
        citation=_BRAIN_JEPA_PAPER,
        limits=("Described in the paper; its weights were not released.",),
    ),
    "brain-jepa-base": ModelEntry(
        BrainJEPAConfig,
        parameters=85_080_960,
        trained_parameters=96_325_824,
        source="github.com/Eric-LRL/Brain-JEPA, jepa-ep300.pth.tar",
        conversion="convert_brain_jepa.py --checkpoint jepa-ep300.pth.tar --gradient gradient_mapping_450.csv",
        license="unknown",
        citation=_BRAIN_JEPA_PAPER,
        limits=(
            "The authors state no licence for code or weights: do not share converted weights without asking them.",
            *_BRAIN_JEPA_LIMITS,
        ),
    ),
    "brain-jepa-large": ModelEntry(
        BrainJEPAConfig,
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "predictor_num_attention_heads": 16,
        },
        parameters=302_344_704,
        trained_parameters=313_786_432,
        citation=_BRAIN_JEPA_PAPER,
        limits=("Described in the paper; its weights were not released.",),
    ),
    "brain-semantoks-base": ModelEntry(
        BrainSemantoksConfig,
        parameters=58_720_931,
        trained_parameters=58_720_931 + 918_656,
        source="SamGijsen/Brain-Semantoks, file brainsemantoks_ckpt_epoch_100.pth",
        conversion="convert_brain_semantoks.py --checkpoint brainsemantoks_ckpt_epoch_100.pth "
        "--network-map network_mapping.npz",
        license="unknown",
        citation=(
            "Gijsen, Schulz, Ritter, Brain-Semantoks: Learning Semantic Tokens of Brain Dynamics with a "
            "Self-Distilled Foundation Model, ICLR 2026 (arXiv 2512.11582)"
        ),
        limits=(
            "The licence of the weights is not stated: ask the authors before you share converted or fine-tuned "
            "weights.",
            "Trained on resting scans of UK Biobank at TR 2.0 s, z-scored per parcel; other repetition times are "
            "resampled first.",
            "Parcels are Schaefer-400 in the 7-network order, then Tian S3, then Buckner-7. Without subcortex or "
            "cerebellum their tokens are masked, which was part of training but costs accuracy.",
            "Windows shorter than 100 timepoints are masked at the end.",
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
    "brain-semantoks-tiny": ModelEntry(
        BrainSemantoksConfig,
        {
            "n_rois": 20,
            "n_timepoints": 40,
            "patch_size": 10,
            "networks": [0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 1, 0, 2, 2, 3, 3, 3, 3, 4, 4],
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "tokenizer_branches": [
                {"type": "convolution", "out_channels": 16},
                {"type": "long_convolution", "out_channels": 16, "num_scales": 2},
            ],
            "projection_hidden_size": 24,
            "projection_size": 12,
            "roi_order": None,
        },
    ),
    "brain-jepa-tiny": ModelEntry(
        BrainJEPAConfig,
        {
            "n_rois": 50,
            "n_timepoints": 40,
            "patch_size": 4,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "predictor_hidden_size": 16,
            "predictor_num_hidden_layers": 2,
            "predictor_num_attention_heads": 4,
            "predictor_intermediate_size": 32,
            "gradient_size": 6,
            "roi_order": "tian-s3",
            "t_r": 2.2143,
        },
    ),
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
        ValueError: if the name is unknown; the message lists the known ones. If a field is unknown, or has a value
            that it cannot have.
    """
    if name not in MODELS:
        similar = difflib.get_close_matches(str(name), MODELS, n=1)
        meant = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"Unknown model {name!r}.{meant} Known: {', '.join(MODELS)}.")
    entry = MODELS[name]
    plain = entry.config_class(**entry.values)
    for field_name in overrides:
        if not hasattr(plain, field_name) and not hasattr(plain, f"_{field_name}"):
            similar = difflib.get_close_matches(field_name, plain.to_dict(), n=1)
            meant = f" Did you mean {similar[0]}?" if similar else ""
            raise ValueError(f"The configuration of {name} has no field {field_name}.{meant}")
    try:
        return entry.config_class(**{**entry.values, **overrides})
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        reason = (reason.partition("Error: ")[2] or reason).rstrip(".")
        raise ValueError(f"{reason} (in the configuration of {name}).") from error


def conversion_command(name: str) -> str:
    """The command that makes a model folder of the authors' files, for a published model."""
    entry = MODELS[name]
    source = (entry.source or "").partition(",")[0]
    return f"python conversion/{entry.conversion} --output {name}/ --source {source}"


def check_is_no_bare_name(source: Any) -> None:
    """Refuse the name of a configuration, or nearly so, where a folder or Hub name of weights is needed.

    Weights of these names lie on no server: without this, one would be asked, at length where there is no network.

    Raises:
        FileNotFoundError: saying where the weights are and how to convert them, or which name was meant.
    """
    if not isinstance(source, str) or "/" in source or Path(source).exists():
        return
    if source not in MODELS:
        if similar := difflib.get_close_matches(source, MODELS, n=1, cutoff=0.8):
            raise FileNotFoundError(
                f"There is no folder {source} here, and no model of that name: {similar[0]!r} is one."
            )
        return
    entry = MODELS[source]
    start = f"There is no folder {source} here; {source!r} is a configuration, and comes without weights. "
    if entry.source is None:
        published = "None were published. "
    else:
        published = (
            f"Get those of the authors ({entry.source}) and convert them once, from a checkout of brain-transformers: "
            f"{conversion_command(source)}. "
        )
    raise FileNotFoundError(
        f"{start}{published}Random weights: AutoModel.from_config(brain_transformers.load_config({source!r}))."
    )
