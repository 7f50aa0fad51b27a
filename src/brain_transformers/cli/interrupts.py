"""Ctrl-C and SIGTERM are answered in one line, from the first seconds of the command on."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_PROGRAM = "brain-transformers"


class Interrupted(KeyboardInterrupt):
    """A signal ends the command, with `exit_code` 128 + its number, as shells count."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.word, self.exit_code = _WORDS[signal.Signals(number)], 128 + number


def is_command() -> bool:
    """Whether this process is the command, told by how it was started: asked before the command's file is imported."""
    modules = (__package__.partition(".")[0], f"{__package__}.main")
    return Path(sys.argv[0]).stem == _PROGRAM or any(
        flag == "-m" and module in modules for flag, module in pairwise(sys.orig_argv)
    )


def end_at_once() -> None:
    """Let a signal end the process with one line and nothing else, for as long as there is nothing to clean up.

    An exception instead could be swallowed, or wrapped, by whatever is being imported.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _leave_to_the_system(number)
        interrupted = Interrupted(number)
        os.write(2, f"\n{_PROGRAM}: {interrupted.word}\n".encode())
        os._exit(interrupted.exit_code)

    _handle(end)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let the first signal raise [`Interrupted`], so that what is half done is cleaned up; a second one ends at once.

    Processes forked meanwhile (workers that load data) end without a word: the one that started them speaks.
    """
    owner, before = os.getpid(), {number: signal.getsignal(number) for number in _SIGNALS}

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _leave_to_the_system(number)
        end_at_once()
        raise Interrupted(number)

    _handle(interrupt)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _handle(handler: Any) -> None:
    """Set the handler where that is possible (in the main thread) and wanted (not where the signal is ignored)."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def _leave_to_the_system(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
