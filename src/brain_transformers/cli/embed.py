"""`brain-transformers embed`: a dataset of scans becomes a table of embeddings."""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..files import write_file
from .flags import add_shard_flags, check_dataset, check_model, holds_dataset, processors, shard_of
from .prepare import roi_order_of

_REPORT_HEADER = b"split\trow\tscan\terror"


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "embed",
        help="turn a dataset of scans into a table of embeddings",
        description=(
            "Embed every scan of SCANS (a folder of scans, a file, or a dataset that `brain-transformers prepare` "
            "wrote) with a model and its feature extractor, without masking. Finished parts are kept beside the "
            "output, so that the same command "
            "goes on where an interrupted run stopped, and a table that is there already gets the scans that it lacks "
            "if it was made with the same settings. In a .csv, text that a spreadsheet would take for a formula "
            "(=, +, -, @ in front) gets a leading apostrophe; .parquet holds it as it is."
        ),
    )
    parser.add_argument(
        "dataset",
        type=Path,
        metavar="SCANS",
        help="folder of scans, whatever lab's, or a file, which are read first; or a dataset that `prepare` wrote",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="name of weights that `brain-transformers get` has fetched, or folder or Hub name of a model with its "
        "feature extractor",
    )
    parser.add_argument("--output", type=Path, required=True, help="table to write, .parquet, .csv or .npz")
    parser.add_argument(
        "--tokens",
        action="store_true",
        help="write all tokens of the encoders (of BrainHarmony: of both that it holds, its stage 0) in place of one "
        "vector: --output is then the folder of a dataset, which pretrain and finetune read",
    )
    parser.add_argument(
        "--token-dtype",
        choices=("float32", "bfloat16"),
        help="how --tokens are stored; by default as --dtype",
    )
    files = parser.add_argument_group("where SCANS are files and do not say it themselves (`prepare` takes more)")
    files.add_argument("--roi-order", help="order of their parcels, or a text file with one label a line")
    files.add_argument("--t-r", type=float, help="repetition time in seconds")
    files.add_argument("--atlas", help="label image for BOLD images, or its name")
    files.add_argument("--num-proc", "--num-workers", type=int, help="processes that read; by default all processors")
    maps = parser.add_argument_group("scans of an atlas that is not the model's (never by default)")
    maps.add_argument(
        "--map-parcels",
        choices=("nearest", "overlap"),
        help="rebuild the parcels of the model from those that lie nearest or overlap them; what that costs is said",
    )
    maps.add_argument("--scan-atlas", help="label image of the scans' atlas, for overlap")
    maps.add_argument("--model-atlas", help="label image of the model's atlas, for overlap")
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
        default="skip",
        choices=("raise", "skip"),
        help="skip (default): leave out scans that cannot be used or whose embedding is not finite, and list them "
        "beside the output in NAME.skipped.tsv; raise: end at the first, and keep what is done",
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a scan was left out")
    parser.add_argument("--batch-size", type=int, default=8, help="windows in a forward pass (default 8)")
    parser.add_argument(
        "--part-size", type=int, help="scans in a part that is kept on disk (default 64, and 8 with --tokens)"
    )
    parser.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: mixed precision, faster on GPUs, about 3 digits",
    )
    parser.add_argument("--bf16", dest="dtype", action="store_const", const="bfloat16", help=argparse.SUPPRESS)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output once the new table is whole, and parts of an interrupted run with other settings",
    )
    add_shard_flags(parser, "scans")


def check(args: argparse.Namespace) -> None:
    """Raise what can be said before anything is imported."""
    output: Path = args.output
    args.part_size = (8 if args.tokens else 64) if args.part_size is None else args.part_size
    if args.tokens:
        _check_tokens(args)
        return
    if args.token_dtype is not None:
        raise ValueError("--token-dtype says how --tokens are stored. Add --tokens, or leave it out.")
    if output.suffix.lower() not in (".parquet", ".csv", ".npz"):
        raise ValueError(f"--output must end in .parquet, .csv or .npz, got {output.name!r}.")
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder; give the name of a file.")
    if args.part_size < 1 or args.batch_size < 1:
        raise ValueError("--part-size and --batch-size must be at least 1.")
    if args.save_processor is not None and args.fit_on is None:
        raise ValueError("--save-processor keeps what --fit-on fits. Pass both, or leave it out.")
    if args.map_parcels is not None and args.fit_on is not None:
        raise ValueError(
            "--map-parcels and --fit-on do not go together. Fit the mapped processor in Python: "
            "extractor.parcel_map = parcel_map(...), then extractor.fit(dataset)."
        )
    shard_of(args)
    report = output.with_suffix(".skipped.tsv")
    if report.exists() and (report.is_dir() or not report.read_bytes().startswith(_REPORT_HEADER)):
        raise FileExistsError(
            f"{report}, where scans that are left out would be listed, is no such list. Choose another --output, or "
            "move it."
        )
    if not args.dataset.exists():
        raise FileNotFoundError(
            f"{args.dataset}: there is no such folder or file. Give scans, or a dataset that `prepare` wrote."
        )
    if not holds_dataset(args.dataset) and (args.shard is not None or args.merge):
        raise ValueError(
            f"--shard and --merge share the rows of a dataset, and {args.dataset} holds files. Run "
            f"`brain-transformers prepare {args.dataset} --output dataset` first, which takes --shard too."
        )
    check_model(args.model, new=False)
    if args.fit_on is not None:
        check_dataset(_fit_source(args.fit_on)[0])


def _check_tokens(args: argparse.Namespace) -> None:
    """Raise what can be said of `--tokens` before anything is imported."""
    output: Path = args.output
    for name, idle in (("pooling", "model"), ("level", "scan")):
        if getattr(args, name) != idle:
            raise ValueError(f"--{name} makes vectors of tokens, and --tokens writes all of them. Leave one out.")
    if output.suffix.lower() in (".parquet", ".csv", ".npz"):
        raise ValueError(f"--tokens writes the folder of a dataset, got --output {output.name}.")
    if args.part_size < 1 or args.batch_size < 1:
        raise ValueError("--part-size and --batch-size must be at least 1.")
    if output.exists() and not (args.overwrite and (holds_dataset(output) or not any(output.iterdir()))):
        raise FileExistsError(f"{output} exists. Choose another --output, or pass --overwrite if it is a dataset.")
    shard_of(args)
    check_dataset(args.dataset)
    check_model(args.model, new=False)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ..data.sources import open_scans
    from ..evaluation.embedding_parts import embed_in_parts

    model, extractor = _load_model(args)

    def saved() -> None:
        args.go_on = ""  # the same command goes on from here

    # What is read of files, which an interrupted command goes on from.
    work = args.output.with_name(f".{args.output.name}.scans")
    splits, unread = open_scans(
        args.dataset,
        extractor.scan_columns,
        work,
        num_proc=args.num_proc or processors(),
        on_error=args.on_error,
        saved=saved,
        of_model=extractor.file_options,
        roi_order=roi_order_of(args),
        t_r=args.t_r,
        atlas=args.atlas,
    )
    splits = _of_split(args.dataset, splits, args.split)
    if args.map_parcels is not None:
        _map_parcels(args, extractor, splits)
    shared: dict[str, Any] = {
        **{name: getattr(args, name) for name in ("merge", "part_size", "overwrite", "on_error", "window")},
        "batch_size": args.batch_size,
        "device": _device(args.device),
        "dtype": args.dtype,
        "shard": shard_of(args),
        "saved": saved,
    }
    if args.tokens:
        from ..evaluation.token_datasets import embed_tokens

        kept = {"token_dtype": args.token_dtype or args.dtype}
        left_out = embed_tokens(model, extractor, splits, args.output, **kept, **shared)
    else:
        own = {"model_name": args.model, "pooling": args.pooling, "level": args.level, "unread": unread}
        left_out = embed_in_parts(model, extractor, splits, args.output, **own, **shared)
    shutil.rmtree(work, ignore_errors=True)
    return 1 if args.strict and left_out else 0


def _map_parcels(args: argparse.Namespace, extractor: Any, splits: dict[str, Any]) -> None:
    """Have the extractor rebuild the model's parcels."""
    from ..data.atlas_images import atlas_overlap
    from ..data.row_kinds import column_of
    from ..processing.parcel_maps import map_scans

    overlap = None
    if args.map_parcels == "overlap" and args.scan_atlas is not None and args.model_atlas is not None:
        overlap = atlas_overlap(args.scan_atlas, args.model_atlas)
    orders = [order for rows in splits.values() for order in column_of(rows, "roi_order")]
    map_scans(extractor, orders, args.map_parcels, overlap)


def _of_split(source: Path, parts: dict[str, Any], split: str | None, flag: str = "--split") -> dict[str, Any]:
    """All splits of scans, or the one that is asked for."""
    if split is not None and "" in parts:
        raise ValueError(f"{source} has no splits, got {flag} {split}. Leave it out.")
    if split is not None and split not in parts:
        raise ValueError(f"{source} has no split {split!r}, only {sorted(parts)}.")
    return {name: rows for name, rows in parts.items() if split in (None, name)}


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
    from ..data.saved_datasets import load_parts

    path, split = _fit_source(source)
    splits = _of_split(path, load_parts(path), split, "--fit-on ...:")
    if len(splits) > 1:
        raise ValueError(
            f"--fit-on {source} has the splits {', '.join(splits)}. Say which, such as --fit-on "
            f"{path}:{next(iter(splits))}; a scale that is fitted on test scans knows them."
        )
    was_fitted = extractor.is_fitted
    (rows,) = splits.values()
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
