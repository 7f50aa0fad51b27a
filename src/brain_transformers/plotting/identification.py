"""Figure of subject identification."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..optional import require
from .style import SCORE_MAP, VERMILION, new_figure, styled


def plot_identification(
    results: Mapping[str, Any],
    *,
    first: str = "first half",
    second: str = "second half",
    title: str | None = None,
) -> Any:
    """Similarity matrices of one or more methods side by side; a frame marks the nearest neighbour of each row.

    Titles say how many rows, and how many columns, have their own as the nearest.

    Colours run from the lowest to the highest value of each matrix, since embeddings and connectivity live on
    different ranges; the values are written into the cells when there are few subjects.

    Args:
        results: name -> [`brain_transformers.evaluation.IdentificationResult`].
        first, second: what the rows and the columns are.
        title: title of the figure.
    """
    if not results:
        raise ValueError("results is empty: pass at least one name -> IdentificationResult.")
    n = len(results)
    with styled():
        figure = new_figure(3.7 * n + 0.3, 3.9)
        axes = np.atleast_1d(figure.subplots(1, n))
        patches = require("matplotlib.patches", extra="plot", purpose="drawing figures")
        for number, (axis, (name, result)) in enumerate(zip(axes, results.items(), strict=True)):
            matrix = result.similarity
            size = len(matrix)
            image = axis.imshow(matrix, cmap=SCORE_MAP)
            nearest = matrix.argmax(1)
            for row, column in enumerate(nearest):
                right = row == column
                axis.add_patch(
                    patches.Rectangle(
                        (column - 0.46, row - 0.46),
                        0.92,
                        0.92,
                        fill=False,
                        lw=2.0,
                        ec="white" if right else VERMILION,
                        ls="-" if right else (0, (2, 1)),
                    )
                )
            if size <= 10:
                low, high = float(matrix.min()), float(matrix.max())
                digits = 2 if high - low > 0.1 else 3
                for (row, column), value in np.ndenumerate(matrix):
                    dark = (value - low) / ((high - low) or 1.0) < 0.6
                    axis.text(
                        column,
                        row,
                        f"{value:.{digits}f}".replace("0.", ".", 1),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if dark else "black",
                    )
                axis.set_xticks(range(size), result.subjects, rotation=60, ha="right", rotation_mode="anchor")
                axis.set_yticks(range(size), result.subjects if number == 0 else [""] * size)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
            axis.set_xlabel(second)
            if number == 0:
                axis.set_ylabel(first)
            axis.set_title(
                f"{name}\nright: rows {result.accuracy_ab:.0%}, columns {result.accuracy_ba:.0%} "
                f"(chance {result.chance:.0%})"
            )
            colorbar = figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02)
            colorbar.outline.set_visible(False)
            colorbar.ax.tick_params(labelsize=7)
        axes[-1].images[0].colorbar.set_label("Pearson r")
        if title:
            figure.suptitle(title, fontsize=10.5)
    return figure
