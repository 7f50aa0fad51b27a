"""Labels of scans: which rows have one, what kind of task it makes, and where a head for it begins."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification


def is_missing(value: Any) -> bool:
    """Whether a value of a column stands for no value."""
    return value is None or (isinstance(value, str) and value in ("", "n/a", "nan")) or value != value


def column_values(dataset: Any, name: str, what: str = "dataset") -> list[Any]:
    """A column as plain Python values.

    Args:
        dataset: an Arrow dataset or a list of rows.
        name: of the column.
        what: what to call the dataset in an error.

    Raises:
        ValueError: if there is no such column, or there are no rows.
    """
    if len(dataset) == 0:
        raise ValueError(f"The {what} has no rows. Check where it comes from.")
    names = getattr(dataset, "column_names", None) or list(dataset[0])
    if name not in names:
        others = sorted(set(names) - {"signals", "n_rois", "n_timepoints", "roi_order"})
        raise ValueError(f"The {what} has no column {name!r}; it has {', '.join(others)}.")
    if hasattr(dataset, "column_names"):
        return list(dataset.with_format(None).select_columns([name])[name])
    values = [dataset[number][name] for number in range(len(dataset))]
    return [value.item() if isinstance(value, (np.generic, np.ndarray)) else value for value in values]


def labelled_rows(dataset: Any, column: str, what: str = "dataset") -> tuple[list[int], list[Any]]:
    """Numbers of the rows that have a label, and the labels; says how many have none."""
    everything = column_values(dataset, column, what)
    rows = [number for number, value in enumerate(everything) if not is_missing(value)]
    if len(rows) < len(everything):
        print(
            f"{len(everything) - len(rows)} of {len(everything)} scans of the {what} have no {column} and are left out"
        )
    return rows, [everything[number] for number in rows]


@dataclass
class Labels:
    """Labels of the scans that have one.

    Attributes:
        column, task: where they come from, and `"classification"` or `"regression"`.
        rows: rows of the dataset.
        values: as they are there.
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
            self.targets = np.array([label2id[str(value)] for value in self.values], dtype=np.int64)

    @classmethod
    def read(cls, dataset: Any, column: str, task: str | None = None, what: str = "dataset") -> "Labels":
        """Labels of a dataset; whole numbers and words are classes, in sorted order, unless `task` says otherwise.

        Raises:
            ValueError: if there are none, all are the same, or text or infinity is to be regressed.
        """
        rows, values = labelled_rows(dataset, column, what)
        if not values:
            raise ValueError(f"No row of the {what} has a {column}.")
        whole = all(isinstance(value, (str, bool, int)) for value in values)
        task = task or ("classification" if whole else "regression")
        if task not in ("classification", "regression"):
            raise ValueError(f"Expected task to be 'classification' or 'regression', got {task!r}.")
        if task == "regression":
            if any(isinstance(value, str) for value in values):
                raise ValueError(f"{column!r} holds text, which cannot be regressed. Leave the task out.")
            if infinite := [row for row, value in zip(rows, values) if not np.isfinite(value)]:
                raise ValueError(f"Expected finite numbers in {column!r}, got infinity in row {infinite[0]}. Mend it.")
            return cls(column, task, rows, values)
        classes = sorted(set(values))
        if len(classes) < 2:
            raise ValueError(
                f"Expected at least two classes in {column!r}, got the single value {classes[0]!r}: there is nothing "
                "to tell apart."
            )
        return cls(column, task, rows, values, {str(value): number for number, value in enumerate(classes)})

    def describe(self) -> str:
        """The task in a few words, with a hint where many whole numbers became classes."""
        if self.label2id is None:
            return "regression"
        many = len(self.label2id) > 10 and not any(isinstance(value, (str, bool)) for value in self.values)
        return f"{len(self.label2id)} classes" + (" (to predict numbers: task regression)" if many else "")

    def head_options(self) -> dict[str, Any]:
        """Fields of a configuration whose head predicts them."""
        if self.label2id is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "problem_type": "single_label_classification",
            "label2id": self.label2id,
            "id2label": {number: name for name, number in self.label2id.items()},
        }


def load_with_new_head(source: Any, options: Mapping[str, Any]) -> Any:
    """The body of a saved model with a head that starts from random weights, whatever head was saved with it.

    Args:
        source: folder or Hub name.
        options: fields of the configuration that the head is made by, such as [`Labels.head_options`].
    """
    body: Any = AutoModel.from_pretrained(source)
    config = copy.deepcopy(body.config)
    for name, value in options.items():
        setattr(config, name, value)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=body.dtype)
    setattr(model, model.base_model_prefix, body)
    return model


@torch.no_grad()
def start_head_at(model: Any, value: float) -> None:
    """Let a new head for regression begin with this output, from where labels such as ages are reached in few steps.

    Args:
        model: a `...ForSequenceClassification` model.
        value: in units of the label: the mean, which is best for squared errors, or the median, for absolute ones.
    """
    last = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]
    last.bias.fill_(value)
