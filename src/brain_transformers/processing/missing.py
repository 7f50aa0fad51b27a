"""What of a scan was never measured, however the software before wrote that down.

A frame that was scrubbed or padded is NaN in one pipeline and 0 in the next, and 0 less the parcel's mean in a third.
A number that no scanner gives (1e10 among values around 1) is a fault of a file and not a measurement.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

# With fewer parcels than this, two frames may be equal by chance (whole numbers, two regions).
_MANY_ROIS = 8
# Runs that a scan may be joined from, each with its own mean.
_MOST_RUNS = 8
# Motion and the frames before the steady state stay within a thousand or so (three times a mean of 10,000 against an
# interquartile range of 20).
OUTLIER_IQRS = 1e4


def missing_frames(signals: np.ndarray) -> np.ndarray | None:
    """Frames in which nothing was measured.

    These are frames without a finite value, and frames that are exactly 0 in every parcel. With eight parcels or more,
    they are also frames with one value in all parcels, and frames that are exact copies of each other (zeros from
    which the means were subtracted, a last frame that was repeated). Parcels that are NaN throughout play no part.

    Args:
        signals: (n_rois, n_timepoints).

    Returns:
        (n_timepoints,) bool, or `None` if every frame was measured.
    """
    n_rois, n_timepoints = signals.shape
    # Three rows tell which frames are worth a look at all rows.
    probes = signals[[0, n_rois // 2, n_rois - 1]]
    missing = np.zeros(n_timepoints, dtype=bool)
    finite = np.isfinite(probes)
    candidates = np.flatnonzero((~finite | (probes == _first_finite(probes, finite))).all(axis=0))
    if candidates.size:
        part = signals[:, candidates]
        measured = np.isfinite(part)
        low = np.where(measured, part, np.inf).min(axis=0)
        high = np.where(measured, part, -np.inf).max(axis=0)
        missing[candidates] = (low > high) | ((low == 0) & (high == 0) & (n_rois > 1))
        alike = (low == high) & (measured.sum(axis=0) >= _MANY_ROIS)
        # A scan whose parcels are copies of each other has nothing but such frames.
        if alike.sum() + (low > high).sum() < n_timepoints:
            missing[candidates[alike]] = True
    copies = _copied_frames(signals, probes, missing) if n_rois >= _MANY_ROIS else None
    if copies is not None:
        missing |= copies
    return missing if missing.any() else None


def _first_finite(probes: np.ndarray, finite: np.ndarray) -> np.ndarray:
    return probes[:1] if finite.all() else np.take_along_axis(probes, finite.argmax(axis=0)[None], axis=0)


def _copied_frames(signals: np.ndarray, probes: np.ndarray, missing: np.ndarray) -> np.ndarray | None:
    """Frames besides `missing` that equal each other in every parcel, `None` if there are none.

    There is one such set for each run that a scan was joined from. Many sets are another thing: a periodic signal that
    was made, or a scan that was brought to a faster rate.
    """
    n_timepoints = signals.shape[1]
    with np.errstate(all="ignore"):
        finite = np.where(np.isfinite(probes), probes, np.float32(0))
        key = finite.astype(np.float64).T @ np.array([1.0, np.pi, np.e])
    ordered = np.sort(key)
    if (ordered[1:] != ordered[:-1]).all():
        return None
    _, group, counts = np.unique(key, return_inverse=True, return_counts=True)
    equal: dict[bytes, list[int]] = {}
    for frame in np.flatnonzero((counts[group] > 1) & ~missing).tolist():
        # Adding 0 makes -0.0 and 0.0 the same bytes.
        equal.setdefault((signals[:, frame] + 0).tobytes(), []).append(frame)
    sets = [frames for frames in equal.values() if len(frames) > 1]
    found = [frame for frames in sets for frame in frames]
    # Where hardly anything but copies is left, the scan is constant, which is said elsewhere.
    if not 0 < len(sets) <= _MOST_RUNS or len(found) > 0.9 * n_timepoints:
        return None
    copies = np.zeros(n_timepoints, dtype=bool)
    copies[found] = True
    return copies


def outliers(signals: np.ndarray) -> np.ndarray | None:
    """Values more than 10,000 interquartile ranges away from the median of their parcel.

    Args:
        signals: (n_rois, n_timepoints); NaN where nothing was measured.

    Returns:
        (n_rois, n_timepoints) bool, or `None` if there are none.
    """
    # A few rows tell what spread is usual here; only rows far beyond it are looked at one by one.
    widths = np.sort(_quartiles(signals[:: max(1, len(signals) // 8)])[2])
    usual = (widths[(len(widths) - 1) // 2] + widths[len(widths) // 2]) / 2  # np.median takes longer than the rest
    with np.errstate(invalid="ignore", over="ignore"):
        if signals.max() - signals.min() <= OUTLIER_IQRS * usual:  # as of nearly all scans, at a fraction of the time
            return None
        suspects = np.flatnonzero(~(signals.max(axis=1) - signals.min(axis=1) <= OUTLIER_IQRS * usual))
    if not suspects.size:
        return None
    _, middle, width = _quartiles(signals[suspects])
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(signals[suspects].astype(np.float64) - middle[:, None]) > OUTLIER_IQRS * width[:, None]
    far &= (width > 0)[:, None] & np.isfinite(signals[suspects])
    if not far.any():
        return None
    found = np.zeros(signals.shape, dtype=bool)
    found[suspects] = far
    return found


def _quartiles(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest quartile, median, and distance of the quartiles of each row, over its finite values; 0 for none."""
    finite = np.isfinite(rows)
    values = np.sort(np.where(finite, rows, rows.dtype.type(np.inf)), axis=1)
    count = finite.sum(axis=1)[:, None]
    places = (np.maximum(count - 1, 0) * np.array([0.25, 0.5, 0.75])).astype(np.int64)
    low, middle, high = np.where(count > 0, np.take_along_axis(values, places, axis=1), 0.0).astype(np.float64).T
    return low, middle, high - low


def measured_part(
    signals: np.ndarray, name: str, warn: Callable[[Any, str], None]
) -> tuple[np.ndarray, np.ndarray | None]:
    """A scan without the padding at its end, NaN where nothing was measured, and in which frames that was so.

    Args:
        signals: (n_rois, n_timepoints) float32.
        name: what messages call the scan.
        warn: is told what is cut off and what is taken out.

    Returns:
        The scan, and (n_timepoints,) bool, or `None` if every frame was measured.

    Raises:
        ValueError: if nothing was measured.
    """
    n_given = signals.shape[1]
    missing = missing_frames(signals)
    if missing is not None:
        measured = np.flatnonzero(~missing)
        if not measured.size:
            raise ValueError(
                f"Expected numbers in {name}, got only NaN or 0 in every frame. Check the parcellation, or leave "
                "this scan out."
            )
        # Some files pad short scans at the end; those timepoints were never measured.
        signals, missing = signals[:, : measured[-1] + 1], missing[: measured[-1] + 1]
        if len(missing) < n_given:
            warn(
                "padding",
                f"The last {n_given - len(missing)} of the {n_given} frames of {name} were cut, or are NaN, 0 or "
                "copies of each other in every parcel (padding): they are left off. So it is for other scans.",
            )
        signals = np.where(missing, np.float32(np.nan), signals) if missing.any() else signals
    far = outliers(signals)
    if far is not None:
        row, frame = np.unravel_index(int(np.where(far, np.abs(signals), 0).argmax()), far.shape)
        warn(
            ("outliers", name),
            f"{int(far.sum())} values in {int(far.any(axis=1).sum())} parcels of {name} lie more than "
            f"{OUTLIER_IQRS:,.0f} interquartile ranges away from the parcel's median (such as "
            f"{signals[row, frame]:.3g} in row {row}, frame {frame}), which no scanner gives; they are treated as "
            "not measured. Check that file.",
        )
        signals = np.where(far, np.float32(np.nan), signals)
        missing = ~np.isfinite(signals).any(axis=0)
    return signals, missing if missing is not None and missing.any() else None


def bridged(values: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """A copy with straight lines through what was not measured, and the nearest value before the first and after the
    last measured one; rows without any are 0.

    Args:
        values: (n_rois, n_timepoints).
        measured: bool, the same shape.
    """
    filled = values.copy()
    places = np.arange(values.shape[1])
    for row in np.flatnonzero(~measured.all(axis=1)):
        good = measured[row]
        filled[row] = np.interp(places, places[good], values[row, good]) if good.any() else 0.0
    return filled
