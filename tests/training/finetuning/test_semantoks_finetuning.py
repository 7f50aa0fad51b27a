"""Fine-tuning with the authors' protocol: groups, schedule by epoch, augmented crops, averaged logits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_self_distillation import logged, make_scans
from transformers import TrainerCallback, set_seed

import brain_transformers as bt
from brain_transformers.evaluation import predict_crops
from brain_transformers.training.augmentation import augmenter
from brain_transformers.training.finetuning.semantoks import (
    SemantoksFineTuner,
    SemantoksFineTuningArguments,
)
from brain_transformers.training.seeded_rows import SeededRows


def labelled(n_scans: int, seed: int = 0):
    rows = make_scans(n_scans, seed)
    for number, row in enumerate(rows):
        row["sex"] = number % 2
        signals = row["signals"].reshape(20, -1).copy()
        signals[:6] = signals[:1] if row["sex"] else signals[:6]  # one network in step, or not
        row["signals"] = signals.reshape(-1)
    return rows


class Record(TrainerCallback):
    """Weights at the end of each epoch, by its number."""

    def __init__(self):
        self.weights = {}

    def on_epoch_end(self, args, state, control, model=None, **kwargs):
        self.weights[round(state.epoch)] = {name: value.clone() for name, value in model.state_dict().items()}


def scores_in_turn(*values):
    """A metric that takes these values, one at each evaluation."""
    rest = list(values)
    return lambda prediction: {"score": rest.pop(0)}


def same(first, second, only=""):
    return all(torch.equal(first[name], second[name]) for name in first if name.startswith(only))


def make_tuner(tmp_path, *, config=None, label="sex", train=None, options=None, **values):
    set_seed(0)
    config = {"num_labels": 2, "classifier_head": "batch_norm_linear", **(config or {})}
    model = bt.BrainSemantoksForSequenceClassification(bt.load_config("brain-semantoks-tiny", **config))
    arguments = SemantoksFineTuningArguments(
        output_dir=str(tmp_path),
        **{
            "use_cpu": True,
            "num_train_epochs": 4,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **values,
        },
    )
    return SemantoksFineTuner(
        model,
        arguments,
        label,
        processing_class=bt.ROISeriesFeatureExtractor.from_model_config(model.config),
        **{
            "train_dataset": labelled(16) if train is None else train,
            "eval_dataset": labelled(8, seed=5),
            **(options or {}),
        },
    )


def test_learning_rate_is_scaled_and_steps_down_by_epoch(tmp_path):
    tuner = make_tuner(tmp_path)
    assert tuner.args.learning_rate == pytest.approx(1e-4 * 8 / 256)
    tuner.train()
    rates = logged(tuner, "learning_rate")
    expected = [1e-4 * 8 / 256 * 0.5 * (1 + np.cos(np.pi * epoch / 4)) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    warm = make_tuner(tmp_path, lr_warmup_epochs=2, learning_rate=1e-3, schedule="constant")
    warm.train()
    np.testing.assert_allclose(logged(warm, "learning_rate")[::2], [1e-4, 5.5e-4, 1e-3, 1e-3], rtol=1e-9)


def test_tokenizers_take_part_in_layer_wise_decay(tmp_path):
    for published, expected in ((False, 0.25), (True, 1.0)):
        tuner = make_tuner(tmp_path, layer_decay=0.5, learning_rate=1.0, published_parameter_groups=published)
        tuner.create_optimizer()
        names = {id(p): name for name, p in tuner.model.named_parameters()}
        rates = {names[id(p)]: group["lr"] for group in tuner.optimizer.param_groups for p in group["params"]}
        assert set(rates) == set(names.values())
        assert rates["brain_semantoks.embeddings.tokenizers.0.branches.0.convolution.weight"] == expected
        assert rates["classifier.output.weight"] == 1.0


def test_fine_tuning_learns_and_averages_crops(tmp_path):
    tuner = make_tuner(tmp_path, learning_rate=3e-3, num_train_epochs=30, augmentation=[0, 0, 0, 0])
    tuner.train()
    losses = logged(tuner, "loss")
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    rows = labelled(8, seed=5)
    logits = predict_crops(tuner.model, rows, tuner.processing_class, n_crops=4)
    assert logits.shape == (8, 4, 2)
    assert not torch.equal(logits[:, 0], logits[:, 3])
    guesses = logits.mean(1).argmax(1).tolist()
    assert sum(guess == row["sex"] for guess, row in zip(guesses, rows, strict=True)) >= 7


def test_crops_are_augmented_in_training_only():
    config = bt.load_config("brain-semantoks-tiny")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    rows = SeededRows(labelled(4))
    plain, changed = (
        bt.ScanCollator(extractor, "sex", window="random", seed=0, augment=augmenter(level)) for level in (0, 2)
    )
    evaluated = [rows[number] for number in range(4)]
    trained = [rows[(0, number)] for number in range(4)]
    assert torch.equal(plain(evaluated)["signals"], changed(evaluated)["signals"])
    assert not torch.equal(plain(trained)["signals"], changed(trained)["signals"])
    assert torch.equal(changed(trained)["signals"], changed(trained)["signals"])
    assert changed(trained)["labels"].tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="schedule"):
        SemantoksFineTuningArguments(output_dir="unused", schedule="sine", use_cpu=True)


def test_encoder_is_frozen_for_the_first_epochs_and_a_resumed_run_agrees(tmp_path):
    record = Record()
    values = {"freeze_encoder_epochs": 2, "learning_rate": 1e-3, "save_strategy": "epoch", "save_total_limit": None}
    values["load_best_model_at_end"] = False
    tuner = make_tuner(tmp_path, options={"callbacks": [record]}, **values)
    start = {name: value.clone() for name, value in tuner.model.state_dict().items()}
    tuner.train()
    encoder = "brain_semantoks."
    assert same(start, record.weights[1], encoder)
    assert same(start, record.weights[2], encoder)
    assert not same(start, record.weights[1], "classifier.output")
    weights = {name for name, _ in tuner.model.named_parameters()} - {f"{encoder}embeddings.mask_embedding"}  # no gaps
    assert not [name for name in weights if torch.equal(record.weights[3][name], start[name])]
    assert all(parameter.requires_grad for parameter in tuner.model.parameters())
    for epoch in (1, 2, 3):
        resumed = make_tuner(tmp_path, **values)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{2 * epoch}"))
        assert same(record.weights[4], resumed.model.state_dict())


def test_encoder_is_not_left_frozen_by_an_interrupted_run(tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    tuner = make_tuner(tmp_path, freeze_encoder_epochs=4, options={"callbacks": [Interrupt()]})
    with pytest.raises(KeyboardInterrupt):
        tuner.train()
    assert all(parameter.requires_grad for parameter in tuner.model.parameters())
    with pytest.raises(ValueError, match="freeze_encoder_epochs"):
        SemantoksFineTuningArguments(output_dir="unused", freeze_encoder_epochs=-1, use_cpu=True)


def test_encoder_has_its_own_learning_rate(tmp_path):
    tuner = make_tuner(tmp_path, learning_rate=1.0, encoder_learning_rate_factor=0.1)
    tuner.create_optimizer()
    names = {id(p): name for name, p in tuner.model.named_parameters()}
    for group in tuner.optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == (1.0 if names[id(parameter)].startswith("classifier.") else 0.1)


def test_head_of_another_family_keeps_the_whole_rate(tmp_path):
    """At layer_decay=1 the groups of other families hold encoder and head together."""
    set_seed(0)
    model = bt.BrainJEPAForSequenceClassification(bt.load_config("brain-jepa-tiny", num_labels=2))
    arguments = SemantoksFineTuningArguments(
        output_dir=str(tmp_path), use_cpu=True, learning_rate=1.0, encoder_learning_rate_factor=0.1
    )
    tuner = SemantoksFineTuner(
        model, arguments, "sex", processing_class=bt.ROISeriesFeatureExtractor.from_model_config(model.config)
    )
    tuner.create_optimizer()
    rates = {id(p): group["lr"] for group in tuner.optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (1.0 if name.startswith("classifier.") else 0.1), name


def test_every_validation_scan_counts_whatever_is_left_out_of_training(tmp_path):
    # 17 scans in batches of 8 leave one over, which a batch norm cannot take.
    tuner = make_tuner(tmp_path, train=labelled(17), options={"eval_dataset": labelled(11, seed=5)})
    tuner.args.per_device_eval_batch_size = 4
    assert len(tuner.get_train_dataloader()) == 2
    with pytest.raises(ValueError, match="to fill one batch of training, got 1"):
        make_tuner(tmp_path, train=labelled(1)).train()
    assert tuner.predict(labelled(3)).predictions.shape == (3, 2)
    seen = []
    tuner.compute_metrics = lambda prediction: seen.append(len(prediction.label_ids)) or {"score": 0}
    tuner.evaluate()
    assert seen == [11]


ONE_OF_TWO = """
import sys
from pathlib import Path

import torch
from test_semantoks_finetuning import make_tuner

folder = Path(sys.argv[1])
tuner = make_tuner(folder / "run", per_device_train_batch_size=4, num_train_epochs=2)
tuner.train()
tuner.evaluate()
statistics = dict(tuner.model.classifier.norm.named_buffers())
torch.save(statistics, folder / f"{tuner.args.process_index}.pt")
tuner.accelerator.end_training()
"""


def test_two_processes_evaluate_the_same_model(tmp_path):
    pytest.importorskip("sklearn")
    (tmp_path / "run.py").write_text(ONE_OF_TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join([*map(str, Path(__file__).parents[:2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(tmp_path / "run.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["running_mean"].any()
    assert same(first, second)


def test_best_epoch_is_the_result(tmp_path):
    """The authors' code keeps the best weights by reference and ends with the last epoch's."""
    for metric, values in (("score", (1, 3, 2, 3)), ("eval_score_loss", (3, 1, 2, 1))):
        record, name = Record(), metric.removeprefix("eval_")
        turn = scores_in_turn(*values)
        options = {"callbacks": [record], "compute_metrics": lambda p, turn=turn, name=name: {name: turn(p)["score"]}}
        tuner = make_tuner(
            tmp_path / name,
            learning_rate=1e-3,
            save_strategy="best",
            metric_for_best_model=metric,
            options=options,
        )
        tuner.train()
        assert same(record.weights[2], tuner.model.state_dict())
        assert not same(record.weights[4], tuner.model.state_dict())


def test_validation_scores_are_those_of_the_protocol(tmp_path):
    pytest.importorskip("sklearn")
    tuner = make_tuner(tmp_path, learning_rate=1e-2, save_strategy="epoch")
    tuner.train()
    history = logged(tuner, "eval_balanced_accuracy")
    assert len(history) == 4
    assert tuner.evaluate()["eval_balanced_accuracy"] == tuner.state.best_metric == max(history)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1

    rows, held = labelled(16), labelled(8, seed=5)
    for row in rows + held:
        row["age"] = 20 + row["sex"]  # whole numbers are regressed when the head says so
    regression = make_tuner(
        tmp_path / "age",
        config={"num_labels": 1, "problem_type": "regression"},
        label="age",
        train=rows,
        save_strategy="best",
        options={"eval_dataset": held},
    )
    regression.train()
    assert regression.args.greater_is_better is False
    assert regression.state.best_metric == min(logged(regression, "eval_mae")) == regression.evaluate()["eval_mae"]


def test_training_stops_when_validation_does_not_become_better(tmp_path):
    values = {"num_train_epochs": 10, "early_stopping_patience": 2, "save_strategy": "epoch", "save_total_limit": None}
    options = {"compute_metrics": scores_in_turn(1, 3, 2, 2)}
    tuner = make_tuner(tmp_path, metric_for_best_model="score", options=options, **values)
    tuner.train()
    assert tuner.state.epoch == 4
    # A resumed run counts on: it has one bad epoch behind it.
    resumed = make_tuner(
        tmp_path, metric_for_best_model="score", options={"compute_metrics": scores_in_turn(3)}, **values
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.state.epoch == 4
    # And one that has stopped already does not take another step.
    done = make_tuner(tmp_path, metric_for_best_model="score", options={"compute_metrics": scores_in_turn()}, **values)
    done.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert done.state.epoch == 4
    assert same(done.model.state_dict(), tuner.model.state_dict())
    with pytest.raises(ValueError, match="early_stopping_patience"):
        SemantoksFineTuningArguments(output_dir="unused", early_stopping_patience=0, use_cpu=True)


def test_without_validation_the_last_epoch_is_kept_and_that_is_said(tmp_path, caplog):
    record, rows = Record(), labelled(17)  # 8 + 8 + 1, and a batch norm needs two
    options = {"eval_dataset": None, "callbacks": [record]}
    tuner = make_tuner(tmp_path, train=rows, num_train_epochs=2, options=options)
    assert any("last epoch" in entry.message for entry in caplog.records)
    tuner.train()
    assert same(record.weights[2], tuner.model.state_dict())
    assert tuner.state.global_step == 4
