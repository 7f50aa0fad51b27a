"""What holds for every registered family across the rooms: scans, batches, models, tables, cards, several processes.

A family brings its `ModelCase` (tests/models/model_checks.py) and nothing else.
"""

import copy
import dataclasses
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
from composed_harmony import COMPOSED
from model_checks import CASES, ModelCase

import brain_transformers as bt
from brain_transformers.data.row_kinds import T1, TOKENS, kind_of_row
from brain_transformers.hub.model_card import trained_model_card
from brain_transformers.hub.sharing import save_model_folder

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module", params=(*CASES, COMPOSED), ids=str)
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


def _with_frames(row: dict[str, Any], cut: np.ndarray, value: float, folder: Path) -> dict[str, Any]:
    """A row whose cut frames hold this value, and whose `frame_mask` says that they were cut."""
    if isinstance(row.get("volumes"), str):
        frames = np.load(row["volumes"])
        frames[cut] = value
        path = folder / f"{Path(row['volumes']).stem}-{value:g}.npy"
        np.save(path, frames)
        return {**row, "volumes": str(path), "frame_mask": ~cut}
    series = row["signals"].reshape(row["n_rois"], -1).copy()
    series[:, cut] = value * (1 + np.arange(cut.sum()))
    return {**row, "signals": series.reshape(-1), "frame_mask": ~cut}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("faster", [1.0, 2.7], ids=["", "resampled"])
def test_cut_frames_stay_gaps_at_their_times(
    made: tuple[ModelCase, Any, Any, Any], faster: float, tmp_path: Path
) -> None:
    _, model, processor, rows = made
    kind = kind_of_row(rows[0])
    assert kind is not None
    if "frame_mask" not in kind.columns:
        assert kind in (T1, TOKENS)  # which have no time
        return
    if faster > 1 and getattr(model.config, "t_r", None) is None:
        return  # takes any repetition time as it is
    processor = copy.deepcopy(processor)
    processor._warned.clear()
    rows = [{**row, **({"t_r": row["t_r"] / faster} if "t_r" in row else {})} for row in rows]
    n_frames = rows[0]["n_timepoints"] if "n_timepoints" in rows[0] else rows[0]["shape"][0]
    whole = processor(rows[0], window="first")
    main = processor.model_input_names[0]
    # Half of the first window, from a fifth of it on, or in series of a scan that is one window long.
    n_windows = len(processor(rows[0], window="all", return_windows=True)["window_start"])
    span = n_frames / max(n_windows, 1)
    cut = np.zeros(n_frames, dtype=bool)
    cut[int(0.2 * span) : int(0.7 * span)] = True
    first, other = ([_with_frames(row, cut, value, tmp_path) for row in rows] for value in (50.0, -3.0))
    batch = processor(first[0], window="first")
    # Whatever stands in the cut frames reaches nothing: not the scale, the filter, nor the frames beside them.
    for name, value in processor(other[0], window="first").items():
        np.testing.assert_array_equal(batch[name], value, err_msg=name)
    if not isinstance(rows[0].get("volumes"), str):
        missing = {**first[0], "frame_mask": None, "signals": _with_frames(rows[0], cut, np.nan, tmp_path)["signals"]}
        for name, value in processor(missing, window="first").items():
            np.testing.assert_array_equal(batch[name], value, err_msg=name)
    # Some tokens are masked and some are not; what was measured is where it was, on nearly the same scale.
    assert 0 < batch["attention_mask"].mean() < 1
    assert batch[main].shape == whole[main].shape
    kept = (batch[main] != 0) & (whole[main] != 0)
    assert 0.25 < kept.mean() < 0.75
    assert np.corrcoef(batch[main][kept], whole[main][kept])[0, 1] > 0.8
    # The fitted scale knows nothing of them either.
    if hasattr(processor, "statistics") and processor.statistics is not None:
        fitted = [copy.deepcopy(processor).fit(part).statistics for part in (first, other)]
        assert fitted[0] == fitted[1]
    # The way to a table, with a scan of which the second window was cut as a whole.
    gone = np.zeros(n_frames, dtype=bool)
    if n_windows > 1:
        gone[int(span) : int(2 * span) + 1] = True
    table = bt.embed_dataset(
        model, [*first[:2], _with_frames(rows[2], gone, 7.0, tmp_path)], processor, progress=False
    )
    assert np.isfinite(table[[name for name in table if re.fullmatch(r"e\d+", name)]].to_numpy()).all()
    assert "frame_mask" not in table
    batch = bt.ScanCollator(processor, window="first")(first)
    with torch.no_grad():
        alone = model(**processor(first[1], window="first", return_tensors="pt")).pooler_output
        torch.testing.assert_close(model(**batch).pooler_output[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@every_case
def test_pretraining_never_sees_cut_frames(case: ModelCase, tmp_path: Path) -> None:
    """Two steps give the same weights whatever stands in the frames that were cut."""

    def with_cut_frames(value: float) -> ModelCase:
        def scans(config: Any, folder: Path) -> list[dict[str, Any]]:
            rows = case.scans(config, folder)
            n_frames = rows[0]["shape"][0] if "shape" in rows[0] else rows[0]["n_timepoints"]
            cut = np.arange(n_frames) % (n_frames // 3) < 0.35 * (n_frames // 3)
            return [_with_frames(row, cut, value, folder) for row in rows]

        return dataclasses.replace(case, scans=scans)

    kind = kind_of_row(case.scans(case.config(), tmp_path)[0])
    if kind is None or "frame_mask" not in kind.columns:
        return  # has no time
    first, other = (
        pretrain_every_family.pretrain(with_cut_frames(value), tmp_path / str(value), batch_size=2, accumulation=1)
        for value in (50.0, -3.0)
    )
    for name, weight in first.items():
        assert bool(torch.isfinite(weight).all()), name
        torch.testing.assert_close(weight, other[name], rtol=0, atol=0, msg=name)


def test_check_looks_over_the_scans_of_every_family(made: tuple[ModelCase, Any, Any, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    _, _, processor, rows = made
    report = bt.check(rows, processor, output=tmp_path / "report", progress=False)
    assert report.counts["refused"] == 0, report.scans[0].findings
    assert all(scan.facts["n_windows"] >= 1 and scan.facts["observed_tokens"] == 1 for scan in report.scans)
    kind = kind_of_row(rows[0])
    assert kind is not None
    known = {"n_timepoints", "voxels", "n_tokens"} & set(report.scans[0].facts)
    assert known, report.scans[0].facts
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.html", "scans.tsv"]
    # What a call refuses is refused, with its words.
    broken = {**rows[0], processor.reads[0]: np.full((2, 3), np.nan, np.float32)}
    refused = bt.check([broken], processor, progress=False).scans[0]
    with pytest.raises(ValueError, match="Expected ") as error:
        processor(processor.as_row(broken, 0))
    assert refused.status == "refused"
    assert refused.findings[0][1].split()[-6:] == str(error.value).split()[-6:]


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
