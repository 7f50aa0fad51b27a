"""From 4-D BOLD images to ROI series, never on the wrong grid and never mirrored."""

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import ROI_ORDERS, ROIOrder, label_centres
from ..files import no_space
from ..foreign import reading
from ..optional import require
from ..processing.missing import missing_frames
from .cifti import is_cifti, refusal
from .errors import ROISeriesReadError
from .nifti import check_space, frame_blocks, header_t_r, load_image, read_to_end
from .participants import is_gap
from .readers import ROISeries
from .sidecars import scan_t_r

# Atlases that nilearn can fetch (over the network, once) in exactly the order of their name.
_FETCHABLE = {"schaefer400-7net": 7, "schaefer400-17net": 17}
# A parcel that loses more than this share of its volume on the image's grid is cut off, not just resampled.
_LOST_SHARE = 0.5
# Centres of the same parcels in two label volumes differ by less: by 2.2 mm at most on a grid of 4 mm instead of 1 mm
# (Schaefer's 400), by some 5 mm between templates.
_CENTRE_MM = 10.0


def load_atlas(atlas: str | Path) -> Any:
    """Load a label image from a NIfTI file, or fetch one by the name of its parcel order.

    Args:
        atlas: path of a label image, or `"schaefer400-7net"` / `"schaefer400-17net"`, which nilearn downloads.

    Returns:
        The nibabel image; label k is row k-1 of the parcel order.

    Raises:
        ROISeriesReadError: if the file is missing, damaged, not 3-D, or its labels are not whole numbers from 1 up.
    """
    if str(atlas) in _FETCHABLE and not Path(atlas).exists():
        nilearn_datasets = require("nilearn.datasets", extra="data", purpose="fetching an atlas")
        try:
            fetched = nilearn_datasets.fetch_atlas_schaefer_2018(
                n_rois=400, yeo_networks=_FETCHABLE[str(atlas)], resolution_mm=2
            )
        except Exception as error:  # what a network, a server or a proxy does wrong comes in many kinds
            if no_space(error):
                raise
            raise ROISeriesReadError(
                f"The atlas {atlas} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). Try again "
                "with a network, or give the path of its label image as atlas (--atlas), with its roi_order."
            ) from error
        atlas = Path(fetched["maps"])
    path = Path(atlas)
    if not path.is_file():
        raise ROISeriesReadError(
            f"{path}: there is no such label image. Give the path of a NIfTI file, or one of {sorted(_FETCHABLE)}."
        )
    with reading(path, "a label image", error=ROISeriesReadError):
        image = load_image(path, keep_file_open=True)
        checked = _checked_labels(image, path)
        read_to_end(image)
    return checked


def _checked_labels(image: Any, path: Any) -> Any:
    """The label image as whole numbers; refuses what is none."""
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    labels = np.asarray(image.dataobj)
    labels = labels[..., 0] if labels.ndim == 4 and labels.shape[3] == 1 else labels
    if labels.ndim != 3:
        raise ROISeriesReadError(f"{path}: expected a 3-D label image, got shape {labels.shape}.")
    whole = np.rint(labels)
    if not np.isfinite(labels).all() or np.abs(labels - whole).max() > 1e-3 or whole.min() < 0 or whole.max() < 1:
        raise ROISeriesReadError(f"{path}: expected whole-number labels from 1 up on a background of 0.")
    check_space(image, path)
    return nib.Nifti1Image(whole.astype(np.int32), image.affine)


def check_atlas_order(labels_img: Any, roi_order: ROIOrder, name: str = "the label image") -> None:
    """Refuse a label image whose parcels lie elsewhere than those of the order it is said to have.

    Editions of an atlas hold the same parcels under other numbers. The centres that this package ships tell them
    apart: in the right order they are within a few mm of those of the image, in the other edition of Schaefer's 400
    parcels 58 mm away (median), and 3 % of them within 15 mm. Orders without shipped centres are not checked.

    Raises:
        ROISeriesReadError: if parcels lie elsewhere; the message names the order that fits, if one does.
    """
    expected = label_centres(roi_order)
    if np.isnan(expected).all():
        return
    found = _centres(labels_img, len(expected))

    def misplaced(centres: np.ndarray) -> tuple[bool, np.ndarray]:
        distance = np.linalg.norm(found - centres, axis=1)
        known = distance[np.isfinite(distance)]
        return bool(known.size) and (np.median(known) > _CENTRE_MM or (known > 2 * _CENTRE_MM).mean() > 0.05), distance

    wrong, distance = misplaced(expected)
    if not wrong:
        return
    fitting = [
        other
        for other in ROI_ORDERS
        if len(label_centres(other)) == len(expected) and not misplaced(label_centres(other))[0]
    ]
    # "a424" has no centres to contradict, so it would fit everything.
    fitting = [other for other in fitting if np.isfinite(label_centres(other)).any()]
    label = int(np.nanargmax(distance)) + 1
    shown = roi_order if isinstance(roi_order, str) else f"a list of {len(expected)} labels"
    fix = (
        f"Its parcels are in the order {fitting[0]!r}: declare that (roi_order), or use the label image of the other "
        "edition."
        if fitting
        else "Use the label image that belongs to the roi_order, in MNI space and not mirrored."
    )
    raise ROISeriesReadError(
        f"{name}: its parcels do not lie where those of {shown} lie (median {np.nanmedian(distance):.0f} mm away; "
        f"label {label}: {distance[label - 1]:.0f} mm). {fix}"
    )


def _centres(labels_img: Any, n_rois: int) -> np.ndarray:
    """Centre of mass of labels 1 to `n_rois`, (n_rois, 3), mm; NaN for labels without a voxel."""
    labels = np.rint(np.asarray(labels_img.dataobj)).astype(np.int64)
    labels = labels[..., 0] if labels.ndim == 4 else labels
    where = np.nonzero((labels > 0) & (labels <= n_rois))
    owner = labels[where]
    counts = np.bincount(owner, minlength=n_rois + 1)[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        voxels = np.stack([np.bincount(owner, axis, n_rois + 1)[1:] / counts for axis in where], axis=1)
    return voxels @ labels_img.affine[:3, :3].T + labels_img.affine[:3, 3]


def parcellate(
    bold: Any,
    labels_img: Any,
    *,
    n_rois: int | None = None,
    t_r: float | None = None,
    confounds: Any = None,
    sample_mask: Any = None,
    standardize: str | bool | None = None,
    detrend: bool = False,
    low_pass: float | None = None,
    high_pass: float | None = None,
    standardize_confounds: bool = True,
    filter: str = "butterworth",
    roi_order: ROIOrder | None = None,
    **unknown: Any,
) -> ROISeries:
    """Average a 4-D BOLD image over the parcels of a label image.

    The label image is brought onto the grid of the BOLD image through both affines (nearest neighbour), so images that
    store the same space with a flipped axis give the same series. Signals are means over voxels, as nilearn's
    `NiftiLabelsMasker` gives them, except that voxels without data do not count: those that are constant in time (such
    as the 0 outside of a brain mask) or not finite. Nothing is cleaned unless an option says so; then nilearn's
    `signal.clean` does it, after averaging.

    Args:
        bold: path or nibabel image, (x, y, z, n_timepoints), in the atlas's space (MNI).
        labels_img: path, known name or image; see `load_atlas`. Label k gives row k-1.
        n_rois: rows of the result; by default the largest label.
        t_r: repetition time, seconds; by default from the sidecar or the header; see `sidecars.scan_t_r`.
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
        roi_order: order that the label image is said to have, to check it; see `check_atlas_order`.

    Returns:
        The series, (n_rois, n_timepoints) float32; parcels of which less than half of the voxels in the image hold
        data are NaN. One warning says how many.

    Raises:
        ROISeriesReadError: if an image cannot be read, has no declared space, or most parcels lie outside of it or
            hold no data; if confounds or sample_mask do not fit the image; or for a filter that cannot be.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    image_module = require("nilearn.image", extra="data", purpose="resampling an atlas")
    path = Path(bold) if isinstance(bold, (str, os.PathLike)) else None
    name = "the BOLD image" if path is None else str(path)
    if unknown:
        raise ROISeriesReadError(
            f"{name}: parcellate has no option {sorted(unknown)[0]!r}; it has confounds, sample_mask, standardize, "
            "detrend, low_pass, high_pass, standardize_confounds and filter. Smooth or mask the image before "
            "(nilearn.image)."
        )
    if path is not None and is_cifti(path):
        raise ROISeriesReadError(refusal(path))
    with reading(name, "a NIfTI image; it may be truncated", error=ROISeriesReadError):
        # A packed file is read from front to back once, and not from its beginning for every block.
        image = bold if path is None else load_image(path, keep_file_open=True)
        shape = image.shape
        in_header = header_t_r(image)
    if len(shape) != 4 or shape[3] < 2:
        raise ROISeriesReadError(f"{name}: expected a 4-D BOLD image (x, y, z, n_timepoints), got shape {shape}.")
    if image.get_data_dtype().kind not in "fiu":
        raise ROISeriesReadError(f"{name}: expected an image of real numbers, got {image.get_data_dtype()}.")
    check_space(image, name)
    atlas = load_atlas(labels_img) if isinstance(labels_img, (str, Path)) else _checked_labels(labels_img, "the atlas")
    if roi_order is not None:
        check_atlas_order(atlas, roi_order)
    counts = np.bincount(np.asarray(atlas.dataobj).astype(np.int64).ravel())
    n_rois = n_rois or len(counts) - 1
    if len(counts) - 1 > n_rois:
        raise ROISeriesReadError(
            f"{name}: the label image goes up to label {len(counts) - 1}, but the parcel order has {n_rois} parcels. "
            "Use the label image that belongs to the roi_order."
        )
    if atlas.shape != shape[:3] or not np.allclose(atlas.affine, image.affine, atol=1e-3):
        reference = nib.Nifti1Image(np.zeros(shape[:3], dtype=np.uint8), image.affine)
        try:
            resampled = image_module.resample_to_img(
                atlas, reference, interpolation="nearest", force_resample=True, copy_header=True
            )
        except ValueError as error:  # nilearn's word for images that do not touch at all
            raise ROISeriesReadError(
                f"{name}: image and atlas do not overlap. The image must be in the atlas's space (MNI): normalise it "
                f"first ({error})."
            ) from error
    else:
        resampled = atlas
    labels = np.rint(np.asarray(resampled.dataobj)).astype(np.int32)
    _check_cover(name, counts, labels, atlas.affine, image.affine, n_rois)

    signals, n_voxels, n_good = _means_over_parcels(image, labels, n_rois, name)
    _report_coverage(name, signals, n_voxels, n_good)
    t_r = scan_t_r(path or name, given=t_r, header=in_header)
    if isinstance(confounds, Mapping):
        if sample_mask is not None:
            raise ROISeriesReadError(
                f"{name}: expected sample_mask from load_confounds or from the call, got both. Leave one out."
            )
        confounds, sample_mask = _fmriprep_confounds(path, dict(confounds), name)
    table = _confounds_table(confounds, shape[3], name)
    kept = _kept_frames(sample_mask, shape[3], name)
    if standardize is True:
        standardize = "zscore_sample"
    if standardize not in (None, False, "zscore_sample", "psc"):
        raise ROISeriesReadError(f"{name}: expected standardize 'zscore_sample', 'psc' or None, got {standardize!r}.")
    _check_filter(low_pass, high_pass, filter, t_r, name)
    filtered = low_pass is not None or high_pass is not None
    if table is not None or detrend or standardize or filtered:
        signals = _cleaned(
            signals,
            kept,
            name,
            confounds=table,
            standardize=standardize or None,
            detrend=detrend,
            low_pass=low_pass,
            high_pass=high_pass,
            standardize_confounds=standardize_confounds,
            filter=filter if filtered else False,
            t_r=t_r,
        )
    elif kept is not None:
        signals[:, ~kept] = np.nan
    return ROISeries(signals, None, t_r)


# --- averaging ---


def _labelled_frames(image: Any, where: np.ndarray, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of frames at the labelled voxels: number of the first frame, and float32 (n_voxels, n_frames)."""
    for first, block in frame_blocks(image, name):
        # Files hold x fastest, and reading them in their own order takes a fraction of the time.
        yield first, block.reshape(-1, block.shape[3], order="F")[where].astype(np.float32)


def _means_over_parcels(
    image: Any, labels: np.ndarray, n_rois: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over voxels with data (n_rois, n_timepoints) float32, and how many voxels each parcel has in all and with
    data; NaN where fewer than half have some."""
    where = np.flatnonzero(labels.ravel(order="F"))
    owner = labels.ravel(order="F")[where] - 1
    n_frames = image.shape[3]
    low = np.full(len(owner), np.inf, dtype=np.float32)
    high = np.full(len(owner), -np.inf, dtype=np.float32)
    finite = np.ones(len(owner), dtype=bool)
    weight = np.ones(len(owner))
    blank = np.zeros(n_frames, dtype=bool)

    def sums(first_pass: bool) -> np.ndarray:
        total = np.empty((n_frames, n_rois))
        for first, block in _labelled_frames(image, where, name):
            if first_pass:
                good = np.isfinite(block)
                if not good.all():
                    # Frames of NaN (and 0 outside of a mask) were scrubbed, and say nothing of the voxels.
                    empty = ~(good & (block != 0)).any(axis=0) & ~good.all(axis=0)
                    blank[first : first + block.shape[1]] = empty
                    np.logical_and(finite, (good | empty).all(axis=1), out=finite)
                    block[~good] = 0.0
                    block_low = np.where(good & ~empty, block, np.inf).min(axis=1)
                    block_high = np.where(good & ~empty, block, -np.inf).max(axis=1)
                else:
                    block_low, block_high = block.min(axis=1), block.max(axis=1)
                np.minimum(low, block_low, out=low)
                np.maximum(high, block_high, out=high)
            elif not finite.all():
                block[~finite] = 0.0
            for frame in range(block.shape[1]):
                total[first + frame] = np.bincount(owner, block[:, frame] * weight, n_rois)
        return total

    total = sums(first_pass=True)
    data = finite & (low < high)
    # Voxels of constant 0, which lie outside of a brain mask, added nothing; for others the image is read once more.
    if (~data & ~(finite & (low == 0))).any():
        weight = data.astype(np.float64)
        total = sums(first_pass=False)
    n_voxels = np.bincount(owner, minlength=n_rois)
    n_good = np.bincount(owner, data, n_rois)
    with np.errstate(invalid="ignore", divide="ignore"):
        signals = (total / n_good).T.astype(np.float32)
    signals[n_good * 2 < n_voxels] = np.nan
    signals[n_good == 0] = np.nan
    signals[:, blank] = np.nan
    return signals, n_voxels, n_good


def _report_coverage(name: str, signals: np.ndarray, n_voxels: np.ndarray, n_good: np.ndarray) -> None:
    n_rois = len(signals)
    absent, empty = n_voxels == 0, (n_voxels > 0) & np.isnan(signals).all(axis=1)
    n_bad = int((n_voxels - n_good).sum())
    if (absent | empty).sum() * 2 > n_rois:
        raise ROISeriesReadError(
            f"{name}: {int((absent | empty).sum())} of {n_rois} parcels hold no data: {n_bad} of "
            f"{int(n_voxels.sum())} voxels in them are constant in time or not finite. Check that the image is a BOLD "
            "series in the atlas's space."
        )
    parts = []
    if absent.any():
        first = (np.flatnonzero(absent)[:5] + 1).tolist()
        parts.append(
            f"{int(absent.sum())} of {n_rois} parcels have no voxel in the image and are NaN (first labels: {first})"
        )
    if n_bad:
        touched = int(((n_voxels > n_good) & ~empty).sum())
        text = (
            f"{n_bad} of {int(n_voxels.sum())} voxels in parcels are constant in time or not finite and do not count "
            f"({touched} parcels are means over the others"
        )
        if empty.any():
            first = (np.flatnonzero(empty)[:5] + 1).tolist()
            text += f", {int(empty.sum())} with data in less than half of their voxels are NaN, first labels: {first}"
        parts.append(text + ")")
    if parts:
        warnings.warn(f"{name}: {'; '.join(parts)}.", UserWarning, stacklevel=3)


# --- cleaning ---


def _fmriprep_confounds(path: Path | None, options: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Confounds and sample mask that nilearn finds beside an image of fMRIPrep."""
    fmriprep = require("nilearn.interfaces.fmriprep", extra="data", purpose="choosing confounds")
    if path is None:
        raise ROISeriesReadError(f"{name}: confounds by strategy need the path of the image, beside which they lie.")
    try:
        return fmriprep.load_confounds(str(path), **options)
    except Exception as error:  # no table, another name, an unknown strategy or option
        raise ROISeriesReadError(
            f"{name}: nilearn's load_confounds gives no confounds with {options!r:.200} ({type(error).__name__}: "
            f"{str(error)[:300]}). Pass a table as confounds, or options that fit."
        ) from error


def _confounds_table(confounds: Any, n_frames: int, name: str) -> Any:
    """The confounds as a DataFrame of finite numbers with one row a frame, or `None`."""
    if confounds is None:
        return None
    pandas = require("pandas", extra="data", purpose="reading confounds")
    if isinstance(confounds, tuple) and len(confounds) == 2:
        raise ROISeriesReadError(
            f"{name}: expected confounds, got two things: load_confounds returns (confounds, sample_mask). Pass them "
            "one by one: confounds=confounds, sample_mask=sample_mask."
        )
    if isinstance(confounds, list):
        tables = [_confounds_table(part, n_frames, name) for part in confounds]
        return pandas.concat(tables, axis=1) if tables else None
    try:
        if isinstance(confounds, (str, Path)):
            table = pandas.read_csv(confounds, sep="," if str(confounds).endswith((".csv", ".csv.gz")) else "\t")
        else:
            table = pandas.DataFrame(confounds)
    except Exception as error:  # a missing or damaged table, or something else than a table
        raise ROISeriesReadError(
            f"{name}: confounds {confounds!r:.80} cannot be read as a table ({error}). Give the path of a .tsv, a "
            "DataFrame, or an array with one row a frame."
        ) from error
    table = table.rename(columns=lambda column: column if isinstance(column, str) else f"column {column}")
    if len(table) != n_frames:
        raise ROISeriesReadError(
            f"{name}: expected confounds with one row for each of the {n_frames} frames, got {len(table)} rows. If "
            "frames were cut from the image, cut the same rows; to leave frames out, use sample_mask."
        )
    for column in table:
        values = table[column]
        if values.dtype.kind not in "fiub":
            text = values.astype(object).map(lambda cell: np.nan if is_gap(cell) else cell)
            values = pandas.to_numeric(text, errors="coerce")
            if (values.isna() & ~pandas.isna(text)).any():
                raise ROISeriesReadError(
                    f"{name}: expected numbers in the confounds, got text in {column!r} (such as "
                    f"{str(text[values.isna() & ~pandas.isna(text)].iloc[0])[:40]!r}). Leave that column out."
                )
        values = values.astype(np.float64)
        gaps = ~np.isfinite(values.to_numpy())
        if gaps[0] and n_frames > 1 and not gaps[1:].any():
            values.iloc[0] = values.iloc[1]
        elif gaps.any():
            raise ROISeriesReadError(
                f"{name}: expected finite numbers in the confounds, got {int(gaps.sum())} gaps in {column!r} (first "
                f"in row {int(np.flatnonzero(gaps)[0])}). Only a gap in the first row is filled, with the second, as "
                "nilearn's load_confounds does. Leave that column out, or fill it."
            )
        table[column] = values
    if table.shape[1] >= n_frames - 1:
        raise ROISeriesReadError(
            f"{name}: expected fewer confounds than frames ({n_frames}), got {table.shape[1]} columns, which would "
            "take everything out. Choose columns, for example with nilearn.interfaces.fmriprep.load_confounds."
        )
    return table.astype(np.float64)


def _kept_frames(sample_mask: Any, n_frames: int, name: str) -> np.ndarray | None:
    """True for each frame to keep, or `None` for all."""
    if sample_mask is None:
        return None
    if isinstance(sample_mask, (list, tuple)) and len(sample_mask) == 1 and np.ndim(sample_mask[0]) == 1:
        sample_mask = sample_mask[0]
    try:
        given = np.asarray(sample_mask)
    except ValueError:
        given = np.empty(0, dtype=object)
    kept = np.zeros(n_frames, dtype=bool)
    if given.ndim == 1 and given.dtype == bool and len(given) == n_frames:
        kept = given.copy()
    elif given.ndim == 1 and given.dtype.kind in "iu" and given.size and given.min() >= 0 and given.max() < n_frames:
        kept[given] = True
    else:
        raise ROISeriesReadError(
            f"{name}: expected sample_mask with the numbers of the frames to keep (0 to {n_frames - 1}), or true or "
            "false "
            f"for each of the {n_frames} frames, got {_what(given)}. It belongs to another scan, or to several runs."
        )
    if kept.sum() < 2:
        raise ROISeriesReadError(f"{name}: expected sample_mask to keep frames, got {int(kept.sum())} of {n_frames}.")
    return kept


def _what(given: np.ndarray) -> str:
    if given.ndim != 1 or given.dtype.kind not in "iub" or not given.size:
        return f"shape {given.shape} of {given.dtype}"
    return f"{len(given)} values" + ("" if given.dtype == bool else f" from {given.min()} to {given.max()}")


def _check_filter(low_pass: Any, high_pass: Any, kind: Any, t_r: float | None, name: str) -> None:
    if kind not in ("butterworth", "cosine"):
        raise ROISeriesReadError(f"{name}: expected filter 'butterworth' or 'cosine', got {kind!r}.")
    if low_pass is None and high_pass is None:
        return
    if t_r is None:
        raise ROISeriesReadError(
            f"{name}: a filter in Hz needs the repetition time, and the header does not tell it. Pass t_r in "
            "seconds (--t-r)."
        )
    nyquist = 0.5 / t_r
    for option, value in (("low_pass", low_pass), ("high_pass", high_pass)):
        if value is not None and (not isinstance(value, (int, float, np.number)) or not 0 < value < nyquist):
            raise ROISeriesReadError(
                f"{name}: expected {option} above 0 and below {nyquist:.4g} Hz, half the sampling rate at t_r {t_r:g} "
                f"s, got {value!r}."
            )
    if low_pass is not None and high_pass is not None and high_pass >= low_pass:
        raise ROISeriesReadError(
            f"{name}: expected high_pass below low_pass, got high_pass={high_pass:g} and low_pass={low_pass:g}: the "
            "band between them is kept."
        )
    if kind == "cosine" and (high_pass is None or low_pass is not None):
        raise ROISeriesReadError(f"{name}: filter='cosine' takes high_pass alone. Use 'butterworth' for low_pass.")


def _cleaned(signals: np.ndarray, kept: np.ndarray | None, name: str, **options: Any) -> np.ndarray:
    """The series after `nilearn.signal.clean`, with NaN in frames that are not kept or were not measured."""
    cleaning = require("nilearn.signal", extra="data", purpose="cleaning series")
    missing = missing_frames(signals)
    if missing is not None:
        kept = ~missing if kept is None else kept & ~missing
    present = np.flatnonzero(~np.isnan(signals).all(axis=1))
    sample_mask = None if kept is None or kept.all() else np.flatnonzero(kept)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="When confounds are provided", category=UserWarning)
            series = cleaning.clean(signals[present].T.astype(np.float64), sample_mask=sample_mask, **options)
    except Exception as error:  # nilearn and scipy raise many kinds for series that are too short, and such
        raise ROISeriesReadError(
            f"{name}: nilearn cannot clean the series with these confounds, sample_mask and filter ({error})."
        ) from error
    result = np.full(signals.shape, np.nan, dtype=np.float32)
    frames = np.arange(signals.shape[1]) if sample_mask is None else sample_mask
    if len(series) != len(frames):
        raise ROISeriesReadError(
            f"{name}: expected {len(frames)} frames after cleaning, got {len(series)}. Check sample_mask."
        )
    result[np.ix_(present, frames)] = series.T
    return result


def _check_cover(
    name: str, counts: np.ndarray, labels: np.ndarray, atlas_affine: np.ndarray, affine: np.ndarray, n_rois: int
) -> None:
    ratio = abs(np.linalg.det(affine[:3, :3])) / abs(np.linalg.det(atlas_affine[:3, :3]))
    found = np.bincount(labels.ravel(), minlength=n_rois + 1)[1 : n_rois + 1] * ratio
    expected = np.zeros(n_rois)
    expected[: len(counts) - 1] = counts[1:]
    lost = (found < (1 - _LOST_SHARE) * expected) & (expected > 0)
    # Small parcels vanish on coarse grids, which is resampling; half of the atlas vanishing is another space.
    if lost.sum() * 2 > (expected > 0).sum():
        raise ROISeriesReadError(
            f"{name}: {int(lost.sum())} of {int((expected > 0).sum())} parcels lie mostly outside of the image. "
            "The image must be in the atlas's space (MNI): normalise it first."
        )
