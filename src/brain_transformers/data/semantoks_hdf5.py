"""HDF5 files in the layout of the Brain-Semantoks authors, as a sequence of scans and as an Arrow dataset.

A file has a group `timeseries` with one dataset an atlas, `(n_scans, n_rois, n_timepoints)`, with NaN at the end of
short scans; `long_subject_id`, one byte string a scan; optionally `ts_len`; and labels under any path.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, released training code.
"""

import functools
import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..atlases.roi_orders import ROIOrder, resolve_roi_order, roi_order_text
from ..foreign import LARGEST_SERIES, check_claim, reading
from ..optional import require
from ..processing.time import check_t_r
from . import hdf5
from .arrays import read_npy
from .errors import ROISeriesReadError
from .row_kinds import SERIES, arrow_table
from .scan_folders import Key, ScanFolderConfig, fingerprint, told_as_itself
from .scan_names import NAME_COLUMNS

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

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

    def __exit__(self, *error: object) -> None:
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


def open_recordings(path: Path) -> SemantoksRecordings:
    """The scans of a file, which stays open in this process; its rows are read one by one."""
    return _held(str(path), path.stat().st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=2)
def _held(path: str, changed: int, process: int) -> SemantoksRecordings:
    # A file that was opened before a fork cannot be read on both sides of it.
    return SemantoksRecordings(path)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def measured_length(recording: SemantoksRecording) -> int:
    """Timepoints up to the last that any parcel has: `ts_len`, or what NaN at the end leaves, if that is less."""
    measured = np.flatnonzero(~np.isnan(recording.signals).all(axis=0))
    return min(recording.length, int(measured[-1]) + 1 if measured.size else 0)


class SemantoksHDF5Builder(datasets.ArrowBasedBuilder):
    """Build an Arrow dataset from the authors' HDF5 files, one row a scan.

    Rows are those of every dataset of this package (`signals`, `n_rois`, `n_timepoints`, `t_r`, `roi_order`,
    `subject`, ...) and a float column for each label. Timepoints that no parcel has, or that lie behind `ts_len`, are
    cut off; NaN of single parcels stays, and the feature extractor deals with it. A subject may have several scans.
    Scans that were never measured are left out with a warning.

    Args:
        files: a file, a list of files, or a dict of such by split.
        atlases: datasets of `timeseries` in the order of the model's parcels; by default Schaefer-400, Tian S3 and
            Buckner-7 as far as the files have them.
        labels: paths of labels, such as `"labels/sex"`; the column is named after the last part.
        subjects: identifiers of the scans to take, or a `.npy` file of them, or a dict of such by split.
        roi_order: order of the parcels, where it is not that of the published model.
        t_r: repetition time in seconds.
        cache_dir: where to put the Arrow files.

    Raises:
        FileNotFoundError: if a file is missing.
        ROISeriesReadError: if a file has another layout, the order of its parcels is not known, or two differ in it.
        ValueError: if two labels are one column, or no subject that is wanted is there.
    """

    BUILDER_CONFIG_CLASS = ScanFolderConfig
    DEFAULT_WRITER_BATCH_SIZE = 16  # rows are large

    def __init__(
        self,
        files: str | Path | Sequence[str | Path] | Mapping[str, Any],
        *,
        atlases: Sequence[str] | None = None,
        labels: Sequence[str] = (),
        subjects: Any = None,
        roi_order: ROIOrder | None = None,
        t_r: float = 2.0,
        cache_dir: str | Path | None = None,
    ) -> None:
        by_split = files if isinstance(files, Mapping) else {"train": files}
        paths = {split: [Path(path).resolve() for path in _listed(part)] for split, part in by_split.items()}
        everything = [path for part in paths.values() for path in part]
        if not everything:
            raise ValueError("Expected at least one HDF5 file, got none.")
        for path in everything:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: there is no such file.")
        chosen = subjects if isinstance(subjects, Mapping) else dict.fromkeys(paths, subjects)
        if other := sorted(set(chosen) - set(paths)):
            raise ValueError(f"Expected subjects of the splits {', '.join(paths)}, got {', '.join(map(str, other))}.")
        wanted = {split: _identifiers(part) for split, part in chosen.items() if part is not None}
        columns = [_label_column(label) for label in labels]
        if taken := [name for name in columns if columns.count(name) > 1 or name in SERIES.features()]:
            raise ValueError(
                f"Expected labels with names of their own behind the last /, got {taken[0]!r} twice, or as a column "
                "that every row has. Rename it in the file."
            )
        roi_order = _look_through(paths, wanted, atlases, labels, roi_order)
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name="semantoks_hdf5",
            files={split: [str(path) for path in part] for split, part in paths.items()},
            fingerprint=fingerprint(everything[0].parent, everything),
            options={
                "subjects": wanted,
                "atlases": None if atlases is None else list(atlases),
                "labels": list(labels),
                "roi_order": roi_order_text(roi_order),
                "t_r": check_t_r(t_r),
            },
        )

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Read the files and write the Arrow cache.

        Raises:
            ROISeriesReadError: if a file is damaged, or reaches out of itself; the message names it.
        """
        with told_as_itself():
            super().download_and_prepare(*args, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        columns = {_label_column(label): datasets.Value("float64") for label in self.config.options["labels"]}
        return datasets.DatasetInfo(features=SERIES.features(columns))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Only `files` is a list here: num_proc splits every list of these arguments.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": list(files), "split": split})
            for split, files in self.config.files.items()
        ]

    def _generate_shards(self, files: list[str], split: str) -> Iterator[str]:
        yield from files

    def _generate_tables(self, files: list[str], split: str) -> Iterator[tuple[Key, pa.Table]]:
        how = self.config.options
        wanted = set(how["subjects"][split]) if split in how["subjects"] else None
        for number, path in enumerate(files):
            with SemantoksRecordings(path, how["atlases"], how["labels"]) as recordings:
                rows = [row for row, subject in enumerate(recordings.subjects) if wanted is None or subject in wanted]
                empty = []
                for row in tqdm(rows, desc=f"Reading {Path(path).name}", unit="scan", disable=len(rows) < 128):
                    recording = recordings[row]
                    signals = np.ascontiguousarray(recording.signals[:, : measured_length(recording)])
                    if signals.shape[1] < 2:
                        empty.append(recording.subject)
                        continue
                    cells = {
                        **dict.fromkeys(NAME_COLUMNS),
                        "signals": signals,
                        "n_rois": signals.shape[0],
                        "n_timepoints": signals.shape[1],
                        "t_r": how["t_r"],
                        "roi_order": how["roi_order"],
                        "frame_mask": np.zeros(0, bool),
                        "subject": recording.subject,
                        "subject_known": True,
                        "source_file": Path(path).name,
                        **{_label_column(label): value for label, value in recording.labels.items()},
                    }
                    table = arrow_table({name: [cell] for name, cell in cells.items()}, self.info.features)
                    yield Key(number, row), table
            if empty:
                what = f"{len(empty)} scans without a measured timepoint are left out (first: {empty[0]})."
                warnings.warn(f"{path}: {what}", stacklevel=2)


def _label_column(label: str) -> str:
    """The column of the label at a path of the file."""
    return label.rsplit("/", 1)[-1]


def _look_through(
    paths: Mapping[str, Sequence[Path]],
    wanted: Mapping[str, Sequence[str]],
    atlases: Sequence[str] | None,
    labels: Sequence[str],
    roi_order: ROIOrder | None,
) -> ROIOrder:
    """The one order of all files; refuses or says what does not fit, before the scans are read."""
    origin: Any = roi_order
    people: dict[str, set[str]] = {split: set() for split in paths}
    absent = set(labels)
    for split, path in [(split, path) for split, part in paths.items() for path in part]:
        with SemantoksRecordings(path, atlases, labels) as recordings:
            own, n_rois = recordings.roi_order, sum(recordings.sizes)
            people[split] |= set(recordings.subjects)
            absent -= {label for label in labels if recordings.has_label(label)}
        if roi_order is None:
            if own is None:
                raise ROISeriesReadError(
                    f"{path}: the parcels are not those of Schaefer-400, Tian S3 and Buckner-7, so their order is "
                    "not known. Pass roi_order: a name, or the list of labels."
                )
            roi_order, origin = own, path
        expected = len(resolve_roi_order(roi_order).labels)
        if (origin is not roi_order and own != roi_order) or expected not in (0, n_rois):
            raise ROISeriesReadError(
                f"{path}: expected {expected} parcels in the order of {str(origin)[:80]}, got {n_rois} "
                f"({own or 'unknown'}). Build a dataset of files with the same atlases, or choose them with atlases."
            )
    for split, names in wanted.items():
        missing = sorted(set(names) - people[split])
        if names and len(missing) == len(names):
            raise ValueError(
                f"None of the {len(names)} subjects that are wanted for {split} is in its files (first: "
                f"{missing[0]!r}; there are {', '.join(sorted(people[split])[:5])})."
            )
        if missing:
            warnings.warn(
                f"{len(missing)} of {len(names)} subjects that are wanted for {split} are not in its files (first: "
                f"{missing[0]!r}).",
                stacklevel=3,
            )
        people[split] &= set(names)
    if absent:
        warnings.warn(f"No file has {', '.join(sorted(absent))}, so these labels are empty.", stacklevel=3)
    for split, other in itertools.combinations(people, 2):
        if shared := sorted(people[split] & people[other]):
            warnings.warn(
                f"{len(shared)} subjects are in {split} and in {other} (first: {shared[0]}), so what is trained on "
                "one knows people of the other.",
                stacklevel=3,
            )
    return roi_order if roi_order is not None else ""


def _listed(part: Any) -> list[Any]:
    # Not `Path`: `datasets` puts a class of its own under that name into the modules of builders.
    return [part] if isinstance(part, (str, os.PathLike)) else list(part)


def _identifiers(part: Any) -> list[str]:
    if isinstance(part, (str, os.PathLike)):
        with reading(part, "a .npy file of identifiers", error=ROISeriesReadError):
            part = read_npy(part).reshape(-1).tolist()
    return sorted({value.decode() if isinstance(value, bytes) else str(value) for value in part})
