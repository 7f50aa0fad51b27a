"""Figure of a pretraining run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION, new_figure, styled


def plot_loss_curve(
    log_history: Sequence[Mapping[str, float]],
    *,
    baselines: Mapping[str, float] | None = None,
    loss_label: str = "mean squared error on hidden entries",
    title: str | None = None,
) -> Any:
    """Training and evaluation loss over steps, with baselines as lines.

    Args:
        log_history: `trainer.state.log_history`: entries with `step` and `loss` or `eval_loss`.
        baselines: name -> loss of a guess without a network, in the same unit.
        loss_label: label of the loss axis.
        title: title of the axes.

    Raises:
        ValueError: if no entry holds a loss.
    """
    train = np.array([(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry], dtype=float)
    evaluation = np.array(
        [(entry["step"], entry["eval_loss"]) for entry in log_history if "eval_loss" in entry], dtype=float
    )
    if not train.size and not evaluation.size:
        raise ValueError(
            "log_history holds no `loss` and no `eval_loss`; pass trainer.state.log_history after training."
        )
    last = max(float(series[-1, 0]) for series in (train, evaluation) if series.size)
    lines = sorted((baselines or {}).items(), key=lambda item: -item[1])
    low = min([*(series[:, 1].min() for series in (train, evaluation) if series.size), *(v for _, v in lines)])
    high = max([*(series[:, 1].max() for series in (train, evaluation) if series.size), *(v for _, v in lines)])
    # The loss of an untrained network would flatten everything else: the axis follows what comes after it.
    late = [series[len(series) // 8 + 1 :, 1] for series in (train, evaluation) if len(series) > 3]
    settled = max((float(values.max()) for values in late), default=float(high))
    top = min(high, 1.1 * max([settled, *(v for _, v in lines)]))
    pad = 0.06 * (top - low or 1.0)
    with styled():
        figure = new_figure(7.4, 3.5)
        axis = figure.subplots()
        if train.size:
            axis.plot(train[:, 0], train[:, 1], color=SKY, lw=1.2, label="training", zorder=2)
        if evaluation.size:
            axis.plot(evaluation[:, 0], evaluation[:, 1], color=BLUE, lw=1.8, zorder=3)
            shown = evaluation[evaluation[:, 1] <= top + pad]
            # Points at the edge stay whole, which only works if those outside the axis are left out.
            axis.plot(*shown.T, "o-", color=BLUE, lw=1.8, ms=4, label="held out", zorder=3, clip_on=False)
        axis.set_ylim(low - pad, top + pad)
        previous = np.inf
        gap = 0.055 * (top - low + 2 * pad)
        for number, (name, value) in enumerate(lines):
            color = (VERMILION, ORANGE, PINK, GREEN, GREY)[number % 5]
            axis.axhline(value, color=color, lw=1.1, ls=(0, (4, 2)), zorder=1)
            height = min(value, previous - gap)
            previous = height
            axis.annotate(
                name,
                (1.01, height),
                xycoords=("axes fraction", "data"),
                color=color,
                fontsize=8,
                va="center",
                annotation_clip=False,
            )
        axis.set_xlim(0, last)
        axis.set_xlabel("training step")
        axis.set_ylabel(loss_label)
        axis.legend(loc="upper right")
        if title:
            axis.set_title(title, loc="left")
    return figure
