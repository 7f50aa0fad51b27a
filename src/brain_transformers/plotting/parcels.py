"""Values of ROIs at their place in the brain, without a surface or a template."""

from typing import Any

import numpy as np

from .style import SCORE_MAP, new_figure, styled

# Outline of the MNI152 brain seen along each axis, as an ellipse: centre and half axes in mm.
_OUTLINES = {
    "sagittal": ((-18.0, 12.0), (90.0, 66.0)),
    "axial": ((0.0, -18.0), (71.0, 91.0)),
    "coronal": ((0.0, 12.0), (71.0, 66.0)),
}


def plot_parcel_map(
    coordinates: Any,
    values: Any,
    *,
    label: str = "value",
    cmap: str = SCORE_MAP,
    limits: tuple[float, float] | None = None,
    labels: Any = None,
    annotate: int = 0,
    title: str | None = None,
) -> Any:
    """Parcel centres in MNI space seen from the right, from above and from behind, coloured by a value.

    The left hemisphere is on the left of the picture in the last two views.

    Args:
        coordinates: `(n_rois, 3)`, mm MNI (x to the right, y to the front, z up).
        values: `(n_rois,)`; `nan` is drawn as an empty circle.
        label: what the colour is, with its unit.
        cmap: matplotlib colour map.
        limits: ends of the colour scale; by default the range of the values.
        labels: names of the parcels, for `annotate`.
        annotate: write the names of that many highest and lowest parcels below the figure.
        title: title of the figure.
    """
    coordinates, values = np.asarray(coordinates, dtype=float), np.asarray(values, dtype=float)
    if coordinates.ndim != 2 or coordinates.shape != (len(values), 3):
        raise ValueError(
            f"expected coordinates (n_rois, 3) and values (n_rois,), got {coordinates.shape} and {values.shape}."
        )
    known = np.isfinite(values)
    if limits is None:
        limits = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 1.0)
    views = (
        ("sagittal", 1, 2, 0, "y (mm)", "z (mm)"),
        ("axial", 0, 1, 2, "x (mm)", "y (mm)"),
        ("coronal", 0, 2, 1, "x (mm)", "z (mm)"),
    )
    with styled():
        patches = __import__("matplotlib.patches", fromlist=["Ellipse"])
        figure = new_figure(8.6, 3.3)
        widths = [2 * _OUTLINES[view[0]][1][0] for view in views]
        axes = figure.subplots(1, 3, width_ratios=widths)
        points = None
        for axis, (view, horizontal, vertical, depth, xlabel, ylabel) in zip(axes, views, strict=True):
            centre, half = _OUTLINES[view]
            axis.add_patch(
                patches.Ellipse(centre, 2 * half[0], 2 * half[1], fc="#f5f5f2", ec="#c9c9c4", lw=1.0, zorder=0)
            )
            # Nearest to the viewer last, so that it lies on top: the right side, the top, the back.
            towards = -coordinates[:, depth] if view == "coronal" else coordinates[:, depth]
            order = np.argsort(towards)
            shown = order[known[order]]
            empty = order[~known[order]]
            axis.scatter(
                coordinates[empty, horizontal],
                coordinates[empty, vertical],
                s=34,
                fc="none",
                ec="#888888",
                lw=0.8,
                zorder=2,
            )
            points = axis.scatter(
                coordinates[shown, horizontal],
                coordinates[shown, vertical],
                s=44,
                c=values[shown],
                cmap=cmap,
                vmin=limits[0],
                vmax=limits[1],
                ec="white",
                lw=0.5,
                zorder=3,
            )
            axis.set_aspect("equal")
            axis.set_xlim(centre[0] - half[0] - 6, centre[0] + half[0] + 6)
            axis.set_ylim(centre[1] - half[1] - 6, centre[1] + half[1] + 6)
            axis.set_xlabel(xlabel)
            axis.set_ylabel(ylabel)
            names = {
                "sagittal": "from the right",
                "axial": "from above",
                "coronal": "from behind",
            }
            axis.set_title(names[view])
        colorbar = figure.colorbar(points, ax=axes, shrink=0.85, pad=0.015)
        colorbar.set_label(label)
        colorbar.outline.set_visible(False)
        if annotate and labels is not None and known.any():
            ranked = np.flatnonzero(known)[np.argsort(values[known])]
            best = ", ".join(f"{labels[i]} {values[i]:.2f}" for i in ranked[::-1][:annotate])
            worst = ", ".join(f"{labels[i]} {values[i]:.2f}" for i in ranked[:annotate])
            figure.supxlabel(f"highest: {best}\nlowest: {worst}".replace("_", " "), fontsize=7.5)
        if title:
            figure.suptitle(title, fontsize=10.5)
    return figure
