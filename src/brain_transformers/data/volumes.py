"""4-D BOLD images as rows: frames in a file that is memory-mapped, so that an item reads only those of its window."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import whole_file
from ..foreign import reading
from ..optional import require
from ..processing.base import check_choice, check_size
from ..processing.time import check_t_r
from ..processing.volume_frames import (
    BACKGROUNDS,
    NORMALIZATIONS,
    STORED_DTYPES,
    Frames,
    ImageFrames,
    LazyScan,
    ScaledFrames,
    frame_major,
)
from ..processing.volumes import MNI_SHAPE, check_grid, check_volumes_brain, in_mni_orientation, mni_affine
from .censoring import kept_volumes, outliers_table
from .cifti import is_cifti, refusal
from .errors import ROISeriesReadError
from .nifti import check_space, header_t_r, load_image, read_to_end, refuse_scanner_space
from .row_kinds import VOLUMES
from .scan_folders import ScanFolderBuilder, fingerprint, scan_file
from .sidecars import refuse_other_t_r, scan_t_r

MNI_SIZE = (MNI_SHAPE[1], MNI_SHAPE[0], MNI_SHAPE[2])
"""Voxels (y, x, z) of MNI152 at 2 mm."""
# Where so large a share of the voxels is not background, leaving it out is not worth a file of another form.
_WORTH_PACKING = 0.9
_RESAMPLING = ("nibabel", "nilearn.image")
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
    bold = _open_bold(path, resample, volume_size, min_frames)
    values = bold.frames.in_file_order()
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ROISeriesReadError(
            f"{path}: expected finite numbers, got NaN or infinity. Set the background of that image to 0, or "
            "preprocess it again."
        )
    if low == high:
        raise ROISeriesReadError(f"{path}: expected a brain, got {low:g} in every voxel. Preprocess it again.")
    image = nib.Nifti1Image(values, bold.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], scan_t_r(path, given=t_r, header=bold.seconds) or 0.0))
    return image


class _Bold(NamedTuple):
    """A file of BOLD: the repetition time of its header, its frames on the grid of a model, and their affine."""

    seconds: float | None
    frames: Frames
    affine: np.ndarray


def _open_bold(path: Path, resample: bool, volume_size: Sequence[int], min_frames: int) -> _Bold:
    """A file that its header says can be used; what then is wrong with it is told of the file as well."""
    if is_cifti(path):
        raise ROISeriesReadError(refusal(path))
    with reading(path, "a 4-D NIfTI image; it may be truncated", error=ROISeriesReadError):
        # A packed file is read from front to back; pages of a mapped one would count as memory that is in use.
        image = load_image(path, keep_file_open=True, mmap=False)
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
        with _refused(path):
            turned, affine = in_mni_orientation(LazyScan(image), image.affine, str(path))
            check_grid(turned.shape[:3], affine, volume_size, str(path))
        frames: Frames = ImageFrames(turned)
    else:
        refuse_scanner_space(image, path)
        affine, frames = mni_affine(volume_size), _ResampledFrames(image, volume_size)
    return _Bold(seconds, _FileFrames(path, image, frames), affine)


class _WithGaps(Frames):
    """Frames at their true times, with zeros where volumes were cut out of the file."""

    def __init__(self, frames: Frames, kept: np.ndarray) -> None:
        self._frames, self._kept, self._places = frames, kept, np.cumsum(kept) - 1
        self.shape = (len(kept), *frames.shape[1:])

    def into(self, target: Any, start: int) -> None:
        for number, frame in enumerate(range(start, start + len(target))):
            if self._kept[frame]:
                self._frames.into(target[number : number + 1], int(self._places[frame]))
            else:
                target[number] = 0


def _with_gaps(path: Path, bold: _Bold) -> tuple[Frames, np.ndarray | None]:
    """The frames of a file at their true times, and which of them were kept, `None` if all were."""
    kept = kept_volumes(path, len(bold.frames))
    return (bold.frames if kept is None or len(kept) == len(bold.frames) else _WithGaps(bold.frames, kept)), kept


class _FileFrames(Frames):
    """Frames of a file, which is read to its end where a pass over all of them ends."""

    def __init__(self, path: Path, image: Any, frames: Frames) -> None:
        self._path, self._image, self._frames, self.shape = path, image, frames, frames.shape

    def into(self, target: Any, start: int) -> None:
        with reading(self._path, "a 4-D NIfTI image; it may be truncated", error=ROISeriesReadError):
            self._frames.into(target, start)
            if start + len(target) == len(self):
                read_to_end(self._image)


class _ResampledFrames(Frames):
    """Frames of an image, linearly on the grid of `[y, x, z]` voxels in MNI152, so that the background stays 0."""

    def __init__(self, image: Any, volume_size: Sequence[int]) -> None:
        self._image, self._affine = image, mni_affine(volume_size)
        self.shape = (image.shape[3], *volume_size)
        self._modules = [require(name, extra="data", purpose="resampling images") for name in _RESAMPLING]

    def into(self, target: Any, start: int) -> None:
        nib, imaging = self._modules
        _, y, x, z = self.shape
        values = np.asarray(self._image.dataobj[..., start : start + len(target)], dtype=np.float32)
        resampled = imaging.resample_img(
            nib.Nifti1Image(values, self._image.affine),
            self._affine,
            (x, y, z),
            interpolation="linear",
            copy_header=True,
            force_resample=True,
        )
        target.numpy()[...] = frame_major(np.asarray(resampled.dataobj))


def _fits(image: Any, volume_size: Sequence[int]) -> bool:
    """Whether an image is on the grid that it would be resampled to."""
    try:
        turned, affine = in_mni_orientation(LazyScan(image), image.affine, "")
        y, x, z = volume_size
        return bool(turned.shape[:3] == (x, y, z) and np.allclose(affine, mni_affine(volume_size), atol=1e-3))
    except ValueError:
        return False


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """What processing says of a scan is said of its file."""
    try:
        yield
    except ROISeriesReadError:
        raise
    except ValueError as error:
        raise ROISeriesReadError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def write_frames(path: Path, frames: ScaledFrames, dtype: str = "float16") -> dict[str, Any]:
    """Write a scan frame by frame, whole or not at all; see [`StoredFrames`] for what is in the file.

    Voxels that are background in all frames are left out, which is exact, where they are many.

    Args:
        path: the file.
        frames: the scan.
        dtype: `"float16"`, as the authors keep it, or `"int8"`: half of that, each voxel in 254 steps from its least
            to its greatest value.

    Returns:
        `shape`, `dtype`, `scale` and `offset` (1 and 0; earlier versions stored int8 by these), and `storage_error`:
        root mean square of what rounding changed, as a share of the standard deviation over time, both over the voxels
        that change.

    Raises:
        ValueError: for values that float16 does not reach.
    """
    import torch

    check_choice("dtype", dtype, STORED_DTYPES)
    low, high = (end.reshape(-1) for end in frames.scale.extremes())
    fill = torch.tensor(frames.scale.fill)
    most = max(-float(low.min()), float(high.max()))
    if dtype == "float16" and most > float(np.finfo(np.float16).max):
        raise ValueError(
            f"Expected values that float16 holds, up to 65504, got {most:g}. Use another normalization, or int8 "
            "(--dtype int8)."
        )
    kept = (low != fill) | (high != fill)
    packed = dtype == "int8" or float(kept.double().mean()) < _WORTH_PACKING
    voxels = torch.nonzero(kept).squeeze(1) if packed else torch.arange(len(kept))
    low, high = low[voxels], high[voxels]
    middle, changing = (low + high) / 2, high > low
    scale, offset = torch.ones(1), torch.zeros(1)
    if dtype == "int8":
        scale, offset = torch.where(changing, (high - low) / 254, torch.ones(())), middle
        stored_fill = fill
    else:
        stored_fill = fill.half().float()
    stored_shape = (len(frames), len(voxels)) if packed else frames.shape
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": stored_shape}
    lost, sums, squares = 0.0, *(torch.zeros(len(voxels), dtype=torch.float64) for _ in range(2))
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for block in frames.blocks():
            values = block.flatten(1)
            values = values.index_select(1, voxels) if packed else values
            steps = (values - offset) / scale
            stored = steps.round_().clamp_(-128, 127).to(torch.int8) if dtype == "int8" else values.half()
            stream.write(stored.numpy().tobytes())
            error = (values - (stored.float() * scale + offset)) * changing
            lost += float(torch.linalg.vector_norm(error, dtype=torch.float64)) ** 2
            from_middle = (values - middle).double()
            sums += from_middle.sum(0)
            squares += from_middle.square_().sum(0)
        if packed:
            for record in (
                np.packbits(kept.numpy()),
                torch.stack([scale, offset]).numpy(),
                stored_fill.view(1).numpy(),
            ):
                np.lib.format.write_array(stream, record, version=(1, 0))
    # Over time, of the voxels that change.
    variance = (squares / len(frames) - (sums / len(frames)) ** 2)[changing]
    rounding = math.sqrt(lost / max(len(variance) * len(frames), 1))
    return {
        "shape": list(frames.shape),
        "dtype": dtype,
        "scale": 1.0,
        "offset": 0.0,
        "storage_error": rounding / math.sqrt(float(variance.mean())) if len(variance) else 0.0,
    }


class VolumeFolderBuilder(ScanFolderBuilder):
    """Build an Arrow dataset from a folder of 4-D BOLD images in MNI space; its rows say where their frames are.

    Rows hold `volumes` (a file of normalised frames, see [`StoredFrames`]), `shape` (n_frames, y, x, z), `dtype`,
    `scale`, `offset` and `storage_error` (see [`write_frames`]), `normalization`, `background`, `t_r` (seconds, NaN if
    unknown) and the columns of every [`ScanFolderBuilder`]. [`save_dataset`] saves them with their files.

    Files of frames that are there already, of the same image and with the same options, are not written again. An
    image is read twice, a block of frames at a time, so that its length costs no memory.

    Args:
        folder: where the images are, at any depth; their names end in `bold` (BIDS) or fit `pattern`.
        frames_folder: where the files of frames go.
        normalization, background: see [`normalise_volumes`].
        dtype: see [`write_frames`].
        volume_size, resample, min_frames: see [`read_volumes`].
        check_brain: see [`VolumeFeatureExtractor`].
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
        check_brain: bool = True,
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
                "check_brain": bool(check_brain),
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
        made_of = [path.relative_to(self.config.folder).as_posix()]
        made_of += [how[name] for name in ("reading", "scale", "dtype", "check_brain")]
        beside = outliers_table(path)
        made_of.append(fingerprint(Path(self.config.folder), [path, *([] if beside is None else [beside])]))
        frames, said = scan_file(how["frames_folder"], made_of, lambda frames: self._write(path, frames))
        seconds = scan_t_r(path, given=how["t_r"], header=said.pop("header_t_r"))
        if said["storage_error"] > _MOST_ROUNDING:
            warnings.warn(
                f"{path}: {how['dtype']} rounds away {100 * said['storage_error']:.0f} % of the deviation over time. "
                'Use float16 (--dtype), or normalization "zscore-voxel" (--normalization).',
                UserWarning,
                stacklevel=2,
            )
        mask = np.asarray(said.pop("frame_mask"), dtype=bool)
        return {"volumes": str(frames), **said, **how["scale"], "t_r": seconds, "frame_mask": mask}

    def open(self, path: Path) -> dict[str, Any]:
        """See [`ScanFolderBuilder.open`]: the image itself, in memory."""
        how = self.config.options
        bold = _open_bold(path, **how["reading"])
        frames, kept = _with_gaps(path, bold)
        row = {"volumes": frames.in_file_order(), "affine": bold.affine, "frame_mask": kept}
        return {**row, "t_r": scan_t_r(path, given=how["t_r"], header=bold.seconds)}

    def _write(self, path: Path, file: Path) -> dict[str, Any]:
        how = self.config.options
        bold = _open_bold(path, **how["reading"])
        whole, kept = _with_gaps(path, bold)
        with _refused(path):
            frames = ScaledFrames(whole, **how["scale"], name=str(path), counts=kept)
            if how["check_brain"]:
                check_volumes_brain(frames, str(path))
            said = write_frames(file, frames, how["dtype"])
        return {**said, "header_t_r": bold.seconds, "frame_mask": [] if kept is None else kept.tolist()}
