"""The `brain-transformers` command: one file a subcommand, imported only when it is asked for."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from ..version import __version__
from .failures import answer

# In the order of a first session; a command whose file is not part of this version is left out.
COMMANDS = ("demo", "convert", "prepare", "pretrain", "finetune", "embed", "probe")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands; importing them costs no torch."""
    parser = argparse.ArgumentParser(
        prog="brain-transformers",
        description="fMRI foundation models for Hugging Face Transformers: prepare scans, pretrain, fine-tune, embed.",
        epilog="Start with `brain-transformers demo`: it trains a small BrainLM on real scans and writes a report.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name in COMMANDS:
        module_name = f"{__package__}.{name}"
        if find_spec(module_name) is None:
            continue
        module = importlib.import_module(module_name)
        module.add_parser(subparsers)
        # Also after the command, where people add it on a second try.
        subparsers.choices[name].add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def _refuse(parser: argparse.ArgumentParser, command: str | None, unknown: Sequence[str]) -> NoReturn:
    """Say which words are not known, and the flag of the command that the first is most like."""
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    flags = commands[command]._option_string_actions if command else {}
    similar = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1, cutoff=0.75)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done; 1: a command says that it failed; 2: wrong arguments, an input that cannot be used, a full disk or no
    memory, told in one line; 130, 143: interrupted, terminated. Anything else that goes wrong is a bug and shows its
    traceback.

    A command that can be gone on with sets `args.go_on` as soon as that is so: the words to add to its command line,
    such as `"--resume"`, or `""` where the same command goes on by itself. It is shown when a signal or a full disk
    ends the command; while it is `None`, the same command is said to begin again.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(command=None, debug="--debug" in words, go_on=None)

    def run() -> int:
        parser = build_parser()
        _, unknown = parser.parse_known_args(words, args)
        if unknown:
            _refuse(parser, args.command, unknown)
        if args.command is None:
            parser.print_help()
            return 0
        return (getattr(args, "run", None) or importlib.import_module(f"{__package__}.{args.command}").run)(args)

    return answer(run, args, ["brain-transformers", *words])


if __name__ == "__main__":
    sys.exit(main())
