"""`brain-transformers embed`: a dataset of scans becomes a table of embeddings."""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> argparse.ArgumentParser:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "embed",
        help="turn a dataset of scans into a table of embeddings",
        description=(
            "Embed every scan of DATASET (a folder written by `brain-transformers prepare`) with a model and its "
            "feature extractor, without masking. Finished parts are kept beside the output, so that an interrupted "
            "run goes on where it stopped."
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
    parser.add_argument("--window", default="all", choices=("all", "first", "center"), help="windows of a scan to use")
    parser.add_argument("--batch-size", type=int, default=8, help="windows in a forward pass (default 8)")
    parser.add_argument("--part-size", type=int, default=64, help="scans in a part that is kept on disk (default 64)")
    parser.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
    parser.add_argument("--bf16", action="store_true", help="mixed precision: faster on GPUs, about 3 digits")
    parser.add_argument("--overwrite", action="store_true", help="start anew if the output or parts of it exist")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    output: Path = args.output
    if output.suffix.lower() not in (".parquet", ".csv"):
        raise ValueError(f"--output must end in .parquet or .csv, got {output.name!r}.")
    if args.part_size < 1 or args.batch_size < 1:
        raise ValueError("--part-size and --batch-size must be at least 1.")
    if not args.dataset.exists():
        raise FileNotFoundError(
            f"{args.dataset}: there is no such folder. Write one with `brain-transformers prepare`."
        )
    parts_folder = output.with_name(f".{output.name}.parts")
    if args.overwrite:
        output.unlink(missing_ok=True)
        shutil.rmtree(parts_folder, ignore_errors=True)
    elif output.exists():
        raise FileExistsError(f"{output} exists. Choose another --output, or pass --overwrite.")

    from ..optional import require

    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    require("pyarrow", extra="eval", purpose="writing parts of a table")
    rows = _load(args.dataset, args.split)

    import torch
    from tqdm.auto import tqdm
    from transformers import AutoFeatureExtractor, AutoModel

    import brain_transformers  # noqa: F401  registers the Auto classes

    from ..evaluation.embedding import embed_dataset

    try:
        extractor = AutoFeatureExtractor.from_pretrained(args.model)
        model = AutoModel.from_pretrained(args.model)
    except OSError as error:
        raise FileNotFoundError(
            f"--model {args.model}: expected a folder, or a name on the Hub, with a model and its feature extractor "
            f"(config.json, model.safetensors, preprocessor_config.json). {str(error).splitlines()[0]}"
        ) from error
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = {
        "model": str(args.model),
        "weights": _weights_digest(model),
        "dataset": [getattr(part, "_fingerprint", "") for _, part in rows],
        "pooling": args.pooling,
        "level": args.level,
        "window": args.window,
        "batch_size": args.batch_size,
        "part_size": args.part_size,
        "bf16": args.bf16,
    }
    _check_settings(parts_folder, settings, output)
    jobs = [(split, part, start) for split, part in rows for start in range(0, len(part), args.part_size)]
    files = [parts_folder / f"part-{number:05d}.parquet" for number in range(len(jobs))]
    done = sum(file.exists() for file in files)
    if done:
        print(f"{done} of {len(files)} parts are there already")
    total = sum(len(part) for _, part in rows)
    with tqdm(total=total, desc="Embedding", unit="scan") as bar:
        for (split, part, start), file in zip(jobs, files, strict=True):
            chunk = part.select(range(start, min(start + args.part_size, len(part))))
            if not file.exists():
                table = embed_dataset(
                    model,
                    chunk,
                    extractor,
                    pooling=args.pooling,
                    level=args.level,
                    window=args.window,
                    batch_size=args.batch_size,
                    device=device,
                    dtype="bfloat16" if args.bf16 else "float32",
                    progress=False,
                )
                if split:
                    table.insert(0, "split", split)
                _write_table(table, file)
            bar.update(len(chunk))
    table = pandas.concat([pandas.read_parquet(file) for file in files], ignore_index=True)
    _write_table(table, output)
    shutil.rmtree(parts_folder)
    n_features = sum(name[0] == "e" and name[1:].isdigit() for name in table.columns)
    print(f"{len(table)} {args.level}s x {n_features} features written to {output}")
    return 0


def _load(folder: Path, split: str | None) -> list[tuple[str, Any]]:
    """The splits of a saved dataset as (name, rows); one unnamed split if it has none."""
    from ..optional import require

    datasets = require("datasets", extra="data", purpose="reading datasets")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} does not hold a saved dataset. Write one with `brain-transformers prepare SCANS --output "
            f"{folder}`."
        ) from error
    if not isinstance(loaded, dict):
        if split is not None:
            raise ValueError(f"{folder} has no splits, got --split {split}. Leave it out.")
        return [("", loaded.with_format("numpy"))]
    if split is not None and split not in loaded:
        raise ValueError(f"{folder} has no split {split!r}, only {sorted(loaded)}.")
    names = [split] if split is not None else list(loaded)
    return [(name, loaded[name].with_format("numpy")) for name in names]


def _weights_digest(model: Any) -> str:
    """A short fingerprint of weights and buffers, so that parts of two models are never joined."""
    import torch

    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_settings(folder: Path, settings: dict[str, Any], output: Path) -> None:
    from ..plotting.report import write_atomically

    file = folder / "settings.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise ValueError(
                f"an interrupted run for {output} used other settings ({', '.join(changed)}). Repeat them to go on, "
                "or pass --overwrite to start anew."
            )
    else:
        write_atomically(file, json.dumps(settings, indent=2) + "\n")


def _write_table(table: Any, path: Path) -> None:
    """Write parquet or csv so that the file is whole or absent."""
    import io

    from ..plotting.report import write_atomically

    if path.suffix.lower() == ".csv":
        write_atomically(path, table.to_csv(index=False))
    else:
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        write_atomically(path, buffer.getvalue())
