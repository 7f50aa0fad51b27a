"""In what units the series of a scan come: told by their values, since hardly a file says it."""

from dataclasses import dataclass

import numpy as np

from .missing import bridged, missing_frames

MEAN_FREE = "mean-free"
Z_SCORED = "z-scored"
PERCENT = "percent change"
BAND_PASSED = "band-passed"
LOW_PASSED = "low-passed"
GLOBAL = "global-scaled"
WHOLE = "int16 raw"
LOG = "log"
FLIPPED = "sign-flipped"

# A mean below this share of the deviation over time is what rounding, or a window of a mean-free scan, leaves; raw
# series have some 200 deviations.
NO_MEAN = 0.5
# Raw series lie this many deviations above 0.
_RAW_LEVEL = 3.0
# Grand means that software scales to, and how near to one of them chance hardly comes. FSL's 10,000 is not among them:
# scans of HCP and UK Biobank, on which models were trained, have it.
_GRAND_MEANS, _EXACT = (1.0, 10.0, 100.0, 1000.0), 5e-4
# Levels of the logarithm of scanner units, to any base from 2 to 10, whose series hardly move.
_LOG_LEVEL, _LOG_SPREAD = (1.5, 17.0), 0.05
# Frequencies hold nothing if all have less than this share of the median density below them. Where density falls as
# 1/f^3, with slow drift and no filter, they have a tenth and more; behind the softest filter in use (second order,
# forward and back) a thousandth is left, and a thirtieth if a third of the frames was cut and had to be bridged.
_NOTHING, _TOP_SHARE, _BOTTOM_SHARE = 0.04, 0.15, 0.05
_MOST_ROWS = 64


@dataclass(frozen=True)
class Units:
    """What the values of a scan look like.

    Attributes:
        names: what was done to them, the most telling first; none for the units of a scanner.
        level: median over the parcels of the size of their means.
        spread: median over the parcels of their deviation over time.
        band: lowest and highest frequency, Hz, that hold something; `None` if all do, or nothing tells.
    """

    names: tuple[str, ...]
    level: float
    spread: float
    band: tuple[float, float] | None = None

    @property
    def has_means(self) -> bool:
        """Whether parcels still have a level of their own."""
        return self.level >= NO_MEAN * self.spread

    def __str__(self) -> str:
        return ", ".join(self.names) or "scanner units"


def units_of(signals: np.ndarray, t_r: float | None = None) -> Units:
    """In what units (n_rois, n_timepoints) series come; NaN, and frames in which nothing was measured, take no part.

    Args:
        signals: as they came.
        t_r: repetition time in seconds, where it is known; without it, frequencies are not told.
    """
    signals = np.asarray(signals)
    missing = missing_frames(signals)
    measured = signals if missing is None else signals[:, ~missing]
    finite = np.isfinite(measured)
    good = finite.any(axis=1)
    if not good.any():
        return Units((), 0.0, 0.0)
    whole = bool(finite.all())
    values = measured if whole else np.where(finite, measured, np.nan)[good]
    mean, std = (np.mean, np.std) if whole else (np.nanmean, np.nanstd)
    means, spreads = (np.asarray(of(values, axis=1, dtype=np.float64)) for of in (mean, std))
    moving = spreads > 1e-6 * np.abs(means)
    if not moving.any():
        return Units((), float(np.median(np.abs(means))), 0.0)
    if not moving.all():
        values, means, spreads = values[moving], means[moving], spreads[moving]
    level, spread = float(np.median(np.abs(means))), float(np.median(spreads))
    rows = signals if whole and moving.all() else signals[good][moving]
    band, cut_above, cut_below = _band(rows, missing, t_r)
    names = [_name(means, spreads, level, spread)]
    if cut_above:
        names.insert(0, BAND_PASSED if cut_below or level < NO_MEAN * spread else LOW_PASSED)
    if all((part[np.isfinite(part)] % 1 == 0).all() for part in (values[:, :8], values)):
        names.append(WHOLE)
    return Units(tuple(name for name in names if name), level, spread, band)


def _name(means: np.ndarray, spreads: np.ndarray, level: float, spread: float) -> str:
    """What was done to series that move, by the means and deviations of the rows; `""` for the units of a scanner."""
    overall = float(means.mean())
    deviation = float(np.sqrt((spreads**2 + means**2).mean() - overall**2))  # of all values, as rows are of one length
    if level < NO_MEAN * spread:
        if abs(spread - 1) < 0.03 and np.quantile(np.abs(spreads - 1), 0.9) < 0.1:
            return Z_SCORED
        return PERCENT if spread < 5 else MEAN_FREE
    if np.ptp(np.quantile(means, [0.05, 0.95])) < 1e-3 * level and level > _RAW_LEVEL * spread:
        return PERCENT  # each parcel as a share of its own mean
    if abs(overall) < 0.02 and abs(deviation - 1) < 0.03:
        return GLOBAL
    if level > _RAW_LEVEL * spread and (means < 0).mean() > 0.9:
        return FLIPPED
    if any(abs(overall / grand - 1) < _EXACT for grand in _GRAND_MEANS):
        return GLOBAL
    if level < _LOG_LEVEL[0]:
        return GLOBAL if level > _RAW_LEVEL * spread else ""
    alike = np.ptp(np.quantile(means, [0.05, 0.95])) < 0.25 * level
    return LOG if level < _LOG_LEVEL[1] and spread < _LOG_SPREAD and alike else ""


def _band(
    signals: np.ndarray, missing: np.ndarray | None, t_r: float | None
) -> tuple[tuple[float, float] | None, bool, bool]:
    """Frequencies that hold something, and whether what is above or below them was taken out."""
    rows = signals[:: max(1, len(signals) // _MOST_ROWS)].astype(np.float64)
    n_frames = rows.shape[1]
    if n_frames < 64:
        return None, False, False
    finite = np.isfinite(rows)
    if missing is not None:
        finite &= ~missing
    if not finite.all():
        rows = bridged(np.where(finite, rows, 0.0), finite)
    drift, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, n_frames), 4))
    rows = rows - (rows @ drift) @ drift.T
    rows /= rows.std(axis=1, keepdims=True)
    density = (np.abs(np.fft.rfft(rows * np.hanning(n_frames), axis=1)) ** 2).mean(axis=0)[1:]
    width = max(3, n_frames // 100) | 1
    smooth = np.convolve(np.pad(density, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    above = np.maximum.accumulate(smooth[::-1])[::-1]
    lowest, highest = (int(share * len(smooth)) for share in (_BOTTOM_SHARE, 1 - _TOP_SHARE))
    edges = range(lowest + 1, highest, max(1, len(smooth) // 200))
    edge = next((edge for edge in edges if above[edge] < _NOTHING * np.median(smooth[:edge])), len(smooth))
    cut_above, last = edge < len(smooth), edge - 1
    first = int(np.argmax(smooth > _NOTHING * np.median(smooth[:edge])))
    cut_below = first > max(2, width)
    if t_r is None or not (cut_above or cut_below):
        return None, cut_above, cut_below
    step = 1 / (n_frames * t_r)
    return ((first + 1) * step, (last + 1) * step), cut_above, cut_below
