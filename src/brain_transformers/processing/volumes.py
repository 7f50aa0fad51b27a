"""4-D BOLD volumes for BrainMT: orientation and grid by the affine, and windows of whole frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.configuration_base import ScanFacts
from .base import CheckedScan, ScanProcessor, as_array, check_choice, check_size
from .rows import check_columns, frames_that_count
from .template_brain import check_brain
from .time import known_t_r, window_starts
from .trials import Look
from .volume_frames import (
    BACKGROUNDS,
    NORMALIZATIONS,
    Frames,
    ImageFrames,
    LazyScan,
    ScaledFrames,
    open_frames,
)
from .volume_frames import frame_major as frame_major
from .volume_frames import normalise_volumes as normalise_volumes

MNI_SHAPE = (91, 109, 91)
# From voxel indices (x, y, z) to mm of FSL's MNI152 at 2 mm: the first axis runs from right to left.
MNI_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
_RESAMPLE = "read_volumes(path, resample=True), or prepare --resample"
# mm that the grid of a scan may be off that of MNI152, and the sine of the angle that counts as oblique.
_SAME_GRID, _OBLIQUE = 1.0, 0.05
# A scan of less than this share of the usual length was broken off, and no model is made for it.
_USUAL_LENGTH = 0.75


def mni_affine(volume_size: Sequence[int]) -> np.ndarray:
    """The affine of a grid of `[y, x, z]` voxels over the same block of space as MNI152 at 2 mm."""
    y, x, z = volume_size
    wanted = np.array([x, y, z], dtype=np.float64)
    affine = MNI_AFFINE.copy()
    affine[:3, :3] *= np.array(MNI_SHAPE) / wanted
    # Centres of the first voxels: half a voxel inside of the same faces.
    affine[:3, 3] += (np.diag(affine)[:3] - np.diag(MNI_AFFINE)[:3]) / 2
    return affine


def in_mni_orientation(values: Any, affine: Any, name: str) -> tuple[Any, np.ndarray]:
    """A scan with its axes in the order and direction of MNI152's grid, by its affine alone; nothing is resampled.

    Args:
        values: `(x, y, z, ...)`, in any order of the first three axes.
        affine: 4 x 4, from voxel indices to mm.
        name: what errors call the scan.

    Returns:
        The scan, a view, and its affine.

    Raises:
        ValueError: if the affine says no direction, or an oblique one.
    """
    matrix = as_array(affine).astype(np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-6:
        raise ValueError(
            f"Expected the affine of {name} as an invertible 4 x 4 matrix in mm, got one that says no direction. "
            "Write that image again with its sform."
        )
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    order = [int(np.argmax(np.abs(directions[world]))) for world in range(3)]
    if sorted(order) != [0, 1, 2] or np.abs(np.delete(directions[:, order], [0, 4, 8])).max() > _OBLIQUE:
        raise ValueError(
            f"Expected the axes of {name} along those of MNI152, got an oblique grid. Resample it: {_RESAMPLE}."
        )
    turned = np.eye(4)[:, [*order, 3]]
    matrix = matrix @ turned
    values = values.transpose(*order, *range(3, values.ndim))
    flips = [slice(None)] * 3
    for axis in range(3):
        if np.sign(matrix[axis, axis]) != np.sign(MNI_AFFINE[axis, axis]):
            matrix[:3, 3] += matrix[:3, axis] * (values.shape[axis] - 1)
            matrix[:3, axis] *= -1
            flips[axis] = slice(None, None, -1)
    return values[tuple(flips)], matrix


def check_grid(shape: Sequence[int], affine: np.ndarray, volume_size: Sequence[int], name: str) -> None:
    """Refuse a scan, in the orientation of MNI152, that is not on the grid of a model.

    Args:
        shape: its voxels (x, y, z).
        affine: its affine.
        volume_size: voxels `[y, x, z]`. With those of MNI152 at 2 mm it must be on that grid.
        name: what errors call the scan.
    """
    y, x, z = volume_size
    if tuple(shape) != (x, y, z):
        raise ValueError(
            f"Expected {name} with {x} x {y} x {z} voxels (x, y, z), got {' x '.join(map(str, shape))}. Resample it: "
            f"{_RESAMPLE}. Or make a model with volume_size={[shape[1], shape[0], shape[2]]}, which is "
            "[y, x, z] (--volume-size)."
        )
    corners = np.array([[0, 0, 0, 1], [x - 1, y - 1, z - 1, 1]]).T
    distance = np.abs((affine - MNI_AFFINE) @ corners)[:3].max()
    if (x, y, z) == MNI_SHAPE and distance > _SAME_GRID:
        raise ValueError(
            f"Expected {name} on the grid of MNI152 at 2 mm, got one that is {distance:.0f} mm away in a corner. "
            f"Register it to MNI152, or resample it: {_RESAMPLE}."
        )


def check_volumes_brain(frames: ScaledFrames, name: str) -> None:
    """Refuse frames on the grid of MNI152 at 2 mm whose brain lies otherwise; see [`template_brain.check_brain`]."""
    _, y, x, z = frames.shape
    if (x, y, z) == MNI_SHAPE:
        check_brain(frames.scale.mean.numpy(), frames.scale.seen.numpy(), name)


@dataclass
class CheckedVolumes(CheckedScan):
    """A scan whose `values` are frames `(n_frames, y, x, z)` on the grid of a model; none of them is read yet.

    Attributes:
        counts: (n_frames,) bool, false for frames that were cut, or `None`.
    """

    values: Frames
    counts: np.ndarray | None = None


class VolumeFeatureExtractor(ScanProcessor):
    """4-D BOLD in MNI152 at 2 mm becomes `volumes` `(n_windows, n_frames, 1, y, x, z)` float32.

    A scan is an image with an `affine` (nibabel's, or an array `(x, y, z, n_frames)` and `affine=`), which decides its
    orientation, or a row of a dataset that `prepare --kind volumes` wrote: a file of frames that are scaled already,
    of which only those of a window are read. Frames that were cut (0 in `frame_mask`, of a row or a call) keep their
    times: they are 0, and their tokens are masked.

    Args:
        volume_size: voxels `[y, x, z]` of the model. With the size of MNI152 at 2 mm, scans must be on that grid.
        n_frames: frames of a window.
        normalization, background: see [`normalise_volumes`].
        window: which windows are cut unless a call says otherwise. The authors take a random one in evaluation too.
        pad_short: take scans with fewer frames: the rest is 0 and masked. Otherwise they are refused, as there is no
            published model that saw any.
        check_brain: refuse images on the grid of MNI152 whose brain lies or stands otherwise; see
            [`template_brain.check_brain`].
    """

    model_input_names = ["volumes", "attention_mask"]
    reads = ("volumes",)
    tells = ("shape", "dtype", "scale", "offset", "normalization", "background")
    scan_ndim = 4
    modality = "fmri-volumes"
    takes_from_config = ("volume_size", "n_frames")

    def __init__(
        self,
        volume_size: Sequence[int] = (109, 91, 91),
        n_frames: int = 200,
        normalization: str = "zscore",
        background: str = "min",
        window: str = "center",
        pad_short: bool = False,
        check_brain: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.volume_size = [check_size("volume_size", size, 4096) for size in volume_size]
        self.n_frames = check_size("n_frames", n_frames, 1_000_000)
        check_choice("normalization", normalization, NORMALIZATIONS)
        check_choice("background", background, BACKGROUNDS)
        self.normalization, self.background, self.pad_short = normalization, background, bool(pad_short)
        self.check_brain = bool(check_brain)
        self.window = window

    @property
    def file_options(self) -> dict[str, Any]:
        """See [`ScanProcessor.file_options`]."""
        names = ("volume_size", "normalization", "background", "check_brain")
        return {name: getattr(self, name) for name in names}

    def scans_of(self, scans: Any) -> list[Any]:
        """As [`ScanProcessor.scans_of`]; images are scans as they are, one or several."""
        if isinstance(scans, (str, Path)):
            raise ValueError(
                f"Expected a scan, got the path {str(scans)!r:.200}. Read it: "
                "brain_transformers.data.read_volumes(path), which sees that its header can be believed."
            )
        if isinstance(scans, Mapping) and np.ndim(scans.get("dtype", "")):  # a slice of a dataset
            return [dict(zip(scans, values)) for values in zip(*scans.values(), strict=True)]
        images = list(scans) if isinstance(scans, (list, tuple)) else [scans]
        return images if any(hasattr(image, "dataobj") for image in images) else super().scans_of(scans)

    def per_scan(self, name: str, value: Any, n_scans: int) -> list[Any]:
        """As [`ScanProcessor.per_scan`]; one affine is a matrix of its own."""
        if name == "affine" and value is not None and np.ndim(value) == 2:
            return [value] * n_scans
        return super().per_scan(name, value, n_scans)

    def unpack(self, row: Mapping[str, Any], name: str, **known: Any) -> tuple[Any, dict[str, Any]]:
        """The file of frames of a row, of which nothing is read yet; or the image or array that it holds itself."""
        if not isinstance(row.get("volumes"), (str, Path)):
            own = {key: row.get(key) for key in ("affine", "t_r", "frame_mask")}
            return super().unpack(row, name, **{**own, **known})
        check_columns(row, (*self.reads, *self.tells), name)
        return row["volumes"], {**known, "stored": row}

    def check(
        self,
        scan: Any,
        name: str,
        affine: Any = None,
        t_r: Any = None,
        frame_mask: Any = None,
        stored: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> CheckedVolumes:
        """The frames of a scan on the grid of the model; see the class for what is accepted."""
        if known:
            raise TypeError(f"A 4-D scan takes affine, t_r and frame_mask, got {', '.join(known)}.")
        known_t_r(t_r, f"t_r of {name}")
        if stored is not None:
            checked = self._check_stored(name, stored)
            masks = [mask for mask in (stored.get("frame_mask"), frame_mask) if mask is not None]
            both = np.all(masks, axis=0) if len({np.shape(mask) for mask in masks}) == 1 else next(iter(masks), None)
            checked.counts = frames_that_count(both, len(checked.values), name)
            return checked
        if affine is None:
            affine = getattr(scan, "affine", None)
        shape = tuple(getattr(scan, "shape", ()) or as_array(scan).shape)
        if len(shape) != 4 or 0 in shape:
            raise ValueError(f"Expected {name} as 4-D volumes (x, y, z, n_frames), got shape {shape}.")
        if affine is None:
            raise ValueError(
                f"Expected an affine with {name}: the order and direction of its axes cannot be told from {shape}. "
                "Pass the image itself, or affine=."
            )
        values, matrix = in_mni_orientation(LazyScan(ImageFrames.source(scan)), affine, name)
        check_grid(values.shape[:3], matrix, self.volume_size, name)
        self._check_frames(shape[3], name)
        counts = frames_that_count(frame_mask, shape[3], name)
        frames = ScaledFrames(ImageFrames(values), self.normalization, self.background, name, counts)
        if self.check_brain:
            check_volumes_brain(frames, name)
        return CheckedVolumes(name, frames, counts)

    def _check_frames(self, n_frames: int, name: str) -> None:
        if n_frames < self.n_frames and not self.pad_short:
            raise ValueError(
                f"Expected {self.n_frames} frames in {name}, got {n_frames}. Leave it out, make a model with fewer "
                "n_frames, or set pad_short=True in the feature extractor: what is missing is masked then."
            )

    def _check_stored(self, name: str, row: Mapping[str, Any]) -> CheckedVolumes:
        for key in ("normalization", "background"):
            if row[key] != getattr(self, key):
                raise ValueError(
                    f"Expected {name} with {key}={getattr(self, key)!r}, got a file that was written with "
                    f"{str(row[key])!r}. Prepare the dataset again, or use a feature extractor with that."
                )
        frames = open_frames(row, name)
        if list(frames.shape[1:]) != self.volume_size:
            raise ValueError(
                f"Expected {name} with volumes of {self.volume_size} (y, x, z), got {list(frames.shape[1:])}. Prepare "
                "the dataset for this model (--volume-size)."
            )
        self._check_frames(len(frames), name)
        return CheckedVolumes(name, frames)

    @classmethod
    def facts(cls, rows: Any, chosen: Mapping[str, Any], what: str) -> ScanFacts:
        """Size and scale of the first row; rows that differ are refused when they are tried.

        Frames are those of the shortest row but for rows that are much shorter than most.
        """
        row = rows[0]
        scale = {key: str(row[key]) for key in ("normalization", "background")}
        lengths = np.array([shape[0] for shape in rows.with_format(None).select_columns(["shape"])["shape"]])
        n_frames = int(lengths[lengths >= _USUAL_LENGTH * np.median(lengths)].min())
        volume_size = [int(size) for size in row["shape"][1:]]
        return ScanFacts(volume_size=volume_size, n_frames=n_frames, processor_options=scale)

    def representatives(self, rows: Any) -> list[int]:
        """The shortest row of each size and scale."""
        columns = ("shape", "dtype", "normalization", "background")
        known = rows.with_format(None).select_columns(list(columns))[:]
        shortest: dict[Any, tuple[int, int]] = {}
        for number, (shape, *rest) in enumerate(zip(*(known[name] for name in columns))):
            kind = (*shape[1:], *rest)
            shortest[kind] = min(shortest.get(kind, (shape[0], number)), (shape[0], number))
        return [number for _, number in shortest.values()]

    def starts(self, scan: CheckedVolumes, **how: Any) -> list[float]:
        """See [`ScanProcessor.starts`]."""

        def empty(first: float) -> bool:
            return scan.counts is not None and not scan.counts[int(first) : int(first) + self.n_frames].any()

        return window_starts(len(scan.values), self.n_frames, name=scan.name, warn=self.warn_once, empty=empty, **how)

    def cut(self, scan: CheckedVolumes, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """Frames of the windows; of a file no others are read."""
        import torch  # the package is imported without it

        # By torch: numpy's large arrays ask for huge pages, which take seconds where memory is in use.
        output = torch.empty(len(starts), self.n_frames, 1, *self.volume_size)
        for start, window in zip(starts, output):
            n_frames = min(self.n_frames, len(scan.values) - int(start))
            scan.values.into(window[:n_frames, 0], int(start))
            window[n_frames:] = 0
            if scan.counts is not None:
                window[:n_frames][torch.from_numpy(~scan.counts[int(start) : int(start) + n_frames])] = 0
        return {"volumes": output.numpy()}

    def mask(self, scan: CheckedVolumes, starts: Sequence[float]) -> np.ndarray | None:
        """`attention_mask` (n_windows, n_patches * n_frames), patch-major: 0 behind a scan and for cut frames."""
        n_patches = math.prod(math.ceil(size / 16) for size in self.volume_size)
        times = np.asarray(starts)[:, None].astype(np.int64) + np.arange(self.n_frames)
        observed = times < len(scan.values)
        if scan.counts is not None:
            observed &= scan.counts[np.minimum(times, len(scan.counts) - 1)]
        return np.tile(observed.astype(np.int64), (1, n_patches))

    def report(self, scans: Sequence[Any], starts: Sequence[Sequence[float]], batch: Mapping[str, np.ndarray]) -> None:
        """Say which frames were cut."""
        gaps = [scan for scan in scans if scan.counts is not None]
        if gaps:
            self.warn_once(
                "missing frames",
                f"{int((~gaps[0].counts).sum())} of the {len(gaps[0].counts)} frames of {gaps[0].name} were cut. They "
                "stay gaps at their times, and their tokens are masked. So it is for other scans "
                "(`brain-transformers check` lists them).",
            )

    def look(self, row: Mapping[str, Any], name: str) -> Look:
        """Size, time and scale of a scan; of a file nothing but its header is read, unless a picture is wanted."""
        held = row["volumes"]
        stored = isinstance(held, (str, Path))
        if not stored and np.ndim(getattr(held, "dataobj", held)) != self.scan_ndim:
            return Look({"voxels": " x ".join(map(str, np.shape(held)))})
        x, y, z, n_frames = (row["shape"][axis] for axis in (2, 1, 3, 0)) if stored else held.shape
        counts = frames_that_count(row.get("frame_mask"), n_frames, name)
        t_r = row.get("t_r")
        if t_r is None and hasattr(held, "header"):
            t_r = float(held.header.get_zooms()[3]) or None
        t_r = known_t_r(t_r, f"t_r of {name}")
        facts = {
            "voxels": f"{x} x {y} x {z}",
            "t_r": t_r,
            "n_timepoints": int(n_frames),
            "minutes": None if t_r is None else round(n_frames * t_r / 60, 2),
            "units": f"{row['normalization']} ({row['dtype']})" if stored else "as the image has them",
            "cut_frames": 0 if counts is None else int((~counts).sum()),
        }

        def carpet() -> np.ndarray:
            frames = open_frames(row, name) if stored else ImageFrames(LazyScan(ImageFrames.source(held)))
            blocks = (block[:, ::9, ::9, ::9].reshape(len(block), -1).numpy() for block in frames.blocks())
            sample = np.concatenate(list(blocks)).T.astype(np.float32)
            sample = sample[np.ptp(sample, axis=1) > 0]
            return sample if counts is None else np.where(counts, sample, np.float32(np.nan))

        return Look(facts, carpet=carpet, t_r=t_r)

    def contract(self) -> dict[str, Any]:
        """See [`ScanProcessor.contract`]."""
        return {
            **super().contract(),
            "space": "MNI152",
            "volume_size": list(self.volume_size),
            "n_timepoints": self.n_frames,
            "scale": {"normalization": self.normalization},
        }

    def describe(self) -> dict[str, str]:
        """See [`ScanProcessor.describe`]."""
        scales = {
            "zscore": "mean 0 and deviation 1 over all voxels and frames that are not 0",
            "zscore-voxel": "each voxel with mean 0 and deviation 1 over time",
            "minmax": "from 0 to 1 over all voxels and frames that are not 0",
            "none": "as it is",
        }
        y, x, z = self.volume_size
        grid = ", on the grid of MNI152 at 2 mm" if (x, y, z) == MNI_SHAPE else ""
        return {
            "scans": f"4-D BOLD of {x} x {y} x {z} voxels (x, y, z){grid}",
            "inputs": f"volumes, {self.n_frames} frames of {y} x {x} x {z} (y, x, z)",
            "scale": scales[self.normalization],
        }

    def refuse(self, config: Any) -> None:
        """Refuse a model of other volumes, or of fewer frames."""
        size = getattr(config, "volume_size", None)
        if size is not None and list(size) != self.volume_size:
            raise ValueError(f"Expected volumes of {list(size)} (y, x, z), this extractor gives {self.volume_size}.")
        if self.n_frames > getattr(config, "n_frames", self.n_frames):
            raise ValueError(f"Expected at most {config.n_frames} frames, this extractor gives {self.n_frames}.")

    def example(self, config: Any) -> tuple[str, str, str]:
        """See [`ScanProcessor.example`]."""
        y, x, z = self.volume_size
        size = "" if (x, y, z) == MNI_SHAPE else f", volume_size={self.volume_size}"
        image = f'brain_transformers.data.read_volumes("sub-01_space-MNI152_bold.nii.gz"{size})'
        return image, "", "a 4-D image with its affine"
