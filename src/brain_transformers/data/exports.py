"""Datasets of scans for elsewhere: Parquet files that stream from storage and the Hub, and raw images to look at."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_folder
from ..optional import require
from .errors import ROISeriesReadError
from .row_kinds import column_of, kind_of
from .saved_datasets import is_saved, load_parts

if TYPE_CHECKING:
    import datasets
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")

# Rows that a reader of a stream holds at a time, and about how large a file becomes.
_ROWS_IN_GROUP, _BYTES_IN_FILE = 16, 500_000_000
# Of a dataset on this disk: what any number of machines that is a power of two divides.
_SHARDS = 64
_FILE = re.compile(r"data/(?:train|validation|test)-\d{5}-of-\d{5}\.parquet")


def export_parquet(dataset: Any, folder: str | Path, *, n_files: int | None = None) -> Path:
    """Write rows of scans as Parquet files, as the Hub lays them out: `data/train-00000-of-00004.parquet`.

    [`load_dataset`] reads the folder, with `streaming=True` without reading it first; so does `datasets.load_dataset`
    from wherever the folder was copied or uploaded to.

    Args:
        dataset: rows, of one split or of several.
        folder: appears complete or not at all; files in it that are no such export stay.
        n_files: files of each split; a multiple of the number of machines lets each read files of its own. By default
            one for about 500 MB.

    Raises:
        ValueError: for rows whose scans lie in files of their own (volumes), which Parquet would not hold.
    """
    splits = dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
    for rows in splits.values():
        kind = kind_of(rows.column_names)
        if kind is not None and kind.file_column is not None:
            raise ValueError(
                f"Rows of {kind.name} name files that lie beside them, and Parquet would hold the names alone. Copy "
                "the folder of the dataset as a whole, or share the images with with_images(dataset, folder)."
            )
    with whole_folder(folder, is_ours=lambda name: _FILE.fullmatch(name) is not None) as work:
        (work / "data").mkdir()
        for split, rows in splits.items():
            count = n_files or max(1, math.ceil(rows.data.nbytes / _BYTES_IN_FILE))
            count = max(1, min(count, len(rows)))
            for number in range(count):
                part = rows.with_format(None).shard(count, number, contiguous=True)
                path = work / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet"
                part.to_parquet(path, batch_size=_ROWS_IN_GROUP)
    return Path(folder)


def parquet_files(folder: Path) -> dict[str, list[str]]:
    """The Parquet files of each split in a folder that [`export_parquet`] wrote; nothing for another."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("data/*-of-*.parquet")):
        found.setdefault(path.name.partition("-")[0], []).append(str(path))
    return found


def load_export(folder: Path, split: str | None, streaming: bool, cache_dir: str | Path | None) -> Any:
    """What [`export_parquet`] wrote, or a saved dataset as a stream; in numpy format.

    Raises:
        ROISeriesReadError: if a file is damaged.
        ValueError: if it is neither, holds no scans, or has other splits.
    """
    cache = None if cache_dir is None else str(cache_dir)
    if files := parquet_files(folder):
        try:
            parts = dict(datasets.load_dataset("parquet", data_files=files, streaming=streaming, cache_dir=cache))
        except Exception as error:  # many libraries' words for a damaged file
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise ROISeriesReadError(
                f"{folder}: cannot be read as Parquet files of scans; one may be damaged or cut off ({reason}). "
                "Export the dataset again, or copy it again from where it is whole."
            ) from error
    elif is_saved(folder):
        saved = load_parts(folder)
        names = {"train": saved[""]} if "" in saved else saved
        parts = {name: rows.to_iterable_dataset(min(_SHARDS, max(len(rows), 1))) for name, rows in names.items()}
    else:
        raise ValueError(
            f"{folder} holds files that have to be read as a whole before they stream. Run `brain-transformers "
            f"prepare {folder} --output dataset`, and stream that."
        )
    if split is not None and split not in parts:
        raise ValueError(f"Expected split to be one of {list(parts)} for {folder}, got {split!r}.")
    for rows in parts.values():
        kind = kind_of(rows.column_names or ())
        wrong = "" if streaming or kind is None else kind.fault(rows.data)
        if kind is None or wrong:
            raise ValueError(f"{folder}: expected rows of scans, got {wrong or rows.column_names}.")
    parts = {name: rows.with_format("numpy") for name, rows in parts.items()}
    if split is not None or len(parts) == 1:
        return parts[split or next(iter(parts))]
    return (datasets.IterableDatasetDict if streaming else datasets.DatasetDict)(parts)


def with_images(dataset: Any, folder: str | Path, column: str = "image") -> Any:
    """Rows with the image that each comes from in a column of type `datasets.Nifti`, to share and to look at.

    `push_to_hub` puts the images into the dataset, which the Hub shows slice by slice. Models of this package do not
    read that column: rows that name files of prepared volumes lose them, since others would not have them.

    Args:
        dataset: rows with `source_file`, of one split or of several.
        folder: where the images are, the folder that was prepared.
        column: its name.

    Raises:
        FileNotFoundError: if images are not there.
        ValueError: if a row comes from no image.
    """
    if isinstance(dataset, dict):
        return datasets.DatasetDict({split: with_images(rows, folder, column) for split, rows in dataset.items()})
    names = column_of(dataset, "source_file")
    if wrong := [name for name in names if not str(name).endswith((".nii", ".nii.gz"))]:
        raise ValueError(f"Expected rows that come from NIfTI images, got {wrong[0]!r} ({len(wrong)} such rows).")
    paths = [str(Path(folder).resolve() / name) for name in names]
    if missing := [path for path in paths if not Path(path).is_file()]:
        raise FileNotFoundError(f"{len(missing)} of {len(paths)} images are not there (first: {missing[0]}).")
    kind = kind_of(dataset.column_names)
    if kind is not None and kind.file_column is not None:
        dataset = dataset.remove_columns([kind.file_column])
    return dataset.with_format(None).add_column(column, paths).cast_column(column, datasets.Nifti())
