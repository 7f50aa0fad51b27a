"""The made-up family."""

from ..family import AuthorsFile, Family, NamedModel

FAMILY = Family(
    folder="made_up",
    stem="MadeUp",
    title="Made-up",
    model_type="made_up",
    objective="masked reconstruction",
    converter="made_up",
    processor_defaults={"normalization": "zscore"},
    models={
        "made-up-base": NamedModel(
            parameters=17_536,
            trained_parameters=34_986,
            source="github.com/nobody/made-up, made_up.pth",
            files=(AuthorsFile("checkpoint", "made_up.pth", download="https://github.com/nobody/made-up"),),
            license="mit",
            citation="Nobody, Made-up models, 2026",
            limits=("It does not exist.",),
        ),
        "made-up-tiny": NamedModel({"n_rois": 12, "n_timepoints": 40, "hidden_size": 16, "num_attention_heads": 2}),
    },
)
