"""Progress bars, of this package and of the libraries below it, where no terminal can redraw a line."""

import os
import sys
from typing import Any

_SECONDS = "30"


def by_the_line() -> None:
    """Where standard error is no terminal, let a bar of tqdm be a line now and then. To be called before tqdm."""
    if sys.stderr.isatty():
        return
    for interval in ("TQDM_MININTERVAL", "TQDM_MAXINTERVAL"):  # which tqdm reads when it is imported
        os.environ.setdefault(interval, _SECONDS)
    from tqdm.std import tqdm

    def printer(file: Any) -> Any:
        return lambda text: print(text, file=file, flush=True) if text.strip() else None

    tqdm.status_printer = staticmethod(printer)
