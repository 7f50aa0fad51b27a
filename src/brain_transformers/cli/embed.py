"""`brain-transformers embed`: a dataset of scans becomes a table of embeddings."""

import argparse
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ..files import bind, digest, locked, to_json, whole_file, write_file
from .flags import check_dataset, check_model

SUFFIXES = (".parquet", ".csv")
_REPORT_HEADER = b"split\trow\tscan\terror"


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "embed",
        help="turn a dataset of scans into a table of embeddings",
        description=(
            "Embed every scan of DATASET (a folder written by `brain-transformers prepare`) with a model and its "
            "feature extractor, without masking. Finished parts are kept beside the output, so that the same command "
            "goes on where an interrupted run stopped. In a .csv, text that a spreadsheet would take for a formula "
            "(=, +, -, @ in front) gets a leading apostrophe; .parquet holds it as it is."
        ),
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder with an Arrow dataset")
    parser.add_argument("--model", required=True, help="folder or Hub name of a model with its feature extractor")
    parser.add_argument("--output", type=Path, required=True, help="table to write, .parquet or .csv")
    parser.add_argument("--split", help="split to embed, where the dataset has several; by default all")
    parser.add_argument(
        "--pooling",
        default="model",
        choices=("model", "cls", "mean", "max", "roi"),
        help="model: as the configuration says (default); roi: all ROIs side by side, averaged over time",
    )
    parser.add_argument(
        "--level", default="scan", choices=("scan", "window"), help="one row a scan (default) or a window"
    )
    parser.add_argument(
        "--window",
        default="all",
        choices=("all", "cover", "first", "center"),
        help="windows of a scan to use: all that fit side by side (default); cover: and one more at the end for the "
        "rest; the first; the one in the center",
    )
    parser.add_argument(
        "--fit-on",
        metavar="DATASET[:SPLIT]",
        help="fit the scale of the model's signals on these scans first, as a converted BrainLM needs; take training "
        "scans in the same units",
    )
    parser.add_argument(
        "--save-processor",
        type=Path,
        metavar="FOLDER",
        help="write the fitted feature extractor there, such as into the model's folder; by default it is not kept",
    )
    parser.add_argument(
        "--on-error",
        default="raise",
        choices=("raise", "skip"),
        help="skip: leave out scans that cannot be used or whose embedding is not finite, and list them beside the "
        "output in NAME.skipped.tsv (exit status 0 as long as one scan is left)",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="windows in a forward pass (default 8)")
    parser.add_argument("--part-size", type=int, default=64, help="scans in a part that is kept on disk (default 64)")
    parser.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--bf16", action="store_true", help="mixed precision: faster on GPUs, about 3 digits")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output once the new table is whole, and parts of an interrupted run with other settings",
    )


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    output: Path = args.output
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output must end in .parquet or .csv, got {output.name!r}.")
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder; give the name of a file.")
    if args.part_size < 1 or args.batch_size < 1:
        raise ValueError("--part-size and --batch-size must be at least 1.")
    if args.save_processor is not None and args.fit_on is None:
        raise ValueError("--save-processor keeps what --fit-on fits. Pass both, or leave it out.")
    _refuse_existing(args)
    report = output.with_suffix(".skipped.tsv")
    if report.exists() and (report.is_dir() or not report.read_bytes().startswith(_REPORT_HEADER)):
        raise FileExistsError(
            f"{report}, where scans that are left out would be listed, is no such list. Choose another --output, or "
            "move it."
        )
    check_dataset(args.dataset)
    check_model(args.model)
    if args.fit_on is not None:
        check_dataset(_fit_source(args.fit_on)[0])


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..optional import require

    require("pandas", extra="eval", purpose="tables of embeddings")
    require("pyarrow", extra="eval", purpose="writing parts of a table")
    output: Path = args.output
    rows = _load(args.dataset, args.split)
    folder, report = output.with_name(f".{output.name}.parts"), output.with_suffix(".skipped.tsv")
    with locked(output, what="embedding"):
        _refuse_existing(args)  # another process may have finished meanwhile
        try:
            return _embed(args, rows, folder, report)
        finally:
            if not any(folder.glob("part-*.json")):
                _remove_parts(folder)  # nothing in it took time


def _refuse_existing(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.overwrite:
        raise FileExistsError(f"{args.output} exists. Choose another --output, or pass --overwrite.")


def _embed(args: argparse.Namespace, rows: list[tuple[str, Any]], folder: Path, report: Path) -> int:
    import pandas
    from tqdm.auto import tqdm

    from ..evaluation import embedding

    model, extractor = _load_model(args)
    device = _device(args.device)
    output: Path = args.output
    _bind(folder, _settings(args, model, extractor, rows, device), args.overwrite)
    total = sum(len(part) for _, part in rows)
    if not total:
        raise ValueError(f"{args.dataset} holds no scans, so there is nothing to embed.")
    jobs = [(split, part, start) for split, part in rows for start in range(0, len(part), args.part_size)]
    names = [folder / f"part-{number:05d}" for number in range(len(jobs))]
    tables = [_read_part(name) for name in names]
    if args.on_error == "raise":  # what an earlier call left out is an error now
        tables = [None if part is not None and part[1] else part for part in tables]
    if done := sum(table is not None for table in tables):
        print(f"{done} of {len(names)} parts are there already")
        args.go_on = ""
    with tqdm(total=total, desc="Embedding", unit="scan") as bar:
        for number, (split, part, start) in enumerate(jobs):
            chunk = part.select(range(start, min(start + args.part_size, len(part))))
            if tables[number] is None:
                table, left_out = _embed_part(args, model, extractor, device, split, chunk, start)
                _write_part(names[number], table, left_out)
                tables[number] = table, left_out
                args.go_on = ""  # the same command goes on from here
            bar.update(len(chunk))
    finished = [item for item in tables if item is not None]
    left_out = [entry for _, entries in finished for entry in entries]
    if len(left_out) == total:
        _remove_parts(folder)
        raise ValueError(f"None of {total} scans of {args.dataset} can be used:\n  {left_out[0]['error']}")
    table = pandas.concat([table for table, _ in finished if len(table)], ignore_index=True)
    if left_out:
        write_table(pandas.DataFrame(left_out), report)
    else:
        report.unlink(missing_ok=True)  # of the table that is replaced now
    write_table(table, output)
    _remove_parts(folder)
    n_features = len(embedding.embedding_columns(table))
    print(f"{len(table)} {args.level}s x {n_features} features written to {output}")
    if left_out:
        print(f"{len(left_out)} of {total} scans were left out (first: {left_out[0]['error']}); see {report}")
    return 0


# --- what goes in ---


def _load(folder: Path, split: str | None, flag: str = "--split") -> list[tuple[str, Any]]:
    """The splits of a saved dataset as (name, rows); one unnamed split if it has none."""
    from ..data.saved_datasets import load_parts

    parts = load_parts(folder)
    if split is not None and "" in parts:
        raise ValueError(f"{folder} has no splits, got {flag} {split}. Leave it out.")
    if split is not None and split not in parts:
        raise ValueError(f"{folder} has no split {split!r}, only {sorted(parts)}.")
    return [(name, rows) for name, rows in parts.items() if split in (None, name)]


def _load_model(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its feature extractor, fitted on --fit-on where that is given."""
    from transformers import AutoFeatureExtractor, AutoModel

    from ..hub.starting_models import load_pretrained

    extractor, model = load_pretrained(AutoFeatureExtractor, args.model), load_pretrained(AutoModel, args.model)
    if args.fit_on is not None:
        _fit(extractor, args.fit_on)
        if args.save_processor is not None:
            _save_processor(extractor, args.save_processor)
    elif not extractor.is_fitted:
        raise ValueError(
            f"--model {args.model}: its feature extractor scales by statistics of training scans "
            f"(scale: {extractor.describe()['scale']}), and none are stored. Pass --fit-on DATASET:train to fit "
            "them, with --save-processor to keep them."
        )
    return model, extractor


def _fit(extractor: Any, source: str) -> None:
    path, split = _fit_source(source)
    splits = _load(path, split, "--fit-on ...:")
    if len(splits) > 1:
        raise ValueError(
            f"--fit-on {source} has the splits {', '.join(name for name, _ in splits)}. Say which, such as --fit-on "
            f"{path}:{splits[0][0]}; a scale that is fitted on test scans knows them."
        )
    was_fitted = extractor.is_fitted
    rows = splits[0][1]
    extractor.fit(rows)
    print(
        f"scale fitted on {len(rows)} scans of {source} (scale: {extractor.describe()['scale']})"
        + (", in place of the one in the model's folder" if was_fitted else "")
    )


def _fit_source(source: str) -> tuple[Path, str | None]:
    """Folder and split of `DATASET[:SPLIT]`."""
    path, _, split = source.rpartition(":")
    return (Path(source), None) if Path(source).exists() or not path else (Path(path), split or None)


def _save_processor(extractor: Any, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        extractor.save_pretrained(work)
        for file in sorted(Path(work).iterdir()):
            write_file(folder / file.name, file.read_bytes())
    print(f"feature extractor written to {folder}")


def _device(name: str | None) -> str:
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name}: expected a device of this machine, such as cpu or cuda. {str(error).splitlines()[0]}"
        ) from error
    return str(device)


# --- parts ---


def _settings(
    args: argparse.Namespace, model: Any, extractor: Any, rows: list[tuple[str, Any]], device: str
) -> dict[str, Any]:
    """What the numbers follow from: weights, processor, data, flags."""
    from ..training.run_settings import model_settings, processor_settings, rows_digest
    from ..version import __version__

    return {
        "weights": digest(model.state_dict()),
        "model": model_settings(model),
        "processor": processor_settings(extractor),
        "scans": {
            split: {"rows": len(part), "content": rows_digest(part), "fingerprint": getattr(part, "_fingerprint", "")}
            for split, part in rows
        },
        "pooling": args.pooling,
        "level": args.level,
        "window": args.window,
        "batch size": args.batch_size,
        "part size": args.part_size,
        "precision": "bfloat16" if args.bf16 else "float32",
        "device": device.partition(":")[0],
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
    args: argparse.Namespace, model: Any, extractor: Any, device: str, split: str, rows: Any, start: int
) -> tuple[Any, list[dict[str, Any]]]:
    """The table of some rows, and what was left out of it."""
    import pandas

    from ..evaluation import embedding
    from ..processing.rows import scan_name

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".* scans were left out")  # all are listed at the end
            table = embedding.embed_dataset(
                model,
                rows,
                extractor,
                pooling=args.pooling,
                level=args.level,
                window=args.window,
                batch_size=args.batch_size,
                device=device,
                dtype="bfloat16" if args.bf16 else "float32",
                progress=False,
                on_error=args.on_error,
            )
        reasons = table.attrs.pop("left_out", {})
        if split:
            table.insert(0, "split", split)
    except embedding.UnusableScanError as error:
        raise ValueError(f"{error} To go on without such scans, pass --on-error skip.") from error
    except embedding.NoScanLeftError as error:
        if args.on_error == "raise":
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


# --- what comes out ---


def write_table(table: Any, path: Path) -> None:
    """Write a table by its suffix (.parquet, .csv, .tsv) so that the file is whole or as it was.

    In text files, text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    from ..data.participants import table_cell

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

    from ..evaluation.embedding import embedding_columns

    try:
        if path.suffix.lower() != ".csv":
            return pandas.read_parquet(path)
        # Only features are numbers for certain; "01" is a subject, and what a gap is, is said elsewhere.
        header = pandas.read_csv(path, nrows=0)
        features = set(embedding_columns(header))
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
