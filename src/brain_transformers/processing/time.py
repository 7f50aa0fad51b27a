"""Time: repetition times, how a scan comes to the one of the model, and which windows of it are cut."""

import math
import numbers
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .frame_sampling import frame_step, regular_starts, sampled_frames

# The fastest whole-brain sequences (MREG) take 0.1 s, the slowest that are used (sparse sampling) some 20 s. What lies
# outside of that is another unit: 720 are milliseconds, 72 hundredths.
SHORTEST_T_R, LONGEST_T_R = 0.05, 30.0

WINDOWS = ("first", "center", "all", "cover", "random")
RESAMPLINGS = ("filter", "frames")

# Share of a scan after the last whole window from which on it is said that this rest is not used.
_TAIL_SHARE = 0.05
# Share of the variance that picking frames folds into slower frequencies, from which on it is said.
_FOLDED_SHARE = 0.1
# A generator that keeps finding windows without a measured token is asked this often.
_MAX_DRAWS = 100

Warn = Callable[[Any, str], None]


def check_t_r(t_r: Any, name: str = "t_r") -> float:
    """`t_r` as a float, if it can be a repetition time in seconds.

    Args:
        t_r: a number, or an array or tensor of one.
        name: what the error calls it, such as `"t_r of sub-01.tsv"`.

    Raises:
        ValueError: for what is no number, not finite, or outside 0.05 s to 30 s.
    """
    value = t_r.item() if getattr(t_r, "size", None) == 1 and hasattr(t_r, "item") else t_r
    if isinstance(value, bool) or not isinstance(value, (float, numbers.Real)):
        raise ValueError(f"Expected {name} to be a number of seconds, got {t_r!r:.80}. Give it as in t_r=0.72.")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not SHORTEST_T_R <= seconds <= LONGEST_T_R:
        hint = "Divide by 1000 if it is in milliseconds." if seconds > LONGEST_T_R else "It is in seconds."
        raise ValueError(
            f"Expected {name} in seconds, between {SHORTEST_T_R:g} and {LONGEST_T_R:g}, got {seconds:g}. {hint}"
        )
    return seconds


def known_t_r(t_r: Any, name: str = "t_r") -> float | None:
    """`t_r` as [`check_t_r`] gives it, or `None` where it is not known (`None` or NaN, as in rows of a dataset)."""
    if t_r is None or (isinstance(t_r, (float, numbers.Real)) and t_r != t_r):
        return None
    return check_t_r(t_r, name)


def common_t_r(t_rs: Iterable[Any], tolerance: float = 0.025, what: str = "scans") -> float | None:
    """The repetition time of most of the scans, with a warning where they differ or some are not known.

    Args:
        t_rs: of each scan, seconds; `None` or NaN where it is not known.
        tolerance: relative difference that counts as equal.
        what: how the warning calls them.

    Returns:
        The most frequent one (the shorter of equally frequent ones), or `None` if none is known.

    Raises:
        ValueError: for a value that cannot be a repetition time.
    """
    values = [known_t_r(value, f"t_r of the {what}") for value in t_rs]
    counts = Counter(value for value in values if value is not None)
    if not counts:
        return None
    common = min(counts, key=lambda value: (-counts[value], value))
    unknown = sum(value is None for value in values)
    others = {value: count for value, count in counts.items() if abs(value - common) > tolerance * common}
    if others or unknown:
        listed = [
            f"{counts[value]} have {value:g} s" for value in sorted(counts, key=lambda value: -counts[value])[:5]
        ]
        listed += [f"{len(counts) - 5} other values"] if len(counts) > 5 else []
        listed += [f"{unknown} have none"] if unknown else []
        warnings.warn(
            f"The {what} differ in t_r: {', '.join(listed)}. {common:g} s, that of most of them, is taken as the "
            "model's.",
            UserWarning,
            stacklevel=2,
        )
    return common


# --- from the time of a scan to that of the model ---


@dataclass
class Timing:
    """How a scan comes to the repetition time and the windows of the model.

    Attributes:
        n_frames: of the scan.
        n_timepoints: what they are afterwards.
        window: timepoints of a window.
        patch_size: timepoints of a token.
        t_rs: repetition times of the scan and of the model where it is interpolated, or `None`.
        sampling_rate: frames of the scan for each one that is picked.
    """

    n_frames: int
    n_timepoints: int
    window: int
    patch_size: int
    t_rs: tuple[float, float] | None = None
    sampling_rate: int = 1

    def nearest_frames(self) -> np.ndarray:
        """The frame of the scan nearest to each timepoint."""
        step = 1.0 if self.t_rs is None else self.t_rs[1] / self.t_rs[0]
        return np.clip(np.rint(np.arange(self.n_timepoints) * step), 0, self.n_frames - 1).astype(np.int64)

    def frames(self, start: float) -> tuple[slice | np.ndarray, int]:
        """Which frames fill a window or the first part of it (of the resampled scan where it is interpolated), and
        how much of it that is."""
        if self.sampling_rate == 1:
            filled = min(self.window, self.n_timepoints - int(start))
            return slice(int(start), int(start) + filled), filled
        step = frame_step(self.window, self.sampling_rate)
        measured = min(int(np.ceil((self.n_frames - start) / step - 1e-6)), self.window)
        filled = min(-(-measured // self.patch_size) * self.patch_size, self.window)
        return sampled_frames(self.n_frames, start, self.window, self.sampling_rate)[:filled], filled


@dataclass
class ModelTiming:
    """The repetition time and the windows that a model takes.

    Attributes:
        t_r: seconds, or `None` to take any.
        tolerance: relative difference that counts as equal.
        resampling: one of `RESAMPLINGS`.
        n_timepoints: of a window.
        patch_size: timepoints of a token.
        look_for_folding: whether to say what picking frames folds into slower frequencies.
    """

    t_r: float | None
    tolerance: float
    resampling: str
    n_timepoints: int
    patch_size: int
    look_for_folding: bool = True

    def of(self, signals: np.ndarray, t_r: float | None, name: str, warn: Warn) -> Timing:
        """How this scan, (n_rois, n_frames), comes to the time of the model; says what that costs it."""
        n_frames = signals.shape[1]
        as_it_is = Timing(n_frames, n_frames, self.n_timepoints, self.patch_size)
        if self.t_r is None:
            return as_it_is
        if t_r is None:
            warn(
                "no t_r",
                f"No t_r was given for {name}; it is used as if it had the {self.t_r} s that the model was trained "
                "on. Pass t_r in seconds (prepare --t-r) to have it resampled.",
            )
            return as_it_is
        if abs(t_r - self.t_r) <= self.tolerance * self.t_r:
            return as_it_is
        if self.resampling == "filter":
            n_timepoints = int(np.floor((n_frames - 1) * t_r / self.t_r + 1e-6)) + 1
            return replace(as_it_is, n_timepoints=n_timepoints, t_rs=(t_r, self.t_r))
        rate = max(1, round(self.t_r / t_r))
        step = frame_step(self.n_timepoints, rate) if rate > 1 else 1.0
        if abs(t_r * step - self.t_r) > self.tolerance * self.t_r:
            warn(
                ("frames", t_r),
                f"Expected a t_r that picking frames brings near {self.t_r} s, got {t_r} s of {name}, which becomes "
                f"{t_r * step:.3g} s ({100 * (t_r * step / self.t_r - 1):+.0f} %), so everything looks that much "
                'slower or faster to the model. Set resampling="filter" on the extractor to have it interpolated.',
            )
        if rate == 1:
            return as_it_is
        if self.look_for_folding:
            _report_folding(signals, t_r, rate, 0.5 / (t_r * step), name, warn)
        n_timepoints = int(np.floor((n_frames - 1) / step + 1e-6)) + 1
        return replace(as_it_is, n_timepoints=n_timepoints, sampling_rate=rate)


def _report_folding(signals: np.ndarray, t_r: float, rate: int, highest: float, name: str, warn: Warn) -> None:
    """Say when picking frames folds a noticeable part of a scan into frequencies below `highest` Hz."""
    rows = signals[:: max(1, len(signals) // 16)]
    with np.errstate(invalid="ignore", over="ignore"):
        rows = rows - np.nanmean(rows, axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(np.where(np.isfinite(rows), rows, 0.0).astype(np.float64), axis=1)) ** 2
    share = power[:, np.fft.rfftfreq(rows.shape[1], t_r) > highest].sum() / max(power.sum(), 1e-300)
    if share > _FOLDED_SHARE:
        warn(
            "folding",
            f"{100 * share:.0f} % of the variance of {name} is faster than {highest:.3f} Hz, and picking every "
            f"{rate}. frame, as this model was trained, folds it into slower frequencies; so it is for scans like "
            'it. Low-pass filter them before, or set resampling="filter" on the extractor, if you do not want that.',
        )


def check_length(timing: Timing, missing: np.ndarray | None, t_r: float | None, name: str) -> None:
    """Refuse a scan without one patch of measured timepoints (`missing`: frames that were not measured)."""
    n_timepoints, patch_size = timing.n_timepoints, timing.patch_size
    if n_timepoints < patch_size:
        resampled = timing.t_rs is not None or timing.sampling_rate > 1
        raise ValueError(
            f"Expected {name} with at least one patch of {patch_size} timepoints, got {n_timepoints}"
            f"{f' at t_r {t_r} s' if resampled else ''}. Leave this scan out: it is too short for the model."
        )
    n_measured = n_timepoints if missing is None else int(n_timepoints * (~missing).mean())
    if n_measured < patch_size:
        raise ValueError(
            f"Expected {name} with at least one patch of {patch_size} measured timepoints, got {n_measured} "
            f"among {n_timepoints}; the others were cut, or are NaN or 0 in every parcel. Leave this scan out."
        )


# --- windows ---


def window_starts(
    n_frames: int,
    span: int,
    *,
    window: str,
    name: str,
    warn: Warn,
    start: float | None = None,
    n_windows: int | None = None,
    rng: np.random.Generator | None = None,
    empty: Callable[[float], bool] = lambda first: False,
    whole: bool = True,
) -> list[float]:
    """First frames of the windows to cut, each with something measured.

    Args:
        n_frames: of the scan.
        span: of a window.
        window: one of `WINDOWS`.
        name: what messages call the scan.
        warn: is told of what is not used.
        start: of the one window, instead of `window`.
        n_windows: this many, evenly spaced, instead of `window`; in place of one without a measured token, the nearest
            one that has some.
        rng: for `"random"`.
        empty: whether no token of the window that starts at a frame was measured.
        whole: whether a window starts at a whole frame.

    Raises:
        ValueError: for an unknown window, a start outside the scan, or a window without a measured token.
    """
    if window not in WINDOWS:
        raise ValueError(f"Expected window to be one of {list(WINDOWS)}, got {window!r:.80}.")
    last = max(n_frames - span, 0)

    def refuse_empty(starts: list[float]) -> list[float]:
        wrong = [first for first in starts if empty(first)]
        if wrong:
            raise ValueError(
                f"Expected measured frames in every window of {name}, got none, or too few for a token, in the one "
                f"from frame {int(wrong[0])} on ({span} frames; the others were cut, or are NaN or 0 everywhere). "
                'Choose window="all", which leaves such windows out, or leave this scan out.'
            )
        return starts

    if n_windows is not None:
        if start is not None or n_windows < 1:
            raise ValueError(
                f"Expected n_windows of 1 or more and no start, got n_windows={n_windows} and start={start}."
            )
        regular = [float(first) for first in regular_starts(last, n_windows)]
        moved = {first: _nearest_full(first, last, empty) for first in dict.fromkeys(regular) if empty(first)}
        if moved:
            warn(
                ("moved windows", name),
                f"{sum(first in moved for first in regular)} of {n_windows} evenly spaced windows of {name} hold no "
                "measured token; the nearest that do are taken in their place.",
            )
        return refuse_empty([moved.get(first, first) for first in regular])
    if start is not None:
        if not 0 <= start <= last or (whole and start != int(start)):
            raise ValueError(
                f"Expected start between 0 and {last} for {name} ({n_frames} timepoints, window of {span}), got "
                f"{start}."
            )
        return refuse_empty([int(start) if whole else float(start)])
    if window == "first":
        return refuse_empty([0])
    if window == "center":
        return refuse_empty([last // 2])
    if window == "random":
        if rng is None:
            raise ValueError(
                'window="random" draws from the generator it is given: pass rng=np.random.default_rng(seed).'
            )
        for _ in range(_MAX_DRAWS):
            drawn = int(rng.integers(0, last + 1)) if whole else float(rng.uniform(0, last))
            if not empty(drawn):
                break
        return refuse_empty([drawn])
    starts: list[float] = list(range(0, last + 1, span))
    rest = int(n_frames - starts[-1] - span)
    if rest > 0 and window == "cover":
        starts.append(last)
    elif rest > _TAIL_SHARE * n_frames:
        warn(
            "tail",
            f"{rest} of the {n_frames} timepoints of {name} ({100 * rest / n_frames:.0f} %) come after its "
            f'last whole window of {span} and are not used; so it is for other scans. window="cover" (--window cover) '
            "adds a last window that ends with the scan and overlaps the one before.",
        )
    kept = [first for first in starts if not empty(first)]
    if len(kept) < len(starts):
        warn(
            ("empty windows", name),
            f"{len(starts) - len(kept)} of {len(starts)} windows of {name} hold no measured token and are left out.",
        )
    return kept or refuse_empty(starts)


def _nearest_full(first: float, last: int, empty: Callable[[float], bool]) -> float:
    """The start nearest to this one of a window that is not empty; this one if there is none."""
    others = sorted(range(last + 1), key=lambda other: abs(other - first))
    return next((float(other) for other in others if not empty(float(other))), first)
