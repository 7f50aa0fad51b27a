"""Figures of masked reconstruction: traces and carpet plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..optional import require
from .style import BLUE, INK, LIGHT_GREY, SIGNAL_MAP, VERMILION, new_figure, styled, symmetric_limit


def _spans(hidden: np.ndarray) -> list[tuple[int, int]]:
    """Runs of true entries as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(np.int8), [0]])))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _check(target: Any, mask: Any, **others: Any) -> list[np.ndarray]:
    arrays = [np.asarray(target, dtype=float), np.asarray(mask).astype(bool)]
    arrays += [np.asarray(other, dtype=float) for other in others.values()]
    if arrays[0].ndim != 2 or any(array.shape != arrays[0].shape for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"expected arrays of one shape (n_rois, n_timepoints), one window at a time, got {shapes}.")
    return arrays


def plot_reconstruction(
    target: Any,
    prediction: Any,
    mask: Any,
    *,
    rois: Sequence[int] | None = None,
    t_r: float | None = None,
    roi_labels: Sequence[str] | None = None,
    baselines: Mapping[str, Any] | None = None,
    unit: str = "scaled BOLD",
    title: str | None = None,
) -> Any:
    """Series of a few ROIs with hidden spans shaded, and what was predicted there.

    Args:
        target, prediction, mask: `(n_rois, n_timepoints)`, one window; mask true or 1 = hidden from the model.
        rois: rows to draw; by default four with something hidden, spread over the order.
        t_r: seconds between timepoints; without it the axis counts timepoints.
        roi_labels: names of all rows.
        baselines: name -> array to draw thinly for comparison.
        unit: label of the signal axis.
        title: title of the figure.

    Returns:
        `matplotlib.figure.Figure`.
    """
    target, mask, prediction = _check(target, mask, prediction=prediction)
    others = {name: _check(target, mask, guess=guess)[2] for name, guess in (baselines or {}).items()}
    if rois is None:
        candidates = np.flatnonzero(mask.any(1))
        if not candidates.size:
            candidates = np.arange(len(target))
        rois = candidates[np.unique(np.linspace(0, len(candidates) - 1, 4).round().astype(int))].tolist()
    step = 1.0 if t_r is None else float(t_r)
    time = np.arange(target.shape[1]) * step
    limit = 1.15 * max(
        float(np.abs(target[list(rois)]).max()), float(np.abs(prediction[list(rois)][mask[list(rois)]]).max(initial=0))
    )
    with styled():
        figure = new_figure(8.2, 1.25 * len(rois) + 0.9)
        axes = figure.subplots(len(rois), 1, sharex=True, squeeze=False)[:, 0]
        for axis, roi in zip(axes, rois, strict=True):
            for first, last in _spans(mask[roi]):
                axis.axvspan(
                    (first - 0.5) * step, (last - 0.5) * step, color=LIGHT_GREY, lw=0, label="hidden from the model"
                )
            axis.plot(time, target[roi], color=INK, lw=1.0, label="measured")
            for number, (name, guess) in enumerate(others.items()):
                axis.plot(
                    time,
                    np.where(mask[roi], guess[roi], np.nan),
                    color=("#009E73", "#E69F00", "#CC79A7")[number % 3],
                    lw=1.1,
                    ls=(0, (3, 1.5)),
                    label=name,
                )
            shown = np.where(mask[roi], prediction[roi], np.nan)
            axis.plot(time, shown, color=VERMILION, lw=1.7, label="reconstructed")
            axis.set_ylim(-limit, limit)
            axis.axhline(0, color="#cccccc", lw=0.6, zorder=0)
            name = roi_labels[roi] if roi_labels is not None else f"ROI {roi}"
            hidden = mask[roi]
            score = ""
            if hidden.sum() > 1 and target[roi, hidden].std() > 0 and prediction[roi, hidden].std() > 0:
                score = f"   r = {np.corrcoef(target[roi, hidden], prediction[roi, hidden])[0, 1]:.2f} where hidden"
            axis.set_title(f"{str(name).replace('_', ' ')}{score}", loc="left", pad=3, fontsize=8.5)
        axes[-1].set_xlim(time[0], time[-1])
        axes[-1].set_xlabel("time (timepoints)" if t_r is None else "time (s)")
        figure.supylabel(unit, fontsize=9)
        labels: dict[str, Any] = {}
        for axis in axes:
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
                labels.setdefault(label, handle)
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=len(labels))
        if title:
            figure.suptitle(title, fontsize=10.5)
    return figure


def plot_carpet(
    original: Any,
    reconstructed: Any,
    mask: Any,
    *,
    t_r: float | None = None,
    order: Sequence[int] | None = None,
    groups: Sequence[tuple[str, int]] | None = None,
    limit: float | None = None,
    unit: str = "scaled BOLD",
    title: str | None = None,
) -> Any:
    """Carpet plots of one window: measured, what the model saw, and the window with its hidden part filled in.

    The three share one colour scale.

    Args:
        original, reconstructed, mask: `(n_rois, n_timepoints)`; mask true or 1 = hidden.
        t_r: seconds between timepoints.
        order: rows from top to bottom.
        groups: consecutive blocks of the ordered rows as (name, number of rows), marked at the side.
        limit: end of the colour scale; by default the 99th percentile of the absolute values.
        unit: label of the colour bar.
        title: title of the figure.
    """
    original, mask, reconstructed = _check(original, mask, reconstructed=reconstructed)
    rows = np.arange(len(original)) if order is None else np.asarray(order)
    filled = np.where(mask, reconstructed, original)
    limit = symmetric_limit(original) if limit is None else float(limit)
    step = 1.0 if t_r is None else float(t_r)
    extent = (-0.5 * step, (original.shape[1] - 0.5) * step, len(rows) - 0.5, -0.5)
    with styled():
        colormap = require("matplotlib", extra="plot", purpose="drawing figures").colormaps[SIGNAL_MAP]
        figure = new_figure(8.6, 3.7)
        axes = figure.subplots(1, 3, sharey=True)
        panels = (
            ("measured", original),
            ("seen by the model (grey = hidden)", np.where(mask, np.nan, original)),
            ("hidden part reconstructed", filled),
        )
        image = None
        for axis, (name, values) in zip(axes, panels, strict=True):
            image = axis.imshow(
                values[rows],
                aspect="auto",
                cmap=colormap.with_extremes(bad="#bdbdbd"),
                vmin=-limit,
                vmax=limit,
                extent=extent,
                interpolation="nearest",
            )
            axis.set_title(name)
            axis.set_xlabel("time (timepoints)" if t_r is None else "time (s)")
            axis.spines[:].set_visible(False)
        if groups:
            edges = np.cumsum([0, *(size for _, size in groups)])
            axes[0].set_yticks((edges[:-1] + edges[1:]) / 2 - 0.5, [name for name, _ in groups])
            axes[0].tick_params(axis="y", length=0)
            for axis in axes:
                for edge in edges[1:-1]:
                    axis.axhline(edge - 0.5, color="white", lw=1.2)
        else:
            axes[0].set_ylabel("ROI")
        colorbar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.015, extend="both")
        colorbar.set_label(unit)
        colorbar.outline.set_visible(False)
        if title:
            figure.suptitle(title, fontsize=10.5)
    return figure


def plot_reconstruction_scores(
    scores: Mapping[str, Mapping[str, float]],
    by_group: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    *,
    metric: str = "r2",
    highlight: Sequence[str] = (),
    label: str = "R² on hidden entries",
    title: str | None = None,
) -> Any:
    """Bars of one score for several methods, best on top, with the groups (subjects) as dots."""
    names = sorted(scores, key=lambda name: scores[name][metric])
    with styled():
        figure = new_figure(6.6, 0.42 * len(names) + 0.9)
        axis = figure.subplots()
        for place, name in enumerate(names):
            value = scores[name][metric]
            axis.barh(place, value, height=0.62, color=BLUE if name in highlight else "#c4c8cc", zorder=2)
            points = [group[metric] for group in (by_group or {}).get(name, {}).values()]
            if points:
                axis.plot(points, [place] * len(points), "o", ms=4.5, mfc="white", mec=INK, mew=1.0, zorder=3)
        span = axis.get_xlim()
        for place, name in enumerate(names):
            points = [group[metric] for group in (by_group or {}).get(name, {}).values()]
            right = max([scores[name][metric], 0.0, *points])
            axis.text(
                right + 0.02 * (span[1] - span[0]),
                place,
                f"{scores[name][metric]:.3f}".replace("-", "−"),
                va="center",
                fontsize=8,
            )
        axis.set_xlim(span[0], span[1] + 0.1 * (span[1] - span[0]))
        axis.axvline(0, color="#666666", lw=0.8, zorder=1)
        axis.set_yticks(range(len(names)), names)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel(label + ("   (bar: pooled, dots: subjects)" if by_group else ""))
        if title:
            axis.set_title(title, loc="left")
    return figure
