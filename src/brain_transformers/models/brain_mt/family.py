"""BrainMT."""

from ..family import Family, NamedModel

_PAPER = (
    "Kannan et al., BrainMT: A Hybrid Mamba-Transformer Architecture for Modeling Long-Range Dependencies in "
    "Functional MRI Data, MICCAI 2025 (arXiv 2506.22591)"
)
_NO_WEIGHTS = (
    "No weights were ever published: every model of this family starts from random initialisation, and the numbers of "
    "the paper cannot be reproduced from public material."
)
_LIMITS = (
    _NO_WEIGHTS,
    "The paper describes a bidirectional mixer; the authors' code with its pinned requirements builds a causal one "
    '(39.1 million parameters). mixer_type="causal" is that one.',
    "Published as a supervised model. Masked modeling is an addition of this package, without any published result.",
    "Volumes must be in MNI152 at 2 mm, as (y, x, z) of 109 x 91 x 91 voxels; repetition times are not told to the "
    "model and not resampled.",
)

_CLAIMS = (
    "squared errors of intelligence 6 to 9 % below the best baseline's, on UK Biobank and HCP, as secondary sources "
    "quote the paper"
)

FAMILY = Family(
    folder="brain_mt",
    stem="BrainMT",
    title="BrainMT",
    model_type="brain_mt",
    objective="masked reconstruction",
    converter="brain_mt",
    processor=("processing.volumes", "VolumeFeatureExtractor"),
    models={
        "brain-mt-base": NamedModel(
            parameters=40_566_720,
            citation=_PAPER,
            limits=_LIMITS,
            claims=_CLAIMS,
        ),
        "brain-mt-base-causal": NamedModel(
            {"mixer_type": "causal"},
            parameters=39_104_448,
            citation=_PAPER,
            limits=_LIMITS,
            claims=_CLAIMS,
        ),
        "brain-mt-tiny": NamedModel(
            {
                "volume_size": [28, 24, 24],
                "n_frames": 6,
                "stem_widths": [4, 8],
                "hidden_size": 32,
                "num_mamba_layers": 2,
                "num_attention_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "state_size": 4,
                "time_step_rank": 3,
            },
        ),
    },
)
