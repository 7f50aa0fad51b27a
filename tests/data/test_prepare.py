"""`prepare` writes a dataset that loads back, or nothing."""

import numpy as np
import pytest

pytest.importorskip("datasets")

from brain_transformers.cli.main import main
from brain_transformers.data.builders import load_dataset
from brain_transformers.processing.feature_extraction_roi_series import unpack_row
from brain_transformers.processing.roi_orders import roi_labels


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
    assert command(folder, "--output", output, "--roi-order", "aal2-94") == 2
    assert "sub-02_bold.npy" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"study"}
    with pytest.warns(UserWarning, match="1 of 3 files were left out"):
        assert command(folder, "--output", output, "--roi-order", "aal2-94", "--on-error", "skip") == 0
    assert len(load_dataset(output)) == 2
    report = (output / "skipped_files.tsv").read_text().splitlines()
    assert report[0] == "source_file\terror"
    assert report[1].startswith("sub-02_bold.npy\t")


def test_order_is_required_and_may_be_a_file(folder, tmp_path, capsys):
    assert command(folder, "--output", tmp_path / "dataset") == 2
    assert "--roi-order is missing" in capsys.readouterr().err
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


def test_atlas_of_another_size_is_refused_before_reading(tmp_path, capsys):
    nib = pytest.importorskip("nibabel")
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "sub-01_bold.nii.gz").write_bytes(b"")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 3, dtype=np.int32), np.eye(4)), tmp_path / "atlas.nii.gz")
    arguments = ["--output", tmp_path / "dataset", "--roi-order", "aal2-94"]
    assert command(tmp_path / "bids", "--atlas", tmp_path / "atlas.nii.gz", *arguments) == 2
    assert "goes up to label 3, but roi_order has 94" in capsys.readouterr().err
