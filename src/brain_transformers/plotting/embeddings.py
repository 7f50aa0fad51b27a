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
    connect: bool = True,
    title: str | None = None,
) -> Any:
    """First two principal components of embeddings; colour is the group (subject), shape the part (scan half).

    Args:
        embeddings: `(n, n_features)`.
        groups: one label a row, told apart by colour and by name.
        parts: one label a row, told apart by marker.
        connect: join the rows of a group by a line.
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
        lines = __import__("matplotlib.lines", fromlist=["Line2D"])
        figure = new_figure(6.4, 4.3)
        axis = figure.subplots()
        for number, name in enumerate(names):
            own = labels == name
            color = SERIES[number % len(SERIES)]
            if connect:
                axis.plot(*plane[own].T, color=color, lw=1.0, alpha=0.6, zorder=1)
            for kind, marker in markers.items():
                chosen = own & (kinds == kind)
                axis.scatter(*plane[chosen].T, color=color, marker=marker, s=52, ec="white", lw=0.7, zorder=2)
            axis.annotate(name, plane[own].mean(0), textcoords="offset points", xytext=(7, 7), fontsize=8, color=color)
        if parts is not None:
            handles = [
                lines.Line2D([], [], ls="", marker=marker, color=INK, ms=6, label=kind)
                for kind, marker in markers.items()
            ]
            axis.legend(handles=handles, loc="best")
        axis.margins(0.14)
        axis.set_xlabel(f"principal component 1 ({shares[0]:.0%} of the variance)")
        axis.set_ylabel(f"principal component 2 ({shares[1]:.0%})")
        axis.axhline(0, color="#dddddd", lw=0.6, zorder=0)
        axis.axvline(0, color="#dddddd", lw=0.6, zorder=0)
        if title:
            axis.set_title(title, loc="left")
    return figure
