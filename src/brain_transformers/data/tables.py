"""Series in text: which cells are names of rows and columns, and which are measurements."""

import contextlib
import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..foreign import inflate, read_bytes
from .errors import ROISeriesReadError
from .participants import is_gap

# ASCII only, without Python's underscores: what other programs read as a number too.
_NUMBER = re.compile(r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|inf|infinity)", re.ASCII | re.IGNORECASE)
# A table of all grayordinates has rows of 2 MB; more lines than this would be weeks of frames.
_MOST_LINES, _LONGEST_LINE = 1_000_000, 1 << 24
# So many numbers in ascending order are no chance.
_ENOUGH = 6


@dataclass
class Table:
    """A table of numbers.

    Args:
        values: (n_rows, n_columns) float64 without names; NaN for gaps.
        columns: names of the columns, where the table has a header.
        rows: names of the rows, where the first column holds them.
    """

    values: np.ndarray
    columns: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None


def is_number(cell: str) -> bool:
    """Whether a cell is a number as every program reads it."""
    return _NUMBER.fullmatch(cell) is not None


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank; UTF-8, or UTF-16 with a byte order mark; gzipped if the name says so.

    Raises:
        ValueError: if it is no text, or inflates to far more than a table holds.
        OSError, zlib.error: if it cannot be read.
    """
    data = read_bytes(path)
    if path.name.lower().endswith(".gz"):
        data = inflate(data)
    text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL bytes")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.count("\n") > _MOST_LINES:
        raise ValueError(f"it has {text.count(chr(10)):,} lines, and at most {_MOST_LINES:,} are read")
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and max(map(len, lines)) > _LONGEST_LINE:
        raise ValueError(f"it has a line of {max(map(len, lines)):,} letters, and at most {_LONGEST_LINE:,} are read")
    return lines


def read_table(path: Path, n_rois: int | None = None) -> Table:
    """Read a table of numbers, with or without a header and names of rows.

    Names may be numbers themselves: a first row or column is names, and no measurement, if it has text, counts (0, 1,
    2, ... or 2.5, 5.0, 7.5, ...), is a list of region numbers (2001, 2002, 2101), was made unique by pandas (1, 1.1,
    2, 2.1) or lies where no value of its columns does. Where that does not decide, the table is refused.

    Args:
        path: `.csv` with commas; `.tsv` and `.dat` with tabs or spaces; also gzipped.
        n_rois: number of parcels, where it is known.

    Raises:
        ROISeriesReadError: if it is empty, ragged, or holds what is no number.
        ValueError, OSError, zlib.error: if it cannot be read.
    """
    lines = read_lines(path)
    if not lines:
        raise ROISeriesReadError("the table has no rows.")
    separator = _separator(path, lines)
    first = _cells(lines[0], separator)
    second = _cells(lines[1], separator) if len(lines) > 1 else []
    ends = bool(separator) and all(line.endswith(separator or "") for line in lines[1:])
    if ends and (lines[0].endswith(separator or "") or (len(second) == len(first) + 1 and not _is_text(second[0]))):
        lines = [line.removesuffix(separator or "") for line in lines]  # some exports end every line so
        first = _cells(lines[0], separator)
    elif len(second) == len(first) + 1 and any(map(_is_text, first)):
        first = ["", *first]  # R's write.table gives the names of rows no heading
    heads = [_cells(line, separator, 1)[0] for line in lines[1:]] if len(first) > 1 else []
    named_rows = bool(heads) and all(map(_is_text, heads))
    text_header = any(map(_is_text, first[1:] or first)) or (_is_text(first[0]) and not named_rows)
    body = lines[1:] if text_header else lines
    if not body:
        raise ROISeriesReadError("the table has a header and no rows.")
    _check_width(body, separator, len(first))
    names = heads if text_header or not heads else [first[0], *heads]
    values = _parse(body, separator, 1 if named_rows else 0)
    header = first if text_header else None
    if text_header and len(values) > 2 and _counts(values[0]) and not _counts(values[1]):
        raise ROISeriesReadError(
            f"the row below the header ({', '.join(f'{value:g}' for value in values[0, :3])}, ...) counts the "
            "columns, which is no timepoint. Leave one row of names."
        )
    if not text_header:
        at = 1 if named_rows or is_gap(first[0]) else 0
        if _is_numeric_header(first[at:], values[1:, at - named_rows :]):
            header, values, names = first, values[1:], heads
    if not len(values):
        raise ROISeriesReadError("the table has a header and no rows.")
    columns = None if header is None else tuple(header[1:] if named_rows else header)
    if not named_rows and names and _counts_rows(values, None if header is None else header[0], n_rois):
        named_rows, values, columns = True, values[:, 1:], None if columns is None else columns[1:]
    return Table(values, columns, tuple(names) if named_rows else None)


def _separator(path: Path, lines: list[str]) -> str | None:
    """What separates the cells; `None` for spaces."""
    tabs = any("\t" in line for line in lines[:2])
    if ".csv" not in path.name.lower()[-7:]:
        return "\t" if tabs else None
    last = lines[-1]
    if last.count(";") > last.count(",") or (";" in last and re.fullmatch(r"[-+]?\d+(,\d+)?", last.split(";")[0])):
        raise ROISeriesReadError(
            "expected cells separated by commas, got semicolons. Save it with commas, and with points in its numbers."
        )
    return "\t" if tabs and "," not in last else ","


def _cells(line: str, separator: str | None, most: int = -1) -> list[str]:
    if '"' in line and separator is not None:
        return [cell.strip().strip("'") for cell in next(csv.reader([line], delimiter=separator))]
    return [cell.strip().strip("\"'") for cell in line.split(separator, most)]


def _is_text(cell: str) -> bool:
    return not is_number(cell) and not is_gap(cell, True)


def _check_width(body: list[str], separator: str | None, n_columns: int) -> None:
    for number, line in enumerate(body):
        quoted = '"' in line or separator is None
        got = len(_cells(line, separator)) if quoted else line.count(separator or "") + 1
        if got != n_columns:
            raise ROISeriesReadError(
                f"expected {n_columns} columns in every row, got {got} in row {number + 1} of {len(body)}. "
                "The file may be cut off."
            )


def _parse(body: list[str], separator: str | None, skip: int) -> np.ndarray:
    plain = not any('"' in line or "'" in line for line in body)
    with contextlib.suppress(ValueError):  # the quick way; it fails on gaps, and what else is wrong is told below
        if plain:
            numbers = [line.split(separator, skip)[-1] for line in body] if skip else body
            return np.loadtxt(numbers, dtype=np.float64, delimiter=separator, ndmin=2, comments=None)
    rows = [_cells(line, separator)[skip:] for line in body]
    values = np.full((len(rows), len(rows[0])), np.nan)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            if is_number(cell):
                values[number, column] = float(cell)
            elif not is_gap(cell, True):
                shown = cell if len(cell) <= 40 else cell[:40] + "..."
                raise ROISeriesReadError(f"expected numbers, got {shown!r} in row {number + 1}, column {column + 1}.")
    return values


# --- names that are numbers ---


def _is_numeric_header(cells: list[str], body: np.ndarray) -> bool:
    """Whether a first row of numbers names its columns."""
    if len(cells) < 2 or not len(body) or not all(is_number(cell) for cell in cells):
        return False
    numbers = np.array([float(cell) for cell in cells])
    if not np.isfinite(numbers).all():
        return False
    made_unique = _made_unique(cells)
    if _counts(numbers) or (made_unique and len(cells) >= _ENOUGH):
        return True
    whole = bool((numbers == np.rint(numbers)).all() and numbers.min() >= 0 and len(set(numbers)) == len(numbers))
    if not whole and not made_unique:
        return False
    rising = bool((np.diff(numbers) > 0).all())
    if rising and len(numbers) >= _ENOUGH:
        return True
    finite = np.where(np.isfinite(body), body, np.nan)
    fractions = bool((np.nan_to_num(finite) != np.rint(np.nan_to_num(finite))).any())
    low, high = np.nanmin(finite, axis=0, initial=np.inf), np.nanmax(finite, axis=0, initial=-np.inf)
    outside = (numbers < low) | (numbers > high)
    if outside.all() and (fractions or rising):
        return True
    # In a table of whole numbers a first frame may be brighter than all others, which are then no steady state.
    if made_unique or outside.all() or (fractions and (rising or outside.mean() > 0.5)):
        raise ROISeriesReadError(
            f"the first row ({', '.join(cells[:3])}, ...) may be a header of region numbers or a timepoint. Name the "
            "columns with text, or take the header away."
        )
    return False


def _made_unique(cells: list[str]) -> bool:
    """Whether numbers are names that pandas made unique: 1, 1.1, 2, 2.1 where a file had 1, 1, 2, 2."""
    seen: Counter[str] = Counter()
    for cell in cells:
        name, _, again = cell.partition(".")
        if not name.isdigit() or again != (str(seen[name]) if seen[name] else ""):
            return False
        seen[name] += 1
    return len(cells) > 2 and len(seen) < len(cells)


def _counts_rows(values: np.ndarray, heading: str | None, n_rois: int | None) -> bool:
    """Whether a first column of numbers names its rows."""
    numbers = values[:, 0]
    if values.shape[1] < 2 or not np.isfinite(numbers).all():
        return False
    whole = bool((numbers == np.rint(numbers)).all())
    rising = len(numbers) > 1 and bool((np.diff(numbers) > 0).all())
    is_count = _counts(numbers) or (whole and rising and len(numbers) >= _ENOUGH)
    blank = heading is not None and (not heading or heading in ("Unnamed: 0", "index"))
    if not is_count and not (blank and whole and rising):
        return False
    if n_rois is not None and n_rois == values.shape[1] and n_rois != len(values):
        raise ROISeriesReadError(
            f"the first of {n_rois} columns counts the rows ({numbers[0]:g}, {numbers[1]:g}, ...), so {n_rois - 1} "
            f"parcels are left where {n_rois} are expected."
        )
    return True


def _counts(numbers: np.ndarray) -> bool:
    """Whether numbers rise by the same step: 0, 1, 2, ..., or the times of frames."""
    if len(numbers) < 3:
        return False
    steps = np.diff(numbers)
    return bool(steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3, atol=0))
