"""The `brain-transformers` command: one file a subcommand, imported only when it is asked for."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from ..version import __version__

# In the order of a first session; a command whose file is not part of this version is left out.
COMMANDS = ("demo", "prepare", "pretrain", "finetune", "embed", "probe")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done; 1: a command says that it failed; 2: wrong arguments or an input that cannot be used, told in one message;
    130: interrupted. Anything else that goes wrong is a bug and shows its traceback.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    run = getattr(args, "run", None) or importlib.import_module(f"{__package__}.{args.command}").run
    try:
        return int(run(args) or 0)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (such as `head`) is gone; a second error at exit would only confuse.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, FileNotFoundError, NotADirectoryError, FileExistsError, ImportError) as error:
        if args.debug:
            raise
        message = str(error) or type(error).__name__
        print(f"brain-transformers {args.command}: error: {message}", file=sys.stderr)
        if not _is_ours(error):
            print("Run again with --debug for the full traceback.", file=sys.stderr)
        return 2


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised the error on purpose, rather than something below it."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).startswith("brain_transformers")


if __name__ == "__main__":
    sys.exit(main())
