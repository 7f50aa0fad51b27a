"""Kinds of rows: what a dataset of scans holds of each scan, told by its columns.

Builders, saved datasets and checks ask the kind; another modality is a [`RowKind`] of its own in `ROW_KINDS`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..optional import require
from .scan_names import NAME_COLUMNS


@dataclass(frozen=True)
class RowKind:
    """What the rows of a dataset hold of a scan.

    Attributes:
        name: how messages call the scans.
        columns: its own columns and their Arrow types, `[type]` for a flat list; the first one holds the scan.
        needed: columns by which its rows are known.
        fault: what is wrong with the values of an Arrow table of such rows, in words; `""` if nothing is.
    """

    name: str
    columns: Mapping[str, str | Sequence[str]]
    needed: tuple[str, ...]
    fault: Callable[[Any], str]

    def features(self, extra: Mapping[str, Any] | None = None) -> Any:
        """Features of a dataset: its own columns, what names say, where the scan is from, and `extra` ones."""
        datasets = require("datasets", extra="data", purpose="datasets of scans")
        own = {
            column: datasets.Value(kind) if isinstance(kind, str) else datasets.List(datasets.Value(*kind))
            for column, kind in self.columns.items()
        }
        names = dict.fromkeys(NAME_COLUMNS, datasets.Value("string"))
        where = {"subject_known": datasets.Value("bool"), "source_file": datasets.Value("string")}
        return datasets.Features({**own, **names, **where, **(extra or {})})


def arrow_table(cells: Mapping[str, Sequence[Any]], features: Any) -> Any:
    """An Arrow table of columns of cells; arrays in columns of lists are not copied, and `None` is a gap."""
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

    def column(field: Any) -> Any:
        values = cells[field.name]
        if not (pa.types.is_list(field.type) and any(isinstance(value, np.ndarray) for value in values)):
            return pa.array(list(values), field.type)
        flat = [np.empty(0) if value is None else value.reshape(-1) for value in values]
        of_type = field.type.value_type
        lists = [pa.ListArray.from_arrays(pa.array([0, v.size], pa.int32()), pa.array(v, of_type)) for v in flat]
        return pa.chunked_array(lists)

    schema = features.arrow_schema
    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def kind_of(columns: Collection[str]) -> RowKind | None:
    """The kind of rows with these columns, `None` if they hold no scans."""
    return next((kind for kind in ROW_KINDS if set(kind.needed) <= set(columns)), None)


# --- the kinds ---


def _series_fault(table: Any) -> str:
    """Signals, sizes and lengths that belong together; signals are not read."""
    pa = require("pyarrow", extra="data", purpose="datasets of scans")
    pc = require("pyarrow.compute", extra="data", purpose="datasets of scans")
    signals, n_rois = table.column("signals"), table.column("n_rois")
    if not pa.types.is_list(signals.type) or not pa.types.is_floating(signals.type.value_type):
        return f"signals of type {signals.type}"
    if not pa.types.is_integer(n_rois.type):
        return f"n_rois of type {n_rois.type}"
    if not len(table):
        return ""
    sizes = pc.list_value_length(signals)
    if n_rois.null_count or sizes.null_count or pc.min(n_rois).as_py() < 1:
        return "rows without signals, or with fewer than 1 ROI"
    if "n_timepoints" in table.column_names:
        # Not a row may be cut into ROIs that it does not have.
        product = pc.multiply(n_rois, table.column("n_timepoints"))
        if product.null_count or not pc.all(pc.equal(product, pc.cast(sizes, product.type))).as_py():
            return "rows whose signals are not n_rois x n_timepoints values"
    return ""


SERIES = RowKind(
    "series of ROIs",
    # Flat, since with the numpy format that reads as fast as a memory map; nested lists cost a hundred times more.
    {"signals": ["float32"], "n_rois": "int64", "n_timepoints": "int64", "t_r": "float64", "roi_order": "string"},
    needed=("signals", "n_rois", "roi_order"),
    fault=_series_fault,
)
"""A series of ROIs in its own order, repetition time (seconds) and units: (n_rois, n_timepoints), flattened."""

ROW_KINDS: list[RowKind] = [SERIES]
