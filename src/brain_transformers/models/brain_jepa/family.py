"""Brain-JEPA."""

from ..family import AuthorsFile, Family, NamedModel, cloned

_PAPER = (
    "Dong et al., Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and Spatiotemporal Masking, "
    "NeurIPS 2024 (arXiv 2409.19407)"
)
_LIMITS = (
    "Linear probes at chance level were reported on data from outside UK Biobank. The likely cause is the scale: the "
    "weights were trained with a robust scaling that keeps each scan's own offset per ROI, and its parameters were "
    "never published.",
    "Trained on 160 frames at an effective TR of 2.2 s (every third frame of UK Biobank); other TRs are resampled.",
    "Right-hemisphere cortical parcels were hardly ever part of the context in training, because masks were cut from "
    "the end of the parcel order.",
    "The authors' downstream code scales every scan by one mean and standard deviation, not as in pretraining.",
)

# Of the authors' table, gradient_mapping_450.csv.
GRADIENT_SHA256 = "c9bc667e49aae442e12607bee8be86c31c330f2844cf72e7c84b16de312ed007"

FAMILY = Family(
    folder="brain_jepa",
    stem="BrainJEPA",
    title="Brain-JEPA",
    model_type="brain_jepa",
    objective="latent prediction",
    converter="brain_jepa",
    processor_defaults={
        # As the authors' downstream code scales for the released weights; pretraining used "robust-means".
        "normalization": "zscore-scan",
        "resampling": "frames",
        "expected_std": 1.0,
    },
    models={
        "brain-jepa-small": NamedModel(
            {
                "hidden_size": 384,
                "num_attention_heads": 6,
                "intermediate_size": 1536,
                "predictor_num_attention_heads": 6,
            },
            parameters=21_306_816,
            trained_parameters=32_256_384,
            citation=_PAPER,
            limits=("Described in the paper; its weights were not released.",),
        ),
        "brain-jepa-base": NamedModel(
            parameters=85_080_960,
            trained_parameters=96_325_824,
            source="github.com/Eric-LRL/Brain-JEPA, jepa-ep300.pth.tar",
            files=(
                AuthorsFile(
                    "checkpoint",
                    "jepa-ep300.pth.tar",
                    download="the Google Drive folder that https://github.com/Eric-LRL/Brain-JEPA#readme links to",
                ),
                AuthorsFile(
                    "gradient",
                    "gradient_mapping_450.csv",
                    sha256={"gradient_mapping_450.csv": GRADIENT_SHA256},
                    download=cloned("Eric-LRL/Brain-JEPA", "gradient_mapping_450.csv"),
                ),
            ),
            license="unknown",
            citation=_PAPER,
            trained_on=(
                "Resting scans of 32,130 people of UK Biobank (80 % of 40,162, aged 44 to 83; TR 0.735 s, of which "
                "every third frame)."
            ),
            datasets=("uk-biobank",),
            claims=(
                "after fine-tuning, accuracies of 88.2 % (sex, UK Biobank), 81.5 % (sex, HCP-Aging), 76.8 % (mild "
                "cognitive impairment, ADNI), 71.0 % (amyloid, ADNI) and 66.0 % (mild cognitive impairment, MACC), as "
                "a secondary source transcribes the tables"
            ),
            limits=(
                "The authors state no licence for code or weights: ask them before you share converted weights.",
                *_LIMITS,
            ),
        ),
        "brain-jepa-large": NamedModel(
            {
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
                "predictor_num_attention_heads": 16,
            },
            parameters=302_344_704,
            trained_parameters=313_786_432,
            citation=_PAPER,
            limits=("Described in the paper; its weights were not released.",),
        ),
        "brain-jepa-tiny": NamedModel(
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
    },
)
