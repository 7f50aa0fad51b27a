"""Masked-autoencoder training: equal however a batch is divided, interrupted or evaluated."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pretraining import logged, make_arguments, make_model, make_scans, make_windows, parameters_of
from transformers import TrainingArguments

from brain_transformers import ReconstructionPlotCallback, ROISeriesFeatureExtractor
from brain_transformers.training import (
    MAETrainer,
    last_complete_checkpoint,
    masked_reconstruction_metrics,
)

SCRIPT = Path(__file__).parents[1] / "tiny_pretraining.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
TOLERANCE = 5e-6
# Plain gradient steps: Adam would blow the rounding of gradients that are exactly 0 in theory up to full steps.
GRADIENT_DESCENT = {"optim": "sgd", "lr_scheduler_type": "constant", "warmup_steps": 0, "learning_rate": 0.05}


def _train(output_dir, *, family="brainlm-tiny", dropout=0.0, resume=None, rows=12, callbacks=(), **arguments):
    trainer = MAETrainer(
        make_model(family, dropout),
        make_arguments(output_dir, **arguments),
        train_dataset=make_windows(rows, family),
        eval_dataset=make_windows(6, family, seed=5),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def _assert_same_bits(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def _assert_close(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=TOLERANCE, atol=TOLERANCE, msg=name)


def _moved(model, family="brainlm-tiny"):
    """The largest change of a parameter by training."""
    start = parameters_of(make_model(family))
    return max(float((value - start[name]).abs().max()) for name, value in parameters_of(model).items())


# --- one update, however it is divided ---


@pytest.mark.parametrize("family", ["brainlm-tiny", "brainlm-vit-tiny"])
@pytest.mark.parametrize("per_device", [2, 1])
def test_accumulated_parts_equal_one_large_batch(tmp_path, family, per_device):
    # In the image family, samples differ in how many of their masked entries count.
    whole = _train(tmp_path, family=family, max_steps=3, **GRADIENT_DESCENT)
    parts = _train(
        tmp_path,
        family=family,
        max_steps=3,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=4 // per_device,
        **GRADIENT_DESCENT,
    )
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-5)
    assert logged(parts, "grad_norm") == pytest.approx(logged(whole, "grad_norm"), rel=1e-4)
    _assert_close(parameters_of(whole.model), parameters_of(parts.model))
    assert _moved(parts.model, family) > 100 * TOLERANCE


def test_image_samples_do_differ_in_masked_entries():
    # Keeps the test above honest.
    model = make_model("brainlm-vit-tiny")
    signals = torch.from_numpy(np.stack([row["signals"] for row in make_windows(4, "brainlm-vit-tiny")]))
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    counts = model(signals, noise=noise).signal_mask.sum((1, 2))
    assert len(set(counts.tolist())) > 1


def test_a_short_last_update_equals_the_large_batch(tmp_path):
    # 7 rows: updates of 4 and of 3 samples, the latter as parts of 2 and 1.
    whole = _train(tmp_path, rows=7, max_steps=2, **GRADIENT_DESCENT)
    divided = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    parts = _train(tmp_path, rows=7, max_steps=2, **divided, **GRADIENT_DESCENT)
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-5)
    _assert_close(parameters_of(whole.model), parameters_of(parts.model))


def test_logged_loss_is_the_models_loss_on_the_batch(tmp_path):
    trainer = MAETrainer(
        make_model(),
        make_arguments(tmp_path, max_steps=1, max_grad_norm=0, per_device_train_batch_size=12),
        train_dataset=make_windows(12),
    )
    (batch,) = list(trainer.get_train_dataloader())
    expected = make_model()(**batch).loss.item()
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([expected], rel=1e-6)


# --- interrupted runs ---


@pytest.mark.parametrize("at_step", [3, 4], ids=["at the end of an epoch", "within an epoch"])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, at_step):
    options = {
        "dropout": 0.1,
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": at_step,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
    }
    straight = _train(tmp_path / "straight", **options)
    resumed = _train(tmp_path / "straight", resume=str(tmp_path / "straight" / f"checkpoint-{at_step}"), **options)
    _assert_same_bits(parameters_of(straight.model), parameters_of(resumed.model))
    assert logged(straight, "eval_loss") == logged(resumed, "eval_loss")
    # Dropout is really on: without it, the run is another one.
    plain = _train(tmp_path / "plain", **{**options, "dropout": 0.0, "save_strategy": "no"})
    assert logged(plain, "loss") != logged(straight, "loss")


def test_worker_processes_change_nothing(tmp_path):
    options = {"dropout": 0.1, "num_train_epochs": 2, "max_steps": -1, "save_strategy": "steps", "save_steps": 4}
    straight = _train(tmp_path / "no workers", **options)
    workers = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    with_workers = _train(tmp_path / "workers", **options, **workers)
    assert with_workers.state.global_step == 6
    # The order, windows and masks are the same; dropout is not, since starting workers draws from the global
    # generator.
    no_dropout = {**options, "dropout": 0.0, "save_strategy": "no"}
    assert logged(_train(tmp_path / "a", **no_dropout), "loss") == logged(
        _train(tmp_path / "b", **no_dropout, **workers), "loss"
    )
    resumed = _train(tmp_path / "workers", resume=str(tmp_path / "workers" / "checkpoint-4"), **options, **workers)
    _assert_same_bits(parameters_of(with_workers.model), parameters_of(resumed.model))
    assert straight.state.global_step == 6


def test_a_killed_run_continues_bit_for_bit(tmp_path):
    arguments = {"max_steps": 9, "save_strategy": "steps", "save_steps": 2}
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path), "--dropout", "0.1", "--slow"]
    process = subprocess.Popen(
        [*command, "--arguments", json.dumps(arguments)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    deadline = time.time() + 120
    for line in process.stdout:
        if line.startswith("step 5") or time.time() > deadline:
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    # What a kill during the next save leaves behind.
    shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "checkpoint-6")
    (tmp_path / "checkpoint-6" / "trainer_state.json").unlink()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")

    resumed = _train(tmp_path, dropout=0.1, resume=True, **arguments)
    straight = _train(tmp_path / "straight", dropout=0.1, **{**arguments, "save_strategy": "no"})
    assert resumed.state.global_step == 9
    _assert_same_bits(parameters_of(straight.model), parameters_of(resumed.model))


def test_resuming_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="complete checkpoint"):
        _train(tmp_path, resume=True)


def test_two_processes_equal_one(tmp_path):
    """Also on two processes: resuming within the second epoch, and an evaluation set that does not divide evenly."""
    arguments = {"max_steps": 5, "save_strategy": "steps", "save_steps": 4, **GRADIENT_DESCENT}
    shared = ["--family", "brainlm-vit-tiny", "--resume", "checkpoint-4"]
    one = {**arguments, "per_device_train_batch_size": 4}
    two = {**arguments, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
    for name, launcher, values in (
        ("one", [sys.executable], one),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], two),
    ):
        command = [
            *launcher,
            str(SCRIPT),
            "--output",
            str(tmp_path / name),
            "--arguments",
            json.dumps(values),
            *shared,
        ]
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")}
    assert [results[name]["world_size"] for name in ("one", "two")] == [1, 2]
    assert results["two"]["straight"]["losses"] == pytest.approx(results["one"]["straight"]["losses"], rel=1e-5)
    scores = [
        name
        for name in results["one"]["straight"]["metrics"]
        if name.startswith(("eval_mse", "eval_mae", "eval_r2", "eval_pearson"))
    ]
    assert len(scores) == 6
    for name in [*scores, "eval_loss"]:
        both = [results[run]["straight"]["metrics"][name] for run in ("one", "two")]
        assert both[1] == pytest.approx(both[0], rel=1e-4, abs=1e-6), name

    def saved(run, name):
        return torch.load(tmp_path / run / f"{name}.pt", weights_only=True)

    _assert_close(saved("one", "straight"), saved("two", "straight"))
    _assert_same_bits(saved("one", "straight"), saved("one", "resumed"))
    _assert_same_bits(saved("two", "straight"), saved("two", "resumed"))


# --- what is hidden ---


def _batches(trainer, epoch):
    trainer.get_train_dataloader()
    loader = trainer.get_train_dataloader()
    loader.set_epoch(epoch)
    return list(loader)


def test_windows_and_masks_change_from_epoch_to_epoch_and_belong_to_rows(tmp_path):
    extractor = ROISeriesFeatureExtractor(n_rois=12, n_timepoints=40, patch_size=10, normalization="zscore")
    coordinates = np.zeros((12, 3), dtype=np.float32)
    extractor.coordinates = coordinates.tolist()

    def trainer(batch_size):
        return MAETrainer(
            make_model(),
            make_arguments(tmp_path, per_device_train_batch_size=batch_size),
            train_dataset=make_scans(8),
            processing_class=extractor,
        )

    first, again, second = (_batches(trainer(4), epoch) for epoch in (0, 0, 1))
    for name in ("signals", "noise"):
        joined = [torch.cat([batch[name] for batch in batches]) for batches in (first, again, second)]
        assert torch.equal(joined[0], joined[1])
        assert not torch.equal(joined[0].sort(0).values, joined[2].sort(0).values)
        other_size = torch.cat([batch[name] for batch in _batches(trainer(3), 0)])
        assert torch.equal(joined[0], other_size)
    assert first[0]["signals"].shape == (4, 12, 40)
    assert first[0]["noise"].shape == (4, 48)
    assert first[0]["noise"].dtype == torch.float32


def test_every_evaluation_uses_the_same_windows_and_masks(tmp_path):
    trainer = _train(tmp_path, max_steps=2)
    first = trainer.evaluate()
    torch.rand(7)
    np.random.rand(7)
    second = trainer.evaluate()
    scores = {name: value for name, value in first.items() if "runtime" not in name and "per_second" not in name}
    assert scores == {name: second[name] for name in scores}
    trainer.train()
    assert trainer.evaluate()["eval_mse"] != first["eval_mse"]


def test_evaluation_scores_are_those_of_the_pooled_entries(tmp_path):
    trainer = _train(tmp_path, max_steps=1, per_device_eval_batch_size=4)  # batches of 4 and 2
    metrics = trainer.evaluate()
    prediction = trainer.predict(make_windows(6, seed=5))
    (predictions, mask), targets = prediction.predictions, prediction.label_ids
    assert predictions.shape == targets.shape == mask.shape == (6, 12, 40)
    expected = masked_reconstruction_metrics(predictions, targets, mask)
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert metrics["eval_loss"] == pytest.approx(expected["mse"], rel=1e-6)


@pytest.mark.parametrize(("ratio", "hidden"), [(None, 0.2), (0.5, 0.5), (0.75, 0.75)])
def test_mask_ratio_of_the_arguments_wins(tmp_path, ratio, hidden):
    trainer = _train(tmp_path, max_steps=1, mask_ratio=ratio)
    mask = trainer.predict(make_windows(4)).predictions[1]
    n_hidden = 48 - int(48 * (1 - hidden))
    assert mask.reshape(4, 12, 4, 10).sum((1, 2, 3)).tolist() == [10 * n_hidden] * 4


@pytest.mark.parametrize("mode", ["predict_last", "predict_last_pixel"])
def test_predicting_the_last_timepoints(tmp_path, mode):
    # The border left of the window is 12 wide, so the last 12 timepoints are columns 40 to 52 of patches 16 wide.
    trainer = _train(tmp_path, family="brainlm-vit-tiny", max_steps=2, train_mode=mode, mask_ratio=0.3)
    mask = trainer.predict(make_windows(4, "brainlm-vit-tiny")).predictions[1]
    assert (mask == mask[:1, :1]).all()
    hidden = np.flatnonzero(mask[0, 0])
    assert hidden[-1] == 39
    if mode == "predict_last_pixel":
        assert hidden.tolist() == list(range(28, 40))
    else:
        assert 12 <= len(hidden) < 12 + 16
    assert np.isfinite(logged(trainer, "loss")).all()


def test_options_that_a_model_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="train_mode"):
        MAETrainer(make_model(), make_arguments(tmp_path, train_mode="predict_last"), train_dataset=make_windows(2))
    vit = make_model("brainlm-vit-tiny")
    with pytest.raises(ValueError, match="train_mode must be one of"):
        MAETrainer(vit, make_arguments(tmp_path, train_mode="predict_first"), train_dataset=make_windows(2))
    with pytest.raises(TypeError, match="MAETrainingArguments"):
        MAETrainer(make_model(), TrainingArguments(str(tmp_path), use_cpu=True, remove_unused_columns=False))
    with pytest.raises(ValueError, match="remove_unused_columns"):
        MAETrainer(make_model(), make_arguments(tmp_path, remove_unused_columns=True))
    with pytest.raises(ValueError, match="train_sampling_strategy"):
        MAETrainer(make_model(), make_arguments(tmp_path, train_sampling_strategy="group_by_length"))
    with pytest.raises(TypeError, match="streaming"):
        MAETrainer(make_model(), make_arguments(tmp_path), train_dataset=iter(make_windows(2)))


def test_nothing_hidden_is_an_error_and_not_nan(tmp_path):
    trainer = MAETrainer(make_model(mask_ratio=0.0), make_arguments(tmp_path), train_dataset=make_windows(4))
    with pytest.raises(ValueError, match="mask_ratio"):
        trainer.train()


# --- the point of it all ---


def test_loss_goes_down_and_hidden_entries_are_told_from_visible_ones(tmp_path):
    trainer = MAETrainer(
        make_model(mask_ratio=0.3),
        make_arguments(tmp_path, max_steps=150, per_device_train_batch_size=16),
        train_dataset=make_windows(128),
        eval_dataset=make_windows(16, seed=5),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    losses = logged(trainer, "loss")
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert after["eval_mse"] < 0.8 * before["eval_mse"]
    assert after["eval_r2"] > 0.15
    assert after["eval_pearson_r"] > 0.35


def test_scans_from_arrow_train_as_from_lists(tmp_path):
    datasets = pytest.importorskip("datasets")
    extractor = ROISeriesFeatureExtractor(
        n_rois=12, n_timepoints=40, patch_size=10, normalization="zscore", coordinates=np.zeros((12, 3))
    )
    losses = []
    for dataset in (
        make_scans(8),
        datasets.Dataset.from_list([{**row, "signals": row["signals"].tolist()} for row in make_scans(8)]),
    ):
        trainer = MAETrainer(
            make_model(), make_arguments(tmp_path, max_steps=3), train_dataset=dataset, processing_class=extractor
        )
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == losses[1]
    trainer.save_model()
    assert (tmp_path / "preprocessor_config.json").is_file()


def test_pictures_at_every_evaluation_leave_the_run_alone(tmp_path):
    pytest.importorskip("matplotlib")
    options = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "dropout": 0.1}
    plain = _train(tmp_path / "plain", **options)
    drawn = _train(tmp_path / "drawn", callbacks=[ReconstructionPlotCallback()], **options)
    pictures = sorted((tmp_path / "drawn" / "reconstructions").iterdir())
    assert [path.name for path in pictures] == ["step-2.png", "step-4.png"]
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 5000 for path in pictures)
    _assert_same_bits(parameters_of(plain.model), parameters_of(drawn.model))
