"""`brain-transformers finetune --repetitions N`: what it writes and says, calling it again, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, set_seed

import brain_transformers as bt
from brain_transformers.cli.main import main
from brain_transformers.evaluation import fine_tuning

datasets = pytest.importorskip("datasets")
pytest.importorskip("sklearn")

QUICK = ["--num_train_epochs", "1", "--per_device_train_batch_size", "8", "--use_cpu", "--disable_tqdm", "True"]


def make_rows(n_subjects, n_rois, n_timepoints, t_r, first=0):
    """Two scans of each subject, as `prepare` writes them."""
    rng = np.random.default_rng(first)
    order = json.dumps([f"parcel {number}" for number in range(n_rois)])
    return [
        {
            "signals": rng.standard_normal(n_rois * n_timepoints).astype(np.float32).tolist(),
            "n_rois": n_rois,
            "n_timepoints": n_timepoints,
            "t_r": t_r,
            "roi_order": order,
            "subject": f"sub-{number}",
            "sex": "FM"[number % 2],
            "age": 30.5 + number,
        }
        for number in range(first, first + n_subjects)
        for _ in range(2)
    ]


def save(folder, *sizes):
    """A dataset in two splits, of eight and of four people."""
    parts = {"train": make_rows(8, *sizes), "validation": make_rows(4, *sizes, first=8)}
    parts["train"][0]["sex"] = None
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def semantoks(tmp_path_factory):
    """A pretrained tiny Brain-Semantoks and scans that fit it."""
    folder = tmp_path_factory.mktemp("semantoks")
    set_seed(0)
    model = bt.BrainSemantoksModel(bt.load_config("brain-semantoks-tiny"))
    bt.save_model_folder(
        model, folder / "model", extractor=bt.ROISeriesFeatureExtractor.from_model_config(model.config)
    )
    save(folder / "dataset", 20, 70, 2.0)
    return folder


def command(folder, output, *flags, label="sex", repetitions=2):
    shared = ["finetune", "--dataset", folder / "dataset", "--model", folder / "model"]
    shared += [] if "--label" in flags else ["--label", label]
    repeated = [] if repetitions is None else ["--repetitions", repetitions, *QUICK]
    return [str(word) for word in (*shared, "--output", output, *repeated, *flags)]


@pytest.fixture
def trained(monkeypatch):
    """The seeds and learning rates of the runs that were really trained."""
    seen = []
    train = fine_tuning.SemantoksFineTuner.train

    def spy(tuner, *args, **options):
        seen.append((tuner.args.seed, tuner.args.learning_rate))
        return train(tuner, *args, **options)

    monkeypatch.setattr(fine_tuning.SemantoksFineTuner, "train", spy)
    return seen


def test_table_results_and_going_on(semantoks, tmp_path, trained, capsys):
    output = tmp_path / "runs" / "sex"
    options = ["--stratify", "--learning-rate-grid", "1e-2", "1e-3", "--crops", "2", "--ratios", "0.5", "0.25", "0.25"]
    assert main(command(semantoks, output, *options, "--save-models")) == 0
    said = capsys.readouterr().out
    assert trained == [(21, 1e-2 / 32), (21, 1e-3 / 32), (22, 1e-2 / 32), (22, 1e-3 / 32)]
    assert "1 of 24 scans of the dataset have no sex and are left out" in said
    assert "sex: 2 classes, 23 scans, 2 random splits" in said
    assert f"written to {output}" in said
    results = json.loads((output / "results.json").read_text())
    score = results["summary"]["balanced_accuracy"]
    (line,) = (line for line in said.splitlines() if line.startswith("balanced_accuracy"))
    assert line.split() == ["balanced_accuracy", f"{100 * score['mean']:.1f}", "+-", f"{100 * score['std']:.1f}"]
    assert 0 <= score["mean"] <= 1  # percent is for people only
    # People of both splits of the dataset take part: 6 train, 3 validate, 3 test, and one has a single scan.
    for record in results["repetitions"]:
        assert sum(record["scans"].values()) == 23
        assert record["scans"]["train"] in (11, 12)
    assert AutoModelForSequenceClassification.from_pretrained(output / "repetition-01-model").config.label2id == {
        "F": 0,
        "M": 1,
    }

    again = command(semantoks, output, *options, "--save-models")
    assert main(again) == 0
    assert len(trained) == 4
    assert capsys.readouterr().out == said
    assert main(command(semantoks, output, *options, "--dataloader_num_workers", "0", repetitions=3)) == 0
    assert [seed for seed, _ in trained[4:]] == [23, 23]
    assert json.loads((output / "results.json").read_text())["repetitions"][:2] == results["repetitions"]

    capsys.readouterr()
    assert main(command(semantoks, output, *options[1:])) == 2
    assert "stratify: true then, false now" in capsys.readouterr().err


def test_training_flags_reach_the_protocol(semantoks, tmp_path, trained, capsys):
    flags = ["--seed", "5", "--learning-rate", "0.5", "--num-train-epochs", "2", "--augmentation", "0", "0", "0", "0"]
    flags += ["--subject-column", "none", "--crops", "1"]
    assert main(command(semantoks, tmp_path, *flags, label="age", repetitions=1)) == 0
    assert trained == [(5, 0.5)]
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["training"] == {
        "augmentation": "[0, 0, 0, 0]",
        "learning_rate": "0.5",
        "num_train_epochs": "2.0",
        "per_device_train_batch_size": "8",
    }
    record = json.loads((tmp_path / "repetition-00.json").read_text())
    assert record["tried"][0]["epochs"] == 2
    assert record["scans"] == {"train": 14, "validation": 5, "test": 5}  # of 24 scans, not of 12 people
    assert "age: regression of 12 distinct numbers, 24 scans" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "sizes"), [("brainlm-tiny", (24, 50, 0.72)), ("brain-jepa-tiny", (40, 50, 2.2143))], ids=lambda v: v
)
def test_new_models_of_other_families(model, sizes, tmp_path, trained, capsys):
    save(tmp_path / "dataset", *sizes)
    rows = [f"{number + 1}\t{number}\t{number % 5}\t{number % 3}" for number in range(sizes[0])]
    (tmp_path / "centres.tsv").write_text("\n".join(["Index\tX\tY\tZ", *rows]) + "\n")
    flags = ["--coordinates", tmp_path / "centres.tsv"] if model == "brainlm-tiny" else []
    flags += ["--model", model, "--layer-decay", "0.8", "--config", "num_hidden_layers=2"]
    call = command(tmp_path, tmp_path / "out", *flags, label="age", repetitions=1)
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "not pretrained" in said
    assert "training set" not in said
    summary = json.loads((tmp_path / "out" / "results.json").read_text())["summary"]
    assert summary["mae"]["mean"] < 15  # of ages from 30 to 42: the head begins at their median
    torch.manual_seed(3)
    assert main(call) == 0  # the same random weights, so that the results go on being those of this call
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("flags", "repetitions", "words"),
    [
        (["--stratify", "--crops", "4"], None, "--stratify, --crops: for repeated splits only. Add --repetitions N"),
        (["--learning-rate-grid", "1e-3"], None, "--learning-rate-grid"),
        (["--schedule", "linear"], None, "--schedule is a flag of repeated splits: add --repetitions N"),
        (["--resume"], 2, "call the same command again"),
        (["--eval-split", "validation"], 2, "--eval-split: --repetitions draws its own splits"),
        (["--train-split", "train"], 2, "--train-split: --repetitions draws its own splits"),
        (["--save_strategy", "no"], 2, "sets save_strategy itself"),
        (
            ["--learning_rate", "0.1", "--learning-rate-grid", "0.1"],
            2,
            "learning_rate itself (rates come from the grid)",
        ),
        (["--schedule", "cosin"], 2, "schedule must be one of"),
        (["--crops", "0"], 2, "0 crops"),
        (["--ratios", "0.5", "0.5", "0"], 2, "three ratios above 0"),
        ([], 0, "--repetitions must be at least 1"),
        (["--label", "height"], 2, "no column 'height'; it has age, sex, subject"),
        (["--subject-column", "site"], 2, "no column 'site'"),
        (["--normalization", "zscore"], 2, "--normalization is for new models"),
        (["--resume_from_checkpoint", "here"], None, "Pass --resume"),
        (["--schedul", "linear"], 2, "did you mean --schedule"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(flags, repetitions, words, semantoks, tmp_path, capsys):
    try:
        code = main(command(semantoks, tmp_path / "out", *flags, repetitions=repetitions))
    except SystemExit as left:
        code = left.code
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_help_shows_the_training_arguments_of_the_protocol(capsys):
    shown = {}
    for flags in ([], ["--repetitions", "10"]):
        with pytest.raises(SystemExit):
            main(["finetune", *flags, "--help"])
        shown[len(flags)] = capsys.readouterr().out
    assert "--repetitions N" in shown[0]
    assert "--encoder_learning_rate_factor" not in shown[0]
    assert "--encoder_learning_rate_factor" in shown[2]
