"""What holds for every registered family across the rooms: scans, batches, models, tables, cards, several processes.

A family brings its `ModelCase` (tests/models/model_checks.py) and nothing else.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pretrain_every_family
from model_checks import CASES, ModelCase

import brain_transformers as bt
from brain_transformers.hub.model_card import trained_model_card
from brain_transformers.hub.sharing import save_model_folder

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module", params=CASES, ids=str)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelCase, Any, Any, Any]:
    """A case with its body, the processor of it, and rows of scans."""
    return request.param, *request.param.with_scans("Model", tmp_path_factory.mktemp("scans"))


def test_scans_become_a_table_of_embeddings(made: tuple[ModelCase, Any, Any, Any]) -> None:
    case, model, processor, rows = made
    pytest.importorskip("pandas")
    table = bt.embed_dataset(model, rows, processor, window="first", progress=False)
    assert table["subject"].tolist() == [row["subject"] for row in rows]
    assert table["age"].tolist() == [row["age"] for row in rows]
    values = table[[name for name in table if re.fullmatch(r"e\d+", name)]].to_numpy()
    # The way of a scan is one: a collator's batch through the model gives the same.
    batch = bt.ScanCollator(processor, "age", window="first")(rows)
    assert torch.equal(batch.pop("labels"), torch.tensor(table["age"].to_numpy(), dtype=torch.float32))
    assert case.make_inputs(1).keys() - batch.keys() == set()
    with torch.no_grad():
        expected = model(**batch).pooler_output
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(values).all()
    assert all(np.abs(values[0] - other).max() > 1e-3 for other in values[1:])
    with torch.no_grad():
        alone = model(**processor(rows[2], window="first", return_tensors="pt")).pooler_output
    np.testing.assert_allclose(values[2:3], alone, rtol=1e-4, atol=1e-5)


def test_the_example_of_its_card_runs(
    made: tuple[ModelCase, Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nibabel")
    case, model, processor, rows = made
    folder = tmp_path / "model"
    monkeypatch.chdir(tmp_path)
    text = trained_model_card("a model", model, processor, None)
    save_model_folder(model, folder, extractor=processor, card=text)
    example = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    known = case.example(rows[0])
    with torch.no_grad():
        code = re.sub(r'"sub-[^"]+"', '"image.nii.gz"', example[1].replace("path/or/org/name", str(folder)))
        exec(code, known)
        expected = model(**processor(rows[0], return_tensors="pt")).pooler_output
    assert type(known["extractor"]) is type(processor)
    # The scale of a file that was prepared is rounded with it.
    torch.testing.assert_close(known["features"], expected, rtol=0.02, atol=0.02)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every family, pretrained by two processes."""
    folder = tmp_path_factory.mktemp("two-processes")
    command = [sys.executable, pretrain_every_family.__file__, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
@every_case
def test_two_processes_pretrain_as_one_does(case: ModelCase, two_processes: Path, tmp_path: Path) -> None:
    """With batches of the same rows, and gradients accumulated over two of them."""
    shared = torch.load(two_processes / f"{case.name}.pt", weights_only=True)
    alone = pretrain_every_family.pretrain(case, tmp_path, batch_size=2)
    start = case.build("ForMaskedModeling").state_dict()
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-5, msg=name)
    moved = [name for name, value in alone.items() if float((value - start[name]).abs().max()) > 1e-4]
    assert len(moved) > len(alone) // 4
