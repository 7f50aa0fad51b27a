"""Frames that were cut out of a series, put back at their true times as gaps."""

import warnings
from pathlib import Path

import numpy as np

from ..foreign import reading
from .errors import ROISeriesReadError
from .sidecars import RUN_OF_NAME
from .tables import read_table

OUTLIERS = "_outliers.tsv"


def censored(path: Path, signals: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """A series with NaN in the frames that XCP-D cut out, and the mask of those that it kept.

    XCP-D writes `<run>_outliers.tsv`, one column with 1 for every volume above its threshold of motion. A table with
    as many rows holds all volumes, interpolated where they were cut (modes abcd and hbcd); one with as many rows as
    there are 0s lacks them (modes linc and nichart), so that its time is not uniform.

    Args:
        path: the table or image.
        signals: (n_rois, n_timepoints).

    Returns:
        (n_rois, n_volumes) and (n_volumes,) bool, true for frames that were kept; `None` where all were, or nothing
        tells.

    Raises:
        ROISeriesReadError: if there are neither as many rows as volumes nor as frames that were kept.
    """
    kept = kept_volumes(path, signals.shape[1])
    if kept is None:
        return signals, None
    whole = np.full((len(signals), len(kept)), np.nan, dtype=np.float32)
    whole[:, kept] = signals if signals.shape[1] < len(kept) else signals[:, kept]
    return whole, kept


def kept_volumes(path: Path, n_timepoints: int) -> np.ndarray | None:
    """Which volumes of a scan XCP-D kept, (n_volumes,) bool; `None` where all were, or nothing tells; see `censored`.

    Args:
        path: the table or image.
        n_timepoints: that it has: all volumes, or those that were kept.

    Raises:
        ROISeriesReadError: if it has another number.
    """
    table = outliers_table(path)
    if table is None:
        return None
    kept = read_outliers(table) == 0
    if n_timepoints not in (len(kept), int(kept.sum())):
        raise ROISeriesReadError(
            f"{path}: expected {len(kept)} volumes, or the {int(kept.sum())} that {table.name} keeps of them, got "
            f"{n_timepoints} timepoints. That table belongs to another scan, or the scan was cut by something else."
        )
    if kept.all():
        return None
    how = "they are missing in the file" if n_timepoints < len(kept) else "the file has interpolated values there"
    warnings.warn(
        f"{path}: {int((~kept).sum())} of {len(kept)} volumes were cut for motion ({table.name}; {how}); they are "
        "gaps at their true times.",
        UserWarning,
        stacklevel=4,
    )
    return kept


def outliers_table(path: Path) -> Path | None:
    """The `_outliers.tsv` of a scan's run, beside it: with what stands in the name before its space and atlas."""
    run = RUN_OF_NAME.match(path.name)
    table = path.with_name(f"{run[0]}{OUTLIERS}") if run else path
    return table if run and table.is_file() else None


def read_outliers(table: Path) -> np.ndarray:
    """One number a volume: 1 for those that are cut, 0 for the others.

    Raises:
        ROISeriesReadError: if it is no table of one such column.
    """
    with reading(table, "a table with one column of 0 and 1", error=ROISeriesReadError):
        values = read_table(table).values
        if values.shape[1] != 1 or not np.isin(values, (0, 1)).all():
            raise ROISeriesReadError(
                f"{table}: expected one column of 0 and 1, got {values.shape[1]} columns with values up to "
                f"{np.nanmax(values):g}."
            )
    return values[:, 0].astype(np.int64)
