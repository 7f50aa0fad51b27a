"""Classes or numbers: one rule, which a gap does not change."""

import numpy as np
import pandas as pd
import pytest
import torch

from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.data.labels import Labels, labelled_rows

AGES = [21, 34, 28, 45, 33, 52, 61, 29, 24, 38, 41, 26]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([0, 1, 0, 1], ["0", "1"]),
        ([0.0, 1.0, float("nan"), 1.0], ["0", "1"]),
        ([1, 0, None, 1], ["0", "1"]),
        (["0", "1.0", "n/a", "1"], ["0", "1"]),
        (["01", "02", "01"], ["01", "02"]),
        (["0", "1", "?", "1"], ["0", "1"]),
        ([1, 0, "NA", 1], ["0", "1"]),
        (list(pd.array([1, 0, None, 1], dtype="Int64")), ["0", "1"]),
        ([True, False, None, True], ["False", "True"]),
        (np.array([20.0, 35.0, np.nan, 20.0]), ["20", "35"]),
        ([0, 2, 1, 2, 10], ["0", "1", "2", "10"]),
        (["f", b"m", np.nan, "f"], ["f", "m"]),
        (["none", "mild", "severe"], ["mild", "none", "severe"]),
        (["none", "-", "none"], ["-", "none"]),
        (torch.tensor([0, 1, 1]), ["0", "1"]),
        (pd.Series([0, 1, None]), ["0", "1"]),
    ],
)
def test_classes_have_the_same_names_with_and_without_gaps(values, names) -> None:
    labels = Labels.from_values(values)
    assert labels.task == "classification"
    assert list(labels.label2id or ()) == names
    assert labels.describe().startswith(f"{len(names)} classes")


@pytest.mark.parametrize("values", [AGES, [*AGES, None], [float(age) for age in AGES] + [float("nan")], [0.5, 1.0, 1]])
def test_many_distinct_numbers_are_regressed(values) -> None:
    labels = Labels.from_values(values)
    assert labels.task == "regression"
    known = [value for value in values if value == value and value is not None]
    np.testing.assert_array_equal(labels.targets, known)
    assert f"{len(set(known))} distinct numbers" in labels.describe()
    assert Labels.from_values(values, task="classification").label2id


def test_what_was_not_said_by_the_type_can_be_chosen() -> None:
    labels = Labels.from_values([1, 2, 3, 3], task="regression")
    np.testing.assert_array_equal(labels.targets, [1, 2, 3, 3])
    with pytest.raises(ValueError, match="got text \\('old'\\)"):
        Labels.from_values([1, "old"], task="regression")
    with pytest.raises(ValueError, match="infinity in row 1"):
        Labels.from_values([0.5, float("inf")])
    with pytest.raises(ValueError, match="single value 1"):
        Labels.from_values([1, None, 1.0])
    with pytest.raises(ValueError, match=r"single value 0\.5"):
        Labels.from_values([0.5, 0.5, float("nan")])
    with pytest.raises(ValueError, match="Expected words or numbers in 'label', got tuple"):
        Labels.from_values([None, (1, 2)])


def test_numbers_beside_a_few_words_are_told() -> None:
    with pytest.warns(UserWarning, match="all but 1 \\(first: '89\\+'\\) of 13 cells are numbers"):
        assert Labels.from_values([*map(str, AGES), "89+"]).task == "classification"


def test_a_gap_in_a_dataset_leaves_its_scan_out(capsys) -> None:
    scans = [np.ones((2, 4), np.float32)] * 4
    dataset = dataset_from_arrays(scans, roi_order=["a", "b"], sex=[0.0, 1.0, float("nan"), 1.0])
    labels = Labels.read(dataset, "sex")
    assert labels.rows == [0, 1, 3]
    assert labels.targets.tolist() == [0, 1, 1]
    assert "1 of 4 scans of the dataset have no sex" in capsys.readouterr().out
    assert labelled_rows([dict(row) for row in dataset], "sex") == ([0, 1, 3], [0, 1, 1])
    with pytest.raises(ValueError, match="without streaming"):
        Labels.read(dataset.to_iterable_dataset(), "sex")


def test_a_batch_numbers_classes_by_the_same_names() -> None:
    from brain_transformers import ROISeriesFeatureExtractor
    from brain_transformers.data.collators import ScanCollator

    rng = np.random.default_rng(0)
    dataset = dataset_from_arrays(
        [rng.normal(size=(2, 8)) for _ in range(3)], roi_order=["a", "b"], sex=[0.0, 1.0, float("nan")]
    )
    extractor = ROISeriesFeatureExtractor(n_rois=2, n_timepoints=8, patch_size=4, roi_order=["a", "b"])
    collator = ScanCollator(extractor, "sex", label2id=Labels.read(dataset, "sex").label2id)
    assert torch.equal(collator([dataset[1], dataset[0]])["labels"], torch.tensor([1, 0]))
