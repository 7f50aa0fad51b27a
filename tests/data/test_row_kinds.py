"""Rows of another modality: a kind and a builder of a few lines, and nothing generic knows of them."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

import brain_transformers as bt  # noqa: E402
from brain_transformers.data import row_kinds  # noqa: E402
from brain_transformers.data.errors import ROISeriesReadError  # noqa: E402
from brain_transformers.data.labels import column_values  # noqa: E402
from brain_transformers.data.row_kinds import RowKind, kind_of  # noqa: E402
from brain_transformers.data.scan_folders import ScanFolderBuilder  # noqa: E402
from brain_transformers.processing.base import CheckedScan, ScanProcessor  # noqa: E402


def _pulse_fault(table: Any) -> str:
    return "" if all(length > 0 for length in table.column("rate").to_pylist()) else "rates of 0"


PULSE = RowKind("pulses", {"pulse": ["float32"], "rate": "float64"}, needed=("pulse", "rate"), fault=_pulse_fault)


class PulseFolderBuilder(ScanFolderBuilder):
    """Pulses of the heart: one `.npy` a scan."""

    kind = PULSE

    def __init__(self, folder: Any, rate: float, **options: Any) -> None:
        super().__init__(folder, images=None, options={"rate": rate}, **options)

    def read(self, path: Any) -> dict[str, Any]:
        values = np.load(path)
        if values.ndim != 1:
            raise ROISeriesReadError(f"{path}: expected one axis, got {values.ndim}.")
        if len(values) < 6:
            warnings.warn(f"{path}: {len(values)} values are few.", stacklevel=2)
        return {"pulse": values.astype(np.float32), "rate": self.config.options["rate"]}


class PulseProcessor(ScanProcessor):
    reads = ("pulse", "rate")
    scan_ndim = 1
    model_input_names = ["pulses"]

    def check(self, scan: Any, name: str, **known: Any) -> CheckedScan:
        return CheckedScan(name, np.asarray(scan))

    def cut(self, scan: CheckedScan, starts: Any) -> dict[str, np.ndarray]:
        return {"pulses": np.stack([scan.values[:4]] * len(starts))}


@pytest.fixture(autouse=True)
def known_kind(monkeypatch):
    monkeypatch.setattr(row_kinds, "ROW_KINDS", [*row_kinds.ROW_KINDS, PULSE])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "study"
    root.mkdir()
    for number, length in enumerate((8, 4, 5)):
        np.save(root / f"sub-0{number}_pulse.npy", np.arange(float(length)) + number)
    (root / "participants.tsv").write_text("participant_id\tage\nsub-00\t31\nsub-01\t40\nsub-02\tn/a\n")
    return root


def build(folder, tmp_path, **options):
    builder = PulseFolderBuilder(folder, 50.0, cache_dir=tmp_path / "cache", **options)
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def test_a_kind_goes_from_files_to_batches(folder, tmp_path):
    with pytest.warns(UserWarning, match=r"sub-01_pulse\.npy: 4 values are few\. So it is for 1 other scan"):
        rows = build(folder, tmp_path)
    assert rows.column_names[:2] == ["pulse", "rate"]
    assert list(rows.with_format(None)["age"]) == [31, 40, None]
    rows.save_to_disk(str(tmp_path / "saved"))
    loaded = bt.load_dataset(tmp_path / "saved")
    assert kind_of(loaded.column_names) is PULSE
    batch = bt.ROISeriesCollator(PulseProcessor())(list(loaded))
    assert batch["pulses"].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]]
    with pytest.raises(ValueError, match=r"for scan 00 .*got one without signals"):
        bt.ROISeriesFeatureExtractor()(loaded[0])


def test_its_bad_files_and_rows_are_refused_by_its_own_words(folder, tmp_path):
    np.save(folder / "sub-03_pulse.npy", np.zeros((2, 2)))
    with pytest.raises(ROISeriesReadError, match=r"1 of 4 files cannot be used(.|\n)*expected one axis, got 2"):
        build(folder, tmp_path)
    with pytest.warns(UserWarning, match="1 of 4 files were left out"):
        rows = build(folder, tmp_path, on_error="skip")
    rows.remove_columns("rate").add_column("rate", [0.0] * 3).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ROISeriesReadError, match="expected rows of pulses, got rates of 0"):
        bt.load_dataset(tmp_path / "saved")
    rows.remove_columns("rate").save_to_disk(str(tmp_path / "other"))
    with pytest.raises(
        ValueError, match=r"columns signals, n_rois, roi_order \(series of ROIs\); or .*; or pulse, rate"
    ):
        bt.load_dataset(tmp_path / "other")


def test_labels_are_proposed_without_what_belongs_to_the_scan(folder, tmp_path):
    rows = build(folder, tmp_path)
    with pytest.raises(ValueError, match="no column 'sex'; it has acq, age, desc"):
        column_values(rows, "sex")


def test_quick_rows_are_those_of_the_dataset():
    value = datasets.Value
    features = {name: value(name) for name in ("int64", "int32", "float64", "float32", "string", "bool")}
    features |= {f"{name}s": datasets.List(value(name)) for name in ("float32", "float64", "int32", "bool")}
    row = {"int64": 3, "int32": 4, "float64": 0.5, "float32": 0.25, "string": "sub-01", "bool": True}
    row |= {"float32s": [1.0, None, 2.0], "float64s": [0.1], "int32s": [1, 2], "bools": [True, False]}
    rows = [row, dict.fromkeys(row), {**row, "float32s": [], "bools": [], "string": ""}, {**row, "int64": 5}]
    dataset = datasets.Dataset.from_list(rows, features=datasets.Features(features)).with_format("numpy")
    for part in (dataset, dataset.select([3, 0, 1]), dataset.shuffle(seed=1)):
        quick = row_kinds.NumpyRows.of(part)
        assert isinstance(quick, row_kinds.NumpyRows)
        for number in (*range(len(part)), -1):
            for name, expected in part[number].items():
                found = quick[number][name]
                np.testing.assert_array_equal(found, expected)
                assert getattr(found, "dtype", None) == getattr(expected, "dtype", None) or name == "string"
    with pytest.raises(IndexError):
        row_kinds.NumpyRows.of(dataset)[4]
    nested = datasets.Dataset.from_dict({"frames": [[[1.0, 2.0]]]}).with_format("numpy")
    for other in (nested, dataset.with_format("torch"), dataset.with_format("numpy", columns=["int64"]), rows):
        assert row_kinds.NumpyRows.of(other) is other


def test_quick_rows_copy_no_scan_and_reach_workers(tmp_path):
    made = bt.data.dataset_from_arrays([np.ones((4, 50), np.float32)] * 3, roi_order=list("abcd"), t_r=2.0)
    made.save_to_disk(tmp_path)
    quick = row_kinds.NumpyRows.of(bt.load_dataset(tmp_path))
    signals = quick[1]["signals"]
    assert np.shares_memory(signals, quick[1]["signals"])
    assert not signals.flags.writeable
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(quick))[2]["signals"], np.ones(200))
