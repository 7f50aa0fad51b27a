"""Labels with gaps are told when a Trainer is made, with the way to leave them out."""

from pathlib import Path

import numpy as np
import pytest
import torch

import brain_transformers as bt

datasets = pytest.importorskip("datasets")


def test_a_gap_is_told_before_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = bt.dataset_from_arrays(
        [rng.standard_normal((12, 60)).astype(np.float32) for _ in range(4)],
        roi_order=[f"parcel-{number}" for number in range(12)],
        t_r=1.0,
        subjects=["01", "02", "03", "04"],
    ).add_column("sex", ["F", "M", None, "n/a"])
    model = bt.BrainLMForSequenceClassification(bt.load_config("brainlm-tiny"))
    extractor = bt.ROISeriesFeatureExtractor(
        n_rois=12, n_timepoints=40, patch_size=10, roi_order=None, normalization="zscore"
    )
    collator = bt.ScanCollator(extractor, label_column="sex", label2id={"F": 0, "M": 1}, window="first")
    arguments = bt.FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert not arguments.dataloader_pin_memory or torch.accelerator.is_available()
    with pytest.raises(ValueError, match=r"2 of 4 scans have no sex\. Leave them out: dataset\.filter"):
        bt.FineTuningTrainer(model, arguments, collator, train_dataset=rows)
    kept = rows.filter(lambda row: row["sex"] not in (None, "n/a") and row["sex"] == row["sex"])
    bt.FineTuningTrainer(model, arguments, collator, train_dataset=kept)
