"""Cleaning of parcel series after averaging, by nilearn, with confounds that belong to the scan and no others."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..optional import require
from ..processing.missing import missing_frames
from .errors import ROISeriesReadError
from .participants import is_gap
from .row_kinds import column_of, span


def clean(
    signals: np.ndarray,
    name: str,
    path: Path | None,
    t_r: float | None,
    *,
    confounds: Any = None,
    sample_mask: Any = None,
    standardize: str | bool | None = None,
    detrend: bool = False,
    low_pass: float | None = None,
    high_pass: float | None = None,
    standardize_confounds: bool = True,
    filter: str = "butterworth",
) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """What `nilearn.signal.clean` makes of series, which stay as they are where no option asks for anything.

    Args:
        signals: (n_rois, n_timepoints); NaN in parcels and frames without data, which take no part.
        name: what errors call the scan.
        path: its file, for confounds that lie beside it.
        t_r: repetition time in seconds, which filters need.
        confounds, sample_mask, ...: see `parcellate`.

    Returns:
        The series, with NaN in frames that are not kept; which are, (n_timepoints,) bool, or `None` for all; and what
        was done, for the record.

    Raises:
        ROISeriesReadError: for options that cannot be, or that do not fit the scan.
    """
    n_frames = signals.shape[1]
    done: dict[str, Any] = {}
    if isinstance(confounds, Mapping):
        if sample_mask is not None:
            raise ROISeriesReadError(
                f"{name}: expected sample_mask from load_confounds or from the call, got both. Leave one out."
            )
        done["load_confounds"] = dict(confounds)
        confounds, sample_mask = _fmriprep_confounds(path, dict(confounds), name)
    elif isinstance(confounds, (str, Path)):
        done["confounds_file"] = Path(confounds).name
    table = _confounds_table(confounds, n_frames, name)
    kept = _kept_frames(sample_mask, n_frames, name)
    if standardize is True:
        standardize = "zscore_sample"
    if standardize not in (None, False, "zscore_sample", "psc"):
        raise ROISeriesReadError(f"{name}: expected standardize 'zscore_sample', 'psc' or None, got {standardize!r}.")
    _check_filter(low_pass, high_pass, filter, t_r, name)
    filtered = low_pass is not None or high_pass is not None
    if table is not None:
        done |= {"confounds": list(table), "standardize_confounds": bool(standardize_confounds)}
    if kept is not None:
        done["frames_kept"] = int(kept.sum())
    done |= {"standardize": standardize} if standardize else {}
    done |= {"detrend": True} if detrend else {}
    done |= {"filter": filter, "low_pass": low_pass, "high_pass": high_pass, "t_r": t_r} if filtered else {}
    if table is not None or detrend or standardize or filtered:
        signals = _cleaned(
            signals,
            kept,
            name,
            confounds=table,
            standardize=standardize or None,
            detrend=detrend,
            low_pass=low_pass,
            high_pass=high_pass,
            standardize_confounds=standardize_confounds,
            filter=filter if filtered else False,
            t_r=t_r,
        )
    elif kept is not None:
        signals[:, ~kept] = np.nan
    return signals, kept, done


def cleaning_in_words(rows: Any) -> str:
    """What was done to the scans of a dataset by their `provenance`; `""` if nothing was."""
    known = zip(column_of(rows, "provenance"), column_of(rows, "n_timepoints"))
    done = [(json.loads(text)["cleaning"], n_frames) for text, n_frames in known if text]
    if not any(one for one, _ in done):
        return ""
    first = next(one for one, _ in done if one)
    confounds = [len(one["confounds"]) for one, _ in done if "confounds" in one]
    said = [f"{span(confounds)} confounds"] if confounds else []
    said += [f"{name.replace('_', '-')} {first[name]:g} Hz" for name in ("high_pass", "low_pass") if first.get(name)]
    said += ["detrended"] if first.get("detrend") else []
    said += [f"standardized ({first['standardize']})"] if first.get("standardize") else []
    scrubbed = [n_frames - one["frames_kept"] for one, n_frames in done if "frames_kept" in one]
    if scrubbed:
        n_frames = np.median([n_frames for _, n_frames in done])
        # Scans without a frame to scrub have no list of those that are kept.
        scrubbed += [0] * (len(done) - len(scrubbed))
        said.append(f"scrubbed {np.median(scrubbed):g} of {n_frames:g} frames (median; up to {max(scrubbed)})")
    return ", ".join(said)


def _fmriprep_confounds(path: Path | None, options: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Confounds and sample mask that nilearn finds beside an image of fMRIPrep."""
    fmriprep = require("nilearn.interfaces.fmriprep", extra="data", purpose="choosing confounds")
    if path is None:
        raise ROISeriesReadError(f"{name}: confounds by strategy need the path of the image, beside which they lie.")
    try:
        return fmriprep.load_confounds(str(path), **options)
    except Exception as error:  # no table, another name, an unknown strategy or option
        raise ROISeriesReadError(
            f"{name}: nilearn's load_confounds gives no confounds with {options!r:.200} ({type(error).__name__}: "
            f"{str(error)[:300]}). Pass a table as confounds, or options that fit."
        ) from error


def _confounds_table(confounds: Any, n_frames: int, name: str) -> Any:
    """The confounds as a DataFrame of finite numbers with one row a frame, or `None`."""
    if confounds is None:
        return None
    pandas = require("pandas", extra="data", purpose="reading confounds")
    if isinstance(confounds, tuple) and len(confounds) == 2:
        raise ROISeriesReadError(
            f"{name}: expected confounds, got two things: load_confounds returns (confounds, sample_mask). Pass them "
            "one by one: confounds=confounds, sample_mask=sample_mask."
        )
    if isinstance(confounds, list):
        tables = [_confounds_table(part, n_frames, name) for part in confounds]
        return pandas.concat(tables, axis=1) if tables else None
    try:
        if isinstance(confounds, (str, Path)):
            table = pandas.read_csv(confounds, sep="," if str(confounds).endswith((".csv", ".csv.gz")) else "\t")
        else:
            table = pandas.DataFrame(confounds)
    except Exception as error:  # a missing or damaged table, or something else than a table
        raise ROISeriesReadError(
            f"{name}: confounds {confounds!r:.80} cannot be read as a table ({error}). Give the path of a .tsv, a "
            "DataFrame, or an array with one row a frame."
        ) from error
    table = table.rename(columns=lambda column: column if isinstance(column, str) else f"column {column}")
    if len(table) != n_frames:
        raise ROISeriesReadError(
            f"{name}: expected confounds with one row for each of the {n_frames} frames, got {len(table)} rows. If "
            "frames were cut from the image, cut the same rows; to leave frames out, use sample_mask."
        )
    for column in table:
        values = table[column]
        if values.dtype.kind not in "fiub":
            text = values.astype(object).map(lambda cell: np.nan if is_gap(cell) else cell)
            values = pandas.to_numeric(text, errors="coerce")
            if (values.isna() & ~pandas.isna(text)).any():
                raise ROISeriesReadError(
                    f"{name}: expected numbers in the confounds, got text in {column!r} (such as "
                    f"{str(text[values.isna() & ~pandas.isna(text)].iloc[0])[:40]!r}). Leave that column out."
                )
        values = values.astype(np.float64)
        gaps = ~np.isfinite(values.to_numpy())
        if gaps[0] and n_frames > 1 and not gaps[1:].any():
            values.iloc[0] = values.iloc[1]
        elif gaps.any():
            raise ROISeriesReadError(
                f"{name}: expected finite numbers in the confounds, got {int(gaps.sum())} gaps in {column!r} (first "
                f"in row {int(np.flatnonzero(gaps)[0])}). Only a gap in the first row is filled, with the second, as "
                "nilearn's load_confounds does. Leave that column out, or fill it."
            )
        table[column] = values
    if table.shape[1] >= n_frames - 1:
        raise ROISeriesReadError(
            f"{name}: expected fewer confounds than frames ({n_frames}), got {table.shape[1]} columns, which would "
            "take everything out. Choose columns, for example with nilearn.interfaces.fmriprep.load_confounds."
        )
    return table.astype(np.float64)


def _kept_frames(sample_mask: Any, n_frames: int, name: str) -> np.ndarray | None:
    """True for each frame to keep, or `None` for all."""
    if sample_mask is None:
        return None
    if isinstance(sample_mask, (list, tuple)) and len(sample_mask) == 1 and np.ndim(sample_mask[0]) == 1:
        sample_mask = sample_mask[0]
    try:
        given = np.asarray(sample_mask)
    except ValueError:
        given = np.empty(0, dtype=object)
    kept = np.zeros(n_frames, dtype=bool)
    if given.ndim == 1 and given.dtype == bool and len(given) == n_frames:
        kept = given.copy()
    elif given.ndim == 1 and given.dtype.kind in "iu" and given.size and given.min() >= 0 and given.max() < n_frames:
        kept[given] = True
    else:
        raise ROISeriesReadError(
            f"{name}: expected sample_mask with the numbers of the frames to keep (0 to {n_frames - 1}), or true or "
            "false "
            f"for each of the {n_frames} frames, got {_what(given)}. It belongs to another scan, or to several runs."
        )
    if kept.sum() < 2:
        raise ROISeriesReadError(f"{name}: expected sample_mask to keep frames, got {int(kept.sum())} of {n_frames}.")
    return kept


def _what(given: np.ndarray) -> str:
    if given.ndim != 1 or given.dtype.kind not in "iub" or not given.size:
        return f"shape {given.shape} of {given.dtype}"
    return f"{len(given)} values" + ("" if given.dtype == bool else f" from {given.min()} to {given.max()}")


def _check_filter(low_pass: Any, high_pass: Any, kind: Any, t_r: float | None, name: str) -> None:
    if kind not in ("butterworth", "cosine"):
        raise ROISeriesReadError(f"{name}: expected filter 'butterworth' or 'cosine', got {kind!r}.")
    if low_pass is None and high_pass is None:
        return
    if t_r is None:
        raise ROISeriesReadError(
            f"{name}: a filter in Hz needs the repetition time, and the header does not tell it. Pass t_r in "
            "seconds (--t-r)."
        )
    nyquist = 0.5 / t_r
    for option, value in (("low_pass", low_pass), ("high_pass", high_pass)):
        if value is not None and (not isinstance(value, (int, float, np.number)) or not 0 < value < nyquist):
            raise ROISeriesReadError(
                f"{name}: expected {option} above 0 and below {nyquist:.4g} Hz, half the sampling rate at t_r {t_r:g} "
                f"s, got {value!r}."
            )
    if low_pass is not None and high_pass is not None and high_pass >= low_pass:
        raise ROISeriesReadError(
            f"{name}: expected high_pass below low_pass, got high_pass={high_pass:g} and low_pass={low_pass:g}: the "
            "band between them is kept."
        )
    if kind == "cosine" and (high_pass is None or low_pass is not None):
        raise ROISeriesReadError(f"{name}: filter='cosine' takes high_pass alone. Use 'butterworth' for low_pass.")


def _cleaned(signals: np.ndarray, kept: np.ndarray | None, name: str, **options: Any) -> np.ndarray:
    """The series after `nilearn.signal.clean`, with NaN in frames that are not kept or were not measured."""
    cleaning = require("nilearn.signal", extra="data", purpose="cleaning series")
    missing = missing_frames(signals)
    if missing is not None:
        kept = ~missing if kept is None else kept & ~missing
    present = np.flatnonzero(~np.isnan(signals).all(axis=1))
    sample_mask = None if kept is None or kept.all() else np.flatnonzero(kept)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="When confounds are provided", category=UserWarning)
            series = cleaning.clean(signals[present].T, sample_mask=sample_mask, **options)
    except Exception as error:  # nilearn and scipy raise many kinds for series that are too short, and such
        raise ROISeriesReadError(
            f"{name}: nilearn cannot clean the series with these confounds, sample_mask and filter ({error})."
        ) from error
    result = np.full_like(signals, np.nan)
    frames = np.arange(signals.shape[1]) if sample_mask is None else sample_mask
    if len(series) != len(frames):
        raise ROISeriesReadError(
            f"{name}: expected {len(frames)} frames after cleaning, got {len(series)}. Check sample_mask."
        )
    result[np.ix_(present, frames)] = series.T
    return result
