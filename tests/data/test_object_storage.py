"""Folders in object storage, with the one that fsspec keeps in memory."""

import warnings

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")
fsspec = pytest.importorskip("fsspec")

from brain_transformers.data import load_dataset  # noqa: E402
from brain_transformers.data.object_storage import is_url, local_copy  # noqa: E402
from brain_transformers.data.readers import ROISeriesReadError  # noqa: E402
from tests.data.lab_folders import series, xcpd_run  # noqa: E402


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    memory = fsspec.filesystem("memory")
    xcpd_run(tmp_path / "x", "sub-01_task-rest", series(456, 30))
    memory.put(str(tmp_path / "x"), "/lab/xcpd", recursive=True)
    memory.pipe("/lab/xcpd/sub-01/func/sub-01_task-rest_desc-denoised_bold.nii.gz", b"x" * 100)
    yield memory
    memory.rm("/lab", recursive=True)


def load(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(*arguments, **options)


def test_tables_are_copied_once_and_read_like_others(storage, tmp_path):
    rows = load("memory://lab/xcpd")
    assert (str(rows[0]["subject"]), float(rows[0]["t_r"]), int(rows[0]["n_rois"])) == ("01", 2.0, 456)
    copy = local_copy("memory:/lab/xcpd", tmp_path / "cache")  # as a path spells it
    assert not list(copy.rglob("*.nii.gz"))
    table = next(copy.rglob("*mean_timeseries.tsv"))
    before = table.stat().st_mtime_ns
    local_copy("memory://lab/xcpd", tmp_path / "cache")
    assert table.stat().st_mtime_ns == before
    name = next(name for name in storage.find("/lab/xcpd") if name.endswith("mean_timeseries.tsv"))
    storage.pipe(name, table.read_bytes() + table.read_bytes().splitlines(keepends=True)[-1])
    storage.rm("/lab/xcpd/sub-01/func/sub-01_task-rest_outliers.tsv")
    assert int(load("memory://lab/xcpd")[0]["n_timepoints"]) == 31
    assert np.isfinite(load("memory://lab/xcpd")[0]["signals"]).all()


def test_what_is_not_there_is_said(storage):
    with pytest.raises(ROISeriesReadError, match=r"memory://lab/none: "):
        load("memory://lab/none")
    assert is_url("s3://bucket/x")
    assert not is_url("/data/s3/x")
    assert not is_url("C:/data")
