"""What a Trainer is given is looked at when it is made: splits, labels with gaps, columns, a collator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import brain_transformers as bt

datasets = pytest.importorskip("datasets")


@pytest.fixture
def rows() -> Any:
    rng = np.random.default_rng(0)
    return bt.dataset_from_arrays(
        [rng.standard_normal((12, 60)).astype(np.float32) for _ in range(4)],
        roi_order=[f"parcel-{number}" for number in range(12)],
        t_r=1.0,
        subjects=["01", "02", "03", "04"],
    ).add_column("sex", ["F", "M", None, "n/a"])


@pytest.fixture
def extractor() -> bt.ROISeriesFeatureExtractor:
    return bt.ROISeriesFeatureExtractor(
        n_rois=12, n_timepoints=40, patch_size=10, roi_order=None, normalization="zscore"
    )


@pytest.fixture
def arguments(tmp_path: Path) -> bt.FineTuningArguments:
    return bt.FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1)


@pytest.fixture
def model() -> bt.BrainLMForSequenceClassification:
    config = bt.load_config("brainlm-tiny", id2label={0: "F", 1: "M"}, label2id={"F": 0, "M": 1})
    model = bt.BrainLMForSequenceClassification(config)
    model.brainlm.set_table("coordinates", torch.randn(12, 3), source="a test")
    return model


def test_a_gap_is_told_before_training(rows: Any, extractor: Any, arguments: Any, model: Any) -> None:
    collator = bt.ScanCollator(extractor, label_column="sex", label2id={"F": 0, "M": 1}, window="first")
    assert not arguments.dataloader_pin_memory or torch.accelerator.is_available()
    with pytest.raises(ValueError, match=r"2 of 4 scans have no sex\. Leave them out: dataset\.filter"):
        bt.FineTuningTrainer(model, arguments, collator, train_dataset=rows)
    kept = rows.filter(lambda row: row["sex"] not in (None, "n/a") and row["sex"] == row["sex"])
    bt.FineTuningTrainer(model, arguments, collator, train_dataset=kept)


def test_a_column_that_is_not_there_is_told_with_those_that_are(
    rows: Any, extractor: Any, arguments: Any, model: Any
) -> None:
    collator = bt.ScanCollator(extractor, label_column="gender", window="first")
    told = "has no column 'gender'; it has .*sex"
    with pytest.raises(ValueError, match=f"The dataset {told}"):
        bt.FineTuningTrainer(model, arguments, collator, train_dataset=rows)
    for by in (collator, bt.ScanCollator(bt.ScanCollator(extractor, window="first"), label_column="gender")):
        with pytest.raises(ValueError, match=f"The row {told}"):
            by([rows[0]])


def test_all_splits_are_none_to_train_on(rows: Any, extractor: Any, arguments: Any, model: Any) -> None:
    splits = datasets.DatasetDict(train=rows, validation=rows)
    collator = bt.ScanCollator(extractor, window="first")
    with pytest.raises(ValueError, match=r"Pass dataset\['train'\]; it has splits train, validation"):
        bt.FineTuningTrainer(model, arguments, collator, train_dataset=splits)
    trainer = bt.FineTuningTrainer(model, arguments, collator, train_dataset=rows, eval_dataset=splits)
    assert list(trainer.eval_dataset) == ["train", "validation"]


def test_scans_need_a_collator_or_labels(rows: Any, extractor: Any, arguments: Any, model: Any) -> None:
    given = {"model": model, "args": arguments, "processing_class": extractor}
    with pytest.raises(ValueError, match="Pass data_collator=ScanCollator"):
        bt.FineTuningTrainer(train_dataset=rows, **given)
    labelled = rows.select([0, 1]).rename_column("sex", "labels")
    trainer = bt.FineTuningTrainer(train_dataset=labelled, eval_dataset=labelled, **given)
    trainer.train()
    predicted = trainer.predict(labelled)
    assert predicted.label_ids.tolist() == [0, 1]
    assert predicted.predictions.shape == (2, 2)


def test_a_model_without_centres_says_the_whole_call(model: Any) -> None:
    new = bt.BrainLMForSequenceClassification(
        model.config.__class__(**{**model.config.to_dict(), "coordinates_source": None})
    )
    with pytest.raises(ValueError, match=r"set_table\('coordinates', array, source\)"):
        new(signals=torch.randn(1, 12, 40))
