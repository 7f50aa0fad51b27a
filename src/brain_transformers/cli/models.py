"""`brain-transformers models`: the named configurations and published checkpoints as a table."""

import argparse
import json
from typing import Any

from ..families import FAMILIES, fetched

NEEDS_MODELS = False
_COLUMNS = ("model", "family", "parameters", "trained", "learns by", "licence", "here", "weights of the authors")


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "models",
        help="list the models that go by a name",
        description=(
            "The configurations that `pretrain --model` makes new models of, and where the authors' weights of the "
            "published ones are; here: whether `brain-transformers get` has fetched them. Parameters: of the network "
            "that AutoModel loads; trained: of all that pretraining trains."
        ),
    )
    parser.add_argument("--json", action="store_true", help="as JSON, with citation and what is known not to work")


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    named = [(name, entry, family) for family in FAMILIES for name, entry in family.models.items()]
    if args.json:
        fields = ("parameters", "trained_parameters", "source", "license", "citation", "limits")
        table = [
            {
                "name": name,
                "family": family.title,
                "model_type": family.model_type,
                "objective": family.objective,
                **{field: getattr(entry, field) for field in fields},
                "fetched": None if (folder := fetched(name)) is None else str(folder),
            }
            for name, entry, family in named
        ]
        print(json.dumps(table, indent=2))
        return 0
    rows = [
        (
            name,
            family.title,
            *("" if number is None else f"{number:,}" for number in (entry.parameters, entry.trained_parameters)),
            family.objective,
            entry.license or "",
            "" if fetched(name) is None else "yes",
            entry.source or "none published",
        )
        for name, entry, family in named
    ]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows)]
    for row in (_COLUMNS, *rows):
        cells = [
            text.rjust(width) if column in (2, 3) else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip())
    return 0
