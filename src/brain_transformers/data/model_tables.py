"""Tables that a user gives for a model: a row or a word for each of what it is about, from a file or an array."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign import reading
from ..models.configuration_base import Table
from .arrays import read_npy
from .readers import read_coordinates
from .tables import read_lines

FORMATS = {
    "numbers": "a table of numbers, a row a parcel, without a header (text or .npy)",
    "coordinates": "a table with columns index (from 1), X, Y, Z in mm MNI",
    "words": "a name or number a line",
}
"""Format of a [`Table`] -> what a file of it holds, in words."""


def read_numbers(path: str | os.PathLike[str]) -> np.ndarray:
    """Numbers in rows and columns, from `.npy` or from text with commas or spaces and without a header; float64.

    Raises:
        ValueError, OSError: if it cannot be read, or is no such table.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return np.asarray(read_npy(path), dtype=np.float64)
    lines = read_lines(path)
    if not lines:
        raise ValueError("it is empty")
    return np.loadtxt(lines, delimiter="," if "," in lines[0] else None, ndmin=2)


def read_words(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file that are not empty."""
    return [line.strip() for line in read_lines(Path(path))]


_READERS = {"numbers": read_numbers, "coordinates": lambda path: read_coordinates(path, n_rois=None)}


@dataclass(frozen=True)
class GivenTable:
    """A table as a user gave it, read.

    Attributes:
        values: an array of numbers, or a list of words.
        called: what messages call it: the file, or its name.
        source: where it comes from, for the configuration.
    """

    values: Any
    called: str
    source: str


def read_tables(given: Mapping[str, Any], known: Mapping[str, Table]) -> dict[str, GivenTable]:
    """The tables that a user gives, by name: files, or arrays of numbers and lists of words.

    Args:
        known: what the model must be told; others of `given` are not read, and refused where its fields are settled.

    Raises:
        ValueError: if one cannot be read; the message names the file.
    """
    tables = {}
    for name, table in given.items():
        if name not in known:
            tables[name] = GivenTable(None, name, "")
            continue
        kind, is_file = known[name].kind, isinstance(table, (str, os.PathLike))
        with reading(table if is_file else name, FORMATS[kind]):
            if kind == "words":
                values: Any = read_words(table) if is_file else [str(word) for word in table]
            else:
                values = _READERS[kind](table) if is_file else np.asarray(table, dtype=np.float64)
        file = Path(table) if is_file else None
        tables[name] = GivenTable(values, str(file or name), file.name if file is not None else "an array")
    return tables
