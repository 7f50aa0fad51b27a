"""Read one ROI series, or one table of coordinates, from a file."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import ROIOrder, canonical_label, n_rois_of, resolve_roi_order, roi_labels
from ..foreign import reading
from ..processing.time import check_t_r
from .arrays import read_npy, read_npz
from .cifti import SUFFIX as PTSERIES
from .cifti import is_cifti, read_ptseries, refusal
from .errors import ROISeriesReadError
from .matlab import read_mat
from .sidecars import scan_t_r
from .tables import is_number, read_lines, read_table

# Suffixes that `read_roi_series` understands; text may be gzipped.
SERIES_SUFFIXES = (".npy", ".npz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".mat", ".dat", PTSERIES)
_T_R_KEYS = ("t_r", "tr", "TR", "RepetitionTime")
_LABEL_KEYS = ("roi_labels", "labels", "roi_names", "region_names", "regions", "rois", "names")


@dataclass
class ROISeries:
    """One parcellated scan.

    Args:
        signals: (n_rois, n_timepoints) float32, C-contiguous, in the file's units.
        roi_labels: labels of the rows where the file has them.
        t_r: repetition time in seconds where the file, or the JSON file beside it, tells.
        frame_mask: (n_timepoints,) bool, false for frames that were cut, at their true times; `None` if none was.
        coverage: (n_rois,) float32, share of each parcel that held data, of series that were averaged here.
        provenance: how they were made, as JSON takes it.
    """

    signals: np.ndarray
    roi_labels: tuple[str, ...] | None = None
    t_r: float | None = None
    frame_mask: np.ndarray | None = None
    coverage: np.ndarray | None = None
    provenance: dict[str, Any] | None = None


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
    """Read an ROI series: `.npy`, `.npz`, `.csv`, `.tsv` (also gzipped), `.mat`, `.ptseries.nii`, or BrainLM's `.dat`.

    Which axis is time follows from the number of ROIs; a file where that does not decide is refused. Tables may have a
    header with ROI labels, or labels in their first column, and either may be numbers; `.dat` is tab-separated text
    (n_timepoints, n_rois) without a header, as the authors of BrainLM write it. Values that are infinite, or too large
    for float32, are missing (NaN), with a warning.

    Args:
        path: the file.
        roi_order: order of the file's ROIs; gives the number of ROIs, and is checked against labels in the file.
        n_rois: number of ROIs, where the order is not one that is known.
        t_r: repetition time in seconds; wins over what the file and its sidecars tell, with a warning where they
            differ; see [`scan_t_r`].
        time_axis: 0 or 1, where shape alone does not decide.
        key: name of the array in `.npz` and `.mat` files that hold several; fields and cells of MATLAB as in
            `"data.series"` and `"runs{2}"`.

    Returns:
        The series, (n_rois, n_timepoints) float32.

    Raises:
        ROISeriesReadError: if the file is missing, damaged, or not a series of that many ROIs.
    """
    path = Path(path)
    if t_r is not None:
        t_r = check_t_r(t_r)
    if time_axis not in (None, 0, 1):
        raise ValueError(f"Expected time_axis to be 0 or 1, got {time_axis!r}.")
    if roi_order is not None:
        n_rois = n_rois_of(roi_order, n_rois)
    if not path.is_file():
        raise ROISeriesReadError(f"{path}: there is no such file.")
    suffix = series_suffix(path)
    if not suffix:
        if is_cifti(path):
            raise ROISeriesReadError(refusal(path))
        raise ROISeriesReadError(
            f"{path}: expected one of {', '.join(SERIES_SUFFIXES)}, got {path.suffix or 'no suffix'!r}."
        )
    if not path.stat().st_size:
        raise ROISeriesReadError(f"{path}: the file is empty.")
    with reading(path, f"a series of ROIs ({suffix})", "Is it whole, and what its name says?", ROISeriesReadError):
        array, labels, in_file, label_axis = _load(path, suffix, key, n_rois)
        if labels is not None and label_axis is not None and roi_order is not None and len(labels) != n_rois:
            array, labels = _take_by_label(path, array, label_axis, labels, roi_order)
        if suffix == ".dat" and time_axis is None and (n_rois is None or array.shape == (n_rois, n_rois)):
            time_axis = 0  # the layout of this format is fixed
        if time_axis is None and label_axis is not None:
            time_axis = 1 - label_axis
        signals = _orient(path, array, n_rois, time_axis)
        if labels is not None and len(labels) != signals.shape[0]:
            labels = None
        if labels is not None and roi_order is not None:
            _check_labels(path, labels, roi_order)
        return ROISeries(signals, labels, scan_t_r(path, given=t_r, header=in_file))


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
    with reading(path, "a table of coordinates", error=ROISeriesReadError):
        rows = [line.replace(",", " ").split() for line in read_lines(path)]
    if rows and not is_number(rows[0][-1]):
        rows = rows[1:]
    wrong = next((number for number, row in enumerate(rows) if len(row) != 4), None)
    if not rows or wrong is not None:
        what = "no rows" if wrong is None else f"{len(rows[wrong])} columns in row {wrong + 1}"
        raise ROISeriesReadError(f"{path}: expected four columns (index, X, Y, Z), got {what}.")
    if n_rois is not None and len(rows) != n_rois:
        raise ROISeriesReadError(f"{path}: expected {n_rois} rows, got {len(rows)}. The file may be cut off.")
    nonsense = next((cell for row in rows for cell in row if not is_number(cell)), None)
    if nonsense is not None:
        raise ROISeriesReadError(f"{path}: expected numbers only, got {nonsense[:40]!r}.")
    table = np.array([[float(cell) for cell in row] for row in rows])
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


def _load(
    path: Path, suffix: str, key: str | None, n_rois: int | None
) -> tuple[np.ndarray, tuple[str, ...] | None, float | None, int | None]:
    """The array of a file, its labels, its repetition time, and the axis of the array that the labels belong to."""
    labels: tuple[str, ...] | None
    if suffix == PTSERIES:
        array, labels, t_r = read_ptseries(path)
        return array, labels, t_r, 0
    if suffix == ".npy":
        return read_npy(path), None, None, None
    if suffix == ".npz":
        array, t_r, labels = _pick(read_npz(path), key, n_rois)
        return array, labels, t_r, None
    if suffix == ".mat":
        array, t_r, labels = _pick(read_mat(path), key, n_rois)
        return array, labels, t_r, None
    table = read_table(path, n_rois)
    named = [(axis, names) for axis, names in ((0, table.rows), (1, table.columns)) if names is not None]
    fitting = [(axis, names) for axis, names in named if len(names) == n_rois] or named
    for axis, names in fitting:
        if _are_words(names):
            return table.values, names, None, axis
    return table.values, fitting[0][1] if fitting else None, None, None  # numbers do not tell which axis is time


def _are_words(names: Sequence[str]) -> bool:
    return not any(is_number(name) for name in names)


def _pick(
    arrays: dict[str, np.ndarray], key: str | None, n_rois: int | None
) -> tuple[np.ndarray, float | None, tuple[str, ...] | None]:
    """The series among the arrays of a file, with its t_r and labels if they are there."""
    if key is not None:
        if key not in arrays:
            raise ROISeriesReadError(f"expected an array named {key!r}, got {_listed(arrays)}.")
        name = key
    else:
        fitting = [
            name
            for name, array in arrays.items()
            if array.ndim == 2
            and array.dtype.kind in "fiub"
            and array.size > 1
            and (n_rois is None or n_rois in array.shape)
        ]
        if len(fitting) != 1:
            shapes = {name: array.shape for name, array in arrays.items() if array.dtype.kind in "fiub"}
            sparse = [name for name, array in arrays.items() if array.dtype.kind == "V"]
            also = f" ({_listed(sparse)} is sparse: save full(...) of it)" if sparse else ""
            expected = "one 2-D array" if n_rois is None else f"one 2-D array with {n_rois} ROIs"
            raise ROISeriesReadError(
                f"expected {expected}, got {_listed(f'{name} {shape}' for name, shape in shapes.items()) or 'none'}"
                f"{also}. Name the array with key (--key)."
            )
        name = fitting[0]
    # Fields beside a series in a struct belong to it.
    inside = name.rpartition(".")[0]
    told: dict[str, float] = {}
    for candidate in _T_R_KEYS:
        value = arrays.get(f"{inside}.{candidate}" if inside else candidate, arrays.get(candidate))
        if value is not None and value.size == 1 and value.dtype.kind in "fiu":
            told[candidate] = float(value.reshape(-1)[0])
    if told and max(told.values()) - min(told.values()) > 1e-3:
        raise ROISeriesReadError(
            f"expected one repetition time, got {', '.join(f'{name} = {value:g}' for name, value in told.items())}. "
            "Keep the right one."
        )
    t_r = next(iter(told.values()), None)
    return arrays[name], t_r, _find_labels(arrays, arrays[name].shape)


def _find_labels(arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """The texts among the arrays that can name the rows or columns of a series: one vector, or a MATLAB cell."""
    cells: dict[str, list[str]] = {}
    for name, array in arrays.items():
        if array.dtype.kind in "US" and array.size:
            texts = [
                value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                for value in array.reshape(-1).tolist()
            ]
            cells.setdefault(re.sub(r"\{\d+\}$", "", name), []).extend(text.strip() for text in texts)
    fitting = {name: texts for name, texts in cells.items() if len(texts) in shape and len(set(texts)) == len(texts)}
    best = next((name for name in _LABEL_KEYS for other in fitting if other.rpartition(".")[2] == name), None)
    chosen = next((texts for name, texts in fitting.items() if best is None or name.rpartition(".")[2] == best), None)
    return None if chosen is None else tuple(chosen)


def _listed(names: Iterable[str]) -> str:
    everything = sorted(names)
    more = f" and {len(everything) - 8} more" if len(everything) > 8 else ""
    return ", ".join(name[:60] for name in everything[:8]) + more


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
            "Give roi_order (--roi-order), n_rois (--n-rois) or time_axis (--time-axis)."
        )
    elif array.shape == (n_rois, n_rois):
        raise ROISeriesReadError(
            f"{path}: both axes have {n_rois} entries, so time cannot be told. Give time_axis (--time-axis), 0 or 1; "
            "if it is a matrix of ROIs by ROIs, leave it out with pattern (--pattern)."
        )
    elif array.shape[0] == n_rois:
        signals = array
    elif array.shape[1] == n_rois:
        signals = array.T
    else:
        raise ROISeriesReadError(
            f"{path}: expected {n_rois} ROIs on one axis, got shape {array.shape}. The file may be cut off, or come "
            "from another atlas: check roi_order (--roi-order)."
        )
    if signals.shape[1] < 2:
        raise ROISeriesReadError(f"{path}: expected a series in time, got {signals.shape[1]} timepoint(s).")
    _refuse_matrix(path, signals)
    with np.errstate(over="ignore", invalid="ignore"):
        # A copy: what was read may be a view of the file's bytes.
        result = np.array(signals, dtype=np.float32, order="C")
    infinite = np.isinf(result)
    if infinite.any():
        result[infinite] = np.nan
        warnings.warn(
            f"{path}: {int(infinite.sum())} values are infinite or too large for float32; they are missing (NaN) now.",
            UserWarning,
            stacklevel=4,
        )
    if np.isnan(result).all():
        raise ROISeriesReadError(f"{path}: expected numbers, got only missing values.")
    return result


def _refuse_matrix(path: Path, signals: np.ndarray) -> None:
    """Refuse a matrix of ROIs by ROIs: no recording has as many timepoints as ROIs and is its own mirror image, has
    one value along its diagonal, or nothing on one side of it."""
    if not signals.shape[0] == signals.shape[1] > 2:
        return
    diagonal, filled = np.diag(signals), np.nan_to_num(signals)
    mirrored = np.allclose(signals, signals.T, rtol=1e-4, atol=1e-5, equal_nan=True)
    one_value = np.isnan(diagonal).all() or bool((np.abs(diagonal - diagonal[0]) < 1e-5).all())
    one_sided = not np.triu(filled, 1).any() or not np.tril(filled, -1).any()
    if mirrored or one_value or one_sided:
        ones = bool((np.abs(diagonal - 1) < 1e-3).all())
        kind = "correlation matrix" if ones else "symmetric matrix" if mirrored else "matrix"
        raise ROISeriesReadError(
            f"{path}: expected a series in time, got a {kind} of {len(signals)} ROIs. Leave such files out with "
            "pattern (--pattern)."
        )


def _take_by_label(
    path: Path, array: np.ndarray, axis: int, labels: tuple[str, ...], roi_order: ROIOrder
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The parcels of the order out of a file that has more, such as cortex and subcortex of XCP-D's 4S atlases.

    A file that lacks one stays as it is, and is refused for its number of parcels.
    """
    places = _places(labels, roi_order)
    rows = {place: row for row, place in enumerate(places) if place is not None}
    n_rois = n_rois_of(roi_order)
    if n_rois is None or len(rows) != n_rois or len(set(labels)) != len(labels):
        return array, labels
    order = [rows[place] for place in range(n_rois)]
    others = [label for label, place in zip(labels, places) if place is None]
    if len(order) + len(others) != len(labels):
        return array, labels  # two spellings of one parcel
    warnings.warn(
        f"{path}: {len(others)} of {len(labels)} parcels (first: {others[0]!r}) are not part of the roi_order and are "
        "left out; the others are taken by their labels.",
        UserWarning,
        stacklevel=4,
    )
    return np.take(array, order, axis), tuple(labels[row] for row in order)


def _check_labels(path: Path, labels: tuple[str, ...], roi_order: ROIOrder) -> None:
    """Refuse a file whose own labels contradict the order it is declared to have; say what cannot be compared."""
    if not resolve_roi_order(roi_order).known:
        return
    found = _places(labels, roi_order)
    wrong = [row for row, place in enumerate(found) if place is not None and place != row]
    if wrong:
        raise ROISeriesReadError(
            f"{path}: its labels are in another order than the roi_order it is declared to have (row {wrong[0]} is "
            f"{labels[wrong[0]]!r}; {len(wrong)} of {len(labels)} are elsewhere). Declare the order that the labels "
            "have, or give them as a list."
        )
    unknown = [label for label, place in zip(labels, found) if place is None]
    if unknown and _are_words(unknown):
        others = ", the others agree" if len(unknown) < len(labels) else ""
        warnings.warn(
            f"{path}: {len(unknown)} of {len(labels)} labels (first: {unknown[0]!r}) are not among those of the "
            f"roi_order, so their rows are taken as declared{others}.",
            UserWarning,
            stacklevel=4,
        )


def _places(labels: tuple[str, ...], roi_order: ROIOrder) -> list[int | None]:
    """Row of each label in an order, `None` for labels that it does not have."""
    try:
        declared = roi_labels(roi_order)
    except ValueError:
        declared = ()  # a name without labels, or sorted by coordinates that are not shipped
    rows = {name: row for row, label in enumerate(declared) for name in _spellings(label)}
    return [next((rows[name] for name in _spellings(label) if name in rows), None) for label in labels]


def _spellings(label: str) -> set[str]:
    """How tools write a label: in the names of either edition, with or without the edition in front, in any case."""
    names = {label, canonical_label(label), canonical_label(f"17Networks_{label}")}
    return {name.removeprefix("7Networks_").removeprefix("17Networks_").casefold() for name in names}
