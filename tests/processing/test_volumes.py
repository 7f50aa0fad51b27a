"""4-D volumes: scaled as BrainMT's authors do, on the grid that their affine says, and read by the window."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from brain_transformers import VolumeFeatureExtractor, load_config, new_model
from brain_transformers.data.volumes import write_frames
from brain_transformers.processing.volume_frames import ImageFrames, LazyScan, ScaledFrames
from brain_transformers.processing.volumes import (
    MNI_AFFINE,
    MNI_SHAPE,
    in_mni_orientation,
    mni_affine,
    normalise_volumes,
)

SIZE = [28, 24, 24]  # (y, x, z)


def scan(n_frames: int = 12, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    values = np.zeros((SIZE[1], SIZE[0], SIZE[2], n_frames), np.float32)
    values[3:-3, 4:-4, 2:-2] = draw.normal(1000, 100, (18, 20, 20, n_frames))
    return values


def scaled(values: np.ndarray, normalization: str = "zscore", background: str = "min") -> ScaledFrames:
    return ScaledFrames(ImageFrames(LazyScan(values)), normalization, background, "it")


def row(path: Path, values: np.ndarray, dtype: str = "float16", **others: Any) -> dict[str, Any]:
    told = write_frames(path, scaled(values), dtype)
    return {"volumes": str(path), **told, "normalization": "zscore", "background": "min", "subject": "01", **others}


@pytest.mark.parametrize("background", ["min", "zero"])
def test_scales(background: str) -> None:
    values = scan()
    values[5, 5, 5, 3] = 0  # background is told value by value
    inside = values != 0
    outside = {"min": lambda scaled: scaled[inside].min(), "zero": lambda scaled: 0.0}[background]
    plain = values.astype(np.float64)
    mean, deviation = plain[inside].mean(), plain[inside].std(ddof=1)
    low, high = plain[inside].min(), plain[inside].max()
    for normalization, scaled in (
        ("zscore", (plain - mean) / deviation),
        ("minmax", (plain - low) / (high - low)),
        ("none", plain),
    ):
        found = normalise_volumes(values, normalization, background)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.where(inside, scaled, outside(scaled)), rtol=2e-5, atol=2e-5)
    voxels = normalise_volumes(scan(), "zscore-voxel", background)
    np.testing.assert_allclose(voxels[3:-3, 4:-4, 2:-2].mean(-1), 0, atol=1e-4)
    np.testing.assert_allclose(voxels[3:-3, 4:-4, 2:-2].std(-1, ddof=1), 1, atol=1e-4)
    assert (voxels[0] == voxels.min() if background == "min" else voxels[0] == 0).all()


def test_the_grid_of_mni152_and_coarser_ones() -> None:
    np.testing.assert_array_equal(mni_affine([109, 91, 91]), MNI_AFFINE)
    for size in (SIZE, [218, 182, 182]):
        shape = np.array([size[1], size[0], size[2]])
        affine = mni_affine(size)
        corners = [affine @ [*corner, 1] for corner in (np.full(3, -0.5), shape - 0.5)]
        wanted = [MNI_AFFINE @ [*corner, 1] for corner in (np.full(3, -0.5), np.array(MNI_SHAPE) - 0.5)]
        np.testing.assert_allclose(corners, wanted)


def test_orientation_is_turned_and_never_guessed() -> None:
    values, affine = scan(2), mni_affine(SIZE)
    turned, matrix = in_mni_orientation(values[::-1].transpose(2, 0, 1, 3), affine @ _turn(values.shape), "it")
    np.testing.assert_array_equal(turned, values)
    np.testing.assert_allclose(matrix, affine, atol=1e-9)
    extractor = VolumeFeatureExtractor(volume_size=SIZE, n_frames=2)
    with pytest.raises(ValueError, match="Expected an affine with scan 0"):
        extractor(values)
    with pytest.raises(ValueError, match=r"got the path '/x/bold.nii.gz'.*read_volumes"):
        extractor("/x/bold.nii.gz")
    with pytest.raises(ValueError, match="says no direction"):
        extractor(values, affine=np.zeros((4, 4)))
    # (y, x, z) with an affine that says (x, y, z): not the grid
    with pytest.raises(ValueError, match=r"24 x 28 x 24 voxels \(x, y, z\), got 28 x 24 x 24"):
        extractor(values.transpose(1, 0, 2, 3), affine=affine)
    full = VolumeFeatureExtractor(n_frames=2)
    with pytest.raises(ValueError, match="91 x 109 x 91"):
        full(nib.Nifti1Image(values, affine))
    with pytest.raises(ValueError, match="Expected 3 frames in scan 0, got 2"):
        VolumeFeatureExtractor(volume_size=SIZE, n_frames=3)(nib.Nifti1Image(values, affine))


def _turn(shape: Any) -> np.ndarray:
    """From voxels of `values[::-1].transpose(2, 0, 1)` to those of `values`."""
    turn = np.zeros((4, 4))
    turn[2, 0] = turn[1, 2] = turn[3, 3] = 1
    turn[0, 1], turn[0, 3] = -1, shape[0] - 1
    return turn


class _Watched:
    """Frames of a file that say which of them are read; anything but a slice of frames fails."""

    def __init__(self, frames: np.ndarray) -> None:
        self._frames, self.read = frames, set()

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frames: slice) -> np.ndarray:
        self.read |= set(range(*frames.indices(len(self))))
        return self._frames[frames]


def test_only_the_frames_of_a_window_are_read(tmp_path: Path) -> None:
    values = scan(40)
    stored = row(tmp_path / "frames.npy", values)
    extractor = VolumeFeatureExtractor(volume_size=SIZE, n_frames=5)
    checked = extractor.check(*extractor.unpack(stored, "it")[:1], "it", stored=stored)
    assert isinstance(checked.values.stored, np.memmap)
    checked.values.stored = _Watched(checked.values.stored)
    window = extractor.cut(checked, [7])["volumes"]
    assert checked.values.stored.read == {7, 8, 9, 10, 11}
    expected = scaled(values).in_file_order().astype(np.float16).astype(np.float32).transpose(3, 1, 0, 2)
    np.testing.assert_array_equal(window[0, :, 0], expected[7:12])


def test_windows_of_a_row(tmp_path: Path) -> None:
    stored = row(tmp_path / "frames.npy", scan(13))
    extractor = VolumeFeatureExtractor(volume_size=SIZE, n_frames=5)
    image = extractor(nib.Nifti1Image(scan(13), mni_affine(SIZE)), window="cover")["volumes"]
    windows = extractor(stored, window="cover", return_windows=True)
    assert windows["window_start"].tolist() == [0, 5, 8]
    assert windows["volumes"].dtype == np.float32
    np.testing.assert_allclose(windows["volumes"], image, atol=4e-3)
    assert extractor(stored, return_windows=True)["window_start"].tolist() == [4]
    draws = {
        int(extractor(stored, window="random", rng=np.random.default_rng(s), return_windows=True)["window_start"][0])
        for s in range(60)
    }
    assert draws == set(range(9))
    assert extractor(stored, n_windows=3, return_windows=True)["window_start"].tolist() == [0, 4, 8]
    # Eight bits and a scale are numbers again.
    coarse = extractor(row(tmp_path / "coarse.npy", scan(13), "int8"), window="cover")["volumes"]
    np.testing.assert_allclose(coarse, image, atol=np.ptp(image) / 500)
    assert np.abs(coarse - image).max() > 0
    short = VolumeFeatureExtractor(volume_size=SIZE, n_frames=15, pad_short=True)(stored)
    assert short["volumes"].shape == (1, 15, 1, *SIZE)
    assert not short["volumes"][0, 13:].any()
    # Patch-major, time fastest: 2 x 2 x 2 patches of 15 frames.
    np.testing.assert_array_equal(short["attention_mask"].reshape(8, 15), [[1] * 13 + [0] * 2] * 8)


def test_rows_that_belong_to_another_extractor(tmp_path: Path) -> None:
    stored = row(tmp_path / "frames.npy", scan(13))
    with pytest.raises(ValueError, match="scan 01 with normalization='minmax', got a file that was written with 'zs"):
        VolumeFeatureExtractor(volume_size=SIZE, n_frames=5, normalization="minmax")(stored)
    with pytest.raises(ValueError, match=r"volumes of \[109, 91, 91\]"):
        VolumeFeatureExtractor(n_frames=5)(stored)
    extractor = VolumeFeatureExtractor(volume_size=SIZE, n_frames=5)
    with pytest.raises(ValueError, match="without scale"):
        extractor({key: value for key, value in stored.items() if key != "scale"})
    with pytest.raises(ValueError, match=r"not at .*/gone\.npy"):
        extractor({**stored, "volumes": str(tmp_path / "gone.npy")})
    with pytest.raises(ValueError, match="Expected int8"):
        extractor({**stored, "dtype": "int8"})
    held = {"volumes": nib.Nifti1Image(scan(13), mni_affine(SIZE)), "subject": "01"}
    np.testing.assert_allclose(extractor(held)["volumes"], extractor(stored)["volumes"], atol=4e-3)


def test_a_new_model_takes_size_and_scale_from_the_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    values = scan(13)[:20, :, :18]
    told = write_frames(tmp_path / "frames.npy", scaled(values, "minmax", "zero"))
    rows = [{"volumes": str(tmp_path / "frames.npy"), **told, "normalization": "minmax", "background": "zero"}] * 2
    dataset = datasets.Dataset.from_list(rows).with_format("numpy")
    model, processor = new_model("brain-mt-tiny", dataset, mask_ratio=0.5)
    assert model.config.volume_size == processor.volume_size == [28, 20, 18]
    assert model.config.n_patches == 8
    assert (processor.normalization, processor.background) == ("minmax", "zero")
    assert model(**processor(dataset[0], return_tensors="pt")).loss.isfinite()
    assert load_config("brain-mt-tiny").volume_size == SIZE
    short = datasets.Dataset.from_list([*rows, {**rows[0], "shape": [4, 28, 20, 18]}]).with_format("numpy")
    np.save(tmp_path / "short.npy", np.zeros((4, 28, 20, 18), np.float16))
    short = short.map(
        lambda row, number: {"volumes": str(tmp_path / "short.npy")} if number == 2 else {}, with_indices=True
    )
    with pytest.raises(ValueError, match="Row 2 of the training set does not fit: Expected 6 frames"):
        new_model("brain-mt-tiny", short)


def test_a_new_model_has_no_more_frames_than_its_scans(tmp_path: Path, capsys: Any) -> None:
    datasets = pytest.importorskip("datasets")

    def rows(*lengths: int) -> Any:
        stored = [row(tmp_path / f"{length}.npy", scan(length)) for length in lengths]
        return datasets.Dataset.from_list(stored).with_format("numpy")

    model, processor = new_model("brain-mt-tiny", rows(5, 4, 5), volume_size=SIZE)
    assert model.config.n_frames == processor.n_frames == 4
    assert "n_frames: 4, as in the dataset (brain-mt-tiny has 6)" in capsys.readouterr().out
    assert new_model("brain-mt-tiny", rows(8, 9))[0].config.n_frames == 6
    # One that broke off is named; no model is made for it.
    with pytest.raises(ValueError, match="Row 2 of the training set does not fit: Expected 5 frames"):
        new_model("brain-mt-tiny", rows(5, 5, 2))
    assert new_model("brain-mt-tiny", rows(5, 5), n_frames=3)[1].n_frames == 3


def test_a_scan_that_never_changes_is_refused() -> None:
    values = np.repeat(np.random.default_rng(0).normal(5, 1, (4, 5, 6, 1)), 8, axis=3)
    with pytest.raises(ValueError, match="the same frame 8 times"):
        normalise_volumes(values)
    values[1, 2, 3, 7] += 1
    assert normalise_volumes(values).std() > 0
