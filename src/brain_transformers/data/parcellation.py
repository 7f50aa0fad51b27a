"""From images to ROI series: 4-D BOLD and dense CIFTI, never on the wrong grid and never mirrored."""

import inspect
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import ROIOrder
from ..foreign import reading
from ..optional import require
from ..version import __version__
from .atlas_images import Atlas, check_atlas_order, check_same_space, load_atlas, read_atlas, sha256_of
from .cifti import is_cifti, match_models, read_dtseries, refusal
from .cleaning import clean
from .errors import ROISeriesReadError
from .nifti import check_space, frame_blocks, header_t_r, load_image, space_of
from .readers import ROISeries
from .sidecars import scan_t_r

__all__ = ["check_atlas_order", "load_atlas", "parcellate"]

MIN_COVERAGE = 0.5
"""Share of a parcel that must hold data, as in XCP-D (`--min-coverage`)."""
_PACKAGES = ("nilearn", "nibabel", "numpy", "scipy")
# Values of a dense series that are held at once.
_BLOCK_VALUES = 1 << 22

_CLEANING = {
    name
    for name, option in inspect.signature(clean).parameters.items()
    if option.kind is inspect.Parameter.KEYWORD_ONLY
}


@dataclass
class _Source:
    """What is averaged: measurements at the places that a label image has parcels for.

    Args:
        frames: reads them from the first to the last frame, each (n_places,) in the type that nilearn computes with.
        owner: the row of each place.
        share: what each parcel has left within the image, of what it has in the atlas.
        n_frames: number of frames.
        t_r: repetition time of the header, seconds.
        space: the template, as the file tells.
        resampled: whether the label image had to be.
    """

    frames: Callable[[], Iterator[np.ndarray]]
    owner: np.ndarray
    share: np.ndarray
    n_frames: int
    t_r: float | None
    space: str | None
    resampled: bool


def parcellate(
    bold: Any,
    labels_img: Any,
    *,
    n_rois: int | None = None,
    t_r: float | None = None,
    roi_order: ROIOrder | None = None,
    min_coverage: float = MIN_COVERAGE,
    **cleaning: Any,
) -> ROISeries:
    """Average a 4-D BOLD image, or a dense CIFTI series, over the parcels of a label image.

    The label image is brought onto the grid of the BOLD image through both affines (nearest neighbour), so images that
    store the same space with a flipped axis give the same series. Signals are means over voxels, the same numbers as
    nilearn's `NiftiLabelsMasker` gives, except that voxels without data do not count: those that are constant in time
    (such as the 0 outside of a brain mask) or not finite. Vertices and voxels of CIFTI are matched by structure,
    number and place. Nothing is cleaned unless an option says so; then nilearn's `signal.clean` does it, after
    averaging.

    Args:
        bold: path or nibabel image, (x, y, z, n_timepoints), in the atlas's space (MNI); or the path of a
            `.dtseries.nii`.
        labels_img: path, known name or image; see `load_atlas`. Label k gives row k-1. For CIFTI a `.dlabel.nii`.
        n_rois: rows of the result; by default the largest label.
        t_r: repetition time, seconds; by default from the sidecar or the header; see `sidecars.scan_t_r`.
        roi_order: order that the label image is said to have, to check it; see `check_atlas_order`.
        min_coverage: parcels of which less than this share holds data, or lies within the image, are NaN.
        confounds: what to regress out: a table or array with one row a frame, the path of one, or a list of such. A
            first row of n/a (derivatives and displacement of fMRIPrep) is filled with the second, as nilearn's
            `load_confounds` does; gaps elsewhere are refused. A mapping holds options of `load_confounds` itself, such
            as `{"strategy": ["motion", "wm_csf", "scrub"]}`: it finds fMRIPrep's table beside the image, and gives
            sample_mask too.
        sample_mask: frames to keep, as `load_confounds` returns them: indices, or true for each frame to keep. The
            others are NaN at their times.
        standardize: `"zscore_sample"`, `"psc"`, or `None` for the units of the image.
        detrend: remove a line from each series.
        low_pass, high_pass: edges of a filter in Hz; they need a known t_r.
        standardize_confounds: see `nilearn.signal.clean`.
        filter: `"butterworth"` or `"cosine"`.

    Returns:
        The series, (n_rois, n_timepoints) float32, with the labels of its rows where the atlas has names, the
        `coverage` of each parcel, and its `provenance`. One warning says what holds no data.

    Raises:
        ROISeriesReadError: if an image cannot be read, has no declared space or another than the atlas, or most
            parcels lie outside of it or hold no data; if confounds or sample_mask do not fit the image; or for a
            filter that cannot be.
    """
    path = Path(bold) if isinstance(bold, (str, os.PathLike)) else None
    name = "the BOLD image" if path is None else str(path)
    if unknown := set(cleaning) - _CLEANING:
        raise ROISeriesReadError(
            f"{name}: parcellate has no option {sorted(unknown)[0]!r}; it has {', '.join(sorted(_CLEANING))} and "
            "min_coverage. Smooth or mask the image before (nilearn.image)."
        )
    if not 0 <= min_coverage <= 1:
        raise ROISeriesReadError(f"{name}: expected min_coverage from 0 to 1, got {min_coverage!r}.")
    dense = path is not None and is_cifti(path)
    if dense and isinstance(labels_img, (str, Path)) and Path(labels_img).exists() and not is_cifti(labels_img):
        raise ROISeriesReadError(refusal(name))
    atlas = read_atlas(labels_img)
    if dense != (atlas.affine is None):
        raise ROISeriesReadError(
            refusal(name) if dense else f"{name}: expected a label image (NIfTI) for it, got a label file of CIFTI."
        )
    if n_rois is not None and len(atlas.ids) > n_rois:
        raise ROISeriesReadError(
            f"{name}: the label image goes up to label {len(atlas.ids)}, but the parcel order has {n_rois} parcels. "
            "Use the label image that belongs to the roi_order."
        )
    n_rois = n_rois or len(atlas.ids)
    if roi_order is not None and not dense:
        check_atlas_order(atlas, roi_order)
    source = _dense(Path(bold), atlas, name) if dense else _volumes(bold, path, atlas, name)
    signals, n_all, n_good = _means(source, n_rois)
    coverage = np.zeros(n_rois)
    coverage[: len(source.share)] = source.share
    coverage *= n_good / np.maximum(n_all, 1)
    signals[(coverage < min_coverage) | (n_good == 0)] = np.nan
    _report_coverage(name, signals, n_all, n_good, coverage, min_coverage, atlas.labels)
    t_r = scan_t_r(path or name, given=t_r, header=source.t_r)
    signals, kept, done = clean(signals, name, path, t_r, **cleaning)
    return ROISeries(
        signals.astype(np.float32),
        atlas.labels if atlas.labels is not None and len(atlas.labels) == n_rois else None,
        t_r,
        frame_mask=kept,
        coverage=coverage.astype(np.float32),
        provenance={
            "image": {"file": None if path is None else path.name, "space": source.space},
            "atlas": {
                "source": atlas.source,
                "sha256": atlas.sha256,
                "space": atlas.space,
                "resampled": source.resampled,
            },
            "strategy": "mean",
            "min_coverage": min_coverage,
            "cleaning": done,
            "versions": {"brain-transformers": __version__} | {package: version(package) for package in _PACKAGES},
        },
    )


def provenance_text(series: ROISeries, path: Path) -> str:
    """How a series was made of an image, for a row: JSON with the hash of the file and the coverage of each parcel."""
    provenance = dict(series.provenance or {})
    provenance["image"] = {**provenance.get("image", {}), "sha256": sha256_of(path)}
    provenance["coverage"] = [] if series.coverage is None else [round(share, 3) for share in series.coverage.tolist()]
    return json.dumps(provenance)


# --- reading ---


def _volumes(bold: Any, path: Path | None, atlas: Atlas, name: str) -> _Source:
    with reading(name, "a NIfTI image; it may be truncated", error=ROISeriesReadError):
        # A packed file is read from front to back once, and not from its beginning for every block.
        image = bold if path is None else load_image(path, keep_file_open=True)
        shape, seconds, dtype = image.shape, header_t_r(image), image.get_data_dtype()
    if len(shape) != 4 or shape[3] < 2:
        raise ROISeriesReadError(f"{name}: expected a 4-D BOLD image (x, y, z, n_timepoints), got shape {shape}.")
    if dtype.kind not in "fiu":
        raise ROISeriesReadError(f"{name}: expected an image of real numbers, got {dtype}.")
    check_space(image, name)
    check_same_space(atlas, image, path, name)
    labels, share = atlas.on_grid(shape[:3], image.affine, name)
    # Files hold x fastest, and reading them in their own order takes a fraction of the time. Sums go through the
    # voxels as nilearn's do, z fastest, so that they are the same to the last bit.
    where = np.nonzero(labels)
    flat = np.ravel_multi_index(where, shape[:3], order="F")

    def frames() -> Iterator[np.ndarray]:
        for _, block in frame_blocks(image, name):
            for frame in block.reshape(-1, block.shape[3], order="F").T:
                yield frame.take(flat)

    return _Source(
        frames,
        labels[where] - 1,
        share,
        shape[3],
        seconds,
        None if path is None else space_of(path),
        labels is not atlas.values,
    )


def _dense(path: Path, atlas: Atlas, name: str) -> _Source:
    with reading(name, "a dense CIFTI series; it may be truncated", error=ROISeriesReadError):
        data, models, seconds = read_dtseries(path)
        rows = match_models(atlas.models, models, atlas.values > 0)
    there = np.flatnonzero((rows >= 0) & (atlas.values > 0))
    counts = np.bincount(atlas.values, minlength=len(atlas.ids) + 1)[1:]
    owner, rows = atlas.values[there] - 1, rows[there]

    def frames() -> Iterator[np.ndarray]:
        step = max(1, _BLOCK_VALUES // len(data))
        for first in range(0, data.shape[1], step):
            # Frames lie side by side in the file, so some are taken at once.
            with reading(name, "a dense CIFTI series; it may be truncated", error=ROISeriesReadError):
                block = np.asarray(data[:, first : first + step])
            yield from np.ascontiguousarray(block[rows].T)

    share = np.bincount(owner, minlength=len(counts)) / np.maximum(counts, 1)
    return _Source(frames, owner, share, data.shape[1], seconds, space_of(path), False)


# --- averaging ---


def _means(source: _Source, n_rois: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over places with data (n_rois, n_timepoints), and how many each parcel has in all and with data.

    Of the type that nilearn's maskers give: float32 of an image in this machine's float32, else float64.
    """
    sparse = require("scipy.sparse", extra="data", purpose="averaging")
    owner, n_places = source.owner, len(source.owner)
    averaging = sparse.csr_array((np.ones(n_places), (owner, np.arange(n_places))), shape=(n_rois, n_places))
    total = np.empty((n_rois, source.n_frames))
    blank = np.zeros(source.n_frames, dtype=bool)
    finite = np.ones(n_places, dtype=bool)
    low: np.ndarray = np.empty(0)
    high = low
    stored = None
    for number, frame in enumerate(source.frames()):
        stored = frame.dtype
        if stored.kind == "f" and not (good := np.isfinite(frame)).all():
            # Frames of NaN (and 0 outside of a mask) were scrubbed, and say nothing of the places.
            blank[number] = not (frame[good] != 0).any()
            if blank[number]:
                continue
            finite &= good
            frame[~good] = 0
        low, high = (frame, frame) if low.size == 0 else (np.minimum(low, frame), np.maximum(high, frame))
        total[:, number] = averaging @ frame.astype(np.float64)
    if low.size == 0:  # not one frame with a number in it
        low = high = np.zeros(n_places)
    data = finite & (low < high)
    # Places of constant 0, which lie outside of a brain mask, added nothing; for others the image is read once more.
    if (~data & ~(finite & (low == 0))).any():
        for number, frame in enumerate(source.frames()):
            frame[~data] = 0
            total[:, number] = averaging @ frame.astype(np.float64)
    n_all, n_good = np.bincount(owner, minlength=n_rois), np.bincount(owner, data, n_rois)
    with np.errstate(invalid="ignore", divide="ignore"):
        signals = total / n_good[:, None]
    signals[:, blank] = np.nan
    return signals.astype(np.float32 if stored == np.float32 else np.float64), n_all, n_good


def _report_coverage(
    name: str,
    signals: np.ndarray,
    n_all: np.ndarray,
    n_good: np.ndarray,
    coverage: np.ndarray,
    min_coverage: float,
    labels: tuple[str, ...] | None,
) -> None:
    """Refuse a scan of which most parcels are empty; warn, once, of parcels and voxels without data."""
    n_rois, n_bad, n_voxels = len(signals), int((n_all - n_good).sum()), int(n_all.sum())
    share = "half" if min_coverage == 0.5 else f"{min_coverage:.0%}"
    absent = n_all == 0
    empty = ~absent & ((coverage < min_coverage) | (n_good == 0))

    def first(rows: np.ndarray) -> str:
        found = np.flatnonzero(rows)[:5]
        return str([int(row) + 1 if labels is None or row >= len(labels) else labels[row] for row in found])

    if (absent | empty).sum() * 2 > n_rois:
        raise ROISeriesReadError(
            f"{name}: {int((absent | empty).sum())} of {n_rois} parcels hold no data, or less than {share} of their "
            f"voxels do: {n_bad} of {n_voxels} voxels in parcels are constant in time or not finite. Check that the "
            "image is a BOLD series in the atlas's space."
        )
    parts = []
    if absent.any():
        parts.append(
            f"{int(absent.sum())} of {n_rois} parcels have no voxel in the image and are NaN (first labels: "
            f"{first(absent)})"
        )
    if n_bad:
        parts.append(
            f"{n_bad} of {n_voxels} voxels in parcels are constant in time or not finite and do not count "
            f"({int(((n_all > n_good) & ~empty).sum())} parcels are means over the others)"
        )
    if empty.any():
        parts.append(
            f"{int(empty.sum())} parcels with data in less than {share} of their voxels are NaN (first labels: "
            f"{first(empty)})"
        )
    if parts:
        warnings.warn(f"{name}: {'; '.join(parts)}.", UserWarning, stacklevel=3)
