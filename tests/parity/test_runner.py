"""The runner itself: it must fail on a wrong number and on an output that it does not know."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))

import kinds_brainlm
from golden_case import GoldenCase


@pytest.fixture
def case_folder(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "case"
    shutil.copytree(repository / "tests" / "golden" / "brainlm" / "b_finetune", folder)
    return folder


def run(folder: Path, work: Path) -> None:
    case = GoldenCase(folder)
    kinds_brainlm.KINDS[case.kind](case, work)
    case.finish()


def change(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "tensors.safetensors"
    save_file({**load_file(path), **tensors}, path)


def test_the_untouched_case_passes(case_folder: Path, tmp_path: Path) -> None:
    run(case_folder, tmp_path)


def test_a_wrong_output_fails_and_is_named(case_folder: Path, tmp_path: Path) -> None:
    logits = load_file(case_folder / "tensors.safetensors")["mae.logits"]
    change(case_folder, **{"mae.logits": logits + 1e-3})
    with pytest.raises(AssertionError, match=r"mae\.logits: largest error 0\.001"):
        run(case_folder, tmp_path)


def test_a_wrong_gradient_fails_and_is_named(case_folder: Path, tmp_path: Path) -> None:
    name = "grad.vit.embeddings.cls_token"
    gradient = load_file(case_folder / "tensors.safetensors")[name]
    change(case_folder, **{name: gradient * 1.01})
    with pytest.raises(AssertionError, match="cls_token: largest error"):
        run(case_folder, tmp_path)


def test_an_unknown_output_fails_and_is_named(case_folder: Path, tmp_path: Path) -> None:
    change(case_folder, **{"mse.confidence": torch.zeros(3)})
    with pytest.raises(AssertionError, match=r"unknown outputs.*mse\.confidence"):
        run(case_folder, tmp_path)


def test_other_weights_fail(case_folder: Path, tmp_path: Path) -> None:
    path = case_folder / "checkpoint" / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    weights["vit.layernorm.bias"] = weights["vit.layernorm.bias"] + 0.01
    torch.save(weights, path)
    with pytest.raises(AssertionError, match="largest error"):
        run(case_folder, tmp_path)


def test_tolerances_come_from_the_case(case_folder: Path, tmp_path: Path) -> None:
    logits = load_file(case_folder / "tensors.safetensors")["mae.logits"]
    change(case_folder, **{"mae.logits": logits + 1e-3})
    meta = json.loads((case_folder / "case.json").read_text())
    (case_folder / "case.json").write_text(json.dumps({**meta, "atol": 1e-2}))
    run(case_folder, tmp_path)
