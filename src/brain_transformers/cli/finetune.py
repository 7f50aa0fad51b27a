"""`brain-transformers finetune`: train a model to predict a column of a dataset of scans."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .new_models import check_rows, make_config, make_extractor, refuse_foreign_tables, store_tables
from .objectives import check_model_exists
from .training_inputs import add_training_parser, load_splits, resume_point, write_results


def _arguments_class(model: str | None) -> type:
    from ..training.arguments import FineTuningArguments

    return FineTuningArguments


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = add_training_parser(
        subparsers,
        "finetune",
        _arguments_class,
        help="fine-tune a model to predict a label",
        description=(
            "Fine-tune all weights of a pretrained model with a new head. Numbers with fractions are regressed, in "
            "their own units; whole numbers and words are classes."
        ),
    )
    parser.add_argument("--model", required=True, help="folder or Hub name of a model, or a configuration's name")
    parser.add_argument("--label", required=True, help="column to predict")
    parser.add_argument("--task", choices=("classification", "regression"), help="by default from the label's type")
    parser.set_defaults(run=run)
    return parser


class _WindowsByUse:
    """Random windows while training, the middle of the scan in evaluation."""

    def __init__(self, training: Any, evaluation: Any):
        self.training, self.evaluation = training, evaluation

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        from ..training.seeded_rows import EPOCH, EVALUATION_EPOCH

        return (self.evaluation if rows[0][EPOCH] == EVALUATION_EPOCH else self.training)(rows)


def _classification_metrics(prediction: Any) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    guess, truth = logits.argmax(1), prediction.label_ids
    try:
        from sklearn import metrics
    except ImportError:
        return {"accuracy": float((guess == truth).mean())}
    scores = {
        "accuracy": metrics.accuracy_score(truth, guess),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, guess),
        "f1_macro": metrics.f1_score(truth, guess, average="macro"),
    }
    if logits.shape[1] == 2 and len(set(truth.tolist())) == 2:
        scores["roc_auc"] = metrics.roc_auc_score(truth, logits[:, 1] - logits[:, 0])
    return {name: float(value) for name, value in scores.items()}


def _regression_metrics(prediction: Any) -> dict[str, float]:
    outputs = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    guess, truth = outputs.reshape(-1).astype(np.float64), prediction.label_ids.astype(np.float64)
    scores = {"mae": float(np.abs(guess - truth).mean()), "mse": float(((guess - truth) ** 2).mean())}
    if truth.std() > 0:
        scores["r2"] = 1 - scores["mse"] / float(truth.var())
    if truth.std() > 0 and guess.std() > 0:
        scores["pearson_r"] = float(np.corrcoef(guess, truth)[0, 1])
    return scores


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = args.output
    train_rows, eval_rows = load_splits(args.dataset, args.train_split, args.eval_split)
    check_model_exists(args.model)

    from ..training.labels import Labels, labelled_rows, start_head_at

    labels = Labels.read(train_rows, args.label, args.task, "training set")
    train_rows = train_rows.select(labels.rows)
    if eval_rows is not None:
        eval_rows = eval_rows.select(labelled_rows(eval_rows, args.label, "evaluation set")[0])
    options = labels.head_options()

    from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification, set_seed

    from ..data.collators import ROISeriesCollator
    from ..hub.registry import list_models
    from ..hub.sharing import save_model_folder
    from ..training.arguments import FineTuningArguments
    from ..training.finetuning_trainer import FineTuningTrainer
    from ..training.seeded_rows import RowRandomness

    training = FineTuningArguments(output_dir=str(output), **args.training_flags)
    checkpoint = resume_point(output, args.resume, training.world_size)
    set_seed(training.seed)
    if args.model in list_models():
        config = make_config(args.model, args.config, train_rows, args.networks)
        for name, value in options.items():
            setattr(config, name, value)
        extractor = make_extractor(config, train_rows, args.coordinates, args.normalization)
        refuse_foreign_tables(args.model, extractor, config, args, new=True)
        model = AutoModelForSequenceClassification.from_config(config)
        print("the model starts from random weights: it was not pretrained")
    else:
        extractor = AutoFeatureExtractor.from_pretrained(args.model)
        model = AutoModelForSequenceClassification.from_pretrained(args.model, **options)
        refuse_foreign_tables(args.model, extractor, model.config, args, new=False)
        check_rows(extractor, train_rows, "training")
    check_rows(extractor, eval_rows, "evaluation")
    store_tables(model, extractor, train_rows, args)
    if labels.label2id is None:
        start_head_at(model, float(np.mean(labels.targets)))  # learns by its squared error

    def collator(window: str) -> ROISeriesCollator:
        return ROISeriesCollator(
            extractor,
            args.label,
            label2id=labels.label2id,
            window=window,
            rng_for_row=RowRandomness(training.seed if training.data_seed is None else training.data_seed, "window"),
        )

    what = f"{len(labels.label2id)} classes" if labels.label2id else "regression"
    print(f"{args.label}: {what}, {len(train_rows)} scans to train on")
    if eval_rows is None:
        print(f"no split {args.eval_split!r} in {args.dataset}: nothing is evaluated")
    trainer = FineTuningTrainer(
        model,
        training,
        data_collator=_WindowsByUse(collator("random"), collator("center")),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=extractor,
        compute_metrics=_regression_metrics if labels.label2id is None else _classification_metrics,
    )
    metrics = dict(trainer.train(resume_from_checkpoint=checkpoint).metrics)
    if eval_rows is not None:
        metrics.update(trainer.evaluate())
    if trainer.is_world_process_zero():
        save_model_folder(trainer.accelerator.unwrap_model(trainer.model), output, extractor=extractor)
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        write_results(output, metrics)
        print(f"model, feature extractor and metrics written to {output}")
    trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0
