"""Readers with one fault each, to see that the fuzzer sees them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from brain_transformers import read_roi_series

from .targets import Target

TARGETS: dict[str, Target] = {}
_GOOD = bytes(range(100))


def _make(folder: Path) -> list[Path]:
    (folder / "scan.bin").write_bytes(_GOOD)
    return [folder / "scan.bin"]


def _faulty(name: str) -> Callable[[Any], Any]:
    """Register a reader that behaves on the undamaged file, so that the fault is that of an input."""

    def register(call: Callable[[Path], Any]) -> None:
        def guarded(folder: Path) -> Any:
            return None if (folder / "scan.bin").read_bytes() == _GOOD else call(folder)

        TARGETS[name] = Target(_make, guarded, 1.0, True)

    return register


@_faulty("raw")
def _raw(folder: Path) -> Any:
    return {}["missing"]


@_faulty("memory")
def _memory(folder: Path) -> Any:
    return np.ones(1 << 26).size


@_faulty("hang")
def _hang(folder: Path) -> Any:
    while True:
        pass


@_faulty("crash")
def _crash(folder: Path) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


@_faulty("leak")
def _leak(folder: Path) -> Any:
    return np.frombuffer(folder.with_name("canary.bin").read_bytes(), np.float32)


@_faulty("code")
def _code(folder: Path) -> Any:
    os.system("true")


@_faulty("refused")
def _refused(folder: Path) -> Any:
    return read_roi_series(folder / "scan.bin", n_rois=2)


@_faulty("accepted")
def _accepted(folder: Path) -> Any:
    return "fine"
