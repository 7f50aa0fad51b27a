"""Arrow datasets from HDF5 files in the layout of the Brain-Semantoks authors."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..foreign import reading
from ..optional import require
from ..processing.roi_orders import ROIOrder, resolve_roi_order, roi_order_text
from ..processing.time import check_t_r
from .arrays import read_npy
from .readers import ROISeriesReadError
from .row_kinds import SERIES, arrow_table
from .scan_folders import Key, fingerprint, told_as_itself
from .scan_names import NAME_COLUMNS
from .semantoks_recordings import SemantoksRecordings, measured_length

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

_ROWS_A_TABLE = 16


@dataclass
class SemantoksHDF5Config(datasets.BuilderConfig):
    """Options of [`SemantoksHDF5Builder`]; see there."""

    files: dict[str, list[str]] = field(default_factory=dict)
    subjects: dict[str, list[str]] = field(default_factory=dict)
    atlases: list[str] | None = None
    labels: list[str] = field(default_factory=list)
    roi_order: str = ""
    t_r: float = 2.0
    fingerprint: str = ""


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

    BUILDER_CONFIG_CLASS = SemantoksHDF5Config
    DEFAULT_WRITER_BATCH_SIZE = _ROWS_A_TABLE

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
        columns = [label.rsplit("/", 1)[-1] for label in labels]
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
            subjects=wanted,
            atlases=None if atlases is None else list(atlases),
            labels=list(labels),
            roi_order=roi_order_text(roi_order),
            t_r=check_t_r(t_r),
            fingerprint=fingerprint(everything[0].parent, everything),
        )

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Read the files and write the Arrow cache.

        Raises:
            ROISeriesReadError: if a file is damaged, or reaches out of itself; the message names it.
        """
        with told_as_itself():
            super().download_and_prepare(*args, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        columns = {label.rsplit("/", 1)[-1]: datasets.Value("float64") for label in self.config.labels}
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
        config = self.config
        wanted = set(config.subjects[split]) if split in config.subjects else None
        for number, path in enumerate(files):
            with SemantoksRecordings(path, config.atlases, config.labels) as recordings:
                rows = [row for row, subject in enumerate(recordings.subjects) if wanted is None or subject in wanted]
                blocks = range(0, len(rows), _ROWS_A_TABLE)
                for block in tqdm(blocks, desc=f"Reading {Path(path).name}", unit="block", disable=len(blocks) < 8):
                    part = [recordings[row] for row in rows[block : block + _ROWS_A_TABLE]]
                    if empty := [recording.subject for recording in part if measured_length(recording) < 2]:
                        what = f"{len(empty)} scans without a measured timepoint are left out (first: {empty[0]})."
                        warnings.warn(f"{path}: {what}", stacklevel=2)
                        part = [recording for recording in part if measured_length(recording) > 1]
                    if not part:
                        continue
                    signals = [recording.signals[:, : measured_length(recording)] for recording in part]
                    cells: dict[str, Any] = {
                        **{column: [None] * len(part) for column in NAME_COLUMNS},
                        "signals": [np.ascontiguousarray(series) for series in signals],
                        "n_rois": [series.shape[0] for series in signals],
                        "n_timepoints": [series.shape[1] for series in signals],
                        "t_r": [config.t_r] * len(part),
                        "roi_order": [config.roi_order] * len(part),
                        "subject": [recording.subject for recording in part],
                        "subject_known": [True] * len(part),
                        "source_file": [Path(path).name] * len(part),
                    }
                    for label in config.labels:
                        cells[label.rsplit("/", 1)[-1]] = [recording.labels[label] for recording in part]
                    yield Key(number, block), arrow_table(cells, self.info.features)


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
    splits = list(people)
    for number, split in enumerate(splits):
        for other in splits[number + 1 :]:
            if shared := sorted(people[split] & people[other]):
                warnings.warn(
                    f"{len(shared)} subjects are in {split} and in {other} (first: {shared[0]}), so what is trained "
                    "on one knows people of the other.",
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
