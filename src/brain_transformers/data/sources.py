"""Scans wherever they are, as rows: a dataset, a folder of files, single files."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..optional import require
from ..parts import Parts, Shard

# Column that holds a scan -> module and class that read files of such scans, and what its folder of files is called.
_BUILDERS = {
    "signals": ("builders", "ROISeriesFolderBuilder", ""),
    "volumes": ("volumes", "VolumeFolderBuilder", "frames_folder"),
    "t1": ("t1_volumes", "T1FolderBuilder", "volumes_folder"),
    "inputs_embeds": ("stage0", "Stage0FolderBuilder", ""),
}


def open_scans(
    source: Any,
    reads: Sequence[str],
    work: Path,
    *,
    num_proc: int = 1,
    on_error: str = "skip",
    saved: Callable[[], None] = lambda: None,
    of_model: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The splits of a dataset by name (`""` for one without), and which files could not be read and why.

    Args:
        source: a folder that `prepare` wrote; a folder of scans, whatever lab's; the file of a scan, or several; or
            rows, of one split or of several.
        reads: columns that hold a scan, as [`ScanProcessor.scan_columns`] says; they tell what files are looked for.
        work: folder for what is read of files; it has to stay until the rows are used, and is gone on with.
        num_proc: processes that read files.
        on_error: what to do about files that cannot be used, `"raise"` or `"skip"`.
        saved: called when there is something to go on from.
        of_model: options of the builder that follow from a processor, see [`ScanProcessor.file_options`].
        options: of the builder that reads files, such as `roi_order`, `t_r` and `atlas`; those that are `None` are not
            given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for options beside a dataset, or scans that only a prepared dataset can hold.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(source, (str, os.PathLike)):
        return _from_path(Path(source), reads, work, num_proc, on_error, saved, given, of_model or {})
    several = isinstance(source, (list, tuple)) and all(isinstance(item, (str, os.PathLike)) for item in source)
    if several and source:
        datasets = require("datasets", extra="data", purpose="datasets of scans")
        rows: list[Any] = []
        unread: dict[str, str] = {}
        for number, item in enumerate(source):
            place = work / str(number)
            found, bad = _from_path(Path(item), reads, place, num_proc, on_error, saved, given, of_model or {})
            rows += found.values()
            unread.update(bad)
        return {"": datasets.concatenate_datasets(rows)}, unread
    if given:
        raise ValueError(f"{', '.join(given)} say how files are read, and rows are given. Leave them out.")
    splits = dict(source) if isinstance(source, Mapping) else {"": source}
    if any(not hasattr(rows, "__len__") for rows in splits.values()):
        raise ValueError(
            f"Expected scans that can be counted, got {type(source).__name__}. brain_transformers.embed_dataset takes "
            "streams."
        )
    return {
        name: rows.with_format("numpy") if hasattr(rows, "with_format") else rows for name, rows in splits.items()
    }, {}


def _from_path(
    path: Path,
    reads: Sequence[str],
    work: Path,
    num_proc: int,
    on_error: str,
    saved: Callable[[], None],
    options: dict[str, Any],
    of_model: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, str]]:
    from .exports import load_export, parquet_files
    from .prepared import joined, make_shard
    from .saved_datasets import is_saved, load_parts

    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such folder or file.")
    if is_saved(path):
        if options:
            raise ValueError(
                f"{path} is a dataset that is prepared already, so {', '.join(options)} would change nothing. Leave "
                "them out."
            )
        return load_parts(path), {}
    if parquet_files(path):
        found = load_export(path, None, False, work / "parquet")
        return (dict(found) if isinstance(found, dict) else {"": found}), {}
    if reads[0] not in _BUILDERS or len(set(reads) & set(_BUILDERS)) > 1:
        raise ValueError(
            f"The model reads {' and '.join(reads)} of one person, which files alone do not join. Prepare them first: "
            "brain-transformers prepare SCANS --t1 T1_IMAGES --output dataset."
        )
    if idle := [name for name in ("roi_order", "atlas") if name in options and reads[0] != "signals"]:
        raise ValueError(
            f"{idle[0]} says how series of parcels are read, and the model reads {reads[0]}. Leave it out."
        )
    if "t_r" in options and reads[0] not in ("signals", "volumes"):
        raise ValueError(f"t_r is of scans over time, and the model reads {reads[0]}. Leave it out.")
    builder = folder_builder(path, reads[0], work, on_error=on_error, **{**of_model, **options})
    shards = Parts(work / "shards", 1, ".arrow", name="shard")
    settings = builder.made_of()
    shards.bind(settings, what="scans that were read already", fix="Remove it.", overwrite=True)
    if shards.read(0) is None:
        make_shard(builder, shards, Shard(1, 1), settings, num_proc=num_proc, saved=saved)
    rows = builder.rows(lambda one: joined(one, shards))
    return (dict(rows) if isinstance(rows, dict) else {"": rows}), builder.skipped


def folder_builder(path: Path, column: str, work: Path, **options: Any) -> Any:
    """What reads a folder of files, or one file, of the scans that a column holds.

    Args:
        path: of the folder or file.
        column: that holds a scan.
        work: folder for its cache, and for files of scans.
        options: of the builder.
    """
    module, name, files = _BUILDERS[column]
    if path.is_file():
        path, options = path.parent, {**options, "pattern": glob.escape(path.name)}
    if files:
        options = {**options, files: work / "scans"}
    return getattr(import_module(f".{module}", __package__), name)(path, cache_dir=work / ".cache", **options)
