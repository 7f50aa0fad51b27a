"""What an earlier version saved loads with equal output."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers  # noqa: F401  registers the Auto classes

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[1] / "saved_folders").glob("*/numbers.safetensors"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def saved(request: pytest.FixtureRequest) -> tuple[Path, dict[str, torch.Tensor]]:
    return request.param, load_file(request.param / "numbers.safetensors")


def test_there_is_one_of_each_family_of_that_version() -> None:
    assert [folder.name for folder in FOLDERS] == ["brain_jepa", "brain_semantoks", "brainlm", "brainlm_vit"]


@pytest.mark.filterwarnings("ignore")
def test_extractor(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, numbers = saved
    extractor: Any = AutoFeatureExtractor.from_pretrained(folder / "pretraining")
    inputs = extractor(
        list(numbers["scans"].numpy()), t_r=extractor.t_r, roi_order=extractor.roi_order, return_tensors="pt"
    )
    expected = {name.removeprefix("inputs."): value for name, value in numbers.items() if name.startswith("inputs.")}
    if "attention_mask" not in inputs:  # nothing is padded
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
