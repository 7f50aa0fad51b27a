"""Tables of embeddings that are made in parts, so that an interrupted run goes on; written, and read back."""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data.participants import table_cell
from ..files import bind, digest, locked, to_json, whole_file, write_file
from ..optional import require
from ..processing.rows import scan_name
from ..training.run_settings import model_settings, processor_settings, rows_digest
from ..version import __version__
from . import embedding

SUFFIXES = (".parquet", ".csv")


# --- in parts ---


def embed_in_parts(
    model: Any,
    processor: Any,
    splits: Mapping[str, Any],
    output: Path,
    *,
    part_size: int = 64,
    overwrite: bool = False,
    on_error: str = "raise",
    saved: Callable[[], None] = lambda: None,
    **options: Any,
) -> None:
    """Embed all scans into a table; finished parts are kept beside it until it is whole.

    Args:
        model, processor: see [`embed_dataset`].
        splits: name -> rows of scans; `""` for a dataset without splits.
        output: the table, `.parquet` or `.csv`; scans that are left out are listed beside it in `NAME.skipped.tsv`.
        part_size: scans in a part.
        overwrite: replace the table once the new one is whole, and parts of a run with other settings.
        on_error: `"raise"` or `"skip"`.
        saved: called when there is something to go on from.
        options: `pooling`, `level`, `window`, `batch_size`, `device` and `dtype` of [`embed_dataset`].

    Raises:
        FileExistsError: if the table is there and may not be replaced.
        OtherSettingsError: if there are parts of another run.
        ValueError: if there are no scans, or none can be used.
    """
    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    require("pyarrow", extra="eval", purpose="writing parts of a table")
    from tqdm.auto import tqdm

    folder, report = output.with_name(f".{output.name}.parts"), output.with_suffix(".skipped.tsv")
    jobs = [(split, rows, start) for split, rows in splits.items() for start in range(0, len(rows), part_size)]
    total = sum(map(len, splits.values()))
    if not total:
        raise ValueError("There are no scans, so there is nothing to embed.")
    with locked(output, what="embedding"):
        if output.exists() and not overwrite:
            raise FileExistsError(f"{output} exists. Choose another --output, or pass --overwrite.")
        settings = _settings(model, processor, splits, {**options, "part size": part_size})
        try:
            _bind(folder, settings, overwrite)
            names = [folder / f"part-{number:05d}" for number in range(len(jobs))]
            parts: list[Any] = [_read_part(name) for name in names]
            if on_error == "raise":  # what an earlier call left out is an error now
                parts = [None if part is not None and part[1] else part for part in parts]
            if done := sum(part is not None for part in parts):
                print(f"{done} of {len(names)} parts are there already")
                saved()
            with tqdm(total=total, desc="Embedding", unit="scan") as bar:
                for number, (split, rows, start) in enumerate(jobs):
                    chunk = rows.select(range(start, min(start + part_size, len(rows))))
                    if parts[number] is None:
                        parts[number] = _embed_part(model, processor, split, chunk, start, on_error, options)
                        _write_part(names[number], *parts[number])
                        saved()
                    bar.update(len(chunk))
            left_out = [entry for part in parts if part is not None for entry in part[1]]
            if len(left_out) == total:
                _remove_parts(folder)
                raise ValueError(f"None of {total} scans can be used:\n  {left_out[0]['error']}")
            table = pandas.concat([part[0] for part in parts if part is not None and len(part[0])], ignore_index=True)
            if left_out:
                write_table(pandas.DataFrame(left_out), report)
            else:
                report.unlink(missing_ok=True)  # of the table that is replaced now
            write_table(table, output)
            _remove_parts(folder)
        finally:
            if not any(folder.glob("part-*.json")):
                _remove_parts(folder)  # nothing in it took time
    n_features = len(embedding.embedding_columns(table))
    print(f"{len(table)} {options.get('level', 'scan')}s x {n_features} features written to {output}")
    if left_out:
        print(f"{len(left_out)} of {total} scans were left out (first: {left_out[0]['error']}); see {report}")


def _settings(model: Any, processor: Any, splits: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What the numbers follow from: weights, processor, data, options."""
    return {
        "weights": digest(model.state_dict()),
        "model": model_settings(model),
        "processor": processor_settings(processor),
        "scans": {
            split: {"rows": len(rows), "content": rows_digest(rows), "fingerprint": getattr(rows, "_fingerprint", "")}
            for split, rows in splits.items()
        },
        **options,
        "device": str(options.get("device")).partition(":")[0],
        "version": __version__,
    }


def _bind(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """See that the parts in a folder are of this run; parts of another are removed only if they may be.

    Raises:
        ValueError: if it holds parts of another run.
    """
    if not any(folder.glob("part-*.json")):
        _remove_parts(folder)  # what a killed run left before its first part
    fix = "Repeat the command with those to go on, or pass --overwrite to start anew."
    try:
        bind(folder / "settings.json", settings, what="parts of an interrupted run", fix=fix)
    except ValueError:
        if not overwrite:
            raise
        _remove_parts(folder)
        bind(folder / "settings.json", settings, what="parts of an interrupted run", fix=fix)


def _embed_part(
    model: Any, processor: Any, split: str, rows: Any, start: int, on_error: str, options: Mapping[str, Any]
) -> tuple[Any, list[dict[str, Any]]]:
    """The table of some rows, and what was left out of it."""
    import pandas

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".* scans were left out")  # all are listed at the end
            table = embedding.embed_dataset(model, rows, processor, progress=False, on_error=on_error, **options)
        reasons = table.attrs.pop("left_out", {})
        if split:
            table.insert(0, "split", split)
    except embedding.UnusableScanError as error:
        raise ValueError(f"{error} To go on without such scans, pass --on-error skip.") from error
    except embedding.NoScanLeftError as error:
        if on_error == "raise":
            raise
        table, reasons = pandas.DataFrame(), error.left_out
    left_out = [
        {"split": split, "row": start + place, "scan": scan_name(rows[place], start + place), "error": why}
        for place, why in reasons.items()
    ]
    return table, left_out


def _write_part(name: Path, table: Any, left_out: list[dict[str, Any]]) -> None:
    path = name.with_suffix(".parquet")
    write_table(table, path)
    # Last: with it the part counts as done. Damage that leaves a table readable would join wrong numbers.
    write_file(name.with_suffix(".json"), to_json({"left_out": left_out, "digest": digest(path.read_bytes())}))


def _read_part(name: Path) -> tuple[Any, list[dict[str, Any]]] | None:
    """A part and what was left out of it; `None` if it is to be made."""
    import pandas

    path, beside = name.with_suffix(".parquet"), name.with_suffix(".json")
    if not (path.exists() and beside.exists()):
        return None
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        if said["digest"] != digest(path.read_bytes()):
            raise ValueError("it is not what was written")
        for entry in said["left_out"]:
            str.strip(entry["error"])
        return pandas.read_parquet(path), list(said["left_out"])
    except Exception as error:  # what a damaged file makes of libraries is not to be listed
        print(f"{path} is damaged and made again ({type(error).__name__})")
        return None


def _remove_parts(folder: Path) -> None:
    """Remove what this command wrote into a folder, and the folder if nothing else is in it."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if file.is_file() and ("part-" in file.name or "settings.json" in file.name):
            file.unlink()
    if not any(folder.iterdir()):
        shutil.rmtree(folder)


# --- whole tables ---


def write_table(table: Any, path: Path) -> None:
    """Write a table by its suffix (.parquet, .csv, .tsv) so that the file is whole or as it was.

    In text files, text that a spreadsheet would run as a formula gets a leading apostrophe.
    """

    def plain(value: Any) -> Any:
        return table_cell(value) if isinstance(value, str) else value

    with whole_file(path) as temporary:
        if path.suffix.lower() == ".parquet":
            table.to_parquet(temporary, index=False)
            return
        text = table.select_dtypes(exclude="number").columns
        table = table.assign(**{name: table[name].map(plain) for name in text})
        table.rename(columns=plain).to_csv(temporary, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def read_table(path: Path) -> Any:
    """Read a table that [`write_table`] wrote, with the apostrophes of a .csv taken off again.

    Raises:
        ValueError: if it cannot be read.
    """
    import pandas

    try:
        if path.suffix.lower() != ".csv":
            return pandas.read_parquet(path)
        # Only features are numbers for certain; "01" is a subject, and what a gap is, is said elsewhere.
        header = pandas.read_csv(path, nrows=0)
        features = set(embedding.embedding_columns(header))
        text = {name: str for name in header.columns if name not in features}
        table = pandas.read_csv(path, dtype=text, keep_default_na=False, low_memory=False)
    except Exception as error:  # what a damaged file makes of libraries is not to be listed
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: expected a table of embeddings, {' or '.join(SUFFIXES)}, and cannot read it ({reason}). Write "
            "it again with `brain-transformers embed`."
        ) from error

    def plain(value: Any) -> Any:
        return value[1:] if isinstance(value, str) and re.match("'[=+@-]", value) else value

    text = table.select_dtypes(exclude="number").columns
    return table.assign(**{name: table[name].map(plain) for name in text}).rename(columns=plain)
