"""`brain-transformers pretrain`: pretraining of a new or an existing model on a dataset of scans."""

import argparse
from pathlib import Path
from typing import Any

from ..families import fetched
from .flags import EXAMPLES, NAMED_MODELS, families_by
from .training_inputs import EVAL_SPLIT, add_training_parser, check_inputs, training_inputs
from .training_run import Beginning, Evaluated, check_output, train_in_folder

TAKES_MORE = True


def _config_and_objective(model: str) -> tuple[Any, Any]:
    from ..hub.starting_models import starting_config
    from ..training.objectives import OBJECTIVES

    config = starting_config(model)
    return config, OBJECTIVES[config.family.objective]


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    by_objective = families_by(lambda family: family.objective)
    learning = "; ".join(f"{titles} by {objective}" for objective, titles in by_objective.items())
    parser = add_training_parser(
        commands,
        "pretrain",
        lambda args: None if args.model is None else _config_and_objective(args.model)[1].arguments_class,
        help="pretrain a model on a dataset of scans",
        description=(
            f"Pretrain by the objective of the model's family ({learning}), with the published recipe as defaults. A "
            "name such as brainlm-13m makes a new model that fits the dataset; a folder or Hub name goes on from its "
            "weights."
        ),
        model_help=f"name of a configuration ({EXAMPLES}, ...), or folder or Hub name of a model",
    )
    parser.add_argument(
        "--plots", action="store_true", help="series of ROIs: draw a reconstruction at every evaluation"
    )


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    check_inputs(args)
    check_output(args)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    config, objective = _config_and_objective(args.model)

    def explain(flag: str) -> str:
        from ..training.objectives import OBJECTIVES

        learns = f"learns by {objective.name} ({objective.arguments_name})"
        others = [other.name for other in OBJECTIVES.values() if other.has_flag(flag)]
        if not others:
            return f"there is no flag {flag} for {args.model}, which {learns}"
        return f"{flag} is a flag of {' and '.join(others)}, and {args.model} {learns}"

    given = training_inputs(args, objective.arguments_class, config, explain)
    training, rows, evaluation_rows = given.training, given.rows, given.evaluation_rows
    if args.plots and objective.name != "masked reconstruction":
        raise ValueError(
            f"--plots draws reconstructions, and {args.model} learns by {objective.name}: there is nothing to draw. "
            "Leave it out."
        )
    if args.plots and evaluation_rows is None:
        raise ValueError(
            f"--plots draws at evaluations, and {args.dataset} has no split {args.eval_split or EVAL_SPLIT!r}."
        )
    rows_per_batch = training.train_batch_size * training.world_size
    if training.dataloader_drop_last and len(rows) < rows_per_batch:
        raise ValueError(
            f"{len(rows)} scans do not fill a batch of {rows_per_batch}, and incomplete batches are left out. "
            "Pass a smaller --per-device-train-batch-size, or --dataloader-drop-last False."
        )

    def begin() -> Beginning:
        from transformers import AutoModelForPreTraining

        from ..hub.starting_models import starting_model

        if args.model in NAMED_MODELS:
            existing = Path(args.model) if Path(args.model).is_dir() else fetched(args.model)
            others = "" if existing is None else f" (to go on from the weights in {existing}: --model {existing}/)"
            print(f"{args.model}: a new model of that name, with random weights{others}")
        model, extractor = starting_model(
            args.model,
            config,
            rows,
            AutoModelForPreTraining,
            tables=args.tables,
            fields=given.fields,
            normalization=args.normalization,
            batch_size=training.train_batch_size,
        )
        if args.plots and model.main_input_name != "signals":
            raise ValueError(
                f"--plots draws series of ROIs, and {args.model} reads {model.main_input_name}: leave it out."
            )
        callbacks: list[Any] = []
        if args.plots:
            from ..plotting.reconstruction_callback import ReconstructionPlotCallback

            callbacks.append(ReconstructionPlotCallback())
        n_trained = model.num_parameters(only_trainable=True)
        return Beginning(
            model,
            extractor,
            lambda **shared: objective.trainer_class(callbacks=callbacks, **shared),
            said=f"{n_trained:,} parameters learn by {objective.name}, {len(rows)} scans to train on",
        )

    def evaluate(trainer: Any) -> Evaluated:
        return Evaluated(trainer.evaluate())

    written = f"model, feature extractor and metrics written to {args.output}; AutoModel loads {objective.released}"
    return train_in_folder(args, training, begin, rows, evaluation_rows, evaluate, written)
