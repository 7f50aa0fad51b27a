"""What an earlier version saved loads with equal output."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers  # noqa: F401  registers the Auto classes
from brain_transformers.processing.structural import CROPPED_SHAPE

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "saved_folders").glob("*/numbers.safetensors"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def saved(request: pytest.FixtureRequest) -> tuple[Path, dict[str, torch.Tensor]]:
    return request.param, load_file(request.param / "numbers.safetensors")


def test_there_is_one_of_each_family_that_was_saved() -> None:
    assert {folder.name for folder in FOLDERS} == {
        *("brain_harmony", "brain_jepa", "brain_mt", "brain_semantoks", "brainlm", "brainlm_vit"),
        *("harmonix_f", "harmonix_s"),
    }


def known_of(folder: Path, extractor: Any) -> dict[str, Any]:
    """What a call says of the scans; the first folders do not hold it."""
    with safe_open(folder / "numbers.safetensors", framework="pt") as file:
        said = (file.metadata() or {}).get("known")
    return json.loads(said) if said else {"t_r": extractor.t_r, "roi_order": extractor.roi_order}


def scans_of(numbers: dict[str, torch.Tensor]) -> list[np.ndarray]:
    """The scans; volumes of T1 are stored in blocks of 10 mm, since theirs would be megabytes."""
    scans = list(numbers.get("scans", ())) or [numbers[f"scans.{number}"] for number in range(3)]
    arrays = [scan.float().numpy() for scan in scans]
    if arrays[0].shape == (17, 22, 16):
        x, y, z = CROPPED_SHAPE
        arrays = [np.kron(scan, np.ones((10, 10, 10), np.float32))[:x, :y, :z] for scan in arrays]
    return arrays


@pytest.mark.filterwarnings("ignore")
def test_extractor(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, numbers = saved
    extractor: Any = AutoFeatureExtractor.from_pretrained(folder / "pretraining")
    inputs = extractor(scans_of(numbers), return_tensors="pt", **known_of(folder, extractor))
    expected = {name.removeprefix("inputs."): value for name, value in numbers.items() if name.startswith("inputs.")}
    if "attention_mask" not in inputs and "attention_mask" in expected:  # nothing is padded
        assert bool((expected.pop("attention_mask") == 1).all())
    assert inputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(inputs[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("again", [False, True], ids=["", "saved-again"])
def test_models(saved: tuple[Path, dict[str, torch.Tensor]], again: bool, tmp_path: Path) -> None:
    folder, numbers = saved
    inputs = {name.removeprefix("inputs."): value for name, value in numbers.items() if name.startswith("inputs.")}
    body: Any = AutoModel.from_pretrained(folder / "pretraining").eval()
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(folder / "classifier").eval()
    if again:
        whole: Any = AutoModelForPreTraining.from_pretrained(folder / "pretraining")
        whole.save_pretrained(tmp_path / "pretraining")
        classifier.save_pretrained(tmp_path / "classifier")
        body = AutoModel.from_pretrained(tmp_path / "pretraining").eval()
        classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    with torch.no_grad():
        torch.testing.assert_close(body(**inputs).pooler_output, numbers["features"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(classifier(**inputs).logits, numbers["logits"], atol=1e-5, rtol=1e-5)
    assert classifier.config.id2label == {0: "a", 1: "b", 2: "c"}
