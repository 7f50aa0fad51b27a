"""From folders of scans to Arrow datasets: one row a scan, in its own order, repetition time and units.

`signals` is one flat float32 list a row, next to `n_rois` and `n_timepoints`: with the numpy format that reads as fast
as a memory map, while nested lists cost a hundred times more.
"""

import csv
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..optional import require
from ..processing.roi_orders import ROIOrder, resolve_roi_order, roi_order_text
from .readers import SERIES_SUFFIXES, ROISeries, ROISeriesReadError, read_coordinates, read_roi_series, series_suffix

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from datasets.builder import Key
else:
    # Base classes come from here, so whoever imports this module needs them, and learns which extra brings them.
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")
    Key = require("datasets.builder", extra="data", purpose="datasets of scans").Key

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_NIFTI = (".nii", ".nii.gz")
# Tables of a BIDS folder that are not series of ROIs.
_NOT_SERIES = re.compile(
    r"^participants\.|_(events|scans|sessions|channels|physio)\.|confounds|coordinates", re.IGNORECASE
)
_ENTITIES = {
    "subject": r"(?:^|[/_])sub-([A-Za-z0-9]+)",
    "session": r"(?:^|[/_])ses-([A-Za-z0-9]+)",
    "run": r"_run-([A-Za-z0-9]+)",
}
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_MAX_LISTED = 20


def _scan_features(extra: Mapping[str, Any]) -> datasets.Features:
    return datasets.Features(
        {
            "signals": datasets.List(datasets.Value("float32")),
            "n_rois": datasets.Value("int64"),
            "n_timepoints": datasets.Value("int64"),
            "t_r": datasets.Value("float64"),
            "roi_order": datasets.Value("string"),
            "subject": datasets.Value("string"),
            "session": datasets.Value("string"),
            "run": datasets.Value("string"),
            "source_file": datasets.Value("string"),
            **extra,
        }
    )


def _signals_column(arrays: Sequence[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *(array.size for array in arrays)])
    flat = np.concatenate([array.reshape(-1) for array in arrays]) if len(arrays) != 1 else arrays[0].reshape(-1)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.float32()))


# --- participants ---


@dataclass
class _Participants:
    """A participants.tsv: typed columns by subject."""

    features: dict[str, datasets.Value] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)


def _read_participants(path: Path | None) -> _Participants:
    if path is None:
        return _Participants()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ROISeriesReadError(f"{path}: cannot be read as a participants table ({error}).") from error
    if not table or "participant_id" not in table[0]:
        raise ROISeriesReadError(f"{path}: expected a tab-separated table with a column participant_id.")
    taken = set(_scan_features({}))
    result = _Participants()
    for row in table:
        subject = (row["participant_id"] or "").strip().removeprefix("sub-")
        if subject in result.rows:
            raise ROISeriesReadError(f"{path}: participant {subject!r} has more than one row.")
        result.rows[subject] = {}
    for column in table[0]:
        if column is None or column == "participant_id":
            continue
        cells = [(row[column] or "").strip() for row in table]
        gaps = [cell.lower() in ("", "n/a", "nan") for cell in cells]
        kind, values = _typed(cells, gaps)
        name = f"participant_{column}" if column in taken else column
        result.features[name] = datasets.Value(kind)
        for subject, value in zip(result.rows, values):
            result.rows[subject][name] = value
    return result


def _typed(cells: list[str], gaps: list[bool]) -> tuple[str, list[Any]]:
    """Integers where all are whole and none is missing, floats with NaN for gaps, else text with None for gaps."""
    given = [cell for cell, gap in zip(cells, gaps) if not gap]
    if given and not any(gaps) and all(re.fullmatch(r"-?(0|[1-9]\d*)", cell) for cell in given):
        return "int64", [int(cell) for cell in cells]
    # "007" is a name, not a number.
    if given and all(re.fullmatch(_NUMBER, cell) and not re.fullmatch(r"0\d+", cell) for cell in given):
        return "float64", [float("nan") if gap else float(cell) for cell, gap in zip(cells, gaps)]
    return "string", [None if gap else cell for cell, gap in zip(cells, gaps)]


# --- builders ---


@dataclass
class ROISeriesConfig(datasets.BuilderConfig):
    """Options of `ROISeriesFolderBuilder`; see there."""

    folder: str = ""
    files: dict[str, list[str]] = field(default_factory=dict)
    fingerprint: str = ""
    roi_order: str = ""
    n_rois: int | None = None
    t_r: float | None = None
    time_axis: int | None = None
    key: str | None = None
    name_pattern: str | None = None
    atlas: str | None = None


class ROISeriesFolderBuilder(datasets.ArrowBasedBuilder):
    """Build an Arrow dataset from a folder of ROI series, or of 4-D BOLD images and an atlas.

    Rows hold `signals` (flat float32, reshape to (n_rois, n_timepoints)), `n_rois`, `n_timepoints`, `t_r` (seconds,
    NaN if unknown), `roi_order`, `subject`, `session`, `run`, `source_file` and the columns of participants.tsv. The
    cache is rebuilt when any file changes.

    A file that cannot be read does not cost the others: all are read, and then `as_dataset` raises one error that
    lists the bad ones (`on_error="raise"`), or leaves them out with a warning (`on_error="skip"`; they are in
    `skipped`).

    Args:
        folder: where the files are, at any depth. Sub-folders train, validation (or val) and test become splits.
        roi_order: order of the files' ROIs.
        n_rois: number of ROIs, where the order is not one that is known.
        t_r: repetition time in seconds; by default what the files say.
        pattern: glob of the files, such as `"*/functional/*.mat"`; by default every file of a known format.
        name_pattern: regular expression with named groups `subject`, `session`, `run`, searched in the relative path;
            by default BIDS names (`sub-01_ses-02_run-1`), else the path without suffix is the subject.
        participants: a participants.tsv; by default the one in the folder, if any.
        time_axis, key: see `read_roi_series`.
        atlas: label image or name, for 4-D BOLD images; see `parcellate`.
        on_error: `"raise"` or `"skip"`.
        cache_dir: where to put the Arrow files.

    Raises:
        FileNotFoundError: if the folder or files of a known format are missing.
        ValueError: if roi_order is missing or an option does not exist.
    """

    BUILDER_CONFIG_CLASS = ROISeriesConfig
    # Rows are megabytes; the default of 1000 would hold gigabytes before writing.
    DEFAULT_WRITER_BATCH_SIZE = 16

    def __init__(
        self,
        folder: str | Path,
        *,
        roi_order: ROIOrder,
        n_rois: int | None = None,
        t_r: float | None = None,
        pattern: str | None = None,
        name_pattern: str | None = None,
        participants: str | Path | None = None,
        time_axis: int | None = None,
        key: str | None = None,
        atlas: str | Path | None = None,
        on_error: str = "raise",
        cache_dir: str | Path | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'Expected on_error to be "raise" or "skip", got {on_error!r}.')
        root = Path(folder).resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder.")
        labels = resolve_roi_order(roi_order).labels
        if name_pattern is not None and not {"subject"} <= set(re.compile(name_pattern).groupindex):
            raise ValueError(f"Expected name_pattern with a named group (?P<subject>...), got {name_pattern!r}.")
        files = _list_files(root, pattern, nifti=atlas is not None)
        default = root / "participants.tsv"
        table = Path(participants) if participants is not None else default if default.is_file() else None
        self._on_error = on_error
        self._participants = _read_participants(table)
        self.skipped: dict[str, str] = {}
        self._atlas_image = None if atlas is None else self._load_atlas(atlas, len(labels) or n_rois)
        sources = [root / name for names in files.values() for name in names]
        if atlas is not None and Path(atlas).is_file():
            sources.append(Path(atlas).resolve())
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name=re.sub(r"\W+", "_", root.name) or "scans",
            folder=str(root),
            files=files,
            fingerprint=_fingerprint(root, sources + ([table] if table is not None else [])),
            roi_order=roi_order_text(roi_order),
            n_rois=len(labels) or n_rois,
            t_r=None if t_r is None else float(t_r),
            time_axis=time_axis,
            key=key,
            name_pattern=name_pattern,
            atlas=None if atlas is None else str(atlas),
        )

    @staticmethod
    def _load_atlas(atlas: str | Path, n_rois: int | None) -> Any:
        from .parcellation import load_atlas

        image = load_atlas(atlas)
        highest = int(np.asarray(image.dataobj).max())
        if n_rois is not None and highest != n_rois:
            raise ValueError(
                f"{atlas}: the label image goes up to label {highest}, but roi_order has {n_rois} parcels. "
                "Use the label image that belongs to the roi_order."
            )
        return image

    def _info(self) -> datasets.DatasetInfo:
        extra = {**self._participants.features, "read_error": datasets.Value("string")}
        return datasets.DatasetInfo(features=_scan_features(extra))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        # Only `files` is a list here: num_proc splits every list of these arguments.
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": list(names)})
            for split, names in self.config.files.items()
        ]

    def _generate_shards(self, files: list[str]) -> Iterator[str]:
        yield from files

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        schema = self.info.features.arrow_schema
        for number, name in enumerate(files):
            error, series = "", ROISeries(np.empty((0, 0), dtype=np.float32))
            try:
                series = self._read(Path(self.config.folder) / name)
            except ROISeriesReadError as problem:
                error = str(problem)
            names = _parse_name(name, self.config.name_pattern)
            person = self._participants.rows.get(names["subject"] or "", {})
            cells: dict[str, Any] = {
                "n_rois": series.signals.shape[0],
                "n_timepoints": series.signals.shape[1],
                "t_r": self.config.t_r if self.config.t_r is not None else series.t_r,
                "roi_order": self.config.roi_order,
                **names,
                "source_file": name,
                **{column: person.get(column) for column in self._participants.features},
                "read_error": error,
            }
            columns = [
                _signals_column([series.signals])
                if item.name == "signals"
                else pa.array([cells[item.name]], item.type)
                for item in schema
            ]
            yield Key(number, 0), pa.Table.from_arrays(columns, schema=schema)

    def _read(self, path: Path) -> ROISeries:
        config = self.config
        if path.name.lower().endswith(_NIFTI):
            from .parcellation import parcellate

            return parcellate(path, self._atlas_image, n_rois=config.n_rois, t_r=config.t_r)
        return read_roi_series(
            path,
            roi_order=config.roi_order,
            n_rois=config.n_rois,
            t_r=config.t_r,
            time_axis=config.time_axis,
            key=config.key,
        )

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Read the files and write the Arrow cache, with up to `num_proc` processes.

        Raises:
            ImportError: if a format needs a package that is not installed.
        """
        longest = max(len(files) for files in self.config.files.values())
        num_proc = None if num_proc is None or min(num_proc, longest) < 2 else min(num_proc, longest)
        try:
            super().download_and_prepare(*args, num_proc=num_proc, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            # A missing optional package is told as such, not as a failure of the builder.
            if isinstance(error.__cause__, ImportError):
                raise error.__cause__ from None
            raise

    def as_dataset(self, *args: Any, **kwargs: Any) -> datasets.Dataset | datasets.DatasetDict:
        """The dataset in numpy format, or a dictionary of splits; bad files are reported or left out here.

        Raises:
            ROISeriesReadError: if files could not be read and `on_error="raise"`, or none could.
        """
        self.skipped = {}
        result = super().as_dataset(*args, **kwargs)
        splits = result.values() if isinstance(result, dict) else [result]
        for dataset in splits:
            for name, error in zip(_strings(dataset, "source_file"), _strings(dataset, "read_error")):
                if error:
                    self.skipped[name] = error
        total = sum(len(dataset) for dataset in splits)
        if self.skipped:
            lines = list(self.skipped.values())
            listing = "\n  ".join(
                lines[:_MAX_LISTED]
                + ([f"... and {len(lines) - _MAX_LISTED} more"] if len(lines) > _MAX_LISTED else [])
            )
            if self._on_error == "raise" or len(self.skipped) == total:
                hint = (
                    ""
                    if len(self.skipped) == total
                    else ' The others are cached; on_error="skip" goes on without these.'
                )
                raise ROISeriesReadError(f"{len(self.skipped)} of {total} files cannot be used.{hint}\n  {listing}")
            warnings.warn(
                f"{len(self.skipped)} of {total} files were left out:\n  {listing}", UserWarning, stacklevel=2
            )
        unmatched = self._unmatched_subjects(list(splits))
        if unmatched:
            warnings.warn(
                f"{len(unmatched)} subjects have no row in the participants table (first: {unmatched[:5]}); their "
                "columns are empty.",
                UserWarning,
                stacklevel=2,
            )
        if isinstance(result, dict):
            return datasets.DatasetDict({split: self._good_rows(dataset) for split, dataset in result.items()})
        return self._good_rows(result)

    def _good_rows(self, dataset: datasets.Dataset) -> datasets.Dataset:
        errors = _strings(dataset, "read_error")
        dataset = dataset.remove_columns("read_error")
        if any(errors):
            dataset = dataset.select([row for row, error in enumerate(errors) if not error])
        return dataset.with_format("numpy")

    def _unmatched_subjects(self, splits: list[datasets.Dataset]) -> list[str]:
        if not self._participants.rows:
            return []
        subjects = {subject for dataset in splits for subject in _strings(dataset, "subject")}
        return sorted(subjects - set(self._participants.rows))


@dataclass
class CoordinatesConfig(datasets.BuilderConfig):
    """Options of `CoordinatesBuilder`; see there."""

    path: str = ""
    fingerprint: str = ""
    n_rois: int | None = None


class CoordinatesBuilder(datasets.ArrowBasedBuilder):
    """Build the dataset of parcel centres, columns `index` (1, 2, ...), `x`, `y`, `z` (mm MNI), one row a parcel.

    Args:
        path: a table that `read_coordinates` reads.
        n_rois: number of rows that is expected; `None` takes any.
        cache_dir: where to put the Arrow file.
    """

    BUILDER_CONFIG_CLASS = CoordinatesConfig

    def __init__(self, path: str | Path, *, n_rois: int | None = 424, cache_dir: str | Path | None = None) -> None:
        table = Path(path).resolve()
        if not table.is_file():
            raise FileNotFoundError(f"{path}: there is no such table of coordinates.")
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name="coordinates",
            path=str(table),
            n_rois=n_rois,
            fingerprint=_fingerprint(table.parent, [table]),
        )

    def _info(self) -> datasets.DatasetInfo:
        columns = {"index": datasets.Value("int64"), **{axis: datasets.Value("float32") for axis in "xyz"}}
        return datasets.DatasetInfo(features=datasets.Features(columns))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name="train", gen_kwargs={"paths": [self.config.path]})]

    def _generate_shards(self, paths: list[str]) -> Iterator[str]:
        yield from paths

    def _generate_tables(self, paths: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        for number, path in enumerate(paths):
            table = read_coordinates(path, n_rois=self.config.n_rois)
            columns = {
                "index": np.arange(1, len(table) + 1),
                **{axis: table[:, column] for column, axis in enumerate("xyz")},
            }
            yield Key(number, 0), pa.table(columns)


# --- the front door ---


def load_dataset(
    path: str | Path,
    *,
    roi_order: ROIOrder | None = None,
    t_r: float | None = None,
    split: str | None = None,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    **options: Any,
) -> datasets.Dataset | datasets.DatasetDict:
    """Load scans as an Arrow dataset in numpy format: one row a scan.

    Args:
        path: a folder of ROI series, or a folder that `brain-transformers prepare` or `save_to_disk` wrote.
        roi_order: order of the files' ROIs. Required for a folder of series; for a saved dataset it is checked.
        t_r: repetition time in seconds; by default what the files say.
        split: `"train"`, `"validation"` or `"test"`, for folders with sub-folders of these names.
        cache_dir: where to put the Arrow files.
        num_proc: processes that read files.
        options: further options of `ROISeriesFolderBuilder`: n_rois, pattern, name_pattern, participants, time_axis,
            key, atlas, on_error.

    Returns:
        A `Dataset`; a `DatasetDict` if the folder has several splits and none was chosen.

    Raises:
        ValueError: if roi_order is missing, or contradicts a saved dataset.
        ROISeriesReadError: if files could not be read; the message lists all of them.
    """
    folder = Path(path)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _load_saved(folder, roi_order, split)
    if roi_order is None:
        raise ValueError(
            f"{path}: roi_order is missing. Files do not tell the order of their rows; name it, for example "
            'roi_order="schaefer400-7net", or give the list of labels.'
        )
    builder = ROISeriesFolderBuilder(folder, roi_order=roi_order, t_r=t_r, cache_dir=cache_dir, **options)
    names = list(builder.config.files)
    if split is not None and split not in names:
        raise ValueError(f"Expected split to be one of {names} for {path}, got {split!r}.")
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split or (names[0] if len(names) == 1 else None))


def load_coordinates(
    path: str | Path, *, n_rois: int | None = 424, cache_dir: str | Path | None = None
) -> datasets.Dataset:
    """Load parcel centres as a dataset with columns `index`, `x`, `y`, `z` (mm MNI) in numpy format.

    Args:
        path: a table that `read_coordinates` reads, such as `A424_Coordinates.dat`.
        n_rois: number of rows that is expected; `None` takes any.
        cache_dir: where to put the Arrow file.

    Raises:
        ROISeriesReadError: if the table is not one of coordinates.
    """
    read_coordinates(path, n_rois=n_rois)  # a bad table is one clear error here, not a wrapped one from the builder
    builder = CoordinatesBuilder(path, n_rois=n_rois, cache_dir=cache_dir)
    builder.download_and_prepare()
    return builder.as_dataset(split="train").with_format("numpy")


def dataset_from_arrays(
    signals: Sequence[np.ndarray],
    *,
    roi_order: ROIOrder,
    t_r: float | Sequence[float] | None = None,
    subject: Sequence[str] | None = None,
    session: Sequence[str] | None = None,
    run: Sequence[str] | None = None,
    **columns: Sequence[Any],
) -> datasets.Dataset:
    """Make the same dataset from arrays in memory.

    Args:
        signals: scans, each (n_rois, n_timepoints).
        roi_order: order of their rows.
        t_r: repetition time in seconds, one or one a scan.
        subject, session, run: names, one a scan.
        columns: further columns, such as `age=[...]`.

    Raises:
        ValueError: if arrays are not 2-D, do not fit the order, or a column has another length.
    """
    n_scans = len(signals)
    expected = len(resolve_roi_order(roi_order).labels)
    arrays = [np.ascontiguousarray(array, dtype=np.float32) for array in signals]
    if not arrays:
        raise ValueError("Expected at least one scan, got none.")
    for number, array in enumerate(arrays):
        if array.ndim != 2 or (expected and array.shape[0] != expected):
            shape = f"({expected or 'n_rois'}, n_timepoints)"
            raise ValueError(
                f"Expected scan {number} of shape {shape}, got {array.shape}. Pass scan.T if it is transposed."
            )
    given: dict[str, Any] = {
        "t_r": [t_r] * n_scans if t_r is None or np.ndim(t_r) == 0 else t_r,
        "subject": subject if subject is not None else [str(number) for number in range(n_scans)],
        "session": session if session is not None else [None] * n_scans,
        "run": run if run is not None else [None] * n_scans,
        **columns,
    }
    for name, values in given.items():
        if len(values) != n_scans:
            raise ValueError(f"Expected {n_scans} values in {name}, got {len(values)}.")
    text = roi_order_text(roi_order)
    fixed = {
        "n_rois": [array.shape[0] for array in arrays],
        "n_timepoints": [array.shape[1] for array in arrays],
        "roi_order": [text] * n_scans,
        "source_file": [""] * n_scans,
        **{name: given[name] for name in ("t_r", "subject", "session", "run")},
    }
    base = _scan_features({}).arrow_schema
    built = {
        name: pa.chunked_array([_signals_column([array]) for array in arrays])
        if name == "signals"
        else pa.array(list(fixed[name]), base.field(name).type)
        for name in base.names
    }
    built.update({name: pa.array(list(values)) for name, values in columns.items()})
    table = pa.table(built)
    features = datasets.Features({**datasets.Features.from_arrow_schema(table.schema), **_scan_features({})})
    info = datasets.DatasetInfo(features=features)
    return datasets.Dataset(datasets.table.InMemoryTable(table), info=info).with_format("numpy")


# --- files ---


def _list_files(root: Path, pattern: str | None, nifti: bool) -> dict[str, list[str]]:
    suffixes = _NIFTI if nifti else SERIES_SUFFIXES
    default = "**/*bold.nii*" if nifti else "**/*"
    found = [
        path.relative_to(root).as_posix()
        for path in sorted(root.glob(pattern or default))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and (path.name.lower().endswith(_NIFTI) if nifti else bool(series_suffix(path)))
        and not (pattern is None and _NOT_SERIES.search(path.name))
    ]
    if not found:
        raise FileNotFoundError(
            f"{root}: expected files ending in {', '.join(suffixes)} (pattern {pattern or default!r}), got none. "
            "Check the folder, or give a pattern."
        )
    spaces = {match.group(1) for name in found if (match := re.search(r"space-([A-Za-z0-9]+)", name))}
    if nifti and len(spaces) > 1:
        raise ValueError(
            f"{root}: the same scans come in several spaces ({sorted(spaces)}). Choose one, for example with "
            'pattern="**/*space-MNI152NLin6Asym*bold.nii.gz".'
        )
    by_split: dict[str, list[str]] = {}
    for name in found:
        top = name.split("/", 1)[0] if "/" in name else ""
        by_split.setdefault(_SPLITS.get(top, ""), []).append(name)
    if set(by_split) == {""}:
        return {"train": found}
    if "" in by_split:
        raise ValueError(
            f"{root}: some files lie in split folders ({sorted(set(by_split) - {''})}) and some do not (first: "
            f"{by_split[''][0]}). Put all in split folders, or none."
        )
    return by_split


def _fingerprint(root: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{os.path.relpath(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        sidecar = path.with_suffix("").with_suffix(".json")
        if sidecar.is_file():
            digest.update(f"{sidecar.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _parse_name(name: str, pattern: str | None) -> dict[str, str | None]:
    """Subject, session and run from a relative path."""
    if pattern is not None:
        match = re.search(pattern, name)
        groups = match.groupdict() if match else {}
        result = {key: groups.get(key) for key in _ENTITIES}
    else:
        result = {}
        for key, expression in _ENTITIES.items():
            matches = re.findall(expression, name)
            result[key] = matches[-1] if matches else None
    if result["subject"] is None:
        # Not a name we know: the path is unique and claims nothing.
        suffix = series_suffix(name) or (".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix)
        result["subject"] = name[: len(name) - len(suffix)]
    return result


def _strings(dataset: datasets.Dataset, column: str) -> list[str]:
    return [value or "" for value in dataset.data.column(column).to_pylist()]


def _load_saved(
    folder: Path, roi_order: ROIOrder | None, split: str | None
) -> datasets.Dataset | datasets.DatasetDict:
    saved = datasets.load_from_disk(str(folder))
    parts = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    if split is not None and split not in parts:
        raise ValueError(f"Expected split to be one of {list(parts)} for {folder}, got {split!r}.")
    for name, dataset in parts.items():
        if not {"signals", "n_rois", "roi_order"} <= set(dataset.column_names):
            raise ValueError(
                f"{folder}: expected a dataset of scans with columns signals, n_rois and roi_order, got "
                f"{dataset.column_names}. Make one with `brain-transformers prepare`."
            )
        stored = set(dataset.data.column("roi_order").to_pylist())
        if roi_order is not None and stored != {roi_order_text(roi_order)}:
            raise ValueError(
                f"{folder}: expected rows in roi_order {roi_order_text(roi_order)!r}, got {sorted(stored)}. "
                "Leave roi_order out to use what is stored."
            )
        parts[name] = dataset.with_format("numpy")
    if split is not None:
        return parts[split]
    return datasets.DatasetDict(parts) if isinstance(saved, datasets.DatasetDict) else parts["train"]
