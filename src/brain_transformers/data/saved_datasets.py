"""Saved datasets of scans: read back whole, or refused with the name of the file that is damaged.

Arrow trusts its files: a damaged one crashes the interpreter when its values are read. So the structure of every file
is validated first. That looks at lengths and offsets and not at the values, so that a large file costs no more time.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atlases.roi_orders import ROIOrder, roi_order_text
from ..foreign import read_json
from ..optional import require
from . import row_kinds
from .errors import ROISeriesReadError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

SKIPPED_FILE = "skipped_files.tsv"
"""What `prepare` left out of a dataset, and why."""
MADE_OF_FILE = "prepared.json"
"""What `prepare` made a dataset of, and how its splits were drawn."""
_SCANS = "scans"
# Rows that a folder of files beside a dataset can hold in name: 12,345,678-....npy
_SCAN_FILE = re.compile(r"(?:[^/]+/)?scans/\d{6,}-[^/]+\.npy")
_PART = "a part of a saved dataset"
_FIX = "Make the dataset anew with `brain-transformers prepare`, or copy it again from where it is whole."


def is_saved(folder: Path) -> bool:
    """Whether a folder holds what `save_to_disk` writes."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_saved_file(name: str) -> bool:
    """Whether a file of a saved dataset, named by its path in the folder, is one that `prepare` writes."""
    if _SCAN_FILE.fullmatch(name):
        return True
    split, _, base = name.rpartition("/")
    if split and split not in ("train", "validation", "test"):
        return False
    ours = ("state.json", "dataset_info.json") if split else ("dataset_dict.json", "state.json", "dataset_info.json")
    return base in (*ours, SKIPPED_FILE, MADE_OF_FILE) or bool(re.fullmatch(r"data-\d+-of-\d+\.arrow", base))


def load_saved(
    folder: Path, roi_order: ROIOrder | None = None, split: str | None = None, t_r: float | None = None
) -> "datasets.Dataset | datasets.DatasetDict":
    """Load a saved dataset of scans in numpy format.

    Raises:
        ROISeriesReadError: if a file is damaged; the message names it.
        ValueError: if it is no dataset of scans, or has another order, repetition time or other splits.
    """
    names = _splits(folder)
    if split is not None and names is not None and split not in names:
        raise ValueError(f"Expected split to be one of {names} for {folder}, got {split!r}.")
    wanted = names if split is None or names is None else [split]
    parts = {name: _load_part(folder / name) for name in wanted} if wanted else {"train": _load_part(folder)}
    if split is not None and split not in parts:
        raise ValueError(f"Expected split to be one of {list(parts)} for {folder}, got {split!r}.")
    for dataset in parts.values():
        stored = _stored(dataset, "roi_order")
        if roi_order is not None and stored != {roi_order_text(roi_order)}:
            raise ValueError(
                f"{folder}: expected rows in roi_order {roi_order_text(roi_order)!r}, got {sorted(map(str, stored))}. "
                "Leave roi_order out to use what is stored."
            )
        times = _stored(dataset, "t_r")
        if t_r is not None and any(value is None or not abs(value - t_r) <= 1e-3 for value in times):
            raise ValueError(
                f"{folder}: expected rows with t_r={t_r:g} s, got {', '.join(sorted(map(str, times))[:5])}. Leave t_r "
                "out to use what is stored, or prepare the scans again with --t-r."
            )
    if split is not None:
        return parts[split]
    return datasets.DatasetDict(parts) if names is not None else parts["train"]


def _stored(dataset: "datasets.Dataset", column: str) -> set[Any]:
    return set(dataset.data.column(column).unique().to_pylist()) if column in dataset.features else {None}


def load_parts(folder: Path) -> "dict[str, datasets.Dataset]":
    """The splits of a saved dataset by name, in numpy format; `""` is the name of the rows of one without splits.

    Raises:
        ROISeriesReadError: if a file is damaged; the message names it.
    """
    loaded = load_saved(folder)
    return dict(loaded) if isinstance(loaded, dict) else {"": loaded}


def _splits(folder: Path) -> list[str] | None:
    """Names of the splits, `None` for a dataset without."""
    file = folder / "dataset_dict.json"
    if not file.is_file():
        return None
    names = read_json(file, _PART, ROISeriesReadError, _FIX).get("splits")
    plain = isinstance(names, list) and all(isinstance(name, str) and name == Path(name).name for name in names)
    if not plain or not names:
        raise ROISeriesReadError(f"{file}: expected a list of splits, got {str(names)[:80]}. {_FIX}")
    return list(names)


def _load_part(folder: Path) -> "datasets.Dataset":
    state, _ = (
        read_json(folder / name, _PART, ROISeriesReadError, _FIX) for name in ("state.json", "dataset_info.json")
    )
    for path in _arrow_files(folder, state):
        check_arrow_file(path)
    try:
        dataset = datasets.load_from_disk(str(folder))
        dataset.with_format("numpy")
    except Exception as error:  # many libraries' words for damaged features or states
        raise ROISeriesReadError(
            f"{folder}: cannot be read as a saved dataset; state.json or dataset_info.json may be damaged "
            f"({type(error).__name__}: {str(error)[:300]}). {_FIX}"
        ) from error
    kind = _check_rows(folder, dataset)
    return (_with_files(folder, dataset, kind.file_column) if kind.file_column else dataset).with_format("numpy")


def _arrow_files(folder: Path, state: dict[str, Any]) -> Iterator[Path]:
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        raise ROISeriesReadError(
            f"{folder / 'state.json'}: expected a list of data files, got {str(files)[:80]}. {_FIX}"
        )
    for item in files:
        name = item.get("filename")
        # A name that leads elsewhere would read another file.
        if not isinstance(name, str) or name != Path(name).name or not (folder / name).is_file():
            raise ROISeriesReadError(f"{folder / 'state.json'}: expected data files beside it, got {name!r}. {_FIX}")
        yield folder / name


def check_arrow_file(path: Path, fix: str = _FIX) -> None:
    """Raise unless the structure of an Arrow stream is sound; values of signals are not read.

    Raises:
        ROISeriesReadError: if it is not; the message ends with `fix`.
    """
    try:
        with pa.memory_map(str(path)) as source:
            pa.ipc.open_stream(source).read_all().validate(full=True)
    except Exception as error:
        raise ROISeriesReadError(
            f"{path}: the Arrow file is damaged or cut off ({str(error)[:300]}). {fix}"
        ) from error


def _check_rows(folder: Path, dataset: "datasets.Dataset") -> row_kinds.RowKind:
    """Raise unless the rows are scans of a kind that is known: columns, types and lengths that belong together."""
    kind = row_kinds.kind_of(dataset.column_names)
    if kind is None:
        known = "; or ".join(f"{', '.join(kind.needed)} ({kind.name})" for kind in row_kinds.ROW_KINDS)
        raise ValueError(
            f"{folder}: expected a dataset of scans with columns {known}, got {dataset.column_names}. Make one with "
            "`brain-transformers prepare`."
        )
    if wrong := kind.fault(dataset.data):
        raise ROISeriesReadError(f"{folder}: expected rows of {kind.name}, got {wrong}. {_FIX}")
    return kind


# --- scans in files of their own ---


def save_dataset(dataset: "datasets.Dataset | datasets.DatasetDict", folder: str | Path) -> None:
    """Save rows of scans, and where these are in files of their own, the files beside them.

    Such a folder can be moved, copied and shared as a whole; `save_to_disk` alone would write down where the files are
    now. Files are linked where the file system can, and copied otherwise.
    """
    if isinstance(dataset, dict):
        dataset = datasets.DatasetDict(
            {split: _beside(part, Path(folder) / split / _SCANS) for split, part in dataset.items()}
        )
    else:
        dataset = _beside(dataset, Path(folder) / _SCANS)
    dataset.save_to_disk(str(folder))


def _beside(rows: "datasets.Dataset", folder: Path) -> "datasets.Dataset":
    """Rows whose files are those in a new folder, named relative to that of the rows."""
    kind = row_kinds.kind_of(rows.column_names)
    if kind is None or kind.file_column is None:
        return rows
    folder.mkdir(parents=True)
    names: list[str | None] = []
    told = row_kinds.column_of(rows, kind.told_in) if kind.told_in in rows.column_names else [""] * len(rows)
    for number, (file, source) in enumerate(zip(row_kinds.column_of(rows, kind.file_column), told)):
        if file is None:
            names.append(None)
            continue
        words = re.sub(r"[^\w.+-]", "_", Path(source or "scan").name)[:120]
        target = folder / f"{number:06d}-{words}.npy"
        try:
            os.link(file, target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(file, target)
        names.append(f"{folder.name}/{target.name}")
    return _with_column(rows, kind.file_column, names)


def _with_files(folder: Path, dataset: "datasets.Dataset", column: str) -> "datasets.Dataset":
    """Rows that say where their files are now; relative names are those of files beside the dataset."""
    names = row_kinds.column_of(dataset, column)
    for name in filter(None, names):
        # A name that leads elsewhere would read another file.
        if not Path(name).is_absolute() and ".." in Path(name).parts:
            raise ROISeriesReadError(f"{folder}: expected files of scans beside the dataset, got {name!r:.80}. {_FIX}")
    paths = [None if name is None else folder.resolve() / name for name in names]
    missing = [path for path in paths if path is not None and not path.is_file()]
    if missing:
        raise ROISeriesReadError(
            f"{folder}: {len(missing)} of {len(paths)} files with scans are not there (first: {missing[0]}). Move or "
            "copy the whole folder of a dataset, or prepare it again."
        )
    return _with_column(dataset, column, [None if path is None else str(path) for path in paths])


def _with_column(rows: "datasets.Dataset", name: str, values: list[str | None]) -> "datasets.Dataset":
    """The same rows, in memory, with another column of text in the place of one."""
    table = rows.with_format("arrow")[:] if len(rows) else rows.data.table
    table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))
    return datasets.Dataset(
        datasets.table.InMemoryTable(table.cast(rows.features.arrow_schema)),
        info=rows.info,
        split=rows.split,
        fingerprint=rows._fingerprint,
    ).with_format("numpy")
