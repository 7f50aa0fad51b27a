"""Figure of embeddings in the plane."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .style import INK, SERIES, new_figure, styled


def plot_embedding_map(
    embeddings: Any,
    *,
    groups: Sequence[object],
    parts: Sequence[object] | None = None,
    title: str | None = None,
) -> Any:
    """First two principal components of embeddings; colour is the group (subject), shape the part (scan half).

    A line joins the rows of a group.

    Args:
        embeddings: `(n, n_features)`.
        groups: one label a row, told apart by colour and by name.
        parts: one label a row, told apart by marker.
        title: title of the axes.
    """
    values = np.asarray(embeddings, dtype=float)
    if values.ndim != 2 or len(values) != len(groups) or len(values) < 2:
        raise ValueError(
            f"expected (n, n_features) with n >= 2 and one group a row, got {values.shape} and {len(groups)}."
        )
    centred = values - values.mean(0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    if len(scales) < 2:
        left, scales = np.pad(left, ((0, 0), (0, 1))), np.pad(scales, (0, 1))
    # The sign of a component is arbitrary; fix it so that a rerun gives the same picture.
    signs = np.sign(left[np.abs(left).argmax(0), np.arange(left.shape[1])])
    plane = left[:, :2] * scales[:2] * signs[:2]
    shares = np.square(scales) / max(float(np.square(scales).sum()), 1e-300)
    names = list(dict.fromkeys(str(group) for group in groups))
    labels = np.array([str(group) for group in groups])
    kinds = np.array(["" for _ in groups] if parts is None else [str(part) for part in parts])
    markers = dict(zip(dict.fromkeys(kinds.tolist()), "osD^vP*X", strict=False))
    with styled():
        figure = new_figure(6.4, 4.3)
        axis = figure.subplots()
        for number, name in enumerate(names):
            own = labels == name
            color = SERIES[number % len(SERIES)]
            axis.plot(*plane[own].T, color=color, lw=1.0, alpha=0.6, zorder=1)
            for kind, marker in markers.items():
                chosen = own & (kinds == kind)
                axis.scatter(*plane[chosen].T, color=color, marker=marker, s=52, ec="white", lw=0.7, zorder=2)
        if parts is not None:
            for kind, marker in markers.items():
                axis.plot([], [], ls="", marker=marker, color=INK, ms=6, label=kind)
            axis.legend(loc="best")
        axis.margins(0.14)
        axis.set_xlabel(f"principal component 1 ({shares[0]:.0%} of the variance)")
        axis.set_ylabel(f"principal component 2 ({shares[1]:.0%})")
        axis.axhline(0, color="#dddddd", lw=0.6, zorder=0)
        axis.axvline(0, color="#dddddd", lw=0.6, zorder=0)
        if title:
            axis.set_title(title, loc="left")
        _write_names(axis, names, labels, plane)
    return figure


def _write_names(axis: Any, names: Sequence[str], labels: np.ndarray, plane: np.ndarray) -> None:
    """Each group's name beside one of its points, where it covers the least of points, other names and the legend."""
    axis.figure.draw_without_rendering()  # places are in points, so the layout has to be final
    scale = 72 / axis.figure.dpi
    points = axis.transData.transform(plane) * scale
    taken = [np.concatenate([points - 5, points + 5], axis=1)]
    if axis.get_legend() is not None:
        taken.append(axis.get_legend().get_window_extent().extents[None] * scale)
    frame = axis.bbox.extents * scale
    angles = np.deg2rad([0, 180, 30, -30, 150, -150, 60, -60, 120, -120, 90, -90])
    steps = np.concatenate([radius * np.stack([np.cos(angles), np.sin(angles)], 1) for radius in (8, 14, 22, 32, 46)])
    for number, name in enumerate(names):
        size = np.array([4.9 * len(name), 9.0])
        own = points[labels == name]
        # To the left of a point a name ends there, and above and below it is in the middle.
        shift = np.stack([0.5 - 0.5 * np.sign(steps[:, 0].round()), np.full(len(steps), 0.5)], axis=1) * size
        corners = own[:, None] + steps - shift
        boxes = np.concatenate([corners, corners + size], axis=2).reshape(-1, 4)
        cost = np.tile(np.linalg.norm(steps, axis=1), len(own)) * 0.5
        for others, weight in ((np.concatenate(taken), 1.0), (frame[None], -1.0)):
            low = np.maximum(boxes[:, None, :2], others[:, :2])
            high = np.minimum(boxes[:, None, 2:], others[:, 2:])
            cost += weight * np.clip(high - low, 0, None).prod(2).sum(1)
        box = boxes[cost.argmin()]
        taken.append(box[None])
        axis.annotate(
            name,
            axis.transData.inverted().transform(box[:2] / scale),
            fontsize=8,
            color=SERIES[number % len(SERIES)],
            annotation_clip=False,
        )
