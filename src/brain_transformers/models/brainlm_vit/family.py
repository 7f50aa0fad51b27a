"""BrainLM as a vision transformer over the parcel x time image (111M, 650M)."""

from ..brainlm.family import CLAIMS, COORDINATES, LICENSE, LIMITS, PAPER, TINY, TRAINED_ON, authors_folder
from ..family import Family, NamedModel

# Released weights were trained on robust-scaled signals of variance 0.711 divided by this. Source: evaluation logs of
# the released checkpoints, variance = MSE / (1 - R2).
DIVISOR = 5.6430855

FAMILY = Family(
    folder="brainlm_vit",
    stem="BrainLMViT",
    title="BrainLM",
    model_type="brainlm_vit_mae",
    objective="masked reconstruction",
    converter="brainlm",
    processor_defaults={
        "normalization": "robust",
        "divisor": DIVISOR,
        "expected_std": 0.1494,
        "return_coordinates": True,
        "layout": "image",
        "sort_rows": "y",
    },
    models={
        "brainlm-111m": NamedModel(
            parameters=85_647_360,
            trained_parameters=111_655_680,
            source="vandijklab/brainlm, folder vitmae_111M",
            files=(authors_folder("vitmae_111M/"), COORDINATES),
            license=LICENSE,
            citation=PAPER,
            trained_on=TRAINED_ON,
            datasets=("uk-biobank",),
            claims=CLAIMS,
            limits=(
                "About half of the patches are constant padding, which costs time and adds nothing.",
                *LIMITS,
            ),
        ),
        "brainlm-650m": NamedModel(
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
            files=(authors_folder("vitmae_650M/"), COORDINATES),
            license=LICENSE,
            citation=PAPER,
            trained_on=TRAINED_ON,
            datasets=("uk-biobank",),
            claims=CLAIMS,
            limits=(
                "About half of the patches are constant padding, which costs time and adds nothing.",
                *LIMITS,
            ),
        ),
        "brainlm-vit-tiny": NamedModel({**TINY, "n_rois": 24, "n_timepoints": 40, "roi_order": None}),
    },
)
