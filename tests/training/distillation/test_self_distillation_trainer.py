"""Self-distillation: the teacher follows, the loss belongs to the joint batch, runs go on bit for bit."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_self_distillation import logged, make_arguments, make_model, make_scans, make_trainer, state_of, train

import brain_transformers as bt
from brain_transformers.data.row_randomness import EPOCH, ROW_INDEX, BatchNumbers, SeededDraws
from brain_transformers.training import MAETrainingArguments, fine_tuning_groups
from brain_transformers.training.augmentation import AUGMENTATION_LEVELS, augmenter, draw_augmentation
from brain_transformers.training.seeded_rows import SeededRows

SCRIPT = Path(__file__).parents[1] / "tiny_self_distillation.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


# --- teacher and schedules ---


def test_a_fresh_teacher_is_the_student_and_follows_it(tmp_path):
    model = make_model()
    start = state_of(model)
    student = {name: value for name, value in start.items() if name.startswith("student.")}
    assert all(
        torch.equal(value, start[name.replace("student", "brain_semantoks", 1)]) for name, value in student.items()
    )
    trainer = train(tmp_path, model=model, max_steps=1, teacher_momentum=0.9)
    after = state_of(trainer.model)
    for name in student:
        teacher = name.replace("student", "brain_semantoks", 1)
        if name.endswith(("kernel_norm", "decay", "time_positions")):
            assert torch.equal(after[name], start[name]), name  # constants of the model
            continue
        expected = 0.9 * start[teacher] + 0.1 * after[name]
        torch.testing.assert_close(after[teacher], expected, rtol=1e-6, atol=1e-7)
    moved = "layers.0.mlp.fc1.weight"
    assert not torch.equal(after[f"student.{moved}"], start[f"student.{moved}"])
    assert not trainer.model.brain_semantoks.training


def test_a_loaded_teacher_stays_frozen(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = bt.BrainSemantoksForMaskedModeling.from_pretrained(tmp_path).train()
    assert not any(p.requires_grad for part, _ in model.averages() for p in part.parameters())
    assert not model.brain_semantoks.training
    assert model.student.training


def test_schedules_are_logged_and_run_to_their_ends(tmp_path):
    trainer = train(tmp_path, weight_decay=0.05, final_weight_decay=0.3, teacher_momentum=0.9)
    decay, momentum, weight = (logged(trainer, n) for n in ("weight_decay", "teacher_momentum", "network_loss_weight"))
    assert len(decay) == 6
    assert decay[0] == pytest.approx(0.05)
    assert momentum[0] == pytest.approx(0.9)
    assert decay == sorted(decay)
    assert momentum == sorted(momentum)
    assert 0.9 < momentum[-1] < 1
    assert weight[-1] == 0.0
    losses = logged(trainer, "network_loss")
    assert losses[0] != 0
    assert losses[3:] == [0.0, 0.0, 0.0]  # off after the first of two epochs


def test_learning_rate_warms_up_from_zero_and_ends_near_zero(tmp_path):
    rates = logged(train(tmp_path, num_train_epochs=4, warmup_epochs=1.0), "learning_rate")
    assert rates[0] == 0.0
    assert max(rates) == pytest.approx(2e-3)
    assert rates.index(max(rates)) == 3
    assert rates[-1] < 1e-4


def test_published_counting_leaves_the_cosine_unfinished(tmp_path):
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    right = train(tmp_path / "a", **options)
    published = train(tmp_path / "b", published_step_counting=True, **options)
    assert logged(right, "learning_rate")[-1] < 0.2 * 2e-3
    assert logged(published, "learning_rate")[-1] > 0.5 * 2e-3


def test_groups_decay_what_should_decay(tmp_path):
    model = make_model()
    groups = fine_tuning_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert rates["student.embeddings.cls_token"] == (0.125, 0.0)
    assert rates["student.embeddings.tokenizers.0.branches.0.convolution.weight"] == (0.25, 0.1)
    assert rates["student.embeddings.tokenizers.0.branches.1.kernels.0"] == (0.25, 0.1)
    assert rates["student.layers.0.mlp.fc1.weight"] == (0.5, 0.1)
    assert rates["student.layers.1.layer_scale1"] == (1.0, 0.0)
    assert rates["student.layernorm.weight"] == (1.0, 0.0)
    assert rates["student_head.layers.0.weight"] == (1.0, 0.1)
    everything = fine_tuning_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=1.0, published=True)
    assert [group["weight_decay"] for group in everything] == [0.1]
    with pytest.raises(ValueError, match="layer_decay"):
        fine_tuning_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=0.0)


# --- the run ---


def test_learning_lowers_the_loss_without_collapse(tmp_path):
    trainer = train(tmp_path, scans=24, num_train_epochs=12, per_device_train_batch_size=12)
    losses = logged(trainer, "cls_loss")
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 0.1
    assert logged(trainer, "student_projection_std")[-1] > 0.02


@pytest.mark.parametrize("at_step", [2, 4])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, at_step):
    options = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 4}
    options["per_device_train_batch_size"] = 2
    straight = train(tmp_path / "straight", **options)
    resumed = train(tmp_path / "straight", resume=str(tmp_path / "straight" / f"checkpoint-{at_step}"), **options)
    assert_same_bits(state_of(straight.model), state_of(resumed.model))
    assert logged(straight, "loss") == logged(resumed, "loss")


def test_worker_processes_change_nothing(tmp_path):
    alone = train(tmp_path / "alone", max_steps=4)
    helped = train(tmp_path / "helped", max_steps=4, dataloader_num_workers=2)
    assert_same_bits(state_of(alone.model), state_of(helped.model))


def test_two_processes_equal_one(tmp_path):
    shared = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 4, "max_grad_norm": 0.0}
    alone = train(tmp_path / "alone", per_device_train_batch_size=4, per_device_eval_batch_size=4, **shared)
    output = tmp_path / "pair"
    output.mkdir()
    arguments = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, **shared}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(SCRIPT), "--output", str(output), "--arguments", json.dumps(arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((output / "results.json").read_text())
    assert results["world_size"] == 2
    np.testing.assert_allclose(results["losses"], logged(alone, "loss"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results["cls_losses"], logged(alone, "cls_loss"), rtol=1e-4, atol=1e-5)
    weights = torch.load(output / "weights.pt", weights_only=True)
    start, end = state_of(make_model()), state_of(alone.model)
    for name, value in weights.items():
        torch.testing.assert_close(value, end[name], rtol=1e-4, atol=5e-6, msg=name)
    moved = [name for name in end if not torch.allclose(end[name], start[name], rtol=0, atol=1e-4)]
    assert len(moved) > 40


def test_two_processes_with_batches_that_do_not_divide_evenly(tmp_path):
    """The last batch is filled up with rows from the start, which once made processes disagree and wait for ever."""
    shared = {"scans": 5, "eval_scans": 5, "seed": 3, "num_train_epochs": 4, "masking_frequency": 0.5}
    shared["dataloader_drop_last"] = False
    alone = train(tmp_path, per_device_train_batch_size=4, per_device_eval_batch_size=4, learning_rate=0.0, **shared)
    output = tmp_path / "pair"
    output.mkdir()
    arguments = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "learning_rate": 0.0, **shared}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(SCRIPT), "--output", str(output), "--arguments", json.dumps(arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((output / "results.json").read_text())
    assert results["eval_loss"] == pytest.approx(alone.evaluate()["eval_loss"], rel=1e-5)
    # Every second batch is a full one, which is the same however it is divided.
    np.testing.assert_allclose(results["losses"][::2], logged(alone, "loss")[::2], rtol=1e-4)
    assert len(results["losses"]) == 8
    # Both kinds of batches occurred.
    masked = [loss != 0 for loss in logged(alone, "mask_loss")]
    assert len(set(masked)) == 2


def test_processes_agree_on_whether_a_filled_up_batch_is_masked():
    """Five rows in batches of two on two processes: rows 4 and 0 on the first, 1 and 2 on the second."""
    decisions = set()
    for seed in range(12):
        options = {"masking_frequency": 0.5, "n_rows": 5, "rows_per_batch": 4, "augmentation": 0, "shuffle": False}
        answers = set()
        for first_slot, rows in ((0, (4, 0)), (2, (1, 2))):
            make = collator(seed=seed, first_slot=first_slot, **options)
            batch = make([{**make_scans(5)[row], ROW_INDEX: row, EPOCH: 0} for row in rows])
            answers.add("bool_masked_pos" in batch)
        assert len(answers) == 1
        decisions |= answers
    assert decisions == {True, False}


def test_evaluation_is_the_same_every_time_and_changes_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    before = state_of(trainer.model)
    first, second = trainer.evaluate()["eval_loss"], trainer.evaluate()["eval_loss"]
    assert first == second
    assert np.isfinite(first)
    assert_same_bits(before, state_of(trainer.model))


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(TypeError, match="SelfDistillationTrainingArguments"):
        bt.SelfDistillationTrainer(make_model(), MAETrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(TypeError, match="teacher"):
        bt.SelfDistillationTrainer(
            bt.BrainSemantoksModel(bt.load_config("brain-semantoks-tiny")), make_arguments(tmp_path)
        )
    with pytest.raises(ValueError, match="fill one batch"):
        make_trainer(tmp_path, per_device_train_batch_size=64).train()
    with pytest.raises(ValueError, match="network_loss_schedule"):
        make_arguments(tmp_path, network_loss_schedule="sine")
    with pytest.raises(ValueError, match="masking_frequency"):
        make_arguments(tmp_path, masking_frequency=2.0)


def test_values_that_are_not_finite_stop_the_run(tmp_path):
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.student.embeddings.cls_token.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="finite"):
        trainer.train()


# --- views and masks ---


def seeded(rows, epoch=0):
    return [{**row, ROW_INDEX: number, EPOCH: epoch} for number, row in enumerate(rows)]


def collator(augmentation=1, masking_frequency=1.0, seed=3, **batches):
    config = bt.load_config("brain-semantoks-tiny")
    draw_masks = functools.partial(
        bt.BrainSemantoksForMaskedModeling.draw_masks, config, masking_frequency=masking_frequency
    )
    return bt.ScanCollator(
        bt.ROISeriesFeatureExtractor.from_model_config(config),
        window="random",
        n_views=2,
        seed=seed,
        augment=augmenter(augmentation),
        masks=draw_masks,
        batches=BatchNumbers(seed, **batches),
    )


def test_views_are_two_windows_of_the_scaled_scan(tmp_path):
    scans = make_scans(4)
    batch = collator(augmentation=0)(seeded(scans))
    assert batch["signals"].shape == (4, 2, 20, 40)
    starts = []
    for number, scan in enumerate(scans):
        signals = scan["signals"].reshape(20, 70)
        scaled = (signals - signals.mean(1, keepdims=True)) / (signals.std(1, keepdims=True) + 1e-8)
        windows = np.lib.stride_tricks.sliding_window_view(scaled, 40, axis=1)
        for view in range(2):
            error = np.abs(windows - batch["signals"][number, view].numpy()[:, None]).max((0, 2))
            assert error.min() < 1e-4
            starts.append(int(error.argmin()))
    assert len(set(starts)) > 3
    assert starts[::2] != starts[1::2]


def test_views_and_masks_belong_to_row_and_epoch():
    make, scans = collator(), make_scans(6)
    first, again, later = make(seeded(scans)), make(seeded(scans)), make(seeded(scans, epoch=1))
    assert torch.equal(first["signals"], again["signals"])
    assert torch.equal(first["bool_masked_pos"], again["bool_masked_pos"])
    assert not torch.equal(first["signals"], later["signals"])
    assert not torch.equal(first["bool_masked_pos"], later["bool_masked_pos"])
    backwards = make(seeded(scans)[::-1])
    assert torch.equal(first["signals"].flip(0), backwards["signals"])
    assert torch.equal(first["bool_masked_pos"].flip(0), backwards["bool_masked_pos"])


def test_masking_is_switched_for_whole_batches():
    make = collator(masking_frequency=0.5, n_rows=400, rows_per_batch=4, augmentation=0)
    rows, masked = make_scans(1) * 400, 0
    order = np.argsort(np.argsort(np.random.default_rng(0).random(400)))  # any order: batches follow from the epoch
    places = {}
    for number in order:
        row = {**rows[number], ROW_INDEX: int(number), EPOCH: 2}
        places.setdefault(make.batches.draws([row]).number, set()).add("bool_masked_pos" in make([row]))
    assert set(places) == set(range(100))
    assert all(len(answers) == 1 for answers in places.values())
    masked = sum(True in answers for answers in places.values())
    assert 30 < masked < 70


def test_evaluation_views_are_not_augmented():
    scans = make_scans(3)
    rows = SeededRows(scans)
    batch = collator(augmentation=3)([rows[i] for i in range(3)])
    assert torch.equal(batch["signals"], collator(augmentation=0)([rows[i] for i in range(3)])["signals"])


def test_short_scans_come_with_a_mask_that_the_model_takes(tmp_path):
    scans = [*make_scans(3), *make_scans(1, seed=9, n_timepoints=25)]
    batch = collator()(seeded(scans))
    assert batch["attention_mask"].shape == (4, 2, 80)
    observed = batch["attention_mask"].reshape(4, 2, 20, 4)
    assert bool((observed[3, :, :, 3] == 0).all())
    assert bool((observed[:3] == 1).all())
    assert torch.isfinite(make_model()(**batch).loss)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_augmentations_stay_within_their_ranges(level):
    rng = np.random.default_rng(0)
    rois, times, noise, scale = AUGMENTATION_LEVELS[level]
    signals = np.ones((40, 100), dtype=np.float32)
    for _ in range(50):
        change = draw_augmentation(level, 40, 100, rng)
        assert max(1, int(40 * rois[0])) <= len(set(change.zero_rois)) <= max(1, int(40 * rois[1]))
        start, length = change.block
        assert max(1, int(100 * times[0])) <= length <= 100 * times[1]
        assert 0 <= start <= 100 - length
        assert scale[0] <= change.scale <= scale[1]
        output = change(signals) - change.noise
        hidden = np.zeros_like(signals, dtype=bool)
        hidden[change.zero_rois], hidden[:, start : start + length] = True, True
        np.testing.assert_allclose(output, np.where(hidden, 0, change.scale), atol=1e-6)
        assert abs(change.noise.std() / noise - 1) < 0.1
    assert bool((signals == 1).all())
    untouched = draw_augmentation(0, 40, 100, rng)
    assert np.array_equal(untouched(signals), signals)
    with pytest.raises(ValueError, match="levels"):
        draw_augmentation(4, 40, 100, rng)


def test_canonical_masks_cover_the_networks_of_a_finer_map(tmp_path):
    order = "schaefer400-7net+tian-s3+buckner7"
    config = bt.load_config(
        "brain-semantoks-tiny", roi_order=order, n_rois=457, n_cortical_networks=17, networks=None, mask_kind="network"
    )
    assert config.n_networks == 19
    draw_masks = bt.BrainSemantoksForMaskedModeling.draw_masks
    options = {"canonical_masks": True, "masking_frequency": 1.0}
    masks = draw_masks(config, SeededDraws.of_one_batch(20, seed=0), **options)["bool_masked_pos"]
    assert masks.shape == (20, 2, 19, 4)
    assert bool((masks == masks[..., :1]).all())
    assert {int(count) for count in masks[..., 0].sum(2).flatten()} - {5, 6}  # more networks than were drawn
    with pytest.raises(ValueError, match="roi_order"):
        bt.SelfDistillationTrainer(make_model(), make_arguments(tmp_path, canonical_masks=True))
