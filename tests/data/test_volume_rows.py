"""4-D images become rows with a file of frames: checked by headers, written once, found wherever the folder goes."""

import gzip
import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

datasets = pytest.importorskip("datasets")
nib = pytest.importorskip("nibabel")

import brain_transformers as bt  # noqa: E402
from brain_transformers.cli.main import main, run  # noqa: E402
from brain_transformers.data import read_volumes, save_dataset  # noqa: E402
from brain_transformers.data.errors import ROISeriesReadError  # noqa: E402
from brain_transformers.data.volumes import write_frames  # noqa: E402
from brain_transformers.processing.volume_frames import (  # noqa: E402
    ImageFrames,
    LazyScan,
    ScaledFrames,
    normalise_volumes,
    open_frames,
)
from brain_transformers.processing.volumes import MNI_AFFINE, MNI_SHAPE, mni_affine  # noqa: E402
from brain_transformers.training.run_settings import rows_digest  # noqa: E402

SIZE = (28, 24, 24)  # (y, x, z), that of brain-mt-tiny


def bold(n_frames: int = 12, seed: int = 0, size: Any = SIZE) -> np.ndarray:
    """A block of brain that changes over time in a background of 0, `(x, y, z, n_frames)` float32."""
    draw = np.random.default_rng(seed)
    y, x, z = size
    values = np.zeros((x, y, z, n_frames), np.float32)
    inside = values[4:-4, 5:-3, 2:-6]
    inside += draw.normal(1000, 200, inside.shape[:3])[..., None] + draw.normal(0, 20, inside.shape)
    return values


def save(path: Path, values: np.ndarray, affine: Any = None, t_r: float = 0.735) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = mni_affine(SIZE) if affine is None else affine
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], t_r))
    nib.save(image, path)
    return path


def name(subject: int, end: str = ".nii.gz") -> str:
    return f"sub-{subject:02d}/func/sub-{subject:02d}_task-rest_space-MNI152NLin6Asym_desc-preproc_bold{end}"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for subject in range(4):
        save(root / name(subject), bold(10 + subject, seed=subject))
    people = [f"sub-{subject:02d}\t{20 + 10 * subject}\t{'FM'[subject % 2]}" for subject in range(4)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *people]) + "\n")
    return root


def prepare(*arguments: Any) -> int:
    return main(["prepare", *map(str, arguments), "--kind", "volumes"])


def frames_of(row: Any) -> np.ndarray:
    """All frames that a row names, `(x, y, z, n_frames)`."""
    return open_frames(row, "it").in_file_order()


def scaled(values: np.ndarray, *how: str) -> ScaledFrames:
    return ScaledFrames(ImageFrames(LazyScan(values)), *(how or ("zscore", "min")), "it")


SMALL = ("--volume-size", *SIZE)


# --- one image ---


def test_the_orientation_is_that_of_the_affine(tmp_path: Path) -> None:
    values = bold()
    path = save(tmp_path / "las_bold.nii.gz", values)
    image = read_volumes(path, volume_size=SIZE)
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    assert image.header.get_zooms()[3] == pytest.approx(0.735)
    for axes in ("RAS", "PIR", "SLA"):
        turned = nib.load(path).as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt(("L", "A", "S")), nib.orientations.axcodes2ornt(axes)
            )
        )
        other = read_volumes(
            save(tmp_path / f"{axes}_bold.nii", np.asarray(turned.dataobj), turned.affine), volume_size=SIZE
        )
        np.testing.assert_array_equal(np.asarray(other.dataobj), values)
        np.testing.assert_allclose(other.affine, image.affine, atol=1e-4)
    extractor = bt.VolumeFeatureExtractor(volume_size=SIZE, n_frames=12)
    expected = normalise_volumes(values).transpose(3, 1, 0, 2)
    np.testing.assert_allclose(extractor(image)["volumes"][0, :, 0], expected, rtol=1e-5, atol=1e-6)


def test_integers_with_a_scale_are_read_by_it(tmp_path: Path) -> None:
    values = bold()
    image = nib.Nifti1Image(values, mni_affine(SIZE))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "bold.nii.gz")
    assert nib.load(tmp_path / "bold.nii.gz").dataobj.slope != 1
    read = np.asarray(read_volumes(tmp_path / "bold.nii.gz", volume_size=SIZE).dataobj)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values, atol=0.05)


def test_what_lies_in_the_space_of_the_scanner_is_not_resampled(tmp_path: Path) -> None:
    values = bold(3, size=(40, 36, 44))
    image = nib.Nifti1Image(values, np.diag([-3.0, 3, 3, 1]))
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nib.save(image, tmp_path / "sub-01_bold.nii.gz")
    with pytest.raises(ROISeriesReadError, match="scanner's own space"):
        read_volumes(tmp_path / "sub-01_bold.nii.gz", resample=True)
    image.set_sform(image.affine, 4)
    nib.save(image, tmp_path / "sub-02_bold.nii.gz")
    assert read_volumes(tmp_path / "sub-02_bold.nii.gz", resample=True).shape[:3] == MNI_SHAPE


def test_sizes_in_the_order_of_an_image_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / name(1), bold())
    with pytest.raises(ROISeriesReadError, match=r"which is \[y, x, z\]"):
        read_volumes(path, volume_size=[SIZE[1], SIZE[0], SIZE[2]])


def test_other_grids_are_refused_or_resampled(tmp_path: Path) -> None:
    path = save(tmp_path / "coarse_bold.nii.gz", bold(2), np.diag([7.0, 7, 7, 1]))
    with pytest.raises(ROISeriesReadError, match=r"91 x 109 x 91 voxels .*got 24 x 28 x 24.*--resample"):
        read_volumes(path)

    # A ball that lies where it should on any grid.
    def ball(affine: np.ndarray, shape: Any) -> np.ndarray:
        at = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
        return np.exp(-np.square(at - np.array([20, -30, 10])[:, None, None, None]).sum(0) / 900)

    own = np.array([[3.0, 0, 0, -80], [0, 3, 0, -110], [0, 0, 3, -60], [0, 0, 0, 1]])
    frames = ball(own, (54, 64, 50))[..., None] * [100, 80.0]
    path = save(tmp_path / "own_bold.nii.gz", frames.astype(np.float32), own)
    image = read_volumes(path, resample=True)
    assert image.shape == (*MNI_SHAPE, 2)
    np.testing.assert_allclose(image.affine, MNI_AFFINE)
    expected = ball(MNI_AFFINE, MNI_SHAPE)[..., None] * [100, 80.0]
    inside = expected[..., 0] > 20
    np.testing.assert_allclose(np.asarray(image.dataobj)[inside], expected[inside], rtol=0.05)
    small = read_volumes(path, resample=True, volume_size=SIZE)
    np.testing.assert_allclose(small.affine[:3, 3] - np.diag(small.affine)[:3] / 2, [91, -127, -73])
    moved = MNI_AFFINE.copy()
    moved[1, 3] += 8
    path = save(tmp_path / "moved_bold.nii", np.ones((*MNI_SHAPE, 2), np.uint8), moved)
    with pytest.raises(ROISeriesReadError, match=r"grid of MNI152 at 2 mm, got one that is 8 mm away"):
        read_volumes(path)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no direction", "says no direction|affine is not a valid one"),
        ("no space", "declares no space"),
        ("oblique", "oblique"),
        ("one frame", "shape"),
        ("short", "at least 40 frames, got 12"),
        ("zeros", "a brain, got 0 in every voxel"),
        ("NaN", "NaN or infinity"),
        ("constant", "got 1 in every voxel"),
        ("cut off", "cannot be read"),
        ("10 TB", "claims shape"),
        ("bomb", "claims shape"),
        ("endless", "bytes follow"),
        ("complex", "complex64"),
        ("missing", "no such file"),
    ],
)
def test_what_cannot_be_used_is_one_error_that_names_the_file(tmp_path: Path, what: str, words: str) -> None:
    path, values = tmp_path / "sub-01_space-MNI_bold.nii.gz", bold()
    affine = mni_affine(SIZE)
    if what == "oblique":
        affine[:3, :3] = affine[:3, :3] @ [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]
    if what in ("zeros", "constant"):
        values = np.full_like(values, what == "constant")
    if what == "NaN":
        values[5, 5, 5, 5] = np.nan
    save(path, values[..., :1] if what == "one frame" else values, affine)
    content = bytearray(gzip.decompress(path.read_bytes()))
    if what in ("10 TB", "bomb"):
        shape = (30000, 30000, 3000, 1) if what == "10 TB" else (91, 109, 91, 1200)
        content[42:50] = np.array(shape, "<i2").tobytes()
    if what == "no direction":
        content[280:328] = b"\0" * 48  # srow
        content[252:256] = np.array([0, 4], "<i2").tobytes()
    if what == "no space":
        content[252:256] = b"\0" * 4
    if what == "complex":
        content[70:74] = np.array([32, 64], "<i2").tobytes()
        content += bytes(len(content))
    path.write_bytes(gzip.compress(bytes(content), 1))
    if what == "endless":
        with path.open("ab") as stream:
            for _ in range(5):
                stream.write(gzip.compress(bytes(1 << 26), 1))
    if what == "cut off":
        path.write_bytes(path.read_bytes()[:-400])
    if what == "missing":
        path.unlink()
    min_frames = 40 if what == "short" else 2
    tracemalloc.start()
    with pytest.raises(ROISeriesReadError, match=words) as caught:
        read_volumes(path, volume_size=SIZE, min_frames=min_frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak < 1 << 25


# --- a folder ---


def test_a_dataset_is_found_where_its_folder_goes(study: Path, tmp_path: Path, capsys: Any) -> None:
    (study / "task-rest_bold.json").write_text(json.dumps({"RepetitionTime": 0.735}))
    output = tmp_path / "dataset"
    assert prepare(study, "--output", output, *SMALL) == 0
    said = capsys.readouterr().out
    assert "4 scans of 4 subjects, 24 x 28 x 24 voxels (x, y, z), 10 to 13 frames" in said
    assert "as float16, which rounds away up to" in said
    assert {path.name for path in tmp_path.iterdir()} == {"study", "dataset"}
    assert {path.name for path in output.iterdir() if path.is_dir()} == {"scans"}
    rows = bt.load_dataset(output)
    digest = rows_digest(rows)
    for number, row in enumerate(rows):
        values = scaled(bold(10 + number, seed=number)).in_file_order().astype(np.float16)
        np.testing.assert_array_equal(frames_of(row), values)
        np.testing.assert_allclose(normalise_volumes(bold(10 + number, seed=number)), values, rtol=1e-3, atol=1e-6)
        assert row["t_r"] == 0.735
    assert list(rows.with_format(None)["age"]) == [20, 30, 40, 50]

    shutil.move(output, tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "copy")
    shutil.rmtree(tmp_path / "elsewhere")
    moved = bt.load_dataset(tmp_path / "copy")
    assert all(str(row["volumes"]).startswith(str(tmp_path / "copy")) for row in moved)
    extractor = bt.VolumeFeatureExtractor(volume_size=SIZE, n_frames=6)
    assert extractor(moved[0])["volumes"].shape == (1, 6, 1, *SIZE)
    assert extractor(moved[:2])["volumes"].shape == (2, 6, 1, *SIZE)
    # It is the same dataset, until what is in a file changes.
    assert rows_digest(moved) == digest
    frames = np.load(str(moved[1]["volumes"]), mmap_mode="r+")
    frames[3] += np.float16(1)
    frames.flush()
    assert rows_digest(moved) != digest

    with pytest.raises(ValueError, match=r"not at scans/.*brain_transformers\.load_dataset"):
        extractor(datasets.load_from_disk(str(tmp_path / "copy"))[0])
    os.remove(str(moved[1]["volumes"]))
    with pytest.raises(ROISeriesReadError, match="1 of 4 files with scans are not there"):
        bt.load_dataset(tmp_path / "copy")


def test_some_rows_are_saved_with_their_files(study: Path, tmp_path: Path) -> None:
    assert prepare(study, "--output", tmp_path / "dataset", *SMALL) == 0
    rows = bt.load_dataset(tmp_path / "dataset")
    some = rows.filter(lambda row: row["age"] > 30)
    save_dataset(datasets.DatasetDict({"train": some, "test": rows.select([0])}), tmp_path / "part")
    shutil.rmtree(tmp_path / "dataset")
    part = bt.load_dataset(tmp_path / "part")
    assert [len(rows) for rows in part.values()] == [2, 1]
    frames = frames_of(bt.load_dataset(tmp_path / "part" / "train")[1])
    np.testing.assert_array_equal(frames, scaled(bold(13, seed=3)).in_file_order().astype(np.float16))


def test_shards_of_images_are_joined_with_their_files(study: Path, tmp_path: Path) -> None:
    assert prepare(study, "--output", tmp_path / "straight", *SMALL) == 0
    for more in (["--shard", "2/2"], ["--shard", "1/2"], ["--merge"]):
        assert prepare(study, "--output", tmp_path / "dataset", *SMALL, *more) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != study.name) == ["dataset", "straight"]
    joined, straight = (
        {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (tmp_path / "dataset", tmp_path / "straight")
    )
    assert joined == straight
    assert sum(name.startswith("scans/") for name in joined) == len(bt.load_dataset(tmp_path / "dataset"))


def test_splits_bad_files_and_what_is_there_already(study: Path, tmp_path: Path, capsys: Any) -> None:
    root = tmp_path / "splits"
    for subject, split in enumerate(("train", "train", "val", "test")):
        (root / split).mkdir(parents=True, exist_ok=True)
        shutil.move(study / f"sub-{subject:02d}", root / split)
    bad = root / "train" / name(7)
    save(bad, bold(3)[:-1])  # a plane of voxels is missing
    output = tmp_path / "dataset"
    command = (root, "--output", output, *SMALL, "--participants", study / "participants.tsv", "--on-error", "raise")
    command += ("--num-proc", 1)  # which lets this process see what is opened
    assert prepare(*command) == 2
    failure = capsys.readouterr().err
    assert str(bad) in failure
    assert "1 of 5 files cannot be used" in failure
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / ".dataset.prepared-scans").glob("*.npy")}
    assert len(written) == 4
    # Another image, and the same command again: only that one is read.
    save(bad, bold(3, seed=9))
    opened: list[str] = []
    real = nib.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nib, "load", lambda path, **options: (opened.append(Path(path).name), real(path, **options))[1])
        assert prepare(*command) == 0
    assert opened == [bad.name]
    assert not (tmp_path / ".dataset.prepared-scans").exists()
    parts = bt.load_dataset(output)
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 3, "validation": 1, "test": 1}
    assert prepare(*command) == 0
    assert "is in" in capsys.readouterr().out
    bad.write_bytes(b"x")
    with pytest.warns(UserWarning, match="1 of 5 files were left out"):
        assert prepare(*command, "--on-error", "skip", "--overwrite", "--t-r", 0.735, "--dtype", "int8") == 0
    assert len(list(output.glob("*/scans/*"))) == 4
    assert bt.load_dataset(output, split="train")[0]["dtype"] == "int8"


def test_flags_belong_to_their_kind(study: Path, tmp_path: Path, capsys: Any) -> None:
    assert prepare(study, "--output", tmp_path / "dataset", "--time-axis", 0) == 2
    assert "--time-axis is for --kind series" in capsys.readouterr().err
    assert main(["prepare", str(study), "--output", str(tmp_path / "dataset"), "--dtype", "int8"]) == 2
    assert "--dtype is for --kind volumes" in capsys.readouterr().err
    assert prepare(study, "--output", tmp_path / "dataset", *SMALL, "--dtype", "float64") == 2
    assert "dtype (--dtype)" in capsys.readouterr().err


@pytest.mark.parametrize("normalization", ["zscore", "zscore-voxel", "minmax", "none"])
@pytest.mark.parametrize("background", ["min", "zero"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_is_packed_comes_back(tmp_path: Path, normalization: str, background: str, dtype: str) -> None:
    values = bold()
    values[10, 10, 10, 3] = 0  # background is told value by value
    values[11, 11, 11] = -7.5
    values[12, 12, 12] *= 0.01
    expected = scaled(values, normalization, background).in_file_order()
    told = write_frames(tmp_path / "frames.npy", scaled(values, normalization, background), dtype)
    row = {"volumes": str(tmp_path / "frames.npy"), **told}
    found = frames_of(row)
    if dtype == "float16":
        np.testing.assert_array_equal(found, expected.astype(np.float16))
    else:
        # Half a step of each voxel's own scale.
        allowed = np.ptp(expected, axis=-1, keepdims=True) / 254 * 0.501 + 1e-6 * np.abs(expected).max()
        assert (np.abs(found - expected) <= allowed).all()
        np.testing.assert_array_equal(found[0], expected[0])  # background is exact
    n_kept = np.count_nonzero((expected != expected[0, 0, 0, 0]).any(-1))
    assert n_kept < values[..., 0].size / 2
    stored = np.load(tmp_path / "frames.npy", mmap_mode="r")
    assert stored.shape == (12, n_kept)
    assert os.path.getsize(tmp_path / "frames.npy") < 12 * n_kept * stored.itemsize + 8 * n_kept + values.size
    # What is not mostly background is one array that anything reads.
    told = write_frames(tmp_path / "whole.npy", scaled(values[4:-4, 5:-3, 2:-6], normalization, background), dtype)
    assert np.load(tmp_path / "whole.npy").ndim == (4 if dtype == "float16" else 2)


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    steps = np.arange(-100, 100, dtype=np.int8).reshape(2, 5, 4, 5)
    np.save(tmp_path / "frames.npy", steps)
    row = {"volumes": str(tmp_path / "frames.npy"), "shape": [2, 5, 4, 5], "dtype": "int8", "scale": 0.5, "offset": -3}
    np.testing.assert_array_equal(frames_of(row), (steps * 0.5 - 3.0).transpose(2, 1, 3, 0))


def test_what_int8_loses_is_measured(tmp_path: Path) -> None:
    for normalization in ("zscore-voxel", "zscore"):
        values = bold(40)
        expected = scaled(values, normalization, "min").in_file_order()
        told = write_frames(tmp_path / "frames.npy", scaled(values, normalization, "min"), "int8")
        back = frames_of({"volumes": str(tmp_path / "frames.npy"), **told})
        changing = expected.std(axis=-1) > 1e-6
        deviation = np.sqrt(np.square(expected[changing].std(axis=-1)).mean())
        lost = np.sqrt(np.square(back - expected)[changing].mean()) / deviation
        assert told["storage_error"] == pytest.approx(lost, rel=1e-3)
        assert 0.001 < told["storage_error"] < 0.01
        half = write_frames(tmp_path / "frames.npy", scaled(values, normalization, "min"))
        assert half["storage_error"] < told["storage_error"]
    with pytest.raises(ValueError, match="65504"):
        write_frames(tmp_path / "frames.npy", scaled(values * 1e5, "none", "zero"))


def test_a_dataset_that_was_changed_is_refused(study: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    assert prepare(study, "--output", output, *SMALL) == 0
    rows = datasets.load_from_disk(str(output))
    for column, value, words in (
        ("volumes", "../outside.npy", "beside the dataset"),
        ("shape", [3, 4, 5], "of shape"),
        ("dtype", "object", "of type 'object'"),
        ("scale", float("nan"), "scales or offsets"),
    ):
        table = rows.to_list()
        table[2][column] = value
        datasets.Dataset.from_list(table, features=rows.features).save_to_disk(str(tmp_path / column))
        with pytest.raises(ROISeriesReadError, match=words):
            bt.load_dataset(tmp_path / column)
    frames = next(output.glob("scans/*.npy"))
    extractor = bt.VolumeFeatureExtractor(volume_size=SIZE, n_frames=6)
    for content, words in (
        (frames.read_bytes()[:-1000], "cannot be read"),
        (b"x" * 1000, "cannot be read"),
        (frames.read_bytes().replace(b"<f2", b"<i2"), r"Expected float16 .* got int16"),
    ):
        frames.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            extractor(bt.load_dataset(output)[0])


def test_images_are_embedded_as_they_are_read(study: Path, tmp_path: Path) -> None:
    assert prepare(study, "--output", tmp_path / "dataset", *SMALL) == 0
    rows = bt.load_dataset(tmp_path / "dataset")
    pretraining, processor = bt.new_model("brain-mt-tiny", rows)
    images = ({"volumes": read_volumes(study / name(k), volume_size=SIZE), "subject": str(k)} for k in range(4))
    table = bt.embed_dataset(pretraining, images, processor, progress=False)
    stored = bt.embed_dataset(pretraining, rows, processor, progress=False)
    assert table.columns.tolist()[:2] == ["subject", "n_windows"]
    features = [column for column in table if column.startswith("e0")]
    np.testing.assert_allclose(table[features], stored[features], atol=2e-2)
    assert stored["age"].tolist() == [20, 30, 40, 50]
    assert {"volumes", "shape"} & set(stored) == set()


# --- the commands ---

QUIET = ["--use_cpu", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no", "--max_steps", 2]


def test_brain_mt_from_images_to_a_probe(study: Path, tmp_path: Path, capsys: Any) -> None:
    import argparse

    def command(*words: Any) -> None:
        assert run([str(word) for word in words], argparse.Namespace()) == 0

    for subject in range(4, 12):
        save(study / name(subject), bold(8, seed=subject))
    people = [f"sub-{subject:02d}\t{20 + subject}\t{'FM'[subject % 2]}" for subject in range(12)]
    (study / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *people]) + "\n")
    dataset = tmp_path / "dataset"
    command("prepare", study, "--output", dataset, "--kind", "volumes", *SMALL, "--normalization", "zscore-voxel")
    shared = ("--dataset", dataset, "--per_device_train_batch_size", 4, *QUIET)
    command("pretrain", "--model", "brain-mt-tiny", "--output", tmp_path / "model", *shared)
    assert "AutoModel loads the encoder" in capsys.readouterr().out
    command("embed", dataset, "--model", tmp_path / "model", "--output", tmp_path / "table.parquet")
    # The folder itself, on the grid and by the scale that the model says.
    command("embed", study, "--model", tmp_path / "model", "--output", tmp_path / "folder.parquet", "--num-proc", 1)
    from brain_transformers.evaluation.embedding_parts import read_table

    table = read_table(tmp_path / "table.parquet")
    assert len(table) == 12
    assert "volumes" not in table
    features = [column for column in table if column.startswith("e0")]
    np.testing.assert_array_equal(read_table(tmp_path / "folder.parquet")[features], table[features])
    assert np.isfinite(table.filter(regex="^e[0-9]+$").to_numpy()).all()
    command("finetune", "--model", tmp_path / "model", "--output", tmp_path / "tuned", "--label", "sex", *shared)
    command("probe", tmp_path / "table.parquet", "--label", "sex", "--output", tmp_path / "probe")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("missing", [False, True], ids=["interpolated", "missing in the file"])
def test_volumes_that_were_cut_for_motion_are_gaps_at_their_times(tmp_path: Path, missing: bool) -> None:
    cut = np.zeros(12, dtype=bool)
    cut[[3, 4, 9]] = True
    values = bold(12)
    values[..., cut] *= 50  # what stands there reaches nothing
    root = tmp_path / "study"
    save(root / name(0), values[..., ~cut] if missing else values)
    table = root / "sub-00/func/sub-00_task-rest_outliers.tsv"
    table.write_text("framewise_displacement\n" + "".join(f"{int(one)}\n" for one in cut))
    options = ("--volume-size", *SIZE)
    assert prepare(root, "--output", tmp_path / "dataset", *options) == 0
    (row,) = bt.load_dataset(tmp_path / "dataset")
    np.testing.assert_array_equal(row["frame_mask"], ~cut)
    alone = scaled(values[..., ~cut]).in_file_order()
    np.testing.assert_allclose(frames_of(row)[..., ~cut], alone, atol=2e-3)
    processor = bt.load_config("brain-mt-tiny", n_frames=12).load_processor()(SIZE, 12)
    batch = processor(row, window="first")
    np.testing.assert_array_equal(batch["attention_mask"].reshape(8, 12), np.tile(~cut, (8, 1)))
    assert not batch["volumes"][0, cut].any()
    assert batch["volumes"][0, ~cut].any(axis=(1, 2, 3, 4)).all()
    # A check sees the same in the files themselves.
    report = bt.check(root, processor, progress=False)
    assert [(scan.status, scan.facts["cut_frames"], scan.facts["n_timepoints"]) for scan in report.scans] == [
        ("ok", 3, 12)
    ]
    table.write_text("framewise_displacement\n" + "0\n" * 7)
    assert prepare(root, "--output", tmp_path / "other", *options) == 2
