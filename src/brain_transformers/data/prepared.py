"""From a folder of scans to a dataset in parts, which several processes read and jobs of an array share."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import digest, whole_file
from ..optional import require
from ..parts import Parts, Shard

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from .scan_folders import ScanFolderBuilder
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

# Files that are read again at most, by each process, when a run is killed; and how many parts there are before one
# grows to that, so that a few images are shared by all processes.
_FILES_IN_PART, _FEW_PARTS = 8, 32

Chunk = Sequence[tuple[str, str]]
"""Split and name of files."""


def make_shard(
    builder: "ScanFolderBuilder",
    shards: Parts,
    shard: Shard,
    settings: dict[str, Any],
    *,
    num_proc: int,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Read one share of the files of a folder into one Arrow file; of what was read before, nothing is read again.

    Args:
        builder: reads the files.
        shards: where the Arrow file goes, bound to the settings.
        shard: which share.
        settings: what the rows follow from, see [`ScanFolderBuilder.made_of`].
        num_proc: processes that read.
        saved: called when there is something to go on from.

    Raises:
        ValueError: if a process was ended from outside.
    """
    from tqdm.auto import tqdm

    files = [(split, name) for split, names in builder.config.files.items() for name in names]
    files = [files[place] for place in shard.share(len(files))]
    size = min(_FILES_IN_PART, max(1, len(files) // _FEW_PARTS))
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    parts = shards.parts_of(shard.number - 1, len(chunks))
    parts.bind(settings, what="scans that were read already", fix="Remove it to read them again.", overwrite=True)
    todo = {number: chunk for number, chunk in enumerate(chunks) if parts.read(number) is None}
    with tqdm(total=len(files), desc="Reading", unit="file", disable=len(files) < 2) as bar:
        bar.update(len(files) - sum(map(len, todo.values())))
        if len(todo) < len(chunks):
            saved()
        for number in _written(builder, parts, todo, min(num_proc, len(todo))):
            saved()
            bar.update(len(todo[number]))
    said = parts.all_of()
    shards.write(
        shard.number - 1,
        lambda path: _write(
            path, builder, (batch for number in range(len(chunks)) for batch in _batches(parts.path(number)))
        ),
        splits=[[split, rows] for one in said for split, rows in one["splits"]],
        bad=[error for one in said for error in one["bad"]],
    )
    parts.remove()


def _written(builder: Any, parts: Parts, todo: Mapping[int, Chunk], num_proc: int) -> Iterator[int]:
    """Write parts, and say which as they are done."""
    if num_proc < 2:
        for number, chunk in todo.items():
            _write_part(builder, parts, number, chunk)
            yield number
        return
    # A forked process has imported everything already; elsewhere it begins anew.
    start = "fork" if sys.platform == "linux" else None
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(num_proc, context, _begin, (builder, parts)) as pool:
        running = {pool.submit(_write_mine, number, chunk): number for number, chunk in todo.items()}
        try:
            for done in as_completed(running):
                done.result()
                yield running[done]
        except BrokenProcessPool as error:
            raise ValueError(
                "A process that reads scans was ended from outside, most likely since memory ran out. Use fewer of "
                "them, with --num-proc 1; the same command goes on."
            ) from error
        finally:
            for future in running:
                future.cancel()
            if sys.exc_info()[0] is not None:
                for child in multiprocessing.active_children():
                    child.terminate()


# What a process of `_written` writes, set when it begins.
_MINE: dict[str, Any] = {}


def _begin(builder: Any, parts: Parts) -> None:
    _MINE.update(builder=builder, parts=parts)

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)  # killed without a word: nobody would end this process

    threading.Thread(target=end_with_parent, daemon=True).start()


def _write_mine(number: int, chunk: Chunk) -> None:
    _write_part(_MINE["builder"], _MINE["parts"], number, chunk)


def _write_part(builder: Any, parts: Parts, number: int, chunk: Chunk) -> None:
    splits: list[tuple[str, int]] = []
    bad: list[str] = []

    def batches() -> Iterator[Any]:
        for split, files in groupby(chunk, key=lambda file: file[0]):
            rows = 0
            for _, table in builder._generate_tables([name for _, name in files]):
                rows += len(table)
                bad.extend(error for error in table.column("read_error").to_pylist() if error)
                yield from table.to_batches()
            splits.append((split, rows))

    parts.write(number, lambda path: _write(path, builder, batches()), splits=splits, bad=bad)


def _write(path: Path, builder: Any, batches: Iterator[Any]) -> None:
    """An Arrow stream; never more than a batch is in memory."""
    schema = builder.info.features.arrow_schema
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as out,
    ):
        for batch in batches:
            out.write_batch(batch)


def _batches(path: Path) -> Iterator[Any]:
    with pa.memory_map(str(path)) as source:
        yield from pa.ipc.open_stream(source)


def joined(builder: "ScanFolderBuilder", shards: Parts) -> "datasets.Dataset | datasets.DatasetDict":
    """The dataset of all shards, memory-mapped; files that could not be read are reported or left out here.

    Its fingerprint follows from the files and options alone, however many shards there were.

    Raises:
        ValueError: if shards are missing.
        ROISeriesReadError: see [`ScanFolderBuilder.finished`].
    """
    found: dict[str, list[Any]] = {split: [] for split in builder.config.files}
    for number, said in enumerate(shards.all_of()):
        rows = datasets.Dataset.from_file(str(shards.path(number)))
        start = 0
        for split, count in said["splits"]:
            if count:
                found[split].append(rows.select(range(start, start + count)))
            start += count
    splits = {split: datasets.concatenate_datasets(parts) for split, parts in found.items() if parts}
    only = next(iter(splits.values()))
    result = builder.finished(datasets.DatasetDict(splits) if len(builder.config.files) > 1 else only)
    for split, rows in result.items() if isinstance(result, dict) else [("", result)]:
        rows._fingerprint = digest([builder.made_of(), split])
    return result
