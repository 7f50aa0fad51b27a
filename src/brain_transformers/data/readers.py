"""Read one ROI series, or one table of coordinates, from a file."""

import gzip
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..optional import require
from ..processing.roi_orders import ROIOrder, permutation, resolve_roi_order
from .errors import ROISeriesReadError

# Suffixes that `read_roi_series` understands; text may be gzipped.
SERIES_SUFFIXES = (".npy", ".npz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".mat", ".dat")
_T_R_KEYS = ("t_r", "tr", "TR", "RepetitionTime")


@dataclass
class ROISeries:
    """One parcellated scan.

    Args:
        signals: (n_rois, n_timepoints) float32, C-contiguous, in the file's units.
        roi_labels: labels of the rows where the file has them.
        t_r: repetition time in seconds where the file, or the JSON file beside it, tells.
    """

    signals: np.ndarray
    roi_labels: tuple[str, ...] | None = None
    t_r: float | None = None


def series_suffix(path: str | Path) -> str:
    """The suffix that decides the format, `.gz` included (`"sub-01.tsv.gz"` -> `".tsv.gz"`)."""
    name = Path(path).name.lower()
    return next((suffix for suffix in sorted(SERIES_SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def read_roi_series(
    path: str | Path,
    *,
    roi_order: ROIOrder | None = None,
    n_rois: int | None = None,
    t_r: float | None = None,
    time_axis: int | None = None,
    key: str | None = None,
) -> ROISeries:
    """Read an ROI series from `.npy`, `.npz`, `.csv`, `.tsv` (also gzipped), `.mat` or BrainLM's `.dat`.

    Which axis is time follows from the number of ROIs; a file where that does not decide is refused. Tables may have a
    header with ROI labels, or labels in their first column; `.dat` is tab-separated text (n_timepoints, n_rois)
    without a header, as the authors of BrainLM write it.

    Args:
        path: the file.
        roi_order: order of the file's ROIs; gives the number of ROIs, and is checked against labels in the file.
        n_rois: number of ROIs, where the order is not one that is known.
        t_r: repetition time in seconds; wins over what the file tells.
        time_axis: 0 or 1, where shape alone does not decide.
        key: name of the array in `.npz` and `.mat` files that hold several.

    Returns:
        The series, (n_rois, n_timepoints) float32.

    Raises:
        ROISeriesReadError: if the file is missing, damaged, or not a series of that many ROIs.
    """
    path = Path(path)
    if roi_order is not None:
        labels = resolve_roi_order(roi_order).labels
        if labels and n_rois is not None and n_rois != len(labels):
            raise ValueError(
                f"roi_order has {len(labels)} ROIs but n_rois is {n_rois}. Give one of them, or make them agree."
            )
        n_rois = len(labels) or n_rois
    suffix = series_suffix(path)
    if not path.is_file():
        raise ROISeriesReadError(f"{path}: there is no such file.")
    if not suffix:
        raise ROISeriesReadError(
            f"{path}: expected one of {', '.join(SERIES_SUFFIXES)}, got {path.suffix or 'no suffix'!r}."
        )
    if not path.stat().st_size:
        raise ROISeriesReadError(f"{path}: the file is empty.")

    file_labels: tuple[str, ...] | None = None
    file_t_r: float | None = None
    label_axis: int | None = None
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                array, file_t_r, file_labels = _pick({name: archive[name] for name in archive.files}, key, n_rois)
        elif suffix == ".mat":
            array, file_t_r, file_labels = _pick(_load_mat(path), key, n_rois)
        else:
            array, file_labels, label_axis = _load_table(path, suffix, n_rois)
            if suffix == ".dat" and time_axis is None and (n_rois is None or array.shape == (n_rois, n_rois)):
                time_axis = 0  # the layout of this format is fixed
    except ROISeriesReadError as error:
        raise ROISeriesReadError(f"{path}: {error}") from error
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ROISeriesReadError(
            f"{path}: cannot be read as {suffix}; it may be truncated or not be what its name says ({error})."
        ) from error

    if time_axis is None and label_axis is not None:
        time_axis = 1 - label_axis
    signals = _orient(path, array, n_rois, time_axis)
    if file_labels is not None and len(file_labels) != signals.shape[0]:
        file_labels = None
    if file_labels is not None and roi_order is not None:
        _check_labels(path, file_labels, roi_order)
    if t_r is None:
        t_r = file_t_r if file_t_r is not None else _sidecar_t_r(path, suffix)
    return ROISeries(signals, file_labels, t_r)


def read_coordinates(path: str | Path, *, n_rois: int | None = 424) -> np.ndarray:
    """Read a table of parcel centres with columns index, X, Y, Z, such as BrainLM's `A424_Coordinates.dat`.

    Args:
        path: text separated by tabs, commas or spaces, one row a parcel, with or without a header.
        n_rois: number of rows that is expected; `None` takes any.

    Returns:
        (n_rois, 3) float32, mm MNI, in label order.

    Raises:
        ROISeriesReadError: if the table has other columns or another number of rows, its index is not 1, 2, 3, ... or
            a value is not a number of millimetres.
    """
    path = Path(path)
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ROISeriesReadError(f"{path}: cannot be read as a table of coordinates ({error}).") from error
    rows = [line.replace(",", " ").split() for line in lines]
    if rows and not _is_number(rows[0][-1]):
        rows = rows[1:]
    wrong = next((number for number, row in enumerate(rows) if len(row) != 4), None)
    if not rows or wrong is not None:
        what = "no rows" if wrong is None else f"{len(rows[wrong])} columns in row {wrong + 1}"
        raise ROISeriesReadError(f"{path}: expected four columns (index, X, Y, Z), got {what}.")
    if n_rois is not None and len(rows) != n_rois:
        raise ROISeriesReadError(f"{path}: expected {n_rois} rows, got {len(rows)}. The file may be cut off.")
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ROISeriesReadError(f"{path}: expected numbers only ({error}).") from error
    if not (table[:, 0] == np.arange(1, len(rows) + 1)).all():
        row = int(np.flatnonzero(table[:, 0] != np.arange(1, len(rows) + 1))[0])
        raise ROISeriesReadError(
            f"{path}: expected the index 1, 2, 3, ... in the first column, got {table[row, 0]:g} in row {row + 1}. "
            "Rows must be in label order."
        )
    if not np.isfinite(table).all() or np.abs(table[:, 1:]).max() > 250:
        raise ROISeriesReadError(f"{path}: expected millimetres MNI within 250 mm of the origin.")
    return table[:, 1:].astype(np.float32)


# --- formats ---


def _pick(
    arrays: dict[str, np.ndarray], key: str | None, n_rois: int | None
) -> tuple[np.ndarray, float | None, tuple[str, ...] | None]:
    """The series among the arrays of a file, with its t_r and labels if they are there."""
    matrices = {
        name: array for name, array in arrays.items() if array.ndim == 2 and array.dtype.kind in "fiub" and array.size
    }
    if key is not None:
        if key not in arrays:
            raise ROISeriesReadError(f"expected an array named {key!r}, got {sorted(arrays)}.")
        name = key
    else:
        fitting = [
            name for name, array in matrices.items() if array.size > 1 and (n_rois is None or n_rois in array.shape)
        ]
        if len(fitting) != 1:
            shapes = {name: array.shape for name, array in matrices.items()}
            expected = "one 2-D array" if n_rois is None else f"one 2-D array with {n_rois} ROIs"
            raise ROISeriesReadError(f"expected {expected}, got {shapes}. Name the array with key=.")
        name = fitting[0]
    t_r = None
    for candidate in _T_R_KEYS:
        if candidate in arrays and arrays[candidate].size == 1 and arrays[candidate].dtype.kind in "fiu":
            t_r = float(arrays[candidate].reshape(-1)[0])
    labels = arrays.get("roi_labels")
    names = (
        tuple(str(label).strip() for label in labels.reshape(-1))
        if labels is not None and labels.dtype.kind == "U"
        else None
    )
    return arrays[name], t_r, names


def _load_mat(path: Path) -> dict[str, np.ndarray]:
    scipy_io = require("scipy.io", extra="data", purpose="reading .mat files")
    try:
        content: dict[str, Any] = scipy_io.loadmat(path)
    except NotImplementedError:
        # Version 7.3 is HDF5.
        h5py = require("h5py", extra="data", purpose="reading .mat files of version 7.3")
        with h5py.File(path, "r") as file:
            content = {name: np.asarray(item) for name, item in file.items() if isinstance(item, h5py.Dataset)}
    return {
        name: value for name, value in content.items() if isinstance(value, np.ndarray) and not name.startswith("__")
    }


def _load_table(path: Path, suffix: str, n_rois: int | None) -> tuple[np.ndarray, tuple[str, ...] | None, int | None]:
    """Numbers of a text table, labels from its header or first column, and the axis these belong to."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if suffix.endswith(".gz") else raw).decode("utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip()]
    separator = "," if suffix.startswith(".csv") else "\t" if any("\t" in line for line in lines[:2]) else None
    first = [_bare(cell) for cell in lines[0].split(separator)]
    has_header = not all(_is_number(cell) or _is_gap(cell) for cell in first[1:] or first)
    # Tables without names often have column numbers as their header.
    counts = [first, first[1:]]
    has_header |= any(len(cells) > 2 and cells in (_count(0, len(cells)), _count(1, len(cells))) for cells in counts)
    header = first if has_header else None
    body = lines[1:] if has_header else lines
    if not body:
        raise ROISeriesReadError("the table has a header and no rows.")
    n_columns = len(first)
    for number, line in enumerate(body):
        got = line.count(separator) + 1 if separator else len(line.split())
        if got != n_columns:
            raise ROISeriesReadError(
                f"expected {n_columns} columns in every row, got {got} in row {number + 1} of {len(body)}. "
                "The file may be cut off."
            )
    row_labels = None
    cells = [_bare(line.split(separator, 1)[0]) for line in body]
    named_rows = n_columns > 1 and not any(_is_number(cell) or _is_gap(cell) for cell in cells)
    # pandas writes its row numbers under an empty header cell.
    numbered_rows = (
        header is not None
        and header[0] in ("", "Unnamed: 0", "index")
        and cells in (_count(0, len(body)), _count(1, len(body)))
        and (n_rois is None or n_columns != n_rois)
    )
    skip = 1 if named_rows or numbered_rows else 0
    if named_rows:
        row_labels = tuple(cells)
    if skip:
        body = [line.split(separator, 1)[1] for line in body]
    array = _parse_numbers(body, separator, n_columns - skip)
    if row_labels is not None:
        return array, row_labels, 0
    if header is not None:
        return array, tuple(header[skip:]), 1
    return array, None, None


def _parse_numbers(body: list[str], separator: str | None, n_columns: int) -> np.ndarray:
    try:
        # The quick way; it fails on gaps.
        return np.loadtxt(body, dtype=np.float64, delimiter=separator, ndmin=2, comments=None)
    except ValueError:
        rows = [[_bare(cell) for cell in line.split(separator)] for line in body]
    values = np.empty((len(rows), n_columns))
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            if _is_gap(cell):
                values[number, column] = np.nan
            elif _is_number(cell):
                values[number, column] = float(cell)
            else:
                raise ROISeriesReadError(f"expected numbers, got {cell!r} in row {number + 1}, column {column + 1}.")
    return values


def _count(first: int, n: int) -> list[str]:
    return [str(number) for number in range(first, first + n)]


def _bare(cell: str) -> str:
    return cell.strip().strip("\"'")


def _is_gap(cell: str) -> bool:
    return cell.lower() in ("", "n/a", "na", "nan", "null", "none")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# --- checks ---


def _orient(path: Path, array: np.ndarray, n_rois: int | None, time_axis: int | None) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise ROISeriesReadError(
            f"{path}: expected a 2-D array of real numbers, got shape {array.shape}, dtype {array.dtype}."
        )
    if time_axis is not None:
        signals = array if time_axis == 1 else array.T
        if n_rois is not None and signals.shape[0] != n_rois:
            raise ROISeriesReadError(
                f"{path}: expected {n_rois} ROIs, got shape {array.shape} with time on axis {time_axis}."
            )
    elif n_rois is None:
        raise ROISeriesReadError(
            f"{path}: the number of ROIs is not known, so which axis of {array.shape} is time cannot be told. "
            "Give roi_order, n_rois or time_axis."
        )
    elif array.shape == (n_rois, n_rois):
        raise ROISeriesReadError(
            f"{path}: both axes have {n_rois} entries, so time cannot be told. Give time_axis=0 or 1."
        )
    elif array.shape[0] == n_rois:
        signals = array
    elif array.shape[1] == n_rois:
        signals = array.T
    else:
        raise ROISeriesReadError(
            f"{path}: expected {n_rois} ROIs on one axis, got shape {array.shape}. The file may be cut off, or come "
            "from another atlas: check roi_order."
        )
    if signals.shape[1] < 2:
        raise ROISeriesReadError(f"{path}: expected a series in time, got {signals.shape[1]} timepoint(s).")
    return np.ascontiguousarray(signals, dtype=np.float32)


def _check_labels(path: Path, labels: tuple[str, ...], roi_order: ROIOrder) -> None:
    """Refuse a file whose own labels contradict the order it is declared to have."""
    if len(set(labels)) != len(labels) or not resolve_roi_order(roi_order).known:
        return
    try:
        moved = permutation(list(labels), roi_order)
    except ValueError:
        return  # other names for the parcels, or a sorted order without shipped centres: nothing to compare
    if not moved.missing and not (moved.index == np.arange(len(labels))).all():
        row = int(np.flatnonzero(moved.index != np.arange(len(labels)))[0])
        raise ROISeriesReadError(
            f"{path}: its labels are in another order than the roi_order it is declared to have (row {row} is "
            f"{labels[row]!r}). Declare the order that the labels have, or give them as a list."
        )


def _sidecar_t_r(path: Path, suffix: str) -> float | None:
    sidecar = path.with_name(path.name[: -len(suffix)] + ".json")
    if not sidecar.is_file():
        return None
    try:
        value = json.loads(sidecar.read_text(encoding="utf-8")).get("RepetitionTime")
    except (ValueError, AttributeError) as error:
        raise ROISeriesReadError(f"{sidecar}: cannot be read as JSON ({error}).") from error
    return None if value is None else float(value)
