"""`brain-transformers finetune`: train a model to predict a column of a dataset of scans."""

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..families import MODELS, weights_source
from ..optional import require
from .flags import NAMED_MODELS, Once
from .training_inputs import add_training_parser, check_inputs, config_fields, training_flags, training_inputs
from .training_run import Beginning, Evaluated, check_output, train_in_folder

TAKES_MORE = True
# Options for repeated splits and what they are in `fine_tuning_protocol`; `None` unless on the command line.
_REPETITION_OPTIONS = {
    "--learning-rate-grid": "learning_rates",
    "--ratios": "ratios",
    "--stratify": "stratify",
    "--crops": "n_crops",
    "--subject-column": "subject_column",
    "--save-models": "save_models",
}


def _arguments_class(args: argparse.Namespace) -> Any:
    if args.repetitions is None:
        from ..training.finetuning.arguments import FineTuningArguments

        return FineTuningArguments
    from ..training.finetuning.semantoks import SemantoksFineTuningArguments

    return SemantoksFineTuningArguments


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = add_training_parser(
        commands,
        "finetune",
        _arguments_class,
        help="fine-tune a model to predict a label",
        description=(
            "Fine-tune all weights of a pretrained model with a new head. Words, two whole numbers and small codes (0 "
            "to 10) are classes; other numbers are regressed, in their own units. Training sees a random window of a "
            "scan in each epoch, and evaluation all of it: the mean of the outputs of its windows."
        ),
        model_help="name of weights that `brain-transformers get` has fetched, or folder or Hub name of a model; with "
        "--config, or a name that no weights were published of, a new model with random weights",
    )
    parser.add_argument("--label", required=True, action=Once, help="column to predict")
    parser.add_argument("--task", choices=("classification", "regression"), help="by default from the label's type")
    repeated = parser.add_argument_group(
        "repeated splits",
        "With --repetitions N the scans of the whole dataset are split N times at random by subject, and the model is "
        "trained, chosen and tested on each, always from the same weights, as the Brain-Semantoks authors evaluate. "
        "Training arguments and their defaults are then theirs: finetune --repetitions N --help. The same command "
        "again goes on with what is missing.",
    )
    repeated.add_argument("--repetitions", type=int, metavar="N", help="number of splits")
    repeated.add_argument(
        "--learning-rate-grid",
        dest="learning_rates",
        nargs="+",
        type=float,
        metavar="RATE",
        help="learning rates for 256 samples an update, of which the best in validation is tested (the authors' grid: "
        "1e-3 1e-4 1e-5), 30 epochs each; by default --base-learning-rate alone",
    )
    repeated.add_argument(
        "--ratios",
        nargs=3,
        type=float,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="shares of the subjects (default 0.6 0.2 0.2)",
    )
    repeated.add_argument(
        "--stratify", action="store_true", default=None, help="keep the shares of the labels in every part"
    )
    repeated.add_argument(
        "--crops", dest="n_crops", type=int, metavar="N", help="evenly spaced windows of a test scan (default 8)"
    )
    repeated.add_argument(
        "--subject-column",
        metavar="COLUMN",
        help="scans with the same value stay on one side of a split (default subject); none: every scan is of another "
        "subject",
    )
    repeated.add_argument(
        "--save-models", action="store_true", default=None, help="also save the tested model of each repetition"
    )


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    _settle_name(args)
    given = [option for option, name in _REPETITION_OPTIONS.items() if getattr(args, name) is not None]
    if args.repetitions is None:
        if given:
            raise ValueError(f"{', '.join(given)}: for repeated splits only. Add --repetitions N, or leave it out.")
        check_output(args)
    else:
        if args.repetitions < 1:
            raise ValueError(f"--repetitions must be at least 1, got {args.repetitions}.")
        for flag in ("resume", "overwrite"):
            if getattr(args, flag):
                raise ValueError(
                    f"--{flag} is for a single split. With --repetitions, call the same command again without it: "
                    "what is missing is done. To start anew, choose another --output."
                )
        for flag in ("eval_split", "train_split"):
            if getattr(args, flag) is not None:
                raise ValueError(
                    f"--{flag.replace('_', '-')}: --repetitions draws its own splits of all scans. Leave it out (see "
                    "--ratios)."
                )
    check_inputs(args)


def _settle_name(args: argparse.Namespace) -> None:
    """Let the name of a published model mean its weights, unless fields of a new model are given.

    Raises:
        FileNotFoundError: if the weights were not fetched; the message says how to.
    """
    if args.model not in NAMED_MODELS or MODELS[args.model].source is None or args.config:
        return
    try:
        source = str(weights_source(args.model))
    except FileNotFoundError as error:
        told = str(error).partition(" Random weights: ")[0]
        raise FileNotFoundError(
            f"{told} For a new model with random weights, say fields of it with --config, such as num_hidden_layers=4."
        ) from None
    print(f"--model {args.model}: the published weights, in {source}")
    args.model = os.path.join(".", source)  # a folder, also where it has the name


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return _run_once(args) if args.repetitions is None else _run_repetitions(args)


# --- one split ---


def _logits(prediction: Any) -> np.ndarray:
    values = prediction.predictions
    return values[0] if isinstance(values, tuple) else values


def _scores(prediction: Any, kind: type) -> dict[str, float]:
    """Scores for the Trainer; labels are `int` for classes and `float` for numbers to predict."""
    return _score(_logits(prediction), prediction.label_ids.astype(kind))


def _score(logits: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from ..training.scores import prediction_scores

    try:
        return prediction_scores(logits, truth)
    except ImportError:  # scikit-learn is in another extra
        return {"accuracy": float((logits.argmax(1) == truth).mean())}


def _check_evaluation_labels(labels: Any, values: Sequence[Any]) -> None:
    """Raise ValueError for what would otherwise be noticed after an epoch of training, or never."""
    if not values:
        raise ValueError(
            f"No row of the evaluation set has a {labels.column}. Choose another --eval-split; with --eval-split none "
            "nothing is evaluated."
        )
    from ..data.labels import class_name

    if labels.label2id and (unknown := sorted({class_name(value) for value in values} - set(labels.label2id))):
        raise ValueError(
            f"Expected the classes of the training set, {', '.join(labels.label2id)}, got {', '.join(unknown)} in the "
            "evaluation set. Leave these scans out, or put some into the training set."
        )


def _run_once(args: argparse.Namespace) -> int:
    from ..data.labels import Labels, labelled_rows
    from ..hub.starting_models import starting_config
    from ..training.finetuning.semantoks import SemantoksFineTuningArguments

    others = {field.name for field in dataclasses.fields(SemantoksFineTuningArguments)}

    def explain(flag: str) -> str | None:
        if flag.lstrip("-").replace("-", "_").removeprefix("no_") in others:
            return f"{flag} is a flag of repeated splits: add --repetitions N, or leave it out"
        return None

    config = starting_config(args.model)
    given = training_inputs(args, _arguments_class(args), config, explain)
    training, rows, evaluation_rows = given.training, given.rows, given.evaluation_rows
    truth: list[Any] = []
    labels = Labels.read(rows, args.label, args.task, "training set")
    rows = rows.select(labels.rows)
    if evaluation_rows is not None:
        labelled, truth = labelled_rows(evaluation_rows, args.label, "evaluation set")
        _check_evaluation_labels(labels, truth)
        evaluation_rows = evaluation_rows.select(labelled)

    def begin() -> Beginning:
        from ..data.collators import ScanCollator
        from ..files import digest
        from ..training.finetuning.trainer import FineTuningTrainer

        model, extractor = _model_for(args, config, given.fields, labels, rows)
        collator = ScanCollator(
            extractor,
            args.label,
            label2id=labels.label2id,
            train_window="random",
            eval_window="cover",
            seed=training.seed if training.data_seed is None else training.data_seed,
        )
        metrics = partial(_scores, kind=float if labels.label2id is None else int)
        settings = {
            "label": args.label,
            "task": labels.task,
            "classes": list(labels.label2id or ()),
            "labels": digest([labels.targets.tolist(), list(truth)]),
        }
        return Beginning(
            model,
            extractor,
            lambda **shared: FineTuningTrainer(data_collator=collator, compute_metrics=metrics, **shared),
            said=f"{args.label}: {labels.describe()}, {len(rows)} scans to train on",
            settings=settings,
        )

    def evaluate(trainer: Any) -> Evaluated:
        from ..evaluation.intervals import in_words
        from ..evaluation.predictions import predictions_csv

        predicted = trainer.predict(evaluation_rows, metric_key_prefix="eval")
        trainer.log(predicted.metrics)
        table = predictions_csv(evaluation_rows, truth, _logits(predicted), labels.label2id)
        targets = predicted.label_ids.astype(float if labels.label2id is None else int)
        names = evaluation_rows.column_names
        people = evaluation_rows["subject"] if "subject" in names else range(len(evaluation_rows))
        words = in_words(_score, _logits(predicted), targets, people, labels.targets)
        on = f"Of {args.label}, on {len(targets)} scans of {len(set(people))} people, drawn again for intervals."
        return Evaluated(predicted.metrics, {"predictions.csv": table}, words, on)

    what = "metrics" if evaluation_rows is None else "metrics and predictions"
    written = f"model, feature extractor{' and' if what == 'metrics' else ','} {what} written to {args.output}"
    return train_in_folder(args, training, begin, rows, evaluation_rows, evaluate, written)


def _model_for(
    args: argparse.Namespace, config: Any, fields: dict[str, Any], labels: Any, rows: Any
) -> tuple[Any, Any]:
    """The model that training starts from, with a head for these labels, and its extractor."""
    from transformers import AutoModelForSequenceClassification

    from ..hub.starting_models import load_pretrained, starting_model
    from ..training.finetuning.new_head import load_with_new_head, start_head_at

    options = labels.head_options()

    def load() -> Any:
        has_head = "ForSequenceClassification" in str(config.architectures)
        if not (has_head and labels.label2id is not None and config.label2id == labels.label2id):
            return load_with_new_head(args.model, options)
        print(f"the head of {args.model} is kept, since it predicts the same classes")
        return load_pretrained(AutoModelForSequenceClassification, args.model)

    model, extractor = starting_model(
        args.model,
        config,
        rows,
        AutoModelForSequenceClassification,
        tables=args.tables,
        fields={**fields, **options},
        normalization=args.normalization,
        load=load,
    )
    if args.model in NAMED_MODELS:
        print("the model starts from random weights: it was not pretrained")
    if labels.label2id is None:
        start_head_at(model, float(np.mean(labels.targets)))  # learns by its squared error
    return model, extractor


# --- repeated splits ---


def _run_repetitions(args: argparse.Namespace) -> int:
    from ..data.labels import Labels
    from ..data.saved_datasets import load_parts
    from ..hub.trained_models import fine_tuning_protocol

    training = training_flags(args, _arguments_class(args))
    quiet = training.pop("disable_tqdm", False)
    values = {name: value for name in _REPETITION_OPTIONS.values() if (value := getattr(args, name)) is not None}
    if args.subject_column == "none":
        values["subject_column"] = None
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    rows = datasets.concatenate_datasets(list(load_parts(args.dataset).values())).with_format("numpy")
    if not len(rows):
        raise ValueError(f"{args.dataset} has no rows to train on.")
    labels = Labels.read(rows, args.label, args.task)
    rows = rows.select(labels.rows)
    args.go_on = ""
    with tempfile.TemporaryDirectory() as folder:
        result = fine_tuning_protocol(
            _starting_folder(args, rows, training.get("seed", 0), Path(folder)),
            rows,
            args.label,
            args.output,
            task=labels.task,
            n_repetitions=args.repetitions,
            parent=args.model,
            progress=not quiet,
            **training,
            **values,
        )
    if quiet:
        print(f"results of {args.repetitions} repetitions written to {args.output}")
    scores = result.summary()
    width = max(map(len, scores))
    unit, digits, factor = ("", 3, 1) if labels.label2id is None else (" (percent)", 1, 100)
    print(f"{'':{width}}  mean +- std of the test scans over {args.repetitions} splits{unit}")
    counts = result.n_defined()
    for name, (mean, std) in scores.items():
        fewer = f"  (of {counts[name]} splits only)" if counts[name] < args.repetitions else ""
        print(f"{name:{width}}  {factor * mean:.{digits}f} +- {factor * std:.{digits}f}{fewer}")
    return 0


def _starting_folder(args: argparse.Namespace, rows: Any, seed: int, folder: Path) -> str:
    """What every repetition starts from: the given model, or one that is made for these rows and put into a folder.

    A scale that has to be fitted is left to the repetitions, each of which has training scans of its own.
    """
    from transformers import AutoModel, set_seed

    from ..hub.sharing import save_model_folder
    from ..hub.starting_models import starting_config, starting_extractor, starting_model

    config = starting_config(args.model)
    if args.model not in NAMED_MODELS:
        lacks_some = any(getattr(config, source) is None for source in config.table_sources.values())
        if not lacks_some and not args.tables:
            starting_extractor(args.model, rows, {}, "labelled", fit=False)
            return str(args.model)
    set_seed(seed)  # the same weights when the command is repeated
    options = {"tables": args.tables, "fields": config_fields(args, config), "normalization": args.normalization}
    model, extractor = starting_model(args.model, config, rows, AutoModel, what="labelled", fit=False, **options)
    if args.model in NAMED_MODELS:
        print("the model starts from random weights: it was not pretrained")
    save_model_folder(model, folder, extractor=extractor)
    return str(folder)
