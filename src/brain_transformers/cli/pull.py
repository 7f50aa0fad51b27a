"""`brain-transformers pull`: a model that somebody pushed to the Hub, at one commit, checked against its contract."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "pull",
        help="bring a model that somebody pushed, at one commit, and check it",
        description=(
            "Bring a model of the Hub, hold its weights, contract and card against each other, and say where it is. A "
            "revision is looked up once and stands for the same commit from then on, without a network."
        ),
    )
    parser.add_argument("repository", metavar="ORG/NAME", help="on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit; by default the newest one of the first call")
    parser.add_argument("--update", action="store_true", help="look the revision up anew")


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..hub.pulling import pull

    args.go_on = ""
    pull(args.repository, args.revision, update=args.update)
    return 0
