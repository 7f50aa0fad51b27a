"""The whole fine-tuning protocol on a tiny model: splits, grid, what is tested, and going on after an interruption."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, set_seed

import brain_transformers as bt
from brain_transformers.evaluation import fine_tuning, predict_crops
from brain_transformers.evaluation.splits import scan_splits

pytest.importorskip("sklearn")
N_SUBJECTS, QUICK = 12, {"num_train_epochs": 2, "per_device_train_batch_size": 8, "use_cpu": True}


def make_rows(**columns):
    """Two scans of each subject."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2 * N_SUBJECTS):
        row = {
            "signals": rng.standard_normal(20 * 70).astype(np.float32),
            "n_rois": 20,
            "n_timepoints": 70,
            "t_r": 2.0,
        }
        row.update({"subject": f"sub-{number // 2}", "sex": "FM"[number // 2 % 2], "age": 30 + number})
        rows.append({**row, **{name: values[number] for name, values in columns.items()}})
    return rows


def make_model(**overrides):
    set_seed(0)
    options = {"num_labels": 2, "problem_type": "single_label_classification", "classifier_head": "batch_norm_linear"}
    model = AutoModelForSequenceClassification.from_config(
        bt.load_config("brain-semantoks-tiny", **{**options, **overrides})
    )
    return model, bt.ROISeriesFeatureExtractor.from_model_config(model.config)


@pytest.fixture
def tuners(monkeypatch):
    """What every run of the protocol was given, and the weights it began with."""
    seen = []

    class Spy(fine_tuning.SemantoksFineTuner):
        def __init__(self, model, args, *arguments, **options):
            start = {name: value.clone() for name, value in model.state_dict().items()}
            subjects = [
                {row["subject"] for row in (part[n] for n in range(len(part)))}
                for part in (options["train_dataset"], options["eval_dataset"])
            ]
            seen.append({"start": start, "seed": args.seed, "rate": args.learning_rate, "subjects": subjects})
            super().__init__(model, args, *arguments, **options)

    monkeypatch.setattr(fine_tuning, "SemantoksFineTuner", Spy)
    return seen


def run(tmp_path, model=None, rows=None, label="sex", **options):
    made, extractor = make_model()
    return fine_tuning.fine_tuning_protocol(
        made if model is None else model,
        make_rows() if rows is None else rows,
        label,
        tmp_path / "run",
        **{"extractor": extractor, "n_repetitions": 2, "n_crops": 2, "progress": False, **QUICK, **options},
    )


def test_every_run_of_a_grid_starts_from_the_same_weights(tmp_path, tuners):
    model, _ = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = run(tmp_path, model, learning_rates=(1.0, 0.1))
    assert [(run["seed"], run["rate"]) for run in tuners] == [
        (21, pytest.approx(8 / 256)),
        (21, pytest.approx(0.8 / 256)),
        (22, pytest.approx(8 / 256)),
        (22, pytest.approx(0.8 / 256)),
    ]
    for name, value in model.state_dict().items():  # the given model is not trained either
        assert all(torch.equal(value, weights[name]) for weights in (before, *(run["start"] for run in tuners)))
    records = [json.loads((tmp_path / "run" / f"repetition-0{n}.json").read_text()) for n in range(2)]
    for record, rate in zip(records, result.learning_rates, strict=True):
        scores = [entry["validation_balanced_accuracy"] for entry in record["tried"]]
        assert rate == (1.0, 0.1)[int(np.argmax(scores))]


def test_chance_that_leaves_out_a_class_is_said(tmp_path):
    rows = make_rows(sex=["M", "M"] + ["F"] * 22)
    with pytest.warns(UserWarning, match=r"In 2 of 2 splits the validation scans lack a class of 'sex'.*--stratify"):
        run(tmp_path, rows=rows, num_train_epochs=1)


def test_files_that_count_as_people_are_said(tmp_path):
    rows = make_rows(subject_known=[False] * 24)
    with pytest.warns(UserWarning, match="Splits by subject: each of 24 files counts as a person"):
        run(tmp_path, rows=rows, num_train_epochs=1, n_repetitions=1)


def test_scans_of_a_subject_stay_on_one_side(tmp_path, tuners):
    result = run(tmp_path, stratify=True)
    assert len(result.ensembled) == 2
    assert "balanced_accuracy" in result.summary()
    everyone = {row["subject"] for row in make_rows()}
    for entry in tuners:
        train, validation = entry["subjects"]
        assert not train & validation
        assert (len(train), len(validation)) == (7, 2)
        assert len(everyone - train - validation) == 3
    assert tuners[0]["subjects"] != tuners[1]["subjects"]


def test_saved_model_is_the_tested_one(tmp_path):
    result = run(tmp_path, n_repetitions=1, learning_rates=(1.0, 0.01), save_models=True, num_train_epochs=3)
    folder = tmp_path / "run" / "repetition-00-model"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    rows = make_rows()
    (split,) = scan_splits([0] * len(rows), [row["subject"] for row in rows], n_repetitions=1, seed=21)
    held = [rows[number] for number in np.sort(split[2])]
    logits = predict_crops(model, held, bt.ROISeriesFeatureExtractor.from_pretrained(folder), n_crops=2)
    expected = fine_tuning.prediction_scores(logits.mean(1), [int(row["sex"] == "M") for row in held])
    assert result.ensembled[0] == pytest.approx(expected)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "repetition-00-model",
        "repetition-00-predictions.csv",
        "repetition-00.json",
        "results.json",
        "settings.json",
    ]


def test_finished_repetitions_are_not_run_again(tmp_path, tuners, monkeypatch):
    predict = fine_tuning.predict_crops

    def interrupted(*args, **kwargs):
        if len(tuners) == 2:
            raise KeyboardInterrupt
        return predict(*args, **kwargs)

    monkeypatch.setattr(fine_tuning, "predict_crops", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(fine_tuning, "predict_crops", predict)
    first = (tmp_path / "run" / "repetition-00.json").read_bytes()
    resumed = run(tmp_path)
    assert [entry["seed"] for entry in tuners] == [21, 22, 22]
    assert (tmp_path / "run" / "repetition-00.json").read_bytes() == first
    assert run(tmp_path / "again") == resumed
    assert run(tmp_path) == resumed
    assert len(tuners) == 5
    with pytest.raises(ValueError, match="crops: 2 then, 3 now"):
        run(tmp_path, n_crops=3)
    with pytest.raises(ValueError, match="samples an update: 8 then, 16 now"):
        run(tmp_path, gradient_accumulation_steps=2)
    other, _ = make_model()
    torch.nn.init.zeros_(other.classifier.output.bias)
    with pytest.raises(ValueError, match="starting weights"):
        run(tmp_path, other)


def test_a_learning_rate_that_diverges_loses_and_does_not_end_the_protocol(tmp_path):
    model, _ = make_model(num_labels=1, problem_type="regression")
    options = {"label": "age", "task": "regression", "n_repetitions": 1, "max_grad_norm": 0.0}
    result = run(tmp_path, model, learning_rates=(1e30, 1e-3), **options)
    assert result.learning_rates == [1e-3]
    assert np.isfinite(result.ensembled[0]["mae"])


def test_repetitions_of_another_scale_do_not_mix(tmp_path):
    model, extractor = make_model()
    run(tmp_path, n_repetitions=1, num_train_epochs=1)
    other = bt.ROISeriesFeatureExtractor.from_model_config(model.config, normalization="none")
    with pytest.raises(ValueError, match="extractor"):
        run(tmp_path, n_repetitions=1, num_train_epochs=1, extractor=other)
    extractor.save_pretrained(tmp_path / "saved")
    loaded = bt.ROISeriesFeatureExtractor.from_pretrained(tmp_path / "saved")
    run(tmp_path, n_repetitions=1, num_train_epochs=1, extractor=loaded)
    settings = tmp_path / "run" / "settings.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "scores"}))
    with pytest.raises(ValueError, match="scores"):  # those of a folder from before are in percent
        run(tmp_path, n_repetitions=1, num_train_epochs=1)


def test_settings_of_a_call_that_finished_nothing_do_not_bind(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "predict_crops", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, num_train_epochs=1)
    monkeypatch.undo()
    run(tmp_path, n_repetitions=1)
    with pytest.raises(ValueError, match=r"other settings.*num_train_epochs"):
        run(tmp_path, n_repetitions=1, num_train_epochs=1)


def test_a_pretrained_folder_gets_a_head_for_the_label(tmp_path, capsys):
    set_seed(1)
    body = bt.BrainSemantoksModel(bt.load_config("brain-semantoks-tiny"))
    _, extractor = make_model()
    bt.save_model_folder(body, tmp_path / "body", extractor=extractor)
    rows = make_rows()
    rows[3]["sex"] = None
    options = {"extractor": None, "n_repetitions": 1, "progress": True}
    run(tmp_path, tmp_path / "body", rows, **options)
    told = capsys.readouterr().out
    assert "1 of 24 scans of the dataset have no sex" in told
    assert f"written to {tmp_path / 'run'}" in told
    ages = run(tmp_path / "ages", tmp_path / "body", label="age", task="regression", **options)
    assert ages.ensembled[0]["mae"] < 15  # ages from 30 to 53: the head begins at their median, not at 0


def test_other_families(tmp_path):
    set_seed(0)
    config = bt.load_config("brain-jepa-tiny", num_labels=2, problem_type="single_label_classification")
    model = AutoModelForSequenceClassification.from_config(config)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, roi_order=None, normalization="zscore")
    n_timepoints = extractor.n_timepoints + 10
    rng = np.random.default_rng(0)
    rows = [
        {**row, "signals": rng.standard_normal(config.n_rois * n_timepoints).astype(np.float32), "t_r": config.t_r}
        | {"n_rois": config.n_rois, "n_timepoints": n_timepoints}
        for row in make_rows()
    ]
    result = run(tmp_path, model, rows, extractor=extractor, n_repetitions=1, freeze_encoder_epochs=1, layer_decay=0.9)
    assert 0 <= result.ensembled[0]["accuracy"] <= 1
    with pytest.raises(ValueError, match="published_parameter_groups"):
        run(tmp_path / "published", model, rows, extractor=extractor, n_repetitions=1, published_parameter_groups=True)


def test_rows_of_arrow_datasets(tmp_path, tuners):
    datasets = pytest.importorskip("datasets")
    listed = run(tmp_path / "list", n_repetitions=1)
    rows = [{**row, "signals": row["signals"].tolist()} for row in make_rows()]
    assert run(tmp_path / "arrow", rows=datasets.Dataset.from_list(rows), n_repetitions=1) == listed
    assert tuners[0]["subjects"] == tuners[1]["subjects"]


def test_refusals(tmp_path):
    sites = ["A", "B"] * N_SUBJECTS  # differs between the scans of a subject
    for options, message in (
        ({"label": "height"}, "no column 'height'"),
        ({"label": "age"}, "num_labels=1 for regression"),
        ({"label": "age", "task": "regression"}, "num_labels=1"),
        ({"label": "sex", "task": "regression"}, "text"),
        ({"label": "sex", "task": "ranking"}, "task"),
        ({"rows": make_rows(sex=["F"] * 24)}, "two classes"),
        ({"rows": make_rows(subject=[None] * 24)}, "subject"),
        ({"rows": make_rows(site=sites), "label": "site", "stratify": True}, "stratify"),
        ({"extractor": None}, "extractor"),
        ({"save_strategy": "steps"}, "save_strategy"),
        ({"learning_rates": [1e-3], "learning_rate": 1e-3}, "learning_rate"),
        ({"learning_rates": [0.0]}, "above 0"),
        ({"schedule": "cosin"}, "schedule"),
        ({"n_repetitions": 0}, "got 0 repetitions"),
        ({"n_crops": 0}, "0 crops"),
        ({"ratios": (0.8, 0.2, 0.0)}, "three ratios above 0"),
        ({"rows": make_rows(sex=[None] * 24)}, "No row of the dataset has a sex"),
        ({"rows": []}, "no rows"),
        ({"rows": make_rows(score=[0.5, np.inf] * N_SUBJECTS), "label": "score"}, "infinity in row 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, **options)
    assert not (tmp_path / "run").exists()


def test_a_score_that_is_undefined_for_one_scan_does_not_end_the_protocol(tmp_path):
    model, _ = make_model(num_labels=1, problem_type="regression")
    result = run(tmp_path, model, make_rows()[:10:2], "age", task="regression", n_repetitions=1)
    assert np.isfinite(result.ensembled[0]["mae"])
    text = (tmp_path / "run" / "repetition-00.json").read_text()
    assert "NaN" not in text  # which is no JSON
    assert "NaN" not in (tmp_path / "run" / "results.json").read_text()
    again = run(tmp_path, model, make_rows()[:10:2], "age", task="regression", n_repetitions=1)
    assert again.ensembled[0]["mae"] == result.ensembled[0]["mae"]
    (tmp_path / "run" / "repetition-00.json").write_text(text[: len(text) // 2])
    with pytest.raises(
        ValueError, match=r"repetition-00\.json: expected the results of a repetition.*Delete the file"
    ):
        run(tmp_path, model, make_rows()[:10:2], "age", task="regression", n_repetitions=1)
