"""`brain-transformers pretrain` and `finetune`, from a prepared dataset to a folder that loads."""

import argparse
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_pretraining import make_scans, make_signals
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers
from brain_transformers.atlases.parcel_tables import parcel_table
from brain_transformers.atlases.roi_orders import roi_coordinates, roi_labels
from brain_transformers.cli.main import main, run
from brain_transformers.training import FineTuningArguments, FineTuningTrainer

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


def _run(command, *flags):
    return run([command, *map(str, flags)], argparse.Namespace())


def _pretrain(prepared, output, *flags):
    return _run(
        "pretrain",
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
    assert "robust, fitted on 24 training scans" in said
    assert "AutoModel loads the encoder" in said
    metrics = json.loads((output / "metrics.json").read_text())
    assert {"train_loss", "eval_loss", "eval_mse", "eval_r2", "eval_pearson_r"} <= set(metrics)

    model, extractor = AutoModel.from_pretrained(output), AutoFeatureExtractor.from_pretrained(output)
    assert model.config.n_rois == 12
    assert model.config.t_r == 0.7
    scan, order = make_signals(1, 12, 100)[0] * 50, extractor.roi_order
    inputs = extractor(scan, t_r=0.7, roi_order=order, return_tensors="pt")
    assert torch.isfinite(model(**inputs).pooler_output).all()

    classified = tmp_path / "classified"
    flags = ["--learning_rate", "5e-3", "--num_train_epochs", "40", "--per_device_train_batch_size", "8", *QUIET]
    shared = ["--model", output, "--dataset", prepared / "dataset"]
    assert _run("finetune", *shared, "--output", classified, "--label", "group", *flags) == 0
    scores = json.loads((classified / "metrics.json").read_text())
    assert scores["eval_accuracy"] >= 0.75
    config = AutoModelForSequenceClassification.from_pretrained(classified).config
    assert config.label2id == {"old": 0, "young": 1}

    regressed = tmp_path / "regressed"
    assert (
        _run("finetune", *shared, "--output", regressed, "--label", "age", *flags[:2], "--max_steps", 2, *QUIET) == 0
    )
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
            _run("pretrain", "--model", model, "--dataset", prepared / "dataset", "--output", tmp_path, *QUIET)
    shared = ["--model", "brainlm-tiny", "--dataset", prepared / "dataset", "--output", tmp_path]
    with pytest.raises(ValueError, match=r"no column 'sex'.*age.*group"):
        _run("finetune", *shared, "--label", "sex", *QUIET)
    with pytest.raises(FileNotFoundError, match="prepare"):
        _run("pretrain", "--model", "brainlm-tiny", "--dataset", tmp_path, "--output", tmp_path)
    with pytest.raises(ValueError, match="brainlm-13m"):
        _run("pretrain", "--model", "brainlm13m", "--dataset", prepared / "dataset", "--output", tmp_path)


LABELS = (*roi_labels("schaefer400-7net")[::20], *roi_labels("tian-s3")[::10])
SMALL_ENCODER = ["hidden_size=32", "num_hidden_layers=2", "num_attention_heads=4", "intermediate_size=48"]
# Published configurations of each family, made small; recipes and everything that depends on parcels stay theirs.
SMALL = {
    "brainlm-13m": [
        *SMALL_ENCODER,
        *("decoder_hidden_size=32", "decoder_num_hidden_layers=1", "decoder_intermediate_size=48"),
        *("n_timepoints=40", "patch_size=20"),
    ],
    "brain-jepa-base": [
        *SMALL_ENCODER,
        *("predictor_hidden_size=16", "predictor_num_hidden_layers=1", "predictor_num_attention_heads=4"),
        *("predictor_intermediate_size=32", "gradient_size=6", "n_timepoints=32", "patch_size=8"),
    ],
    "brain-semantoks-base": [
        *SMALL_ENCODER,
        *("projection_hidden_size=24", "projection_size=12", "n_timepoints=40", "t_r=0.735"),
    ],
}
RELEASED = {
    "brainlm-13m": "the encoder",
    "brain-jepa-base": "the target encoder",
    "brain-semantoks-base": "the teacher",
}


def _save_rows(folder, order, n_rois, n_scans, n_validation):
    splits = {}
    for name, number, seed in (("train", n_scans, 0), ("validation", n_validation, 1)):
        rows = make_scans(number, n_rois, seed=seed)
        for row in rows:
            row.update(signals=row["signals"].tolist(), roi_order=order, subject=str(number), session=None)
        splits[name] = datasets.Dataset.from_list(rows)
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def named_parcels(tmp_path_factory):
    """Scans of a part of the Schaefer and Tian parcels, whose centres, gradients and networks are known by name."""
    folder = tmp_path_factory.mktemp("named")
    _save_rows(folder / "dataset", json.dumps(LABELS), len(LABELS), 24, 8)
    tables = [(roi_labels(order), roi_coordinates(order)) for order in ("schaefer400-7net", "tian-s3")]
    centres = {label: row for labels, table in tables for label, row in zip(labels, table)}
    rows = "\n".join(f"{n + 1} {' '.join(f'{v:.1f}' for v in centres[label])}" for n, label in enumerate(LABELS))
    (folder / "centres.tsv").write_text(rows + "\n")
    return folder


@pytest.fixture(scope="module")
def unknown_parcels(tmp_path_factory):
    """Scans of parcels of which nothing is known but their names."""
    folder = tmp_path_factory.mktemp("unknown")
    return _save_rows(folder / "dataset", json.dumps([f"parcel {n}" for n in range(12)]), 12, 8, 4)


def _small_run(model, dataset, output, *flags, config=(), steps=4):
    return _run(
        "pretrain",
        *("--model", model, "--dataset", dataset, "--output", output, *QUIET),
        *("--max_steps", steps, "--per_device_train_batch_size", 8, "--logging_steps", 1, *flags),
        *("--config", *SMALL[model], *config),
    )


@pytest.mark.parametrize("model", SMALL)
def test_every_family_pretrains_resumes_and_loads(model, named_parcels, tmp_path, capsys):
    flags = ["--save_strategy", "steps", "--save_steps", "2"]
    if model == "brainlm-13m":
        flags += ["--coordinates", named_parcels / "centres.tsv"]
    assert _small_run(model, named_parcels / "dataset", tmp_path, *flags) == 0
    said = capsys.readouterr().out
    assert f"AutoModel loads {RELEASED[model]}" in said
    straight, metrics = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "metrics.json").read_text())
    assert np.isfinite([metrics["train_loss"], metrics["eval_loss"]]).all()

    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    (tmp_path / "model.safetensors").unlink()
    assert _small_run(model, named_parcels / "dataset", tmp_path, *flags, "--resume") == 0
    assert "going on from" in capsys.readouterr().out
    resumed = load_file(tmp_path / "model.safetensors")
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert json.loads((tmp_path / "metrics.json").read_text())["eval_loss"] == metrics["eval_loss"]

    released, extractor = AutoModel.from_pretrained(tmp_path), AutoFeatureExtractor.from_pretrained(tmp_path)
    assert released.config.roi_order == extractor.roi_order == list(LABELS)
    inputs = extractor(make_signals(1, len(LABELS), 100)[0], t_r=0.735, roi_order=LABELS, return_tensors="pt")
    assert torch.isfinite(released(**inputs).pooler_output).all()
    whole = AutoModelForPreTraining.from_pretrained(tmp_path)
    for name, value in released.state_dict().items():
        assert torch.equal(value, whole.state_dict()[f"{whole.base_model_prefix}.{name}"])


def test_new_models_fit_the_parcels_of_the_dataset(named_parcels, tmp_path, capsys):
    assert _small_run("brain-jepa-base", named_parcels / "dataset", tmp_path / "jepa", steps=1) == 0
    said = capsys.readouterr().out
    assert "scans of 0.735 s are brought to 2.2143 s" in said
    jepa = AutoModel.from_pretrained(tmp_path / "jepa")
    known = parcel_table("gradients", LABELS, 6)
    assert np.array_equal(jepa.gradients.numpy(), known)
    config = json.loads((tmp_path / "jepa" / "trainer_state.json").read_text())
    rates = [line["learning_rate"] for line in config["log_history"] if "learning_rate" in line]
    assert rates[0] < 5e-4 / 256 * 8  # the published warmup begins far below the published rate for this batch

    assert _small_run("brain-semantoks-base", named_parcels / "dataset", tmp_path / "semantoks", steps=1) == 0
    config = AutoModel.from_pretrained(tmp_path / "semantoks").config
    assert config.network_names[-1] == "Subcortex"
    assert config.networks[-1] == len(config.network_names) - 1
    assert len(config.networks) == config.n_rois == len(LABELS)


def test_tables_for_parcels_that_are_not_known(unknown_parcels, tmp_path, capsys):
    with pytest.raises(ValueError, match="--networks FILE"):
        _small_run("brain-semantoks-base", unknown_parcels, tmp_path)
    table = tmp_path / "networks.txt"
    table.write_text("\n".join(["visual", "motor", "visual"] * 4))
    flags = ["--networks", table]
    with pytest.raises(ValueError, match="--config mask_rule=nominal"):
        _small_run("brain-semantoks-base", unknown_parcels, tmp_path, *flags)
    nominal = ["mask_rule=nominal"]
    same = ["--table", f"networks={table}"]
    assert _small_run("brain-semantoks-base", unknown_parcels, tmp_path / "a", *same, config=nominal, steps=1) == 0
    config = AutoModel.from_pretrained(tmp_path / "a").config
    assert config.networks == [0, 1, 0] * 4
    assert config.network_names == ["visual", "motor"]
    table.write_text("visual\nmotor\n")
    with pytest.raises(ValueError, match="expected 12 lines"):
        _small_run("brain-semantoks-base", unknown_parcels, tmp_path / "b", "--networks", table)

    assert _small_run("brain-jepa-base", unknown_parcels, tmp_path / "c", steps=1) == 0
    assert "diffusion map of the connectivity of 8 training scans" in capsys.readouterr().out
    assert AutoModel.from_pretrained(tmp_path / "c").gradients.abs().sum() > 0
    given = np.random.default_rng(0).normal(size=(12, 7))
    np.savetxt(tmp_path / "gradients.csv", given, delimiter=",")
    flags = ["--gradients", tmp_path / "gradients.csv"]
    assert _small_run("brain-jepa-base", unknown_parcels, tmp_path / "d", *flags, steps=1) == 0
    loaded = AutoModel.from_pretrained(tmp_path / "d")
    assert np.allclose(loaded.gradients.numpy(), given[:, :6])
    assert loaded.config.gradient_source == "gradients.csv"
    with pytest.raises(ValueError, match="gradient_size=11"):
        _small_run("brain-jepa-base", unknown_parcels, tmp_path / "e", config=["gradient_size=12"])
    with pytest.raises(ValueError, match=r"at least 9 columns, got shape \(12, 7\)"):
        _small_run("brain-jepa-base", unknown_parcels, tmp_path / "e", *flags, config=["gradient_size=9"])
    with pytest.raises(ValueError, match="belongs to its weights"):
        _run("pretrain", "--model", tmp_path / "d", "--dataset", unknown_parcels, "--output", tmp_path / "e", *flags)


@pytest.mark.parametrize(
    ("model", "flags", "config", "words"),
    [
        ("brain-jepa-base", ["--plots"], [], "latent prediction: there is nothing to draw"),
        ("brain-jepa-base", ["--coordinates", "table.tsv"], [], "--coordinates is for BrainLM"),
        ("brain-semantoks-base", ["--gradients", "table.npy"], [], "--gradients is for Brain-JEPA"),
        ("brain-jepa-base", ["--networks", "table.txt"], [], "--networks is for Brain-Semantoks"),
        ("brain-jepa-base", ["--table", "networks=table.txt"], [], "--networks is for Brain-Semantoks"),
        ("brain-jepa-base", ["--table", "centers=table.txt"], [], "no model has a table 'centers'.* It has gradients"),
        ("brain-semantoks-base", ["--per_device_train_batch_size", "32"], [], "24 scans do not fill a batch of 32"),
        ("brain-semantoks-base", [], ["n_timepoints=50"], "multiple of patch_size"),
        ("brain-jepa-base", [], ["n_timepoints=50"], "multiple of patch_size"),
        ("brain-semantoks-base", [], ["patch_size=120", "n_timepoints=120"], "Row 0 of the training set does not fit"),
        ("brain-jepa-base", [], ["hiden_size=3"], "Did you mean hidden_size"),
        ("brain-jepa-base", ["--normalization", "zscores"], [], "normalization"),
    ],
)
def test_errors_come_before_training(model, flags, config, words, named_parcels, tmp_path):
    if "--coordinates" in flags:
        flags = ["--coordinates", named_parcels / "centres.tsv"]
    with pytest.raises(ValueError, match=words):
        _small_run(model, named_parcels / "dataset", tmp_path, *flags, config=config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["brainlm-tiny", "brainlm-vit-tiny", "brain-jepa-tiny", "brain-semantoks-tiny"])
def test_layer_decay_works_for_every_family(model, tmp_path):
    config = brain_transformers.load_config(model)
    trainer = FineTuningTrainer(
        AutoModelForSequenceClassification.from_config(config),
        FineTuningArguments(str(tmp_path), learning_rate=1e-3, layer_decay=0.5, use_cpu=True, report_to="none"),
    )
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = dict(trainer.model.named_parameters())
    assert rates.keys() == {id(parameter) for parameter in named.values()}
    # Brain-Semantoks counts its last layer with the head, as its authors do; the others put the head above it.
    top = 2 if model == "brain-semantoks-tiny" else 3
    for name, parameter in named.items():
        if name.startswith("classifier"):
            assert rates[id(parameter)] == 1e-3, name
        elif ".layers." in name:
            layer = int(name.split(".layers.")[1].split(".")[0])
            assert rates[id(parameter)] == pytest.approx(1e-3 * 0.5 ** (top - layer - 1)), name
        elif ".embeddings." in name:
            assert rates[id(parameter)] <= 1e-3 * 0.5**2, name
    with pytest.raises(ValueError, match="layer_decay"):
        FineTuningArguments(str(tmp_path), layer_decay=0.0)


def test_finetune_brain_jepa_with_layer_decay_and_missing_labels(prepared, tmp_path):
    rows = datasets.load_from_disk(str(prepared / "dataset"))
    groups = [None, *rows["train"]["group"][1:10], None, *rows["train"]["group"][11:]]
    rows["train"] = rows["train"].remove_columns("group").add_column("group", groups)
    rows.save_to_disk(str(tmp_path / "dataset"))
    flags = ["--layer-decay", "0.75", "--max_steps", "2", "--per_device_train_batch_size", "8", *QUIET]
    sizes = [*SMALL["brain-jepa-base"], "roi_order=null", "t_r=0.735"]
    shared = ["--model", "brain-jepa-base", "--dataset", tmp_path / "dataset", "--output", tmp_path / "out"]
    assert _run("finetune", *shared, "--label", "group", *flags, "--config", *sizes) == 0
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert config.label2id == {"old": 0, "young": 1}
    assert "connectivity of 22 training scans" in config.gradient_source


@pytest.mark.parametrize(
    ("groups", "message"), [([None] * 8, "No row of the evaluation set has a group"), (["middle"] * 8, "got middle")]
)
def test_labels_that_cannot_be_evaluated_are_said_before_training(prepared, tmp_path, groups, message):
    rows = datasets.load_from_disk(str(prepared / "dataset"))
    rows["validation"] = rows["validation"].remove_columns("group").add_column("group", groups)
    rows.save_to_disk(str(tmp_path / "dataset"))
    shared = ["--model", "brainlm-tiny", "--dataset", tmp_path / "dataset", "--output", tmp_path / "out"]
    with pytest.raises(ValueError, match=message):
        _run("finetune", *shared, "--label", "group", "--coordinates", prepared / "centres.tsv", *QUIET)
    assert not (tmp_path / "out").exists()


def _refused(capsys, *flags):
    """The one line that a wrong command line brings."""
    with pytest.raises(SystemExit) as left:
        main([*map(str, flags)])
    assert left.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_unknown_flags_are_refused_with_the_objective_of_the_model(capsys, tmp_path):
    (tmp_path / "state.json").touch()
    shared = ["--dataset", tmp_path, "--output", tmp_path / "run"]
    said = _refused(capsys, "pretrain", "--model", "brainlm-tiny", *shared, "--maks_ratio", "0.5")
    assert "--maks-ratio" in said
    assert "masked reconstruction" in said
    assert "did you mean --mask-ratio" in said
    said = _refused(capsys, "pretrain", "--model", "brain-jepa-base", *shared, "--mask-ratio=0.5")
    assert "--mask-ratio is a flag of masked reconstruction" in said
    assert "brain-jepa-base learns by latent prediction" in said
    said = _refused(capsys, "pretrain", "--model", "brain-semantoks-base", *shared, "--mask_rule", "balanced")
    assert "self-distillation" in said
    said = _refused(capsys, "pretrain", "--model", "brainlm-tiny", *shared, "--max_steps", "many")
    assert "--max-steps" in said
    said = _refused(capsys, "finetune", "--model", "brainlm-tiny", *shared, "--label", "x", "--layer_deacy", "0.5")
    assert "did you mean --layer-decay" in said
    assert "--dataset" in _refused(capsys, "pretrain", "--model", "brainlm-tiny", "--output", "o")
    said = _refused(capsys, "pretrain", "--model", "brainlm-tiny", *shared, "--table", "centres.tsv")
    assert "expected --table NAME=FILE, such as coordinates=centres.tsv, got 'centres.tsv'" in said


@pytest.mark.parametrize(
    ("flags", "shown", "hidden"),
    [
        (["pretrain", "--help"], "pretrain --model NAME --help", "--mask_ratio"),
        (["pretrain", "--help", "--model", "brainlm-tiny"], "--mask_ratio", "--teacher_momentum"),
        (["pretrain", "--model=brain-jepa-tiny", "-h"], "--target_momentum_start", "--mask_ratio"),
        (["pretrain", "--model", "brain-semantoks-tiny", "-h"], "--teacher_momentum", "--mask_ratio"),
        (["finetune", "--help"], "--layer-decay", "--mask_ratio"),
    ],
)
def test_help_shows_the_flags_of_the_model(flags, shown, hidden, capsys):
    with pytest.raises(SystemExit) as left:
        main(flags)
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "--dataset" in said
    assert shown in said
    assert hidden not in said
    assert ("--learning_rate" in said) == ("NAME" not in shown)


def test_only_the_same_run_goes_on(prepared, tmp_path, capsys):
    pretrained, run = tmp_path / "pretrained", tmp_path / "run"
    save = ["--save_strategy", "steps", "--save_steps", "2"]
    assert _pretrain(prepared, pretrained, *save) == 0
    with pytest.raises(ValueError, match=r"another run .*model\.mask_ratio: 0\.2 then, 0\.3 now"):
        _pretrain(prepared, pretrained, *save, "--resume", "--config", "mask_ratio=0.3")
    with pytest.raises(ValueError, match=r"another run .*weight_decay: 0\.05 then, 0\.3 now"):
        _pretrain(prepared, pretrained, *save, "--resume", "--weight_decay", "0.3")
    capsys.readouterr()
    assert _pretrain(prepared, pretrained, *save, "--resume", "--max_steps", "6", "--logging_steps", "2") == 0
    said = capsys.readouterr().out
    assert "max_steps: 4 then, 6 now, so the numbers will not be those of an uninterrupted run" in said
    assert "logging_steps" not in said

    flags = ["--max_steps", 2, "--per_device_train_batch_size", 8, *QUIET, "--save_strategy", "steps", "--save_steps"]
    shared = ["--model", pretrained, "--dataset", prepared / "dataset", "--output", run, *flags, 2]
    assert _run("finetune", *shared, "--label", "group") == 0
    with pytest.raises(ValueError, match=r"another run .*label: group then, age now"):
        _run("finetune", *shared, "--label", "age", "--resume")


def test_a_head_goes_on_only_with_its_own_classes(prepared, tmp_path, capsys):
    first = tmp_path / "first"
    flags = ["--dataset", prepared / "dataset", "--max_steps", 1, "--learning_rate", 0, *QUIET]
    _pretrain(prepared, tmp_path / "pretrained")
    _run("finetune", "--model", tmp_path / "pretrained", "--output", first, "--label", "group", *flags)
    head = {name: value for name, value in load_file(first / "model.safetensors").items() if "classifier" in name}
    for label, same in (("group", True), ("age", False)):
        capsys.readouterr()
        output = tmp_path / label
        assert _run("finetune", "--model", first, "--output", output, "--label", label, *flags) == 0
        assert ("is kept" in capsys.readouterr().out) == same
        weights = load_file(output / "model.safetensors")
        assert all(torch.equal(weights[name], value) for name, value in head.items()) == same
        body = load_file(tmp_path / "pretrained" / "model.safetensors")
        kept = [name for name in weights if "classifier" not in name]
        assert kept
        assert all(torch.equal(weights[name], body[name]) for name in kept)


def test_a_folder_without_a_model_is_said(prepared, tmp_path):
    with pytest.raises(ValueError, match=r"no folder of a model: it has no config\.json"):
        _run(
            "finetune",
            "--model",
            prepared / "dataset",
            "--dataset",
            prepared / "dataset",
            "--output",
            tmp_path,
            "--label",
            "age",
        )
