"""The one-line module that lets a saved model be loaded with `trust_remote_code=True`.

A folder or repository names our classes in the `auto_map` of its JSON files and carries `modeling_shim.py`, which
imports them from this package. Both are written by every `save_pretrained`, because one without the other cannot be
loaded: transformers keeps the `auto_map` of a loaded model when it is saved again, but not the module.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from ..files import write_file

SHIM_NAME = "modeling_shim.py"
_IMPORT = re.compile(r"^from brain_transformers import ([\w, ]+)", re.MULTILINE)


def shim_reference(class_name: str) -> str:
    """How an `auto_map` refers to a class of the shim, such as `"modeling_shim.BrainLMModel"`."""
    return f"{SHIM_NAME.removesuffix('.py')}.{class_name}"


def write_shim(folder: str | Path, class_names: Iterable[str]) -> None:
    """Write `modeling_shim.py`, or add the classes to the one that is there.

    Args:
        folder: where the model is saved; made if it does not exist.
        class_names: public names of this package.
    """
    path = Path(folder) / SHIM_NAME
    names = set(class_names)
    if path.is_file():
        present = _IMPORT.search(path.read_text(encoding="utf-8"))
        names |= {name.strip() for name in present[1].split(",")} if present else set()
    write_file(path, f"from brain_transformers import {', '.join(sorted(names))}  # noqa: F401\n")
