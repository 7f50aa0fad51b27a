"""The published checkpoints and the configurations that go by a name."""

import difflib
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..families import FAMILIES
from ..models.configuration_base import BrainConfig
from ..models.family import Family, NamedModel

_FAMILY_OF = {name: family for family in FAMILIES for name in family.models}

MODELS: dict[str, NamedModel] = {name: family.models[name] for name, family in _FAMILY_OF.items()}
"""Every named configuration."""


def family_of(name: str) -> Family:
    """The family of a named configuration."""
    return _FAMILY_OF[name]


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
        if published.model_type == config.model_type and all(
            getattr(published, field) == getattr(config, field) for field in published.size_fields
        ):
            return name
    return None


def conversion_command(name: str) -> str:
    """The command that makes a model folder of the authors' files, for a published model."""
    entry = MODELS[name]
    source = (entry.source or "").partition(",")[0]
    return (
        f"brain-transformers convert {family_of(name).converter} {entry.conversion} --output {name}/ --source {source}"
    )


def check_is_no_bare_name(source: Any) -> None:
    """Refuse the name of a configuration, or nearly so, where a folder or Hub name of weights is needed.

    Weights of these names lie on no server: without this, one would be asked, at length where there is no network.

    Raises:
        FileNotFoundError: saying where the weights are and how to convert them, or which name was meant.
    """
    if not isinstance(source, str) or "/" in source or Path(source).exists():
        return
    if source not in MODELS:
        if similar := difflib.get_close_matches(source, MODELS, n=1, cutoff=0.8):
            raise FileNotFoundError(
                f"There is no folder {source} here, and no model of that name: {similar[0]!r} is one."
            )
        return
    entry = MODELS[source]
    start = f"There is no folder {source} here; {source!r} is a configuration, and comes without weights. "
    if entry.source is None:
        published = "None were published. "
    else:
        published = f"Get those of the authors ({entry.source}) and convert them once: {conversion_command(source)}. "
    raise FileNotFoundError(
        f"{start}{published}Random weights: AutoModel.from_config(brain_transformers.load_config({source!r}))."
    )
