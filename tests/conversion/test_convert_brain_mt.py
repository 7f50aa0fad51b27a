"""The authors' files of BrainMT: a container with numpy numbers, a bare state dict, names with a prefix."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_mt

from brain_transformers.conversion.containers import read_torch_checkpoint

CASE = Path(__file__).resolve().parents[1] / "golden" / "brain_mt" / "encoder_bidir_v2_classification"


def convert(file: Path, folder: Path, *more: str) -> Any:
    assert convert_brain_mt.main(["--checkpoint", str(file), "--output", str(folder), *more]) == 0
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def test_a_bare_state_dict_with_prefixes_is_the_same_model(tmp_path: Path) -> None:
    whole = convert(CASE / "checkpoint.pth", tmp_path / "whole")
    assert whole.config.mixer_type == "bidirectional_v2"
    assert whole.config.problem_type == "multi_label_classification"
    weights = read_torch_checkpoint(CASE / "checkpoint.pth")["model_state_dict"]
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "bare.pth")
    arguments = {"model": json.loads((CASE / "config.json").read_text())["upstream_args"]}
    (tmp_path / "authors.json").write_text(json.dumps({**arguments, "task": {"loss_fn": "bce_with_logits"}}))
    bare = convert(tmp_path / "bare.pth", tmp_path / "bare", "--authors-config", str(tmp_path / "authors.json"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, bare.state_dict()[name]), name
    assert bare.config.problem_type == whole.config.problem_type


def test_a_volume_of_other_patches_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--output", str(tmp_path / "out"), "--volume-size", "109", "91", "91"]
    assert convert_brain_mt.main(["--checkpoint", str(CASE / "checkpoint.pth"), *more]) != 0
    assert "252 patches, the weights 8" in capsys.readouterr().err
