"""Rows of a dataset become batches that models take."""

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.data.collators import ROISeriesCollator
from brain_transformers.processing.feature_extraction_roi_series import ROISeriesFeatureExtractor


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(94, n)).astype(np.float32) for n in (70, 90, 25)]
    return dataset_from_arrays(
        arrays, roi_order="aal2-94", t_r=0.72, age=[31.0, 40.5, float("nan")], sex=["F", "M", "F"], group=[0, 1, 1]
    )


@pytest.fixture
def extractor():
    return ROISeriesFeatureExtractor(n_rois=94, n_timepoints=40, patch_size=20, roi_order="aal2-94", t_r=0.72)


def test_batch_has_what_the_extractor_gives(dataset, extractor):
    batch = ROISeriesCollator(extractor, "group")([dataset[0], dataset[1], dataset[2]])
    signals = [row["signals"].reshape(94, -1) for row in dataset]
    expected = extractor(signals, t_r=0.72, roi_order="aal2-94", return_tensors="pt")
    assert set(batch) == {"signals", "coordinates", "attention_mask", "labels"}
    for name in ("signals", "coordinates", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert batch["labels"].tolist() == [0, 1, 1]
    assert batch["labels"].dtype == torch.int64


def test_works_in_a_data_loader(dataset, extractor):
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=ROISeriesCollator(extractor, "group"))
    shapes = [tuple(batch["signals"].shape) for batch in loader]
    assert shapes == [(2, 94, 40), (1, 94, 40)]


def test_labels_as_floats_text_and_missing(dataset, extractor):
    rows = [dataset[0], dataset[1]]
    ages = ROISeriesCollator(extractor, "age")(rows)["labels"]
    assert ages.dtype == torch.float32
    assert ages.tolist() == [31.0, 40.5]
    assert ROISeriesCollator(extractor, "sex", label2id={"F": 0, "M": 1})(rows)["labels"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="Pass label2id="):
        ROISeriesCollator(extractor, "sex")(rows)
    with pytest.raises(ValueError, match="not in label2id"):
        ROISeriesCollator(extractor, "sex", label2id={"F": 0})(rows)
    with pytest.raises(ValueError, match="label in 'age' is missing"):
        ROISeriesCollator(extractor, "age")([dataset[2]])


def test_random_windows_depend_on_the_row_only(dataset, extractor):
    def rng_for_row(row):
        return np.random.default_rng([5, int(row["n_timepoints"])])

    collator = ROISeriesCollator(extractor, window="random", rng_for_row=rng_for_row)
    together = collator([dataset[0], dataset[1]])["signals"]
    apart = torch.cat([collator([dataset[1]])["signals"], collator([dataset[0]])["signals"]])
    assert torch.equal(together, apart.flip(0))
    first = ROISeriesCollator(extractor)([dataset[0], dataset[1]])["signals"]
    assert not torch.equal(together, first)
    with pytest.raises(ValueError, match="rng_for_row"):
        ROISeriesCollator(extractor, window="random")


def test_all_windows_repeat_labels_and_say_where_they_come_from(dataset, extractor):
    collator = ROISeriesCollator(extractor, "group", window="all", return_windows=True)
    batch = collator([dataset[0], dataset[1]])
    assert batch["scan_index"].tolist() == [0, 1, 1]
    assert batch["window_start"].tolist() == [0, 0, 40]
    assert batch["labels"].tolist() == [0, 1, 1]


def test_error_names_the_row(dataset, extractor):
    extractor.short_scans = "error"
    with pytest.raises(ValueError, match=r"Row '2': Expected scan 0 with at least 40 timepoints, got 25"):
        ROISeriesCollator(extractor)([dataset[2]])
