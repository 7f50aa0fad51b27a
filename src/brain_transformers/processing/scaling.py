"""Scaling of series: statistics of a scan or of a training set, and how they are taken out of its values."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import units

NORMALIZATIONS = (
    "none",
    "center",
    "zscore",
    "zscore-scan",
    "zscore-window",
    "robust",
    "robust-scan",
    "robust-means",
)
FITTED = ("robust", "robust-means")
"""Those that need statistics of training scans."""

_ZSCORE_EPS = 1e-8
# A spread below a few float32 steps of the level is rounding, not signal.
_CONSTANT_RTOL = 1e-6
_BY_ROW_MEANS = ("center", "zscore", "robust", "robust-scan")
SCALE_FACTOR = 3.0
"""How far the spread of inputs may be from what a model was trained on, as a factor."""


@dataclass
class RowStatistics:
    """What is known of the rows of a scan before they are scaled.

    Attributes:
        mean: (n_rows,) float32, of the finite values, where the mode needs it.
        constant: (n_rows,) bool: without usable signal.
        non_finite: (n_rows, n_timepoints) bool, or `None` if all values are finite.
    """

    mean: np.ndarray | None
    constant: np.ndarray
    non_finite: np.ndarray | None


def row_statistics(signals: np.ndarray, mode: str = "center") -> RowStatistics:
    """The [`RowStatistics`] of (n_rows, n_timepoints) float32 series, as far as this mode needs them."""
    with np.errstate(invalid="ignore", over="ignore"):
        high, low = signals.max(), signals.min()
        is_finite = bool(np.isfinite(high) and np.isfinite(low))
        mean = signals.mean(axis=1, dtype=np.float32) if mode in _BY_ROW_MEANS or not is_finite else None
        first, middle, last = (signals[:, frame] for frame in (0, signals.shape[1] // 2, -1))
        # Where three frames of every row differ by more than any row's rounding, none has to be looked at whole.
        moved = np.maximum(np.abs(first - middle), np.abs(last - middle))
        if is_finite and (moved > _CONSTANT_RTOL * np.maximum(np.abs(high), np.abs(low))).all():
            return RowStatistics(mean, np.zeros(len(signals), dtype=bool), None)
        high, low = signals.max(axis=1), signals.min(axis=1)
    non_finite = None
    if not is_finite:
        non_finite = ~np.isfinite(signals)
        good = np.where(non_finite, 0.0, signals.astype(np.float64))
        count = (~non_finite).sum(axis=1)
        # Rows without gaps keep the mean they have anyway, so that a gap elsewhere changes nothing for them.
        of_measured = (good.sum(axis=1) / np.maximum(count, 1)).astype(np.float32)
        mean = np.where(non_finite.any(axis=1), of_measured, mean)
        high = np.where(non_finite, -np.inf, signals).max(axis=1)
        low = np.where(non_finite, np.inf, signals).min(axis=1)
        # A row that is mostly gaps, compared with the others, says too little about its own level and spread.
        usable = count * 2 > (~non_finite).any(axis=0).sum()
        high, low, mean = (np.where(usable, values, np.float32(0)) for values in (high, low, mean))
    constant = (high - low) <= _CONSTANT_RTOL * np.maximum(np.abs(high), np.abs(low))
    return RowStatistics(mean, constant, non_finite)


@dataclass
class Scaling:
    """What is taken out of the emitted rows of a scan.

    Attributes:
        index: (n_rois,) row of the scan for each emitted one.
        shifts: what is subtracted, in turn.
        scale: what is divided by then, or `None`.
        zero_rows: (n_rois,) bool: emitted rows that are 0, whatever the scan holds.
        non_finite: (n_rows, n_timepoints) of the scan's own rows, or `None`.
        divisor: divides last.
        of_windows: whether it is each window that is scaled, see `finish`.
        dtype: of the arithmetic.
    """

    index: np.ndarray
    shifts: list[np.ndarray]
    scale: np.ndarray | None
    zero_rows: np.ndarray
    non_finite: np.ndarray | None
    divisor: float
    of_windows: bool = False
    dtype: type[np.floating] = np.float32

    @property
    def is_finite(self) -> bool:
        return all(
            np.isfinite(values).all() for values in [*self.shifts, *([] if self.scale is None else [self.scale])]
        )

    def write(self, signals: np.ndarray, identity: bool, columns: slice | np.ndarray, target: np.ndarray) -> None:
        """Scale these frames of a scan into `target` (n_rois, n_frames) float32; `identity`: rows come as they are."""
        part = signals[:, columns] if isinstance(columns, slice) else signals.take(columns, axis=1)
        rows = part if identity else part[self.index]
        if self.dtype is not np.float32:
            rows = rows.astype(self.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            for shift in self.shifts:
                rows = np.subtract(rows, shift, out=target if rows.dtype == np.float32 else rows)
            if self.scale is not None:
                rows = np.divide(rows, self.scale, out=target if rows.dtype == np.float32 else rows)
            if rows is not target:
                target[:] = rows
            if self.divisor != 1.0 and not self.of_windows:
                np.divide(target, np.float32(self.divisor), out=target)
        if self.non_finite is not None:
            target[self.non_finite[self.index][:, columns]] = 0.0
        if self.zero_rows.any():
            target[self.zero_rows] = 0.0

    def finish(self, window: np.ndarray, gaps: np.ndarray | None) -> None:
        """Where it is windows that are scaled: one in place by its own mean and unbiased std; `gaps` (bool, its
        shape) are 0."""
        if not self.of_windows:
            return
        good = window[~self.zero_rows]
        if gaps is not None:
            good = good[~gaps[~self.zero_rows, :]]
        window -= np.float32(good.mean(dtype=np.float64))
        window /= np.float32(good.std(ddof=1, dtype=np.float64)) * np.float32(self.divisor)
        window[self.zero_rows] = 0.0
        if gaps is not None:
            window[gaps] = 0.0


def scaling_of(
    mode: str,
    signals: np.ndarray,
    of_rows: RowStatistics,
    index: np.ndarray,
    *,
    statistics: Mapping[str, Any] | None = None,
    order: np.ndarray | None = None,
    divisor: float = 1.0,
) -> Scaling:
    """The scaling of a scan.

    Args:
        mode: one of `NORMALIZATIONS`.
        signals: (n_rows, n_timepoints) float32.
        of_rows: of its rows.
        index: (n_rois,) row of the scan for each emitted one, -1 where it has none.
        statistics: fitted values, for the modes in `FITTED`.
        order: (n_rois,) how those are sorted.
        divisor: divides last.
    """
    mean: Any = None if of_rows.mean is None else of_rows.mean[index][:, None]
    non_finite = of_rows.non_finite
    zero = of_rows.constant[index]
    zero[index < 0] = True
    shifts: list[np.ndarray] = []
    scale: np.ndarray | None = None
    dtype: type[np.floating] = np.float32
    if mode == "center":
        shifts = [mean]
    elif mode in FITTED:
        if statistics is None:
            raise ValueError(
                f"normalization={mode!r} needs statistics of training scans, and none are stored. Run "
                'extractor.fit(training_scans, roi_order=...) and save it, or choose normalization="robust-scan" to '
                "scale every scan by its own median and IQR."
            )
        # Statistics of means are float64, as in Brain-JEPA's data code; others float32, as in BrainLM's.
        dtype = np.float64 if mode == "robust-means" else np.float32
        median: np.ndarray = np.asarray(statistics["median"], dtype=dtype)
        iqr: np.ndarray = np.asarray(statistics["iqr"], dtype=dtype)
        if order is not None:
            median, iqr = median[order], iqr[order]
        zero |= iqr <= 0
        scale = np.where(iqr > 0, iqr, 1)[:, None]
        shifts = ([mean] if mode == "robust" else []) + [median[:, None]]
    elif mode == "zscore-scan":
        good = index[~zero]
        if good.size:
            if non_finite is None:
                overall, spread = _mean_and_deviation(signals, good)
            else:
                values = np.where(non_finite[good], np.nan, signals[good])
                overall, spread = np.nanmean(values, dtype=np.float64), np.nanstd(values, ddof=1, dtype=np.float64)
            shifts, scale = [np.asarray(overall, np.float32)], np.asarray(spread, np.float32)
    elif mode in ("zscore", "robust-scan"):
        values = signals[index] - mean
        if non_finite is not None:
            values[non_finite[index]] = np.nan
        values[zero] = 0.0
        if mode == "zscore":
            shifts = [mean]
            deviation = np.std if non_finite is None else np.nanstd  # the same bits, at a third of the time
            scale = deviation(values, axis=1, keepdims=True) + np.float32(_ZSCORE_EPS)
        else:
            percentile = np.nanpercentile if non_finite is not None else np.percentile
            quartiles = percentile(values, [25, 50, 75], axis=1, keepdims=True).astype(np.float32)
            iqr = quartiles[2] - quartiles[0]
            zero |= iqr[:, 0] <= 0
            shifts, scale = [mean, quartiles[1]], np.where(iqr > 0, iqr, np.float32(1))
    return Scaling(index, shifts, scale, zero, non_finite, divisor, mode == "zscore-window", dtype)


def _mean_and_deviation(signals: np.ndarray, index: np.ndarray) -> tuple[float, float]:
    """Mean and unbiased deviation of all values of these rows; numpy's nanmean and nanstd in a third of the time.

    As in nanstd, differences and their squares are float32, and sums are float64. A few rows at a time stay in the
    cache.
    """
    parts = [index[low : low + 64] for low in range(0, len(index), 64)]
    size = len(index) * signals.shape[1]
    mean = sum(signals[part].astype(np.float64).sum() for part in parts) / size
    total = np.float64(0)
    for part in parts:
        wide = signals[part].astype(np.float64)
        wide -= mean
        squares = wide.astype(np.float32)
        squares *= squares
        total += squares.astype(np.float64).sum()
    return mean, np.sqrt(total / (size - 1))


# --- statistics of a training set ---


def training_values(
    mode: str, signals: np.ndarray, exact: np.ndarray, index: np.ndarray, max_timepoints: int | None
) -> np.ndarray:
    """What one scan gives to the statistics of `mode`: `(n_rois, n)`, NaN for what does not count.

    Args:
        mode: one of `FITTED`.
        signals: (n_rows, n_timepoints) float32.
        exact: the same as the scan came, for statistics that are float64.
        index: (n_rois,) row of the scan for each row of the model, -1 where it has none.
        max_timepoints: use only that many first ones.
    """
    of_rows = row_statistics(signals)
    mean, non_finite = of_rows.mean, of_rows.non_finite
    assert mean is not None
    if mode == "robust":
        values = (signals - mean[:, None])[:, :max_timepoints]
        if non_finite is not None:
            values[non_finite[:, :max_timepoints]] = np.nan
    elif non_finite is None:
        values = np.asarray(exact, dtype=np.float64).mean(axis=1, keepdims=True)
    else:
        counted = np.where(non_finite, 0.0, np.asarray(exact, dtype=np.float64)).sum(axis=1, keepdims=True)
        values = counted / np.maximum((~non_finite).sum(axis=1, keepdims=True), 1)
    values[of_rows.constant | ~np.isfinite(mean)] = np.nan
    values = values[index]
    values[index < 0] = np.nan
    return values


def fitted_statistics(
    mode: str, parts: Sequence[np.ndarray], n_rois: int, warn: Callable[[Any, str], None]
) -> dict[str, Any]:
    """Median and IQR of each row over the [`training_values`] of all scans; 0 for rows without spread.

    Raises:
        ValueError: if most rows have none.
    """
    median, iqr = np.empty(n_rois), np.empty(n_rois)
    for low in range(0, n_rois, 32):
        block = np.concatenate([part[low : low + 32] for part in parts], axis=1)
        percentile = np.nanpercentile if np.isnan(block).any() else np.percentile
        with warnings.catch_warnings():
            # An ROI without a single good scan gives NaN here and is named below.
            warnings.simplefilter("ignore", RuntimeWarning)
            quartiles = percentile(block, [25, 50, 75], axis=1)
        median[low : low + 32], iqr[low : low + 32] = quartiles[1], quartiles[2] - quartiles[0]
    unfitted = ~(np.isfinite(median) & np.isfinite(iqr) & (iqr > 0))
    first = np.flatnonzero(unfitted)[:5].tolist()
    if unfitted.sum() * 2 > n_rois:
        raise ValueError(
            f"{int(unfitted.sum())} of {n_rois} ROIs have no spread in the {len(parts)} scans given "
            f"(first: {first}). Fit on more scans with real signals."
        )
    median[unfitted], iqr[unfitted] = 0.0, 0.0
    if mode == "robust":
        median, iqr = median.astype(np.float32), iqr.astype(np.float32)
    if unfitted.any():
        warn(
            ("unfitted", tuple(np.flatnonzero(unfitted))),
            f"{int(unfitted.sum())} ROIs have no spread in the training scans and will be set to 0 (first: {first}).",
        )
    return {"median": median.tolist(), "iqr": iqr.tolist(), "n_scans": len(parts)}


def check_statistics(statistics: Any, n_rois: int) -> None:
    """Refuse fitted values that cannot be: another number, not finite, or a spread that would blow signals up."""
    if not isinstance(statistics, Mapping):
        raise ValueError(f"Expected statistics to be a mapping with median and iqr, got {statistics!r:.80}.")
    tables = {}
    for key in ("median", "iqr"):
        try:
            tables[key] = np.asarray(statistics[key], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"Expected {n_rois} numbers in statistics[{key!r}], got none ({error!r:.80}).") from error
        if tables[key].shape != (n_rois,):
            raise ValueError(f"Expected {n_rois} values in statistics[{key!r}], got {tables[key].shape}.")
    median, iqr = tables["median"], tables["iqr"]
    # 0 marks ROIs without spread in the training scans. A spread far below a float32 step of the level is rounding.
    wrong = (
        ~(np.isfinite(median) & np.isfinite(iqr)) | (iqr < 0) | ((iqr > 0) & (iqr < 1e-30)) | (np.abs(median) > 1e30)
    )
    wrong |= iqr > 1e30
    if wrong.any() or not iqr.any():
        row = int(np.flatnonzero(wrong)[0]) if wrong.any() else 0
        raise ValueError(
            f"Expected statistics with finite medians and IQRs above 0, got median {median[row]:g} and IQR "
            f"{iqr[row]:g} in row {row}. Fit the extractor again: extractor.fit(training_scans)."
        )


# --- is it the scale that the model knows? ---

# Modes in which the level of a parcel, beside those of the others, is most of what a model sees.
_BY_LEVELS = {
    "robust-means": "the median and the IQR of the means of each parcel over people",
    "zscore-scan": "one mean and one deviation of the whole scan, in which the means of the parcels are most",
    "zscore-window": "one mean and one deviation of a window, in which the means of the parcels are most",
}
# Values of the fitted modes are around 1; so far from it nothing of a scan is what a model knows.
_FAR_FROM_FITTED = 8.0


def unfit_units(mode: str, found: units.Units, name: str) -> str | None:
    """What to say of a scan in units that this mode cannot make those of the model; `None` if it can."""
    if units.FLIPPED in found.names:
        return (
            f"The series of {name} lie below 0, as {units.FLIPPED} ones do (means around -{found.level:.3g}): "
            "everything that a model sees would be upside down. Check what was subtracted or multiplied."
        )
    if mode in _BY_LEVELS and not found.has_means:
        return (
            f"The series of {name} have no means ({found}), and this model scales by {_BY_LEVELS[mode]} "
            f"(normalization {mode!r}): zero-mean input, of which it never saw any. Denoised series, as of XCP-D, are "
            "mean-free by default. Add the mean of every parcel back (from the images before denoising), or take a "
            'model with normalization "zscore".'
        )
    if units.LOG in found.names:
        return (
            f"The series of {name} look like logarithms of scanner units (means around {found.level:.3g}, deviation "
            f"{found.spread:.3g}). Take the units that the scanner gives."
        )
    return None


def remarks_on_units(mode: str, found: units.Units, band_pass: Sequence[float] | None) -> tuple[list[str], list[str]]:
    """What to be warned of in the units of a scan whatever the mode does, and what to know that it makes up for."""
    warned: list[str] = []
    said: list[str] = []
    unchanged = mode in ("zscore", "robust-scan") or (mode == "zscore-scan" and found.has_means)
    filtered = [name for name in (units.BAND_PASSED, units.LOW_PASSED) if name in found.names]
    if filtered and band_pass is None:
        ends = "" if found.band is None else f" (nothing above {found.band[1]:.2g} Hz)"
        warned.append(
            f"The series are {filtered[0]}{ends}, and this model filters nothing: it was trained on other series, "
            "unless you trained it on such."
        )
    if units.WHOLE in found.names:
        (said if unchanged else warned).append(
            f"The series are whole numbers ({units.WHOLE}), as they are stored before the scale of a header is "
            "applied. Read them with it, or check that there is none."
        )
    others = [name for name in found.names if name not in (*filtered, units.WHOLE)]
    if others and unfit_units(mode, found, "") is None:
        known = "which this model scales away" if unchanged else "not the units of a scanner"
        said.append(f"{', '.join(others)}, {known}")
    return warned, said


def far_from_fitted(output: np.ndarray, name: str) -> str | None:
    """What to say of values, scaled by fitted statistics, that are far from those of the scans they were fitted on."""
    sizes = np.abs(output)
    if np.count_nonzero(sizes <= _FAR_FROM_FITTED) * 2 > sizes.size:  # so is the median
        return None
    size = float(np.median(sizes))
    if size <= _FAR_FROM_FITTED:
        return None
    return (
        f"The scaled values of {name} are around {size:.3g} (median size), and those of the scans that the scale was "
        "fitted on around 1: it comes in other units than they. Give it in theirs, or fit the extractor on scans like "
        "it (extractor.fit)."
    )


def raw_units(window: np.ndarray) -> str | None:
    """What to say if (n_rois, n_timepoints) values that nothing scaled look like raw scanner units."""
    window = window.T
    level, spread = np.median(np.abs(window.mean(axis=1))), np.median(window.std(axis=1))
    if not level > SCALE_FACTOR * spread > 0:
        return None
    return (
        f"The input looks like raw scanner units (ROI means around {level:.3g}, std {spread:.3g}) and "
        'normalization is "none". Choose the normalization that the model was trained with.'
    )


def far_from(expected_std: float, output: np.ndarray, count: float, name: str, signals: np.ndarray) -> str | None:
    """What to say if model inputs are more than three times away from the spread that the model was trained on.

    Args:
        expected_std: that spread.
        output: the inputs, 0 where nothing was measured.
        count: how many of them were measured.
        name: of the first scan.
        signals: (n_rows, n_timepoints) as it came, for a guess at the reason.
    """
    flat = output.reshape(-1)
    std = float(np.sqrt(max(float(np.dot(flat, flat)) / count - (float(flat.sum()) / count) ** 2, 0.0)))
    if expected_std / SCALE_FACTOR <= std <= expected_std * SCALE_FACTOR:
        return None
    found = units.units_of(signals)
    guess = ""
    if not found.has_means and 0.2 < found.spread < 5:
        guess = f" The scan as given looks already normalised ({found}): do not scale it twice."
    elif found.names:
        guess = f" The scan as given looks {found}."
    elif found.level > SCALE_FACTOR * found.spread:
        guess = " The scan as given looks like raw scanner units, other than those the statistics were fitted on."
    return (
        f"The model input has std {std:.3g} (first scan: {name}); the model was trained on std "
        f"{expected_std:.3g}, and results are not to be trusted this far from it.{guess} Fit the "
        "extractor on your own training scans (extractor.fit), or check units and normalization."
    )


def report_scale(
    mode: str,
    expected_std: float | None,
    scans: Sequence[Any],
    starts: Sequence[Sequence[float]],
    output: np.ndarray,
    warn: Callable[[Any, str], None],
    said: Collection[Any],
) -> None:
    """Say, once each, whether model inputs are far from the scale that the model knows.

    Args:
        mode: of the scaling.
        expected_std: spread of the training inputs, where it is known.
        scans: checked series of a call, and the `starts` of their windows.
        output: the windows (n_windows, n_rois, n_timepoints).
        warn: is told.
        said: what was told before, which is not looked for.
    """
    first, n_rois = scans[0], output.shape[1]
    some = output[0, :: max(1, n_rois // 64), first.observed(starts[0][:1])[0]]
    unknown = mode in FITTED and expected_std is None and "scale" not in said
    if unknown and (text := far_from_fitted(some, first.name)):
        warn("scale", text)
    if mode == "none" and "raw units" not in said and (text := raw_units(some)):
        warn("raw units", text)
    if expected_std is None or "scale" in said:
        return
    count = float(sum(scan.observed(windows).sum() for scan, windows in zip(scans, starts)) * n_rois)
    signals = first.values if first.missing is None else first.values[:, ~first.missing]
    if text := far_from(expected_std, output, count, first.name, signals):
        warn("scale", text)
