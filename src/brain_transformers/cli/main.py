"""The `brain-transformers` command: one file a subcommand.

Each has `add_parser(commands)`, `check(args)`, which says what can be said before torch and transformers are imported,
and `run(args)`, which returns the exit code.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from ..version import __version__
from .failures import answer
from .flags import Parser, refuse, with_dashes
from .interrupts import is_command
from .progress import by_the_line

# In the order of a first session.
COMMANDS = (
    "demo",
    "models",
    "get",
    "convert",
    "check",
    "prepare",
    "pretrain",
    "finetune",
    "embed",
    "probe",
    "pull",
    "verify",
)


def run(words: Sequence[str], args: argparse.Namespace) -> int:
    """Run a command line; returns the exit code, and leaves it to the caller what to do about errors."""
    parser = Parser(
        prog="brain-transformers",
        description="fMRI foundation models for Hugging Face Transformers: prepare scans, pretrain, fine-tune, embed.",
        epilog="Start with `brain-transformers demo`: it trains a small BrainLM on real scans and writes a report.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in COMMANDS}
    for name, module in modules.items():
        module.add_parser(commands)
        # Also after the command, where people add it on a second try.
        commands.choices[name].add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    _, args.more = parser.parse_known_args(with_dashes(words), args)
    if args.command is None:
        if args.more:
            refuse(args.more, [parser])
        parser.print_help()
        return 0
    command, args.parser = modules[args.command], commands.choices[args.command]
    if args.more and not getattr(command, "TAKES_MORE", False):
        refuse(args.more, [args.parser])
    command.check(args)
    if is_command():
        by_the_line()
    if getattr(command, "NEEDS_MODELS", True):
        from ..families import register_auto_classes

        register_auto_classes()
    return int(command.run(args))


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
    return answer(lambda: run(words, args), args, ["brain-transformers", *words])


if __name__ == "__main__":
    sys.exit(main())
