"""The model that work starts from, new or existing, and its feature extractor; failures are one line each."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..models.configuration_base import BrainConfig
from .new_models import check_tables, complete_tables, fit_to_rows, give_tables, new_model
from .registry import MODELS, load_config


def load_pretrained(kind: Any, model: str) -> Any:
    """`kind.from_pretrained(model)`, whose failures are one line that names the model.

    Raises:
        ValueError: if there is no such model, or it cannot be loaded.
    """
    try:
        return kind.from_pretrained(model)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # what a damaged file makes of the libraries is not to be listed
        reason = " ".join(str(error).split())
        if not isinstance(error, (OSError, ValueError)):
            reason = f"a file in it is damaged ({type(error).__name__}: {reason}). Copy or download it again."
        # Of a bare name this package says itself where its weights are.
        if not Path(model).is_dir() and not isinstance(error, FileNotFoundError):
            reason = f"there is no such folder, and the Hub gave none ({reason.partition('. ')[0]})"
        raise ValueError(reason if model in reason else f"{model} cannot be loaded: {reason}") from error


def starting_config(model: str) -> BrainConfig:
    """Configuration of that name, or of the model in a folder or on the Hub.

    Raises:
        ValueError: if there is no such model, or it is none of this package.
    """
    from transformers import AutoConfig

    config = load_config(model) if model in MODELS else load_pretrained(AutoConfig, model)
    if not isinstance(config, BrainConfig):
        raise ValueError(f"{model} holds a {config.model_type!r} model, which is none of this package.")
    return config


def starting_extractor(
    model: str, config: Any, rows: Any, tables: Mapping[str, Any], what: str = "training", *, fit: bool = True
) -> Any:
    """Feature extractor of an existing model, with the centres that are given and, if it has none, a fitted scale.

    Args:
        model: folder or Hub name.
        config: configuration of the model.
        rows: scans to check, and to fit on.
        tables: name -> file.
        what: how messages call the set of rows.
        fit: whether to fit the scale where the model has none.

    Raises:
        ValueError: for tables that the model has no use for, or rows that do not fit it.
    """
    from transformers import AutoFeatureExtractor

    extractor = load_pretrained(AutoFeatureExtractor, model)
    check_tables(model, config, tables, new=False)
    give_tables(extractor, config, tables)
    fit_to_rows(extractor, rows, what, fit=fit)
    return extractor


def starting_model(
    name: str,
    rows: Any,
    auto_class: Any,
    *,
    tables: Mapping[str, Any],
    fields: Mapping[str, Any],
    normalization: str | None = None,
    load: Callable[[], Any] | None = None,
    what: str = "training",
    fit: bool = True,
) -> tuple[Any, Any]:
    """A model and its feature extractor, ready for these rows: new for the name of a configuration, or existing.

    Args:
        name: of a configuration, or folder or Hub name of a model.
        rows: scans that it must fit.
        auto_class: what kind of model.
        tables: name -> file, see [`new_model`].
        fields, normalization: of the configuration and the extractor of a new model.
        load: loads an existing model, in place of `auto_class`.
        what, fit: see [`new_model`].

    Raises:
        ValueError: if there is no such model, or it does not fit the rows.
    """
    if name in MODELS:
        options: dict[str, Any] = {
            **fields,
            "tables": tables,
            "normalization": normalization,
            "what": what,
            "fit": fit,
        }
        return new_model(name, rows, auto_class=auto_class, **options)
    model = load_pretrained(auto_class, name) if load is None else load()
    extractor = starting_extractor(name, model.config, rows, tables, what, fit=fit)
    complete_tables(model, extractor, rows, tables, what)
    return model, extractor
