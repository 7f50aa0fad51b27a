"""Read one ROI series, or one table of coordinates, from a file."""

import itertools
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import (
    ROI_ORDERS,
    ROIOrder,
    n_rois_of,
    order_name,
    order_of_labels,
    resolve_roi_order,
    roi_labels,
    roi_order_text,
)
from ..atlases.spellings import declared_order, matched_rows, only_counted
from ..foreign import reading
from ..processing.time import check_t_r
from .arrays import read_npy, read_npz
from .censoring import censored
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


class OrderNotToldError(ROISeriesReadError):
    """A file that tells neither which of its rows is which parcel, nor was said to."""


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
        roi_order: order of the rows, as text: a name, or their labels; `None` where nothing tells.
    """

    signals: np.ndarray
    roi_labels: tuple[str, ...] | None = None
    t_r: float | None = None
    frame_mask: np.ndarray | None = None
    coverage: np.ndarray | None = None
    provenance: dict[str, Any] | None = None
    roi_order: str | None = None


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

    Labels of the rows are their order: of a file that has some, the parcels of `roi_order` are taken by their labels,
    in whatever order they stand, and the rest is named; without `roi_order` the rows stay as they are, in the order
    that their labels tell. Where there are none, the name of the file may declare the order, as UK Biobank's
    `fMRI.Schaefer17n400p.csv.gz` does.

    Which axis is time follows from the labels or the number of ROIs; a file where that does not decide is refused.
    Tables may have a header with ROI labels, or labels in their first column, and either may be numbers; `.dat` is
    tab-separated text (n_timepoints, n_rois) without a header, as the authors of BrainLM write it. Values that are
    infinite, or too large for float32, are missing (NaN), with a warning. Frames that XCP-D cut out (`_outliers.tsv`)
    are NaN at their times; see [`censored`](brain_transformers.data.censoring.censored).

    Args:
        path: the file.
        roi_order: order of the rows that is wanted. Where the file tells nothing of its own, it is taken to be this.
        n_rois: number of ROIs, where the order is not one that is known.
        t_r: repetition time in seconds; wins over what the file and its sidecars tell, with a warning where they
            differ; see [`scan_t_r`].
        time_axis: 0 or 1, where shape alone does not decide.
        key: name of the array in `.npz` and `.mat` files that hold several; fields and cells of MATLAB as in
            `"data.series"` and `"runs{2}"`.

    Returns:
        The series, (n_rois, n_timepoints) float32.

    Raises:
        ROISeriesReadError: if the file is missing, damaged, or not a series of those ROIs.
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
    by_name = declared_order(path.name)
    with reading(path, f"a series of ROIs ({suffix})", "Is it whole, and what its name says?", ROISeriesReadError):
        array, labels, in_file, label_axis = _load(path, suffix, key, n_rois)
        if n_rois is None and by_name is not None and n_rois_of(by_name) in array.shape:
            n_rois = n_rois_of(by_name)
        if labels is not None and label_axis is None and len(set(array.shape)) == 2 and len(labels) in array.shape:
            label_axis = array.shape.index(len(labels))
        if suffix == ".dat" and time_axis is None and (n_rois is None or array.shape == (n_rois, n_rois)):
            time_axis = 0  # the layout of this format is fixed
        if time_axis is None and label_axis is not None and array.ndim == 2:
            time_axis = 1 - label_axis
        named = labels is not None and time_axis is not None and array.shape[1 - time_axis] == len(labels)
        signals = _orient(path, array, None if named and tells_parcels(labels) else n_rois, time_axis)
        labels = labels if labels is not None and len(labels) == len(signals) else None
        series = ROISeries(signals, labels, scan_t_r(path, given=t_r, header=in_file))
        series = in_order(path, series, roi_order, n_rois, by_name)
        series.signals, series.frame_mask = censored(path, series.signals)
        _say_missing(path, series)
        return series


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
    worded = [(axis, names) for axis, names in named if _are_words(names)]
    fitting = [(axis, names) for axis, names in worded if len(names) == n_rois] or worded
    if len(fitting) > 1:
        # Parcels have names, and frames are counted: T0, T1, ...
        fitting = (
            [(axis, names) for axis, names in fitting if not only_counted(names)]
            or [(axis, names) for axis, names in fitting if not all(map(_FRAME.fullmatch, names))]
            or fitting
        )
    if len(fitting) > 1 and len(fitting[0][1]) != n_rois:
        raise ROISeriesReadError(
            f"rows ({', '.join(fitting[0][1][:2])}, ...) and columns ({', '.join(fitting[1][1][:2])}, ...) have "
            "names, so it cannot be told which are parcels. Give roi_order (--roi-order)."
        )
    if fitting:
        return table.values, fitting[0][1], None, fitting[0][0]
    numbered = [names for _, names in named if len(names) == n_rois] or [names for _, names in named]
    return table.values, numbered[0] if numbered else None, None, None  # numbers do not tell which axis is time


_FRAME = re.compile(r"(t|tr|time|time ?point|frame|vol(ume)?|scan)[ _.-]*\d+", re.IGNORECASE)


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
        raise OrderNotToldError(
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


def in_order(
    path: Path,
    series: ROISeries,
    roi_order: ROIOrder | None,
    n_rois: int | None = None,
    by_name: str | None = None,
) -> ROISeries:
    """A series with its rows in an order that is wanted, matched by their labels; or told its own order.

    Args:
        path: the file, for messages.
        series: with labels of its rows, where there are some.
        roi_order: what is wanted, or `None` for its own order.
        n_rois: number of rows that are wanted.
        by_name: the order that the file's name declares, for rows without labels.

    Raises:
        ROISeriesReadError: if rows have the labels of other parcels, the same label twice, or a name that contradicts
            the order.
    """
    labels, n_rows = series.roi_labels, len(series.signals)
    wanted = _labels_of_rows(roi_order)
    if labels is not None and not tells_parcels(labels) and set(labels) != set(wanted):
        labels = None
    if labels is not None and len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ROISeriesReadError(
            f"{path}: expected a label of its own for every parcel, got {twice!r} more than once."
        )
    if by_name is not None and n_rois_of(by_name) != n_rows:
        by_name = None
    if roi_order is None:
        own = by_name if labels is None else order_of_labels(labels)
        return replace(series, roi_order=own)
    known, as_given = resolve_roi_order(roi_order).known, replace(series, roi_order=roi_order_text(roi_order))
    if labels is None or not known:
        if n_rois is not None and n_rows != n_rois:
            raise ROISeriesReadError(f"{path}: expected {n_rois} ROIs, got {n_rows}. Check roi_order (--roi-order).")
        if labels is None and by_name is not None:
            _refuse_other_edition(path, by_name, roi_order)
        if known and by_name is None and series.roi_labels is not None and _are_words(series.roi_labels):
            first = f"{n_rows} of {n_rows} labels (first: {series.roi_labels[0]!r})"
            _warn(f"{path}: {first} only count, so their rows are taken as declared.")
        return as_given
    index = matched_rows(labels, wanted)
    found = index[index >= 0]
    taken = set(found.tolist())
    others = [label for row, label in enumerate(labels) if row not in taken]
    unknown = f"{path}: {len(others)} of {n_rows} labels (first: {', '.join(map(repr, others[:1]))}) are not among "
    unknown += "those of the roi_order, so their rows are taken as declared"
    if not found.size:
        if n_rows != n_rois:
            raise ROISeriesReadError(
                f"{path}: expected parcels of roi_order {order_name(roi_order)}, got {n_rows} with other labels "
                f"({', '.join(labels[:3])}, ...). They come from another atlas: check roi_order (--roi-order)."
            )
        _warn(f"{unknown}.")
        return as_given
    in_place = n_rows == n_rois and bool((index[index >= 0] == np.flatnonzero(index >= 0)).all())
    if in_place:
        if others:
            _warn(f"{unknown}, the others agree.")
        return as_given
    if found.size * 2 < len(index):
        raise ROISeriesReadError(
            f"{path}: expected the {len(index)} parcels of roi_order {order_name(roi_order)}, got {found.size} of "
            f"them among {n_rows} labels (others: {', '.join(others[:3])}, ...). Check roi_order (--roi-order)."
        )
    moved = bool((np.diff(found) < 0).any())
    said = [f"{len(others)} of {n_rows} parcels ({_listed(others)}) are not part of the roi_order and are left out"]
    said = said if others else []
    if missing := [label for label, row in zip(wanted, index) if row < 0]:
        said.append(f"{len(missing)} of its {len(index)} parcels ({_listed(missing)}) are not in the file")
    said += ["rows stand in another order than the roi_order and are put into it"] if moved else []
    _warn(f"{path}: {'; '.join([*said, 'the others are taken by their labels'])}.")
    names = tuple(label for label, row in zip(wanted, index) if row >= 0)
    return replace(
        series,
        signals=np.ascontiguousarray(series.signals[found]),
        roi_labels=tuple(labels[row] for row in found),
        coverage=None if series.coverage is None else series.coverage[found],
        roi_order=order_of_labels(names) if missing else roi_order_text(roi_order),
    )


def joined(
    paths: Sequence[Path], parts: Sequence[ROISeries], roi_order: ROIOrder | None = None, n_rois: int | None = None
) -> ROISeries:
    """The series of one scan whose parcels are in several tables, in an order that is wanted or that of a model.

    Raises:
        ROISeriesReadError: if they differ in length or repetition time, one tells no order, or a parcel is there
            twice.
    """
    first, names = parts[0], " + ".join([str(paths[0]), *(path.name for path in paths[1:])])
    for path, part in zip(paths, parts):
        if part.roi_order is None:
            raise OrderNotToldError(
                f"{path}: expected labels of {len(part.signals)} rows, got none. Give roi_order (--roi-order)."
            )
        if part.signals.shape[1] != first.signals.shape[1] or part.t_r != first.t_r:
            raise ROISeriesReadError(
                f"{names}: expected tables of one scan, got {first.signals.shape[1]} and {part.signals.shape[1]} "
                f"timepoints, t_r {first.t_r} and {part.t_r}. Take one of them (--atlas)."
            )
        if not tells_parcels(part.roi_labels):
            _refuse_other_edition(path, part.roi_order, roi_order)
    labels = tuple(label for part in parts for label in roi_labels(str(part.roi_order)))
    series = replace(first, signals=np.concatenate([part.signals for part in parts]), roi_labels=labels)
    if roi_order is None:
        # In the order of a model where there is one, such as that of Brain-JEPA, which has the subcortex first.
        together = {"+".join(order) for order in itertools.permutations(str(part.roi_order) for part in parts)}
        roi_order = next((order for order in ROI_ORDERS if order in together), None)
        n_rois = None if roi_order is None else n_rois_of(roi_order)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rows stand in another order", category=UserWarning)
        return in_order(Path(names), series, roi_order, n_rois)


def _refuse_other_edition(path: Path, declared: str, roi_order: ROIOrder | None) -> None:
    """Refuse an order that has the parcels which a file's name declares, in other rows."""
    wanted = _labels_of_rows(roi_order)
    rows = matched_rows(wanted, roi_labels(declared)) if wanted else np.empty(0)
    if rows.size and (rows >= 0).all() and (np.diff(rows) != 1).any():
        raise ROISeriesReadError(
            f"{path}: its name declares the order {declared!r}, and roi_order is {order_name(roi_order or '')}. Leave "
            "roi_order (--roi-order) out, or rename the file if its name is wrong."
        )


def _say_missing(path: Path, series: ROISeries) -> None:
    """Say which parcels have no value at all, as XCP-D writes those under its minimal coverage."""
    empty = np.flatnonzero(np.isnan(series.signals).all(axis=1))
    if empty.size:
        names = series.roi_labels or _labels_of_rows(series.roi_order)
        shown = _listed(names[row] for row in empty) if names else f"rows {empty[:5].tolist()}"
        _warn(f"{path}: {empty.size} of {len(series.signals)} parcels are missing throughout ({shown}).")


def _labels_of_rows(roi_order: ROIOrder | None) -> tuple[str, ...]:
    """The label of each row of an order; none for a name that is not known, or sorted by centres we do not ship."""
    try:
        return () if roi_order is None else roi_labels(roi_order)
    except ValueError:
        return ()


def tells_parcels(labels: Sequence[str] | None) -> bool:
    """Whether labels are names of parcels; those that only count say where time is, and nothing of the parcels."""
    return labels is not None and not only_counted(labels)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)
