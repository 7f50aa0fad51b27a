"""Labels of scans: which rows have one, and whether they are classes or numbers. One rule for every command."""

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import row_kinds
from .participants import is_gap

TASKS = ("classification", "regression")
CODES = range(-1, 11)
"""Three or more distinct whole numbers are classes if all are among these, and regressed otherwise, such as ages."""


def plain_value(value: Any) -> Any:
    """A label as a plain value: numpy's scalars and bytes become Python's, whole floats become integers.

    A column of integers with one gap is a column of floats for most libraries; it stays the same labels.
    """
    if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def class_name(value: Any) -> str:
    """The name of a class, the same however its column is stored: `"1"` for 1, 1.0, `"1"` and `"1.0"`."""
    value = plain_value(value)
    return str(_number(value) if isinstance(value, str) and _is_number(value) else value)


# "007" is a name, not a number.
_NUMBER = re.compile(r"\s*[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


_LONGEST_NUMBER = 40


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_NUMBER and bool(_NUMBER.fullmatch(value))
    return isinstance(value, (int, float))


def _number(text: str) -> Any:
    return int(text) if re.fullmatch(r"\s*[-+]?\d+\s*", text) else plain_value(float(text))


def known_labels(values: Sequence[Any]) -> tuple[list[int], list[Any]]:
    """Places of the values that are no gap, and those values, plain; text that holds only numbers becomes numbers."""
    plain = [None if is_gap(value) else plain_value(value) for value in values]
    words = [value for value in plain if value is not None and not _is_number(value)]
    some = any(value is not None and _is_number(value) for value in plain)
    numbers = some and all(is_gap(value, among_numbers=True) for value in words)
    places = [n for n, value in enumerate(plain) if value is not None and not (numbers and is_gap(value, True))]
    known = [plain[place] for place in places]
    if all(map(_is_number, known)):
        known = [_number(value) if isinstance(value, str) else value for value in known]
    return places, known


def column_values(dataset: Any, name: str, what: str = "dataset") -> list[Any]:
    """A column as plain Python values.

    Raises:
        ValueError: if there is no such column, there are no rows, or rows can be read only one after the other.
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"Expected a {what} whose labels can be read before its scans, got {type(dataset).__name__}: it streams "
            "its rows. Load it without streaming, or pass list(dataset)."
        )
    if len(dataset) == 0:
        raise ValueError(f"The {what} has no rows. Check where it comes from.")
    names = getattr(dataset, "column_names", None) or list(dataset[0])
    check_column(names, name, what)
    if hasattr(dataset, "column_names"):
        return list(dataset.with_format(None).select_columns([name])[name])
    return [dataset[number][name] for number in range(len(dataset))]


def check_column(names: Iterable[str], name: str, what: str) -> None:
    """Raise ValueError, with the columns that may hold labels, unless a column is among them."""
    if name not in names:
        others = sorted(set(names).difference(*(kind.columns for kind in row_kinds.ROW_KINDS)))
        raise ValueError(f"The {what} has no column {name!r}; it has {', '.join(others)}.")


def labelled_rows(dataset: Any, column: str, what: str = "dataset") -> tuple[list[int], list[Any]]:
    """Numbers of the rows that have a label, and the labels; says how many have none."""
    everything = column_values(dataset, column, what)
    rows, values = known_labels(everything)
    if len(rows) < len(everything):
        print(
            f"{len(everything) - len(rows)} of {len(everything)} scans of the {what} have no {column} and are left out"
        )
    return rows, values


def choose_task(values: Sequence[Any], name: str = "label") -> str:
    """Whether labels without gaps are classes or numbers.

    Words and booleans are classes, numbers with fractions are regressed. Whole numbers are classes if only two of them
    occur or all are `CODES`, as a diagnosis is coded; others, such as ages, are regressed. How many rows there are has
    no part in it, so that a gap or another split changes nothing.

    Returns:
        `"classification"` or `"regression"`.
    """
    distinct = set(values)
    if any(isinstance(value, (str, bool)) for value in distinct):
        words = [value for value in values if not _is_number(value)]
        if 0 < len(words) <= 0.2 * len(values) and len(distinct) > 2:
            warnings.warn(
                f"{name}: all but {len(words)} (first: {words[0]!r}) of {len(values)} cells are numbers, so that it "
                f"counts as text with {len(distinct)} classes. Mend these cells, or leave them empty, to predict "
                "numbers.",
                stacklevel=3,
            )
        return "classification"
    if not all(isinstance(value, int) for value in distinct):
        return "regression"
    return "classification" if len(distinct) <= 2 or all(value in CODES for value in distinct) else "regression"


@dataclass
class Labels:
    """Labels of the scans that have one.

    Attributes:
        column, task: where they come from, and `"classification"` or `"regression"`.
        rows: rows of the dataset.
        values: as they are there, plain.
        targets: `(n,)` int64 classes or float64 numbers.
        label2id: numbers of the classes, `None` for regression.
    """

    column: str
    task: str
    rows: list[int]
    values: list[Any]
    label2id: dict[str, int] | None = None
    targets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.number(self.label2id)

    def number(self, label2id: Mapping[str, int] | None) -> None:
        """Give the classes these numbers."""
        self.label2id = None if label2id is None else dict(label2id)
        if label2id is None:
            self.targets = np.array(self.values, dtype=np.float64)
        else:
            self.targets = np.array([label2id[class_name(value)] for value in self.values], dtype=np.int64)

    @classmethod
    def read(cls, dataset: Any, column: str, task: str | None = None, what: str = "dataset") -> "Labels":
        """Labels of a dataset; [`choose_task`] says whether they are classes, in sorted order, unless `task` does.

        Raises:
            ValueError: if there are none, all are the same, or text or infinity is to be regressed.
        """
        rows, values = labelled_rows(dataset, column, what)
        if not values:
            raise ValueError(f"No row of the {what} has a {column}.")
        return cls._of(rows, values, column, task)

    @classmethod
    def from_values(cls, values: Sequence[Any], column: str = "label", task: str | None = None) -> "Labels":
        """Labels of a sequence, with gaps left out; `rows` are the places of the others.

        Raises:
            ValueError: as [`Labels.read`] does.
        """
        if getattr(values, "ndim", 1) != 1:
            raise ValueError(f"Expected one {column} a scan, got an array of shape {np.shape(values)}.")
        rows, known = known_labels(values.tolist() if hasattr(values, "tolist") else list(values))
        if not known:
            raise ValueError(f"None of {len(values)} scans has a {column}.")
        return cls._of(rows, known, column, task)

    @classmethod
    def _of(cls, rows: list[int], values: list[Any], column: str, task: str | None) -> "Labels":
        if other := [value for value in values if not isinstance(value, (str, bool, int, float))]:
            raise ValueError(
                f"Expected words or numbers in {column!r}, got {type(other[0]).__name__} ({str(other[0])[:40]!r}). "
                "Choose another column, or write its values as text."
            )
        task = task or choose_task(values, column)
        if task not in TASKS:
            raise ValueError(f"Expected task to be 'classification' or 'regression', got {task!r}.")
        if task == "regression":
            if text := [value for value in values if isinstance(value, str)]:
                raise ValueError(
                    f"Expected numbers in {column!r}, got text ({text[0]!r}), which cannot be regressed. Leave the "
                    "task out, or mend these cells."
                )
            if infinite := [row for row, value in zip(rows, values) if not math.isfinite(value)]:
                raise ValueError(f"Expected finite numbers in {column!r}, got infinity in row {infinite[0]}. Mend it.")
            if len(set(values)) < 2:
                raise ValueError(
                    f"Expected different numbers in {column!r}, got the single value {values[0]!r}: there is "
                    "nothing to predict."
                )
            return cls(column, task, rows, values)
        named = {class_name(value): value for value in values}
        words = any(isinstance(value, str) for value in values)
        classes = sorted(named, key=None if words else named.__getitem__)
        if len(classes) < 2:
            raise ValueError(
                f"Expected at least two classes in {column!r}, got the single value {values[0]!r}: there is nothing "
                "to tell apart."
            )
        return cls(column, task, rows, values, {name: number for number, name in enumerate(classes)})

    def describe(self) -> str:
        """The task in a few words with the number of classes, and how to choose the other where numbers allow both."""
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in self.values)
        if self.label2id is None:
            hint = " (as classes: --task classification)" if whole else ""
            return f"regression of {len(set(self.values))} distinct numbers{hint}"
        hint = " (to predict numbers: --task regression)" if whole and len(self.label2id) > 2 else ""
        return f"{len(self.label2id)} classes{hint}"

    def head_options(self) -> dict[str, Any]:
        """Fields of a configuration whose head predicts them."""
        if self.label2id is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "problem_type": "single_label_classification",
            "label2id": self.label2id,
            "id2label": {number: name for name, number in self.label2id.items()},
        }
