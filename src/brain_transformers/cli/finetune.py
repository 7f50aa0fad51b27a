"""`brain-transformers finetune`: train a model to predict a column of a dataset of scans."""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .new_models import load_extractor, make_new_model
from .objectives import check_model_exists, load_pretrained
from .run_folder import RunFolder, check_output, open_run
from .training_inputs import (
    Once,
    add_training_parser,
    check_ranges,
    load_joined,
    load_splits,
    make_training_arguments,
)

# Options for repeated splits and what they are in `fine_tuning_protocol`; `None` unless on the command line.
_REPETITION_OPTIONS = {
    "--learning-rate-grid": "learning_rates",
    "--ratios": "ratios",
    "--stratify": "stratify",
    "--crops": "n_crops",
    "--subject-column": "subject_column",
    "--save-models": "save_models",
}


def _arguments_class(model: str | None, repetitions: str | None) -> type:
    if repetitions is None:
        from ..training.finetuning.arguments import FineTuningArguments

        return FineTuningArguments
    from ..training.finetuning.semantoks import SemantoksFineTuningArguments

    return SemantoksFineTuningArguments


def _explain_flag(flag: str, model: str, repetitions: str | None) -> str | None:
    names = {field.name for field in dataclasses.fields(_arguments_class(model, "1"))}
    if repetitions is None and flag.lstrip("-").replace("-", "_").removeprefix("no_") in names:
        return f"{flag} is a flag of repeated splits: add --repetitions N, or leave it out"
    return None


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = add_training_parser(
        subparsers,
        "finetune",
        _arguments_class,
        explain_flag=_explain_flag,
        selectors=("--model", "--repetitions"),
        help="fine-tune a model to predict a label",
        description=(
            "Fine-tune all weights of a pretrained model with a new head. Words, two whole numbers and small codes (0 "
            "to 10) are classes; other numbers are regressed, in their own units. Training sees a random window of a "
            "scan in each epoch, and evaluation all of it: the mean of the outputs of its windows."
        ),
    )
    parser.add_argument("--model", required=True, help="folder or Hub name of a model, or a configuration's name")
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
        "1e-3 1e-4 1e-5), 30 epochs each; by default --base_learning_rate alone",
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
        "--crops", dest="n_crops", type=int, metavar="N", help="evenly spaced crops of a test scan (default 8)"
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
    parser.set_defaults(run=run)
    return parser


def _logits(prediction: Any) -> np.ndarray:
    values = prediction.predictions
    return values[0] if isinstance(values, tuple) else values


def _scores(prediction: Any, kind: type) -> dict[str, float]:
    """Scores for the Trainer; labels are `int` for classes and `float` for numbers to predict."""
    from ..training.scores import prediction_scores

    logits, truth = _logits(prediction), prediction.label_ids.astype(kind)
    try:
        return prediction_scores(logits, truth)
    except ImportError:  # scikit-learn is in another extra
        return {"accuracy": float((logits.argmax(1) == truth).mean())}


def _repetition_values(args: argparse.Namespace) -> dict[str, Any]:
    """The options for repeated splits on the command line, by their names in `fine_tuning_protocol`.

    Raises:
        ValueError: if they come without `--repetitions`, or it comes with what a single split needs.
    """
    given = [option for option, name in _REPETITION_OPTIONS.items() if getattr(args, name) is not None]
    if args.repetitions is None:
        if given:
            raise ValueError(f"{', '.join(given)}: for repeated splits only. Add --repetitions N, or leave it out.")
        return {}
    if args.repetitions < 1:
        raise ValueError(f"--repetitions must be at least 1, got {args.repetitions}.")
    for flag in ("resume", "overwrite"):
        if getattr(args, flag):
            raise ValueError(
                f"--{flag} is for a single split. With --repetitions, call the same command again without it: what is "
                "missing is done. To start anew, choose another --output."
            )
    for name, value in (("--eval-split", args.eval_split), ("--train-split", args.train_split)):
        if value is not None:
            raise ValueError(f"{name}: --repetitions draws its own splits of all scans. Leave it out (see --ratios).")
    values = {name: getattr(args, name) for name in map(_REPETITION_OPTIONS.__getitem__, given)}
    if args.subject_column == "none":
        values["subject_column"] = None
    return values


def _run_repetitions(args: argparse.Namespace, values: dict[str, Any]) -> int:
    rows = load_joined(args.dataset)
    check_model_exists(args.model)

    from ..data.labels import Labels
    from ..hub.trained_models import fine_tuning_protocol

    labels = Labels.read(rows, args.label, args.task)
    rows = rows.select(labels.rows)
    check_ranges(args.training_flags)
    args.go_on = ""
    training = dict(args.training_flags)
    quiet = training.pop("disable_tqdm", False)
    with tempfile.TemporaryDirectory() as folder:
        result = fine_tuning_protocol(
            _starting_model(args, rows, Path(folder)),
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


def _starting_model(args: argparse.Namespace, rows: Any, folder: Path) -> str:
    """What every repetition starts from: the given model, or one that is made for these rows and put into a folder.

    A scale that has to be fitted is left to the repetitions, each of which has training scans of its own.
    """
    from transformers import AutoConfig, AutoModel, set_seed

    from ..hub.new_models import complete_tables
    from ..hub.registry import list_models
    from ..hub.sharing import save_model_folder

    if args.model in list_models():
        set_seed(args.training_flags.get("seed", 0))  # the same weights when the command is repeated
        model, extractor = make_new_model(args, rows, AutoModel, what="labelled", fit=False)
        print("the model starts from random weights: it was not pretrained")
    else:
        config = load_pretrained(AutoConfig, args.model)
        extractor = load_extractor(args, config, rows, "labelled", fit=False)
        lacks_some = any(getattr(config, source) is None for source in config.table_sources.values())
        if not lacks_some and not args.tables:
            return str(args.model)
        model = load_pretrained(AutoModel, args.model)
        complete_tables(model, extractor, rows, args.tables, "labelled")
    save_model_folder(model, folder, extractor=extractor)
    return str(folder)


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


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    values = _repetition_values(args)
    if args.repetitions is not None:
        return _run_repetitions(args, values)
    train_rows, eval_rows = load_splits(args.dataset, args.train_split, args.eval_split)
    check_model_exists(args.model)
    check_output(args)

    from ..data.labels import Labels, labelled_rows

    labels = Labels.read(train_rows, args.label, args.task, "training set")
    train_rows = train_rows.select(labels.rows)
    truth: list[Any] = []
    if eval_rows is not None:
        labelled, truth = labelled_rows(eval_rows, args.label, "evaluation set")
        _check_evaluation_labels(labels, truth)
        eval_rows = eval_rows.select(labelled)

    from ..training.finetuning.arguments import FineTuningArguments

    training = make_training_arguments(FineTuningArguments, args, eval_rows is not None)
    with open_run(args, "finetune", training) as run_folder:
        return _train(args, run_folder, labels, train_rows, eval_rows, truth)


def _model_for(args: argparse.Namespace, labels: Any, rows: Any) -> tuple[Any, Any]:
    """The model that training starts from, with a head for these labels, and its extractor."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from ..hub.new_models import complete_tables
    from ..hub.registry import list_models
    from ..training.finetuning.new_head import load_with_new_head, start_head_at

    options = labels.head_options()
    if args.model in list_models():
        model, extractor = make_new_model(args, rows, AutoModelForSequenceClassification, options)
        print("the model starts from random weights: it was not pretrained")
    else:
        saved = load_pretrained(AutoConfig, args.model)
        has_head = "ForSequenceClassification" in str(saved.architectures)
        if has_head and labels.label2id is not None and saved.label2id == labels.label2id:
            model = load_pretrained(AutoModelForSequenceClassification, args.model)
            print(f"the head of {args.model} is kept, since it predicts the same classes")
        else:
            model = load_with_new_head(args.model, options)
        extractor = load_extractor(args, model.config, rows)
        complete_tables(model, extractor, rows, args.tables, "training")
    if labels.label2id is None:
        start_head_at(model, float(np.mean(labels.targets)))  # learns by its squared error
    return model, extractor


def _train(
    args: argparse.Namespace, run: RunFolder, labels: Any, train_rows: Any, eval_rows: Any, truth: Sequence[Any]
) -> int:
    from transformers import set_seed

    from ..data.collators import ScanCollator
    from ..evaluation.predictions import predictions_csv
    from ..files import digest
    from ..hub.new_models import check_rows
    from ..hub.registry import list_models
    from ..training.finetuning.trainer import FineTuningTrainer

    training = run.training
    set_seed(training.seed)
    model, extractor = _model_for(args, labels, train_rows)
    check_rows(extractor, eval_rows, "evaluation")

    collator = ScanCollator(
        extractor,
        args.label,
        label2id=labels.label2id,
        train_window="random",
        eval_window="cover",
        seed=training.seed if training.data_seed is None else training.data_seed,
    )
    settings = {
        "label": args.label,
        "task": labels.task,
        "classes": list(labels.label2id or ()),
        "labels": digest([labels.targets.tolist(), list(truth)]),
    }
    new = args.model in list_models()
    if not run.settle(model, extractor, settings, new=new, rows=train_rows, evaluation_rows=eval_rows):
        return 0
    print(f"{args.label}: {labels.describe()}, {len(train_rows)} scans to train on")
    trainer = FineTuningTrainer(
        model,
        training,
        data_collator=collator,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=extractor,
        compute_metrics=partial(_scores, kind=float if labels.label2id is None else int),
    )
    metrics, tables = run.train(trainer), {}
    if eval_rows is not None:
        predicted = trainer.predict(eval_rows, metric_key_prefix="eval")
        scores = predicted.metrics or {}
        trainer.log(scores)
        metrics.update(scores)
        tables["predictions.csv"] = predictions_csv(eval_rows, truth, _logits(predicted), labels.label2id)
    if run.finish(trainer, extractor, metrics, tables):
        what = (
            "model, feature extractor, metrics and predictions" if tables else "model, feature extractor and metrics"
        )
        print(f"{what} written to {run.path}")
    trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0
