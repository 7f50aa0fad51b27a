"""`brain-transformers verify`: whether a model folder is what its contract, configuration and card say."""

import argparse
from typing import Any

from ..families import weights_source


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "verify",
        help="hold a model against its input contract, in seconds and without data",
        description=(
            "Read the weights of a model once and hold them against config.json, input_contract.json and the card: "
            "names, shapes and fingerprint; order of parcels, repetition time, length, scale and every other setting "
            "of the processor. Exit status 1 if anything differs."
        ),
    )
    parser.add_argument(
        "model",
        metavar="FOLDER",
        help="folder of a saved model, or name of weights that `brain-transformers get` has fetched",
    )
    parser.add_argument(
        "--write", action="store_true", help="write input_contract.json anew, for a folder that you changed on purpose"
    )


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..hub.contract import verify, write_contract

    folder = weights_source(args.model)
    if args.write:
        print(f"written: {write_contract(folder)}")
    result = verify(folder)
    for fact in result.facts:
        print(f"as it should be: {fact}")
    for reason in result.refused:
        print(f"refused: {reason}")
    return 0 if result.ok else 1
