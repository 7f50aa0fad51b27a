"""Arrow datasets from HDF5 files in the layout of the Brain-Semantoks authors."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..foreign import reading
from ..optional import require
from ..processing.roi_orders import ROIOrder, roi_order_text
from .arrays import read_npy
from .builders import Key, _fingerprint, _scan_features, _signals_column, told_as_itself
from .derivatives import NAME_COLUMNS
from .readers import ROISeriesReadError
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
        ROISeriesReadError: if a file has another layout, or the order of its parcels is not known.
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
        for path in everything:
            if not path.is_file():
                raise FileNotFoundError(f"{path}: there is no such file.")
        if roi_order is None:
            for path in everything:
                with SemantoksRecordings(path, atlases) as recordings:
                    roi_order = recordings.roi_order
                if roi_order is None:
                    raise ROISeriesReadError(
                        f"{path}: the parcels are not those of Schaefer-400, Tian S3 and Buckner-7, so their order is "
                        "not known. Pass roi_order: a name, or the list of labels."
                    )
        chosen = subjects if isinstance(subjects, Mapping) else dict.fromkeys(paths, subjects)
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name="semantoks_hdf5",
            files={split: [str(path) for path in part] for split, part in paths.items()},
            subjects={split: _identifiers(part) for split, part in chosen.items() if part is not None},
            atlases=None if atlases is None else list(atlases),
            labels=list(labels),
            roi_order=roi_order_text(roi_order) if roi_order is not None else "",
            t_r=float(t_r),
            fingerprint=_fingerprint(everything[0].parent, everything),
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
        return datasets.DatasetInfo(features=_scan_features(columns))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Only `files` is a list here: num_proc splits every list of these arguments.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": list(files), "split": split})
            for split, files in self.config.files.items()
        ]

    def _generate_shards(self, files: list[str], split: str) -> Iterator[str]:
        yield from files

    def _generate_tables(self, files: list[str], split: str) -> Iterator[tuple[Key, pa.Table]]:
        config, schema = self.config, self.info.features.arrow_schema
        wanted = set(config.subjects[split]) if split in config.subjects else None
        for number, path in enumerate(files):
            with SemantoksRecordings(path, config.atlases, config.labels) as recordings:
                rows = [row for row, subject in enumerate(recordings.subjects) if wanted is None or subject in wanted]
                blocks = range(0, len(rows), _ROWS_A_TABLE)
                for block in tqdm(blocks, desc=f"Reading {Path(path).name}", unit="block", disable=len(blocks) < 8):
                    part = [recordings[row] for row in rows[block : block + _ROWS_A_TABLE]]
                    signals = [recording.signals[:, : measured_length(recording)] for recording in part]
                    cells: dict[str, list[Any]] = {
                        "n_rois": [series.shape[0] for series in signals],
                        "n_timepoints": [series.shape[1] for series in signals],
                        "t_r": [config.t_r] * len(part),
                        "roi_order": [config.roi_order] * len(part),
                        **{column: [None] * len(part) for column in NAME_COLUMNS},
                        "subject": [recording.subject for recording in part],
                        "subject_known": [True] * len(part),
                        "source_file": [Path(path).name] * len(part),
                        **{
                            label.rsplit("/", 1)[-1]: [recording.labels[label] for recording in part]
                            for label in config.labels
                        },
                    }
                    columns = [
                        _signals_column([np.ascontiguousarray(series) for series in signals])
                        if item.name == "signals"
                        else pa.array(cells[item.name], item.type)
                        for item in schema
                    ]
                    yield Key(number, block), pa.Table.from_arrays(columns, schema=schema)


def _listed(part: Any) -> list[Any]:
    # Not `Path`: `datasets` puts a class of its own under that name into the modules of builders.
    return [part] if isinstance(part, (str, os.PathLike)) else list(part)


def _identifiers(part: Any) -> list[str]:
    if isinstance(part, (str, os.PathLike)):
        with reading(part, "a .npy file of identifiers", error=ROISeriesReadError):
            part = read_npy(part).reshape(-1).tolist()
    return sorted({value.decode() if isinstance(value, bytes) else str(value) for value in part})
