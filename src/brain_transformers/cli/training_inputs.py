"""What `pretrain` and `finetune` share: flags of training arguments, datasets, checkpoints, results."""

import argparse
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .new_models import TableFile

TRAIN_SPLIT, EVAL_SPLIT = "train", "validation"


class TrainingCommandParser(argparse.ArgumentParser):
    """A parser that takes all flags of a class of training arguments too, and leaves those that are set.

    The class may depend on some options, so these are looked at first. It takes seconds to import, so that happens
    only when this command is used or its help is shown. Errors are one line. `training_flags` of what is parsed holds
    the training arguments on the command line and no defaults.

    Args:
        load_arguments_class: takes the values of `selectors` (`None` where absent), imports and returns the class;
            `None`, for help without a model, if it depends on it.
        explain_flag: what to say about a flag that the class does not have, if there is more to say; takes the flag
            and the values of `selectors`.
        selectors: options that decide on the class, `--model` first.
        kwargs: for `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *,
        load_arguments_class: Callable[..., Any],
        explain_flag: Callable[..., str | None] = lambda flag, *values: None,
        selectors: Sequence[str] = ("--model",),
        **kwargs: Any,
    ):
        # Shortened names could mean a flag of either set.
        super().__init__(allow_abbrev=False, **kwargs)
        self._load_arguments_class = load_arguments_class
        self._explain_flag = explain_flag
        self._selectors = selectors
        self._selected: list[str | None] = [None] * len(selectors)

    def _training_parser(self) -> argparse.ArgumentParser | None:
        try:
            arguments_class = self._load_arguments_class(*self._selected)
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
        names = [first.add_argument(option, nargs="?").dest for option in self._selectors]
        early = first.parse_known_args(args)[0]  # `--help` may stand before them
        self._selected = [getattr(early, name) for name in names]
        parsed, rest = super().parse_known_args(args, namespace)
        training = self._training_parser()
        assert training is not None  # there is a model
        for action in training._actions:
            action.default = argparse.SUPPRESS
        flags, unknown = training.parse_known_args(rest)
        if unknown:
            self._refuse(unknown, [*self._option_string_actions, *training._option_string_actions])
        if "resume_from_checkpoint" in flags:
            self.error(
                "--resume_from_checkpoint: the command finds the last complete checkpoint itself. Pass --resume"
            )
        parsed.training_flags = vars(flags)
        return parsed, []

    def _refuse(self, unknown: Sequence[str], known: Sequence[str]) -> NoReturn:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected {flag!r}")
        reason = self._explain_flag(flag, *self._selected) or f"there is no flag {flag} for {self._selected[0]}"
        similar = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
        self.error(reason + (f"; did you mean {similar[0]}?" if similar else ""))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and leave."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def format_help(self) -> str:
        """Help of the command, then that of the training arguments."""
        training = self._training_parser()
        if training is None:
            return (
                f"{super().format_help()}\ntraining arguments:\n  They depend on the model: "
                f"{self.prog} --model NAME --help\n"
            )
        return (
            f"{super().format_help()}\ntraining arguments:\n{training.format_help().strip().partition(chr(10))[2]}\n"
        )


class Once(argparse.Action):
    """Keeps a value, and refuses a second one, of which argparse would take the last without a word."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Keep the value."""
        if (before := getattr(namespace, self.dest, None)) is not None:
            parser.error(f"{option_string} is given twice ({before}, {values}): one run takes one")
        setattr(namespace, self.dest, values)


def add_training_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    load_arguments_class: Callable[..., Any],
    *,
    help: str,
    description: str,
    explain_flag: Callable[..., str | None] = lambda flag, *values: None,
    selectors: Sequence[str] = ("--model",),
) -> argparse.ArgumentParser:
    """Add a command that takes training arguments, with the flags that every such command has."""
    listed = subparsers.add_parser(name, help=help)
    parser = TrainingCommandParser(
        load_arguments_class=load_arguments_class,
        explain_flag=explain_flag,
        selectors=selectors,
        prog=listed.prog,
        description=f"{description} Every flag of transformers' TrainingArguments works here too.",
    )
    subparsers.choices[name] = parser
    parser.add_argument(
        "--dataset", type=Path, required=True, action=Once, help="folder that `brain-transformers prepare` wrote"
    )
    parser.add_argument(
        "--output", "--output_dir", "--output-dir", dest="output", type=Path, required=True, help="folder of the run"
    )
    parser.add_argument(
        "--train-split",
        help=f"split to train on, where there are several (default {TRAIN_SPLIT})",
    )
    parser.add_argument(
        "--eval-split", help=f"split to evaluate on, where there are several (default {EVAL_SPLIT}); none for none"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
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
    tables: dict[str, Any] = {"action": TableFile, "dest": "tables", "default": {}}
    parser.add_argument(
        "--table",
        metavar="NAME=FILE",
        help="what a model must be told of parcels that are not known: coordinates, gradients or networks; the same "
        "as the flag of that name. May be given several times",
        **tables,
    )
    parser.add_argument(
        "--coordinates",
        metavar="FILE",
        help="BrainLM: table of parcel centres (index, X, Y, Z in mm MNI); an existing model gets them in place of "
        "its own",
        **tables,
    )
    parser.add_argument(
        "--gradients",
        metavar="FILE",
        help="a new Brain-JEPA: table of functional gradients (.npy or text, a row a parcel); by default ours for "
        "Schaefer-400 and Tian S3 parcels, and computed from the training scans for others",
        **tables,
    )
    parser.add_argument(
        "--networks",
        metavar="FILE",
        help="a new Brain-Semantoks: text file with the network of each parcel, a name or number a line, where the "
        "names of the parcels do not tell",
        **tables,
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint, if any")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew in a folder that holds a run or a model: checkpoints go at once, the model when the new one "
        "is written",
    )
    return parser


def _load(folder: Path) -> Any:
    """A saved dataset, or several by name, in numpy format."""
    from ..optional import require

    require("datasets", extra="data", purpose="reading datasets")
    from ..data.builders import load_dataset

    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder. Write one with `brain-transformers prepare`.")
    if not ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        raise FileNotFoundError(
            f"{folder} holds no saved dataset. If it holds scans, run "
            f"`brain-transformers prepare {folder} --output dataset` and give that dataset."
        )
    return load_dataset(folder)


def load_splits(folder: Path, train_split: str | None, eval_split: str | None) -> tuple[Any, Any]:
    """Training rows and evaluation rows (or `None`) of a saved dataset, in numpy format.

    Args:
        folder: of the dataset.
        train_split, eval_split: names; by default `TRAIN_SPLIT`, and `EVAL_SPLIT` if there is such a split. `"none"`:
            nothing is evaluated.

    Raises:
        FileNotFoundError: if `folder` does not exist or holds no dataset.
        ValueError: if a split that is asked for is missing or empty.
    """
    loaded = _load(folder)
    splits = loaded if isinstance(loaded, dict) else {}
    for flag, name in (("--train-split", train_split), ("--eval-split", eval_split)):
        if name is None or name in splits or (name, flag) == ("none", "--eval-split"):
            continue
        what = f"only {sorted(splits)}" if splits else "and no splits at all: leave it out"
        raise ValueError(f"{folder} has no split {name!r}, {what}. Choose one with {flag}.")
    train_split = train_split or TRAIN_SPLIT
    if splits and train_split not in splits:
        raise ValueError(
            f"{folder} has no split {train_split!r}, only {sorted(splits)}. Choose one with --train-split."
        )
    train = splits[train_split] if splits else loaded
    evaluation = splits.get(eval_split or EVAL_SPLIT)
    if not len(train):
        raise ValueError(f"{folder} has no rows to train on.")
    if evaluation is not None and not len(evaluation):
        raise ValueError(
            f"{folder}: the split {eval_split or EVAL_SPLIT!r} has no rows. Choose another --eval-split, or none."
        )
    if evaluation is None:
        print(f"{folder} has no split {EVAL_SPLIT!r}: nothing is evaluated" if eval_split is None else "no evaluation")
    return train, evaluation


def load_joined(folder: Path) -> Any:
    """All rows of a saved dataset, in numpy format: those of its splits one after another.

    Raises:
        FileNotFoundError: if `folder` does not exist or holds no dataset.
        ValueError: if there are no rows.
    """
    loaded = _load(folder)
    if isinstance(loaded, dict):
        import datasets

        loaded = datasets.concatenate_datasets(list(loaded.values())).with_format("numpy")
    if not len(loaded):
        raise ValueError(f"{folder} has no rows to train on.")
    return loaded


def make_training_arguments(kind: Any, args: argparse.Namespace, evaluates: bool) -> Any:
    """Training arguments from the command line.

    Args:
        kind: their class.
        args: the command line.
        evaluates: whether there are scans to evaluate on.

    Raises:
        ValueError: for values that transformers refuses, and for flags about evaluations where there are none.
    """
    flags = args.training_flags
    about = {
        name: flags[name]
        for name, idle in _ABOUT_EVALUATION.items()
        if name in flags and str(getattr(flags[name], "value", flags[name])) not in idle
    }
    if flags.get("save_strategy") == "best":
        about["save_strategy"] = "best"
    if about and not evaluates:
        shown = ", ".join(f"--{name} {value}" for name, value in about.items())
        raise ValueError(
            f"{shown}: there is nothing to evaluate on, since {args.dataset} has no split "
            f"{args.eval_split or EVAL_SPLIT!r}. Choose one with --eval-split, or leave it out."
        )
    chooses = [name for name in ("load_best_model_at_end", "metric_for_best_model", "save_strategy") if name in about]
    strategy = str(getattr(flags.get("eval_strategy"), "value", flags.get("eval_strategy", "no")))
    if chooses and strategy == "no" and getattr(kind, "eval_strategy", "no") == "no":
        raise ValueError(
            f"--{chooses[0]} chooses by evaluations, and none are asked for. Add --eval_strategy epoch and "
            "--save_strategy epoch, or leave it out."
        )
    check_ranges(flags)
    try:
        return kind(output_dir=str(args.output), **flags)
    except (ValueError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def check_ranges(flags: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers of training arguments that cannot be meant and that transformers takes."""
    for name, (low, words) in _RANGES.items():
        value = flags.get(name)
        if isinstance(value, (int, float)) and not (low <= value < math.inf or (name, value) == ("max_steps", -1)):
            raise ValueError(f"Expected --{name} to be {words}, got {value}.")


# Flags that mean nothing without a set to evaluate on, and the values that ask for nothing.
_ABOUT_EVALUATION: dict[str, tuple[str, ...]] = {
    "eval_strategy": ("no",),
    "do_eval": ("False",),
    "eval_on_start": ("False",),
    "eval_steps": ("None",),
    "load_best_model_at_end": ("False",),
    "metric_for_best_model": ("None",),
}
_LEAST = math.ulp(0.0)  # the smallest number above 0
_RANGES: dict[str, tuple[float, str]] = {
    **dict.fromkeys(("learning_rate", "base_learning_rate", "weight_decay", "max_grad_norm"), (0, "0 or more")),
    **dict.fromkeys(("seed", "data_seed"), (0, "0 or more")),
    **dict.fromkeys(("save_steps", "eval_steps", "logging_steps", "num_train_epochs"), (_LEAST, "above 0")),
    **dict.fromkeys(("max_steps", "per_device_train_batch_size", "per_device_eval_batch_size"), (1, "1 or more")),
    "gradient_accumulation_steps": (1, "1 or more"),
}
