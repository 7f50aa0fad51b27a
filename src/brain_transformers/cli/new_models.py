"""Models that fit a dataset: configuration, feature extractor, and the tables of parcels that a family needs."""

import copy
import difflib
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .objectives import load_pretrained
from .training_inputs import column

# Their windows span minutes because fast scans are brought to a slow repetition time: 0.735 s became 2.2 s and 2.0 s.
_SLOW_FAMILIES = ("brain_jepa", "brain_semantoks")


# --- configuration ---


def _parse_overrides(pairs: list[str], named: Any, name: str) -> dict[str, Any]:
    overrides = {}
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


def _load_config(name: str, values: dict[str, Any]) -> Any:
    from ..hub.registry import load_config

    try:
        return load_config(name, **values)
    except ValueError as error:
        raise ValueError(f"--config: {error}") from error


def _t_r_of_new_model(named: Any, t_r: float) -> float:
    """Repetition time of a new model for scans with `t_r`: theirs, unless the family slows fast scans down."""
    if named.model_type not in _SLOW_FAMILIES or named.t_r is None:
        return t_r
    # Brain-JEPA takes every n-th frame, so scans that are not twice as fast stay as they are.
    stays = round(named.t_r / t_r) <= 1 if named.model_type == "brain_jepa" else t_r >= named.t_r
    return t_r if stays else named.t_r


def make_config(name: str, pairs: list[str], rows: Any, networks: Path | None = None) -> Any:
    """Configuration of a new model that fits the rows of a dataset.

    Parcels are those of the rows, unless `pairs` say otherwise. So is the repetition time, that of most of the rows,
    except for families that take every n-th frame of fast scans; it stays unknown where no row has one. What differs
    from the named configuration is printed.

    Args:
        name: of a configuration.
        pairs: `NAME=VALUE` from the command line.
        rows: training rows.
        networks: table with the network of each parcel, for Brain-Semantoks.

    Raises:
        ValueError: if the fields do not fit each other, or a network is not known for every parcel.
    """
    from ..hub.registry import MODELS, load_config
    from ..processing.roi_orders import resolve_roi_order
    from ..processing.time import common_t_r

    named, row = load_config(name), rows[0]
    chosen = _parse_overrides(pairs, named, name)
    found: dict[str, Any] = {"n_rois": int(row["n_rois"])}
    order = resolve_roi_order(str(row["roi_order"])) if row["roi_order"] else None
    # The *-tiny configurations name no order; with one that has a name they are as their families are.
    fallback = type(named)().roi_order if order is not None and order.known and order.name is not None else None
    named_order = chosen.get("roi_order", named.roi_order or fallback)
    if order is not None and named_order is not None:
        sorted_rows = isinstance(named_order, str) and named_order.endswith("@y")
        found["roi_order"] = list(order.labels) if order.name is None else order.name
        if sorted_rows and isinstance(found["roi_order"], str) and not found["roi_order"].endswith("@y"):
            found["roi_order"] += "@y"
    t_r = None if "t_r" in chosen else common_t_r(column(rows, "t_r"), what="training scans")
    if t_r is not None:
        found["t_r"] = _t_r_of_new_model(named, t_r)
    elif "t_r" not in chosen:
        found["t_r"] = None
    if networks is not None:
        if not hasattr(named, "networks"):
            raise ValueError(f"--networks is for Brain-Semantoks; {name} has no networks. Leave it out.")
        chosen["networks"], chosen["network_names"] = _read_networks(networks, chosen.get("n_rois", found["n_rois"]))
    values = {**found, **chosen}
    its_own = MODELS[name].values.get("networks", ())
    if hasattr(named, "networks") and not chosen.get("networks") and len(its_own) != values["n_rois"]:
        values = {"networks": None, "network_names": None, **values}
        _check_networks(named, values)
    for key, value in found.items():
        if key not in chosen and getattr(named, key) != value:
            shown = f"a list of {len(value)} labels" if isinstance(value, list) else value
            if value is None:
                shown = "unknown, so that scans are taken as they come (--config t_r=SECONDS, or prepare --t-r)"
            print(f"{key}: {shown}, as in the dataset ({name} has {getattr(named, key)})")
    config = _load_config(name, values)
    if t_r is not None and config.t_r is not None and config.t_r > 1.025 * t_r:
        print(f"t_r: scans of {t_r:g} s are brought to {config.t_r:g} s, as {name} has it (--config t_r=...)")
    return config


def _check_networks(named: Any, values: dict[str, Any]) -> None:
    from ..models.brain_semantoks.networks_brain_semantoks import networks_of_parcels

    if values.get("spatial_mode", named.spatial_mode) != "networks":
        return
    order = values.get("roi_order", named.roi_order)
    known = networks_of_parcels(order, values.get("n_cortical_networks", named.n_cortical_networks))
    if known is None or len(known[0]) != values["n_rois"]:
        raise ValueError(
            f"Brain-Semantoks needs the network of each of the {values['n_rois']} parcels, and their names do not "
            "tell (they do for Schaefer-400, Tian S3 and Buckner-7). Pass --networks FILE with a name or number a "
            "line, --config networks=[0,0,1,...], or --config spatial_mode=rois to have every parcel on its own."
        )


def _read_networks(path: Path, n_rois: int) -> tuple[list[int], list[str]]:
    """Network id of each parcel and the name of each id, in the order in which they first appear."""
    names = [line.strip() for line in _read_table_text(path).splitlines() if line.strip()]
    if len(names) != n_rois:
        raise ValueError(f"{path}: expected {n_rois} lines, the network of each parcel, got {len(names)}.")
    order = list(dict.fromkeys(names))
    if len(order) == n_rois > 1:
        raise ValueError(
            f"{path}: expected networks of several parcels, got another name in each of the {n_rois} lines (first: "
            f"{names[0]!r}). Take the column with the networks, or pass --config spatial_mode=rois."
        )
    number = {name: place for place, name in enumerate(order)}
    return [number[name] for name in names], order


def _read_table_text(path: Path) -> str:
    """Text of a table that the user wrote."""
    try:
        if path.stat().st_size > _LARGEST_TABLE:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a small text file, and cannot read it as one ({error}).") from error


_LARGEST_TABLE = 2**26  # bytes; a table of 1,000 parcels and 100 columns has some 2 MB


def check_masks(config: Any, batch: int) -> None:
    """Draw some masks, so that a grid of tokens that is too small for them is said before training and not in it.

    Raises:
        ValueError: what drawing says.
    """
    import numpy as np

    if config.model_type == "brain_semantoks" and config.use_mask_embedding and config.masking_frequency > 0:
        from ..models.brain_semantoks.masking_brain_semantoks import NumpyDraws, draw_mask

        sizes = config.mask_kind, config.n_networks, config.n_windows
        for seed in range(32):
            draws = NumpyDraws(np.random.default_rng(seed))
            try:
                draw_mask(*sizes, draws, config.mask_range, config.mask_rule)
            except ValueError as error:
                raise ValueError(f"{error} For a new model: --config mask_rule=nominal.") from error
    if config.model_type == "brain_jepa":
        from ..models.brain_jepa.masking_brain_jepa import draw_masks

        for seed in range(8):
            draw_masks(config, min(batch, 64), config.n_windows, call_index=seed, seed=seed)


# --- feature extractor ---


def make_extractor(
    config: Any,
    rows: Any,
    coordinates: Path | None,
    normalization: str | None = None,
    name: str = "training",
    *,
    fit: bool = True,
) -> Any:
    """Feature extractor for a new model, with its scale fitted on the rows of the set `name` where it needs that.

    With `fit=False` a scale that has to be fitted is left to others.

    Raises:
        ValueError: if rows have to be sorted by centres that nobody knows, or do not fit the model.
    """
    from ..data.readers import read_coordinates
    from ..processing.roi_series import ROISeriesFeatureExtractor

    table = None if coordinates is None else read_coordinates(coordinates, n_rois=config.n_rois)
    options = {} if normalization is None else {"normalization": normalization}
    extractor = ROISeriesFeatureExtractor.from_model_config(config, coordinates=table, **options)
    sorted_already = str(rows[0]["roi_order"]).endswith("@y")
    if extractor.sort_rows == "y" and not sorted_already and known_coordinates(extractor) is None:
        raise ValueError(
            f"{config.model_type} takes parcels sorted from back to front, and no centres are known for this order. "
            "Pass --coordinates TABLE with columns index, X, Y, Z in mm MNI."
        )
    check_rows(extractor, rows, name)
    if fit:
        fit_scale(extractor, rows, name)
    return extractor


def load_extractor(args: Any, config: Any, rows: Any, name: str = "training", *, fit: bool = True) -> Any:
    """Feature extractor of an existing model, with the centres of `--coordinates` and, if it has none, a fitted scale.

    Args:
        args: the command line, with `model` and the tables.
        config: configuration of the model.
        rows: scans to check, and to fit on.
        name: of the set of rows.
        fit: whether to fit the scale where the model has none.

    Raises:
        ValueError: for tables that the model has no use for, or rows that do not fit it.
    """
    from transformers import AutoFeatureExtractor

    from ..data.readers import read_coordinates

    extractor = load_pretrained(AutoFeatureExtractor, args.model)
    refuse_foreign_tables(args.model, extractor, config, args, new=False)
    if args.coordinates is not None:
        extractor.coordinates = read_coordinates(args.coordinates, n_rois=extractor.n_rois).tolist()
    check_rows(extractor, rows, name)
    if fit and not extractor.is_fitted:
        fit_scale(extractor, rows, name)
    return extractor


def fit_scale(extractor: Any, rows: Any, name: str) -> None:
    """Fit the scale on the rows of the set `name` where it needs that, and say so."""
    if extractor.is_fitted:
        print(f"scale: {extractor.normalization}")
    else:
        extractor.fit(rows)
        print(f"scale: {extractor.normalization}, fitted on the {len(rows)} scans of the {name} set")


def check_rows(extractor: Any, rows: Any, name: str) -> None:
    """Try the shortest scan of each kind, so that what the model cannot take is said before training and not in it.

    A kind is an order, a number of parcels and a repetition time. Says when scans are shorter than a window.

    Raises:
        ValueError: what the extractor says about such a scan.
    """
    if rows is None:
        return
    # Scaling needs no trial, and may not be fitted yet.
    trial = copy.deepcopy(extractor)
    trial.normalization, trial.expected_std = "none", None
    shortest: dict[Any, tuple[int, int]] = {}
    columns = (column(rows, key) for key in ("n_timepoints", "roi_order", "n_rois", "t_r"))
    for number, (length, *values) in enumerate(zip(*columns)):
        kind = tuple(None if value != value else value for value in values)
        shortest[kind] = min(shortest.get(kind, (length, number)), (length, number))
    from ..processing.roi_series import unpack_row

    for length, number in shortest.values():
        signals, roi_order, t_r = unpack_row(rows[number])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the real extractor says it again
                batch = trial(signals, t_r=t_r, roi_order=roi_order, window="first", return_windows=True)
        except ValueError as error:
            raise ValueError(f"Row {number} of the {name} set does not fit: {error}") from error
        mask = batch.get("attention_mask")
        if mask is not None and not mask.reshape(extractor.n_rois, -1)[:, -1].any():
            print(
                f"the shortest scans of the {name} set ({length} timepoints{'' if t_r is None else f' of {t_r:g} s'}) "
                f"are shorter than a window ({extractor.n_timepoints} timepoints"
                f"{'' if extractor.t_r is None else f' of {extractor.t_r:g} s'}) and are padded"
            )


# --- tables of parcels ---


def refuse_foreign_tables(model: str, extractor: Any, config: Any, args: Any, *, new: bool) -> None:
    """Raise ValueError for tables on the command line that the model has no use for.

    Args:
        model: its name.
        extractor: its feature extractor.
        config: its configuration.
        args: the command line, with `coordinates`, `gradients`, `networks` and `normalization`.
        new: whether the model is new.
    """
    if args.coordinates is not None and not extractor.return_coordinates:
        raise ValueError(f"--coordinates is for BrainLM; {model} does not use them. Leave it out.")
    if args.gradients is not None and getattr(config, "position_type", None) != "gradient":
        raise ValueError(f"--gradients is for Brain-JEPA with positions by gradient; {model} does not use them.")
    if not new:
        for name in ("config", "normalization", "gradients", "networks"):
            if getattr(args, name):
                raise ValueError(f"--{name} is for new models; what {model} was trained with belongs to its weights.")


def known_coordinates(extractor: Any) -> Any:
    """Parcel centres `(n_rois, 3)` in mm that the extractor holds or that belong to its order, or `None`."""
    from ..processing.roi_orders import roi_coordinates

    if extractor.coordinates is not None or extractor.roi_order is None:
        return extractor.coordinates
    return roi_coordinates(extractor.roi_order)


def store_tables(model: Any, extractor: Any, rows: Any, args: Any, name: str = "training") -> None:
    """Keep what the model must know of the parcels in it, so that it is complete when saved: centres or gradients.

    Args:
        model: the model.
        extractor: its feature extractor.
        rows: scans to compute gradients from.
        args: the command line, with `coordinates` and `gradients`.
        name: of the set of rows.

    Raises:
        ValueError: if the model needs them and nobody knows them.
    """
    if hasattr(model.base_model, "set_coordinates"):
        _store_coordinates(model, extractor, args.coordinates)
    elif hasattr(model.base_model, "set_gradients"):
        _store_gradients(model, extractor, rows, args.gradients, name)


def _store_coordinates(model: Any, extractor: Any, coordinates: Path | None) -> None:
    if model.config.coordinates_source is not None and coordinates is None:
        return
    table = known_coordinates(extractor)
    if table is None:
        raise ValueError(
            f"{type(model).__name__} needs the centre of every parcel, and none are known for this order. Pass "
            "--coordinates TABLE with columns index, X, Y, Z in mm MNI."
        )
    import numpy as np
    import torch

    source = "centres of the feature extractor" if coordinates is None else coordinates.name
    model.base_model.set_coordinates(torch.from_numpy(np.asarray(table, dtype=np.float32)), source=source)


def _store_gradients(model: Any, extractor: Any, rows: Any, path: Path | None, name: str) -> None:
    config = model.config
    if config.position_type != "gradient":
        return
    if path is not None:
        table, source = _read_gradients(path, config), path.name
    elif config.gradient_source is not None:
        print(f"gradients: {config.gradient_source}")
        return
    else:
        table, source = _gradients_of_rows(rows, extractor, config, name)
    import torch

    holder = model if hasattr(model, "set_gradients") else model.base_model
    holder.set_gradients(torch.from_numpy(table), source)
    print(f"gradients: {source}")


def _read_gradients(path: Path, config: Any) -> Any:
    """Leading columns of a table as float32 `(n_rois, gradient_size)`."""
    import numpy as np

    from ..data.arrays import read_npy

    try:
        if path.suffix == ".npy":
            table = np.asarray(read_npy(path), dtype=np.float64)
        else:
            rows = [line.replace(",", " ").split() for line in _read_table_text(path).splitlines()]
            table = np.array([row for row in rows if row], dtype=np.float64)
    except Exception as error:  # a damaged header brings errors of many kinds
        raise ValueError(
            f"{path}: expected a table of numbers, a row a parcel, without a header ({' '.join(str(error).split())})."
        ) from error
    if table.ndim != 2 or len(table) != config.n_rois or table.shape[1] < config.gradient_size:
        raise ValueError(
            f"{path}: expected {config.n_rois} rows (parcels in the order of the dataset) and at least "
            f"{config.gradient_size} columns, got shape {table.shape}. Fewer gradients: --config gradient_size=..."
        )
    table = table[:, : config.gradient_size]
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise ValueError(f"{path}: expected finite numbers, got {table[row].tolist()[:4]} in row {row + 1}.")
    if (np.ptp(table, axis=0) == 0).any():
        constant = int(np.flatnonzero(np.ptp(table, axis=0) == 0)[0])
        raise ValueError(f"{path}: column {constant + 1} is the same for every parcel, which is no gradient.")
    return np.ascontiguousarray(table, dtype=np.float32)


def _gradients_of_rows(rows: Any, extractor: Any, config: Any, name: str) -> tuple[Any, str]:
    """Gradients of the connectivity of the scans, and what to call them."""
    from ..processing.parcel_gradients import compute_gradients

    if config.gradient_size >= config.n_rois:
        raise ValueError(
            f"{config.n_rois} parcels have at most {config.n_rois - 1} gradients, and gradient_size is "
            f"{config.gradient_size}. Pass --config gradient_size={min(config.n_rois - 1, 30)} or less."
        )
    used = 0

    def scans() -> Iterator[Any]:
        nonlocal used
        for signals in _series_in_order(rows, extractor.roi_order):
            used += 1
            yield signals

    table = compute_gradients(scans=scans(), n_components=config.gradient_size)
    if used < len(rows):
        print(f"{len(rows) - used} scans with constant or missing parcels are left out of the gradients")
    return table, f"diffusion map of the connectivity of {used} {name} scans"


def _series_in_order(rows: Any, roi_order: Any) -> Iterator[Any]:
    """Series of each scan whose parcels all vary, rows in the order of the model."""
    import numpy as np
    from tqdm.auto import tqdm

    from ..processing.roi_orders import permutation, roi_order_text
    from ..processing.roi_series import unpack_row

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
