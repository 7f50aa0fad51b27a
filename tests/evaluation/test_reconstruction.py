"""Baselines on arrays that can be checked by hand."""

import numpy as np
import pytest

from brain_transformers.evaluation import (
    BASELINES,
    ReconstructionStatistics,
    compare_reconstructions,
    reconstruction_baselines,
    reconstruction_scores,
    roi_correlations,
)


@pytest.fixture
def small() -> tuple[np.ndarray, np.ndarray, ReconstructionStatistics]:
    """Two ROIs, six timepoints; timepoints 2 and 3 of ROI 0 are hidden."""
    signals = np.array([[[0.0, 1.0, 90.0, 91.0, 4.0, 5.0], [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]]])
    mask = np.zeros_like(signals)
    mask[0, 0, 2:4] = 1
    statistics = ReconstructionStatistics(mean=np.array([7.0, 8.0]), covariance=np.array([[4.0, 2.0], [2.0, 1.0]]))
    return signals, mask, statistics


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("training mean", [7.0, 7.0]),
        ("window mean", [2.5, 2.5]),
        ("time interpolation", [2.0, 3.0]),
        ("visible ROIs", [12.0, 13.0]),
        # Regression slope 2 / (1 + ridge): 7 + 2 / 1.1 * (12 - 8), 7 + 2 / 1.1 * (13 - 8)
        ("linear model", [7 + 8 / 1.1, 7 + 10 / 1.1]),
    ],
)
def test_baseline_by_hand(small, name: str, expected: list[float]) -> None:
    signals, mask, statistics = small
    guess = reconstruction_baselines(signals, mask, statistics, ridge=0.1)[name]
    np.testing.assert_allclose(guess[0, 0, 2:4], expected)
    np.testing.assert_array_equal(guess[mask == 0], signals[mask == 0])


def test_baselines_are_those_that_are_described(small) -> None:
    assert list(reconstruction_baselines(*small)) == list(BASELINES)


def test_baselines_never_look_at_hidden_values(small) -> None:
    signals, mask, statistics = small
    before = reconstruction_baselines(signals, mask, statistics)
    changed = np.where(mask == 1, -1e6, signals)
    after = reconstruction_baselines(changed, mask, statistics)
    for name in before:
        np.testing.assert_array_equal(before[name][mask == 1], after[name][mask == 1], err_msg=name)


def test_edges_hold_the_nearest_visible_value_and_nothing_visible_gives_the_training_mean() -> None:
    signals = np.array([[[1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 5.0]]])
    mask = np.array([[[1, 0, 0, 1], [1, 1, 1, 1]]])
    statistics = ReconstructionStatistics(mean=np.array([0.5, 0.25]), covariance=np.eye(2))
    guesses = reconstruction_baselines(signals, mask, statistics)
    np.testing.assert_allclose(guesses["time interpolation"], [[[2, 2, 3, 3], [0.25] * 4]])
    np.testing.assert_allclose(guesses["window mean"], [[[2.5, 2, 3, 2.5], [0.25] * 4]])
    # At timepoints 0 and 3 no ROI is visible.
    np.testing.assert_allclose(guesses["visible ROIs"], [[[0.5, 2, 3, 0.5], [0.25, 2, 3, 0.25]]])
    np.testing.assert_allclose(guesses["linear model"], [[[0.5, 2, 3, 0.5], [0.25] * 4]])


def test_linear_model_equals_least_squares_on_its_own_training_data() -> None:
    rng = np.random.default_rng(0)
    scan = rng.normal(size=(5, 5)) @ rng.normal(size=(5, 400))
    mask = np.zeros((1, 5, 400))
    mask[:, [1, 3]] = 1
    guess = reconstruction_baselines(scan[None], mask, ReconstructionStatistics.fit([scan]), ridge=0.0)["linear model"]
    design = np.column_stack([scan[[0, 2, 4]].T, np.ones(400)])
    weights = np.linalg.lstsq(design, scan[[1, 3]].T, rcond=None)[0]
    np.testing.assert_allclose(guess[0, [1, 3]].T, design @ weights, atol=1e-8)


def test_scores_by_hand() -> None:
    target, guess = np.array([[[1.0, 2.0, 3.0, 50.0]]]), np.array([[[1.0, 2.0, 5.0, -7.0]]])
    mask = np.array([[[1, 1, 1, 0]]])
    scores = reconstruction_scores(target, guess, mask)
    assert scores["mse"] == pytest.approx(4 / 3)
    assert scores["mae"] == pytest.approx(2 / 3)
    assert scores["r2"] == pytest.approx(1 - 4 / 2)
    assert scores["pearson_r"] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 5])[0, 1])
    assert scores["n_entries"] == 3
    assert reconstruction_scores(target, np.full_like(target, 0.1), mask)["pearson_r"] == 0
    with pytest.raises(ValueError, match="got none"):
        reconstruction_scores(target, guess, np.zeros_like(mask))


def test_pooled_score_is_over_all_entries_and_groups_are_separate() -> None:
    rng = np.random.default_rng(1)
    target, noise = rng.normal(size=(4, 3, 10)), rng.normal(size=(4, 3, 10))
    mask = rng.random((4, 3, 10)) < 0.5
    noise[2:] *= 3
    report = compare_reconstructions(target, {"good": target, "noisy": target + noise}, mask, ["a", "a", "b", "b"])
    assert report.pooled["noisy"]["mse"] == pytest.approx(np.square(noise[mask]).mean())
    assert report.by_group["noisy"]["b"]["mse"] == pytest.approx(np.square(noise[2:][mask[2:]]).mean())
    assert report.by_group["noisy"]["a"]["mse"] < report.by_group["noisy"]["b"]["mse"]
    assert report.pooled["good"]["r2"] == 1


def test_roi_correlation_is_per_roi_over_hidden_entries() -> None:
    rng = np.random.default_rng(2)
    target = rng.normal(size=(2, 3, 20))
    guess = np.stack([target[:, 0], -target[:, 1], rng.normal(size=(2, 20))], axis=1)
    mask = np.ones_like(target)
    mask[:, 2] = 0
    values = roi_correlations(target, guess, mask)
    np.testing.assert_allclose(values[:2], [1, -1])
    assert np.isnan(values[2])


def test_values_that_are_not_finite_have_no_score() -> None:
    target = np.random.default_rng(0).normal(size=(2, 3, 8))
    mask = np.zeros_like(target, dtype=bool)
    mask[:, :, 4:] = True
    broken = target.copy()
    broken[1, 2, 5] = np.nan
    with pytest.raises(ValueError, match="1 of 24 in the prediction"):
        compare_reconstructions(target, {"model": broken}, mask)
    with pytest.raises(ValueError, match="hidden entries of the target"):
        reconstruction_scores(broken, target, mask)
    with pytest.raises(ValueError, match="scan 1"):
        ReconstructionStatistics.fit(list(broken))
    with pytest.raises(ValueError, match="same ROIs"):
        ReconstructionStatistics.fit([target[0], target[1, :2]])
    with pytest.raises(ValueError, match="1 of them missing"):
        compare_reconstructions(target, {"model": target}, mask, groups=["a", None])
