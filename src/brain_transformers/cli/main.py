"""The `brain-transformers` command: one file a subcommand, imported only when it is asked for."""

import argparse
import contextlib
import importlib
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..files import no_space
from ..version import __version__
from .interrupts import Interrupted, signals_raise

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

    0: done; 1: a command says that it failed; 2: wrong arguments, an input that cannot be used, a full disk or no
    memory, told in one line; 130, 143: interrupted, terminated. Anything else that goes wrong is a bug and shows its
    traceback.

    A command that can be gone on with sets `args.go_on` as soon as that is so: the words to add to its command line,
    such as `"--resume"`, or `""` where the same command goes on by itself. It is shown when a signal or a full disk
    ends the command; while it is `None`, the same command is said to begin again.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(command=None, debug="--debug" in words)
    with signals_raise():
        try:
            parser = build_parser()
            args = parser.parse_args(words)
            if args.command is None:
                parser.print_help()
                return 0
            args.go_on = None
            run = getattr(args, "run", None) or importlib.import_module(f"{__package__}.{args.command}").run
            return int(run(args) or 0)
        except KeyboardInterrupt as error:
            signal = error if isinstance(error, Interrupted) else Interrupted()
            _say(args, f"{signal.word}. {_way_on(args, words)}", newline=True)
            return signal.exit_code
        except BrokenPipeError:
            # The reader of our output (such as `head`) is gone; a second error at exit would only confuse.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            message = None if args.debug else _explanation(error, args, words)
            if message is None:
                raise
            _say(args, f"error: {message}")
            return 2


def _say(args: argparse.Namespace, message: str, newline: bool = False) -> None:
    """One line on standard error, after the end of a progress bar's line where one may be open."""
    name = f" {args.command}" if args.command else ""
    print(f"{chr(10) * newline}brain-transformers{name}: {message}", file=sys.stderr)


def _way_on(args: argparse.Namespace, words: list[str]) -> str:
    """The command that goes on, or begins again."""
    go_on = getattr(args, "go_on", None)
    more = [word for word in shlex.split(go_on or "") if word not in words]
    return f"{'Begin again' if go_on is None else 'Go on'} with: {shlex.join(['brain-transformers', *words, *more])}"


def _explanation(error: Exception, args: argparse.Namespace, words: list[str]) -> str | None:
    """One line about an error that the user can do something about; `None` for a bug."""
    if no_space(error):
        file = _unwritten(error, args)
        return (
            f"the disk is full: {file} could not be written ({_free_space(file)}). What was complete is kept. Make "
            f"room there, or choose another folder. {_way_on(args, words)}"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return (
            f"out of memory ({text}). Use smaller batches (--batch-size, --per_device_train_batch_size), or a machine "
            f"with more memory. {_way_on(args, words)}"
        )
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply to be read ({text}). --debug shows where."
    if isinstance(error, (ValueError, OSError, ImportError)):
        return text if _is_ours(error) else f"{text} (--debug shows the full traceback)"
    return None


def _unwritten(error: Exception, args: argparse.Namespace) -> Path:
    """What a full disk left out, under its final name: told by the error, or by the function that was writing it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in reversed(chain):
        frames = [frame for frame, _ in traceback.walk_tb(link.__traceback__)]
        candidates = [getattr(link, "filename", None)]
        candidates += [frame.f_locals.get(name) for frame in reversed(frames) for name in _PATH_VARIABLES]
        for candidate in candidates:
            if candidate and isinstance(candidate, (str, bytes, os.PathLike)):
                return Path(re.sub(r"\.([^/]+?)\.partial-[^/]*", r"\1", os.fsdecode(candidate)))
    return Path(getattr(args, "output", None) or Path.cwd())


# How this package, safetensors, torch, transformers and pathlib call what they write to.
_PATH_VARIABLES = ("filename", "path", "temporary", "f", "self", "folder", "save_directory")


def _free_space(path: Path) -> str:
    folder = path.absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    return f"{folder} has {shutil.disk_usage(folder).free / 1e6:,.1f} MB left"


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised the error on purpose, rather than something below it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).startswith("brain_transformers")


if __name__ == "__main__":
    sys.exit(main())
