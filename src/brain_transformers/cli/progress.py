"""Progress bars, of this package and of the libraries below it, and text, where no terminal can redraw a line."""

import io
import os
import sys
from typing import Any

_SECONDS = "30"


def by_the_line() -> None:
    """Where there is no terminal, let a bar of tqdm be a line now and then. To be called before tqdm is imported.

    What is printed comes line by line, so that it stands in order with the bars.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    if sys.stderr.isatty():
        return
    for interval in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):  # which tqdm reads when it is imported
        os.environ.setdefault(interval, _SECONDS)
    from tqdm.std import tqdm

    def printer(file: Any) -> Any:
        return lambda text: print(text, file=file, flush=True) if text.strip() else None

    tqdm.status_printer = staticmethod(printer)
