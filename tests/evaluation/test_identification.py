"""Connectivity against numpy, identification and probes on data with a known answer."""

import numpy as np
import pytest

from brain_transformers.evaluation import functional_connectivity, identify, probe


def test_connectivity_equals_corrcoef() -> None:
    signals = np.random.default_rng(0).normal(size=(3, 6, 50)).astype(np.float32) + 1e4
    matrices = functional_connectivity(signals, vectorize=False)
    for signal, matrix in zip(signals, matrices, strict=True):
        np.testing.assert_allclose(matrix, np.corrcoef(signal.astype(np.float64)), atol=1e-12)
    np.testing.assert_array_equal(functional_connectivity(signals[0]), matrices[0][np.triu_indices(6, 1)])
    np.testing.assert_allclose(
        functional_connectivity(signals[0], fisher_z=True), np.arctanh(matrices[0][np.triu_indices(6, 1)])
    )


def test_constant_roi_correlates_with_nothing() -> None:
    signals = np.random.default_rng(0).normal(size=(3, 50))
    signals[1] = 0.1 + 0.2
    matrix = functional_connectivity(signals, vectorize=False)
    np.testing.assert_array_equal(matrix[1], 0)
    assert matrix[0, 2] != 0
    with pytest.raises(ValueError, match="NaN"):
        functional_connectivity(np.where(signals == signals[1, 0], np.nan, signals))


def test_everyone_is_found_when_halves_share_a_pattern() -> None:
    rng = np.random.default_rng(0)
    people = rng.normal(size=(8, 200))
    result = identify(people + 0.3 * rng.normal(size=people.shape), people, [f"s{i}" for i in range(8)])
    assert (result.accuracy_ab, result.accuracy_ba, result.mean_rank) == (1.0, 1.0, 1.0)
    assert result.contrast > 0.5
    assert result.similarity[0, 1] == pytest.approx(result.similarity[0, 1])
    assert result.subjects[3] == "s3"


def test_swapped_subjects_are_missed_and_directions_are_told_apart() -> None:
    a = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    swapped = identify(a, a[[1, 0, 2]])
    assert swapped.accuracy_ab == swapped.accuracy_ba == pytest.approx(1 / 3)
    # Row 2 of the second set looks like subject 0, so subject 0 is found from both sides and subject 2 from neither.
    b = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0.2, 0, 0]])
    result = identify(a, b)
    assert result.accuracy_ab == pytest.approx(2 / 3)
    assert result.similarity[2, 2] < result.similarity[0, 2]


def test_features_without_differences_identify_no_one() -> None:
    result = identify(np.ones((5, 10)), np.ones((5, 10)))
    assert result.accuracy_ab == 0.0
    assert result.mean_rank == 5.0


def test_centring_removes_what_all_share() -> None:
    rng = np.random.default_rng(3)
    shared, people = 50 * rng.normal(size=300), rng.normal(size=(6, 300))
    a, b = shared + people, shared + people + 0.1 * rng.normal(size=people.shape)
    assert identify(a, b).other_similarity > 0.9
    assert abs(identify(a, b, center=True).other_similarity) < 0.4


def test_identify_refuses_what_does_not_match() -> None:
    with pytest.raises(ValueError, match="one shape"):
        identify(np.ones((3, 4)), np.ones((4, 4)))
    with pytest.raises(ValueError, match="two subjects"):
        identify(np.ones((1, 4)), np.ones((1, 4)))


def test_probe_finds_a_signal_and_no_signal() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["rest", "task"], 40)
    noise = rng.normal(size=(80, 10))
    signal = noise + 3.0 * (labels == "task")[:, None]
    found = probe(signal, labels)
    assert found.task == "classification"
    assert found.scores["balanced_accuracy"] > 0.95 > 0.7 > probe(noise, labels).scores["balanced_accuracy"]
    assert found.baseline["balanced_accuracy"] == pytest.approx(0.5, abs=0.05)
    assert set(found.predictions) <= {"rest", "task"}
    age = 30 + 5 * noise[:, 0] + 0.1 * rng.normal(size=80)
    regression = probe(noise, age)
    assert regression.task == "regression"
    assert regression.scores["r2"] > 0.9 > 0.1 > regression.baseline["r2"]


def test_probe_keeps_a_subject_on_one_side() -> None:
    # Features name the subject and nothing else; labels are per subject. Only a leaking split can predict them.
    rng = np.random.default_rng(1)
    subjects = np.repeat(np.arange(20), 6)
    labels = rng.integers(0, 2, size=20)[subjects]
    features = 10 * rng.normal(size=(20, 30))[subjects] + 0.01 * rng.normal(size=(120, 30))
    assert probe(features, labels).scores["accuracy"] > 0.95
    assert probe(features, labels, groups=subjects).scores["accuracy"] < 0.8


def test_probe_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="two classes"):
        probe(np.ones((4, 2)), ["a"] * 4)
    with pytest.raises(ValueError, match="too few"):
        probe(np.ones((4, 2)), ["a", "a", "b", "b"], groups=["x", "x", "y", "y"])
    with pytest.raises(ValueError, match="missing"):
        probe(np.ones((3, 2)), [1.5, np.nan, 2.5])


def test_probe_decides_by_one_rule_and_refuses_gaps() -> None:
    rng = np.random.default_rng(0)
    sex = np.arange(40) % 2
    features = rng.normal(size=(40, 5)) + 2 * sex[:, None]
    expected = probe(features, sex, n_splits=2)
    assert expected.task == "classification"
    for labels in (sex.astype(float), sex.astype(bool), np.where(sex, "m", "f"), [str(value) for value in sex]):
        found = probe(features, labels, n_splits=2)
        assert found.scores == expected.scores
        assert set(found.predictions.tolist()) == set(np.asarray(labels).tolist())
    ages = np.arange(40) + 20
    assert probe(features, ages).task == "regression"
    with pytest.raises(ValueError, match="1 labels are missing"):
        probe(features, [None, *sex[1:].tolist()])
    with pytest.raises(ValueError, match="1 of them missing"):
        probe(features, sex, groups=["n/a", *range(39)])
    with pytest.raises(ValueError, match=r"taken as 40 classes .to predict numbers: --task regression"):
        probe(features, ages, task="classification")


def test_people_who_come_twice_are_refused() -> None:
    features = np.random.default_rng(0).normal(size=(3, 8))
    with pytest.raises(ValueError, match="got 2 of 'a'"):
        identify(features, features, ["a", "b", "a"])
