"""What `pretrain` and `finetune` share: their flags, training arguments of transformers, and the rows to train on."""

import argparse
import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .flags import NAMED_MODELS, Once, check_dataset, check_model, families_by, refuse

TRAIN_SPLIT, EVAL_SPLIT = "train", "validation"


# --- flags ---


class _Help(argparse.Action):
    """`--help`: flags of the command, then those of the training arguments, which may depend on the model."""

    def __init__(self, option_strings: Any, arguments_class: Callable[..., Any], **kwargs: Any):
        super().__init__(option_strings, nargs=0, **kwargs)
        self.arguments_class = arguments_class

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Print the help and leave."""
        kind = None
        try:
            if namespace.model is not None:
                check_model(namespace.model)
            kind = self.arguments_class(namespace)
        except (ValueError, ImportError) as error:
            parser.error(str(error))
        if kind is None:
            more = f"  They depend on the model: {parser.prog} --model NAME --help\n"
        else:
            more = _training_parser(kind, parser).format_help().strip().partition("\n")[2] + "\n"
        print(f"{parser.format_help()}\ntraining arguments:\n{more}", end="")
        parser.exit()


class _TableFile(argparse.Action):
    """Keeps the files of `--table NAME=FILE` by name, and of flags of their own, such as `--coordinates FILE`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Keep the file."""
        name, file = str(option_string).lstrip("-"), str(values)
        if name == "table":
            name, _, file = file.partition("=")
        if not name or not file:
            parser.error(f"expected {option_string} NAME=FILE, such as coordinates=centres.tsv, got {values!r}")
        namespace.tables = {**namespace.tables, name: Path(file)}


def add_training_parser(commands: Any, name: str, arguments_class: Callable[..., Any], **texts: str) -> Any:
    """Add a command that takes training arguments, with the flags that every such command has.

    Args:
        commands: the command line.
        name: of the command.
        arguments_class: imports and returns the class of training arguments for the flags so far; `None` if it depends
            on a model and there is none.
        texts: `help`, `description`, `model_help`.
    """
    model_help = texts.pop("model_help")
    by_scale = families_by(lambda family: str(family.processor_defaults.get("normalization", "")))
    scales = [f"{titles} {scale}" for scale, titles in by_scale.items()]
    texts["description"] += " Every flag of transformers' TrainingArguments works here too."
    # Shortened names could mean a flag of either set.
    parser = commands.add_parser(name, add_help=False, allow_abbrev=False, **texts)
    parser.add_argument(
        "-h",
        "--help",
        action=_Help,
        arguments_class=arguments_class,
        default=argparse.SUPPRESS,
        help="show the help of a model and leave",
    )
    parser.add_argument("--model", required=True, help=model_help)
    parser.add_argument(
        "--dataset", type=Path, required=True, action=Once, help="folder that `brain-transformers prepare` wrote"
    )
    parser.add_argument("--output", "--output-dir", type=Path, required=True, help="folder of the run")
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
        help=f"scale of the inputs of a new model; by default that of its family ({'; '.join(scales)}). Brain-JEPA's "
        "authors pretrained with robust-means, for scans whose parcels keep their own level",
    )
    tables: dict[str, Any] = {"action": _TableFile, "dest": "tables", "default": {}}
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
        help="BrainLM: table of parcel centres (index from 1, X, Y, Z in mm MNI); an existing model gets them in "
        "place of its own",
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


def check_inputs(args: argparse.Namespace) -> None:
    """Raise what can be said of the dataset and the model before anything is imported."""
    check_dataset(args.dataset)
    check_model(args.model)
    if args.model not in NAMED_MODELS:
        for name in ("config", "normalization"):
            if getattr(args, name):
                raise ValueError(
                    f"--{name} is for new models; what {args.model} was trained with belongs to its weights."
                )


def config_fields(args: argparse.Namespace, named: Any) -> dict[str, Any]:
    """Fields of `--config NAME=VALUE ...` for a new model like the configuration `named`; values are JSON or words.

    Raises:
        ValueError: for what is no such pair, no field, decided by something else, or not finite.
    """
    of_tables = {source: f"it is set with the table (--table {t}=FILE)" for t, source in named.table_sources.items()}
    not_chosen, overrides = {**_NOT_CHOSEN, **of_tables}, dict[str, Any]()
    for pair in args.config:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"Expected --config NAME=VALUE, got {pair!r}.")
        fields = {field for field in named.to_dict() if not field.startswith("_")} - set(not_chosen)
        key = named.attribute_map.get(key, key)
        if key in not_chosen:
            raise ValueError(f"--config {key}: {not_chosen[key]}. Leave it out.")
        if key not in fields:
            similar = difflib.get_close_matches(key, sorted(fields), n=3)
            hint = f"Did you mean {' or '.join(similar)}?" if similar else f"It has {', '.join(sorted(fields))}."
            raise ValueError(f"The configuration of {args.model} has no field {key!r}. {hint}")
        try:
            parsed = json.loads(value, parse_constant=float)
        except (json.JSONDecodeError, RecursionError):
            parsed = value
        if any(not math.isfinite(number) for number in _numbers(parsed)):
            raise ValueError(f"--config {key}: expected finite numbers, got {value}.")
        overrides[key] = parsed
    return overrides


# Fields of a configuration that something else decides.
_NOT_CHOSEN = {
    **dict.fromkeys(("model_type", "architectures", "auto_map", "transformers_version"), "it belongs to the family"),
    **dict.fromkeys(("id2label", "label2id", "problem_type"), "it follows from --label and --task"),
    **dict.fromkeys(("return_dict", "output_hidden_states", "output_attentions"), "it is for calls of the model"),
    **dict.fromkeys(("chunk_size_feed_forward", "is_encoder_decoder"), "the models do not look at it"),
    "dtype": "training decides on it (--bf16 and the like)",
}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value


# --- training arguments ---


def _training_parser(kind: Any, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser

    training = HfArgumentParser(kind, prog=parser.prog, add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    training.error = parser.error  # type: ignore[method-assign]
    return training


def training_flags(
    args: argparse.Namespace, kind: Any, explain: Callable[[str], str | None] = lambda flag: None
) -> dict[str, Any]:
    """The training arguments on the command line, without defaults.

    Args:
        explain: what to say about a flag that the class does not have, if there is more to say.

    Raises:
        ValueError: for numbers that cannot be meant.
    """
    parser = _training_parser(kind, args.parser)
    absent = object()
    parser.set_defaults(**{field.name: absent for field in dataclasses.fields(kind)})
    parsed, unknown = parser.parse_known_args(args.more)
    if unknown:
        flag = next((word for word in unknown if word.startswith("-")), "").partition("=")[0]
        reason = explain(flag) or f"there is no flag {flag} for {args.model}" if flag else f"unexpected {unknown[0]!r}"
        refuse(unknown, [args.parser, parser], reason)
    flags = {name: value for name, value in vars(parsed).items() if value is not absent}
    if "resume_from_checkpoint" in flags:
        args.parser.error(
            "--resume-from-checkpoint: the command finds the last complete checkpoint itself. Pass --resume"
        )
    return flags


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """What a run is given.

    Attributes:
        training: the training arguments.
        rows, evaluation_rows: scans in numpy format; the second may be `None`.
        fields: fields of the configuration of a new model.
    """

    training: Any
    rows: Any
    evaluation_rows: Any
    fields: dict[str, Any]


def training_inputs(
    args: argparse.Namespace, kind: Any, config: Any, explain: Callable[[str], str | None] = lambda flag: None
) -> TrainingInputs:
    """Training arguments, rows and fields of a new model like `config`, as the command line asks for them.

    Raises:
        ValueError: for values that transformers refuses, flags about evaluations where there are none, a split that is
            missing or empty, or what is no field of the configuration.
    """
    flags = training_flags(args, kind, explain)
    rows, evaluation_rows = _split_rows(args)
    about = {
        name: flags[name]
        for name, idle in _ABOUT_EVALUATION.items()
        if name in flags and str(getattr(flags[name], "value", flags[name])) not in idle
    }
    if flags.get("save_strategy") == "best":
        about["save_strategy"] = "best"
    if about and evaluation_rows is None:
        shown = ", ".join(f"{_flag(name)} {value}" for name, value in about.items())
        raise ValueError(
            f"{shown}: there is nothing to evaluate on, since {args.dataset} has no split "
            f"{args.eval_split or EVAL_SPLIT!r}. Choose one with --eval-split, or leave it out."
        )
    chooses = [name for name in ("load_best_model_at_end", "metric_for_best_model", "save_strategy") if name in about]
    strategy = str(getattr(flags.get("eval_strategy"), "value", flags.get("eval_strategy", "no")))
    if chooses and strategy == "no" and getattr(kind, "eval_strategy", "no") == "no":
        raise ValueError(
            f"{_flag(chooses[0])} chooses by evaluations, and none are asked for. Add --eval-strategy epoch and "
            "--save-strategy epoch, or leave it out."
        )
    try:
        training = kind(output_dir=str(args.output), **flags)
    except (ValueError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return TrainingInputs(training, rows, evaluation_rows, config_fields(args, config))


# Flags that mean nothing without a set to evaluate on, and the values that ask for nothing.
_ABOUT_EVALUATION: dict[str, tuple[str, ...]] = {
    "eval_strategy": ("no",),
    "do_eval": ("False",),
    "eval_on_start": ("False",),
    "eval_steps": ("None",),
    "load_best_model_at_end": ("False",),
    "metric_for_best_model": ("None",),
}


# --- rows ---


def _split_rows(args: argparse.Namespace) -> tuple[Any, Any]:
    """Training rows and evaluation rows (or `None`) of the dataset."""
    from ..data.saved_datasets import load_parts

    parts, folder = load_parts(args.dataset), args.dataset
    splits = [name for name in parts if name]
    for flag, name in (("--train-split", args.train_split), ("--eval-split", args.eval_split)):
        if name is None or name in splits or (name, flag) == ("none", "--eval-split"):
            continue
        what = f"only {sorted(splits)}" if splits else "and no splits at all: leave it out"
        raise ValueError(f"{folder} has no split {name!r}, {what}. Choose one with {flag}.")
    train_split, eval_split = args.train_split or TRAIN_SPLIT, args.eval_split or EVAL_SPLIT
    if splits and train_split not in splits:
        raise ValueError(
            f"{folder} has no split {train_split!r}, only {sorted(splits)}. Choose one with --train-split."
        )
    rows, evaluation_rows = parts[train_split if splits else ""], parts.get(eval_split)
    if not len(rows):
        raise ValueError(f"{folder} has no rows to train on.")
    if evaluation_rows is not None and not len(evaluation_rows):
        raise ValueError(f"{folder}: the split {eval_split!r} has no rows. Choose another --eval-split, or none.")
    if evaluation_rows is None:
        told = f"{folder} has no split {EVAL_SPLIT!r}: nothing is evaluated"
        print(told if args.eval_split is None else "no evaluation")
    return rows, evaluation_rows
