"""`prepare` writes a dataset that loads back, or nothing."""

import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("datasets")

from brain_transformers.atlases.roi_orders import roi_labels
from brain_transformers.cli.main import main
from brain_transformers.data.builders import load_dataset
from brain_transformers.files import locked
from brain_transformers.processing.rows import unpack_row


def command(*arguments):
    return main(["prepare", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "study"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in (1, 2, 3):
        np.save(root / f"sub-{number:02d}_bold.npy", rng.normal(size=(94, 40 + number)).astype(np.float32))
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t20\nsub-02\t30\nsub-03\t40\n")
    return root


def test_folder_of_series(folder, tmp_path, capsys):
    output = tmp_path / "dataset"
    assert command(folder, "--output", output, "--roi-order", "aal2-94", "--t-r", 0.72) == 0
    dataset = load_dataset(output)
    assert [int(age) for age in dataset["age"]] == [20, 30, 40]
    for row in dataset:
        signals, roi_order, t_r = unpack_row(row)
        np.testing.assert_array_equal(signals, np.load(folder / str(row["source_file"])))
        assert (roi_order, t_r) == ("aal2-94", 0.72)
    said = capsys.readouterr().out
    assert "3 scans of 3 subjects, 94 ROIs, 41 to 43 timepoints" in said
    assert str(output) in said
    # Nothing but the dataset is left behind.
    assert {path.name for path in tmp_path.iterdir()} == {"study", "dataset"}


def test_existing_output_is_kept_unless_told(folder, tmp_path, capsys):
    output = tmp_path / "dataset"
    output.mkdir()
    (output / "mine.txt").write_text("keep")
    assert command(folder, "--output", output, "--roi-order", "aal2-94") == 2
    assert "exists" in capsys.readouterr().err
    assert (output / "mine.txt").read_text() == "keep"
    assert command(folder, "--output", output, "--roi-order", "aal2-94", "--overwrite") == 2
    assert "no dataset that an earlier call wrote" in capsys.readouterr().err
    (output / "mine.txt").unlink()
    assert command(folder, "--output", output, "--roi-order", "aal2-94", "--t-r", 1.5, "--overwrite") == 0
    assert command(folder, "--output", output, "--roi-order", "aal2-94", "--t-r", 0.5, "--overwrite") == 0
    assert [float(row["t_r"]) for row in load_dataset(output)] == [0.5] * 3


def test_scans_are_never_overwritten(folder, capsys):
    files = sorted(path.name for path in folder.iterdir())
    for output in (folder, folder.parent):
        assert command(folder, "--output", output, "--roi-order", "aal2-94", "--overwrite") == 2
        assert "would delete" in capsys.readouterr().err
    (folder / "dataset_dict.json").write_text("{}")  # even where the scans lie in what looks like a dataset
    assert command(folder, "--output", folder, "--roi-order", "aal2-94", "--overwrite") == 2
    (folder / "dataset_dict.json").unlink()
    assert sorted(path.name for path in folder.iterdir()) == files


def test_subjects_in_several_splits_are_said(folder, tmp_path, capsys):
    root = tmp_path / "splits"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for name in ("sub-01_bold.npy", f"sub-0{2 + (split == 'test')}_bold.npy"):
            (root / split / name).write_bytes((folder / name).read_bytes())
    assert command(root, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 0
    assert "1 subjects are in several splits (first 01: test, train)" in capsys.readouterr().out


def test_bad_files_stop_it_or_are_reported(folder, tmp_path, capsys):
    (folder / "sub-02_bold.npy").write_bytes(b"x")
    output = tmp_path / "dataset"
    assert command(folder, "--output", output, "--roi-order", "aal2-94", "--on-error", "raise") == 2
    assert "sub-02_bold.npy" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"study"}
    with pytest.warns(UserWarning, match="1 of 3 files were left out"):
        assert command(folder, "--output", output, "--roi-order", "aal2-94", "--strict") == 1  # written nevertheless
    assert len(load_dataset(output)) == 2
    report = (output / "skipped_files.tsv").read_text().splitlines()
    assert report[0] == "source_file\terror"
    assert report[1].startswith("sub-02_bold.npy\t")


def test_order_is_required_and_may_be_a_file(folder, tmp_path, capsys):
    assert command(folder, "--output", tmp_path / "dataset") == 2
    assert "(--roi-order) is missing" in capsys.readouterr().err
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(roi_labels("aal2-94")) + "\n")
    assert command(folder, "--output", tmp_path / "dataset", "--roi-order", labels) == 0
    assert load_dataset(tmp_path / "dataset", roi_order=list(roi_labels("aal2-94"))).num_rows == 3


def test_bold_images_with_an_atlas(tmp_path):
    nib = pytest.importorskip("nibabel")
    pytest.importorskip("nilearn")
    affine = np.diag([4.0, 4, 4, 1])
    labels = np.zeros((8, 8, 8), dtype=np.int32)
    labels[1:4], labels[5:8] = 1, 2
    series = np.random.default_rng(0).normal(size=(2, 2, 15)).astype(np.float32)
    root = tmp_path / "bids"
    for number in (1, 2):
        place = root / f"sub-{number:02d}" / "func"
        place.mkdir(parents=True)
        bold = np.zeros((8, 8, 8, 15), dtype=np.float32)
        for label in (1, 2):
            bold[labels == label] = series[number - 1, label - 1]
        image = nib.Nifti1Image(bold, affine)
        image.header.set_zooms((4, 4, 4, 2.0))
        nib.save(image, place / f"sub-{number:02d}_task-rest_run-1_bold.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "atlas.nii.gz")
    (tmp_path / "labels.txt").write_text("left\nright\n")
    arguments = ["--output", tmp_path / "dataset", "--roi-order", tmp_path / "labels.txt"]
    assert command(root, "--atlas", tmp_path / "atlas.nii.gz", *arguments) == 0
    dataset = load_dataset(tmp_path / "dataset")
    assert list(dataset["subject"]) == ["01", "02"]
    for row, expected in zip(dataset, series):
        signals, _, t_r = unpack_row(row)
        np.testing.assert_allclose(signals, expected, rtol=1e-5)
        assert t_r == 2.0


def test_bold_images_are_cleaned_by_flags(tmp_path, capsys):
    nib, pd = pytest.importorskip("nibabel"), pytest.importorskip("pandas")
    pytest.importorskip("nilearn")
    affine, rng = np.diag([4.0, 4, 4, 1]), np.random.default_rng(0)
    labels = np.zeros((8, 8, 8), dtype=np.int16)
    labels[1:4], labels[5:8] = 2001, 2002
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "atlas.nii.gz")
    (tmp_path / "names.csv").write_text("id,name\n2001,left\n2002,right\n")
    func, stem = tmp_path / "fmriprep" / "sub-01" / "func", "sub-01_task-rest"
    func.mkdir(parents=True)
    motion = pd.DataFrame({f"{kind}_{axis}": rng.normal(size=60) for kind in ("trans", "rot") for axis in "xyz"})
    bold = 1000 + rng.normal(size=(8, 8, 8, 60)) + 50 * motion["rot_x"].to_numpy()
    bold[1:3] = 0  # most of the left parcel was not seen
    image = nib.Nifti1Image(bold.astype(np.float32), affine)
    image.header.set_zooms((4, 4, 4, 2.0))
    nib.save(image, func / f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
    motion.to_csv(func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    (func / f"{stem}_desc-confounds_timeseries.json").write_text("{}")

    def prepared(name, *flags):
        atlas = ["--atlas", tmp_path / "atlas.nii.gz", "--atlas-names", tmp_path / "names.csv"]
        assert command(tmp_path / "fmriprep", "--output", tmp_path / name, *atlas, *flags) == 0
        row = load_dataset(tmp_path / name, roi_order=["left", "right"])[0]
        return row["signals"].reshape(2, 60)

    plain = prepared("plain")
    assert "  cleaned: " not in capsys.readouterr().out
    assert np.isnan(plain[0]).all()
    assert abs(np.corrcoef(plain[1], motion["rot_x"])[0, 1]) > 0.9
    flags = ["--confounds", "motion", "motion=basic", "--standardize", "zscore_sample", "--min-coverage", 0.3]
    cleaned = prepared("cleaned", *flags)
    assert "  cleaned: 6 confounds, standardized (zscore_sample)\n" in capsys.readouterr().out
    prepared("filtered", "--high-pass", 0.01, "--low-pass", 0.1, "--detrend")
    assert "  cleaned: high-pass 0.01 Hz, low-pass 0.1 Hz, detrended\n" in capsys.readouterr().out
    assert np.abs(np.corrcoef(cleaned, motion["rot_x"])[:2, 2]).max() < 1e-3
    np.testing.assert_allclose(cleaned.std(axis=1, ddof=1), 1, rtol=1e-4)


def test_atlas_of_another_size_is_refused_before_reading(tmp_path, capsys):
    nib = pytest.importorskip("nibabel")
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "sub-01_bold.nii.gz").write_bytes(b"")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 3, dtype=np.int32), np.eye(4)), tmp_path / "atlas.nii.gz")
    arguments = ["--output", tmp_path / "dataset", "--roi-order", "aal2-94"]
    assert command(tmp_path / "bids", "--atlas", tmp_path / "atlas.nii.gz", *arguments) == 2
    assert "goes up to label 3, but roi_order has 94" in capsys.readouterr().err


def scans(root, *names, n_rois=94):
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, rng.normal(size=(n_rois, 30)).astype(np.float32))
    return root


def test_the_report_counts_what_is_in_the_dataset(folder, tmp_path, capsys):
    scans(folder, "sub-04_ses-a_task-rest_bold.npy", "sub-04_ses-b_task-nback_bold.npy", "group_correlation.npy")
    (folder / "sub-01_bold.npy").write_bytes(b"x")
    (folder / "sub-03_bold.json").write_text('{"RepetitionTime": 2.0}')
    (folder / "sub-04_ses-a_task-rest_bold.json").write_text('{"RepetitionTime": 0.8}')
    options = ("--output", tmp_path / "dataset", "--roi-order", "aal2-94", "--on-error", "skip")
    with pytest.warns(UserWarning, match="differ in their repetition time: 1 have 2 s, 1 have 0.8 s, 2 have none"):
        assert command(folder, *options) == 0
    said = capsys.readouterr().out
    # sub-01 cannot be read: it counts nowhere, and its row of the table has no scan.
    assert "4 scans of 3 subjects, 94 ROIs, 30 to 43 timepoints" in said
    assert "sessions: none (2 scans), a (1 scan), b (1 scan)" in said
    assert "tasks: none (2 scans), rest (1 scan), nback (1 scan)" in said
    assert "t_r: 0.8 to 2 s (from the files), 2 scans without" in said
    assert "\nwarning: 2 scans without a repetition time, which models take to be their own" in said
    assert "1 of 3 people in the participants table have no scan" in said
    assert "2 files were left out" in said
    assert "1: cannot be used (first: sub-01_bold.npy)" in said
    report = (tmp_path / "dataset" / "skipped_files.tsv").read_text()
    assert "group_correlation.npy\tno series of ROIs by its name: correlation" in report


def test_one_person_with_two_sessions_is_one_without_a_row(tmp_path, capsys):
    root = scans(tmp_path / "scans", "sub-06_ses-pre_bold.npy", "sub-06_ses-post_bold.npy", "sub-07_bold.npy")
    (root / "participants.tsv").write_text("participant_id\tage\nsub-07\t40\n")
    with pytest.warns(UserWarning, match=r"^1 subject without a row .*06 \(session post\), 06 \(session pre\)\)"):
        assert command(root, "--output", tmp_path / "dataset", "--roi-order", "aal2-94", "--t-r", 2) == 0
    said = capsys.readouterr().out
    assert "3 scans of 2 subjects" in said
    assert "warning" not in said


def test_files_that_count_as_people_are_said_and_marked(tmp_path, capsys):
    root = scans(tmp_path / "scans", "a.npy", "b.npy")
    with pytest.warns(UserWarning, match="each of these files counts as a person"):
        assert command(root, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 0
    assert "2 scans of 2 subjects (2 files count as a person each" in capsys.readouterr().out
    assert not any(load_dataset(tmp_path / "dataset")["subject_known"])
    root = scans(tmp_path / "runs", "P1_a.npy", "P1_b.npy", "P2_a.npy")
    assert command(root, "--output", tmp_path / "other", "--roi-order", "aal2-94") == 2
    said = capsys.readouterr().err
    assert "several of one person" in said
    assert "--name-pattern" in said


def test_every_file_that_cannot_be_read_is_named_and_costs_the_others_nothing(folder, tmp_path, capsys):
    text = "\n".join("\t".join(map(str, row)) for row in np.random.default_rng(0).normal(size=(20, 94)))
    damaged = bytearray(gzip.compress(text.encode()))
    damaged[300] ^= 0xFF
    (folder / "sub-11_bold.tsv.gz").write_bytes(damaged)
    (folder / "sub-12_bold.tsv").write_text("\n \n")
    (folder / "sub-13\ttab_bold.npy").write_bytes(b"no array")
    (folder / "sub-14_bold.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    (folder / "sub-15_bold.npz").write_bytes(b"PK\3\4")
    options = ("--output", tmp_path / "dataset", "--roi-order", "aal2-94")
    assert command(folder, *options, "--on-error", "raise") == 2
    said = capsys.readouterr().err
    assert "5 of 8 files cannot be used" in said
    assert all(f"sub-{number}" in said for number in range(11, 16))
    with pytest.warns(UserWarning, match="5 of 8 files were left out"):
        assert command(folder, *options) == 0
    assert len(load_dataset(tmp_path / "dataset")) == 3
    rows = (tmp_path / "dataset" / "skipped_files.tsv").read_text().splitlines()
    assert all(row.count("\t") == 1 for row in rows)
    assert any(row.startswith(r"sub-13\ttab_bold.npy") for row in rows)


def test_what_a_reader_did_not_foresee_names_its_file(folder, tmp_path, capsys, monkeypatch):
    from brain_transformers.data import builders

    read = builders.read_roi_series

    def broken(path, **options):
        if path.name.startswith("sub-02"):
            raise RecursionError("too deep")
        return read(path, **options)

    monkeypatch.setattr(builders, "read_roi_series", broken)
    options = ("--output", tmp_path / "dataset", "--roi-order", "aal2-94", "--on-error", "raise")
    assert command(folder, *options) == 2
    assert "sub-02_bold.npy: cannot be read; it may be damaged (RecursionError: too deep)" in capsys.readouterr().err


def test_matrices_are_no_scans_whatever_their_name(folder, tmp_path, capsys):
    matrix = np.corrcoef(np.random.default_rng(0).normal(size=(94, 200)))
    np.save(folder / "sub-05_bold.npy", matrix)
    np.save(folder / "sub-06_bold.npy", np.arctanh(matrix - np.eye(94)))
    np.save(folder / "sub-07_bold.npy", np.triu(np.random.default_rng(0).normal(size=(94, 94))))
    assert command(folder, "--output", tmp_path / "dataset", "--roi-order", "aal2-94", "--time-axis", 0) == 2
    said = capsys.readouterr().err
    assert "sub-05_bold.npy: expected a series in time, got a correlation matrix of 94 ROIs" in said
    assert "sub-06_bold.npy: expected a series in time, got a symmetric matrix of 94 ROIs" in said
    assert "sub-07_bold.npy: expected a series in time, got a matrix of 94 ROIs" in said


@pytest.mark.parametrize("value", ["720", "72", "0", "-1", "nan"])
def test_repetition_times_that_cannot_be_are_refused(folder, tmp_path, capsys, value):
    assert command(folder, "--output", tmp_path / "dataset", "--roi-order", "aal2-94", "--t-r", value) == 2
    assert "--t-r" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"study"}


def test_a_flag_that_contradicts_a_sidecar_is_an_error_that_names_both(folder, tmp_path, capsys):
    (folder / "sub-02_bold.json").write_text('{"RepetitionTime": 2.0}')
    options = ("--output", tmp_path / "dataset", "--roi-order", "aal2-94", "--on-error", "raise", "--t-r")
    assert command(folder, *options, "0.72") == 2
    said = capsys.readouterr().err
    assert "1 of 3 files" in said
    assert "sub-02_bold.npy: expected one repetition time, got t_r=0.72 s (--t-r) and 2 s from its sidecar" in said
    assert command(folder, *options, "2") == 0


def test_slips_of_a_newcomer_are_named(folder, tmp_path, capsys):
    table = tmp_path / "people.tsv"
    table.write_text("Subject\tAge\n100307\t26\n")
    options = ("--roi-order", "aal2-94", "--output", tmp_path / "dataset")
    assert command(table, *options) == 2
    assert f"people.tsv is a file; give the folder with the scans, such as {tmp_path}" in capsys.readouterr().err
    assert command(folder, *options, "--participants", table) == 2
    assert "Rename the column Subject to participant_id." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(folder, *options, "--tr", "0.72")
    assert "unrecognized arguments: --tr 0.72; did you mean --t-r?" in capsys.readouterr().err


def test_misspelt_orders_are_no_new_ones(folder, tmp_path, capsys):
    options = (folder, "--output", tmp_path / "dataset", "--n-rois", 94, "--roi-order")
    for order in ("aal2_94", "AAL2-94", "aal-94"):
        assert command(*options, order) == 2
        assert "Did you mean aal2-94?" in capsys.readouterr().err
    assert command(*options[:3], "--roi-order", "schaefer400") == 2
    assert "Did you mean schaefer400-7net or schaefer400-17net?" in capsys.readouterr().err
    assert command(*options, "labels.txt") == 2
    assert "expected a text file with one label a line" in capsys.readouterr().err
    assert command(*options[:3], "--roi-order", "my-parcels") == 2
    assert "is not known" in capsys.readouterr().err
    assert command(*options, "schaefer94-7net") == 0


def test_participants_that_match_no_scan_are_refused(folder, tmp_path, capsys):
    (folder / "participants.tsv").write_text("participant_id\tage\n1\t20\n2\t30\n")
    assert command(folder, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 2
    said = capsys.readouterr().err
    assert "none of 3 scans has a row in it. The scans are of 01, 02, 03; the table has 1, 2" in said
    assert "1 of the table may be 01" in said


def test_scans_get_the_values_of_their_session(tmp_path, capsys):
    root = scans(tmp_path / "study", *(f"sub-0{n}_ses-{s}_bold.npy" for n in (1, 2) for s in ("pre", "post")))
    lines = ["participant_id\tses\tage\tsex", "01\tpre\t20\t1", "01\tpost\t21\t1", "02\tses-pre\t30\tn/a"]
    (root / "participants.tsv").write_text("\n".join([*lines, "sub-02\tpost\t31\t0", ""]))
    assert command(root, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 0
    rows = load_dataset(tmp_path / "dataset").with_format(None)
    told = zip(rows["subject"], rows["session"], rows["age"], rows["sex"])
    assert list(told) == [("01", "post", 21, 1), ("01", "pre", 20, 1), ("02", "post", 31, 0), ("02", "pre", 30, None)]
    assert rows.features["sex"].dtype == "int64"
    scans(root, "sub-01_bold.npy")
    assert command(root, "--output", tmp_path / "other", "--roi-order", "aal2-94", "--on-error", "raise") == 2
    assert "sub-01_bold.npy: its name says no session" in capsys.readouterr().err


def test_replacing_keeps_what_is_not_ours_and_links(folder, tmp_path):
    place, link = tmp_path / "place", tmp_path / "link"
    options = ("--output", link, "--roi-order", "aal2-94")
    link.symlink_to(place)
    assert command(folder, *options) == 0
    (place / "notes.txt").write_text("mine")
    (place / "sub-09_bold.npy").write_bytes((folder / "sub-01_bold.npy").read_bytes())
    (folder / "sub-09_bold.npy").symlink_to(place / "sub-09_bold.npy")  # a scan behind a link into the output
    with pytest.warns(UserWarning, match="1 subject without a row"):
        assert command(folder, *options, "--overwrite") == 0
    assert link.is_symlink()
    assert len(load_dataset(link)) == 4
    assert (place / "notes.txt").read_text() == "mine"
    assert (folder / "sub-09_bold.npy").is_file()
    splits = scans(tmp_path / "splits", "train/sub-01.npy", "test/sub-02.npy")
    assert command(splits, *options, "--overwrite") == 0
    assert not list(place.glob("*.arrow"))  # of the earlier dataset, which had no splits
    assert set(load_dataset(link)) == {"train", "test"}


def test_a_killed_run_leaves_the_old_dataset_and_the_next_cleans_up(folder, tmp_path):
    output = tmp_path / "dataset"
    options = ["--output", str(output), "--roi-order", "aal2-94"]
    assert command(folder, *options) == 0
    scans(folder, *(f"sub-{number}_bold.npy" for number in range(10, 40)))
    code = "import sys; from brain_transformers.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "prepare", str(folder), *options, "--overwrite"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(3000):
        # Once it writes beside the old dataset; it cannot be done by then.
        if list(tmp_path.glob(".dataset.partial-*")) or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(load_dataset(output)) == 3
    with pytest.warns(UserWarning, match="30 subjects without a row"):
        assert command(folder, *options, "--overwrite") == 0
    assert len(load_dataset(output)) == 33
    assert {path.name for path in tmp_path.iterdir() if "lock" not in path.name} == {"study", "dataset"}


def test_an_atlas_that_cannot_be_fetched_is_one_line(tmp_path, capsys, monkeypatch):
    nilearn_datasets = pytest.importorskip("nilearn.datasets")
    root = tmp_path / "bids"
    root.mkdir()
    (root / "sub-01_space-MNI152NLin6Asym_bold.nii.gz").write_bytes(b"")

    def fetch(**options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(nilearn_datasets, "fetch_atlas_schaefer_2018", fetch)
    assert command(root, "--output", tmp_path / "dataset", "--atlas", "schaefer400-7net") == 2
    assert "could not be downloaded (ConnectionError: no route to host)" in capsys.readouterr().err
    options = ("--output", tmp_path / "dataset", "--atlas", "schaefer400-7net", "--roi-order", "schaefer400-17net")
    assert command(root, *options) == 2
    assert "in the order of its name" in capsys.readouterr().err


def test_names_that_are_no_text_are_left_out(folder, tmp_path, capsys):
    try:
        os.close(os.open(os.fsencode(folder) + b"/sub-\xe9_bold.npy", os.O_CREAT))
    except OSError:
        pytest.skip("this file system has names of text only")
    with pytest.warns(UserWarning, match="not UTF-8"):
        assert command(folder, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 0
    assert "not UTF-8; rename it" in capsys.readouterr().out


def test_a_table_that_is_near_and_not_used_is_said(folder, tmp_path):
    derivatives = scans(folder / "derivatives" / "series", "sub-01_bold.npy")
    with pytest.warns(UserWarning, match=r"participants\.tsv is not used.*--participants"):
        assert command(derivatives, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 0


def test_a_second_run_into_the_same_folder_is_told_who_holds_it(folder, tmp_path, capsys):
    with locked(tmp_path / "dataset", "preparing a dataset"):
        assert command(folder, "--output", tmp_path / "dataset", "--roi-order", "aal2-94") == 2
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "dataset").exists()
