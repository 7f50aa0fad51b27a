"""BrainHarmony, the fusion of Harmonix-F and Harmonix-S."""

from ..family import Family, NamedModel
from ..harmonix_f.family import in_authors_drive

_PAPER = (
    "Dong et al., Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D Tokens, "
    "NeurIPS 2025 (arXiv 2509.24693)"
)
_LIMITS = (
    "The licence is that of a badge in the authors' README (CC BY-NC-SA 4.0); they state none for the weights by "
    "themselves: ask them before you share converted weights.",
    "The statistics by which the fMRI of pretraining was scaled were never published, and the authors' ABIDE data are "
    "not scaled at all. Features of scans in other units are of unknown quality.",
    "The two anatomical tables that the released Harmonix-F was trained with list parcels in different orders (the "
    "gradients as the series, 17 networks; the harmonics 7 networks). Released weights need them so.",
    "One modality alone, with the tokens of the other masked out, was never trained: such features are out of the "
    "distribution of pretraining. In a small model of ours (examples/brain_harmony_stages.py) they moved by 22 (BOLD "
    "alone) and 79 times (T1 alone) the spread of the people, and a probe that was trained on both only guessed; one "
    "that was trained on the same modality alone read what that modality holds. So never mix such rows with pairs.",
    "The loss counts padded fMRI tokens, and fMRI six times as much as T1, since it has six times the tokens.",
)
# Sizes that the authors' fine-tuning script names; no weights were published for them.
_UNPUBLISHED = ("The authors name this size and published no weights of it.", *_LIMITS)

FAMILY = Family(
    folder="brain_harmony",
    stem="BrainHarmony",
    title="BrainHarmony",
    model_type="brain_harmony",
    objective="masked reconstruction",
    processor=("processing.stage0", "BrainHarmonyFeatureExtractor"),
    joint_processor=("processing.harmony", "BrainHarmonyProcessor"),
    fine_tuning_head={"drop_path_rate": 0.1, "label_smoothing": 0.1},
    converter="brain_harmony",
    models={
        "brain-harmony-base": NamedModel(
            parameters=85_253_376,
            trained_parameters=111_327_232,
            source="github.com/hzlab/Brain-Harmony, harmonizer/model.pth in the folder that its README links",
            files=(in_authors_drive("harmonizer/model.pth"),),
            license="cc-by-nc-sa-4.0",
            citation=_PAPER,
            trained_on="Pairs of fMRI and T1 of UK Biobank, as tokens of the two encoders; their number is not known.",
            datasets=("uk-biobank",),
            claims=(
                "after fine-tuning, accuracies of 63.1 % (ABIDE-I), 66.7 % (ABIDE-II), 70.1 % (ADHD-200), 64.3 % "
                "(PPMI) and 64.7 % (ADNI), as summaries of the paper say"
            ),
            limits=_LIMITS,
        ),
        "brain-harmony-small": NamedModel(
            {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
            citation=_PAPER,
            limits=_UNPUBLISHED,
        ),
        "brain-harmony-large": NamedModel(
            {
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "intermediate_size": 4096,
            },
            citation=_PAPER,
            limits=_UNPUBLISHED,
        ),
        "brain-harmony-tiny": NamedModel(
            {
                "n_fmri_tokens": 30,
                "n_t1_tokens": 12,
                "input_size": 24,
                "num_hub_tokens": 7,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "decoder_hidden_size": 16,
                "decoder_num_hidden_layers": 2,
                "decoder_num_attention_heads": 2,
                "decoder_intermediate_size": 32,
            },
        ),
    },
)
