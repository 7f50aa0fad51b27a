"""The published checkpoints and the configurations that go by a name."""

import difflib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..families import MODELS, conversion_command, family_of
from ..models.configuration_base import BrainConfig


def list_models(published: bool = False) -> list[str]:
    """Names that [`load_config`] knows; with `published=True`, only those with released weights."""
    return [name for name, entry in MODELS.items() if entry.source is not None or not published]


def load_config(name: str, **overrides: Any) -> BrainConfig:
    """Configuration of a named model, for `AutoModel.from_config` and the like.

    Args:
        name: one of [`list_models`].
        overrides: fields to change.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones. If a field is unknown, or has a value
            that it cannot have.
    """
    if name not in MODELS:
        similar = difflib.get_close_matches(str(name), MODELS, n=1)
        meant = f" Did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"Unknown model {name!r}.{meant} Known: {', '.join(MODELS)}.")
    entry = MODELS[name]
    config_class = family_of(name).load_class("Config")
    plain = config_class(**entry.values)
    for field_name in overrides:
        if not hasattr(plain, field_name) and not hasattr(plain, f"_{field_name}"):
            similar = difflib.get_close_matches(field_name, plain.to_dict(), n=1)
            meant = f" Did you mean {similar[0]}?" if similar else ""
            raise ValueError(f"The configuration of {name} has no field {field_name}.{meant}")
    try:
        return config_class(**{**entry.values, **overrides})
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        reason = (reason.partition("Error: ")[2] or reason).rstrip(".")
        raise ValueError(f"{reason} (in the configuration of {name}).") from error


def name_by_size(config: Any) -> str | None:
    """Name of the published model that has the same sizes, if there is one. It says nothing about the weights."""
    for name in list_models(published=True):
        published = load_config(name)
        fields = published.size_fields
        if type(published) is type(config) and all(getattr(published, f) == getattr(config, f) for f in fields):
            return name
    return None


def parse_fields(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Fields of a new model's configuration from text, such as `["hidden_size=128"]`; values are JSON or plain words.

    Raises:
        ValueError: for what is no such pair, no field, decided by something else, or not finite.
    """
    named = load_config(name)
    of_tables = {source: f"it is set with the table (--table {t}=FILE)" for t, source in named.table_sources.items()}
    not_chosen, overrides = {**_NOT_CHOSEN, **of_tables}, dict[str, Any]()
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"Expected --config NAME=VALUE, got {pair!r}.")
        fields = {field for field in named.to_dict() if not field.startswith("_")} - set(not_chosen)
        key = named.attribute_map.get(key, key)
        if key in not_chosen:
            raise ValueError(f"--config {key}: {not_chosen[key]}. Leave it out.")
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


__all__ = ["MODELS", "conversion_command", "family_of", "list_models", "load_config", "name_by_size", "parse_fields"]
