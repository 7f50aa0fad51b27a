"""Rows of scan datasets: what messages call them, and those that hold series of parcels."""

import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import resolve_roi_order
from ..foreign import reading
from ..models.configuration_base import ScanFacts
from .time import common_t_r, known_t_r


def scan_name(row: Mapping[str, Any], number: int | None = None) -> str:
    """How messages call a row of a scan dataset: person, session, run and file where the row knows them.

    Args:
        row: its columns.
        number: place in the batch, for rows that know nothing about themselves.
    """
    parts = [
        str(row[key]) for key in ("subject", "session", "run") if isinstance(row.get(key), (str, int)) and row[key]
    ]
    file = row.get("source_file")
    if isinstance(file, str) and file and file not in parts:
        parts.append(f"({file})" if parts else file)
    if not parts and number is None:
        return "the scan"
    return " ".join(["scan", *(parts or [str(number)])])


def check_columns(row: Mapping[str, Any], columns: Sequence[str], name: str) -> None:
    """Refuse a row that lacks one of these columns.

    Raises:
        ValueError: the message names the scan.
    """
    lacking = [key for key in columns if key not in row]
    if lacking:
        raise ValueError(
            f"Expected a row of a scan dataset for {name}, got one without {', '.join(lacking)} (columns: "
            f"{list(row)[:8]}). If transformers.Trainer took the columns away, pass remove_unused_columns=False in "
            "its arguments."
        )


def agreed(what: str, given: Any, own: Any, name: str, same: bool) -> Any:
    """The value of the call or that of the row; where there are both they must be the `same`."""
    if given is None or own is None:
        return own if given is None else given
    if not same:
        raise ValueError(
            f"Expected one {what} of {name}, got {given!r:.80} from the call and {own!r:.80} from the row. Leave the "
            "one of the call out, or correct the dataset."
        )
    return given


# --- scans in files ---


def open_stored(
    row: Mapping[str, Any],
    column: str,
    dtypes: Sequence[str],
    what: str,
    fits: Callable[[tuple[int, ...], tuple[int, ...]], bool] = operator.eq,
) -> np.ndarray:
    """The `.npy` file that a row names, memory-mapped; nothing of it is read yet.

    Args:
        row: the file in `column`, and its `shape` and `dtype`.
        column: the column with the file.
        dtypes: types that it may have.
        what: what messages say is in it, such as "frames of scan 3".
        fits: whether an array of one shape can be that of a row with another.

    Raises:
        ValueError: if it is not there, damaged, or other than the row says.
    """
    path = Path(str(row[column]))
    if not path.is_file():
        fix = "Move or copy the whole folder of a dataset, or prepare it again."
        if not path.is_absolute():
            fix = "Load the dataset with brain_transformers.load_dataset, which knows where its files are."
        raise ValueError(f"The {what} are not at {path}. {fix}")
    with reading(path, f"the {what}", "Prepare it again."):
        stored = np.lib.format.open_memmap(path, mode="c")  # changes, which nobody makes, would not reach the file
    expected = tuple(np.asarray(row["shape"]).tolist())
    if not fits(stored.shape, expected) or str(stored.dtype) != row["dtype"] or str(stored.dtype) not in dtypes:
        raise ValueError(
            f"Expected {row['dtype']} {expected} in {path}, got {stored.dtype} {stored.shape}. Prepare it again."
        )
    return stored


# --- frames that were cut ---


def frames_that_count(frame_mask: Any, n_frames: int, name: str) -> np.ndarray | None:
    """The frames of a scan that count, (n_frames,) bool, or `None` if all do.

    Args:
        frame_mask: one value a frame, 1 or true for those that count; `None` or none at all if all do.
        n_frames: of the scan.
        name: what messages call the scan.

    Raises:
        ValueError: if these are not as many truth values as frames, or none of them counts.
    """
    if frame_mask is None or not len(frame_mask):
        return None
    given = np.asarray(frame_mask)
    if given.shape != (n_frames,) or given.dtype.kind not in "fiub" or not ((given == 0) | (given == 1)).all():
        raise ValueError(
            f"Expected frame_mask of {name} as {n_frames} values, 1 for each frame that counts and 0 for each that "
            f"was cut, got {given.dtype} of shape {given.shape}. Gaps keep their frames: fill a scan that was cut "
            "to the rest with NaN at the times that are gone."
        )
    counts = given.astype(bool)
    if not counts.any():
        raise ValueError(f"Expected frames that count in {name}, got frame_mask 0 for all {n_frames}. Leave it out.")
    return None if counts.all() else counts


# --- series ---


def without_cut_frames(signals: np.ndarray, frame_mask: Any, name: str) -> np.ndarray:
    """Series (n_rois, n_timepoints) with NaN, at their times, in the frames that were cut; see `frames_that_count`."""
    counts = frames_that_count(frame_mask, signals.shape[-1], name)
    return signals if counts is None else np.where(counts, signals, np.float32(np.nan))


def unpack_row(row: Mapping[str, Any], name: str | None = None) -> tuple[np.ndarray, str | None, float | None]:
    """A row of a scan dataset as (signals (n_rois, n_timepoints) float32, roi_order, t_r in seconds or `None`).

    Frames that `frame_mask` says were cut are NaN, whatever the row holds there. Messages call it `name`.

    Raises:
        ValueError: if a column is not there, or the numbers do not fit each other; the message names the scan.
    """
    name = name or scan_name(row)
    check_columns(row, ("signals", "n_rois", "n_timepoints"), name)
    try:
        signals = np.asarray(row["signals"], dtype=np.float32).reshape(int(row["n_rois"]), int(row["n_timepoints"]))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected signals of {name} to be n_rois x n_timepoints = {row['n_rois']!r:.20} x "
            f"{row['n_timepoints']!r:.20} numbers, got something else ({error}). Prepare the dataset anew."
        ) from error
    signals, roi_order = without_cut_frames(signals, row.get("frame_mask"), name), row.get("roi_order")
    return signals, None if not roi_order else str(roi_order), known_t_r(row.get("t_r"), f"t_r of {name}")


def part_of_row(row: Mapping[str, Any], start: int, length: int, **columns: Any) -> dict[str, Any]:
    """A stretch of a scan, with which of its frames were cut, as the row of a scan of its own; `columns` are added."""
    signals = np.asarray(row["signals"]).reshape(int(row["n_rois"]), -1)[:, start : start + length]
    mask = row.get("frame_mask")
    own = {} if mask is None else {"frame_mask": np.asarray(mask)[start : start + length]}
    return {**row, "signals": signals.reshape(-1), "n_timepoints": signals.shape[1], **own, **columns}


def series_row(item: Any, index: int) -> Mapping[str, Any]:
    """Item `index` of a dataset as a row that says its shape.

    Raises:
        ValueError: if it holds no series.
    """
    make = "Make rows with brain_transformers.data.dataset_from_arrays(arrays, roi_order=..., t_r=...)."
    if not isinstance(item, Mapping):
        what = f"an array of shape {tuple(np.shape(item))}" if hasattr(item, "shape") else type(item).__name__
        raise ValueError(
            f"Expected scan {index} as a row with signals, roi_order and t_r, got {what}, which says neither its "
            f"parcels nor its repetition time. {make}"
        )
    if item.get("signals") is None:
        raise ValueError(f"Expected signals in scan {index}, got a row with {', '.join(map(str, item))}. {make}")
    if item.get("n_rois") is not None and item.get("n_timepoints") is not None:
        return item
    shape = np.shape(item["signals"])
    if len(shape) != 2:
        raise ValueError(
            f"Expected signals (n_rois, n_timepoints) in scan {index}, or flat ones beside n_rois and "
            f"n_timepoints, got shape {shape} and {', '.join(map(str, item))}. {make}"
        )
    return {**item, "n_rois": shape[0], "n_timepoints": shape[1]}


def row_column(rows: Any, name: str) -> list[Any]:
    """A column of a dataset as Python values, of exactly these rows."""
    return list(rows.with_format(None).select_columns([name])[name])


def series_facts(rows: Any, what: str, *, with_t_r: bool) -> ScanFacts:
    """What the series of a dataset have in common.

    Args:
        rows: the dataset; parcels are those of its first row.
        what: how messages call the scans.
        with_t_r: whether to look for the repetition time of most of them.
    """
    row = rows[0]
    order = resolve_roi_order(str(row["roi_order"])) if row["roi_order"] else None
    return ScanFacts(
        n_rois=int(row["n_rois"]),
        roi_order=None if order is None else list(order.labels) if order.name is None else order.name,
        t_r=common_t_r(row_column(rows, "t_r"), what=what) if with_t_r else None,
    )


def shortest_of_each_kind(rows: Any) -> list[int]:
    """Numbers of the shortest series of each order, number of parcels and repetition time."""
    shortest: dict[Any, tuple[int, int]] = {}
    columns = (row_column(rows, key) for key in ("n_timepoints", "roi_order", "n_rois", "t_r"))
    for number, (length, *values) in enumerate(zip(*columns)):
        kind = tuple(None if value != value else value for value in values)
        shortest[kind] = min(shortest.get(kind, (length, number)), (length, number))
    return [number for _, number in shortest.values()]
