"""Scores of a masked reconstruction, over masked entries only, streamed without keeping the series."""

from typing import Any

import numpy as np
import torch

STATISTICS = (
    "count",
    "mean_target",
    "mean_prediction",
    "m2_target",
    "m2_prediction",
    "co_moment",
    "squared",
    "absolute",
)
"""Columns of [`masked_statistics`]: number of entries, means, sums of squared deviations from them, sum of products of
the deviations, and sums of squared and absolute errors."""


def _expand_mask(mask: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A boolean mask of `shape`; trailing axes that `mask` lacks (timepoints of a patch) share its value."""
    if mask.shape != shape[: mask.dim()]:
        raise ValueError(
            f"Expected a mask of shape {tuple(shape)}, or of its first axes, got {tuple(mask.shape)}. Pass "
            "`signal_mask` with `predictions` and `targets`, or the family's `mask` with `logits` and the target in "
            "the same layout."
        )
    return (mask > 0.5).reshape(mask.shape + (1,) * (len(shape) - mask.dim())).expand(shape)


def masked_statistics(predictions: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sums over the masked entries of each sample, enough for every score of [`ReconstructionScores`].

    Deviations are taken from each sample's own mean before they are squared, so a large common level costs no digits.

    Args:
        predictions, targets: `(batch, ...)` of one shape, any float dtype.
        mask: same shape or its first axes, 1 = masked.

    Returns:
        float64 `(batch, 8)`, columns as in `STATISTICS`; zeros for a sample with nothing masked.
    """
    if predictions.shape != targets.shape:
        raise ValueError(
            f"Expected predictions and targets of one shape, got {tuple(predictions.shape)} and "
            f"{tuple(targets.shape)}."
        )
    if predictions.device.type == "mps":  # no float64 there
        predictions, targets, mask = predictions.cpu(), targets.cpu(), mask.cpu()
    counted = _expand_mask(mask, targets.shape).flatten(1)
    # Unmasked entries may hold anything, so they are replaced before arithmetic and not multiplied by 0.
    target = targets.flatten(1).double().masked_fill(~counted, 0.0)
    prediction = predictions.flatten(1).double().masked_fill(~counted, 0.0)
    count = counted.sum(1, dtype=torch.float64)
    divisor = count.clamp(min=1)
    mean_target, mean_prediction = target.sum(1) / divisor, prediction.sum(1) / divisor
    error = prediction - target
    target = (target - mean_target[:, None]).masked_fill(~counted, 0.0)
    prediction = (prediction - mean_prediction[:, None]).masked_fill(~counted, 0.0)
    columns = (
        count,
        mean_target,
        mean_prediction,
        target.square().sum(1),
        prediction.square().sum(1),
        (target * prediction).sum(1),
        error.square().sum(1),
        error.abs().sum(1),
    )
    return torch.stack(columns, dim=1)


def _spread(statistics: np.ndarray, of: str) -> np.ndarray:
    """Sums of squared deviations `(...)` of rows `(..., 8)`, 0 where they are no more than rounding of the level."""
    squares, mean = (statistics[..., STATISTICS.index(f"{name}_{of}")] for name in ("m2", "mean"))
    return np.where(squares <= statistics[..., 0] * np.square(1e-12 * mean), 0.0, squares)


def correlations(statistics: np.ndarray) -> np.ndarray:
    """Pearson r `(...)` of rows `(..., 8)` of [`masked_statistics`]; NaN where either side is constant."""
    product = np.sqrt(_spread(statistics, "target")) * np.sqrt(_spread(statistics, "prediction"))
    moments = statistics[..., STATISTICS.index("co_moment")]
    return np.clip(np.divide(moments, product, out=np.full_like(moments, np.nan), where=product > 0), -1.0, 1.0)


class ReconstructionScores:
    """Collects statistics batch by batch and gives scores pooled over all masked entries of all samples.

    What is kept is eight numbers, merged with Chan's formula (Chan, Golub and LeVeque, 1983).
    """

    def __init__(self) -> None:
        self._pooled = np.zeros(len(STATISTICS))

    @property
    def count(self) -> int:
        """Number of masked entries so far."""
        return int(self._pooled[0])

    def update(self, predictions: Any, targets: Any, mask: Any) -> None:
        """Add a batch; arguments as in [`masked_statistics`], tensors or arrays."""
        values = [torch.as_tensor(value) for value in (predictions, targets, mask)]
        self.update_from_statistics(masked_statistics(*values))

    def update_from_statistics(self, statistics: Any) -> None:
        """Add rows `(n, 8)` of [`masked_statistics`], which may come from other processes."""
        rows = np.asarray(torch.as_tensor(statistics).cpu(), dtype=np.float64)
        self._pooled = _merge(np.concatenate([self._pooled[None], rows]))

    def compute(self) -> dict[str, float]:
        """Scores over all masked entries.

        Returns:
            `mse` and `mae` in units of the signal; `r2` (1 - squared error / squared deviation from the mean of the
            masked targets), below 0 for a guess worse than that mean, and `pearson_r`. Where targets (or, for r,
            predictions) are constant, both are 0. `r2_clipped` and `pearson_r_clipped` are the same with 0 in place
            of what is negative, as BrainLM's released code reports them: for comparison with its numbers only.

        Raises:
            ValueError: if nothing was masked.
        """
        if self.count == 0:
            raise ValueError(
                "Expected masked entries to score, got none. Use a mask_ratio above 0, and windows that are not all "
                "padding."
            )
        count, *_, squared, absolute = self._pooled.tolist()
        m2_target = float(_spread(self._pooled, "target"))
        r2 = 1.0 - squared / m2_target if m2_target > 0 else 0.0
        pearson_r = float(np.nan_to_num(correlations(self._pooled)))
        return {
            "mse": squared / count,
            "mae": absolute / count,
            "r2": r2,
            "pearson_r": pearson_r,
            "r2_clipped": max(r2, 0.0),
            "pearson_r_clipped": max(pearson_r, 0.0),
        }


def _merge(rows: np.ndarray) -> np.ndarray:
    """One row of statistics that stands for all `rows` `(n, 8)`."""
    counts = rows[:, 0]
    total = counts.sum()
    if total == 0:
        return np.zeros(len(STATISTICS))
    means = rows[:, 1:3]
    pooled_means = (counts[:, None] * means).sum(0) / total
    shift = means - pooled_means
    between = (
        counts[:, None] * np.stack([shift[:, 0] ** 2, shift[:, 1] ** 2, shift[:, 0] * shift[:, 1]], axis=1)
    ).sum(0)
    return np.concatenate([[total], pooled_means, rows[:, 3:6].sum(0) + between, rows[:, 6:].sum(0)])


def masked_reconstruction_metrics(predictions: Any, targets: Any, mask: Any) -> dict[str, float]:
    """Scores of one batch over its masked entries, see [`ReconstructionScores.compute`].

    Args:
        predictions, targets: `(batch, ...)` of one shape, tensors or arrays.
        mask: same shape or its first axes, such as `(batch, n_rois, n_windows)` beside
            `(batch, n_rois, n_windows, patch_size)`; 1 = masked.
    """
    scores = ReconstructionScores()
    scores.update(predictions, targets, mask)
    return scores.compute()
