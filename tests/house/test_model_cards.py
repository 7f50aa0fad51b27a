"""The cards in the repository say what the registry says, and their example runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import brain_transformers as bt
from brain_transformers.hub.model_card import Provenance, build_model_card, trained_model_card
from brain_transformers.hub.registry import MODELS
from brain_transformers.hub.sharing import save_model_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brainlm


def test_cards_are_current(repository: Path) -> None:
    result = subprocess.run(
        [sys.executable, "model_cards/generate.py", "--check"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", bt.list_models(published=True))
def test_metadata_of_a_card_can_be_read(name: str, repository: Path) -> None:
    card = ModelCard.load(repository / "model_cards" / f"{name}.md")
    entry = MODELS[name]
    assert card.data.license == entry.license
    assert card.data.library_name == "brain-transformers"
    (converter,) = re.findall(r"^brain-transformers convert (\S+) --", card.content, re.MULTILINE)
    assert (repository / "conversion" / f"convert_{converter}.py").is_file()
    for text in (
        f"{entry.parameters:,}",
        f"{entry.trained_parameters:,}",
        *entry.limits,
        entry.citation,
        entry.source,
    ):
        assert text in card.content


def test_the_card_of_a_model_without_weights_says_so_first(repository: Path) -> None:
    card = ModelCard.load(repository / "model_cards" / "brain-mt-base.md")
    first = next(line for line in card.text.splitlines() if line and not line.startswith("#"))
    assert first.startswith("**No weights of this model were ever published")
    assert card.data.license is None
    assert f"{MODELS['brain-mt-base'].parameters:,}" in card.content


def run_example(folder: Path, **known: Any) -> dict[str, Any]:
    """Run the Python of the card in a model folder, as it stands but for the name; returns its variables."""
    example = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    with torch.no_grad():
        exec(example[1].replace("path/or/org/name", str(folder)), known)
    return known


def saved(config: Any, folder: Path, kind: str = "ForMaskedModeling", **card: Any) -> list[np.ndarray]:
    """Save a random model with its card; returns scans that it takes."""
    model = getattr(bt, type(config).__name__.removesuffix("Config") + kind)(config)
    rng = np.random.default_rng(0)
    coordinates = rng.normal(size=(config.n_rois, 3)).astype(np.float32)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, coordinates=coordinates)
    if card:
        text = trained_model_card("a model", model, extractor, card["parent"])
    else:
        text = build_model_card("a model", MODELS["brainlm-tiny"], config)
    save_model_folder(model, folder, extractor=extractor, card=text)
    return [rng.normal(size=(config.n_rois, 60)).astype(np.float32) for _ in range(3)]


def test_the_card_of_a_conversion_without_a_table_runs_too(tmp_path: Path) -> None:
    """What the model must then be given, or how its rows must be sorted, is in the example."""
    checkpoint = Path(__file__).resolve().parents[1] / "golden" / "brainlm" / "a_pretrain" / "checkpoint"
    assert convert_brainlm.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "tokens")]) == 0
    scans = [np.random.default_rng(n).normal(size=(12, 60)).astype(np.float32) for n in range(3)]
    run_example(tmp_path / "tokens", bold=scans[0], scans=scans, t_r=0.72, coordinates=np.zeros((12, 3)))

    config = bt.load_config("brainlm-vit-tiny", n_rois=424, n_timepoints=200, roi_order="a424@y")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    model = bt.BrainLMViTModel(config)
    provenance = Provenance("file", "0" * 64, {}, needs=("coordinates", "parcel centres"))
    text = build_model_card("image", MODELS["brainlm-111m"], config, provenance, model, extractor)
    save_model_folder(model, tmp_path / "image", extractor=extractor, card=text)
    scans = [np.random.default_rng(n).normal(size=(424, 60)).astype(np.float32) for n in range(3)]
    run_example(tmp_path / "image", bold=scans[0], scans=scans, coordinates=np.zeros((424, 3)))


HOSTILE = 'x", return_tensors=print("this must not run"))  #```\n---\nlicense: mit\n| `cell`'


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("brainlm-tiny", {"roi_order": None, "t_r": None}),
        ("brainlm-tiny", {"roi_order": [f"area {number}" for number in range(12)]}),
        ("brainlm-vit-tiny", {"n_rois": 50, "roi_order": "tian-s3@y"}),
    ],
)
def test_the_example_of_a_card_names_the_order_and_the_repetition_time(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = bt.load_config(name, **options)
    scans = saved(config, tmp_path / "model")
    found = run_example(tmp_path / "model", bold=scans[0], scans=scans, t_r=0.72)
    assert found["features"].shape[1] == found["model"].config.hidden_size
    assert bool(torch.isfinite(found["features"]).all())


@pytest.mark.parametrize("order", [HOSTILE, [f"{HOSTILE}<b>[{number}](x)" for number in range(12)]])
def test_names_of_a_user_stay_names(order: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A parcel order, or any other text, ends neither the Python nor the metadata of a card."""
    config = bt.load_config("brainlm-tiny", roi_order=order)
    provenance = Provenance(HOSTILE, "0" * 64, {HOSTILE: "a reason"}, (HOSTILE,), source=HOSTILE)
    text = build_model_card(HOSTILE, MODELS["brainlm-tiny"], config, provenance)
    model = bt.BrainLMModel(config)
    coordinates = np.zeros((12, 3), dtype=np.float32)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, coordinates=coordinates)
    save_model_folder(model, tmp_path / "model", extractor=extractor, card=text)
    scans = [np.random.default_rng(n).normal(size=(12, 60)).astype(np.float32) for n in range(3)]
    assert run_example(tmp_path / "model", bold=scans[0], scans=scans)["features"].shape == (1, 32)
    assert "this must not run" not in capsys.readouterr().out
    card = ModelCard(text)
    assert card.data.license == "unknown"
    assert card.text.count("\n---\n") == 0
    assert card.text.count("<b>") == card.text.count("\\<b>")
    assert all(
        line.count(" | ") == 1 for line in card.text.splitlines() if line.startswith("| ") and "---" not in line
    )


def test_a_trained_model_keeps_the_notices_of_its_parent(tmp_path: Path) -> None:
    config = bt.load_config("brainlm-tiny")
    saved(config, tmp_path / "converted")
    published = MODELS["brainlm-13m"]
    provenance = Provenance("pytorch_model.bin", "0" * 64, {}, source="vandijklab/brainlm", same_sizes="brainlm-13m")
    (tmp_path / "converted" / "README.md").write_text(build_model_card("converted", published, config, provenance))

    parents = [tmp_path / "converted", tmp_path / "pretrained", tmp_path / "tuned"]
    kinds = ["ForMaskedModeling", "ForSequenceClassification", "ForSequenceClassification"]
    for parent, kind, name in zip(parents, kinds, ("pretrained", "tuned", "again"), strict=True):
        scans = saved(config, tmp_path / name, kind, parent=parent)
        card = ModelCard.load(tmp_path / name / "README.md")
        assert card.data.license == "cc-by-nc-nd-4.0"
        assert card.data.base_model == "vandijklab/brainlm"
        assert "non-commercial purposes only" in card.text
        assert parent.name in card.text
        assert str(tmp_path) not in card.content
    assert run_example(tmp_path / "again", bold=scans[0], scans=scans)["logits"].shape == (1, 2)


def test_a_model_from_random_weights_or_an_unknown_parent_claims_nothing(tmp_path: Path) -> None:
    model = bt.BrainLMModel(bt.load_config("brainlm-tiny"))
    own = ModelCard(trained_model_card("mine", model, None, "brainlm-13m"))
    assert own.data.license is None
    assert own.data.base_model is None
    assert "set by whoever publishes them" in own.text
    model.save_pretrained(tmp_path / "parent")
    for parent in (tmp_path / "parent", "lab/never-seen"):
        card = ModelCard(trained_model_card("mine", model, None, parent))
        assert card.data.license == "unknown"
        assert "ask whoever published" in card.text
    assert card.data.base_model == "lab/never-seen"


@pytest.mark.parametrize(
    ("block", "name"),
    [
        ("license: other\nlicense_name: brain-non-commercial\nlicense_link: LICENSE", "brain-non-commercial"),
        ("license:\n- cc-by-nc-4.0\n- mit", "cc-by-nc-4.0-and-mit"),
        ("license: cc-by-nc-4.0\n{broken", None),
    ],
)
def test_licences_without_an_id_and_damaged_cards_of_parents(tmp_path: Path, block: str, name: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\nlibrary_name: brain-transformers\n{block}\n---\n# x\n")
    model = bt.BrainLMModel(bt.load_config("brainlm-tiny"))
    card = ModelCard(trained_model_card("mine", model, None, tmp_path))
    assert card.data.to_dict().get("license_name") == name
    assert ("non-commercial purposes only" in card.text) == (name is not None)
    assert card.data.license == ("unknown" if name is None else "other")


def test_the_licence_of_a_parent_on_the_hub_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nbase_model: lab/older\n---\n# theirs\n")
    monkeypatch.setattr(
        "brain_transformers.models.licenses.hf_hub_download",
        lambda repository, name: {"lab/parent": tmp_path}[repository] / name,
    )
    model = bt.BrainLMModel(bt.load_config("brainlm-tiny"))
    card = ModelCard(trained_model_card("mine", model, None, "lab/parent"))
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", "lab/parent")
    assert "non-commercial purposes only" in card.text
    assert "changed form" not in card.text
