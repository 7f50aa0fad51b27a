"""Frames of 4-D scans: read in blocks, scaled by what a pass over all of them tells, and packed in files.

The numbers are those of the authors of BrainMT (`specs/brain_mt.md`, section 3), but for sums in float64; never is
more of a scan in memory than a block of frames.
"""

import abc
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..foreign import reading
from .base import as_array, check_choice
from .rows import frames_that_count, open_stored

if TYPE_CHECKING:
    import torch  # the package is imported without it

NORMALIZATIONS = ("zscore", "zscore-voxel", "minmax", "none")
BACKGROUNDS = ("min", "zero")
STORED_DTYPES = ("float16", "int8")

# Values that are in memory at once while a scan is read: 16 MB, 4 frames of MNI152 at 2 mm.
_BLOCK_VALUES = 2**22


def frame_major(values: np.ndarray) -> np.ndarray:
    """`(x, y, z, n_frames)` as `(n_frames, y, x, z)`, the order of frames on disk and of the model; a view."""
    return values.transpose(3, 1, 0, 2)


class Frames(abc.ABC):
    """Frames `(n_frames, y, x, z)` that are read when they are asked for."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @abc.abstractmethod
    def into(self, target: "torch.Tensor", start: int) -> None:
        """Fill a contiguous float32 `(n, y, x, z)` with the frames from `start` on."""

    def blocks(self) -> "Iterator[torch.Tensor]":
        """All frames, some at a time, each once and in their order."""
        import torch

        step = max(1, _BLOCK_VALUES // math.prod(self.shape[1:]))
        for start in range(0, len(self), step):
            block = torch.empty(min(step, len(self) - start), *self.shape[1:])
            self.into(block, start)
            yield block

    def in_file_order(self) -> np.ndarray:
        """All of them, float32 `(x, y, z, n_frames)`."""
        n_frames, y, x, z = self.shape
        values, done = np.empty((x, y, z, n_frames), np.float32, order="F"), 0
        for block in self.blocks():
            frame_major(values)[done : done + len(block)] = block.numpy()
            done += len(block)
        return values


class LazyScan:
    """Axes and shape of an image or array `(x, y, z, n_frames)`, turned and flipped without reading it."""

    def __init__(self, scan: Any, order: tuple[int, ...] = (0, 1, 2, 3), flips: tuple[slice, ...] = ()) -> None:
        self._scan, self._order, self._flips = scan, order, flips
        self.shape = tuple(scan.shape[axis] for axis in order)
        self.ndim = len(self.shape)

    def transpose(self, *order: int) -> "LazyScan":
        return LazyScan(self._scan, order)

    def __getitem__(self, flips: tuple[slice, ...]) -> "LazyScan":
        return LazyScan(self._scan, self._order, flips)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Some frames as float32, `(x, y, z, n)`."""
        values = getattr(self._scan, "dataobj", self._scan)[..., start:stop]
        return np.asarray(values, dtype=np.float32).transpose(self._order)[self._flips]


class ImageFrames(Frames):
    """Frames of an image or array with an affine, in its own units."""

    def __init__(self, scan: LazyScan) -> None:
        x, y, z, n_frames = scan.shape
        self._scan, self.shape = scan, (n_frames, y, x, z)

    @staticmethod
    def source(scan: Any) -> Any:
        """A scan as it can be read in blocks: an array, or an image whose file stays open between them.

        A packed file that is opened anew for each block would be unpacked from its start each time.
        """
        if not hasattr(scan, "dataobj"):
            return as_array(scan)
        file = scan.get_filename() if hasattr(scan, "get_filename") else None
        if isinstance(scan.dataobj, np.ndarray) or file is None or not str(file).endswith((".gz", ".bz2", ".zst")):
            return scan
        return type(scan).from_filename(file, keep_file_open=True)

    def into(self, target: "torch.Tensor", start: int) -> None:
        target.numpy()[...] = frame_major(self._scan.read(start, start + len(target)))


# --- scale ---


@dataclass
class VolumeScale:
    """What scales a scan, and what is known of each of its voxels.

    Attributes:
        shift, divisor: one is taken away from values, which the other divides; numbers, or float32 `(y, x, z)`.
        fill: what background becomes.
        low, high: extremes over time of what is not 0, `(y, x, z)`; inf and -inf where all is.
        zeros: where there are zeros, bool `(y, x, z)`.
        mean: of each voxel over time, float64 `(y, x, z)`.
        changing: with a scale for each voxel, those that have one; otherwise `None`: then zeros are background.
    """

    shift: "torch.Tensor"
    divisor: "torch.Tensor"
    fill: float
    low: "torch.Tensor"
    high: "torch.Tensor"
    zeros: "torch.Tensor"
    mean: "torch.Tensor"
    changing: "torch.Tensor | None" = None

    @property
    def seen(self) -> "torch.Tensor":
        """Voxels that are not background in all frames."""
        return self.high > -math.inf

    def apply(self, block: "torch.Tensor") -> None:
        """Scale frames in place; with the authors' arithmetic in float32."""
        background = block == 0 if self.changing is None else ~self.changing
        block.sub_(self.shift).div_(self.divisor).masked_fill_(background, self.fill)

    def extremes(self) -> "list[torch.Tensor]":
        """The least and the greatest scaled value of each voxel, exactly."""
        import torch

        ends, zero, fill = [], torch.zeros(()), torch.tensor(self.fill)
        for end, further in ((self.low, torch.minimum), (self.high, torch.maximum)):
            if self.changing is None:
                scaled = (end - self.shift) / self.divisor
                ends.append(torch.where(self.zeros, further(scaled, fill), scaled))
            else:  # zeros are values as any
                scaled = (torch.where(self.zeros, further(end, zero), end) - self.shift) / self.divisor
                ends.append(torch.where(self.changing, scaled, fill))
        return ends


def measure_scale(
    frames: Frames, normalization: str, background: str, name: str, counts: np.ndarray | None = None
) -> VolumeScale:
    """What scales a scan, by one pass over it; sums are in float64. See [`normalise_volumes`] for the rest."""
    import torch

    check_choice("normalization", normalization, NORMALIZATIONS)
    check_choice("background", background, BACKGROUNDS)
    size, by_voxel = frames.shape[1:], normalization == "zscore-voxel"
    n_frames, done = len(frames) if counts is None else int(counts.sum()), 0
    low, high = torch.full(size, torch.inf), torch.full(size, -torch.inf)
    zeros, sums = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.float64)
    squares, n_values, first = torch.zeros(size if by_voxel else (), dtype=torch.float64), 0, None
    for block in frames.blocks():
        done += len(block)
        if counts is not None:
            block = block[torch.from_numpy(counts[done - len(block) : done])]
            if not len(block):
                continue
        is_zero = block == 0
        zeros |= is_zero.any(0)
        low = torch.minimum(low, block.masked_fill(is_zero, torch.inf).amin(0))
        high = torch.maximum(high, block.masked_fill(is_zero, -torch.inf).amax(0))
        if not bool((low > -torch.inf).all()) or not bool((high < torch.inf).all()):
            raise ValueError(
                f"Expected finite numbers in {name}, got NaN or infinity. Outside the brain set them to 0; else "
                "preprocess that image again."
            )
        n_values += is_zero.numel() - int(is_zero.sum())
        wide = block.double()
        if by_voxel:  # from the first frame on: their squares may be large
            first = wide[0].clone() if first is None else first
            wide -= first
            squares += wide.square().sum(0)
        else:
            squares += torch.dot(wide.view(-1), wide.view(-1))
        sums += wide.sum(0)
    if not n_values:
        raise ValueError(f"Expected a brain in {name}, got zeros only.")
    if n_frames > 1 and not bool(((high > -torch.inf) & ((low < high) | zeros)).any()):
        raise ValueError(f"Expected voxels that change over time in {name}, got the same frame {n_frames} times.")
    known = {"low": low, "high": high, "zeros": zeros}
    if first is not None:
        mean = first + sums / n_frames
        shift, divisor = mean.float(), ((squares - sums**2 / n_frames) / (n_frames - 1)).clamp(min=0).sqrt().float()
        changing = divisor > 1e-6 * shift.abs().clamp(min=1e-30)
        if not bool(changing.any()):
            raise ValueError(f"Expected voxels that change over time in {name}, got none.")
        scale = VolumeScale(shift, divisor, 0.0, **known, mean=mean, changing=changing)
        if background == "min":
            scale.fill = min(float(scale.extremes()[0][changing].min()), 0.0)
        return scale
    smallest, largest = low.min(), high.max()
    shift, divisor = torch.zeros(()), torch.ones(())
    if normalization != "none":
        if smallest == largest:
            raise ValueError(f"Expected values that differ in {name}, got {float(smallest):g} everywhere.")
        shift, divisor = smallest, largest - smallest
    if normalization == "zscore":
        total = sums.sum()
        shift = (total / n_values).float()
        divisor = ((squares - total**2 / n_values) / (n_values - 1)).sqrt().float()
    fill = float((smallest - shift) / divisor) if background == "min" else 0.0
    return VolumeScale(shift, divisor, fill, **known, mean=sums / n_frames)


class ScaledFrames(Frames):
    """Frames of a scan, scaled as they are read.

    Args:
        frames: in their own units.
        normalization, background, name: see [`normalise_volumes`].
        counts: (n_frames,) bool, false for frames of which nothing is taken; `None` if all count.
    """

    def __init__(
        self, frames: Frames, normalization: str, background: str, name: str, counts: np.ndarray | None = None
    ) -> None:
        self._frames, self.shape = frames, frames.shape
        self.scale = measure_scale(frames, normalization, background, name, counts)

    def into(self, target: "torch.Tensor", start: int) -> None:
        self._frames.into(target, start)
        self.scale.apply(target)


def normalise_volumes(
    values: np.ndarray,
    normalization: str = "zscore",
    background: str = "min",
    name: str = "the scan",
    frame_mask: Any = None,
) -> np.ndarray:
    """Scale a scan as BrainMT's authors do, in memory.

    Mean and deviation are those of sums in float32, to the last bit. [`ScaledFrames`], and so `prepare` and the
    feature extractor, sum a block of frames at a time in float64: where that mean is rounded otherwise, some of a
    thousand float16 values are one unit in the last place off.

    Args:
        values: `(x, y, z, n_frames)` numbers; 0 is background, value by value.
        normalization: `"zscore"`: one mean and one unbiased deviation of all values that are not background (the
            authors' default; their README says otherwise); `"minmax"`: from 0 to 1 by their extremes; `"none"`; or
            `"zscore-voxel"` (ours): each voxel by its own mean and deviation over time, voxels that never change 0.
        background: what background becomes: `"min"`, the smallest of the scaled rest, or `"zero"`.
        name: what errors call the scan.
        frame_mask: (n_frames,), 0 for frames that were cut: nothing is taken from them, and they are 0 afterwards.

    Returns:
        float32, of the same shape.

    Raises:
        ValueError: for NaN or infinity, or a scan without values, or one that is constant.
    """
    import torch

    counts = frames_that_count(frame_mask, values.shape[-1], name)
    if counts is not None:
        whole = np.zeros(values.shape, dtype=np.float32)
        whole[..., counts] = normalise_volumes(values[..., counts], normalization, background, name)
        return whole
    frames = ScaledFrames(ImageFrames(LazyScan(np.asarray(values))), normalization, background, name)
    if normalization == "zscore":
        scan = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        foreground = scan[scan != 0]  # in the order of the file, which the last bit of a sum in float32 depends on
        scale = frames.scale
        scale.shift, scale.divisor = foreground.mean(), foreground.std()
        if background == "min":
            scale.fill = float((foreground.min() - scale.shift) / scale.divisor)
    return frames.in_file_order()


# --- files ---


class StoredFrames(Frames):
    """Frames in a file that is memory-mapped; those that are not asked for are not read.

    A file is one `.npy` array `(n_frames, y, x, z)`, or four of them behind each other: `(n_frames, n_voxels)` of the
    voxels that are not background in all frames; uint8, the bits of where they are in `(y, x, z)`; float32
    `(2, n_voxels)` or `(2, 1)`, scale and offset of what is stored; and float32 `(1,)`, what all other voxels are.

    Attributes:
        stored: what is in the file.
    """

    def __init__(
        self,
        stored: np.ndarray,
        shape: tuple[int, ...],
        scale: Any = 1.0,
        offset: Any = 0.0,
        voxels: np.ndarray | None = None,
        fill: float = 0.0,
    ) -> None:
        import torch

        self.stored, self.shape, self._voxels, self._fill = stored, shape, voxels, fill
        self._scale, self._offset = (torch.as_tensor(value, dtype=torch.float32) for value in (scale, offset))
        self._as_it_is = bool((self._scale == 1).all() and (self._offset == 0).all())

    def into(self, target: "torch.Tensor", start: int) -> None:
        # By torch: it makes float32 of float16 seven times faster than numpy.
        import torch

        part = torch.from_numpy(self.stored[start : start + len(target)])
        if self._voxels is None:
            target.copy_(part)
            if not self._as_it_is:
                target.mul_(self._scale).add_(self._offset)
            return
        for frame, values in zip(target.view(len(target), -1).numpy(), part):
            frame.fill(self._fill)
            scaled = values.float()
            frame[self._voxels] = (scaled if self._as_it_is else scaled.mul_(self._scale).add_(self._offset)).numpy()


def open_frames(row: Mapping[str, Any], name: str) -> StoredFrames:
    """The file of frames that a row names, memory-mapped; nothing of them is read yet.

    Raises:
        ValueError: if it is not there, damaged, or other than the row says; the message calls the scan `name`.
    """
    stored = open_stored(row, "volumes", STORED_DTYPES, f"frames of {name}", fits=_fits)
    shape = tuple(int(length) for length in row["shape"])
    if stored.ndim == 4:
        return StoredFrames(stored, shape, float(row["scale"]), float(row["offset"]))
    n_voxels, n_kept, path = math.prod(shape[1:]), stored.shape[1], Path(str(row["volumes"]))
    with reading(path, f"the frames of {name}", "Prepare it again."), path.open("rb") as stream:
        stream.seek(stored.offset + stored.nbytes)  # type: ignore[attr-defined]
        bits = _record(stream, np.uint8, (-(-n_voxels // 8),))
        scales = _record(stream, np.float32, (2, n_kept), (2, 1))
        fill = _record(stream, np.float32, (1,))
        voxels = np.flatnonzero(np.unpackbits(bits, count=n_voxels))
        if len(voxels) != n_kept:
            raise ValueError(f"it says where {len(voxels)} voxels are and holds {n_kept}")
    return StoredFrames(stored, shape, scales[0], scales[1], voxels, float(fill[0]))


def _fits(stored: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a file with an array like this can hold frames of this shape."""
    packed = len(stored) == 2 and stored[0] == shape[0] and stored[1] <= math.prod(shape[1:])
    return stored == shape or packed


def _record(stream: Any, dtype: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """The next array of a file, if it is one of this type and one of these shapes."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version follows the frames")
    shape, _, found = np.lib.format.read_array_header_1_0(stream)
    if found != dtype or shape not in shapes:
        raise ValueError(f"{found} {shape} follows the frames, not {np.dtype(dtype)} {shapes[0]}")
    return np.frombuffer(stream.read(math.prod(shape) * found.itemsize), found).reshape(shape).copy()
