"""Masked reconstruction against the guesses that need no network.

All methods are scored on exactly the same hidden entries. A masked autoencoder that does not beat the mean of the
visible ROIs has learned nothing about which ROIs belong together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ..data.participants import is_gap
from ..training.masked.metrics import correlations, masked_reconstruction_metrics, masked_statistics

METRICS = ("mse", "mae", "r2", "pearson_r")

BASELINES: dict[str, str] = {
    "training mean": "mean of each ROI over the training scans",
    "window mean": "mean of the visible timepoints of the same ROI in the same window",
    "time interpolation": "straight line in time between the visible patches of the same ROI",
    "visible ROIs": "mean of the visible ROIs at the same timepoint",
    "linear model": "linear prediction from the visible ROIs at the same timepoint, with the covariance between ROIs "
    "of the training scans",
}
"""Name and description of each baseline, in the order of [`reconstruction_baselines`]."""


@dataclass(frozen=True)
class ReconstructionStatistics:
    """What the baselines may know of the training set.

    Args:
        mean: `(n_rois,)`, in the unit of the scaled signals.
        covariance: `(n_rois, n_rois)` over all timepoints of the training scans.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(cls, scans: Iterable[np.ndarray]) -> "ReconstructionStatistics":
        """Fit on `(n_rois, n_timepoints)` scans on the scale of the model's input; scans may differ in length.

        Frames in which nothing was measured (0 in every ROI, as windows have them) take no part.

        Raises:
            ValueError: if there are none, they differ in ROIs, or hold values that are not finite.
        """
        arrays = [np.asarray(scan, dtype=np.float64) for scan in scans]
        shapes = {array.shape[:1] if array.ndim == 2 else array.shape for array in arrays}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"Expected scans (n_rois, n_timepoints) of the same ROIs, got shapes {sorted(shapes)}.")
        for number, array in enumerate(arrays):
            _check_finite(f"scan {number}", array)
        joined = np.concatenate([array[:, (array != 0).any(axis=0)] for array in arrays], axis=1)
        return cls(mean=joined.mean(1), covariance=np.atleast_2d(np.cov(joined)))


def _check_finite(name: str, values: np.ndarray) -> None:
    """Raise ValueError if a score of these values would be NaN."""
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(
            f"Expected finite values, got {bad} of {values.size} in {name} that are NaN or infinite. Leave these "
            "scans out, or look why the model gives them."
        )


def _check(signals: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    signals = np.asarray(signals, dtype=np.float64)
    mask = np.asarray(mask).astype(bool)
    if signals.ndim != 3 or signals.shape != mask.shape:
        raise ValueError(
            f"expected signals and mask of one shape (batch, n_rois, n_timepoints), got {signals.shape} and "
            f"{mask.shape}."
        )
    return signals, mask


def interpolate_in_time(signals: np.ndarray, mask: np.ndarray, fill: np.ndarray | float = 0.0) -> np.ndarray:
    """Fill hidden spans of each ROI with a straight line between the visible timepoints on both sides.

    Before the first and after the last visible timepoint the nearest one is held.

    Args:
        signals: `(batch, n_rois, n_timepoints)`; hidden entries are not looked at.
        mask: same shape, true = hidden.
        fill: value, or one a ROI `(n_rois,)`, for a ROI with nothing visible.
    """
    signals, mask = _check(signals, mask)
    n_rois, n_timepoints = signals.shape[1:]
    fill = np.broadcast_to(np.asarray(fill, dtype=np.float64), (n_rois,))
    filled = signals.copy()
    time = np.arange(n_timepoints)
    for sample, roi in zip(*np.nonzero(mask.any(2)), strict=True):
        hidden = mask[sample, roi]
        if hidden.all():
            filled[sample, roi] = fill[roi]
        else:
            filled[sample, roi, hidden] = np.interp(time[hidden], time[~hidden], signals[sample, roi, ~hidden])
    return filled


def predict_linearly(
    signals: np.ndarray, mask: np.ndarray, statistics: ReconstructionStatistics, ridge: float = 0.1
) -> np.ndarray:
    """Best linear guess of hidden ROIs from the visible ROIs at the same timepoint.

    The conditional mean of a Gaussian with the training set's mean and covariance. This is the strongest guess that
    looks at one timepoint only, and hard to beat with few training subjects.

    Args:
        signals, mask: `(batch, n_rois, n_timepoints)`; mask true = hidden.
        statistics: of the training scans, on the same scale.
        ridge: added to the variances of the visible ROIs, as a share of their mean.
    """
    signals, mask = _check(signals, mask)
    centred = signals - statistics.mean[:, None]
    predicted = np.zeros_like(signals)
    covariance = statistics.covariance
    for sample in range(len(signals)):
        # Whole patches are hidden, so few patterns of hidden ROIs occur: solve once for each.
        patterns, which = np.unique(mask[sample].T, axis=0, return_inverse=True)
        which = np.asarray(which).reshape(-1)
        for number, hidden in enumerate(patterns):
            visible = ~hidden
            if not hidden.any() or not visible.any():
                continue
            among = covariance[np.ix_(visible, visible)]
            load = ridge * float(np.trace(among)) / visible.sum()
            weights = np.linalg.solve(among + load * np.eye(visible.sum()), covariance[np.ix_(visible, hidden)])
            times = which == number
            predicted[sample][np.ix_(hidden, times)] = weights.T @ centred[sample][np.ix_(visible, times)]
    return np.where(mask, predicted + statistics.mean[:, None], signals)


def reconstruction_baselines(
    signals: np.ndarray,
    mask: np.ndarray,
    statistics: ReconstructionStatistics,
    *,
    ridge: float = 0.1,
    observed: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Guesses of the hidden entries without a network: the five of `BASELINES`.

    Args:
        signals: `(batch, n_rois, n_timepoints)`, scaled as the model's input; hidden entries are never looked at.
        mask: same shape, true or 1 = hidden.
        statistics: of the training scans, on the same scale.
        ridge: see [`predict_linearly`].
        observed: `(batch, n_timepoints)`, false for frames that were cut or lie behind a scan: nothing is taken from
            what stands there. Score with `mask & observed[:, None]`.

    Returns:
        Name -> `(batch, n_rois, n_timepoints)` float64, equal to `signals` where nothing is hidden. Where a method has
        nothing to go by (no visible ROI, no visible timepoint) it falls back on the training mean.
    """
    signals, mask = _check(signals, mask)
    if observed is not None:
        gone = ~np.broadcast_to(np.asarray(observed).astype(bool)[:, None], mask.shape)
        guesses = reconstruction_baselines(signals, mask | gone, statistics, ridge=ridge)
        return {name: np.where(mask, guess, signals) for name, guess in guesses.items()}
    training_mean = np.broadcast_to(statistics.mean[:, None], signals.shape)
    seen = np.where(mask, 0.0, signals)

    def visible_mean(axis: int) -> np.ndarray:
        count = (~mask).sum(axis, keepdims=True)
        mean = seen.sum(axis, keepdims=True) / np.maximum(count, 1)
        return np.where(count > 0, mean, training_mean)

    guesses = {
        "training mean": training_mean,
        "window mean": visible_mean(2),
        "time interpolation": interpolate_in_time(signals, mask, statistics.mean),
        "visible ROIs": visible_mean(1),
        "linear model": predict_linearly(signals, mask, statistics, ridge),
    }
    return {name: np.where(mask, guess, signals) for name, guess in guesses.items()}


def reconstruction_scores(target: np.ndarray, prediction: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Errors on the hidden entries, pooled over everything given.

    Args:
        target, prediction, mask: `(batch, n_rois, n_timepoints)`; mask true or 1 = hidden.

    Returns:
        `mse`, `mae`, `r2` and `pearson_r`, see [`brain_transformers.masked_reconstruction_metrics`]; `n_entries`.

    Raises:
        ValueError: if shapes differ, nothing is hidden, or a value to score is not finite.
    """
    target, mask = _check(target, mask)
    prediction = np.asarray(prediction, dtype=np.float64)
    if prediction.shape != target.shape:
        raise ValueError(f"shapes differ: target {target.shape}, prediction {prediction.shape}, mask {mask.shape}.")
    _check_finite("the hidden entries of the target", target[mask])
    _check_finite("the prediction", prediction[mask])
    scores = masked_reconstruction_metrics(prediction, target, mask)
    return {**{name: scores[name] for name in METRICS}, "n_entries": int(mask.sum())}


def roi_correlations(target: np.ndarray, prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pearson r between hidden signal and reconstruction for each ROI, pooled over samples and timepoints.

    Args:
        target, prediction, mask: `(batch, n_rois, n_timepoints)`.

    Returns:
        `(n_rois,)`; `nan` for a ROI with fewer than two hidden entries or a constant series.
    """
    target, mask = _check(target, mask)
    by_roi = (torch.from_numpy(np.swapaxes(values, 0, 1)) for values in (np.asarray(prediction, float), target, mask))
    return correlations(masked_statistics(*by_roi).numpy())


@dataclass
class ReconstructionReport:
    """Scores of several methods on the same hidden entries.

    Args:
        pooled: method -> scores over all hidden entries.
        by_group: method -> group (such as a subject) -> scores.
    """

    pooled: dict[str, dict[str, float]]
    by_group: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def compare_reconstructions(
    target: np.ndarray, predictions: Mapping[str, np.ndarray], mask: np.ndarray, groups: Iterable[object] | None = None
) -> ReconstructionReport:
    """Score every method on the same hidden entries, pooled and for each group of samples.

    Args:
        target, mask: `(batch, n_rois, n_timepoints)`.
        predictions: method -> array of that shape.
        groups: one entry a sample, such as its subject.

    Raises:
        ValueError: if shapes or groups do not fit, or values are not finite.
    """
    target, mask = _check(target, mask)
    pooled = {name: reconstruction_scores(target, guess, mask) for name, guess in predictions.items()}
    by_group: dict[str, dict[str, dict[str, float]]] = {}
    if groups is not None:
        names = list(groups)
        if len(names) != len(target) or any(map(is_gap, names)):
            raise ValueError(
                f"Expected a group for each of {len(target)} samples, got {len(names)}, "
                f"{sum(map(is_gap, names))} of them missing. Leave groups out to score all samples together."
            )
        labels = np.array([str(name) for name in names])
        for name, guess in predictions.items():
            by_group[name] = {
                str(label): reconstruction_scores(
                    target[labels == label], np.asarray(guess)[labels == label], mask[labels == label]
                )
                for label in dict.fromkeys(labels.tolist())
            }
    return ReconstructionReport(pooled=pooled, by_group=by_group)
