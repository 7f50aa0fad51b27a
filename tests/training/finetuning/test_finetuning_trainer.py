"""Fine-tuning in Python: every scan whole, one prediction a scan."""

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import brain_transformers as bt

LABELS = [f"roi{number}" for number in range(12)]


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(bt.load_config("brainlm-tiny", num_labels=2))
    centres = rng.uniform(-60, 60, (12, 3)).astype(np.float32)
    model.base_model.set_table("coordinates", torch.from_numpy(centres), source="a test")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(
        model.config, roi_order=LABELS, normalization="zscore", expected_std=None, coordinates=centres
    )
    scans = [rng.normal(size=(12, length)).astype(np.float32) for length in (60, 131, 40, 90, 80, 75, 41)]
    dataset = bt.dataset_from_arrays(scans, roi_order=LABELS, t_r=model.config.t_r, sex=list("FMFMFMF"))
    return model, extractor, dataset


def arguments(kind, folder, **options):
    return kind(
        str(folder),
        **{"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none", **options},
    )


def test_a_scan_has_one_prediction_the_mean_over_its_windows(parts, tmp_path):
    model, extractor, dataset = parts
    collator = bt.ScanCollator(
        extractor, "sex", label2id={"F": 0, "M": 1}, train_window="random", eval_window="cover", seed=1
    )
    trainer = bt.FineTuningTrainer(
        model,
        arguments(bt.FineTuningArguments, tmp_path, per_device_eval_batch_size=3),
        data_collator=collator,
        train_dataset=dataset,
        eval_dataset=dataset,
        compute_metrics=lambda result: {"n": len(result.label_ids)},
    )
    trainer.train()
    assert trainer.evaluate()["eval_n"] == 7
    predicted = trainer.predict(dataset)
    assert predicted.label_ids.tolist() == [0, 1, 0, 1, 0, 1, 0]
    model.eval()
    for number, row in enumerate(dataset):
        windows = extractor(row, window="cover", return_tensors="pt")
        assert len(windows["signals"]) == -(-row["n_timepoints"] // 40)
        with torch.no_grad():
            expected = model(**windows).logits.mean(0)
        np.testing.assert_allclose(predicted.predictions[number], expected, atol=1e-5)


def _rates_of_run(parts, folder, **options):
    """Learning rates of the groups at each step; four batches an epoch."""
    model, extractor, dataset = parts
    used = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            used.append([group["lr"] for group in kwargs["optimizer"].param_groups])

    options = {"max_steps": -1, "learning_rate": 1e-3, "save_strategy": "no", **options}
    trainer = bt.FineTuningTrainer(
        model,
        arguments(bt.FineTuningArguments, folder, **options),
        data_collator=bt.ScanCollator(extractor, "sex", label2id={"F": 0, "M": 1}),
        train_dataset=dataset,
        callbacks=[Rates()],
    )
    trainer.train()
    return np.array(used), trainer.optimizer.param_groups


def test_the_cosine_begins_again_and_every_group_keeps_its_share(parts, tmp_path):
    rates, groups = _rates_of_run(
        parts,
        tmp_path,
        num_train_epochs=4,
        cycle_epochs=2,
        warmup_steps=4,
        min_learning_rate=1e-5,
        layer_decay=0.5,
    )
    scales = np.array([group["lr_scale"] for group in groups])
    assert len(rates) == 16
    assert set(scales) == {1.0, 0.5, 0.25, 0.125}
    np.testing.assert_allclose(rates / scales, np.repeat(rates[:, :1] / scales[:1], len(scales), axis=1), rtol=1e-9)
    of_head = (rates / scales)[:, 0]
    np.testing.assert_allclose(of_head[:5], [1e-5, 2.575e-4, 5.05e-4, 7.525e-4, 1e-3], rtol=1e-9)
    np.testing.assert_allclose(of_head[8:], of_head[:8], rtol=1e-9)
    assert (np.diff(of_head[4:8]) < 0).all()


def test_published_step_counting_never_leaves_the_warm_up(parts, tmp_path):
    options = {"num_train_epochs": 3, "warmup_steps": 8, "published_step_counting": True}
    rates, groups = _rates_of_run(parts, tmp_path, **options)
    assert len(groups) == 2
    np.testing.assert_allclose(rates[:, 0], np.repeat([0, 1e-3 / 8, 2e-3 / 8], 4), rtol=1e-9)


def test_cycles_are_of_the_cosine_and_published_groups_of_families_that_have_some(parts, tmp_path):
    with pytest.raises(ValueError, match="cosine"):
        arguments(bt.FineTuningArguments, tmp_path, cycle_epochs=2, lr_scheduler_type="linear")
    with pytest.raises(ValueError, match="BrainLMForSequenceClassification"):
        _rates_of_run(parts, tmp_path, published=True)


def test_the_plain_trainer_says_what_it_needs_and_takes_streams(parts, tmp_path):
    model, extractor, dataset = parts
    collator = bt.ScanCollator(extractor, "sex", label2id={"F": 0, "M": 1})
    trainer = Trainer(model, arguments(TrainingArguments, tmp_path), data_collator=collator, train_dataset=dataset)
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        trainer.train()
    options = arguments(TrainingArguments, tmp_path, remove_unused_columns=False)
    Trainer(model, options, data_collator=collator, train_dataset=dataset.to_iterable_dataset()).train()
