"""4-D BOLD images as rows: frames in a file that is memory-mapped, so that an item reads only those of its window."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_file
from ..foreign import reading
from ..optional import require
from ..processing.base import check_choice, check_size
from ..processing.time import check_t_r
from ..processing.volumes import (
    BACKGROUNDS,
    MNI_SHAPE,
    NORMALIZATIONS,
    STORED_DTYPES,
    LazyScan,
    check_grid,
    frame_major,
    in_mni_orientation,
    mni_affine,
    normalise_volumes,
)
from .cifti import is_cifti, refusal
from .errors import ROISeriesReadError
from .nifti import check_space, header_t_r, load_image, read_to_end, refuse_scanner_space
from .row_kinds import VOLUMES
from .scan_folders import ScanFolderBuilder, fingerprint, scan_file
from .sidecars import refuse_other_t_r, scan_t_r

MNI_SIZE = (MNI_SHAPE[1], MNI_SHAPE[0], MNI_SHAPE[2])
"""Voxels (y, x, z) of MNI152 at 2 mm."""
# Values that are held at once beside a scan: 64 MB.
_BLOCK_VALUES = 2**24
# Share of the changes over time that rounding may take before it is warned of.
_MOST_ROUNDING = 0.1


def read_volumes(
    path: str | Path,
    *,
    resample: bool = False,
    volume_size: Sequence[int] = MNI_SIZE,
    min_frames: int = 2,
    t_r: float | None = None,
) -> Any:
    """Read a 4-D BOLD image in MNI space.

    Its affine alone says which way its axes go. Whether it can be used is told by its header, before anything is read.

    Args:
        path: a NIfTI image.
        resample: bring it to the grid linearly if it is on another one; else it is refused.
        volume_size: voxels `[y, x, z]`. Other sizes than that of MNI152 at 2 mm are grids over the same block of space
            (used where `resample` asks for it) or whatever grid the image has.
        min_frames: fewer are refused.
        t_r: repetition time in seconds; by default from the sidecar or the header; see `sidecars.scan_t_r`.

    Returns:
        A nibabel image of float32 in memory, its axes as those of MNI152's grid (right to left, back to front, bottom
        to top). The fourth of its zooms is the repetition time, 0 if nothing tells it. [`VolumeFeatureExtractor`]
        takes it as it is.

    Raises:
        ROISeriesReadError: if the file is missing, damaged, no 4-D image, on another grid, or too short.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    path = Path(path)
    seconds, values, affine = _read(path, resample, volume_size, min_frames)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], scan_t_r(path, given=t_r, header=seconds) or 0.0))
    return image


def _read(
    path: Path, resample: bool, volume_size: Sequence[int], min_frames: int
) -> tuple[float | None, np.ndarray, np.ndarray]:
    """The repetition time of the header, `(x, y, z, n_frames)` float32 in memory, and the affine."""
    if is_cifti(path):
        raise ROISeriesReadError(refusal(path))
    with reading(path, "a 4-D NIfTI image; it may be truncated", error=ROISeriesReadError):
        # A packed file is read from front to back once.
        image = load_image(path, keep_file_open=True)
        seconds, shape, kind = header_t_r(image), image.shape, image.get_data_dtype().kind
    if len(shape) != 4 or shape[3] < 2 or kind not in "fiu":
        raise ROISeriesReadError(
            f"{path}: expected a 4-D BOLD image of real numbers (x, y, z, at least 2 frames), got shape {shape}, "
            f"{image.get_data_dtype()}."
        )
    if shape[3] < min_frames:
        raise ROISeriesReadError(f"{path}: expected at least {min_frames} frames, got {shape[3]}. Leave it out.")
    check_space(image, path)
    if not resample or _fits(image, volume_size):
        with _refused():
            turned, affine = in_mni_orientation(LazyScan(image), image.affine, str(path))
            check_grid(turned.shape[:3], affine, volume_size, str(path))
        with reading(path, "a 4-D NIfTI image; it may be truncated", error=ROISeriesReadError):
            values = np.ascontiguousarray(turned.read())
            read_to_end(image)
        return seconds, _checked(values, path), affine
    refuse_scanner_space(image, path)
    affine, (y, x, z) = mni_affine(volume_size), volume_size
    nib, imaging = (require(name, extra="data", purpose="resampling images") for name in ("nibabel", "nilearn.image"))
    with reading(path, "a 4-D NIfTI image that can be resampled", error=ROISeriesReadError):
        loaded = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), image.affine)
        read_to_end(image)
        # Linear, so that the background stays 0.
        resampled = imaging.resample_img(
            loaded, affine, (x, y, z), interpolation="linear", copy_header=True, force_resample=True
        )
    return seconds, _checked(np.ascontiguousarray(resampled.dataobj, dtype=np.float32), path), affine


def _checked(values: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ROISeriesReadError(
            f"{path}: expected finite numbers, got NaN or infinity. Set the background of that image to 0, or "
            "preprocess it again."
        )
    if low == high:
        raise ROISeriesReadError(f"{path}: expected a brain, got {low:g} in every voxel. Preprocess it again.")
    return values


def _fits(image: Any, volume_size: Sequence[int]) -> bool:
    """Whether an image is on the grid that it would be resampled to."""
    try:
        turned, affine = in_mni_orientation(LazyScan(image), image.affine, "")
        y, x, z = volume_size
        return bool(turned.shape[:3] == (x, y, z) and np.allclose(affine, mni_affine(volume_size), atol=1e-3))
    except ValueError:
        return False


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """What processing says of a scan is said of its file."""
    try:
        yield
    except ValueError as error:
        raise ROISeriesReadError(str(error)) from error


def write_frames(path: Path, values: np.ndarray, dtype: str = "float16") -> dict[str, Any]:
    """Write a scan frame by frame, whole or not at all, as a `.npy` file of `(n_frames, y, x, z)`.

    Args:
        path: the file.
        values: `(x, y, z, n_frames)` float32, normalised.
        dtype: `"float16"`, as the authors keep it, or `"int8"`: half of that, in 254 steps from the least to the
            greatest value of the scan.

    Returns:
        `shape`, `dtype`, `scale` and `offset` (a value is what is stored times scale plus offset), and
        `storage_error`: root mean square of what rounding changed, as a share of the standard deviation over time,
        both over the voxels that change.

    Raises:
        ValueError: for values that float16 does not reach.
    """
    check_choice("dtype", dtype, STORED_DTYPES)
    low, high = float(values.min()), float(values.max())
    scale, offset = 1.0, 0.0
    if dtype == "int8":
        scale = (high - low) / 254 or 1.0
        offset = round((high + low) / 2 / scale) * scale  # whole steps, so that 0 is one
    elif max(-low, high) > float(np.finfo(np.float16).max):
        raise ValueError(
            f"Expected values that float16 holds, up to 65504, got {max(-low, high):g}. Use another normalization, or "
            "int8 (--dtype int8)."
        )
    frames = frame_major(values)
    deviation = np.stack([plane.std(axis=-1) for plane in values])
    changing = np.stack([np.ptp(plane, axis=-1) > 0 for plane in values])  # exact, as no deviation in float32 is
    of_frame = changing.transpose(1, 0, 2)
    lost = 0.0
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": frames.shape}
    step = max(1, _BLOCK_VALUES // frames[0].size)
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for first in range(0, len(frames), step):
            block = np.ascontiguousarray(frames[first : first + step])
            if dtype == "int8":
                stored = np.rint((block - np.float32(offset)) / np.float32(scale)).clip(-128, 127).astype(np.int8)
            else:
                stored = block.astype(dtype)
            stream.write(stored.tobytes())
            block -= stored * np.float32(scale) + np.float32(offset)
            lost += float(np.square(block[:, of_frame], dtype=np.float64).sum())
    n_changing = int(changing.sum())
    rounding = np.sqrt(lost / max(n_changing * len(frames), 1))
    moving = np.sqrt(np.square(deviation[changing], dtype=np.float64).mean()) if n_changing else np.inf
    return {
        "shape": list(frames.shape),
        "dtype": dtype,
        "scale": scale,
        "offset": offset,
        "storage_error": float(rounding / moving),
    }


class VolumeFolderBuilder(ScanFolderBuilder):
    """Build an Arrow dataset from a folder of 4-D BOLD images in MNI space; its rows say where their frames are.

    Rows hold `volumes` (a `.npy` file of normalised frames `(n_frames, y, x, z)`), `shape`, `dtype`, `scale`,
    `offset` and `storage_error` (see [`write_frames`]), `normalization`, `background`, `t_r` (seconds, NaN if unknown)
    and the columns of every [`ScanFolderBuilder`]. [`save_dataset`] saves them with their files.

    Files of frames that are there already, of the same image and with the same options, are not written again. Reading
    an image takes about three times its size as float32 in memory.

    Args:
        folder: where the images are, at any depth; their names end in `bold` (BIDS) or fit `pattern`.
        frames_folder: where the files of frames go.
        normalization, background: see [`normalise_volumes`].
        dtype: see [`write_frames`].
        volume_size, resample, min_frames: see [`read_volumes`].
        t_r: repetition time in seconds; by default what the files say, which it must not contradict.
        options: of [`ScanFolderBuilder`].

    Raises:
        ValueError: for options that do not exist, and what [`ScanFolderBuilder`] says.
    """

    kind = VOLUMES

    def __init__(
        self,
        folder: str | Path,
        *,
        frames_folder: str | Path,
        normalization: str = "zscore",
        background: str = "min",
        dtype: str = "float16",
        volume_size: Sequence[int] = MNI_SIZE,
        resample: bool = False,
        min_frames: int = 2,
        t_r: float | None = None,
        **options: Any,
    ) -> None:
        check_choice("normalization (--normalization)", normalization, NORMALIZATIONS)
        check_choice("background (--background)", background, BACKGROUNDS)
        check_choice("dtype (--dtype)", dtype, STORED_DTYPES)
        if len(volume_size) != 3:
            raise ValueError(f"Expected volume_size (--volume-size) as voxels [y, x, z], got {list(volume_size)}.")
        super().__init__(
            folder,
            images="bold",
            options={
                "reading": {
                    "volume_size": [check_size("volume_size (--volume-size)", size, 4096) for size in volume_size],
                    "resample": bool(resample),
                    "min_frames": check_size("min_frames (--min-frames)", min_frames, 1_000_000),
                },
                "scale": {"normalization": normalization, "background": background},
                "dtype": dtype,
                "t_r": None if t_r is None else check_t_r(t_r, "t_r (--t-r)"),
                "frames_folder": str(Path(frames_folder).resolve()),
            },
            **options,
        )

    def read(self, path: Path) -> dict[str, Any]:
        """Where the frames of an image are, and what they are; writes them if they are not there yet."""
        how = self.config.options
        if how["t_r"] is not None:
            refuse_other_t_r(path, how["t_r"])
        made_of = [path.relative_to(self.config.folder).as_posix(), how["reading"], how["scale"], how["dtype"]]
        made_of.append(fingerprint(Path(self.config.folder), [path]))
        frames, said = scan_file(how["frames_folder"], made_of, lambda frames: self._write(path, frames))
        seconds = scan_t_r(path, given=how["t_r"], header=said.pop("header_t_r"))
        if said["storage_error"] > _MOST_ROUNDING:
            warnings.warn(
                f"{path}: {how['dtype']} rounds away {100 * said['storage_error']:.0f} % of the deviation over time. "
                'Use float16 (--dtype), or normalization "zscore-voxel" (--normalization).',
                UserWarning,
                stacklevel=2,
            )
        return {"volumes": str(frames), **said, **how["scale"], "t_r": seconds, "frame_mask": np.zeros(0, bool)}

    def _write(self, path: Path, frames: Path) -> dict[str, Any]:
        how = self.config.options
        header_seconds, values, _ = _read(path, **how["reading"])
        with _refused():
            values = normalise_volumes(values, **how["scale"], name=str(path))
        try:
            said = write_frames(frames, values, how["dtype"])
        except ValueError as error:
            raise ROISeriesReadError(f"{path}: {error}") from error
        return {**said, "header_t_r": header_seconds}
