"""Run a few lines of Python as a user would: in a process of its own, where nothing is imported yet."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def run_python(
    code: str, *arguments: str | Path, environment: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run `code` with `arguments` in `sys.argv[1:]`; a failure shows what the process printed.

    Without a terminal on standard input, so that a question of `transformers` is an error and not a test that hangs.
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if check and result.returncode:
        raise AssertionError(f"The process ended with {result.returncode}.\n{result.stdout}\n{result.stderr}")
    return result
