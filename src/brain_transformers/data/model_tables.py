"""Tables that a user gives for a model: a row or a word for each of what it is about, from a file or an array."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign import reading
from .arrays import read_npy
from .readers import read_coordinates
from .tables import read_lines

FORMATS = {
    "numbers": "a table of numbers, a row a parcel, without a header (text or .npy)",
    "coordinates": "a table with columns index, X, Y, Z in mm MNI",
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


def read_table(name: str, given: Any, kind: str) -> Any:
    """A table as the user gave it: an array of numbers, or a list of words.

    Args:
        kind: one of `FORMATS`.

    Raises:
        ValueError: if it cannot be read as one; the message names the file.
    """
    is_file = isinstance(given, (str, os.PathLike))
    with reading(given if is_file else name, FORMATS[kind]):
        if kind == "words":
            return read_words(given) if is_file else [str(word) for word in given]
        return _READERS[kind](given) if is_file else np.asarray(given, dtype=np.float64)


def fit_to_shape(called: str, values: np.ndarray, shape: tuple[int | None, ...], fewer: str = "") -> np.ndarray:
    """Leading columns of a table of numbers, as float32 of this shape.

    Args:
        called: what messages call it.
        values: rows and columns.
        shape: of the table that a model takes.
        fewer: how to have fewer columns, as a sentence.

    Raises:
        ValueError: if rows or columns are lacking, or numbers say nothing.
    """
    n_rows, n_columns = (int(size or 0) for size in shape)
    if values.ndim != 2 or len(values) != n_rows or values.shape[1] < n_columns:
        raise ValueError(
            f"{called}: expected {n_rows} rows (parcels in the order of the dataset) and at least {n_columns} "
            f"columns, got shape {values.shape}.{fewer}"
        )
    values = values[:, :n_columns]
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"{called}: expected finite numbers, got {values[row].tolist()[:4]} in row {row + 1}.")
    if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0)).size:
        raise ValueError(f"{called}: column {constant[0] + 1} is the same for every parcel, which says nothing.")
    return np.ascontiguousarray(values, dtype=np.float32)
