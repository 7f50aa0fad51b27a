"""HDF5 files in the layout of the Brain-Semantoks authors: rows, gaps, labels, subjects, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import brain_transformers as bt
from brain_transformers.data import SemantoksHDF5Builder, SemantoksRecordings
from brain_transformers.data.readers import ROISeriesReadError

SIZES = {"schaefer400": 400, "tian3": 50, "buckner7": 7}


def write(path: Path, sizes: dict[str, int] | None = None, ts_len: bool = False, n_scans: int = 5) -> np.ndarray:
    """Five scans of three subjects; scan 1 ends early, and parcel 3 of scan 2 is missing."""
    rng = np.random.default_rng(0)
    sizes = sizes or SIZES
    values = rng.standard_normal((n_scans, sum(sizes.values()), 130)).astype(np.float16)
    values[1, :, 117:] = np.nan
    values[2, 3] = np.nan
    with h5py.File(path, "w") as file:
        parts = np.split(values, np.cumsum(list(sizes.values()))[:-1], axis=1)
        for name, part in zip(sizes, parts):
            file.create_dataset(f"timeseries/{name}", data=part, compression="gzip")
        file["long_subject_id"] = np.array([b"sub-b", b"sub-a", b"sub-c", b"sub-a", b"sub-b"][:n_scans])
        file["labels/sex"] = np.array([0, 1, 0, 1, 0][:n_scans])
        file["age_5c"] = np.array([20.5, 30, 40, 50, np.nan][:n_scans])
        if ts_len:
            file["ts_len"] = np.array([100, 130, 130, 90, 130][:n_scans])
    return values.astype(np.float32)


def build(path: Path, tmp_path: Path, **options):
    builder = SemantoksHDF5Builder(path, cache_dir=tmp_path / "cache", **options)
    builder.download_and_prepare()
    return builder.as_dataset(split="train").with_format("numpy")


def test_rows_hold_what_was_measured(tmp_path: Path) -> None:
    values = write(tmp_path / "scans.h5")
    rows = build(tmp_path / "scans.h5", tmp_path, labels=["labels/sex", "age_5c", "labels/none"])
    assert len(rows) == 5
    assert list(rows["n_timepoints"]) == [130, 117, 130, 130, 130]
    assert [str(name) for name in rows["subject"]] == ["sub-b", "sub-a", "sub-c", "sub-a", "sub-b"]
    assert list(rows["sex"]) == [0, 1, 0, 1, 0]
    assert np.isnan(rows[4]["age_5c"])
    assert np.isnan(list(rows["none"])).all()
    assert set(map(str, rows["roi_order"])) == {"schaefer400-7net+tian-s3+buckner7"}
    assert list(rows["t_r"]) == [2.0] * 5
    np.testing.assert_array_equal(rows[1]["signals"].reshape(457, 117), values[1, :, :117])


def test_lengths_and_subjects_choose(tmp_path: Path) -> None:
    write(tmp_path / "scans.h5", ts_len=True)
    np.save(tmp_path / "ids.npy", np.array(["sub-a", "sub-b"]))
    rows = build(tmp_path / "scans.h5", tmp_path, subjects=tmp_path / "ids.npy")
    assert [str(name) for name in rows["subject"]] == ["sub-b", "sub-a", "sub-a", "sub-b"]
    assert list(rows["n_timepoints"]) == [100, 117, 90, 130]


def test_splits_are_files(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5", n_scans=3)
    builder = SemantoksHDF5Builder(
        {"train": [tmp_path / "a.h5", tmp_path / "b.h5"], "test": tmp_path / "b.h5"}, cache_dir=tmp_path / "cache"
    )
    builder.download_and_prepare()
    dataset = builder.as_dataset()
    assert (len(dataset["train"]), len(dataset["test"])) == (8, 3)


def test_a_row_reaches_the_model(tmp_path: Path) -> None:
    write(tmp_path / "scans.h5")
    rows = build(tmp_path / "scans.h5", tmp_path)
    config = bt.load_config(
        "brain-semantoks-base", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    collator = bt.ScanCollator(bt.ROISeriesFeatureExtractor.from_model_config(config))
    with pytest.warns(UserWarning, match="NaN"):
        batch = collator([rows[0], rows[1], rows[2]])
    output = bt.BrainSemantoksModel(config).eval()(**batch)
    assert output.pooler_output.shape == (3, 64)
    assert bool(output.pooler_output.isfinite().all())


def test_cortex_alone_has_a_name_and_other_atlases_need_one(tmp_path: Path) -> None:
    write(tmp_path / "cortex.h5", {"schaefer400": 400})
    with SemantoksRecordings(tmp_path / "cortex.h5") as recordings:
        assert recordings.roi_order == "schaefer400-7net"
        assert len(recordings) == 5
        assert recordings[1].signals.shape == (400, 130)
    write(tmp_path / "small.h5", {"schaefer400": 14, "tian3": 4})
    with pytest.raises(ROISeriesReadError, match="roi_order"):
        build(tmp_path / "small.h5", tmp_path)
    rows = build(tmp_path / "small.h5", tmp_path, roi_order=[f"roi-{row}" for row in range(18)])
    assert rows[0]["n_rois"] == 18


def test_files_of_another_layout_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        build(tmp_path / "absent.h5", tmp_path)
    (tmp_path / "text.h5").write_text("not an HDF5 file")
    with pytest.raises(ROISeriesReadError, match=r"text\.h5"):
        build(tmp_path / "text.h5", tmp_path)
    write(tmp_path / "scans.h5")
    with pytest.raises(ROISeriesReadError, match="gordon333"):
        build(tmp_path / "scans.h5", tmp_path, atlases=["gordon333"])
    with h5py.File(tmp_path / "scans.h5", "a") as file:
        del file["long_subject_id"]
        file["long_subject_id"] = np.array([b"sub-a"])
    with pytest.raises(ROISeriesReadError, match="number of scans"):
        build(tmp_path / "scans.h5", tmp_path)


def test_files_of_other_atlases_and_orders_are_not_joined(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5", sizes={"schaefer400": 400})
    for order in ("ab", "ba"):
        with pytest.raises(ROISeriesReadError, match=r"\.h5: expected 4\d\d parcels in the order of .*, got 4\d\d"):
            SemantoksHDF5Builder([tmp_path / f"{name}.h5" for name in order], cache_dir=tmp_path / "cache")
    with pytest.raises(ROISeriesReadError, match="expected 400 parcels in the order of schaefer400-7net, got 457"):
        SemantoksHDF5Builder(tmp_path / "a.h5", roi_order="schaefer400-7net", cache_dir=tmp_path / "cache")
    with pytest.raises(ValueError, match=r"between 0\.05 and 30"):
        SemantoksHDF5Builder(tmp_path / "a.h5", t_r=2000, cache_dir=tmp_path / "cache")


def test_wanted_subjects_and_labels_that_are_not_there_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match=r"None of the 2 subjects.*there are sub-a, sub-b, sub-c"):
        SemantoksHDF5Builder(tmp_path / "a.h5", subjects=["a", "b"], **options)
    with pytest.warns(UserWarning, match="1 of 2 subjects that are wanted"):
        SemantoksHDF5Builder(tmp_path / "a.h5", subjects=["sub-a", "x"], **options)
    with pytest.warns(UserWarning, match="No file has labels/gender"):
        SemantoksHDF5Builder(tmp_path / "a.h5", labels=["labels/gender"], **options)
    with pytest.raises(ValueError, match="names of their own"):
        SemantoksHDF5Builder(tmp_path / "a.h5", labels=["labels/sex", "other/sex"], **options)
    with pytest.warns(UserWarning, match="3 subjects are in train and in test"):
        SemantoksHDF5Builder({"train": tmp_path / "a.h5", "test": tmp_path / "a.h5"}, **options)


def test_scans_that_were_never_measured_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for name in SIZES:
            file[f"timeseries/{name}"][2] = np.nan
    with pytest.warns(UserWarning, match="1 scans without a measured timepoint are left out"):
        rows = build(tmp_path / "a.h5", tmp_path)
    assert [str(name) for name in rows["subject"]] == ["sub-b", "sub-a", "sub-a", "sub-b"]
