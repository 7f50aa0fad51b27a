"""Training in a folder, as `pretrain` and `finetune` do it: who holds it, what begins there, and what is left."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import locked
from .flags import NAMED_MODELS, holds_dataset


@dataclass(frozen=True)
class Beginning:
    """What a run is made of before its first step.

    Attributes:
        model: with the weights that it starts from.
        processor: its feature extractor.
        make_trainer: makes the Trainer, of the arguments that all of them take.
        said: what is learned, for the user.
        settings: further settings of the run, such as the label.
    """

    model: Any
    processor: Any
    make_trainer: Callable[..., Any]
    said: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """What evaluation gave.

    Attributes:
        metrics: as the Trainer calls them.
        files: more for the folder, name to text.
        words: scores for the card, with what is known of them; by default those of `metrics` alone.
        on: what they are of, for the card.
    """

    metrics: dict[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] | None = None
    on: str = "On the evaluation set, without interval and baseline."

    def for_card(self) -> dict[str, Any]:
        """See `trained_model_card`."""
        left_out = ("runtime", "per_second", "model_preparation_time")
        plain = {
            name.removeprefix("eval_"): f"{value:.4g}"
            for name, value in self.metrics.items()
            if name.startswith("eval_") and isinstance(value, (int, float)) and not name.endswith(left_out)
        }
        return {"scores": plain if self.words is None else self.words, "scored_on": self.on}


def train_in_folder(
    args: argparse.Namespace,
    training: Any,
    begin: Callable[[], Beginning],
    rows: Any,
    evaluation_rows: Any,
    evaluate: Callable[[Any], Evaluated],
    written: str,
) -> int:
    """Train in a folder that this process holds, or go on there, and leave the model in it; returns the exit code.

    Args:
        args: the command line, with `command`, `output`, `model`, `tables`, `resume` and `overwrite`.
        training: the training arguments.
        begin: makes what the run starts from.
        rows, evaluation_rows: what it trains and is evaluated on; the second may be `None`.
        evaluate: of the Trainer, in the end.
        written: what to say when all is done.

    Raises:
        FileExistsError: if the folder holds something that would be replaced without having been asked for.
        FolderInUseError: if another process trains in it.
        OtherSettingsError: if the run that goes on was another one; names the first differences.
    """
    import torch
    from transformers import set_seed

    from ..data.synthetic import is_synthetic
    from ..hub.trained_models import save_trained_model
    from ..training.run_folder import RunFolder
    from ..training.run_settings import run_settings

    output: Path = args.output

    def save(model: Any, folder: Path) -> None:
        # Before anything is replaced, since the folder may be that of the model that training started from.
        title, mine = output.resolve().name, output / "README.md"
        known: dict[str, Any] = {"synthetic": is_synthetic(rows), **evaluated.for_card()}
        if "subject" in rows.column_names:
            known["trained_on"] = f"{len(rows):,} scans of {len(set(rows['subject'])):,} people."
        save_trained_model(model, beginning.processor, folder, args.model, title=title, keep=mine, **known)

    # A launcher tells each process its rank and waits for none of them here.
    with locked(args.output, args.command) if training.process_index == 0 else nullcontext():
        run = RunFolder.open(output, training.world_size, resume=args.resume, overwrite=args.overwrite)
        set_seed(training.seed)
        beginning = begin()
        beginning.processor.try_rows(evaluation_rows, "evaluation")
        writes, several = training.process_index == 0, training.world_size > 1
        settings = run_settings(
            training,
            model=beginning.model if writes else None,
            processor=beginning.processor if writes else None,
            rows=rows if writes else None,
            evaluation_rows=evaluation_rows if writes else None,
            new=args.model in NAMED_MODELS,
            tables=args.tables,
        )
        goes_on = run.bind({"command": args.command, **beginning.settings, **settings}, writes=writes)
        if several:  # none goes on before the first one has compared
            torch.distributed.barrier()
        if not goes_on:
            if several:
                torch.distributed.destroy_process_group()
            return 0
        if training.save_strategy != "no":
            args.go_on = "--resume"
        print(beginning.said)
        trainer = beginning.make_trainer(
            model=beginning.model,
            args=training,
            train_dataset=rows,
            eval_dataset=evaluation_rows,
            processing_class=beginning.processor,
        )
        metrics, evaluated = run.train(trainer), Evaluated({})
        if evaluation_rows is not None:
            evaluated = evaluate(trainer)
            metrics.update(evaluated.metrics)
        if run.finish(trainer, save, metrics, evaluated.files):
            print(written)
        trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0


def check_output(args: argparse.Namespace) -> None:
    """Raise what can be said of the folder before anything is loaded; see [`train_in_folder`]."""
    from ..training.run_folder import check_folder

    output: Path = args.output
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; give the name of a folder.")
    if holds_dataset(output):
        raise FileExistsError(f"{output} holds a dataset. Choose another --output.")
    if Path(args.model).is_dir() and Path(args.model).resolve() == output.resolve():
        raise FileExistsError(f"{output} is the model that training starts from. Choose another --output.")
    check_folder(output, resume=args.resume, overwrite=args.overwrite)
