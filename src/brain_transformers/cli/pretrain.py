"""`brain-transformers pretrain`: pretraining of a new or an existing model on a dataset of scans."""

import argparse
from typing import Any

from .new_models import load_extractor, make_new_model
from .objectives import Objective, load_pretrained, objective_of, objectives_with_flag
from .run_folder import RunFolder, check_output, open_run
from .training_inputs import EVAL_SPLIT, add_training_parser, load_splits, make_training_arguments


def _arguments_class(model: str | None) -> Any:
    return None if model is None else objective_of(model).arguments_class


def _explain_flag(flag: str, model: str) -> str | None:
    own, others = objective_of(model), objectives_with_flag(flag)
    if not others:
        return f"there is no flag {flag} for {model}, which learns by {own.name} ({own.arguments_name})"
    belongs_to = " and ".join(other.name for other in others)
    return f"{flag} is a flag of {belongs_to}, and {model} learns by {own.name} ({own.arguments_name})"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = add_training_parser(
        subparsers,
        "pretrain",
        _arguments_class,
        explain_flag=_explain_flag,
        help="pretrain a model on a dataset of scans",
        description=(
            "Pretrain as the model's authors did: BrainLM by masked reconstruction, Brain-JEPA by latent prediction, "
            "Brain-Semantoks by self-distillation, with the published recipe as defaults. A name such as brainlm-13m "
            "makes a new model that fits the dataset; a folder or Hub name goes on from its weights."
        ),
    )
    parser.add_argument(
        "--model",
        required=True,
        help="name of a configuration (brainlm-13m, brain-jepa-base, brain-semantoks-base, ...), or folder or Hub "
        "name of a model",
    )
    parser.add_argument("--plots", action="store_true", help="BrainLM: draw a reconstruction at every evaluation")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    train_rows, eval_rows = load_splits(args.dataset, args.train_split, args.eval_split)
    objective = objective_of(args.model)
    if args.plots and objective.name != "masked reconstruction":
        raise ValueError(
            f"--plots draws reconstructions, and {args.model} learns by {objective.name}: there is nothing to draw. "
            "Leave it out."
        )
    if args.plots and eval_rows is None:
        raise ValueError(
            f"--plots draws at evaluations, and {args.dataset} has no split {args.eval_split or EVAL_SPLIT!r}."
        )

    check_output(args)
    training = make_training_arguments(objective.arguments_class, args, eval_rows is not None)
    rows_per_batch = training.train_batch_size * training.world_size
    if training.dataloader_drop_last and len(train_rows) < rows_per_batch:
        raise ValueError(
            f"{len(train_rows)} scans do not fill a batch of {rows_per_batch}, and incomplete batches are left out. "
            "Pass a smaller --per_device_train_batch_size, or --dataloader_drop_last False."
        )
    with open_run(args, "pretrain", training) as run:
        return _train(args, run, objective, train_rows, eval_rows)


def _train(args: argparse.Namespace, run: RunFolder, objective: Objective, train_rows: Any, eval_rows: Any) -> int:
    from transformers import AutoModelForPreTraining, set_seed

    from ..hub.new_models import check_masks, check_rows, complete_tables
    from ..hub.registry import list_models

    training = run.training
    set_seed(training.seed)
    new = args.model in list_models()
    if new:
        model, extractor = make_new_model(args, train_rows, AutoModelForPreTraining)
    else:
        model = load_pretrained(AutoModelForPreTraining, args.model)
        extractor = load_extractor(args, model.config, train_rows)
    check_rows(extractor, eval_rows, "evaluation")
    check_masks(model, training.train_batch_size)
    if not new:
        complete_tables(model, extractor, train_rows, args.tables, "training")
    if not run.settle(model, extractor, {}, new=new, rows=train_rows, evaluation_rows=eval_rows):
        return 0
    callbacks: list[Any] = []
    if args.plots:
        from ..training.masked.reconstruction_callback import ReconstructionPlotCallback

        callbacks.append(ReconstructionPlotCallback())
    print(
        f"{model.num_parameters(only_trainable=True):,} parameters learn by {objective.name}, {len(train_rows)} scans "
        "to train on"
    )
    trainer = objective.trainer_class(
        model,
        training,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=extractor,
        callbacks=callbacks,
    )
    metrics = run.train(trainer)
    if eval_rows is not None:
        metrics.update(trainer.evaluate())
    if run.finish(trainer, extractor, metrics):
        print(f"model, feature extractor and metrics written to {run.path}; AutoModel loads {objective.released}")
    trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0
