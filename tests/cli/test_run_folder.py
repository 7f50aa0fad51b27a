"""The folder of a training run: what goes on in it, what is refused, what it holds when another process is killed."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.cli.main import main
from brain_transformers.files import locked
from brain_transformers.training.run_folder import RunFolder

datasets = pytest.importorskip("datasets")

QUIET = ["--use_cpu", "--report_to", "none", "--disable_tqdm", "True", "--per_device_train_batch_size", "4"]


def make_rows(n_scans, first=0, n_rois=12, **columns):
    rng = np.random.default_rng(first)
    order = json.dumps([f"parcel {number}" for number in range(n_rois)])
    rows = []
    for number in range(n_scans):
        row = {
            "signals": (30 * rng.standard_normal(n_rois * 60)).astype(np.float32).tolist(),
            "n_rois": n_rois,
            "n_timepoints": 60,
            "t_r": 0.72,
            "roi_order": order,
            "subject": f"sub-{first + number:02d}",
            "source_file": f"sub-{first + number:02d}.npy",
            "sex": number % 2,
            "age": 40 + 3 * number,
        }
        rows.append({**row, **{name: values[number] for name, values in columns.items()}})
    return rows


def save(folder, train, validation=None):
    parts = {"train": train} if validation is None else {"train": train, "validation": validation}
    parts = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


@pytest.fixture
def folder(tmp_path):
    """A dataset of twelve scans, a table of centres, and no model yet."""
    save(tmp_path / "dataset", make_rows(8), make_rows(4, first=8))
    write_centres(tmp_path / "centres.tsv")
    return tmp_path


def write_centres(path, step=1):
    rows = [f"{number + 1}\t{number * step}\t{number % 5}\t{number % 3}" for number in range(12)]
    path.write_text("\n".join(["Index\tX\tY\tZ", *rows]) + "\n")


def call(folder, command, *flags, output="run", model="brainlm-tiny", steps=2):
    words = [command, "--dataset", folder / "dataset", "--output", folder / output, "--model", model, *QUIET]
    if model == "brainlm-tiny":
        words += ["--coordinates", folder / "centres.tsv"]
    words += ["--label", "sex"] if command == "finetune" and "--label" not in flags else []
    return main([str(word) for word in (*words, "--max_steps", steps, "--save_steps", 1, *flags)])


def refused(capsys, folder, *arguments, **options):
    """The one line of a call that must fail."""
    capsys.readouterr()
    assert call(folder, *arguments, **options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line or "--debug" in line]
    return line


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_finished_run_is_finished(folder, capsys):
    assert call(folder, "pretrain") == 0
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    assert json.loads((folder / "run" / "metrics.json").read_text())["train_loss"] > 0
    capsys.readouterr()
    assert call(folder, "pretrain", "--resume") == 0
    said = capsys.readouterr().out
    assert "this run is finished" in said
    assert "train_loss: " in said
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before
    assert "seed: 1234 then, 7 now" in refused(capsys, folder, "pretrain", "--resume", "--seed", "7")


def test_another_run_does_not_go_on(folder, capsys):
    def change_a_value():
        rows = make_rows(8)
        rows[5]["signals"][7] += 1
        save(folder / "dataset", rows, make_rows(4, first=8))

    changes = {
        "processor.normalization: robust then, zscore now": lambda: ["--normalization", "zscore"],
        "model.pooling: cls then, mean now": lambda: ["--config", "pooling=mean"],
        "learning_rate": lambda: ["--learning_rate", "0.5"],
        "training scans": change_a_value,
        "evaluation scans": lambda: save(folder / "dataset", make_rows(8), make_rows(4, first=9)) and None,
        "coordinates": lambda: write_centres(folder / "centres.tsv", 2),
    }
    assert call(folder, "pretrain") == 0
    (folder / "run" / "model.safetensors").unlink()  # as if it was killed before the end
    for name, change in changes.items():
        line = refused(capsys, folder, "pretrain", "--resume", *(change() or ()))
        assert f"{folder / 'run'} holds another run (" in line
        assert name in line
        save(folder / "dataset", make_rows(8), make_rows(4, first=8))
    write_centres(folder / "centres.tsv")
    assert call(folder, "pretrain", "--resume") == 0


def test_another_command_is_all_that_is_named(folder, capsys):
    assert call(folder, "pretrain") == 0
    line = refused(capsys, folder, "finetune", "--resume")
    assert "holds another run (command: pretrain then, finetune now). Choose" in line


def test_what_is_no_dataset_says_what_to_prepare(folder, capsys):
    (folder / "dataset").rename(folder / "away")
    assert "there is no such folder" in refused(capsys, folder, "pretrain")
    (folder / "dataset").mkdir()
    assert f"`brain-transformers prepare {folder / 'dataset'} --output dataset`" in refused(capsys, folder, "pretrain")


@pytest.mark.parametrize(("table", "model"), [("gradients", "brain-jepa-tiny"), ("networks", "brain-semantoks-tiny")])
def test_another_table_does_not_go_on(table, model, folder, capsys):
    path = folder / "table.txt"
    flags = [f"--{table}", path, "--config", *(["mask_rule=nominal"] if table == "networks" else ["n_timepoints=24"])]
    rng = np.random.default_rng(0)

    def write(turn):
        if table == "gradients":
            np.savetxt(path, rng.standard_normal((12, 6)))
        else:
            path.write_text("\n".join(np.roll(["visual", "motor", "visual"] * 4, turn)))

    write(0)
    assert call(folder, "pretrain", *flags, model=model) == 0
    (folder / "run" / "model.safetensors").unlink()
    write(1)
    assert table in refused(capsys, folder, "pretrain", "--resume", *flags, model=model)


def test_a_processor_that_was_fitted_anew_does_not_go_on(folder, capsys):
    assert call(folder, "pretrain", output="model") == 0
    assert call(folder, "finetune", model=folder / "model") == 0
    (folder / "run" / "model.safetensors").unlink()
    extractor = AutoFeatureExtractor.from_pretrained(folder / "model")
    extractor.statistics["iqr"] = [2 * value for value in extractor.statistics["iqr"]]
    extractor.save_pretrained(folder / "model")
    line = refused(capsys, folder, "finetune", "--resume", model=folder / "model")
    assert "processor.statistics" in line


def test_a_model_is_not_replaced_unless_asked_for(folder, capsys):
    assert call(folder, "pretrain", "--save_strategy", "no", output="model") == 0
    (folder / "model" / "notes.txt").write_text("mine")
    before = (folder / "model" / "model.safetensors").read_bytes()
    line = refused(capsys, folder, "pretrain", output="model")
    assert "holds a finished model" in line
    assert "--overwrite" in line
    line = refused(capsys, folder, "finetune", output="model", model=folder / "model")
    assert "the model that training starts from" in line
    assert (folder / "model" / "model.safetensors").read_bytes() == before
    line = refused(capsys, folder, "finetune", "--overwrite", output="model", model=folder / "model")
    assert "the model that training starts from" in line
    assert (folder / "model" / "model.safetensors").read_bytes() == before
    shutil.copytree(folder / "model", folder / "start")
    assert call(folder, "finetune", "--overwrite", output="model", model=folder / "start") == 0
    assert AutoModelForSequenceClassification.from_pretrained(folder / "model").config.label2id == {"0": 0, "1": 1}
    assert (folder / "model" / "notes.txt").read_text() == "mine"
    assert "checkpoints of an earlier run" in refused(capsys, folder, "pretrain", output="model")
    assert call(folder, "pretrain", "--overwrite", output="model", steps=1) == 0
    assert [path.name for path in (folder / "model").glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (folder / "model" / "predictions.csv").exists()  # of the classifier, which is gone
    assert "holds a dataset" in refused(capsys, folder, "pretrain", output="dataset")
    assert "is a file" in refused(capsys, folder, "pretrain", output="centres.tsv")


def test_the_licence_of_the_weights_goes_on(folder):
    assert call(folder, "pretrain", "--save_strategy", "no", output="model") == 0
    card = folder / "model" / "README.md"
    assert "non-commercial" not in card.read_text()
    card.write_text("---\nlibrary_name: brain-transformers\nlicense: cc-by-nc-nd-4.0\n---\n\n# Converted\n")
    assert call(folder, "finetune", model=folder / "model") == 0
    said = (folder / "run" / "README.md").read_text()
    assert "license: cc-by-nc-nd-4.0" in said
    assert "non-commercial purposes only" in said
    assert re.search(
        r"\| balanced_accuracy \| \S+ \(95 % interval \S+ to \S+\); a guess without scans: 0.500 \|", said
    )
    assert "8 scans of " in said
    assert call(folder, "pretrain", output="further", model=folder / "model") == 0
    assert "license: cc-by-nc-nd-4.0" in (folder / "further" / "README.md").read_text()
    words = ["finetune", "--dataset", folder / "dataset", "--model", folder / "run", "--label", "sex", "--use_cpu"]
    words += ["--output", folder / "repeated", "--repetitions", "1", "--num_train_epochs", "1", "--save-models"]
    assert main([str(word) for word in (*words, "--stratify", "--coordinates", folder / "centres.tsv")]) == 0
    said = (folder / "repeated" / "repetition-00-model" / "README.md").read_text()
    assert "non-commercial purposes only" in said
    card.write_text("my notes")
    assert call(folder, "pretrain", "--overwrite", output="model") == 0
    assert card.read_text() == "my notes"


def test_a_folder_in_use_is_refused(folder, capsys):
    with locked(folder / "run", "pretrain"):
        for command, flags in (("pretrain", []), ("finetune", [])):
            assert f"in use by process {os.getpid()}" in refused(capsys, folder, command, *flags)
        words = ["finetune", "--dataset", folder / "dataset", "--output", folder / "run", "--model", "brainlm-tiny"]
        words += ["--coordinates", folder / "centres.tsv", "--use_cpu", "--label", "sex", "--repetitions", "1"]
        assert main(list(map(str, words))) == 2
        assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--eval_strategy", "epoch"], "--eval-strategy epoch: there is nothing to evaluate on"),
        (["--load_best_model_at_end"], "--load-best-model-at-end True: there is nothing to evaluate on"),
        (["--save_strategy", "best"], "--save-strategy best: there is nothing to evaluate on"),
        (["--eval_on_start"], "has no split 'validation'"),
        (["--do_eval"], "Choose one with --eval-split"),
        (["--eval-split", "test"], "has no split 'test', only ['train']"),
        (["--train-split", "training"], "has no split 'training', only ['train']"),
        (["--learning_rate", "nan"], "learning_rate (--learning_rate) must be at least 0, got nan"),
        (["--max_steps", "0"], "max_steps (--max_steps) must be at least 1, got 0"),
        (["--num_train_epochs", "-1"], "num_train_epochs (--num_train_epochs) must be above 0, got -1"),
        (
            ["--per_device_train_batch_size", "0"],
            "(--per_device_train_batch_size) must be at least 1, got 0",
        ),
        (["--config", "t_r=NaN"], "--config t_r: expected finite numbers, got NaN"),
        (["--config", "t_r=-1"], "t_r"),
        (["--config", "t_r=0"], "t_r"),
        (["--config", "hidden_sizes=8"], "Did you mean hidden_size"),
        (["--config", "save_pretrained=1"], "has no field 'save_pretrained'"),
        (["--config", "model_type=bert"], "it belongs to the family"),
        (["--config", "hidden_size"], "Expected --config NAME=VALUE"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_training(flags, words, folder, capsys):
    save(folder / "dataset", make_rows(8))
    assert words in refused(capsys, folder, "pretrain", *flags)
    assert not (folder / "run").exists()


def test_choosing_the_best_needs_evaluations_and_a_known_score(folder, capsys):
    line = refused(capsys, folder, "finetune", "--load_best_model_at_end")
    assert "--load-best-model-at-end chooses by evaluations, and none are asked for" in line
    best = ["--load_best_model_at_end", "--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps"]
    assert "auc" in refused(capsys, folder, "finetune", *best, "--metric_for_best_model", "auc")
    assert call(folder, "finetune", *best, "--metric_for_best_model", "accuracy", output="other") == 0


def test_a_label_or_a_dataset_twice_is_refused(folder, capsys):
    for flags in (["--label", "age", "--label", "sex"], ["--dataset", "other"]):
        with pytest.raises(SystemExit):
            call(folder, "finetune", *flags)
        assert "is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "said", "problem"),
    [
        ("sex", "2 classes", "single_label_classification"),
        ("sex_with_gap", "2 classes", "single_label_classification"),
        ("age", "regression of 8 distinct numbers", "regression"),
        ("age_with_gap", "regression of 7 distinct numbers", "regression"),
    ],
)
def test_what_is_learned_is_said_and_a_gap_changes_nothing(label, said, problem, folder, capsys):
    ages, sexes = [40.0 + 3 * number for number in range(8)], [float(number % 2) for number in range(8)]
    gaps = {"age_with_gap": [None, *ages[1:]], "sex_with_gap": [None, *sexes[1:]]}
    others = {"age_with_gap": ages[:4], "sex_with_gap": sexes[:4]}
    save(folder / "dataset", make_rows(8, **gaps), make_rows(4, first=8, **others))
    assert call(folder, "finetune", "--label", label) == 0
    assert f"{label}: {said}" in capsys.readouterr().out
    config = AutoModelForSequenceClassification.from_pretrained(folder / "run").config
    assert config.problem_type == problem
    if problem != "regression":
        assert config.id2label == {0: "0", 1: "1"}
    with (folder / "run" / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["subject"] for line in lines] == [f"sub-{number:02d}" for number in range(8, 12)]
    assert list(lines[0])[:4] == ["subject", "source_file", "label", "prediction"]
    if problem == "regression":
        assert float(lines[0]["label"]) == 40
        predicted = np.array([float(line["prediction"]) for line in lines])
        errors = np.abs(predicted - np.array([float(line["label"]) for line in lines]))
        scores = json.loads((folder / "run" / "metrics.json").read_text())
        assert errors.mean() == pytest.approx(scores["eval_mae"], rel=1e-4)
    else:
        assert {line["prediction"] for line in lines} <= {"0", "1"}
        assert sum(float(lines[0][f"probability_{name}"]) for name in "01") == pytest.approx(1, abs=1e-5)


def test_centres_of_an_existing_model(folder, capsys):
    assert call(folder, "pretrain", output="model") == 0
    write_centres(folder / "others.tsv", 3)
    flags = ["--coordinates", folder / "others.tsv"]
    assert call(folder, "finetune", *flags, model=folder / "model") == 0
    model = AutoModelForSequenceClassification.from_pretrained(folder / "run")
    assert model.config.coordinates_source == "others.tsv"
    assert model.base_model.coordinates[1].tolist() == [3, 1, 1]
    assert AutoFeatureExtractor.from_pretrained(folder / "run").coordinates[1] == [3, 1, 1]
    extractor = AutoFeatureExtractor.from_pretrained(folder / "run")
    inputs = extractor(np.ones((12, 60)) + np.eye(12, 60), t_r=0.72, roi_order=extractor.roi_order)
    assert inputs["coordinates"][0][1].tolist() == [3, 1, 1]
    # A model that was saved without them gets them too.
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "coordinates_source": None}))
    assert call(folder, "finetune", *flags, model=folder / "model", output="again") == 0
    model = AutoModelForSequenceClassification.from_pretrained(folder / "again")
    assert model.config.coordinates_source == "others.tsv"


def test_a_model_without_a_fitted_scale_gets_it_from_the_training_scans(folder, capsys):
    config = bt.load_config("brainlm-tiny", t_r=0.72, coordinates_source=None)
    bt.save_model_folder(
        bt.BrainLMModel(config), folder / "model", extractor=bt.ROISeriesFeatureExtractor.from_model_config(config)
    )
    flags = ["--coordinates", folder / "centres.tsv"]
    assert call(folder, "finetune", *flags, model=folder / "model") == 0
    assert "robust, fitted on 8 training scans" in capsys.readouterr().out
    assert AutoFeatureExtractor.from_pretrained(folder / "run").statistics["n_scans"] == 8
    repeated = ["--repetitions", "1", "--num_train_epochs", "1", "--save-models", "--stratify", *flags]
    words = ["finetune", "--dataset", folder / "dataset", "--model", folder / "model", "--label", "sex", "--use_cpu"]
    assert main([str(word) for word in (*words, "--output", folder / "repeated", *repeated)]) == 0
    fitted = AutoFeatureExtractor.from_pretrained(folder / "repeated" / "repetition-00-model")
    record = json.loads((folder / "repeated" / "repetition-00.json").read_text())
    assert fitted.statistics["n_scans"] == record["scans"]["train"] < 12  # none of the test
    with (folder / "repeated" / "repetition-00-predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == record["scans"]["test"]


def test_repetition_times_that_differ_or_are_unknown_are_said(folder, capsys):
    save(folder / "dataset", make_rows(8, t_r=[2.0, *[0.72] * 7]))
    with pytest.warns(UserWarning, match=r"7 have 0\.72 s, 1 have 2 s"):
        assert call(folder, "pretrain", output="mixed") == 0
    assert bt.BrainLMModel.from_pretrained(folder / "mixed").config.t_r == 0.72
    save(folder / "dataset", make_rows(8, t_r=[None] * 8))
    assert call(folder, "pretrain", output="unknown") == 0
    assert "t_r: unknown" in capsys.readouterr().out
    assert bt.BrainLMModel.from_pretrained(folder / "unknown").config.t_r is None
    assert AutoFeatureExtractor.from_pretrained(folder / "unknown").t_r is None
    assert call(folder, "pretrain", "--config", "t_r=0.8", output="given") == 0
    assert bt.BrainLMModel.from_pretrained(folder / "given").config.t_r == 0.8


@pytest.mark.parametrize("model", ["brainlm-tiny", "brainlm-vit-tiny", "brain-jepa-tiny", "brain-semantoks-tiny"])
def test_tiny_models_of_other_parcels_train_or_say_what_they_need(model, folder, capsys):
    flags = ["--coordinates", folder / "centres.tsv"] if model == "brainlm-vit-tiny" else []
    code = call(folder, "finetune", *flags, model=model, steps=1)
    said = capsys.readouterr().err
    assert code == 0 or ("error: " in said and " Pass --networks FILE" in said), said


@pytest.mark.parametrize(
    ("flag", "model", "text", "words"),
    [
        ("gradients", "brain-jepa-tiny", "nan 1 2 3 4 5\n" * 12, "expected finite numbers"),
        ("gradients", "brain-jepa-tiny", "0.5 1 2 3 4 5\n" * 12, "the same for every parcel"),
        ("gradients", "brain-jepa-tiny", "1 2 3 4 5 6\n" * 11, "expected 12 rows"),
        ("gradients", "brain-jepa-tiny", "a b c\n" * 12, "expected a table of numbers"),
        ("networks", "brain-semantoks-tiny", "[2147483648]", "expected 12 lines"),
        ("networks", "brain-semantoks-tiny", "\n".join(map(str, range(12))), "another name in each"),
        ("networks", "brain-semantoks-tiny", b"\xff\xfe\x00", "cannot be read"),
        ("coordinates", "brainlm-tiny", "\n".join(f"{n + 1} {n * 1e4} 0 0" for n in range(12)), "millimetres"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(flag, model, text, words, folder, capsys):
    path = folder / "table.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(capsys, folder, "pretrain", f"--{flag}", path, model=model)
    assert str(path) in line
    assert words in line


def test_a_model_that_does_not_exist_is_one_line(folder, capsys):
    for command in ("pretrain", "finetune"):
        try:
            code = call(folder, command, model="typo/name")
        except SystemExit as left:
            code = left.code
        said = capsys.readouterr().err.strip()
        assert code == 2
        assert "typo/name" in said
        assert len(said.splitlines()) == 1, said


def test_an_interrupted_command_tells_how_to_go_on(folder, capsys, monkeypatch):
    def interrupted(run, trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "train", interrupted)
    for save_strategy, way in (("steps", "Go on with: "), ("no", "Begin again with: ")):
        flags = ["--save_strategy", save_strategy]
        assert call(folder, "pretrain", *flags, output=save_strategy) == 130
        said = capsys.readouterr().err
        assert f"{way}brain-transformers pretrain" in said
        assert said.strip().endswith("--resume") == (save_strategy == "steps")
    monkeypatch.undo()
    assert call(folder, "pretrain", "--resume", output="steps") == 0
    assert "starting anew" in capsys.readouterr().out
