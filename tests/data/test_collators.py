"""Rows of a dataset become batches that models take."""

import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.data.collators import ScanCollator
from brain_transformers.processing.roi_series import ROISeriesFeatureExtractor
from brain_transformers.training.seeded_rows import RowKey, SeededRows


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(94, n)).astype(np.float32) for n in (70, 90, 25)]
    return dataset_from_arrays(
        arrays, roi_order="aal2-94", t_r=0.72, age=[31.0, 40.5, float("nan")], sex=["F", "M", "F"], group=[0, 1, 1]
    )


@pytest.fixture
def extractor():
    return ROISeriesFeatureExtractor(n_rois=94, n_timepoints=40, patch_size=10, roi_order="aal2-94", t_r=0.72)


def test_batch_has_what_the_extractor_gives(dataset, extractor):
    batch = ScanCollator(extractor, "group")([dataset[0], dataset[1], dataset[2]])
    signals = [row["signals"].reshape(94, -1) for row in dataset]
    expected = extractor(signals, t_r=0.72, roi_order="aal2-94", return_tensors="pt")
    assert set(batch) == {"signals", "coordinates", "attention_mask", "labels"}
    for name in ("signals", "coordinates", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].tolist() == [0, 1, 1]
    assert batch["labels"].dtype == torch.int64


def test_works_in_a_data_loader(dataset, extractor):
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=ScanCollator(extractor, "group"))
    shapes = [tuple(batch["signals"].shape) for batch in loader]
    assert shapes == [(2, 94, 40), (1, 94, 40)]


def test_labels_as_floats_text_and_missing(dataset, extractor):
    rows = [dataset[0], dataset[1]]
    ages = ScanCollator(extractor, "age")(rows)["labels"]
    assert ages.dtype == torch.float32
    assert ages.tolist() == [31.0, 40.5]
    assert ScanCollator(extractor, "sex", label2id={"F": 0, "M": 1})(rows)["labels"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="Pass label2id="):
        ScanCollator(extractor, "sex")(rows)
    with pytest.raises(ValueError, match="not in label2id"):
        ScanCollator(extractor, "sex", label2id={"F": 0})(rows)
    with pytest.raises(ValueError, match="no age"):
        ScanCollator(extractor, "age")([dataset[2]])


def test_random_windows_depend_on_the_row_only(dataset, extractor):
    def rng_for_row(row):
        return np.random.default_rng([5, int(row["n_timepoints"])])

    collator = ScanCollator(extractor, window="random", rng_for_row=rng_for_row)
    together = collator([dataset[0], dataset[1]])["signals"]
    apart = torch.cat([collator([dataset[1]])["signals"], collator([dataset[0]])["signals"]])
    assert torch.equal(together, apart.flip(0))
    first = ScanCollator(extractor)([dataset[0], dataset[1]])["signals"]
    assert not torch.equal(together, first)
    with pytest.raises(ValueError, match="Random windows need seed="):
        ScanCollator(extractor, window="random")


def test_training_and_evaluation_have_a_window_each(dataset, extractor):
    rows = SeededRows(dataset)
    collator = ScanCollator(extractor, "group", train_window="random", eval_window="all", seed=3)
    evaluation = collator([rows[0], rows[1]])
    assert evaluation["scan_index"].tolist() == [0, 1, 1]
    assert evaluation["labels"].tolist() == [0, 1, 1]
    training = [collator([rows[RowKey(epoch, 0)], rows[RowKey(epoch, 1)]]) for epoch in range(6)]
    assert all(set(batch) == {"signals", "coordinates", "labels"} for batch in training)
    assert len({batch["signals"][0, 0, 0].item() for batch in training}) > 3
    again = ScanCollator(extractor, "group", train_window="random", eval_window="all", seed=3)
    assert torch.equal(again([rows[RowKey(4, 1)]])["signals"][0], training[4]["signals"][1])
    with pytest.raises(ValueError, match=r"Use FineTuningTrainer.*SeededRows"):
        collator([dataset[0]])
    with pytest.raises(ValueError, match="both train_window and eval_window"):
        ScanCollator(extractor, train_window="random", seed=3)


def test_columns_that_the_trainer_took_away_are_asked_for(dataset, extractor):
    with pytest.raises(ValueError, match=r"without n_rois, n_timepoints.*remove_unused_columns=False"):
        ScanCollator(extractor)([{"signals": dataset[0]["signals"]}])


def test_streamed_rows_and_the_extractor_itself_take_rows(dataset, extractor):
    collator = ScanCollator(extractor, "group")
    loader = torch.utils.data.DataLoader(dataset.to_iterable_dataset(), batch_size=2, collate_fn=collator)
    streamed = torch.cat([batch["signals"] for batch in loader])
    expected = extractor(list(dataset), return_tensors="pt")["signals"]
    assert torch.equal(streamed, expected)
    for given in (dataset[:], iter(dataset), [dict(row, signals=row["signals"].tolist()) for row in dataset]):
        assert torch.equal(extractor(given, return_tensors="pt")["signals"], expected)
    assert torch.equal(extractor(dataset[1], return_tensors="pt")["signals"], expected[1:2])
    with pytest.raises(ValueError, match="one roi_order of scan"):
        extractor(dataset[1], roi_order=[f"roi{number}" for number in range(94)])


def test_all_windows_repeat_labels_and_say_where_they_come_from(dataset, extractor):
    collator = ScanCollator(extractor, "group", window="all", return_windows=True)
    batch = collator([dataset[0], dataset[1]])
    assert batch["scan_index"].tolist() == [0, 1, 1]
    assert batch["window_start"].tolist() == [0, 0, 40]
    assert batch["labels"].tolist() == [0, 1, 1]


def test_error_names_the_row(dataset, extractor):
    extractor.short_scans = "error"
    with pytest.raises(ValueError, match=r"Expected scan 2 with at least 40 timepoints, got 25"):
        ScanCollator(extractor)([dataset[2]])


def test_batch_is_the_same_where_only_some_scans_have_a_mask():
    arrays = [np.random.default_rng(seed).normal(100, 1, (24, 120)) for seed in range(3)]
    arrays[1] = arrays[1][:, :30]
    rows = [
        {"signals": array.astype(np.float32), "n_rois": 24, "n_timepoints": array.shape[1], "t_r": None}
        for array in arrays
    ]
    made = ROISeriesFeatureExtractor(n_rois=24, n_timepoints=80, patch_size=20, normalization="zscore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = made(rows)
        batch = ScanCollator(made)(rows)
    assert list(batch) == list(alone)
    for name, values in alone.items():
        np.testing.assert_array_equal(batch[name], values)
