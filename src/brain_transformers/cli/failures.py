"""How a command ends when it cannot go on: one line that says why and what to do, and an exit code."""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..files import no_space
from .interrupts import Interrupted, signals_raise


def answer(run: Callable[[], Any], args: argparse.Namespace, words: list[str]) -> int:
    """Run a command and return its exit code; see [`main.main`] for what they mean.

    Args:
        run: the command.
        args: its arguments, which it may still be filling in: `command` and `debug` where there are such, `output`
            and `go_on`.
        words: the command line.
    """
    try:
        with signals_raise(), _plain_warnings(args):
            return int(run() or 0)
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
        message = None if getattr(args, "debug", False) else _explanation(error, args, words)
        if message is None:
            raise
        _say(args, f"error: {message}")
        return 2


@contextlib.contextmanager
def _plain_warnings(args: argparse.Namespace) -> Iterator[None]:
    """Warnings as one line each, without the place in the source that gave them, unless `--debug` asks for it."""
    before = warnings.formatwarning
    if not getattr(args, "debug", False):
        warnings.formatwarning = lambda message, *place, **more: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _say(args: argparse.Namespace, message: str, newline: bool = False) -> None:
    """One line on standard error, after the end of a progress bar's line where one may be open."""
    name = "" if not hasattr(args, "command") else f"brain-transformers {args.command or ''}".rstrip() + ": "
    print(f"{chr(10) * newline}{name}{message}", file=sys.stderr)


def _way_on(args: argparse.Namespace, words: list[str]) -> str:
    """The command that goes on, or begins again."""
    go_on = getattr(args, "go_on", None)
    more = [word for word in shlex.split(go_on or "") if word not in words]
    return f"{'Begin again' if go_on is None else 'Go on'} with: {shlex.join([*words, *more])}"


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
        return f"an input is nested too deeply to be read ({text})."
    if isinstance(error, (ValueError, OSError, ImportError)):
        return text if _is_ours(error) or not hasattr(args, "debug") else f"{text} (--debug shows the full traceback)"
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
