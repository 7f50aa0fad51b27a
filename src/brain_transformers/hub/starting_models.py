"""Models that work starts from, new or existing, and that fit a dataset: configuration, processor, tables.

What scans of a modality have in common, and what follows from them, is said by its processor and by the configuration
of the family (see `processing.base` and `models.configuration_base`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data.model_tables import FORMATS, GivenTable, read_tables
from ..data.row_kinds import kind_of
from ..data.row_randomness import SeededDraws
from ..families import FAMILIES
from ..models.configuration_base import BrainConfig, ScanFacts, TableError
from .registry import MODELS, load_config


def new_model(
    name: str,
    dataset: Any,
    *,
    auto_class: Any = None,
    tables: Mapping[str, Any] | None = None,
    normalization: str | None = None,
    fit: bool = True,
    what: str = "training",
    **overrides: Any,
) -> tuple[Any, Any]:
    """A model with random weights that fits a dataset, and its processor.

    Parcels and repetition time are those of the scans (families that slow fast scans down keep theirs), the scale is
    fitted on them where it needs that, and tables of parcels follow from the names of the parcels or are computed from
    the scans. What differs from the named configuration is printed, and where each table came from.

    Args:
        name: of a configuration, see [`list_models`].
        dataset: rows of scans as [`load_dataset`] gives them, several such sets by name, of which `"train"` is taken,
            or the folder of either.
        auto_class: what kind of model; `AutoModelForPreTraining` if left out.
        tables: name -> file or array, for parcels that are not known: `coordinates` (BrainLM; a row a parcel, mm MNI),
            `gradients` (Brain-JEPA; a row a parcel), `networks` (Brain-Semantoks; a name or number a parcel).
        normalization: scale of the inputs; by default that of the family.
        fit: whether to fit the scale where it needs that, or leave it to others.
        what: how messages call the set.
        overrides: fields of the configuration, which go before what fits the dataset.

    Raises:
        ValueError: if fields do not fit each other, the model has no use for a table or needs one that nobody knows,
            or scans do not fit the model.
    """
    from transformers import AutoModelForPreTraining

    named = load_config(name)
    return _new_model(
        name,
        named,
        dataset,
        auto_class or AutoModelForPreTraining,
        tables=read_tables(tables or {}, named.tables),
        fields=overrides,
        normalization=normalization,
        fit=fit,
        what=what,
    )


def _new_model(
    name: str,
    named: BrainConfig,
    dataset: Any,
    auto_class: Any,
    *,
    tables: Mapping[str, GivenTable],
    fields: Mapping[str, Any],
    normalization: str | None,
    fit: bool,
    what: str,
    batch_size: int = 8,
) -> tuple[Any, Any]:
    """See [`new_model`]; `named` is the configuration of that name, and masks are tried for `batch_size` scans."""
    processor_class = named.load_processor()
    rows = _training_rows(dataset, processor_class)
    facts = processor_class.facts(rows, fields, f"{what} scans")
    config = _fitted_config(name, named, facts, tables, fields)
    options = {} if normalization is None else {"normalization": normalization}
    processor = processor_class.from_model_config(config, **{**facts.processor_options, **options})
    for line in processor.remarks(facts):
        print(line)
    give_tables(processor, tables)
    if fit and processor.is_fitted:
        print(f"scale: {processor.describe()['scale']}")
    fit_to_rows(processor, rows, what, fit=fit)
    model = auto_class.from_config(config)
    check_masks(model, batch_size)
    complete_tables(model, processor, rows, tables, what)
    return model, processor


def _training_rows(dataset: Any, processor_class: Any) -> Any:
    if isinstance(dataset, (str, Path)):
        from ..data.builders import load_dataset

        dataset = load_dataset(dataset)
    if isinstance(dataset, Mapping):
        if "train" not in dataset:
            raise ValueError(f"Expected a set 'train', got {sorted(dataset)}. Pass the rows to train on.")
        dataset = dataset["train"]
    names = getattr(dataset, "column_names", None) or ()
    columns = {*processor_class.reads, *processor_class.tells}
    if lacking := columns - set(names):
        kind = kind_of(names)
        if kind is not None and len(lacking) == len(columns):
            raise ValueError(
                f"Expected a dataset with {', '.join(sorted(columns))} for this model, got one of {kind.name}. "
                f"{processor_class.made_by}, or take a model for these."
            )
        raise ValueError(
            f"Expected rows of scans, as load_dataset or dataset_from_arrays gives them, got {type(dataset).__name__} "
            f"without the columns {', '.join(sorted(lacking))}. Make them with one of these."
        )
    if not len(dataset):
        raise ValueError("Expected scans to fit a model to, got a dataset without rows.")
    return dataset


def _fitted_config(
    name: str, named: Any, facts: ScanFacts, tables: Mapping[str, GivenTable], overrides: Mapping[str, Any]
) -> Any:
    """The named configuration with what fits the scans; says in what it differs."""
    chosen = dict(overrides)
    for table, source in named.table_sources.items():
        if source in chosen:
            raise ValueError(f"{source} is set with the table. Leave it out, and pass tables={{{table!r}: ...}}.")
    for table in [key for key in tables if key in named.tables and named.tables[key].kept_in == "configuration"]:
        chosen[table] = tables[table].values
    try:
        values = named.fitted_to(facts, chosen)
    except TableError as error:
        raise ValueError(f"{tables[error.table].called}: {error}") from error
    config = type(named).of_fields(name, named.family.models[name].values, values)
    for key, value in values.items():
        if key in chosen or getattr(named, key) == value or value is None:
            continue  # said by the caller, the same, or to follow from the rest
        shown = f"a list of {len(value)} labels" if isinstance(value, list) and isinstance(value[0], str) else value
        print(f"{key}: {shown}, as in the dataset ({name} has {getattr(named, key)})")
    check_tables(name, config, tables)
    return config


def check_masks(model: Any, batch_size: int) -> None:
    """Draw some masks, so that a grid of tokens that is too small for them is said before training and not in it.

    Raises:
        ValueError: what drawing says.
    """
    for seed in range(16):  # not every batch may be masked
        model.draw_masks(model.config, SeededDraws.of_one_batch(min(batch_size, 64), seed))


def fit_to_rows(processor: Any, rows: Any, what: str, *, fit: bool) -> None:
    """See that the rows fit a processor, of a new or an existing model, and fit its scale on them if it needs that.

    Args:
        what: how messages call the set.

    Raises:
        ValueError: if rows do not fit the model.
    """
    processor.try_rows(rows, what)
    if fit and not processor.is_fitted:
        processor.fit(rows)
        print(f"scale: {processor.describe()['scale']}")


# --- existing models ---


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
    model: str, rows: Any, tables: Mapping[str, GivenTable], what: str = "training", *, fit: bool = True
) -> Any:
    """Feature extractor of an existing model, with the centres that are given and, if it has none, a fitted scale.

    Args:
        fit: whether to fit the scale where the model has none.

    Raises:
        ValueError: for rows that do not fit it.
    """
    from transformers import AutoFeatureExtractor

    extractor = load_pretrained(AutoFeatureExtractor, model)
    give_tables(extractor, tables)
    fit_to_rows(extractor, rows, what, fit=fit)
    return extractor


def starting_model(
    name: str,
    config: BrainConfig,
    rows: Any,
    auto_class: Any,
    *,
    tables: Mapping[str, Any],
    fields: Mapping[str, Any],
    normalization: str | None = None,
    load: Callable[[], Any] | None = None,
    what: str = "training",
    fit: bool = True,
    batch_size: int = 8,
) -> tuple[Any, Any]:
    """A model and its feature extractor, ready for these rows: new for the name of a configuration, or existing.

    Args:
        name: of a configuration, or folder or Hub name of a model.
        config: see [`starting_config`].
        rows: scans that it must fit.
        auto_class: what kind of model.
        tables: name -> file, see [`new_model`].
        fields, normalization: of the configuration and the extractor of a new model.
        load: loads an existing model, in place of `auto_class`.
        what, fit: see [`new_model`].
        batch_size: scans of a batch, for which masks are tried.

    Raises:
        ValueError: if there is no such model, or it does not fit the rows.
    """
    if name not in MODELS:
        check_tables(name, config, tables, new=False)
    given = read_tables(tables, config.tables)
    if name in MODELS:
        options: dict[str, Any] = {"normalization": normalization, "what": what, "fit": fit, "batch_size": batch_size}
        return _new_model(name, config, rows, auto_class, tables=given, fields=fields, **options)
    model = load_pretrained(auto_class, name) if load is None else load()
    extractor = starting_extractor(name, rows, given, what, fit=fit)
    complete_tables(model, extractor, rows, given, what)
    check_masks(model, batch_size)
    return model, extractor


# --- tables ---


def check_tables(name: str, config: Any, tables: Mapping[str, Any], *, new: bool = True) -> None:
    """Raise ValueError for tables that a model has no use for.

    Args:
        new: whether the model is new; with trained weights go only the tables that they were trained with.
    """
    for table in tables:
        own = config.tables.get(table)
        if own is None:
            users = [family for family in FAMILIES if table in family.load_class("Config")().tables]
            titles = " and ".join(dict.fromkeys(family.title for family in users))
            as_it_is = " as it is configured" if config.family in users else ""
            whose = f"--{table} is for {titles}" if users else f"no model has a table {table!r}"
            its_own = "" if users else f" It has {', '.join(config.tables) or 'none'}."
            raise ValueError(f"{whose}; {name} does not use it{as_it_is}. Leave it out.{its_own}")
        if not new and not own.exchangeable:
            raise ValueError(f"--{table} is for new models; what {name} was trained with belongs to its weights.")


def give_tables(processor: Any, tables: Mapping[str, GivenTable]) -> None:
    """Give a processor what it needs of the tables for a model.

    Raises:
        ValueError: if one does not fit.
    """
    for name in processor.own_tables & tables.keys():
        try:
            processor.set_table(name, tables[name].values)
        except ValueError as error:
            raise ValueError(f"{tables[name].called}: {error}") from error


def complete_tables(model: Any, processor: Any, rows: Any, tables: Mapping[str, GivenTable], what: str) -> None:
    """Keep what a model must know in it, so that it is complete when saved; says where it came from.

    Args:
        model: new, or an existing one that lacks tables or gets others.
        processor: its processor, which has those that are given.
        rows: scans to compute tables from.
        tables: those that are given.
        what: how messages call the set of rows.

    Raises:
        ValueError: if the model needs a table that nobody knows.
    """
    for name, table in model.tables.items():
        given = tables.get(name)
        if table.kept_in == "weights" and (given is not None or table.source is None):
            if given is not None and name not in processor.own_tables:
                array, source = table.fitted(given.called, given.values), given.source
            elif (made := processor.make_table(name, table.shape, rows, f"{what} scans")) is not None:
                array, source = made
            else:
                raise ValueError(
                    f"{type(model).__name__} needs the table {name} ({table.what} of every parcel), and it does not "
                    f"follow from these scans. Pass --{name} FILE, {FORMATS[table.kind]}."
                )
            model.set_table(name, array, source if given is None else given.source)
        if (source := model.tables[name].source) is not None:
            print(f"{name}: {source}")
