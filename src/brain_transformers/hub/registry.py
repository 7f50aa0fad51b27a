"""The published checkpoints and the configurations that go by a name."""

import difflib
from typing import Any

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
    return family_of(name).load_class("Config").of_fields(name, MODELS[name].values, overrides)


def name_by_size(config: Any) -> str | None:
    """Name of the published model that has the same sizes, if there is one. It says nothing about the weights."""
    for name in list_models(published=True):
        published = load_config(name)
        fields = published.size_fields
        if type(published) is type(config) and all(getattr(published, f) == getattr(config, f) for f in fields):
            return name
    return None


__all__ = ["MODELS", "conversion_command", "family_of", "list_models", "load_config", "name_by_size"]
