"""A folder of its own is all that a new family needs: no generic file says a word of it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python

import brain_transformers

MADE_UP = Path(__file__).resolve().parent / "made_up"

EVERYTHING = """
    import re
    import sys
    from pathlib import Path

    import numpy as np
    import torch
    import transformers
    from huggingface_hub import ModelCard
    import brain_transformers as bt
    from brain_transformers.cli.main import main
    from brain_transformers.hub.model_card import trained_model_card
    from brain_transformers.hub.registry import MODELS, conversion_command
    from brain_transformers.hub.sharing import save_model_folder
    from brain_transformers.training.objectives import OBJECTIVES

    folder = Path(sys.argv[1])
    # Names, registry, Auto classes.
    assert {"made-up-base", "made-up-tiny"} <= set(bt.list_models())
    assert "made-up-base" in bt.list_models(published=True)
    config = bt.load_config("made-up-tiny")
    for auto, kind in (("Model", "Model"), ("ModelForPreTraining", "ForMaskedModeling")):
        built = getattr(transformers, f"Auto{auto}").from_config(config)
        assert type(built) is getattr(bt, f"MadeUp{kind}"), built

    # A new model for a dataset, its Trainer, its card, and the folder that comes of it.
    rng = np.random.default_rng(0)
    scans = [rng.normal(size=(7, 100)).astype(np.float32) for _ in range(6)]
    rows = bt.dataset_from_arrays(scans, roi_order=[f"area {n}" for n in range(7)], t_r=1.5)
    model, processor = bt.new_model("made-up-tiny", rows)
    assert (model.config.n_rois, model.config.t_r) == (7, 1.5)
    before = model.made_up.embeddings.projection.weight.clone()
    objective = OBJECTIVES[model.config.family.objective]
    arguments = objective.arguments_class(
        str(folder / "run"), max_steps=2, per_device_train_batch_size=2, learning_rate=0.01, use_cpu=True,
        report_to="none", save_strategy="no", disable_tqdm=True,
    )
    trainer = objective.trainer_class(model, arguments, train_dataset=rows, processing_class=processor)
    trainer.train()
    assert not torch.equal(model.made_up.embeddings.projection.weight, before)
    card = trained_model_card("made up", model, processor, None)
    save_model_folder(model, folder / "model", extractor=processor, card=card)
    known = {"bold": scans[0]}
    example = re.search(r"```python\\n(.*?)```", card, re.DOTALL)[1]
    exec(example.replace("path/or/org/name", str(folder / "model")), known)
    assert type(known["model"]) is bt.MadeUpModel
    assert known["features"].shape == (1, 16)
    table = bt.embed_dataset(known["model"], rows, known["extractor"], window="first", progress=False)
    assert len(table) == 6
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=2)
    assert torch.equal(classifier.made_up.embeddings.projection.weight, model.made_up.embeddings.projection.weight)

    # A checkpoint by the names of its authors.
    body = bt.MadeUpModel(bt.load_config("made-up-base"))
    theirs = {}
    for name, value in body.state_dict().items():
        for ours, their in (
            ("embeddings.cls_token", "cls"), ("embeddings.positions", "pos"), ("embeddings.projection", "patch"),
            ("layers", "blocks"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("layernorm", "norm"),
            ("attention.qkv", "attn.qkv"), ("attention.out_proj", "attn.proj"),
        ):
            name = name.replace(ours, their)
        theirs[name] = value
    torch.save({"model": {**theirs, "decoder.weight": torch.zeros(2)}}, folder / "made_up.pth")
    words = ["--checkpoint", folder / "made_up.pth", "--output", folder / "converted"]
    words += ["--source", "github.com/nobody/made-up"]
    assert main(["convert", "made_up", *map(str, words)]) == 0
    loaded = transformers.AutoModel.from_pretrained(folder / "converted").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in body.state_dict().items())
    assert transformers.AutoFeatureExtractor.from_pretrained(folder / "converted").normalization == "zscore"
    card, entry = ModelCard.load(folder / "converted" / "README.md"), MODELS["made-up-base"]
    assert card.data.license == "mit"
    assert "It does not exist." in card.text
    pretraining = bt.MadeUpForMaskedModeling(bt.load_config("made-up-base"))
    assert (body.num_parameters(), pretraining.num_parameters()) == (entry.parameters, entry.trained_parameters)
    assert "convert made_up --checkpoint made_up.pth" in conversion_command("made-up-base")
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package as it is, by links, with one folder more under `models`."""
    source = Path(brain_transformers.__file__).parent
    package = tmp_path / "site" / "brain_transformers"
    (package / "models").mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name not in ("models", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    for entry in (source / "models").iterdir():
        if entry.name != "__pycache__":
            (package / "models" / entry.name).symlink_to(entry)
    (package / "models" / "made_up").symlink_to(MADE_UP)
    return package.parent


@pytest.mark.slow
def test_a_new_folder_is_a_new_family(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    run_python(EVERYTHING, tmp_path, environment={"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"})
