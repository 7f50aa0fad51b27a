"""`brain-transformers pretrain`: pretraining of a new or an existing model on a dataset of scans."""

import argparse
from pathlib import Path
from typing import Any

from .new_models import check_masks, check_rows, make_config, make_extractor, refuse_foreign_tables, store_tables
from .objectives import objective_of, objectives_with_flag
from .training_inputs import add_training_parser, load_splits, resume_point, settle_run, write_results


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
    output: Path = args.output
    train_rows, eval_rows = load_splits(args.dataset, args.train_split, args.eval_split)
    objective = objective_of(args.model)
    if args.plots and objective.name != "masked reconstruction":
        raise ValueError(
            f"--plots draws reconstructions, and {args.model} learns by {objective.name}: there is nothing to draw. "
            "Leave it out."
        )
    if args.plots and eval_rows is None:
        raise ValueError(f"--plots draws at evaluations, and {args.dataset} has no split {args.eval_split!r}.")

    from transformers import AutoFeatureExtractor, AutoModelForPreTraining, set_seed

    from ..hub.registry import list_models
    from ..hub.sharing import save_model_folder

    training = objective.arguments_class(output_dir=str(output), **args.training_flags)
    checkpoint = resume_point(output, args.resume, training.world_size)
    rows_per_batch = training.train_batch_size * training.world_size
    if training.dataloader_drop_last and len(train_rows) < rows_per_batch:
        raise ValueError(
            f"{len(train_rows)} scans do not fill a batch of {rows_per_batch}, and incomplete batches are left out. "
            "Pass a smaller --per_device_train_batch_size, or --dataloader_drop_last False."
        )
    set_seed(training.seed)
    new = args.model in list_models()
    if new:
        config = make_config(args.model, args.config, train_rows, args.networks)
        extractor = make_extractor(config, train_rows, args.coordinates, args.normalization)
        refuse_foreign_tables(args.model, extractor, config, args, new=True)
        model = AutoModelForPreTraining.from_config(config)
    else:
        extractor = AutoFeatureExtractor.from_pretrained(args.model)
        model = AutoModelForPreTraining.from_pretrained(args.model)
        refuse_foreign_tables(args.model, extractor, model.config, args, new=False)
        check_rows(extractor, train_rows, "training")
    check_rows(extractor, eval_rows, "evaluation")
    check_masks(model.config, training.train_batch_size)
    store_tables(model, extractor, train_rows, args)

    settings = {"command": "pretrain", "model": args.model, "config": sorted(args.config)}
    settle_run(output, checkpoint, settings, args.training_flags, train_rows, training.process_index == 0)
    callbacks: list[Any] = []
    if args.plots:
        from ..training.reconstruction_callback import ReconstructionPlotCallback

        callbacks.append(ReconstructionPlotCallback())
    print(
        f"{model.num_parameters(only_trainable=True):,} parameters learn by {objective.name}, {len(train_rows)} scans "
        "to train on"
    )
    if eval_rows is None:
        print(f"no split {args.eval_split!r} in {args.dataset}: nothing is evaluated")
    trainer = objective.trainer_class(
        model,
        training,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=extractor,
        callbacks=callbacks,
    )
    metrics = dict(trainer.train(resume_from_checkpoint=checkpoint).metrics)
    if eval_rows is not None:
        metrics.update(trainer.evaluate())
    if trainer.is_world_process_zero():
        save_model_folder(trainer.accelerator.unwrap_model(trainer.model), output, extractor=extractor)
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        write_results(output, metrics)
        print(f"model, feature extractor and metrics written to {output}; AutoModel loads {objective.released}")
    trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0
