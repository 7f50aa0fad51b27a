"""All tokens that encoders make of scans, as a dataset: stage 0 of BrainHarmony, whose stage 1 trains on it."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.collators import ScanCollator
from ..data.participants import table_cell
from ..data.row_kinds import TOKENS, arrow_table, check_splits, kind_of
from ..data.saved_datasets import SKIPPED_FILE, is_saved_file
from ..files import digest, locked, to_json, whole_file, whole_folder, write_file
from ..optional import require
from ..parts import Parts, Shard
from ..processing.base import check_choice
from ..processing.rows import scan_name
from ..training.run_settings import model_settings, processor_settings, rows_digest
from ..version import __version__
from .embedding import NoScanLeftError, UnusableScanError, run_windows

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
else:
    datasets = require("datasets", extra="data", purpose="datasets of tokens")
    pa = require("pyarrow", extra="data", purpose="datasets of tokens")

TOKEN_DTYPES = ("float32", "bfloat16")


def embed_tokens(
    model: Any,
    processor: Any,
    splits: Mapping[str, Any],
    output: Path,
    *,
    token_dtype: str = "float32",
    shard: Shard | None = None,
    merge: bool = False,
    part_size: int = 8,
    overwrite: bool = False,
    on_error: str = "raise",
    saved: Callable[[], None] = lambda: None,
    window: str = "all",
    **options: Any,
) -> int:
    """Write the tokens of all scans, a row a window, as a saved dataset that `pretrain` and `finetune` read.

    Rows hold `inputs_embeds` (flat), `n_tokens`, `attention_mask` (one entry a token, empty where all were measured),
    `dtype`, `window_start`, and what was known of the scan and its person. Finished parts are kept in the folder
    `.<output>.parts`, into which the processes of all shards write, so that the same command goes on.

    Args:
        model, processor: a model whose `encoder_tokens` are written, and its processor.
        splits: name -> rows of scans; `""` for a dataset without splits.
        output: folder of the dataset; appears complete or not at all.
        token_dtype: `"float32"`, or `"bfloat16"`, in half the room: 16 bits, for which Arrow has no type, as uint16.
        shard: do this share of the parts and leave them there, for a call with `merge`.
        merge: only join the parts; those that are missing are an error.
        part_size: scans in a part.
        overwrite: replace `output` if it is a dataset, and parts of a run with other settings.
        on_error: `"raise"`, or `"skip"`: scans that cannot be used are listed in `skipped_files.tsv`.
        saved: called when there is something to go on from.
        window: which windows of a scan, see [`embed_dataset`].
        options: `batch_size`, `device` and `dtype` of [`embed_dataset`].

    Returns:
        How many scans were left out.

    Raises:
        FileExistsError: if something is at `output`.
        OtherSettingsError: if there are parts that were made with other settings.
        ValueError: if a scan cannot be used, none can, or parts are missing.
    """
    check_choice("token_dtype (--token-dtype)", token_dtype, TOKEN_DTYPES)
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists. Choose another --output, or pass --overwrite.")
    jobs = [(split, rows, start) for split, rows in splits.items() for start in range(0, len(rows), part_size)]
    if not jobs:
        raise ValueError("There are no scans, so there is nothing to embed.")
    check_splits(splits, processor)
    parts = Parts(output.with_name(f".{output.name}.parts"), len(jobs), ".arrow")
    settings = {
        "weights": digest(model.state_dict()),
        "model": model_settings(model),
        "processor": processor_settings(processor),
        "scans": {name: [len(rows), getattr(rows, "_fingerprint", "")] for name, rows in splits.items()},
        "token dtype": token_dtype,
        "part size": part_size,
        "window": window,
        "on error": on_error,
        "dtype": options.get("dtype"),
        "batch size": options.get("batch_size"),
        "version": __version__,
    }
    fix = f"Repeat the command with those to go on, or remove {parts.folder} to start anew."
    parts.bind(settings, what="tokens of an interrupted run", fix=fix, overwrite=overwrite and shard is None)
    collator = ScanCollator(processor, window=window, return_windows=True)
    make = partial(_tokens_of, model, collator, token_dtype, on_error, options)
    share = range(len(jobs)) if shard is None else shard.share(len(jobs))
    try:
        if not merge:
            with locked(parts.folder / f"shard-{str(shard or 'all').replace('/', '-of-')}", what="embedding tokens"):
                left_out = _make(parts, jobs, share, part_size, make, saved)
            if shard is not None:
                print(f"shard {shard}: {len(share)} of {len(jobs)} parts are in {parts.folder}")
                return sum(map(len, left_out))
        with locked(output, what="joining tokens"):
            return _join(parts, jobs, settings, output)
    finally:
        if not any(parts.folder.glob("part-*.json")):
            parts.remove()  # nothing in it took time


Job = tuple[str, Any, int]


def _make(
    parts: Parts, jobs: list[Job], share: range, part_size: int, make: Callable[..., Any], saved: Callable[[], None]
) -> list[dict[str, str]]:
    """Make the parts of a share that are not there yet; what was left out of each, by scan."""
    left_out = []
    with tqdm(
        total=sum(min(part_size, len(jobs[n][1]) - jobs[n][2]) for n in share), desc="Tokens", unit="scan"
    ) as bar:
        for number in share:
            _, rows, start = jobs[number]
            chunk = rows.select(range(start, min(start + part_size, len(rows))))
            content, said = rows_digest(chunk), parts.read(number)
            if said is None or said["content"] != content:
                table, skipped = make(chunk)
                parts.write(number, partial(_write, table), left_out=skipped, content=content)
            else:
                skipped = said["left_out"]
            saved()
            left_out.append(skipped)
            bar.update(len(chunk))
    return left_out


class _Encoders(nn.Module):
    """A model as one whose output is the tokens, and after them, for each, whether it was measured."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, observed = self.model.encoder_tokens(**inputs)
        if observed is None:
            observed = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return tokens, observed


def _tokens_of(
    model: Any, collator: ScanCollator, token_dtype: str, on_error: str, options: Mapping[str, Any], rows: Any
) -> tuple[Any, dict[str, str]]:
    """An Arrow table of the tokens of some scans, and why others were left out."""
    sizes: list[torch.Size] = []

    def pick(output: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tokens, observed = output
        sizes.append(tokens.shape[1:])
        return torch.cat([tokens.flatten(1).float(), observed.float()], dim=1)

    kind = kind_of(rows.column_names)
    passed = {*(() if kind is None else kind.columns), *TOKENS.columns} - {"label"}
    extra = {name: feature for name, feature in rows.features.items() if name not in passed}
    features = TOKENS.features({"window_start": datasets.Value("int64"), **extra})
    if token_dtype == "bfloat16":
        features["inputs_embeds"] = datasets.List(datasets.Value("uint16"))
    options = {**options, "progress": False, "description": "Tokens", "on_error": on_error}
    try:
        run = run_windows(_Encoders(model), rows, collator, pick, **options)
    except NoScanLeftError as error:
        if on_error == "raise":
            raise
        return features.arrow_schema.empty_table(), _named(rows, error.left_out)
    except UnusableScanError as error:
        raise ValueError(f"{error} To go on without such scans, pass --on-error skip.") from error
    n_tokens, width = sizes[0]
    tokens, observed = run.values[:, : n_tokens * width], run.values[:, n_tokens * width :] > 0
    stored: Any = tokens
    if token_dtype == "bfloat16":
        stored = torch.from_numpy(tokens).to(torch.bfloat16).view(torch.int16).numpy().view("uint16")
    n = len(tokens)
    known = rows.select_columns([name for name in features if name in rows.column_names]).with_format("arrow")[:]
    known = known.take(pa.array(run.scans))
    cells: dict[str, Any] = {name: known.column(name).to_pylist() for name in known.column_names}
    cells |= {name: [None] * n for name in features if name not in cells}
    cells |= {
        "inputs_embeds": list(stored),
        "attention_mask": [None if mask.all() else mask.astype("int8") for mask in observed],
        "window_start": run.starts.tolist(),
        "n_tokens": [n_tokens] * n,
        "dtype": [token_dtype] * n,
    }
    return arrow_table(cells, features), _named(rows, run.left_out)


def _named(rows: Any, left_out: Mapping[int, str]) -> dict[str, str]:
    return {scan_name(rows[number]): why for number, why in left_out.items()}


def _write(table: Any, path: Path) -> None:
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as stream,
    ):
        stream.write_table(table)


# --- the whole ---


def _join(parts: Parts, jobs: list[Job], settings: Mapping[str, Any], output: Path) -> int:
    """A saved dataset of all parts, whose files become its own; returns how many scans were left out."""
    said = parts.all_of()
    left_out = [item for one in said for item in one["left_out"].items()]
    n_rows = 0
    with whole_folder(output, is_ours=is_saved_file) as work:
        splits = list(dict.fromkeys(split for split, _, _ in jobs))
        for split in splits:
            files = [parts.path(number) for number, job in enumerate(jobs) if job[0] == split]
            folder = work / split if split else work
            folder.mkdir(exist_ok=True)
            n_rows += _link(files, folder, digest([settings, split]))
        if not n_rows:
            raise ValueError(f"None of the scans can be used:\n  {left_out[0][0]}: {left_out[0][1]}")
        if splits != [""]:
            write_file(work / "dataset_dict.json", to_json({"splits": splits}))
        if left_out:
            lines = [f"{table_cell(name)}\t{table_cell(' '.join(why.split()))}\n" for name, why in left_out]
            write_file(work / SKIPPED_FILE, "".join(["source_file\terror\n", *lines]))
    parts.remove()
    print(f"{n_rows} rows of tokens ({settings['token dtype']}) written to {output}")
    if left_out:
        print(f"{len(left_out)} scans were left out (first: {left_out[0][1]}); see {output / SKIPPED_FILE}")
    return len(left_out)


def _link(files: list[Path], folder: Path, fingerprint: str) -> int:
    """Make of Arrow files a folder as `save_to_disk` writes it, without copying them; returns the number of rows."""
    rows = [datasets.Dataset.from_file(str(file)) for file in files]
    rows[0].select([]).save_to_disk(str(folder))
    for file in folder.glob("*.arrow"):
        file.unlink()
    kept = [file for file, part in zip(files, rows) if len(part)]
    names = [f"data-{number:05d}-of-{len(kept):05d}.arrow" for number in range(len(kept))]
    for file, name in zip(kept, names):
        try:
            os.link(file, folder / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, folder / name)
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    state |= {"_data_files": [{"filename": name} for name in names], "_fingerprint": fingerprint}
    write_file(folder / "state.json", to_json(state))
    return sum(map(len, rows))
