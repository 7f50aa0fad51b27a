"""What the commands say of a model and a dataset: flags, parsed; the models are made in `hub.new_models`."""

import argparse
import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .objectives import load_pretrained


class TableFile(argparse.Action):
    """Keeps the files of `--table NAME=FILE` by name, and of flags of their own, such as `--coordinates FILE`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        """Keep the file."""
        name, file = str(option_string).lstrip("-"), str(values)
        if name == "table":
            name, _, file = file.partition("=")
        if not name or not file:
            parser.error(f"expected {option_string} NAME=FILE, such as coordinates=centres.tsv, got {values!r}")
        namespace.tables = {**namespace.tables, name: Path(file)}


def make_new_model(
    args: argparse.Namespace, rows: Any, auto_class: Any, options: Mapping[str, Any] | None = None, **others: Any
) -> tuple[Any, Any]:
    """The model and the feature extractor that the command line asks for; see [`new_model`].

    Args:
        args: the command line, with `model`, `config`, `tables` and `normalization`.
        rows: that they fit.
        auto_class: what kind of model.
        options: further fields of the configuration.
        others: arguments of [`new_model`].
    """
    from ..hub.new_models import new_model

    fields = {**parse_overrides(args.config, args.model), **(options or {})}
    shared = {"tables": args.tables, "normalization": args.normalization, **others}
    return new_model(args.model, rows, auto_class=auto_class, **shared, **fields)


def load_extractor(
    args: argparse.Namespace, config: Any, rows: Any, what: str = "training", *, fit: bool = True
) -> Any:
    """Feature extractor of an existing model, with the centres that are given and, if it has none, a fitted scale.

    Args:
        args: the command line, as for [`make_new_model`].
        config: configuration of the model.
        rows: scans to check, and to fit on.
        what: how messages call the set.
        fit: whether to fit the scale where the model has none.

    Raises:
        ValueError: for what the model has no use for, or rows that do not fit it.
    """
    from transformers import AutoFeatureExtractor

    from ..hub.new_models import check_tables, fit_to_rows, give_tables

    extractor = load_pretrained(AutoFeatureExtractor, args.model)
    for name in ("config", "normalization"):
        if getattr(args, name):
            raise ValueError(f"--{name} is for new models; what {args.model} was trained with belongs to its weights.")
    check_tables(args.model, config, args.tables, new=False)
    give_tables(extractor, config, args.tables)
    fit_to_rows(extractor, rows, what, fit=fit)
    return extractor


def parse_overrides(pairs: list[str], name: str) -> dict[str, Any]:
    """Fields of `--config NAME=VALUE ...` for the named configuration.

    Raises:
        ValueError: for what is no such pair, no field, decided by something else, or not finite.
    """
    from ..hub.registry import load_config

    named, overrides = load_config(name), {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"Expected --config NAME=VALUE, got {pair!r}.")
        fields = {field for field in named.to_dict() if not field.startswith("_")} - set(_NOT_CHOSEN)
        key = named.attribute_map.get(key, key)
        if key in _NOT_CHOSEN:
            raise ValueError(f"--config {key}: {_NOT_CHOSEN[key]}. Leave it out.")
        if key not in fields:
            similar = difflib.get_close_matches(key, sorted(fields), n=3)
            hint = f"Did you mean {' or '.join(similar)}?" if similar else f"It has {', '.join(sorted(fields))}."
            raise ValueError(f"The configuration of {name} has no field {key!r}. {hint}")
        try:
            parsed = json.loads(value, parse_constant=float)
        except (json.JSONDecodeError, RecursionError):
            parsed = value
        if any(not math.isfinite(number) for number in _numbers(parsed)):
            raise ValueError(f"--config {key}: expected finite numbers, got {value}.")
        overrides[key] = parsed
    return overrides


# Fields of a configuration that something else decides.
_NOT_CHOSEN = {
    **dict.fromkeys(("model_type", "architectures", "auto_map", "transformers_version"), "it belongs to the family"),
    **dict.fromkeys(("id2label", "label2id", "problem_type"), "it follows from --label and --task"),
    **dict.fromkeys(
        ("coordinates_source", "gradient_source"), "it is set with the table (--coordinates, --gradients)"
    ),
    **dict.fromkeys(("return_dict", "output_hidden_states", "output_attentions"), "it is for calls of the model"),
    **dict.fromkeys(("chunk_size_feed_forward", "is_encoder_decoder"), "the models do not look at it"),
    "dtype": "training decides on it (--bf16 and the like)",
}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float):
        yield value
