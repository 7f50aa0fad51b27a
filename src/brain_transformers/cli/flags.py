"""What all commands share: flags in one style, errors in one line, and what can be checked without an import."""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..families import FAMILIES, Family, weights_source
from ..parts import Shard

NAMED_MODELS = tuple(name for family in FAMILIES for name in family.models)


# One name of each family, published if there is such, for examples.
EXAMPLES = ", ".join(
    max(family.models, key=lambda name: family.models[name].source is not None) for family in FAMILIES
)


def families_by(told: Callable[[Family], str]) -> dict[str, str]:
    """What is told of families -> the titles of those of which it is; nothing of what is `""`."""
    titles: dict[str, dict[str, None]] = {}
    for family in FAMILIES:
        titles.setdefault(told(family), {})[family.title] = None
    return {said: ", ".join(names) for said, names in titles.items() if said}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Say it, and leave."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def with_dashes(words: Sequence[str]) -> list[str]:
    """A command line with flags `--like-this`, also where they came `--like_this`, and `--help` at its end.

    There it meets all other flags, on which the help may depend.
    """
    flags = [re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in words]
    wanted = [word for word in flags if word in ("-h", "--help")]
    return [*(word for word in flags if word not in wanted), *wanted[:1]]


def refuse(unknown: Sequence[str], parsers: Sequence[argparse.ArgumentParser], reason: str = "") -> NoReturn:
    """Say which flag is not known, and which one of these parsers it is most like."""
    flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
    known = re.findall(r"--[a-z][\w-]*", " ".join(parser.format_help() for parser in parsers))
    similar = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
    hint = f"; did you mean {similar[0]}?" if similar and flag.startswith("-") else ""
    parsers[0].error((reason or f"unrecognized arguments: {' '.join(unknown)}") + hint)


class Once(argparse.Action):
    """Keeps a value, and refuses a second one, of which argparse would take the last without a word."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Keep the value."""
        if (before := getattr(namespace, self.dest, None)) is not None:
            parser.error(f"{option_string} is given twice ({before}, {values}): one run takes one")
        setattr(namespace, self.dest, values)


def add_shard_flags(parser: argparse.ArgumentParser, what: str) -> None:
    """`--shard` and `--merge`, for jobs of an array; `what` is what they share."""
    group = parser.add_argument_group("for many machines")
    group.add_argument(
        "--shard",
        metavar="I/N",
        help=f"do only the I-th of N shares of the {what}, into a file in OUTPUT.shards; slurm: the place of this job "
        "in its array. The same line again is always right: what is done is not done again",
    )
    group.add_argument("--merge", action="store_true", help="join the shards, when all of them are there")


def shard_of(args: argparse.Namespace) -> Shard | None:
    """What `--shard` says.

    Raises:
        ValueError: if it is no shard, or `--merge` is given too.
    """
    if args.merge and args.shard is not None:
        raise ValueError("--merge joins the shards when all of them are there. Give it alone, without --shard.")
    return None if args.shard is None else Shard.parse(args.shard)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_dataset(folder: Path) -> None:
    """Raise FileNotFoundError unless a folder holds a saved dataset."""
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such folder. Write one with `brain-transformers prepare`.")
    if not holds_dataset(folder):
        raise FileNotFoundError(
            f"{folder} holds no saved dataset. If it holds scans, run `brain-transformers prepare {folder} --output "
            "dataset` and give that dataset."
        )


def holds_dataset(folder: Path) -> bool:
    """Whether a folder holds what `prepare` writes."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def check_model(model: str, new: bool = True) -> None:
    """Raise ValueError for what can be neither a configuration nor a folder nor a Hub name; asks no server.

    Args:
        new: whether the name of a configuration may stand for a new model; otherwise its weights must be here.
    """
    if model in NAMED_MODELS:
        if not new:
            weights_source(model)
        return
    if Path(model).is_dir():
        files = ["config.json", "preprocessor_config.json"]
        if missing := [name for name in files if not (Path(model) / name).is_file()]:
            if (Path(model) / "processor_config.json").is_file() and missing == files[1:]:
                raise ValueError(
                    f"{model} holds its processor as an earlier version saved it. Save it again, once: "
                    f"transformers.AutoProcessor.from_pretrained({model!r}).save_pretrained({model!r})"
                )
            raise ValueError(
                f"{model} is no folder of a model: it has no {' and no '.join(missing)}. Name a folder that "
                "conversion, pretrain or finetune wrote."
            )
    elif "/" not in model or model.startswith((".", "/", "~")) or model.count("/") > 1:
        similar = difflib.get_close_matches(model, NAMED_MODELS, n=1)
        raise ValueError(
            f"{model} is no folder, no Hub name (organisation/name) and no configuration. "
            f"{f'Did you mean {similar[0]}? ' if similar else ''}Configurations: {', '.join(NAMED_MODELS)}."
        )
