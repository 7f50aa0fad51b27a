"""New models that fit a dataset: configuration, feature extractor, and what the model must be told of its parcels."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..families import FAMILIES
from ..models.configuration_base import ScanFacts, Table
from .registry import load_config

_COLUMNS = {"signals", "n_rois", "n_timepoints", "roi_order", "t_r"}
_LARGEST_TABLE = 2**26  # bytes; a table of 1,000 parcels and 100 columns has some 2 MB


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
    """A model with random weights that fits a dataset, and its feature extractor.

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

    rows, given = _training_rows(dataset), dict(tables or {})
    config = _fitted_config(name, rows, given, overrides, what)
    extractor = _fitted_extractor(config, rows, given, normalization, what, fit)
    model = (auto_class or AutoModelForPreTraining).from_config(config)
    check_masks(model, 8)
    complete_tables(model, extractor, rows, given, what)
    return model, extractor


def _training_rows(dataset: Any) -> Any:
    if isinstance(dataset, (str, Path)):
        from ..data.builders import load_dataset

        dataset = load_dataset(dataset)
    if isinstance(dataset, Mapping):
        if "train" not in dataset:
            raise ValueError(f"Expected a set 'train', got {sorted(dataset)}. Pass the rows to train on.")
        dataset = dataset["train"]
    if lacking := _COLUMNS - set(getattr(dataset, "column_names", None) or ()):
        raise ValueError(
            f"Expected rows of scans, as load_dataset or dataset_from_arrays gives them, got {type(dataset).__name__} "
            f"without the columns {', '.join(sorted(lacking))}. Make them with one of these."
        )
    if not len(dataset):
        raise ValueError("Expected scans to fit a model to, got a dataset without rows.")
    return dataset


def _column(rows: Any, name: str) -> list[Any]:
    """A column as Python values, of exactly these rows."""
    return list(rows.with_format(None).select_columns([name])[name])


# --- configuration ---


def _facts(rows: Any, what: str, t_r_matters: bool) -> ScanFacts:
    from ..processing.roi_orders import resolve_roi_order
    from ..processing.time import common_t_r

    row = rows[0]
    order = resolve_roi_order(str(row["roi_order"])) if row["roi_order"] else None
    return ScanFacts(
        n_rois=int(row["n_rois"]),
        roi_order=None if order is None else list(order.labels) if order.name is None else order.name,
        known_order=order is not None and order.known and order.name is not None,
        t_r=common_t_r(_column(rows, "t_r"), what=f"{what} scans") if t_r_matters else None,
    )


def _fitted_config(name: str, rows: Any, tables: Mapping[str, Any], overrides: Mapping[str, Any], what: str) -> Any:
    """The named configuration with what fits the rows; says in what it differs."""
    named, chosen = load_config(name), dict(overrides)
    for table, source in named.table_sources.items():
        if source in chosen:
            raise ValueError(f"{source} is set with the table. Leave it out, and pass tables={{{table!r}: ...}}.")
    facts = _facts(rows, what, "t_r" not in chosen)
    for table in [key for key in tables if key in named.tables and named.tables[key].kept_in == "configuration"]:
        chosen[table] = _read_words(table, tables[table], int(chosen.get("n_rois") or facts.n_rois))
    values = named.fitted_to(facts, chosen)
    config = load_config(name, **values)
    for key, value in values.items():
        if key in chosen or getattr(named, key) == value or (value is None and key != "t_r"):
            continue  # said by the caller, the same, or to follow from the rest
        shown = f"a list of {len(value)} labels" if isinstance(value, list) else value
        if value is None:
            shown = "unknown, so that scans are taken as they come (--config t_r=SECONDS, or prepare --t-r)"
        print(f"{key}: {shown}, as in the dataset ({name} has {getattr(named, key)})")
    if facts.t_r is not None and config.t_r is not None and config.t_r > 1.025 * facts.t_r:
        print(f"t_r: scans of {facts.t_r:g} s are brought to {config.t_r:g} s, as {name} has it (--config t_r=...)")
    check_tables(name, config, tables)
    return config


def check_masks(model: Any, batch_size: int) -> None:
    """Draw some masks, so that a grid of tokens that is too small for them is said before training and not in it.

    Raises:
        ValueError: what drawing says.
    """
    for seed in range(8):
        model.draw_masks(min(batch_size, 64), seed)


# --- feature extractor ---


def _fitted_extractor(
    config: Any, rows: Any, tables: Mapping[str, Any], normalization: str | None, what: str, fit: bool
) -> Any:
    from ..data.readers import read_coordinates

    options: dict[str, Any] = {} if normalization is None else {"normalization": normalization}
    if (centres := tables.get("coordinates")) is not None:
        is_file = isinstance(centres, (str, Path))
        options["coordinates"] = read_coordinates(centres, n_rois=config.n_rois) if is_file else np.asarray(centres)
    extractor = config.family.load_processor().from_model_config(config, **options)
    if fit and extractor.is_fitted:
        print(f"scale: {extractor.normalization}")
    fit_to_rows(extractor, rows, what, fit=fit)
    return extractor


def fit_to_rows(extractor: Any, rows: Any, what: str, *, fit: bool) -> None:
    """See that the rows fit an extractor, and fit its scale on them where it needs that.

    Args:
        extractor: of a new or an existing model.
        rows: scans to check, and to fit on.
        what: how messages call the set.
        fit: whether to fit the scale where there is none.

    Raises:
        ValueError: if rows have to be sorted by centres that nobody knows, or do not fit the model.
    """
    sorted_already = str(rows[0]["roi_order"]).endswith("@y")
    if extractor.sort_rows == "y" and not sorted_already and known_coordinates(extractor) is None:
        raise ValueError(
            f"The model takes parcels sorted from back to front, and no centres are known for this order. {_CENTRES}"
        )
    check_rows(extractor, rows, what)
    if fit and not extractor.is_fitted:
        extractor.fit(rows)
        print(f"scale: {extractor.normalization}, fitted on the {len(rows)} scans of the {what} set")


def check_rows(extractor: Any, rows: Any, what: str) -> None:
    """Try the shortest scan of each kind, so that what the model cannot take is said before training and not in it.

    A kind is an order, a number of parcels and a repetition time. Says when scans are shorter than a window.

    Raises:
        ValueError: what the extractor says about such a scan.
    """
    from ..processing.rows import unpack_row

    if rows is None:
        return
    # Scaling needs no trial, and may not be fitted yet.
    trial = copy.deepcopy(extractor)
    trial.normalization, trial.expected_std = "none", None
    shortest: dict[Any, tuple[int, int]] = {}
    columns = (_column(rows, key) for key in ("n_timepoints", "roi_order", "n_rois", "t_r"))
    for number, (length, *values) in enumerate(zip(*columns)):
        kind = tuple(None if value != value else value for value in values)
        shortest[kind] = min(shortest.get(kind, (length, number)), (length, number))
    for length, number in shortest.values():
        signals, roi_order, t_r = unpack_row(rows[number])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the real extractor says it again
                batch = trial(signals, t_r=t_r, roi_order=roi_order, window="first", return_windows=True)
        except ValueError as error:
            raise ValueError(f"Row {number} of the {what} set does not fit: {error}") from error
        mask = batch.get("attention_mask")
        if mask is not None and not mask.reshape(extractor.n_rois, -1)[:, -1].any():
            print(
                f"the shortest scans of the {what} set ({length} timepoints{'' if t_r is None else f' of {t_r:g} s'}) "
                f"are shorter than a window ({extractor.n_timepoints} timepoints"
                f"{'' if extractor.t_r is None else f' of {extractor.t_r:g} s'}) and are padded"
            )


# --- tables of parcels ---

_CENTRES = "Pass the table coordinates, with columns index, X, Y, Z in mm MNI (--coordinates TABLE)."


def check_tables(name: str, config: Any, tables: Mapping[str, Any], *, new: bool = True) -> None:
    """Raise ValueError for tables that a model has no use for.

    Args:
        name: of the model.
        config: its configuration.
        tables: name -> anything.
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


def known_coordinates(extractor: Any) -> Any:
    """Parcel centres `(n_rois, 3)` in mm that the extractor holds or that belong to its order, or `None`."""
    from ..processing.roi_orders import roi_coordinates

    if extractor.coordinates is not None or extractor.roi_order is None:
        return extractor.coordinates
    return roi_coordinates(extractor.roi_order)


def complete_tables(model: Any, extractor: Any, rows: Any, tables: Mapping[str, Any], what: str) -> None:
    """Keep what a model must know of the parcels in it, so that it is complete when saved; says where it came from.

    Args:
        model: new, or an existing one that lacks tables or gets others.
        extractor: its feature extractor.
        rows: scans to compute tables from.
        tables: name -> file or array, of those that are given.
        what: how messages call the set of rows.

    Raises:
        ValueError: if the model needs a table that nobody knows.
    """
    for name, table in model.tables.items():
        given = tables.get(name)
        if table.kept_in == "weights" and (given is not None or table.source is None):
            if name == "coordinates":  # a file of them is read for the extractor
                array, source = _centres(model, extractor)
            elif given is not None:
                array, source = _read_numbers(name, given, table), ""
            elif name == "gradients":
                array, source = _gradients_of_rows(rows, extractor, table, what)
            else:
                raise ValueError(f"{type(model).__name__} needs the table {name} (--table {name}=FILE).")
            model.set_table(name, array, source if given is None else _source(given))
        if (source := model.tables[name].source) is not None:
            print(f"{name}: {source}")


def _source(given: Any) -> str:
    return Path(given).name if isinstance(given, (str, Path)) else "an array"


def _centres(model: Any, extractor: Any) -> tuple[Any, str]:
    """Centres of the parcels, and what to call them."""
    centres = known_coordinates(extractor)
    if centres is None:
        raise ValueError(
            f"{type(model).__name__} needs the centre of every parcel, and none are known for this order. {_CENTRES}"
        )
    return np.asarray(centres, dtype=np.float32), "centres of the feature extractor"


def _gradients_of_rows(rows: Any, extractor: Any, table: Table, what: str) -> tuple[Any, str]:
    """Gradients of the connectivity of the scans, and what to call them."""
    from ..processing.parcel_gradients import compute_gradients

    n_rois, n_components = (int(size or 0) for size in table.shape)
    if n_components >= n_rois:
        raise ValueError(
            f"{n_rois} parcels have at most {n_rois - 1} gradients, and gradient_size is {n_components}. Choose "
            f"{min(n_rois - 1, 30)} or less (--config gradient_size={min(n_rois - 1, 30)})."
        )
    used = 0

    def scans() -> Iterator[Any]:
        nonlocal used
        for signals in _series_in_order(rows, extractor.roi_order):
            used += 1
            yield signals

    gradients = compute_gradients(scans=scans(), n_components=n_components)
    if used < len(rows):
        print(f"{len(rows) - used} scans with constant or missing parcels are left out of the gradients")
    return gradients, f"diffusion map of the connectivity of {used} {what} scans"


def _series_in_order(rows: Any, roi_order: Any) -> Iterator[Any]:
    """Series of each scan whose parcels all vary, rows in the order of the model."""
    from tqdm.auto import tqdm

    from ..processing.roi_orders import permutation, roi_order_text
    from ..processing.rows import unpack_row

    wanted = None if roi_order is None else roi_order_text(roi_order)
    progress = tqdm(range(len(rows)), desc="Connectivity for the gradients", unit="scan", disable=len(rows) < 32)
    for number in progress:
        signals, order, _ = unpack_row(rows[number])
        if wanted is not None and order is not None and order != wanted:
            index = permutation(order, roi_order).index
            if (index < 0).any():
                continue
            signals = signals[index]
        if np.isfinite(signals).all() and (np.ptp(signals, axis=1) > 0).all():
            yield signals


# --- reading tables ---


def _read_words(name: str, given: Any, n_rois: int) -> list[str]:
    """A name or number a parcel, from a text file with one a line or from a sequence."""
    if isinstance(given, (str, Path)):
        called, words = str(given), [line.strip() for line in _read_text(Path(given)).splitlines() if line.strip()]
    else:
        called, words = name, [str(word) for word in given]
    if len(words) != n_rois:
        raise ValueError(f"{called}: expected {n_rois} lines, one a parcel, got {len(words)}.")
    if len(set(words)) == n_rois > 1:
        raise ValueError(
            f"{called}: expected {name} of several parcels, got another name in each of the {n_rois} lines (first: "
            f"{words[0]!r}). Take the column with the {name}, or have every parcel on its own (--config "
            "spatial_mode=rois)."
        )
    return words


def _read_text(path: Path) -> str:
    """Text of a table that the user wrote."""
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a small text file, and cannot read it as one ({error}).") from error


def _read_numbers(name: str, given: Any, table: Table) -> np.ndarray:
    """Leading columns of a table of numbers, a row a parcel, as float32 of the shape of `table`."""
    from ..data.arrays import read_npy

    called = str(given) if isinstance(given, (str, Path)) else name
    try:
        if not isinstance(given, (str, Path)):
            values = np.asarray(given, dtype=np.float64)
        elif Path(given).suffix == ".npy":
            values = np.asarray(read_npy(Path(given)), dtype=np.float64)
        else:
            rows = [line.replace(",", " ").split() for line in _read_text(Path(given)).splitlines()]
            values = np.array([row for row in rows if row], dtype=np.float64)
    except Exception as error:  # a damaged header brings errors of many kinds
        raise ValueError(
            f"{called}: expected a table of numbers, a row a parcel, without a header "
            f"({' '.join(str(error).split())})."
        ) from error
    n_rows, n_columns = (int(size or 0) for size in table.shape)
    if values.ndim != 2 or len(values) != n_rows or values.shape[1] < n_columns:
        fewer = f" Fewer: --config {table.columns}=..." if table.columns else ""
        raise ValueError(
            f"{called}: expected {n_rows} rows (parcels in the order of the dataset) and at least {n_columns} "
            f"columns, got shape {values.shape}.{fewer}"
        )
    values = values[:, :n_columns]
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(f"{called}: expected finite numbers, got {values[row].tolist()[:4]} in row {row + 1}.")
    if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0)).size:
        raise ValueError(f"{called}: column {constant[0] + 1} is the same for every parcel, which says nothing.")
    return np.ascontiguousarray(values, dtype=np.float32)
