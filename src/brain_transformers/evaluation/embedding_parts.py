"""Tables of embeddings that are made in parts and shards, so that whatever was interrupted goes on; and read back."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.participants import table_cell
from ..data.row_kinds import check_splits, kind_of_row
from ..data.scan_names import NAME_COLUMNS
from ..files import check_same, digest, locked, to_json, whole_file, write_file
from ..optional import require
from ..parts import Parts, Shard, shards_beside
from ..processing.rows import scan_name
from ..training.run_settings import model_settings, processor_settings, rows_digest
from ..version import __version__
from . import embedding

SUFFIXES = (".parquet", ".csv", ".npz")
MADE_BY = ("model", "revision", "preprocessing", "scan_digest")
"""Columns that say what a row was made with and of; by the last one a later call knows the scans that it has."""
# Values of a scan that its digest is taken of, evenly spaced.
_VALUES_OF_SCAN = 2**16
_SCANS_AT_ONCE = 64


# --- in parts ---


def embed_in_parts(
    model: Any,
    processor: Any,
    splits: Mapping[str, Any],
    output: Path,
    *,
    model_name: str = "",
    shard: Shard | None = None,
    merge: bool = False,
    part_size: int = 64,
    overwrite: bool = False,
    on_error: str = "raise",
    saved: Callable[[], None] = lambda: None,
    unread: Mapping[str, str] | None = None,
    **options: Any,
) -> int:
    """Embed all scans into a table; finished parts are kept beside it until it is whole.

    A table that is there already gets the scans that it lacks, if it was made with the same settings.

    Args:
        model, processor: see [`embed_dataset`].
        splits: name -> rows of scans; `""` for a dataset without splits.
        output: the table, `.parquet`, `.csv` or `.npz`; scans that are left out are listed beside it in
            `NAME.skipped.tsv`.
        model_name: what the column `model` says.
        shard: embed this share of the scans alone, into a file of its own in the folder `<output>.shards`.
        merge: join the shards into the table.
        part_size: scans in a part.
        overwrite: replace the table once the new one is whole, and parts of a run with other settings.
        on_error: `"raise"` or `"skip"`.
        saved: called when there is something to go on from.
        unread: files that could not even be read, and why; they are listed with what is left out.
        options: `pooling`, `level`, `window`, `batch_size`, `device` and `dtype` of [`embed_dataset`].

    Returns:
        How many scans were left out.

    Raises:
        OtherSettingsError: if the table, or parts of it, were made with other settings.
        ValueError: if there are no scans, none can be used, or shards are missing.
    """
    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    require("pyarrow", extra="eval", purpose="writing parts of a table")
    total = sum(map(len, splits.values()))
    if not total:
        raise ValueError("There are no scans, so there is nothing to embed.")
    settings = _settings(model, processor, options)
    work = _Work(model, processor, splits, on_error, _made_by(model, model_name, settings), options)
    before = None
    if output.exists() and not overwrite:
        before = _earlier(output, settings)
        todo = work.missing(set(before["scan_digest"]))
        if not todo:
            print(f"all {total} scans are in {output} already")
            for name in (f".{output.name}.parts", f"{output.name}.shards"):  # where a kill came after the last step
                Parts(output.with_name(name), 0, "", name=name.rpartition(".")[2][:-1]).remove()
            return 0
        print(f"{total - len(todo)} of {total} scans are in {output} already")
    else:
        todo = [(split, row) for split, rows in splits.items() for row in range(len(rows))]
    scans = {
        split: {"rows": len(rows), "fingerprint": getattr(rows, "_fingerprint", "")} for split, rows in splits.items()
    }
    settings |= {"scans": scans, "part size": part_size, "device": str(options.get("device")).partition(":")[0]}
    settings |= {"to embed": digest(todo)} if before is not None else {}
    if shard is not None or merge:
        shards = shards_beside(output, ".parquet", None if shard is None else shard.count)
        fix = f"Give every shard the same command, or remove {shards.folder} to start anew."
        shards.bind({**settings, "shards": shards.count}, what="shards of a table", fix=fix)
    else:
        shards = Parts(output.with_name(f".{output.name}.parts"), -(-len(todo) // part_size), ".parquet")
    if shard is not None:
        with locked(shards.path(shard.number - 1), what="embedding a shard"):
            if (done := shards.read(shard.number - 1)) is not None:
                print(f"shard {shard} is in {shards.folder} already")
                return len(done["left_out"])
            share = [todo[place] for place in shard.share(len(todo))]
            parts = shards.parts_of(shard.number - 1, -(-len(share) // part_size))
            table, left_out = _made(work, share, parts, settings, overwrite, saved)
            shards.write(shard.number - 1, partial(write_table, table), left_out=left_out)
            parts.remove()
        print(f"shard {shard}: {len(share)} scans, {len(left_out)} left out, in {shards.folder}")
        return len(left_out)
    with locked(output, what="embedding"):
        if merge:
            left_out = [entry for one in shards.all_of() for entry in one["left_out"]]
            table = _joined(shards)
        else:
            table, left_out = _made(work, todo, shards, settings, overwrite, saved)
        if len(left_out) == len(todo) and before is None:
            shards.remove()
            raise ValueError(f"None of {total} scans can be used:\n  {left_out[0]['error']}")
        if before is not None:
            narrow = dict.fromkeys(embedding.embedding_columns(before), np.float32)  # text holds no types
            table = pandas.concat([before.astype(narrow), table], ignore_index=True)
        table.attrs = {"settings": _of_the_numbers(settings)}
        report = output.with_suffix(".skipped.tsv")
        n_scans, bad_files = len(todo) + len(unread or {}), (unread or {}).items()
        left_out += [{"split": "", "row": -1, "scan": name, "error": why} for name, why in bad_files]
        if left_out:
            write_table(pandas.DataFrame(left_out), report)
        else:
            report.unlink(missing_ok=True)  # of the table that is replaced now
        write_table(table, output)
        shards.remove()
    n_features = len(embedding.embedding_columns(table))
    print(f"{len(table)} {options.get('level', 'scan')}s x {n_features} features written to {output}")
    if left_out:
        print(f"{len(left_out)} of {n_scans} scans were left out (first: {left_out[0]['error']}); see {report}")
    return len(left_out)


def embed_table(
    model: Any,
    processor: Any,
    splits: Mapping[str, Any],
    *,
    model_name: str = "",
    on_error: str = "raise",
    progress: bool = True,
    **options: Any,
) -> Any:
    """The table of [`embed_in_parts`], in memory; `table.attrs["left_out"]` lists what was left out, and why."""
    from tqdm.auto import tqdm

    settings = _settings(model, processor, options)
    work = _Work(model, processor, splits, on_error, _made_by(model, model_name, settings), options)
    todo = [(split, row) for split, rows in splits.items() for row in range(len(rows))]
    tables, left_out = [], []
    with tqdm(total=len(todo), desc="Embedding", unit="scan", disable=not progress) as bar:
        for start in range(0, len(todo), _SCANS_AT_ONCE):
            table, skipped = work.embed(todo[start : start + _SCANS_AT_ONCE])
            tables.append(table)
            left_out += skipped
            bar.update(min(_SCANS_AT_ONCE, len(todo) - start))
    if len(left_out) == len(todo):
        raise ValueError(f"None of {len(todo)} scans can be used" + (f":\n  {left_out[0]['error']}" if todo else "."))
    table = _concatenated(tables)
    table.attrs = {"settings": _of_the_numbers(settings), "left_out": left_out}
    return table


def _made_by(model: Any, name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """What every row says of the model: `MADE_BY` without the scan."""
    return {
        "model": name or type(model).__name__,
        "revision": str(getattr(model.config, "_commit_hash", None) or settings["weights"]),
        "preprocessing": digest([settings["processor"], settings.get("window")]),
    }


def _made(
    work: "_Work",
    todo: Sequence[tuple[str, int]],
    parts: Parts,
    settings: dict[str, Any],
    overwrite: bool,
    saved: Callable[[], None],
) -> tuple[Any, list[dict[str, Any]]]:
    """The table of some scans and what was left out of it; of what is made already, nothing is made again."""
    from tqdm.auto import tqdm

    fix = "Repeat the command with those to go on, or pass --overwrite to start anew."
    size = settings["part size"]
    try:
        parts.bind(
            {**settings, "content": work.content(todo)},
            what="parts of an interrupted run",
            fix=fix,
            overwrite=overwrite,
        )
        said = [parts.read(number) for number in range(parts.count)]
        if work.on_error == "raise":  # what an earlier call left out is an error now
            said = [None if one is not None and one["left_out"] else one for one in said]
        if done := sum(one is not None for one in said):
            print(f"{done} of {parts.count} parts are there already")
            saved()
        left_out: list[dict[str, Any]] = []
        with tqdm(total=len(todo), desc="Embedding", unit="scan") as bar:
            for number, one in enumerate(said):
                chunk = todo[number * size : (number + 1) * size]
                if one is None:
                    table, skipped = work.embed(chunk)
                    parts.write(number, partial(write_table, table), left_out=skipped)
                    saved()
                else:
                    skipped = one["left_out"]
                left_out += skipped
                bar.update(len(chunk))
        return _joined(parts), left_out
    finally:
        if not any(parts.folder.glob("part-*.json")):
            parts.remove()  # nothing in it took time


def _joined(parts: Parts) -> Any:
    """The rows of all parts in one table."""
    import pandas

    return _concatenated([pandas.read_parquet(parts.path(number)) for number in range(parts.count)])


def _concatenated(tables: Sequence[Any]) -> Any:
    import pandas

    return pandas.concat([table for table in tables if len(table)] or [pandas.DataFrame()], ignore_index=True)


@dataclass(frozen=True)
class _Work:
    """What embeds scans of several splits, told by split and row."""

    model: Any
    processor: Any
    splits: Mapping[str, Any]
    on_error: str
    made_by: Mapping[str, str]
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_splits(self.splits, self.processor)

    def missing(self, known: set[str]) -> list[tuple[str, int]]:
        """The scans whose digest is not among these."""
        return [
            (split, place)
            for split, rows in self.splits.items()
            for place, row in enumerate(rows)
            if scan_digest(row) not in known
        ]

    def rows(self, chunk: Sequence[tuple[str, int]]) -> Iterator[tuple[str, list[int], Any]]:
        """Split, numbers and rows of some scans."""
        for split in dict.fromkeys(split for split, _ in chunk):
            places = [place for of, place in chunk if of == split]
            rows = self.splits[split]
            yield split, places, rows.select(places) if hasattr(rows, "select") else [rows[place] for place in places]

    def content(self, chunk: Sequence[tuple[str, int]]) -> dict[str, str]:
        """Digests of some scans."""
        return {split: rows_digest(rows) for split, _, rows in self.rows(chunk)}

    def embed(self, chunk: Sequence[tuple[str, int]]) -> tuple[Any, list[dict[str, Any]]]:
        """The table of some scans, and what was left out of it."""
        import pandas

        tables, left_out = [], []
        for split, places, rows in self.rows(chunk):
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=r".* scans were left out")  # all are listed at the end
                    table = embedding.embed_dataset(
                        self.model,
                        _WithDigest(rows),
                        self.processor,
                        progress=False,
                        on_error=self.on_error,
                        **self.options,
                    )
                reasons = table.attrs.pop("left_out", {})
                first = next(
                    place for place, name in enumerate(table.columns) if name in ("n_windows", "window_start")
                )
                for name, value in reversed(list(self.made_by.items())):
                    table.insert(first, name, value)
                if split:
                    table.insert(0, "split", split)
                tables.append(table)
            except embedding.UnusableScanError as error:
                raise ValueError(f"{error} To go on without such scans, pass --on-error skip.") from error
            except embedding.NoScanLeftError as error:
                if self.on_error == "raise":
                    raise
                reasons = error.left_out
            left_out += [
                {"split": split, "row": places[row], "scan": scan_name(rows[row], places[row]), "error": why}
                for row, why in reasons.items()
            ]
        return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame(), left_out


class _WithDigest:
    """Rows that know what they are told by; one is read at a time."""

    def __init__(self, rows: Any):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Any:
        for row in self._rows:
            names = [name for name in row if name not in MADE_BY]
            yield {
                **{name if name in names else f"participant_{name}": row[name] for name in row},
                "scan_digest": scan_digest(row),
            }


def scan_digest(row: Mapping[str, Any]) -> str:
    """What a scan is told by: whose it is, and its values, or some of them where there are many."""
    kind = kind_of_row(row)
    names = ("t_r", "roi_order", *NAME_COLUMNS)
    known = {name: str(row[name]) for name in names if row.get(name) is not None}
    if kind is not None and kind.sample is not None:
        return digest([known, kind.sample(row, _VALUES_OF_SCAN)])
    return digest([known, {name: np.asarray(value) for name, value in row.items() if np.ndim(value)}])


def _settings(model: Any, processor: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers follow from: weights, processor, options."""
    return {
        "weights": digest(model.state_dict()),
        "model": model_settings(model),
        "processor": processor_settings(processor),
        **options,
        "version": __version__,
    }


def _of_the_numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a row of the table follows from, whatever other rows there are and where it was made."""
    beside = ("scans", "part size", "device", "batch_size", "to embed")
    return json.loads(to_json({name: value for name, value in settings.items() if name not in beside}))


def _earlier(output: Path, settings: Mapping[str, Any]) -> Any:
    """The table that is there, if further rows may join it.

    Raises:
        OtherSettingsError: if it was made with other settings.
        FileExistsError: if it does not say with which.
    """
    table = read_table(output)
    fix = "Choose another --output, or pass --overwrite to replace it."
    if "settings" not in table.attrs or "scan_digest" not in table.columns:
        raise FileExistsError(
            f"{output} exists, and does not say what it was made with, so nothing can join it. {fix}"
        )
    check_same(
        table.attrs["settings"], _of_the_numbers(settings), f"{output} exists and was made with other settings", fix
    )
    return table


# --- whole tables ---


def write_table(table: Any, path: Path) -> None:
    """Write a table by its suffix (.parquet, .csv, .tsv, .npz) so that the file is whole or as it was.

    In text files, text that a spreadsheet would run as a formula gets a leading apostrophe. What `table.attrs` holds
    goes into the file, or beside a .csv into `NAME.settings.json`. A .npz holds an array a column, and the embedding
    as one, `embeddings` (n_rows, n_features) float32.
    """

    def plain(value: Any) -> Any:
        return table_cell(value) if isinstance(value, str) else value

    suffix = path.suffix.lower()
    if suffix == ".csv" and table.attrs:
        write_file(path.with_suffix(".settings.json"), to_json(table.attrs))
    with whole_file(path) as temporary:
        if suffix == ".parquet":
            table.to_parquet(temporary, index=False)
            return
        if suffix == ".npz":
            features = embedding.embedding_columns(table)
            columns = {str(name): _cells(table[name]) for name in table.columns if name not in set(features)}
            columns |= {"embeddings": table[features].to_numpy(np.float32), "attrs": np.array(to_json(table.attrs))}
            np.savez(temporary, **columns)  # type: ignore[arg-type]
            return
        text = table.select_dtypes(exclude="number").columns
        table = table.assign(**{name: table[name].map(plain) for name in text})
        table.rename(columns=plain).to_csv(temporary, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def _cells(column: Any) -> np.ndarray:
    """A column as an array of numbers, or of text where a gap is empty."""
    if column.dtype.kind in "iufb":
        return np.asarray(column)
    return np.array(["" if value is None or value != value else str(value) for value in column], dtype=np.str_)


def read_table(path: Path) -> Any:
    """Read a table that [`write_table`] wrote, with the apostrophes of a .csv taken off again.

    Raises:
        ValueError: if it cannot be read.
    """
    import pandas

    def plain(value: Any) -> Any:
        return value[1:] if isinstance(value, str) and re.match("'[=+@-]", value) else value

    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return _read_npz(path)
        if suffix != ".csv":
            return pandas.read_parquet(path)
        # Only features are numbers for certain; "01" is a subject, and what a gap is, is said elsewhere.
        header = pandas.read_csv(path, nrows=0)
        features = set(embedding.embedding_columns(header))
        text = {name: str for name in header.columns if name not in features}
        table = pandas.read_csv(path, dtype=text, keep_default_na=False, low_memory=False)
        beside = path.with_suffix(".settings.json")
        attrs = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except Exception as error:  # what a damaged file makes of libraries is not to be listed
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: expected a table of embeddings, {' or '.join(SUFFIXES)}, and cannot read it ({reason}). Write "
            "it again with `brain-transformers embed`."
        ) from error
    text = table.select_dtypes(exclude="number").columns
    table = table.assign(**{name: table[name].map(plain) for name in text}).rename(columns=plain)
    table.attrs = attrs
    return table


def _read_npz(path: Path) -> Any:
    import pandas

    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    attrs, values = json.loads(str(arrays.pop("attrs"))), arrays.pop("embeddings")
    columns = embedding.feature_names(values.shape[1])
    table = pandas.concat([pandas.DataFrame(arrays), pandas.DataFrame(values, columns=columns)], axis=1)
    table.attrs = attrs
    return table
