"""Colours and figure set-up that all plots share."""

from typing import Any

import numpy as np

from ..optional import require

# Okabe and Ito's palette, which people with any common colour blindness can tell apart.
INK = "#222222"
GREY = "#8a8a8a"
LIGHT_GREY = "#e9e9e6"
BLUE = "#0072B2"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
GREEN = "#009E73"
SKY = "#56B4E9"
PINK = "#CC79A7"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, SKY, PINK, GREY, INK)
SIGNAL_MAP = "RdBu_r"
SCORE_MAP = "viridis"

_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "regular",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "text.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def new_figure(width: float, height: float, **kwargs: Any) -> Any:
    """A matplotlib `Figure` outside pyplot's state, so that plots work without a display and leave nothing open.

    Args:
        width, height: inches.
        kwargs: for `matplotlib.figure.Figure`.
    """
    figure_module = require("matplotlib.figure", extra="plot", purpose="drawing figures")
    return figure_module.Figure(figsize=(width, height), layout=kwargs.pop("layout", "constrained"), **kwargs)


def styled() -> Any:
    """Context in which axes get this package's look; the user's own matplotlib settings stay untouched outside."""
    matplotlib = require("matplotlib", extra="plot", purpose="drawing figures")
    return matplotlib.rc_context(_RC)


def symmetric_limit(*arrays: Any, percentile: float = 99.0) -> float:
    """Common limit of a diverging colour scale: a percentile of the absolute values of all arrays."""
    values = np.concatenate([np.abs(np.asarray(array, dtype=float)).ravel() for array in arrays])
    values = values[np.isfinite(values)]
    limit = float(np.percentile(values, percentile)) if values.size else 0.0
    return limit if limit > 0 else 1.0
