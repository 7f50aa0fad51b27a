"""Values of ROIs at their place in the brain."""

from typing import Any

import numpy as np

from ..optional import require
from .style import SCORE_MAP, new_figure, styled


def plot_parcel_map(
    coordinates: Any,
    values: Any,
    *,
    label: str = "value",
    cmap: str = SCORE_MAP,
    limits: tuple[float, float] | None = None,
    title: str | None = None,
) -> Any:
    """Parcel centres in nilearn's glass brain, coloured by a value: the left half, from above, and the right half.

    Args:
        coordinates: `(n_rois, 3)`, mm MNI (x to the right, y to the front, z up).
        values: `(n_rois,)`; `nan` is drawn as an empty circle.
        label: what the colour is, with its unit.
        cmap: matplotlib colour map.
        limits: ends of the colour scale; by default the range of the values.
        title: title of the figure.

    Raises:
        ImportError: without nilearn and matplotlib (extra `plot`).
    """
    coordinates, values = np.asarray(coordinates, dtype=float), np.asarray(values, dtype=float)
    if coordinates.ndim != 2 or coordinates.shape != (len(values), 3):
        raise ValueError(
            f"expected coordinates (n_rois, 3) and values (n_rois,), got {coordinates.shape} and {values.shape}."
        )
    known = np.isfinite(values)
    if limits is None:
        limits = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 1.0)
    order = np.argsort(coordinates[:, 2], kind="stable")  # seen from above, the highest lie on top
    shown, empty = order[known[order]], order[~known[order]]
    plotting = require("nilearn.plotting", extra="plot", purpose="drawing parcels on a brain")
    with styled():
        scale = require("matplotlib.cm", extra="plot", purpose="drawing figures").ScalarMappable(cmap=cmap)
        scale.set_clim(*limits)
        figure = new_figure(8.6, 2.8, layout=None)
        brain = plotting.plot_glass_brain(
            None, display_mode="lzr", figure=figure, axes=(0.0, 0.02, 0.88, 0.86 if title else 0.96)
        )
        if empty.size:
            brain.add_markers(coordinates[empty], marker_color="none", marker_size=30, edgecolors="#888888", lw=0.8)
        if shown.size:
            colors = scale.to_rgba(values[shown])
            brain.add_markers(coordinates[shown], marker_color=colors, marker_size=34, edgecolors="white", lw=0.4)
        colorbar = figure.colorbar(scale, cax=figure.add_axes((0.9, 0.12, 0.018, 0.7)))
        colorbar.set_label(label)
        colorbar.outline.set_visible(False)
        if title:
            figure.suptitle(title, fontsize=10.5)
    return figure
