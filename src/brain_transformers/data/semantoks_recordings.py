"""The HDF5 files and the preprocessing of the Brain-Semantoks authors.

A file has a group `timeseries` with one dataset an atlas, `(n_scans, n_rois, n_timepoints)`, with NaN at the end of
short scans; `long_subject_id`, one byte string a scan; optionally `ts_len`; and labels under any path.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, released training code. New data go through
[`SemantoksHDF5Builder`] and the feature extractor; the functions here reproduce the authors' numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..optional import require
from .readers import ROISeriesReadError

ATLASES = ("schaefer400", "tian3", "buckner7")
"""Names of the authors' atlases in the order in which their parcels stand in the model's input."""

_ORDERS = {"schaefer400": "schaefer400-7net", "tian3": "tian-s3", "buckner7": "buckner7"}
_SIZES = {"schaefer400": 400, "tian3": 50, "buckner7": 7}
_EPS = 1e-8


@dataclass(frozen=True)
class SemantoksRecording:
    """One scan of a file.

    Attributes:
        signals: float32 `(n_rois, n_timepoints)` as stored, NaN included.
        subject: identifier.
        length: `ts_len` of the scan, or the stored number of timepoints.
        labels: path -> value, NaN where the file has no such label.
    """

    signals: np.ndarray
    subject: str
    length: int
    labels: dict[str, float] = field(default_factory=dict)


class SemantoksRecordings:
    """Scans of an HDF5 file in the authors' layout; a context manager, and a sequence of [`SemantoksRecording`].

    Args:
        path: the file.
        atlases: datasets of `timeseries` in the order of the model's parcels; by default those of [`ATLASES`] that the
            file has.
        labels: paths of labels, such as `"labels/sex"`.

    Raises:
        ROISeriesReadError: if the file cannot be read or lacks an atlas.
        ImportError: without h5py (extra `data`).
    """

    def __init__(self, path: str | Path, atlases: Sequence[str] | None = None, labels: Sequence[str] = ()):
        h5py = require("h5py", extra="data", purpose="reading HDF5 files")
        self.path = Path(path)
        try:
            self._file: Any = h5py.File(self.path, "r")
            series = self._file["timeseries"]
            self.atlases = tuple(atlases or (name for name in ATLASES if name in series))
            missing = [name for name in self.atlases if name not in series]
            if missing or not self.atlases:
                raise ROISeriesReadError(
                    f"{self.path}: expected the atlases {', '.join(atlases or ATLASES)} under timeseries, found "
                    f"{', '.join(series)}."
                )
            self._series = [series[name] for name in self.atlases]
            ids = self._file["long_subject_id"][:]
        except (OSError, KeyError) as error:
            raise ROISeriesReadError(
                f"{self.path}: cannot be read as an HDF5 file with timeseries and long_subject_id ({error})."
            ) from error
        self.subjects = [value.decode() if isinstance(value, bytes) else str(value) for value in ids]
        lengths = {len(part) for part in self._series} | {len(self.subjects)}
        if len(lengths) != 1:
            raise ROISeriesReadError(f"{self.path}: atlases and subjects differ in their number of scans: {lengths}.")
        self.sizes = [part.shape[1] for part in self._series]
        self._lengths = self._file["ts_len"][:] if "ts_len" in self._file else None
        self._labels = {label: self._file[label][:] if label in self._file else None for label in labels}

    def __enter__(self) -> "SemantoksRecordings":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def roi_order(self) -> str | None:
        """Our name of the order of the parcels, if the atlases are those of the published model."""
        if any(_SIZES.get(name) != size for name, size in zip(self.atlases, self.sizes)):
            return None
        return "+".join(_ORDERS[name] for name in self.atlases)

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, row: int) -> SemantoksRecording:
        signals = np.concatenate([part[row].astype(np.float32) for part in self._series])
        length = signals.shape[1] if self._lengths is None else int(self._lengths[row])
        labels = {name: float("nan") if v is None else _number(v[row]) for name, v in self._labels.items()}
        return SemantoksRecording(signals, self.subjects[row], length, labels)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def measured_length(recording: SemantoksRecording) -> int:
    """Timepoints up to the last that any parcel has: `ts_len`, or what NaN at the end leaves, if that is less."""
    measured = np.flatnonzero(~np.isnan(recording.signals).all(axis=0))
    return min(recording.length, int(measured[-1]) + 1 if measured.size else 0)


def published_recording(
    signals: np.ndarray, length: int, source_t_r: float = 2.0, target_t_r: float | None = None
) -> tuple[np.ndarray, int]:
    """The authors' preprocessing of a whole scan.

    z-score per parcel without NaN, linear resampling if a repetition time is wanted, and a cut at the first NaN of
    parcel 0. (Timepoints behind `ts_len` take part in the z-score and stay in the series.)

    Args:
        signals: `(n_rois, n_timepoints)`.
        length: `ts_len`, or `n_timepoints`.
        source_t_r, target_t_r: seconds.

    Returns:
        float32 signals and the length that crops are drawn from.
    """
    signals = signals.astype(np.float32)
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(signals).all(axis=1)
        values = np.where(known[:, None], signals, 0.0).astype(np.float32)
        mean = np.nanmean(values, axis=1, keepdims=True)
        spread = np.nanstd(values, axis=1, keepdims=True)
    scaled = (signals - mean) / (spread + np.float32(_EPS))
    if target_t_r is not None:
        ratio = source_t_r / target_t_r
        n_old, n_new = scaled.shape[1], int(scaled.shape[1] * ratio)
        places = np.arange(n_new) / ratio
        # A place on a sample belongs to the interval before it, so that the last sample before a gap is kept; beyond
        # the last sample the last slope goes on.
        left = np.clip(np.ceil(places).astype(np.int64) - 1, 0, max(n_old - 2, 0))
        fraction = places - left
        right = np.minimum(left + 1, n_old - 1)
        scaled = (scaled[:, left] + (scaled[:, right] - scaled[:, left]) * fraction).astype(np.float32)
        length = int(length * ratio)
    gaps = np.flatnonzero(np.isnan(scaled[0]))
    if gaps.size:
        scaled, length = scaled[:, : gaps[0]], int(gaps[0])
    return scaled.astype(np.float32, copy=False), length


def published_crop(signals: np.ndarray, length: int, start: int, n_timepoints: int) -> np.ndarray:
    """The authors' crop: from `start`, or from 0 with zeros behind it where the scan is shorter than the crop.

    Returns:
        float32 `(n_rois, n_timepoints)`.
    """
    if length < n_timepoints:
        signals, start = np.pad(signals, ((0, 0), (0, n_timepoints - length))), 0
    return signals[:, start : start + n_timepoints]
