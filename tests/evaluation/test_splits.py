"""Repeated splits: whose scans stand where, and how results over them are summed up."""

import numpy as np
import pytest

from brain_transformers.evaluation import ProtocolResult, linear_probe_protocol
from brain_transformers.evaluation.splits import scan_splits


def test_splits_keep_subjects_apart_and_can_keep_the_shares() -> None:
    labels = ["a"] * 60 + ["b"] * 20 + ["nan"] * 5
    seen = set()
    for train, validation, test in scan_splits(labels, n_repetitions=3, stratify=True):
        sets = [set(part.tolist()) for part in (train, validation, test)]
        assert not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]
        assert max(set.union(*sets)) < 80
        assert [len(part) for part in sets] == [48, 16, 16]
        assert sum(number >= 60 for number in test) == 4
        seen.add(tuple(test.tolist()))
    assert len(seen) == 3


def test_scans_of_one_subject_stay_together() -> None:
    rng = np.random.default_rng(0)
    subjects = [f"sub-{number}" for number in range(30) for _ in range(1 + number % 3)]
    labels = np.array([int(name[4:]) % 2 for name in subjects])
    for split in scan_splits(labels, subjects, n_repetitions=3, stratify=True):
        names = [{subjects[scan] for scan in part} for part in split]
        assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
        assert sorted(np.concatenate(split)) == list(range(len(subjects)))
    # Features say who it is and nothing about the label: only scans of known subjects could be told.
    identity = {name: rng.standard_normal(40) for name in subjects}
    features = np.stack([identity[name] + 0.1 * rng.standard_normal((4, 40)) for name in subjects])
    options = {"n_repetitions": 6, "epochs": 20}
    apart = linear_probe_protocol(features, labels, subjects=subjects, **options).summary()["balanced_accuracy"][0]
    mixed = linear_probe_protocol(features, labels, **options).summary()["balanced_accuracy"][0]
    assert apart < mixed - 0.1
    with pytest.raises(ValueError, match="one label a subject"):
        list(scan_splits(np.arange(len(subjects)), subjects, stratify=True))
    with pytest.raises(ValueError, match="for each of"):
        list(scan_splits(labels, subjects[1:]))


def test_a_metric_that_one_repetition_lacks_is_in_the_summary() -> None:
    result = ProtocolResult([0.1, 0.1], [{"accuracy": 0.5}, {"accuracy": 0.75, "auroc": 0.8}], [{}, {}])
    assert result.summary() == {"accuracy": (0.625, 0.125), "auroc": (0.8, 0.0)}
    assert result.n_defined() == {"accuracy": 2, "auroc": 1}
