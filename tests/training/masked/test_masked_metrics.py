"""Scores of masked reconstruction: equal to the textbook on the masked entries, however they arrive."""

import numpy as np
import pytest
import torch

from brain_transformers.training import ReconstructionScores, masked_reconstruction_metrics, masked_statistics

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def _series(seed: int = 0, level: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(9, 5, 30)) + level
    predictions = 0.6 * (targets - level) + 0.5 * rng.normal(size=targets.shape) + level
    mask = (rng.random(targets.shape) < rng.random((9, 1, 1))).astype(np.float32)
    return predictions, targets, mask


def _textbook(predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    p, t = predictions[mask == 1], targets[mask == 1]
    r2, r = sklearn_metrics.r2_score(t, p), np.corrcoef(t, p)[0, 1]
    return {
        "mse": np.mean((p - t) ** 2),
        "mae": np.mean(np.abs(p - t)),
        "r2": r2,
        "pearson_r": r,
        "r2_clipped": max(r2, 0),
        "pearson_r_clipped": max(r, 0),
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_scores_equal_the_textbook_on_masked_entries(sign):
    predictions, targets, mask = _series()
    scores = masked_reconstruction_metrics(sign * predictions, targets, mask)
    assert scores == pytest.approx(_textbook(sign * predictions, targets, mask), rel=1e-9, abs=1e-12)
    if sign == -1:
        assert scores["r2_clipped"] == 0
        assert scores["r2"] < 0


def test_batches_in_any_grouping_give_the_pooled_scores():
    predictions, targets, mask = _series(1)
    scores = ReconstructionScores()
    for rows in (slice(0, 1), slice(1, 4), slice(4, 9)):
        scores.update(predictions[rows], targets[rows], mask[rows])
    assert scores.count == mask.sum()
    assert scores.compute() == pytest.approx(_textbook(predictions, targets, mask), rel=1e-9)


def test_a_large_common_level_costs_no_digits():
    # Sums of squares would lose everything here: the spread is a hundred-millionth of the level.
    predictions, targets, mask = _series(2, level=1e8)
    scores = masked_reconstruction_metrics(predictions, targets, mask)
    assert scores == pytest.approx(_textbook(*_series(2)), rel=1e-6)


def test_entries_outside_the_mask_do_not_matter():
    predictions, targets, mask = _series(3)
    expected = masked_reconstruction_metrics(predictions, targets, mask)
    predictions[mask == 0], targets[mask == 0] = np.nan, np.inf
    assert masked_reconstruction_metrics(predictions, targets, mask) == expected


def test_a_mask_of_patches_holds_for_their_timepoints():
    predictions, targets, _ = _series(4)
    patches = (np.random.default_rng(5).random((9, 5, 6)) < 0.4).astype(np.float32)
    scores = masked_reconstruction_metrics(predictions.reshape(9, 5, 6, 5), targets.reshape(9, 5, 6, 5), patches)
    assert scores == pytest.approx(_textbook(predictions, targets, patches.repeat(5, axis=2)), rel=1e-9)


def test_a_sample_with_nothing_masked_counts_for_nothing():
    predictions, targets, mask = _series(6)
    mask[3] = 0
    assert masked_statistics(*(torch.from_numpy(a) for a in (predictions, targets, mask)))[3].tolist() == [0.0] * 8
    assert masked_reconstruction_metrics(predictions, targets, mask) == pytest.approx(
        _textbook(predictions, targets, mask), rel=1e-9
    )


def test_what_cannot_be_scored_is_refused():
    predictions, targets, mask = _series()
    with pytest.raises(ValueError, match="got none"):
        masked_reconstruction_metrics(predictions, targets, np.zeros_like(mask))
    with pytest.raises(ValueError, match="one shape"):
        masked_reconstruction_metrics(predictions[:, :, :10], targets, mask)
    with pytest.raises(ValueError, match="first axes"):
        masked_reconstruction_metrics(predictions, targets, mask[:, :, :10])


@pytest.mark.parametrize("level", [1.0, 0.1])  # a mean of many 0.1 is 0.1 but for rounding
def test_constant_series_score_zero_and_not_nan(level):
    varied, constant = np.random.default_rng(0).normal(size=(1, 49)), np.full((1, 49), level)
    scores = masked_reconstruction_metrics(varied, constant, np.ones((1, 49)))
    assert scores["r2"] == scores["pearson_r"] == 0.0
    assert masked_reconstruction_metrics(constant, varied, np.ones((1, 49)))["pearson_r"] == 0.0
