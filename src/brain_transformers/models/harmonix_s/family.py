"""Harmonix-S, the T1 encoder of BrainHarmony."""

from ..family import Family, NamedModel
from ..harmonix_f.family import in_authors_drive

FAMILY = Family(
    folder="harmonix_s",
    stem="HarmonixS",
    title="Harmonix-S",
    model_type="harmonix_s",
    objective="masked reconstruction",
    converter="harmonix_s",
    processor=("processing.structural", "T1FeatureExtractor"),
    models={
        "harmonix-s-base": NamedModel(
            parameters=88_203_264,
            trained_parameters=115_918_848,
            source="github.com/hzlab/Brain-Harmony, harmonix-s/model.pth in the folder that its README links",
            files=(in_authors_drive("harmonix-s/model.pth"),),
            license="cc-by-nc-sa-4.0",
            citation=(
                "Dong et al., Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D "
                "Tokens, NeurIPS 2025 (arXiv 2509.24693)"
            ),
            trained_on="T1 volumes of UK Biobank; what else, and how many, is not known here.",
            datasets=("uk-biobank",),
            limits=(
                "The licence is that of a badge in the authors' README (CC BY-NC-SA 4.0); they state none for the "
                "weights by themselves: ask them before you share converted weights.",
                "The authors released the encoder without its decoder and without the code of its pretraining: "
                "HarmonixSForMaskedModeling starts from a new decoder of the usual sizes of masked autoencoders.",
                "Trained on T1 volumes without skull, registered to MNI152 linearly and scaled over the whole volume; "
                "others are out of its distribution.",
            ),
        ),
        "harmonix-s-tiny": NamedModel(
            {
                "image_size": [20, 24, 20],
                "patch_size": 4,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 48,
                "decoder_hidden_size": 24,
                "decoder_num_hidden_layers": 1,
                "decoder_num_attention_heads": 2,
                "decoder_intermediate_size": 32,
            },
        ),
    },
)
