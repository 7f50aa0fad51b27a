"""Intervals of scores, and the guess beside them."""

import numpy as np

from brain_transformers.evaluation.intervals import guess, in_words, intervals
from brain_transformers.training.scores import prediction_scores


def test_an_interval_counts_people_and_not_their_scans() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(40) % 2
    right = rng.random(40) < 0.8
    logits = np.eye(2)[np.where(right, targets, 1 - targets)]
    low, high = intervals(prediction_scores, logits, targets, range(40))["accuracy"]
    assert low < right.mean() < high
    # Each scan five times, by the same people: no surer than before.
    again = [np.repeat(values, 5, axis=0) for values in (logits, targets)]
    assert intervals(prediction_scores, *again, np.repeat(np.arange(40), 5))["accuracy"] == (low, high)


def test_a_guess_sees_the_training_labels_alone() -> None:
    assert guess(np.ones((3, 2)), np.array([1, 1, 0])).argmax(1).tolist() == [1, 1, 1]
    assert guess(np.ones((3, 1)), np.array([20.0, 30.0])).tolist() == [[25.0]] * 3
    targets = np.array([21.0, 25.0, 29.0])
    words = in_words(prediction_scores, targets[:, None] + 1, targets, ["a", "b", "c"], np.array([25.0]))
    assert words["mae"] == "1.000 (95 % interval 1.000 to 1.000); a guess without scans: 2.667"
    assert "no interval" in in_words(prediction_scores, targets[:, None], targets, "aaa", targets)["mse"]
