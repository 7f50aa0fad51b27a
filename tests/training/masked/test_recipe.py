"""The published recipe: learning rate, schedule, decay, and the flags of the command line."""

import pytest
import torch
from tiny_pretraining import logged, make_arguments, make_model, make_windows
from transformers import HfArgumentParser

from brain_transformers.training import (
    MAETrainer,
    MAETrainingArguments,
    decay_parameter_names,
    scaled_learning_rate,
    warmup_cosine_lr,
)


def test_schedule_rises_in_a_line_and_falls_to_zero():
    rates = [warmup_cosine_lr(step, peak=2.0, warmup_steps=10, max_steps=110) for step in range(121)]
    assert rates[5] == 1.0
    assert rates[10] == max(rates) == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert rates[110:] == [0.0] * 11
    with pytest.raises(ValueError, match="warmup_steps"):
        warmup_cosine_lr(0, peak=1.0, warmup_steps=5, max_steps=4)


def test_trainer_follows_the_schedule(tmp_path):
    args = make_arguments(tmp_path, max_steps=20, warmup_steps=0.2, learning_rate=None, base_learning_rate=0.064)
    trainer = MAETrainer(make_model(), args, train_dataset=make_windows(8))
    trainer.train()
    # The rate in the log is the one that the step used, set by the steps before it.
    expected = [warmup_cosine_lr(step, peak=0.001, warmup_steps=4, max_steps=20) for step in range(20)]
    assert logged(trainer, "learning_rate") == pytest.approx(expected, abs=1e-12)


def test_defaults_are_the_published_recipe(tmp_path):
    args = MAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, gradient_accumulation_steps=4)
    assert args.learning_rate == scaled_learning_rate(1e-3, 512) == 2e-3
    assert (args.weight_decay, args.num_train_epochs, args.warmup_steps, args.seed) == (0.05, 100, 0.05, 1234)
    assert (args.per_device_train_batch_size, args.max_grad_norm) == (128, 1.0)
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert args.lr_scheduler_type == "cosine"


def test_flags_of_the_command_line(tmp_path):
    parse = HfArgumentParser(MAETrainingArguments).parse_args_into_dataclasses
    (args,) = parse(
        ["--output_dir", str(tmp_path), "--use_cpu", "--mask_ratio", "0.6", "--train_mode", "predict_last"]
    )
    assert (args.mask_ratio, args.train_mode, args.learning_rate) == (0.6, "predict_last", 5e-4)
    (args,) = parse(["--output_dir", str(tmp_path), "--use_cpu", "--learning_rate", "0.01"])
    assert args.learning_rate == 0.01


@pytest.mark.parametrize(("option", "value"), [("mask_ratio", 1.0), ("mask_ratio", 0.0)])
def test_impossible_options_are_refused(tmp_path, option, value):
    with pytest.raises(ValueError, match=option):
        make_arguments(tmp_path, **{option: value})


@pytest.mark.parametrize("family", ["brainlm-tiny", "brainlm-vit-tiny"])
def test_what_decays(family):
    model = make_model(family)
    names = dict(model.named_parameters())
    ours, published = set(decay_parameter_names(model)), set(decay_parameter_names(model, published=True))
    assert ours < published < set(names)
    tokens = {name for name in names if name.endswith(("cls_token", "mask_token"))}
    assert len(tokens) == 2
    assert published - ours == tokens
    for name in ours:
        assert names[name].dim() > 1
        assert "norm" not in name
        assert not name.endswith("bias")
    left_out = {name for name in names if name not in published}
    assert left_out == {name for name in names if "bias" in name or "norm" in name}


def test_weight_decay_reaches_the_optimizer(tmp_path):
    trainer = MAETrainer(make_model(), make_arguments(tmp_path), train_dataset=make_windows(4))
    groups = trainer.create_optimizer().param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        p.numel() for p in trainer.model.parameters()
    )
    assert isinstance(trainer.optimizer, torch.optim.AdamW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("learning_rate", float("nan")), ("base_learning_rate", -1.0), ("weight_decay", float("inf"))),
        *(("per_device_train_batch_size", 0), ("warmup_steps", float("nan")), ("num_train_epochs", float("inf"))),
    ],
)
def test_numbers_that_no_run_can_mean_are_refused_by_name(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"{name} \(--{name}\).*got {value}"):
        MAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: value})
