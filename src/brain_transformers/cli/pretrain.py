"""`brain-transformers pretrain`: masked pretraining of a new or an existing model on a dataset of scans."""

import argparse
from pathlib import Path
from typing import Any

from .training_inputs import (
    add_training_parser,
    load_splits,
    make_config,
    make_extractor,
    resume_point,
    store_coordinates,
    write_results,
)

_OTHER_TRAINERS = {"latent prediction": "JEPATrainer", "self-distillation": "SelfDistillationTrainer"}


def _arguments_class() -> type:
    from ..training.arguments import MAETrainingArguments

    return MAETrainingArguments


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = add_training_parser(
        subparsers,
        "pretrain",
        _arguments_class,
        help="pretrain a model on a dataset of scans",
        description=(
            "Pretrain by masked reconstruction, with the published recipe as defaults. A name such as brainlm-13m "
            "makes a new model that fits the dataset; a folder or Hub name goes on from its weights."
        ),
    )
    parser.add_argument(
        "--model", required=True, help="name of a configuration (brainlm-13m, ...), or folder or Hub name of a model"
    )
    parser.add_argument("--plots", action="store_true", help="draw a reconstruction at every evaluation")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = args.output
    train_rows, eval_rows = load_splits(args.dataset, args.train_split, args.eval_split)

    from transformers import AutoFeatureExtractor, AutoModelForPreTraining, set_seed

    import brain_transformers

    from ..hub.sharing import save_model_folder
    from ..training.arguments import MAETrainingArguments
    from ..training.mae_trainer import MAETrainer

    training = MAETrainingArguments(output_dir=str(output), **args.training_flags)
    checkpoint = resume_point(output, args.resume, training.world_size)
    set_seed(training.seed)
    _refuse_other_objectives(args.model)
    if args.model in brain_transformers.list_models():
        config = make_config(args.model, args.config, train_rows)
        extractor = make_extractor(config, train_rows, args.coordinates)
        model = AutoModelForPreTraining.from_config(config)
    elif args.config:
        raise ValueError("--config is for new models; the configuration of saved weights is what it is.")
    else:
        extractor = AutoFeatureExtractor.from_pretrained(args.model)
        model = AutoModelForPreTraining.from_pretrained(args.model)
    store_coordinates(model, extractor, args.coordinates)

    callbacks: list[Any] = []
    if args.plots:
        from ..training.reconstruction_callback import ReconstructionPlotCallback

        callbacks.append(ReconstructionPlotCallback())
    print(f"{model.num_parameters(only_trainable=True):,} parameters, {len(train_rows)} scans to train on")
    if eval_rows is None:
        print(f"no split {args.eval_split!r} in {args.dataset}: nothing is evaluated")
    trainer = MAETrainer(
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
        print(f"model, feature extractor and metrics written to {output}")
    trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0


def _refuse_other_objectives(model: str) -> None:
    """Raise ValueError for a model that does not learn by masked reconstruction, before any scan is read."""
    from transformers import MODEL_FOR_PRETRAINING_MAPPING, AutoConfig

    import brain_transformers

    known = brain_transformers.list_models()
    config = brain_transformers.load_config(model) if model in known else AutoConfig.from_pretrained(model)
    objective = getattr(MODEL_FOR_PRETRAINING_MAPPING.get(type(config), None), "objective", None)
    if objective in _OTHER_TRAINERS:
        raise ValueError(
            f"this command trains by masked reconstruction, and {model} learns by {objective}. Use "
            f"{_OTHER_TRAINERS[objective]} in Python, as the scripts in examples/ of the repository do."
        )
