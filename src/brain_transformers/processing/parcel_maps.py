"""Scans of another atlas for a model: its rows rebuilt from parcels that overlap them, or lie nearest.

Never done by itself: parcels are matched by name unless somebody asks for this, and what is rebuilt is less than what
was measured.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..atlases.roi_orders import ROIOrder, label_centres, order_name, resolve_roi_order, roi_order_text
from ..atlases.spellings import canonical_labels, matched_rows

METHODS = ("nearest", "overlap")
LOSS = (
    "What is rebuilt is less than what was measured: in a real run Schaefer-400 rebuilt from Schaefer-200, "
    "Schaefer-100 and AAL-116 correlated with the measured parcels by a median r of 0.86, 0.76 and 0.68 by overlap "
    "and of 0.84, 0.74 and 0.64 by nearest centre, and embeddings of an untrained Brain-Semantoks moved by 9, 15 and "
    "17 %."
)
"""What mapping costs, measured on one run of 160 volumes at 3.5 mm (the one that the package splora ships)."""
# A centre that is further away, in mm, is that of another region: the parcels of most atlases are 10 to 30 mm wide.
_FURTHEST = 25.0
# A row of which less than this share is known is not rebuilt.
_LEAST_SHARE = 0.5


def parcel_map(
    source: ROIOrder,
    target: ROIOrder,
    method: str = "nearest",
    *,
    overlap: np.ndarray | None = None,
    source_centres: np.ndarray | None = None,
    target_centres: np.ndarray | None = None,
) -> dict[str, Any]:
    """How the rows of one order are rebuilt from those of another, to be set as `parcel_map` of an extractor.

    Args:
        source: order of the scans.
        target: order of the model.
        method: `"nearest"`: the parcel whose centre is nearest, at most 25 mm away; `"overlap"`: the mean of the
            parcels that share voxels with it, by their number, where half of its voxels are in some.
        overlap: (n_target, n_source) voxels in common; of `data.atlas_overlap`.
        source_centres, target_centres: (n, 3), mm MNI, where they are not known by the names of the parcels.

    Returns:
        `from`, `to`, `method`, and for every row of `target` the rows of `source` (`rows`) and their `weights`.

    Raises:
        ValueError: if there is no such method, centres are not known, or less than half of the rows can be rebuilt.
    """
    if method not in METHODS:
        raise ValueError(f"Expected a method among {', '.join(METHODS)}, got {method!r}.")
    if method == "overlap":
        if overlap is None:
            raise ValueError(
                "Mapping by overlap needs the voxels that parcels share: label images of both atlases (--scan-atlas, "
                "--model-atlas), or overlap=."
            )
        counts = np.asarray(overlap, dtype=np.float64)
        known = counts[:, :-1] if counts.shape[1] == len(resolve_roi_order(source).labels) + 1 else counts
        whole = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        weights = np.where(known.sum(axis=1, keepdims=True) >= _LEAST_SHARE * whole, known / whole, 0)
    else:
        from_, to = _centres(source, source_centres), _centres(target, target_centres)
        distance = np.linalg.norm(to[:, None] - from_[None], axis=2)
        weights = np.zeros(distance.shape)
        weights[np.arange(len(to)), distance.argmin(axis=1)] = distance.min(axis=1) <= _FURTHEST
    rebuilt = weights.sum(axis=1) > 0
    if rebuilt.sum() * 2 < len(weights):
        raise ValueError(
            f"Expected an atlas that covers {order_name(target)}, got {order_name(source)}, from which "
            f"{int(rebuilt.sum())} of {len(weights)} parcels can be rebuilt by {method}."
        )
    weights[rebuilt] /= weights[rebuilt].sum(axis=1, keepdims=True)
    return {
        "from": roi_order_text(source),
        "to": roi_order_text(target),
        "method": method,
        "n_source": weights.shape[1],
        "rows": [np.flatnonzero(row).tolist() for row in weights],
        "weights": [[round(float(value), 6) for value in row[row > 0]] for row in weights],
    }


def map_scans(
    processor: Any, orders: Iterable[str | None], method: str, overlap: np.ndarray | None = None
) -> dict[str, Any]:
    """Set the `parcel_map` of a processor for scans of another atlas, and give it.

    Args:
        processor: of a model that takes parcels in a known order.
        orders: orders of the scans, of which one has nothing in common with that of the model.
        method, overlap: see [`parcel_map`].

    Raises:
        ValueError: if the processor takes no parcels, or there are several such orders, or none.
    """
    if "roi_order" not in processor.tells or processor.roi_order is None:
        raise ValueError("--map-parcels is for models that take parcels in a known order. Leave it out.")
    other = sorted({order for order in orders if order and not _in_common(order, processor.roi_order)})
    if len(other) != 1:
        found = "none" if not other else f"{len(other)}: {'; '.join(map(order_name, other[:3]))}"
        raise ValueError(
            f"Expected scans of one other atlas to map to {order_name(processor.roi_order)}, got {found}. Parcels "
            "that have the same names are matched by them, without --map-parcels."
        )
    processor.parcel_map = parcel_map(
        other[0], processor.roi_order, method, overlap=overlap, target_centres=processor.coordinates
    )
    return processor.parcel_map


def _in_common(order: str, wanted: ROIOrder) -> bool:
    labels = resolve_roi_order(order).labels
    return bool(labels) and bool((matched_rows(labels, resolve_roi_order(wanted).labels) >= 0).any())


def _centres(order: ROIOrder, given: np.ndarray | None) -> np.ndarray:
    labels = resolve_roi_order(order).labels
    centres = label_centres(list(canonical_labels(labels))) if given is None and labels else np.asarray(given)
    if given is None and (not labels or np.isnan(centres).any()):
        unknown = int(np.isnan(centres).any(axis=1).sum()) if labels else "all"
        raise ValueError(
            f"The centres of {unknown} parcels of {order_name(order)} are not known, so the nearest cannot be told. "
            "Map by overlap, with label images of both atlases (--map-parcels overlap --scan-atlas FILE --model-atlas "
            "FILE), or pass their centres."
        )
    return np.asarray(centres, dtype=np.float64)


def map_weights(held: Mapping[str, Any]) -> np.ndarray:
    """The weights of a map as (n_target, n_source) float32.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        weights = np.zeros((len(held["rows"]), int(held["n_source"])), dtype=np.float32)
        for row, (columns, values) in enumerate(zip(held["rows"], held["weights"], strict=True)):
            weights[row, columns] = values
        if not np.isfinite(weights).all() or (weights < 0).any() or not isinstance(held["from"], str):
            raise ValueError("weights are shares from 0 to 1")
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"Expected parcel_map as `parcel_map` makes it, got what is none ({error}).") from error
    return weights


def checked_map(held: Mapping[str, Any], roi_order: ROIOrder | None) -> dict[str, Any]:
    """A map that is sound, and leads to these rows.

    Raises:
        ValueError: if it does not.
    """
    map_weights(held)
    if roi_order is None or held.get("to") != roi_order_text(roi_order):
        raise ValueError(
            f"Expected parcel_map to lead to {order_name(roi_order)}, got one to {order_name(held.get('to'))}. Make "
            "it with the roi_order of this extractor as target."
        )
    return dict(held)


def mixed(weights: np.ndarray, signals: np.ndarray) -> np.ndarray:
    """Rows rebuilt from a scan, (n_target, n_timepoints) in the type of `signals`; NaN where less than half of a row
    is known at that time."""
    measured = np.isfinite(signals)
    total = weights @ np.where(measured, signals, 0)
    share = weights @ measured.astype(weights.dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(share >= _LEAST_SHARE, total / share, np.nan).astype(signals.dtype)
