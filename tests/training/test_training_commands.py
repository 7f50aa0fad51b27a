"""`brain-transformers pretrain` and `finetune`, from a prepared dataset to a folder that loads."""

import argparse
import json

import numpy as np
import pytest
import torch
from tiny_pretraining import make_scans, make_signals
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

import brain_transformers  # noqa: F401  registers the Auto classes
from brain_transformers.cli import finetune, pretrain

datasets = pytest.importorskip("datasets")

QUIET = ["--use_cpu", "--report_to", "none", "--disable_tqdm", "True", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Saved scans in two splits, in an order that is a list of labels, with centres and labels beside them."""
    folder = tmp_path_factory.mktemp("prepared")
    order = json.dumps([f"parcel {number}" for number in range(12)])
    splits = {}
    for name, n_scans, seed in (("train", 24, 0), ("validation", 8, 1)):
        groups = [("young", "old")[number % 2] for number in range(n_scans)]
        rows = make_scans(n_scans, seed=seed, group=groups, age=[40.0 + 5.5 * (g == "old") for g in groups])
        for row in rows:
            signals = row["signals"].reshape(12, 100)
            if row["group"] == "old":
                signals = signals * 4
            row.update(
                signals=(50 * signals).reshape(-1).tolist(), roi_order=order, subject=str(len(splits)), session=None
            )
        splits[name] = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(splits).save_to_disk(str(folder / "dataset"))
    # Close to the origin: at real distances the coordinates of so small a model drown the signal for a long time.
    centres = np.random.default_rng(0).integers(-3, 4, size=(12, 3))
    lines = [f"{number + 1}\t{x}\t{y}\t{z}" for number, (x, y, z) in enumerate(centres)]
    (folder / "centres.tsv").write_text("Index\tX\tY\tZ\n" + "\n".join(lines) + "\n")
    return folder


def _run(module, *flags):
    parser = argparse.ArgumentParser(prog="brain-transformers")
    module.add_parser(parser.add_subparsers())
    args = parser.parse_args([module.__name__.rpartition(".")[2], *map(str, flags)])
    return args.run(args)


def _pretrain(prepared, output, *flags):
    return _run(
        pretrain,
        *("--model", "brainlm-tiny", "--dataset", prepared / "dataset", "--output", output),
        *("--coordinates", prepared / "centres.tsv", "--max_steps", 4, "--per_device_train_batch_size", 8),
        *QUIET,
        *flags,
    )


def test_pretrain_then_finetune(prepared, tmp_path, capsys):
    output = tmp_path / "pretrained"
    assert _pretrain(prepared, output, "--mask_ratio", "0.5", "--config", "t_r=0.7", "pooling=mean") == 0
    said = capsys.readouterr().out
    assert str(output) in said
    assert "scale fitted on the 24 scans" in said
    metrics = json.loads((output / "metrics.json").read_text())
    assert {"train_loss", "eval_loss", "eval_mse", "eval_r2", "eval_pearson_r"} <= set(metrics)

    model, extractor = AutoModel.from_pretrained(output), AutoFeatureExtractor.from_pretrained(output)
    assert model.config.n_rois == 12
    assert model.config.t_r == 0.7
    inputs = extractor(make_signals(1, 12, 100)[0] * 50, t_r=0.7, return_tensors="pt")
    assert torch.isfinite(model(**inputs).pooler_output).all()

    classified = tmp_path / "classified"
    flags = ["--learning_rate", "5e-3", "--num_train_epochs", "40", "--per_device_train_batch_size", "8", *QUIET]
    shared = ["--model", output, "--dataset", prepared / "dataset"]
    assert _run(finetune, *shared, "--output", classified, "--label", "group", *flags) == 0
    scores = json.loads((classified / "metrics.json").read_text())
    assert scores["eval_accuracy"] >= 0.75
    config = AutoModelForSequenceClassification.from_pretrained(classified).config
    assert config.label2id == {"old": 0, "young": 1}

    regressed = tmp_path / "regressed"
    assert _run(finetune, *shared, "--output", regressed, "--label", "age", *flags[:2], "--max_steps", 2, *QUIET) == 0
    scores = json.loads((regressed / "metrics.json").read_text())
    assert scores["eval_mae"] < 6  # the head starts at the mean age, and not at 0 years
    assert AutoModelForSequenceClassification.from_pretrained(regressed).config.problem_type == "regression"


def test_a_run_is_never_overwritten_and_goes_on_when_asked(prepared, tmp_path, capsys):
    save = ["--save_strategy", "steps", "--save_steps", "2"]
    assert _pretrain(prepared, tmp_path, *save) == 0
    straight = AutoModel.from_pretrained(tmp_path).state_dict()
    with pytest.raises(FileExistsError, match="--resume"):
        _pretrain(prepared, tmp_path, *save)
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    assert _pretrain(prepared, tmp_path, *save, "--resume") == 0
    assert "checkpoint-2" in capsys.readouterr().out
    resumed = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_missing_centres_and_labels_are_named(prepared, tmp_path):
    for model in ("brainlm-tiny", "brainlm-vit-tiny"):
        with pytest.raises(ValueError, match="--coordinates"):
            _run(pretrain, "--model", model, "--dataset", prepared / "dataset", "--output", tmp_path, *QUIET)
    shared = ["--model", "brainlm-tiny", "--dataset", prepared / "dataset", "--output", tmp_path]
    with pytest.raises(ValueError, match=r"no column 'sex'.*age.*group"):
        _run(finetune, *shared, "--label", "sex", *QUIET)
    with pytest.raises(FileNotFoundError, match="prepare"):
        _run(pretrain, "--model", "brainlm-tiny", "--dataset", tmp_path, "--output", tmp_path)


@pytest.mark.parametrize(
    ("model", "trainer"), [("brain-jepa-tiny", "JEPATrainer"), ("brain-semantoks-tiny", "SelfDistillationTrainer")]
)
def test_other_objectives_name_their_trainer(model, trainer, prepared, tmp_path):
    with pytest.raises(ValueError, match=trainer):
        _run(pretrain, "--model", model, "--dataset", prepared / "dataset", "--output", tmp_path, *QUIET)


def test_unknown_flags_are_refused_and_help_names_the_training_arguments(capsys):
    with pytest.raises(SystemExit):
        _run(pretrain, "--model", "m", "--dataset", "d", "--output", "o", "--maks_ratio", "0.5")
    assert "--maks_ratio" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _run(pretrain, "--help")
    said = capsys.readouterr().out
    assert "--dataset" in said
    assert "--base_learning_rate" in said
