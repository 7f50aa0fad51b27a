"""What a run is made of, so that one that goes on is seen to be the same run."""

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from .. import files
from ..data.row_kinds import kind_of_row
from .seeded_rows import SeededRows

# Fields of `TrainingArguments` that the weights follow from; the others say how a run is executed and reported.
_OF_THE_WEIGHTS = {
    *("num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("label_smoothing_factor", "neftune_noise_alpha", "bf16", "fp16", "seed", "data_seed", "dataloader_drop_last"),
    "train_sampling_strategy",
}
# Values that are read of a dataset, 2 GiB of float32: all of a larger one would take as long as an epoch.
_VALUES_READ = 2**29
# Rows that are read where they are no scans.
_ROWS_READ = 8


def run_settings(
    arguments: TrainingArguments,
    *,
    model: Any = None,
    processor: Any = None,
    rows: Any = None,
    evaluation_rows: Any = None,
    new: bool = False,
    tables: Collection[str] = (),
) -> dict[str, Any]:
    """What decides on the weights of a run, as names and short values, for [`brain_transformers.files.bind`].

    Args:
        arguments: training arguments.
        model: the model before its first step; its configuration and weights count.
        processor: the processor of the rows; its whole configuration counts, fitted values included.
        rows, evaluation_rows: datasets; see [`rows_digest`].
        new: whether the model was made for these rows: what was fitted to them, tables of parcels included, follows
            from them with the last digits of this machine, and is no setting then.
        tables: names of tables that the user gave, which are settings in any case.

    Returns:
        `training arguments`, and `model`, `initial weights`, `processor`, `training scans`, `evaluation scans` and
        tables of what was given.
    """
    settings: dict[str, Any] = {"training arguments": training_settings(arguments)}
    if model is not None:
        settings["model"] = model_settings(model)
        state = model.state_dict()
        weights = dict(state)
        for table in model.config.table_sources:
            values = {name: state[name] for name in state if name.rpartition(".")[2] == table}
            if values and table in tables:
                settings[table] = files.digest(values)
            if new:
                weights = {name: value for name, value in weights.items() if name not in values}
        settings["initial weights"] = files.digest(weights)
    if processor is not None:
        settings["processor"] = processor_settings(processor)
        if new:
            settings["processor"].pop("statistics", None)
    if rows is not None:
        settings["training scans"] = rows_digest(rows)
    if evaluation_rows is not None:
        settings["evaluation scans"] = rows_digest(evaluation_rows)
    return settings


def training_settings(arguments: TrainingArguments) -> dict[str, Any]:
    """The training arguments that the weights follow from, and the samples of an update, however it is divided."""
    general = {
        "published",
        "allow_restricted",
        *(field.name for field in dataclasses.fields(TrainingArguments)),
    }  # its switches count
    values = {
        name: value for name, value in arguments.to_dict().items() if name in _OF_THE_WEIGHTS or name not in general
    }
    samples = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return _plain({**values, "samples an update": samples})


def model_settings(model: Any) -> dict[str, Any]:
    """The configuration of a model, without what saving puts in."""
    config = getattr(model, "config", None)
    values = config.to_dict() if config is not None else {}
    return _plain({"class": type(model).__name__, **values})


def processor_settings(processor: Any) -> dict[str, Any]:
    """The whole configuration of a processor; long lists, such as fitted values, as a digest."""
    values = json.loads(processor.to_json_string()) if hasattr(processor, "to_json_string") else {}
    return _plain({"class": type(processor).__name__, **values})


def same_processor(processor: Any, folder: str | Path) -> bool:
    """Whether the processor saved in a folder is this one, but for the last digits of what was fitted."""
    path = Path(folder) / "preprocessor_config.json"
    if not path.is_file() or not hasattr(processor, "to_json_string"):
        return False
    saved, own = json.loads(path.read_text(encoding="utf-8")), json.loads(processor.to_json_string())
    return _close(*({name: v for name, v in values.items() if name not in _SAVED_BESIDE} for values in (saved, own)))


def _close(first: Any, second: Any) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_close(first[name], second[name]) for name in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_close, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-9)
    return bool(first == second)


def rows_digest(rows: Any) -> str:
    """Fingerprint of a dataset of rows: text and numbers of every row, and the values of the scans.

    Above 2 GiB of values, only a part of each scan is looked at: data that were prepared in another way are seen, and
    a single value that was changed may not be. Rows that are no scans, as those of a
    `torch.utils.data.Dataset`, are looked at in a few places only.
    """
    if isinstance(rows, Mapping):  # several evaluation sets
        return files.digest({name: rows_digest(part) for name, part in rows.items()})
    rows = rows.dataset if isinstance(rows, SeededRows) else rows
    listed = hasattr(rows, "column_names") or isinstance(rows, (list, tuple))
    kind = kind_of_row(rows[0]) if listed and len(rows) else None
    if kind is not None and kind.sample is not None:
        scans, most = rows, _VALUES_READ // len(rows)
        if hasattr(rows, "column_names"):
            scans = rows.select_columns([name for name in rows.column_names if name in kind.columns])
            scans = scans.with_format("numpy")
        values: list[Any] = [files.digest(kind.sample(scans[number], most)) for number in range(len(scans))]
    else:
        places = np.linspace(0, max(len(rows) - 1, 0), _ROWS_READ)
        values = [rows[place] for place in sorted({round(place) for place in places} if len(rows) else ())]
    known: Any = None
    # Where a file lies says nothing of what is in it.
    passed = set() if kind is None else {kind.file_column}
    if hasattr(rows, "column_names") and len(rows):
        names = [name for name, value in rows.with_format(None)[0].items() if _is_plain(value)]
        known = {
            name: list(rows.with_format(None).select_columns([name])[name]) for name in names if name not in passed
        }
    elif isinstance(rows, (list, tuple)):
        known = [
            {name: value for name, value in row.items() if _is_plain(value) and name not in passed} for row in rows
        ]
    return files.digest([len(rows), known, values])


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float, np.generic))


# What saving and loading change, and what says nothing about numbers.
_SAVED_BESIDE = {
    *("transformers_version", "architectures", "auto_map", "_name_or_path", "dtype", "problem_type", "weights_license")
}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values, sorted by name; long ones as a digest."""
    short = {}
    for name in sorted(set(values) - _SAVED_BESIDE):
        value = values[name]
        if isinstance(value, (torch.Tensor, np.ndarray)):
            value = value.tolist()
        text = json.dumps(value, default=str)
        short[name] = json.loads(text) if len(text) <= 200 else f"{text[:40]}... ({files.digest(text)})"
    return short
