"""`brain-transformers get`: published weights by name, from their authors to a cache that every command looks in."""

import argparse
import difflib
from typing import Any

from ..families import MODELS, family_of, fetched, register_auto_classes
from .convert import add_converter_flags, given_to
from .flags import Parser, refuse

TAKES_MORE = True
NEEDS_MODELS = False  # unless there is something to convert
_PUBLISHED = [name for name, entry in MODELS.items() if entry.source is not None]


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "get",
        help="fetch published weights by name, and convert them",
        usage="brain-transformers get NAME [--accept-license] [--revision REVISION] [the authors' files]",
        description=(
            "Fetch the weights of a name from where their authors published them, check and convert them, once. "
            "Afterwards `--model NAME` of every command but pretrain, which makes new models, means these weights. "
            "They are kept in BRAIN_TRANSFORMERS_CACHE, or below HF_HOME."
        ),
        epilog="Files that you have, or that only you can download, are passed by flags of `brain-transformers "
        "convert`:\n" + "\n".join(f"  get {name} {MODELS[name].conversion}" for name in _PUBLISHED),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(_PUBLISHED)}")
    parser.add_argument("--accept-license", action="store_true", help="accept the licence of the weights; needed once")
    parser.add_argument(
        "--revision", help="of the authors' repository on the Hub; by default the pinned or newest one"
    )


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    if args.name not in _PUBLISHED:
        similar = difflib.get_close_matches(args.name, _PUBLISHED, n=1)
        meant = f"no model is called so.{f' Did you mean {similar[0]}?' if similar else ''}"
        why = "its weights were never published." if args.name in MODELS else meant
        raise ValueError(f"There is nothing to get for {args.name!r}: {why} Published: {', '.join(_PUBLISHED)}.")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if not args.more and args.revision is None and (folder := fetched(args.name)) is not None:
        print(f"{args.name} is in {folder}")
        return 0
    from ..hub.weights import get

    register_auto_classes()
    given: dict[str, Any] = {}
    if args.more:
        converter = family_of(args.name).load_converter()
        parser = Parser(prog=f"brain-transformers get {args.name}", add_help=False, usage=argparse.SUPPRESS)
        add_converter_flags(parser, converter, required=False)
        files, unknown = parser.parse_known_args(args.more)
        if unknown:
            refuse(unknown, [args.parser, parser])
        given = given_to(converter, files)
    args.go_on = ""
    get(args.name, accept_license=args.accept_license, revision=args.revision, **given)
    return 0
