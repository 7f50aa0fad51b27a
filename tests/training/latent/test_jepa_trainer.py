"""Latent-prediction training: the target follows, masks belong to the joined batch, runs go on bit for bit."""

import functools
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_latent_prediction import logged, make_arguments, make_model, make_rows, state_of, train
from transformers import TrainerCallback

import brain_transformers as bt
from brain_transformers.data.row_randomness import EPOCH, EVALUATION_EPOCH, ROW_INDEX, BatchNumbers
from brain_transformers.training import (
    LARS,
    CollapseMonitor,
    FineTuningArguments,
    JEPATrainer,
    MAETrainingArguments,
    SeededTrainer,
    layer_decay_groups,
    scale_learning_rates,
    target_statistics,
)

SCRIPT = Path(__file__).parents[1] / "tiny_latent_prediction.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Plain gradient steps: Adam would blow the rounding of gradients that are exactly 0 in theory up to full steps.
GRADIENT_DESCENT = {"optim": "sgd", "learning_rate": 0.05}


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


# --- the target ---


def test_the_target_is_the_moving_average_and_learns_only_so(tmp_path):
    model = make_model()
    start = state_of(model)
    assert all(torch.equal(start[name], start[name.replace("brain_jepa", "context_encoder", 1)]) for name in start)
    trainer = train(tmp_path, model=model, max_steps=1)
    after = state_of(trainer.model)
    momentum = 0.9
    for name in (name for name in start if name.startswith("brain_jepa.")):
        if name.endswith(".gradients"):
            assert torch.equal(after[name], start[name])
            continue
        source = after[name.replace("brain_jepa", "context_encoder", 1)]
        expected = (start[name] * momentum) + source * (1.0 - momentum)
        assert torch.equal(after[name], expected), name
    moved = "layers.0.mlp.fc1.weight"
    assert not torch.equal(after[f"context_encoder.{moved}"], start[f"context_encoder.{moved}"])


def test_momentum_climbs_over_the_run_or_over_all_forward_passes(tmp_path):
    momenta = {}
    for published in (False, True):
        trainer = JEPATrainer(
            make_model(),
            make_arguments(
                tmp_path, gradient_accumulation_steps=4, published_momentum=published, target_momentum_end=1.0
            ),
        )
        trainer.state.max_steps = 10
        momenta[published] = [trainer.momentum_of(step) for step in (0, 5, 10)]
    assert momenta[False] == pytest.approx([0.9, 0.95, 1.0])
    assert momenta[True] == pytest.approx([0.9, 0.9125, 0.925])


# --- optimizer ---


def test_weight_decay_follows_its_schedule_where_it_should(tmp_path):
    trainer = train(tmp_path, max_steps=4, weight_decay=0.04, final_weight_decay=0.4)
    decayed, other = trainer.optimizer.param_groups
    # Values of the step after the last one, where the cosines turn back.
    assert decayed["weight_decay"] == pytest.approx(0.4 - 0.18 * (1 + np.cos(np.pi * 5 / 4)))
    assert other["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    of_decayed = {names[id(parameter)] for parameter in decayed["params"]}
    assert "predictor.mask_token" in of_decayed
    assert not [name for name in of_decayed if "bias" in name or "layernorm" in name or name.startswith("brain_jepa")]
    trainable = [name for name, p in trainer.model.named_parameters() if not name.startswith("brain_jepa")]
    assert len(decayed["params"]) + len(other["params"]) == len(trainable)


def test_learning_to_predict_lowers_the_loss(tmp_path):
    trainer = train(tmp_path, max_steps=40, rows=16, per_device_train_batch_size=8)
    losses = logged(trainer, "loss")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert len(logged(trainer, "target_std")) == 40
    assert all(0 < value < 1.5 for value in logged(trainer, "target_std"))
    assert all(1 <= value <= 32 for value in logged(trainer, "target_rank"))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"])


def test_arguments_of_another_trainer_are_refused(tmp_path):
    with pytest.raises(TypeError, match="JEPATrainingArguments"):
        JEPATrainer(make_model(), MAETrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(ValueError, match="target_momentum_start"):
        make_arguments(tmp_path, target_momentum_start=1.2)


# --- one batch, however it is divided; interrupted runs ---


def test_accumulated_parts_are_the_mean_of_their_losses(tmp_path):
    trainer = JEPATrainer(
        make_model(),
        make_arguments(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1),
        train_dataset=make_rows(4),
    )
    batches = list(trainer.get_train_dataloader())
    with torch.no_grad():
        expected = np.mean([float(make_model()(**batch).loss) for batch in batches])
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("rule", ["balanced", "published"])
def test_a_resumed_run_continues_bit_for_bit(tmp_path, rule):
    options = {
        "dropout": 0.1,
        "max_steps": 7,
        "save_strategy": "steps",
        "save_steps": 4,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 2,
        "mask_rule": rule,
    }
    straight = train(tmp_path, **options)
    resumed = train(tmp_path, resume=str(tmp_path / "checkpoint-4"), **options)
    assert_same_bits(state_of(straight.model), state_of(resumed.model))
    assert logged(straight, "loss") == logged(resumed, "loss")
    rates = [trainer.optimizer.param_groups[0]["weight_decay"] for trainer in (straight, resumed)]
    assert rates[0] == rates[1]


def test_two_processes_equal_one(tmp_path):
    # Five rows of evaluation: the second process would get nothing but repeated ones in the last batch.
    arguments = {"max_steps": 5, "save_strategy": "steps", "save_steps": 4, "eval_rows": 5, **GRADIENT_DESCENT}
    one = {**arguments, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    two = {**arguments, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2}
    for name, launcher, values in (
        ("one", [sys.executable], one),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], two),
    ):
        command = [*launcher, str(SCRIPT), "--output", str(tmp_path / name), "--arguments", json.dumps(values)]
        command += ["--resume", "checkpoint-4"]
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")}
    assert [results[name]["world_size"] for name in ("one", "two")] == [1, 2]
    assert results["two"]["straight"]["losses"] == pytest.approx(results["one"]["straight"]["losses"], rel=1e-5)
    assert results["two"]["straight"]["eval_loss"] == pytest.approx(results["one"]["straight"]["eval_loss"], rel=1e-5)

    def saved(run, name):
        return torch.load(tmp_path / run / f"{name}.pt", weights_only=True)

    first, second = saved("one", "straight"), saved("two", "straight")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=5e-6, atol=5e-6, msg=name)
    assert_same_bits(saved("one", "straight"), saved("one", "resumed"))
    assert_same_bits(second, saved("two", "resumed"))
    start = state_of(make_model())
    assert max(float((first[name] - start[name]).abs().max()) for name in first) > 1e-3


# --- masks of a batch ---


def collator(rows_per_batch=4, n_rows=12, seed=3, rule=None, **values):
    config = bt.load_config("brain-jepa-tiny")
    masks = functools.partial(bt.BrainJEPAForMaskedModeling.draw_masks, config, mask_rule=rule)
    batches = BatchNumbers(seed, n_rows, rows_per_batch=rows_per_batch, eval_rows_per_batch=4, **values)
    return bt.ScanCollator(seed=seed, masks=masks, batches=batches)


def seeded(row, epoch=0):
    return {"signals": np.zeros((50, 40), dtype=np.float32), ROW_INDEX: row, EPOCH: epoch}


@pytest.mark.parametrize("rule", ["balanced", "published"])
def test_processes_take_their_rows_of_one_set_of_masks(rule):
    whole = collator(rule=rule, shuffle=False)([seeded(row) for row in (4, 5, 6, 7)])
    halves = [collator(rule=rule, shuffle=False)([seeded(row) for row in rows]) for rows in ((4, 5), (6, 7))]
    for name in ("context_indices", "target_indices"):
        assert torch.equal(whole[name], torch.cat([half[name] for half in halves]))


def test_rows_that_fill_up_the_last_batch_get_masks_of_its_lengths():
    """Five rows in batches of two on two processes: rows 4 and 0 on the first, 1 and 2 on the second."""
    for seed in range(8):
        parts = []
        for first_slot, rows in ((0, (4, 0)), (2, (1, 2))):
            make = collator(n_rows=5, seed=seed, shuffle=False, first_slot=first_slot)
            parts.append(make([seeded(row) for row in rows]))
        for name in ("context_indices", "target_indices"):
            assert parts[0][name].shape[1:] == parts[1][name].shape[1:]


@pytest.mark.parametrize("rule", ["balanced", "published"])
def test_masks_change_with_epoch_and_batch_and_not_in_evaluation(rule):
    def masks(rows, epoch):
        batch = collator(rule=rule)([seeded(row, epoch) for row in rows])
        return batch["context_indices"].tolist()

    def first_rows(epoch):
        shuffled = collator(rule=rule)
        return sorted(range(12), key=lambda row: shuffled.batches.place(epoch, row))[:4]

    assert masks(first_rows(0), 0) == masks(first_rows(0), 0)
    assert masks(first_rows(0), 0) != masks(first_rows(1), 1)
    assert masks(range(4), EVALUATION_EPOCH) == masks(range(4), EVALUATION_EPOCH)
    assert masks(range(4), EVALUATION_EPOCH) != masks(range(4, 8), EVALUATION_EPOCH)


def test_rows_without_their_index_are_refused():
    with pytest.raises(ValueError, match="SeededRows"):
        collator()([{"signals": np.zeros((50, 40), dtype=np.float32)}])


class SeveralMasks:
    """Two contexts and three targets a sample, always the same."""

    makes_masks = True

    def __call__(self, rows):
        generator = torch.Generator().manual_seed(0)

        def draw(length):
            return torch.randint(0, 500, (len(rows), length), generator=generator)

        return {
            "signals": torch.from_numpy(np.stack([row["signals"] for row in rows])),
            "context_indices": [draw(40) for _ in range(2)],
            "target_indices": [draw(11) for _ in range(3)],
        }


def test_a_collator_may_bring_its_own_and_several_masks(tmp_path):
    trainer = JEPATrainer(
        make_model(), make_arguments(tmp_path, max_steps=1), SeveralMasks(), make_rows(4), make_rows(4, seed=5)
    )
    (batch,) = list(trainer.get_train_dataloader())
    with torch.no_grad():
        output = make_model()(**batch)
    assert output.predictions.shape == (2 * 3 * 4, 11, 32)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([float(output.loss)], rel=1e-6)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


# --- monitors ---


def test_statistics_tell_collapse_from_spread(caplog):
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(4, 200, 16, generator=generator)
    full = target_statistics(spread)
    assert full["target_std"] == pytest.approx(1.0, abs=0.05)
    assert full["target_rank"] > 14
    same = target_statistics(torch.ones(4, 200, 16))
    assert same["target_std"] == 0.0
    on_a_line = target_statistics(torch.randn(4, 200, 1, generator=generator) * torch.randn(16, generator=generator))
    assert on_a_line["target_rank"] == pytest.approx(1.0, abs=0.01)
    monitor = CollapseMonitor()
    with caplog.at_level(logging.WARNING):
        logging.getLogger("brain_transformers.training.monitors").propagate = True
        monitor.update(full, 1)
        assert not caplog.records
        monitor.update(on_a_line, 2)
        monitor.update(on_a_line, 3)
    assert [record.message.split()[0] for record in caplog.records if "collaps" in record.message] == ["target_rank"]


# --- downstream optimizers ---


def test_layer_decay_scales_learning_rates_towards_the_input():
    model = bt.BrainJEPAForSequenceClassification(bt.load_config("brain-jepa-tiny", num_labels=2))
    groups = scale_learning_rates(layer_decay_groups(model, layer_decay=0.5), 1.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rates) == len(names)
    assert rates["classifier.linear.weight"] == (1.0, 0.05)
    assert rates["brain_jepa.layernorm.weight"] == (1.0, 0.0)
    assert rates["brain_jepa.layers.1.mlp.fc1.weight"] == (0.5, 0.05)
    assert rates["brain_jepa.layers.0.mlp.fc1.bias"] == (0.25, 0.0)
    assert rates["brain_jepa.embeddings.patch_projection.weight"] == (0.125, 0.05)
    assert {group["lr_scale"] for group in layer_decay_groups(model, layer_decay=1.0)} == {1.0}
    with pytest.raises(ValueError, match="layer_decay"):
        layer_decay_groups(model, layer_decay=0.0)


def test_the_trainers_schedule_keeps_the_ratio_of_learning_rates(tmp_path):
    model = bt.BrainJEPAForSequenceClassification(bt.load_config("brain-jepa-tiny", num_labels=2))
    groups = scale_learning_rates(layer_decay_groups(model, layer_decay=0.5), 1e-3)
    rows = [{**row, "labels": np.int64(number % 2)} for number, row in enumerate(make_rows(4))]
    arguments = FineTuningArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        lr_scheduler_type="linear",
        warmup_steps=0,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(groups)
    rates = []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = SeededTrainer(
        model,
        arguments,
        bt.ScanCollator(),
        rows,
        optimizers=(optimizer, None),
        callbacks=[Rates()],
    )
    trainer.train()
    assert rates[0] == pytest.approx([1e-3 * group["lr_scale"] for group in groups])
    assert rates[1] == pytest.approx([0.5e-3 * group["lr_scale"] for group in groups])


def test_lars_moves_weights_by_the_trust_ratio_and_biases_plainly():
    weight, bias = torch.nn.Parameter(torch.full((2, 2), 3.0)), torch.nn.Parameter(torch.zeros(2))
    optimizer = LARS([weight, bias], lr=1.0, momentum=0.9)
    (weight.sum() * 7 + bias.sum() * 2).backward()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), 3.0 - 0.001 * 6 / 14 * 7))
    torch.testing.assert_close(bias.detach(), torch.full((2,), -2.0))
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.full((2,), -2.0 - (0.9 * 2 + 2)))


def test_probing_trains_the_linear_layer_alone(tmp_path):
    model = bt.BrainJEPAForSequenceClassification(
        bt.load_config("brain-jepa-tiny", num_labels=2, classifier_head="batch_norm_linear")
    )
    model.freeze_for_probing()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "classifier.linear.weight",
        "classifier.linear.bias",
    ]
    model.save_pretrained(tmp_path)
    loaded = bt.BrainJEPAForSequenceClassification.from_pretrained(tmp_path)
    assert_same_bits(state_of(model), state_of(loaded))
