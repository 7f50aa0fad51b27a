"""Ctrl-C and SIGTERM are answered in one line, from the first seconds of the command on."""

import os
import shlex
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
# Seconds.
_LOOK_AGAIN, _TIME_TO_CLEAN_UP = 0.05, 30.0


class Interrupted(KeyboardInterrupt):
    """A signal ends the command, with `exit_code` 128 + its number, as shells count."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.word, self.exit_code = _WORDS[signal.Signals(number)], 128 + number


def is_command() -> bool:
    """Whether this process is the command, told by how it was started: asked before the command's file is imported."""
    modules = (__package__.partition(".")[0], f"{__package__}.main")
    return Path("".join(sys.argv[:1])).stem == _PROGRAM or any(
        flag == "-m" and module in modules for flag, module in pairwise(sys.orig_argv)
    )


def end_at_once(more: str = "") -> None:
    """Let a signal end the process with one line and nothing else, for as long as there is nothing to clean up.

    An exception instead could be swallowed, or wrapped, by whatever is being imported.
    """
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _leave_to_the_system(number)
        interrupted = Interrupted(number)
        os.write(2, f"\n{_PROGRAM}: {interrupted.word}.{more}\n".encode())
        os._exit(interrupted.exit_code)

    _handle(end)


def end_at_once_before_the_command() -> None:
    """[`end_at_once`] for the seconds in which the command itself is imported."""
    end_at_once(f" Begin again with: {shlex.join([_PROGRAM, *sys.argv[1:]])}")


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let the first signal raise [`Interrupted`], so that what is half done is cleaned up; a second one ends at once.

    While a module is being imported the signal waits, since modules swallow and wrap exceptions. One that is swallowed
    nevertheless ends the process after half a minute. Processes forked meanwhile (workers that load data) end without
    a word: the one that started them speaks.
    """
    owner, before = os.getpid(), {number: signal.getsignal(number) for number in _SIGNALS}
    waiting: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _leave_to_the_system(number)
        if number in _SIGNALS:
            waiting.append(number)
        if has_timer and len(waiting) == 1 and _is_importing(frame):
            signal.setitimer(signal.ITIMER_REAL, _LOOK_AGAIN)
            return
        end_at_once()
        if has_timer:
            signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(waiting[0]))
            signal.setitimer(signal.ITIMER_REAL, _TIME_TO_CLEAN_UP)
        raise Interrupted(waiting[0])

    def leave_to_the_system() -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) is interrupt:
                signal.signal(number, signal.SIG_DFL)

    in_main_thread = threading.current_thread() is threading.main_thread()
    _handle(interrupt)
    if hasattr(os, "register_at_fork"):
        # A handler in Python waits for Python code to run: a worker that begins to wait for a lock just when its pool
        # ends it would wait for ever, and the pool for it.
        os.register_at_fork(after_in_child=leave_to_the_system)
    has_timer = in_main_thread and hasattr(signal, "setitimer")  # not on Windows
    if has_timer:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    except BaseException as error:
        if waiting and not isinstance(error, Interrupted):  # wrapped by whatever it was raised in
            raise Interrupted(waiting[0]) from error
        raise
    finally:
        if has_timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if in_main_thread:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the code in `frame` runs because a module is being imported, since the command began."""
    while frame is not None and frame.f_globals.get("__name__") != f"{__package__}.failures":
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _handle(handler: Any) -> None:
    """Set the handler where that is possible (in the main thread) and wanted (not where the signal is ignored)."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def _leave_to_the_system(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
