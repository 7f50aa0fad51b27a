"""The HDF5 files of the Brain-Semantoks authors.

A file has a group `timeseries` with one dataset an atlas, `(n_scans, n_rois, n_timepoints)`, with NaN at the end of
short scans; `long_subject_id`, one byte string a scan; optionally `ts_len`; and labels under any path.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, released training code.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..foreign import LARGEST_SERIES, check_claim, reading
from . import hdf5
from .errors import ROISeriesReadError

ATLASES = ("schaefer400", "tian3", "buckner7")
"""Names of the authors' atlases in the order in which their parcels stand in the model's input."""

_ORDERS = {"schaefer400": "schaefer400-7net", "tian3": "tian-s3", "buckner7": "buckner7"}
_SIZES = {"schaefer400": 400, "tian3": 50, "buckner7": 7}


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
        self.path = Path(path)
        with self._reading():
            self._file: Any = hdf5.open_hdf5(self.path)
            try:
                self._open(atlases, labels)
            except BaseException:
                self._file.close()
                raise

    def _reading(self) -> AbstractContextManager[None]:
        expected = "an HDF5 file with timeseries and long_subject_id"
        return reading(self.path, expected, "Copy or download it again.", ROISeriesReadError)

    def _open(self, atlases: Sequence[str] | None, labels: Sequence[str]) -> None:
        found = {name: self._member(f"timeseries/{name}") for name in atlases or ATLASES}
        self.atlases = tuple(name for name, part in found.items() if part is not None)
        if not self.atlases or (atlases and len(self.atlases) < len(atlases)):
            group = self._member("timeseries")
            names = list(group) if hasattr(group, "keys") else []
            raise ROISeriesReadError(
                f"{self.path}: expected the atlases {', '.join(atlases or ATLASES)} under timeseries, found "
                f"{', '.join(names[:20]) or 'none'}."
            )
        self._series = [found[name] for name in self.atlases]
        for name, part in zip(self.atlases, self._series):
            if not hasattr(part, "shape") or len(part.shape) != 3 or part.dtype.kind not in "fiu":
                got = f"shape {part.shape}, dtype {part.dtype}" if hasattr(part, "shape") else "a group"
                raise ROISeriesReadError(
                    f"{self.path}: expected timeseries/{name} of (n_scans, n_rois, n_timepoints) numbers, got {got}."
                )
            check_claim(part.shape[1] * part.shape[2] * part.dtype.itemsize, LARGEST_SERIES, f"a scan of {name}")
        if len({part.shape[2] for part in self._series}) != 1:
            lengths = {name: part.shape[2] for name, part in zip(self.atlases, self._series)}
            raise ROISeriesReadError(f"{self.path}: atlases differ in their number of timepoints: {lengths}.")
        n_scans = {name: len(part) for name, part in zip(self.atlases, self._series)}
        ids = self._column("long_subject_id")
        if ids is None:
            raise ROISeriesReadError(f"{self.path}: expected long_subject_id, one identifier a scan, got none.")
        if {*n_scans.values(), len(ids)} != {len(ids)}:
            raise ROISeriesReadError(
                f"{self.path}: atlases and subjects differ in their number of scans: {n_scans}, {len(ids)} subjects."
            )
        self.subjects = [value.decode() if isinstance(value, bytes) else str(value) for value in ids]
        self.sizes = [part.shape[1] for part in self._series]
        self._lengths = self._column("ts_len", len(ids))
        n_timepoints = self._series[0].shape[2]
        if self._lengths is not None and not all(0 <= _number(value) <= n_timepoints for value in self._lengths):
            raise ROISeriesReadError(f"{self.path}: expected ts_len of 0 to {n_timepoints}, the stored timepoints.")
        self._labels = {label: self._column(label, len(ids)) for label in labels}

    def _member(self, name: str) -> Any:
        return hdf5.member(self._file, name)

    def _column(self, name: str, n_scans: int | None = None) -> np.ndarray | None:
        """One value a scan; `None` if the file has no such column."""
        item = self._member(name)
        if item is None:
            return None
        if not hasattr(item, "shape") or len(item.shape) != 1 or (n_scans is not None and len(item) != n_scans):
            got = f"shape {item.shape}" if hasattr(item, "shape") else "a group"
            raise ROISeriesReadError(f"{self.path}: expected {name} with one value a scan, got {got}.")
        check_claim(item.size * item.dtype.itemsize, LARGEST_SERIES, name)
        return item[:]

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

    def has_label(self, label: str) -> bool:
        """Whether the file has one of the labels that were asked for."""
        return self._labels.get(label) is not None

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, row: int) -> SemantoksRecording:
        row = range(len(self))[row]  # an IndexError ends an iteration
        with self._reading():
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
