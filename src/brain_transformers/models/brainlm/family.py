"""BrainLM with a token for each parcel and time patch (13M)."""

from ..family import AuthorsFile, Family, NamedModel, cloned

PAPER = (
    "Ortega Caro et al., BrainLM: A foundation model for brain activity recordings, ICLR 2024 "
    "(bioRxiv 2023.09.12.557460)"
)
LICENSE = "cc-by-nc-nd-4.0"
TRAINED_ON = (
    "61,038 recordings at rest and in a task of UK Biobank (TR 0.735 s), of 76,295; HCP was for testing only. "
    "Parcels of A424, robust-scaled over people."
)
CLAIMS = (
    "after fine-tuning, squared errors of z-scored labels of 0.503 (age), 0.015 (PTSD), 0.073 (anxiety) and 0.069 "
    "(neuroticism), as secondary sources quote the paper, which do not say for which size"
)
LIMITS = (
    "Trained on UK Biobank (TR 0.735 s) in A424 parcels; the medians and quartiles of the robust scaling were never "
    "published, so statistics are fitted on your own data.",
    "No temporal resampling was part of training: scans of another TR are resampled first.",
    "The weights' licence forbids derivatives and commercial use: convert them for yourself, do not host converted or "
    "fine-tuned weights without asking the authors.",
)

COORDINATES = AuthorsFile(
    "coordinates",
    "A424_Coordinates.dat",
    sha256={"A424_Coordinates.dat": "cdad8f8859c211b1400211ebbad455dedcc4399ac14fd614354fb71b110c892c"},
    download=cloned("vandijklab/BrainLM", "A424_Coordinates.dat"),
    without="the parcel centres: without them the extractor needs `coordinates` at every call",
)


def authors_folder(name: str) -> AuthorsFile:
    """A folder of the authors' repository; what their Trainer left in it is not read."""
    return AuthorsFile("checkpoint", name, repository="vandijklab/brainlm", parts=("config.json", "pytorch_model.bin"))


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 48,
}

FAMILY = Family(
    folder="brainlm",
    stem="BrainLM",
    title="BrainLM",
    model_type="brainlm_mae",
    objective="masked reconstruction",
    converter="brainlm",
    # The released 13M weights were trained on robust-scaled signals of variance 0.69 (evaluation log, MSE / (1 - R2)).
    processor_defaults={"normalization": "robust", "expected_std": 0.83, "return_coordinates": True},
    models={
        "brainlm-13m": NamedModel(
            parameters=8_426_512,
            trained_parameters=13_035_308,
            source="vandijklab/brainlm, folder old_13M",
            files=(authors_folder("old_13M/"), COORDINATES),
            license=LICENSE,
            citation=PAPER,
            trained_on=TRAINED_ON,
            datasets=("uk-biobank",),
            claims=CLAIMS,
            limits=(
                "The convolution along the tokens saw randomly ordered ones in training and sees natural order here.",
                *LIMITS,
            ),
        ),
        "brainlm-tiny": NamedModel(
            {
                **TINY,
                "n_rois": 12,
                "n_timepoints": 40,
                "patch_size": 10,
                "conv_kernel_size": 5,
                "num_positions": 64,
                "roi_order": None,
            },
        ),
    },
)
