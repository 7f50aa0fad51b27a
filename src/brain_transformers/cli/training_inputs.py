"""What `pretrain` and `finetune` share: flags of training arguments, datasets, checkpoints, results."""

import argparse
import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_OWN_FIELDS = ("output_dir", "debug", "resume_from_checkpoint")


class TrainingCommandParser(argparse.ArgumentParser):
    """A parser that takes all flags of a class of training arguments too, and leaves them in `training_flags`.

    The class may depend on the model, so `--model` is looked at first. It takes seconds to import, so that happens
    only when this command is used or its help is shown. Errors are one line.

    Args:
        load_arguments_class: imports and returns the class for a model; `None`, for help without a model, if it
            depends on it.
        explain_flag: what to say about a flag that the class for the model does not have, if there is more to say.
        kwargs: for `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *,
        load_arguments_class: Callable[[str | None], Any],
        explain_flag: Callable[[str, str], str | None] = lambda flag, model: None,
        **kwargs: Any,
    ):
        # Shortened names could mean a flag of either set.
        super().__init__(allow_abbrev=False, **kwargs)
        self._load_arguments_class = load_arguments_class
        self._explain_flag = explain_flag
        self._model: str | None = None

    def _training_parser(self, model: str | None) -> argparse.ArgumentParser | None:
        try:
            arguments_class = self._load_arguments_class(model)
        except (ValueError, ImportError) as error:
            self.error(str(error))
        if arguments_class is None:
            return None
        from transformers import HfArgumentParser

        fail = self.error

        class Flags(HfArgumentParser):
            def error(self, message: str) -> NoReturn:
                fail(message)

        return Flags(arguments_class, prog=self.prog, add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command's own arguments, then the training arguments among the rest."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--model", nargs="?")
        self._model = first.parse_known_args(args)[0].model  # `--help` may stand before it
        parsed, rest = super().parse_known_args(args, namespace)
        training = self._training_parser(parsed.model)
        assert training is not None  # there is a model
        flags, unknown = training.parse_known_args(rest)
        if unknown:
            self._refuse(unknown, parsed.model, [*self._option_string_actions, *training._option_string_actions])
        parsed.training_flags = {name: value for name, value in vars(flags).items() if name not in _OWN_FIELDS}
        return parsed, []

    def _refuse(self, unknown: Sequence[str], model: str, known: Sequence[str]) -> NoReturn:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected {flag!r}")
        reason = self._explain_flag(flag, model) or f"there is no flag {flag} for {model}"
        similar = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
        self.error(reason + (f"; did you mean {similar[0]}?" if similar else ""))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and leave."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def format_help(self) -> str:
        """Help of the command, then that of the training arguments."""
        training = self._training_parser(self._model)
        if training is None:
            return (
                f"{super().format_help()}\ntraining arguments:\n  They depend on the model: "
                f"{self.prog} --model NAME --help\n"
            )
        return (
            f"{super().format_help()}\ntraining arguments:\n{training.format_help().strip().partition(chr(10))[2]}\n"
        )


def add_training_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    load_arguments_class: Callable[[str | None], Any],
    *,
    help: str,
    description: str,
    explain_flag: Callable[[str, str], str | None] = lambda flag, model: None,
) -> argparse.ArgumentParser:
    """Add a command that takes training arguments, with the flags that every such command has."""
    listed = subparsers.add_parser(name, help=help)
    parser = TrainingCommandParser(
        load_arguments_class=load_arguments_class,
        explain_flag=explain_flag,
        prog=listed.prog,
        description=f"{description} Every flag of transformers' TrainingArguments works here too.",
    )
    subparsers.choices[name] = parser
    parser.add_argument("--dataset", type=Path, required=True, help="folder that `brain-transformers prepare` wrote")
    parser.add_argument(
        "--output", "--output_dir", "--output-dir", dest="output", type=Path, required=True, help="folder of the run"
    )
    parser.add_argument("--train-split", default="train", help="split to train on, where there are several")
    parser.add_argument(
        "--eval-split", default="validation", help="split to evaluate on, where there are several (default validation)"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="fields of the configuration of a new model, such as hidden_size=128",
    )
    parser.add_argument(
        "--normalization",
        help="scale of the inputs of a new model; by default that of its family (BrainLM robust, Brain-JEPA "
        "zscore-scan, Brain-Semantoks zscore). Brain-JEPA's authors pretrained with robust-means, for scans whose "
        "parcels keep their own level",
    )
    parser.add_argument(
        "--coordinates", type=Path, help="BrainLM: table of parcel centres (index, X, Y, Z in mm MNI), where unknown"
    )
    parser.add_argument(
        "--gradients",
        type=Path,
        help="a new Brain-JEPA: table of functional gradients (.npy or text, a row a parcel); by default ours for "
        "Schaefer-400 and Tian S3 parcels, and computed from the training scans for others",
    )
    parser.add_argument(
        "--networks",
        type=Path,
        help="a new Brain-Semantoks: text file with the network of each parcel, a name or number a line, where the "
        "names of the parcels do not tell",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint, if any")
    return parser


def load_splits(folder: Path, train_split: str, eval_split: str) -> tuple[Any, Any]:
    """Training rows and evaluation rows (or `None`) of a saved dataset, in numpy format.

    Raises:
        FileNotFoundError: if `folder` does not exist or holds no dataset.
        ValueError: if the training split is missing or empty.
    """
    from ..optional import require

    require("datasets", extra="data", purpose="reading datasets")
    from ..data.builders import load_dataset

    if not ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        raise FileNotFoundError(
            f"{folder} holds no saved dataset. Write one with `brain-transformers prepare SCANS --output {folder}`."
        )
    loaded = load_dataset(folder)
    if isinstance(loaded, dict):
        if train_split not in loaded:
            raise ValueError(
                f"{folder} has no split {train_split!r}, only {sorted(loaded)}. Choose one with --train-split."
            )
        train, evaluation = loaded[train_split], loaded.get(eval_split)
    else:
        train, evaluation = loaded, None
    if not len(train):
        raise ValueError(f"{folder} has no rows to train on.")
    return train, evaluation


def column(rows: Any, name: str) -> list[Any]:
    """A column as Python values, of exactly these rows."""
    return list(rows.with_format(None).select_columns([name])[name])


def resume_point(output: Path, resume: bool, world_size: int) -> str | None:
    """The checkpoint to go on from, or `None` to start anew; says which.

    Raises:
        FileExistsError: if the folder holds checkpoints and `resume` is false.
    """
    from ..training.checkpoints import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(output, world_size)
    if checkpoint is not None and not resume:
        raise FileExistsError(
            f"{output} holds checkpoints of an earlier run. Pass --resume to go on from {Path(checkpoint).name}, or "
            "choose another --output."
        )
    if resume:
        print(f"going on from {checkpoint}" if checkpoint else f"no complete checkpoint in {output}: starting anew")
    return checkpoint


def write_results(output: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics.json` so that it is whole or absent, and print the scores."""
    path = output / "metrics.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)
    for name, value in metrics.items():
        if name == "train_loss" or (name.startswith("eval_") and "runtime" not in name and "per_second" not in name):
            print(f"{name}: {value:.4f}")
