"""T1 images become rows with a file of a volume: checked once, found wherever the folder goes, and trained on."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")
nib = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

from nilearn.datasets import load_mni152_template  # noqa: E402
from transformers import AutoFeatureExtractor, AutoModel  # noqa: E402

import brain_transformers as bt  # noqa: E402
from brain_transformers.cli.main import main  # noqa: E402
from brain_transformers.data import read_t1  # noqa: E402
from brain_transformers.data.errors import ROISeriesReadError  # noqa: E402
from brain_transformers.data.t1_volumes import T1FolderBuilder, write_volume  # noqa: E402
from brain_transformers.processing.structural import CROPPED_SHAPE, MNI_AFFINE, MNI_SHAPE  # noqa: E402
from brain_transformers.training.run_settings import rows_digest  # noqa: E402

SMALL = (20, 24, 20)


@pytest.fixture(scope="module")
def brain() -> Any:
    """The brain of MNI152 at 3 mm, which is resampled."""
    return load_mni152_template(resolution=3)


@pytest.fixture(scope="module")
def on_grid(brain: Any) -> np.ndarray:
    """A brain of whole numbers on the grid of MNI152 at 1 mm."""
    checked = bt.T1FeatureExtractor().check(brain, "the template")
    values = np.zeros(MNI_SHAPE, np.int16)
    values[6:173, 2:214, :160] = np.rint(700 * checked.values)
    return values


def save(path: Path, values: np.ndarray, affine: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 4)
    nib.save(image, path)
    return path


def name(subject: int, suffix: str = "desc-brain_T1w") -> str:
    return f"sub-{subject:02d}/anat/sub-{subject:02d}_space-MNI152NLin6Asym_{suffix}.nii.gz"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, brain: Any, on_grid: np.ndarray) -> Path:
    """Six people, of whom every second one's brain is brighter in front; the last is on the grid of 1 mm."""
    root = tmp_path_factory.mktemp("t1") / "study"
    front = np.arange(brain.shape[1])[:, None] / brain.shape[1]
    for subject in range(5):
        values = (600 + 20 * subject) * np.asarray(brain.dataobj) * (1 + 0.4 * (subject % 2) * front)
        save(root / name(subject), values.astype(np.float32), brain.affine)
    save(root / name(5), on_grid, MNI_AFFINE)
    people = [f"sub-{subject:02d}\t{30 + 5 * subject}\t{'FM'[subject % 2]}" for subject in range(6)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *people]) + "\n")
    return root


@pytest.fixture(scope="module")
def prepared(made: Path) -> Path:
    assert main(["prepare", str(made), "--kind", "t1", "--output", str(made.with_name("dataset"))]) == 0
    return made.with_name("dataset")


def test_rows_give_what_their_images_give(made: Path, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "elsewhere", copy_function=os.link)
    rows = bt.load_dataset(tmp_path / "elsewhere")
    assert rows.column_names[:5] == ["t1", "shape", "dtype", "mean", "deviation"]
    assert list(rows.with_format(None)["age"]) == [30, 35, 40, 45, 50, 55]
    assert list(rows.with_format(None)["dtype"]) == ["float32"] * 5 + ["int16"]
    assert all(Path(file).parent == tmp_path / "elsewhere" / "scans" for file in rows["t1"])
    extractor = bt.T1FeatureExtractor()
    for number in (0, 5):
        expected = extractor(nib.load(made / name(number)))["t1_volumes"]
        np.testing.assert_allclose(extractor(rows[number])["t1_volumes"], expected, atol=1e-6, rtol=1e-6)
    small = bt.T1FeatureExtractor(image_size=SMALL)
    together = small(rows[:2])["t1_volumes"]
    alone = [small(rows[number])["t1_volumes"] for number in (0, 1)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)
    batch = bt.ScanCollator(small, label_column="age")([rows[4], rows[5]])
    assert batch["t1_volumes"].shape == (2, 1, *SMALL)
    assert batch["labels"].tolist() == [50, 55]


def test_files_that_are_gone_or_other_are_named(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "moved", copy_function=os.link)
    rows = bt.load_dataset(tmp_path / "moved")
    extractor = bt.T1FeatureExtractor()
    with pytest.raises(ValueError, match=r"scan 00 .* are not at .*sub-00.*prepare it again"):
        extractor({**rows[0], "t1": str(tmp_path / "sub-00.npy")})
    with pytest.raises(ValueError, match=r"brain_transformers\.load_dataset, which knows"):
        extractor({**rows[0], "t1": "scans/000000-sub-00.npy"})
    with pytest.raises(ValueError, match="Expected int16"):
        extractor({**rows[0], "dtype": "int16"})
    with pytest.raises(ValueError, match=r"Expected \(167, 212, 160\) voxels"):
        extractor({**rows[0], "shape": [4, 4, 4]})
    with pytest.raises(ValueError, match="without mean"):
        extractor({key: value for key, value in rows[0].items() if key != "mean"})
    Path(rows[0]["t1"]).unlink()
    Path(rows[0]["t1"]).write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="cannot be read"):
        extractor(rows[0])
    Path(rows[0]["t1"]).unlink()
    with pytest.raises(ROISeriesReadError, match="1 of 6 files with scans are not there"):
        bt.load_dataset(tmp_path / "moved")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("deviation", 0.0, "deviations that are not above 0"),
        ("mean", float("nan"), "no numbers"),
        ("dtype", "object", "volumes of type 'object'"),
        ("shape", [1, 2, 3], r"volumes of shape \[1, 2, 3\]"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    prepared: Path, tmp_path: Path, column: str, value: Any, message: str
) -> None:
    rows = datasets.load_from_disk(str(prepared)).with_format(None)
    changed = rows.map(lambda row: {column: value}, load_from_cache_file=False, features=rows.features)
    changed.save_to_disk(str(tmp_path / "changed"))
    with pytest.raises(ROISeriesReadError, match=message):
        bt.load_dataset(tmp_path / "changed")


def test_a_run_knows_its_volumes_and_not_their_place(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "moved", copy_function=os.link)
    here, there = (bt.load_dataset(folder).select([0, 5]) for folder in (prepared, tmp_path / "moved"))
    assert rows_digest(here) == rows_digest(there)
    file = Path(there[0]["t1"])
    values = np.load(file)
    file.unlink()  # linked to the other one
    np.save(file, values + 1)
    assert rows_digest(here) != rows_digest(there)


def test_volumes_are_written_once_and_as_small_as_they_can_be(made: Path, tmp_path: Path) -> None:
    for values, dtype in (
        (np.array([[[0, 255.0]]]), "uint8"),
        (np.array([[[-1, 255.0]]]), "int16"),
        (np.array([[[0, 40_000.0]]]), "float32"),
        (np.array([[[0, 0.5]]]), "float32"),
    ):
        assert write_volume(tmp_path / "one.npy", values) == {"shape": [1, 1, 2], "dtype": dtype}
        np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), values)
    options: dict[str, Any] = {"volumes_folder": tmp_path / "volumes", "pattern": "sub-0[05]/**/*.nii.gz"}
    for attempt in range(2):
        builder = T1FolderBuilder(made, cache_dir=tmp_path / f"cache{attempt}", **options)
        builder.download_and_prepare()
        files = sorted((tmp_path / "volumes").glob("*.npy"))
        times = [file.stat().st_mtime_ns for file in files]
        if not attempt:
            first = times
    assert len(files) == 2
    assert times == first
    assert np.load(files[0], mmap_mode="r").shape == CROPPED_SHAPE


def test_a_head_loses_its_skull_by_a_mask(brain: Any, tmp_path: Path, capsys) -> None:
    values = np.asarray(brain.dataobj)
    head = (values + 0.5).astype(np.float32)
    path = save(tmp_path / "study" / name(0, "desc-preproc_T1w"), head, brain.affine)
    with pytest.raises(ROISeriesReadError, match=r"expected its brain mask .*_desc-brain_mask\.nii\.gz beside it"):
        read_t1(path, brain_mask="beside")
    arguments = ["prepare", str(tmp_path / "study"), "--kind", "t1", "--output", str(tmp_path / "dataset")]
    assert main(arguments) == 2
    assert "--brain-mask" in capsys.readouterr().err
    save(tmp_path / "study" / name(0, "desc-brain_mask"), (values > 0.1).astype(np.uint8), brain.affine)
    np.testing.assert_array_equal(
        np.asarray(read_t1(path, brain_mask="beside").dataobj), np.where(values > 0.1, head, 0)
    )
    assert main([*arguments, "--brain-mask", "beside"]) == 0
    assert main([*arguments, "--brain-mask", "template", "--overwrite"]) == 0
    (row,) = bt.load_dataset(tmp_path / "dataset")
    assert bt.T1FeatureExtractor(image_size=SMALL)(row)["t1_volumes"].std() > 0.5
    assert main([*arguments, "--brain-mask", "mine", "--overwrite"]) == 2
    assert "brain_mask (--brain-mask) to be one of" in capsys.readouterr().err


def test_what_is_no_volume_in_mni152_is_refused(brain: Any, on_grid: np.ndarray, tmp_path: Path, capsys) -> None:
    raw = tmp_path / "raw"
    save(raw / "sub-01/anat/sub-01_T1w.nii.gz", on_grid[::4, ::4, ::4], np.diag([4, 4, 4, 1]))
    (raw / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.8.0"}))
    arguments = ["prepare", str(raw), "--kind", "t1", "--output", str(tmp_path / "dataset")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "none of 1 images is in the template's space" in error
    assert "--output-spaces MNI152NLin6Asym" in error
    for space in ("MNI152NLin6Asym", "MNI152NLin2009cAsym"):
        (raw / f"sub-01/anat/sub-01_space-{space}_T1w.nii.gz").touch()
    assert main(arguments) == 2
    assert 'pattern="**/*space-MNI152NLin6Asym*T1w.nii.gz"' in capsys.readouterr().err
    for flag, message in (("--t-r=2", "--t-r is for scans over time"), ("--n-rois=4", "is for --kind series")):
        assert main([*arguments, flag]) == 2
        assert message in capsys.readouterr().err
    moved = brain.affine.copy()
    moved[2, 3] += 40
    values = np.asarray(brain.dataobj)
    with pytest.raises(ROISeriesReadError, match="expected one volume of real numbers"):
        read_t1(save(tmp_path / "two.nii.gz", np.stack([values, values], axis=3), brain.affine))
    whole = save(tmp_path / "whole.nii", values, brain.affine)
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(whole.read_bytes()[:-1000]))
    with pytest.raises(ROISeriesReadError, match="may be truncated"):
        read_t1(tmp_path / "cut.nii.gz")
    study = tmp_path / "study"
    save(study / name(1), values, brain.affine)
    save(study / name(2), values, moved)
    builder = T1FolderBuilder(study, volumes_folder=tmp_path / "volumes", cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    with pytest.raises(ROISeriesReadError, match=r"(?s)1 of 2 files cannot be used.*registered to MNI152 in .*sub-02"):
        builder.as_dataset()


@pytest.mark.filterwarnings("ignore")
def test_every_command_takes_them(prepared: Path, tmp_path: Path, capsys) -> None:
    once = ["--use-cpu", "--per-device-train-batch-size", "2", "--max-steps", "1"]
    pretrained, tuned, table = (str(tmp_path / name) for name in ("pretrained", "tuned", "table.parquet"))
    dataset = ["--dataset", str(prepared)]
    assert main(["pretrain", "--model", "harmonix-s-tiny", *dataset, "--output", pretrained, *once]) == 0
    assert type(AutoModel.from_pretrained(pretrained)).__name__ == "HarmonixSModel"
    assert AutoFeatureExtractor.from_pretrained(pretrained).image_size == list(SMALL)
    assert main(["finetune", "--model", pretrained, *dataset, "--label", "sex", "--output", tuned, *once]) == 0
    assert json.loads((tmp_path / "tuned" / "config.json").read_text())["id2label"] == {"0": "F", "1": "M"}
    assert main(["embed", str(prepared), "--model", pretrained, "--output", table]) == 0
    assert main(["probe", table, "--label", "age"]) == 0
    assert "6 rows" in capsys.readouterr().out
