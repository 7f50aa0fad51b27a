"""Harmonix-F, the fMRI encoder of BrainHarmony."""

from ..family import AuthorsFile, Family, NamedModel, cloned

_PAPER = (
    "Dong et al., Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D Tokens, "
    "NeurIPS 2025 (arXiv 2509.24693)"
)
_LIMITS = (
    "Pretrained on UK Biobank scaled by the spread of the subjects' mean levels per ROI, with statistics that were "
    "never published; the authors' downstream code for ABIDE scales nothing at all. Fit your own, or z-score.",
    "The released weights know two anatomical tables whose rows are in different orders: gradients in that of 17 "
    "networks, as the scans, geometric harmonics in that of 7. Converted weights keep both as released.",
    "Scans of up to 635 seconds (18 patches of 35.28 s); longer ones are cut into windows.",
    "The authors released no masks and no training loop: pretraining here takes the masks of Brain-JEPA.",
)


def in_authors_drive(name: str) -> AuthorsFile:
    """A checkpoint in the Drive folder of the BrainHarmony authors."""
    folder = "https://drive.google.com/drive/folders/12MkUAOcegU60YVlK8u8_Owmgk4eQVheB"
    return AuthorsFile("checkpoint", name, download=f"pip install gdown && gdown --folder {folder}")


# Every 34th parcel of Schaefer-400, for tests: both tables of this package have rows for them.
_TWELVE_PARCELS = (
    "17Networks_LH_VisCent_ExStr_1",
    "17Networks_LH_SomMotA_11",
    "17Networks_LH_DorsAttnA_SPL_4",
    "17Networks_LH_SalVentAttnB_PFCl_3",
    "17Networks_LH_ContB_IPL_2",
    "17Networks_LH_DefaultB_Temp_5",
    "17Networks_RH_VisCent_ExStr_5",
    "17Networks_RH_SomMotA_16",
    "17Networks_RH_DorsAttnB_TempOcc_1",
    "17Networks_RH_SalVentAttnB_PFCl_2",
    "17Networks_RH_ContB_IPL_4",
    "17Networks_RH_DefaultB_Temp_2",
)

FAMILY = Family(
    folder="harmonix_f",
    stem="HarmonixF",
    title="Harmonix-F (BrainHarmony)",
    model_type="harmonix_f",
    objective="latent prediction",
    converter="harmonix_f",
    processor=("processing.harmonix", "HarmonixFFeatureExtractor"),
    processor_defaults={"normalization": "robust-means"},
    models={
        "harmonix-f-base": NamedModel(
            parameters=85_182_720,
            trained_parameters=96_495_552,
            source="drive.google.com/drive/folders/12MkUAOcegU60YVlK8u8_Owmgk4eQVheB, harmonix-f/model.pth",
            files=(
                in_authors_drive("harmonix-f/model.pth"),
                AuthorsFile(
                    "gradient",
                    "gradient_mapping_400.csv",
                    download=cloned("hzlab/Brain-Harmony", "gradient_mapping_400.csv"),
                ),
                AuthorsFile(
                    "harmonics",
                    "schaefer400_roi_eigenmodes.csv",
                    download=cloned("hzlab/Brain-Harmony", "schaefer400_roi_eigenmodes.csv"),
                ),
            ),
            license="cc-by-nc-sa-4.0",
            citation=_PAPER,
            trained_on=(
                "Resting scans of UK Biobank (TR 0.735 s, also at 2, 3 and 4 times that) and of ABCD (0.8, 1.6 and "
                "2.4 s), as summaries of the paper say: 252,961 series."
            ),
            datasets=("uk-biobank", "abcd"),
            claims=(
                "after fine-tuning, accuracies of 57.4 % (ABIDE-I), 62.9 % (ABIDE-II), 67.7 % (ADHD-200), 62.8 % "
                "(PPMI) and 61.6 % (ADNI), as summaries of the paper say"
            ),
            limits=(
                "The licence is a badge in the authors' README; there is no licence file.",
                *_LIMITS,
            ),
        ),
        "harmonix-f-tiny": NamedModel(
            {
                "n_rois": 12,
                "n_timepoints": 40,
                "patch_size": 8,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 48,
                "predictor_hidden_size": 16,
                "predictor_num_hidden_layers": 2,
                "predictor_num_attention_heads": 4,
                "predictor_intermediate_size": 32,
                "gradient_size": 6,
                "harmonics_size": 7,
                "roi_order": list(_TWELVE_PARCELS),
            },
        ),
    },
)
