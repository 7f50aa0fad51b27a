"""What a fine-tuned model says of each scan, as a table for people and spreadsheets."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.labels import class_name, column_values
from ..data.participants import table_cell

_WHO = ("subject", "session", "run", "source_file")


def predictions_csv(
    rows: Any, labels: Sequence[Any], logits: np.ndarray, label2id: Mapping[str, int] | None = None
) -> str:
    """Text of a CSV table with one line a scan: who it is, its label, what was predicted.

    Columns: `subject`, `session`, `run`, `source_file` where the rows have them, `label`, `prediction`, and for
    classes `probability_<class>`. Text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        rows: the scans, an Arrow dataset or a list.
        labels: of each scan.
        logits: `(n_scans, n_classes)`, or `(n_scans, 1)` for numbers, in their own units.
        label2id: numbers of the classes; `None` for regression.
    """
    logits = np.asarray(logits, dtype=np.float64).reshape(len(labels), -1)
    names = getattr(rows, "column_names", None) or list(rows[0])
    who = {name: column_values(rows, name) for name in _WHO if name in names}
    table: dict[str, Sequence[Any]] = {**who}
    if label2id is None:
        table["label"], table["prediction"] = labels, logits[:, 0].tolist()
    else:
        classes = {number: name for name, number in label2id.items()}
        likely = np.exp(logits - logits.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        table["label"] = [class_name(label) for label in labels]
        table["prediction"] = [classes[number] for number in logits.argmax(axis=1).tolist()]
        for number in sorted(classes):
            table[f"probability_{classes[number]}"] = likely[:, number].round(6).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    lines = zip(*table.values(), strict=True)
    writer.writerows(["" if value is None else table_cell(value) for value in line] for line in lines)
    return text.getvalue()
