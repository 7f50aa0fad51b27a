"""A series that was checked, and how its windows come out of it: scaled, resampled, with gaps where they were."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..atlases.roi_orders import ROIOrder, order_name
from .base import CheckedScan, as_array
from .missing import bridged, missing_frames
from .parcels import Rows
from .resampling import resample_t_r
from .scaling import Scaling, remarks_on_units, unfit_units
from .time import Timing
from .tokens import image_token_mask, series_token_mask
from .trials import Look
from .units import units_of


def series_values(scan: Any, n_rois: int, name: str, fix: str) -> np.ndarray:
    """A scan as (n_rois, n_timepoints) float32.

    Raises:
        ValueError: if it is no series of that many ROIs; the message ends with `fix` where their number differs.
    """
    signals = as_array(scan)
    if signals.dtype.kind not in "fiub":
        raise ValueError(f"Expected {name} to hold real numbers, got dtype {signals.dtype}.")
    if signals.ndim != 2:
        raise ValueError(f"Expected {name} of shape (n_rois, n_timepoints), got {signals.shape}.")
    if signals.shape[0] != n_rois:
        if signals.shape[1] == n_rois:
            raise ValueError(
                f"Expected {name} of shape ({n_rois}, n_timepoints), got {signals.shape}: it is transposed. "
                "Pass scan.T."
            )
        raise ValueError(f"Expected {name} with {n_rois} ROIs in its rows, got shape {signals.shape}. {fix}")
    if not signals.shape[1]:
        raise ValueError(f"Expected {name} with timepoints, got shape {signals.shape}.")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is seen afterwards
        return signals.astype(np.float32, copy=False)


def look_at_series(
    signals: np.ndarray,
    order: ROIOrder | None,
    t_r: float | None,
    name: str,
    mode: str,
    band_pass: Sequence[float] | None,
) -> Look:
    """Order, time, units, and what is not there of a series (n_rois, n_timepoints).

    Args:
        signals: the series, NaN in frames that were cut.
        order, t_r, name: of it.
        mode: how it will be scaled, one of `NORMALIZATIONS`.
        band_pass: and filtered.
    """
    found = units_of(signals, t_r)
    warned, remarks = remarks_on_units(mode, found, band_pass)
    if said := unfit_units(mode, found, name):
        warned.insert(0, said)
    finite, missing = np.isfinite(signals), missing_frames(signals)
    measured = np.ones(signals.shape[1], dtype=bool) if missing is None else ~missing
    some, inside = finite[:, measured], signals[:, measured]
    high = np.where(some, inside, -np.inf).max(axis=1, initial=-np.inf)
    low = np.where(some, inside, np.inf).min(axis=1, initial=np.inf)
    facts = {
        "roi_order": None if order is None else order_name(order).strip("'"),
        "n_rois": signals.shape[0],
        "t_r": t_r,
        "n_timepoints": signals.shape[1],
        "minutes": None if t_r is None else round(signals.shape[1] * t_r / 60, 2),
        "units": str(found),
        "level": float(f"{found.level:.4g}"),
        "spread": float(f"{found.spread:.4g}"),
        "band_hz": None if found.band is None else f"{found.band[0]:.3g} to {found.band[1]:.3g}",
        "mean_free": not found.has_means,
        "cut_frames": int((~measured).sum()),
        "constant_parcels": int((high == low).sum()),
        "missing_parcels": int((high < low).sum()),
        "parcels_with_gaps": int((some.any(axis=1) & ~some.all(axis=1)).sum()),
    }
    carpet = np.where(measured & finite, signals, np.float32(np.nan))
    return Look(facts, warned, remarks, lambda: carpet, t_r)


@dataclass
class ROIScan(CheckedScan):
    """A checked series: (n_rows, n_timepoints) float32 `values` as they came, and how they become the model's.

    Attributes:
        rows: where each emitted row comes from.
        timing: how it comes to the repetition time and the windows of the model.
        scaling: what is taken out of it.
        missing: (n_timepoints,) bool, frames in which nothing was measured, or `None`.
    """

    rows: Rows
    timing: Timing
    scaling: Scaling
    missing: np.ndarray | None

    @property
    def unmeasured(self) -> np.ndarray | None:
        """`missing` at the times that windows are cut at."""
        if self.missing is None or self.timing.t_rs is None:
            return self.missing
        return self.missing[self.timing.nearest_frames()]

    def windows(self, starts: Sequence[float]) -> np.ndarray:
        """(n_windows, n_rois, n_timepoints) float32; zeros behind a short scan and where nothing was measured."""
        whole, gaps = self._resampled() if self.timing.t_rs is not None else (None, None)
        if whole is None and self.scaling.of_windows and self.scaling.non_finite is not None:
            gaps = self.scaling.non_finite[self.rows.index]
        output = np.empty((len(starts), len(self.rows.index), self.timing.window), dtype=np.float32)
        for start, window in zip(starts, output):
            frames, filled = self.timing.frames(start)
            target = window[:, :filled]
            if whole is not None:
                target[:] = whole[:, frames]
            else:
                self.scaling.write(self.values, self.rows.identity, frames, target)
            window[:, filled:] = 0.0
            self.scaling.finish(target, None if gaps is None else gaps[:, frames])
        return output

    def _resampled(self) -> tuple[np.ndarray, np.ndarray | None]:
        """The whole scan, scaled and interpolated, and where nothing was measured."""
        assert self.timing.t_rs is not None
        # Scaling is affine, so it can come first; then the filter sees no large offset.
        values = np.empty((len(self.rows.index), self.timing.n_frames), dtype=np.float32)
        self.scaling.write(self.values, self.rows.identity, slice(0, self.timing.n_frames), values)
        gaps = None
        if self.scaling.non_finite is not None:
            gaps = self.scaling.non_finite[self.rows.index]
            gaps[self.scaling.zero_rows] = False
            # Gaps are bridged for the filter, so that they reach nothing beside them, and are gaps again after it.
            values = bridged(values, ~gaps)
            gaps = gaps[:, self.timing.nearest_frames()]
        values = resample_t_r(values, *self.timing.t_rs)
        if gaps is not None:
            values[gaps] = 0.0
        return values, gaps

    def observed(self, starts: Sequence[float]) -> np.ndarray:
        """(n_windows, n_timepoints) bool: timepoints that were measured."""
        return self._observed_and_inside(starts)[0]

    def _observed_and_inside(self, starts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Timepoints that were measured, and those that the scan has; the others are padding behind it."""
        missing = self.unmeasured
        inside = np.zeros((len(starts), self.timing.window), dtype=bool)
        observed = inside.copy()
        for start, has, measured in zip(starts, inside, observed):
            frames, filled = self.timing.frames(start)
            has[:filled] = True
            measured[:filled] = True if missing is None else ~missing[frames]
        return observed, inside

    def token_mask(
        self, starts: Sequence[float], image: tuple[int, int] | None, hidden: np.ndarray | None
    ) -> np.ndarray | None:
        """(n_windows, n_tokens) int64: tokens that count, `None` if all do.

        Args:
            starts: of the windows.
            image: sides of a patch and of the image where tokens are patches of it.
            hidden: (n_rois,) bool, parcels of which nothing was measured and whose tokens are masked, or `None`.
        """
        observed, inside = self._observed_and_inside(starts)
        if observed.all() and hidden is None:
            return None
        if image is not None:
            return image_token_mask(observed, inside, *image)
        return series_token_mask(observed, inside, self.timing.patch_size, len(self.rows.index), hidden)

    def is_empty(self, start: float) -> bool:
        """Whether no token of the window that starts there was measured; of an image, which has a border, no frame."""
        if self.missing is None:
            return False
        observed, inside = self._observed_and_inside([start])
        if observed.shape[1] % self.timing.patch_size:
            return not observed.any()
        return not series_token_mask(observed, inside, self.timing.patch_size, 1).any()

    def done(self) -> list[str]:
        """Rows that are moved, and how it comes to the time of the model."""
        said = [] if self.rows.identity else ["rows put into the model's order by their labels"]
        timing = self.timing
        if timing.t_rs is not None:
            said.append(f"resampled from {timing.t_rs[0]:g} s to {timing.t_rs[1]:g} s")
        if timing.sampling_rate > 1:
            said.append(f"every {timing.sampling_rate}. frame is taken")
        if timing.n_timepoints < timing.window:
            said.append(f"padded from {timing.n_timepoints} to {timing.window} timepoints")
        return said

    def bad_rows(self) -> tuple[int, ...]:
        """Emitted rows that are constant or hold values, in measured frames, that are not finite."""
        flagged = self.scaling.zero_rows & self.rows.present
        if self.scaling.non_finite is not None:
            measured = slice(None) if self.missing is None else ~self.missing
            gaps = np.asarray(self.scaling.non_finite[:, measured].any(axis=1))
            flagged |= gaps[self.rows.index] & self.rows.present
        return tuple(np.flatnonzero(flagged).tolist())
