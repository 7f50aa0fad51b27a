"""Names of parcel orders, the labels behind them, and the permutations between them.

The order of the rows of a scan is data: two editions of the same atlas hold the same parcels in different rows, and no
shape check can tell them apart. So every order has a name, and rows are moved only where labels match one to one.

A name is one atlas (`"schaefer400-7net"`, `"schaefer400-17net"`, `"tian-s3"`, `"buckner7"`, `"a424"`, `"aal2-94"`),
several joined with `"+"` in row order (`"tian-s3+schaefer400-17net"`), or either with `"@y"` behind it: the same rows,
sorted from posterior to anterior by the Y coordinate of their centres (the image form of BrainLM). A list of labels,
or such a list as JSON text, is an order too.
"""

import difflib
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from .assets import ATLASES, atlas_centres, atlas_labels
from .spellings import canonical_labels, matched_rows, other_resolution

SORTED_BY_Y = "@y"

# Orders that published models use; other "+" combinations of the atlases work as well.
ROI_ORDERS: tuple[str, ...] = (
    "schaefer400-7net",
    "schaefer400-17net",
    "tian-s3+schaefer400-17net",
    "schaefer400-7net+tian-s3+buckner7",
    "a424",
    "aal2-94",
)

ROIOrder = str | Sequence[str]


def labels_of(order: ROIOrder | None) -> tuple[str, ...] | None:
    """Labels of the rows of an order, `None` for a name that is not made of [`ATLASES`] or is sorted by centres."""
    if not isinstance(order, str):
        return None if order is None else tuple(order)
    parts = order.split("+")
    return tuple(label for part in parts for label in atlas_labels(part)) if set(parts) <= set(ATLASES) else None


@dataclass(frozen=True)
class ResolvedOrder:
    """A parcel order after resolving its name.

    Args:
        name: the name without `"@y"`, or `None` for a plain list of labels.
        labels: one label a row, in the order **before** sorting by Y; empty if the name is not one we know.
        sorted_by_y: whether the rows are sorted by the Y coordinate of their centres (`"@y"`).
    """

    name: str | None
    labels: tuple[str, ...]
    sorted_by_y: bool = False

    @property
    def known(self) -> bool:
        """Whether the labels are known, so that rows can be matched."""
        return bool(self.labels)


@dataclass(frozen=True)
class ROIPermutation:
    """How to fill the rows of one order from the rows of another: `target = source[index]` where `index >= 0`.

    Args:
        index: (n_target,) int64, row of the source for each target row, -1 where the source lacks it.
        missing: labels of the target that the source lacks.
    """

    index: np.ndarray
    missing: tuple[str, ...]


def resolve_roi_order(order: ROIOrder) -> ResolvedOrder:
    """Resolve a name, a list of labels, or a list of labels as JSON text.

    Args:
        order: such as `"schaefer400-7net"`, `"a424@y"` or `["V1", "V2"]`.

    Returns:
        The resolved order. A name that is not known resolves to one without labels: it equals only itself.

    Raises:
        ValueError: if it is neither a name nor a list of labels, a list has repeated, empty or no labels, or a name
            joins an atlas that is not known.
    """
    order = _name_or_labels(order)
    if not isinstance(order, str):
        repeated = [label for label, count in Counter(order).items() if count > 1]
        if repeated:
            raise ValueError(
                f"Expected every label of roi_order once, got {repeated[:5]} more than once. Make the labels unique."
            )
        return ResolvedOrder(None, order)
    if not order:
        raise ValueError(f"roi_order is an empty string. Use one of {list(ROI_ORDERS)} or a list of labels.")
    name, sorted_by_y = order.removesuffix(SORTED_BY_Y), order.endswith(SORTED_BY_Y)
    labels = labels_of(name)
    if labels is None and "+" in name:
        unknown = [part for part in name.split("+") if part not in ATLASES]
        near = difflib.get_close_matches(unknown[0].lower(), ATLASES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"roi_order {order!r:.200} joins {unknown[:5]!r:.200}, which are not among the known atlases "
            f"{list(ATLASES)}.{hint}"
        )
    if labels is None:
        return ResolvedOrder(name, (), sorted_by_y)
    if len(set(canonical_labels(labels))) != len(labels):
        raise ValueError(f"roi_order {order!r} holds the same parcels twice.")
    return ResolvedOrder(name, labels, sorted_by_y)


def order_of_labels(labels: Sequence[str]) -> str:
    """The name of the order that rows with these labels are in, or the list of labels as JSON text."""
    names = canonical_labels(tuple(labels))
    for order in (*ROI_ORDERS, *ATLASES):
        of_order = labels_of(order) or ()
        if len(of_order) == len(names) and canonical_labels(of_order) == names:
            return order
    return roi_order_text(labels)


def whole_atlases(order: ROIOrder) -> str:
    """The name of an order of the known atlases whose parcels are all among those of a list, such as
    `schaefer400-7net+tian-s3`; nothing for a name, or where there is none."""
    resolved = resolve_roi_order(order)
    if resolved.name is not None:
        return ""
    names = set(canonical_labels(resolved.labels))
    inside = [atlas for atlas in ATLASES if set(canonical_labels(atlas_labels(atlas))) <= names]
    return "+".join(atlas for atlas in inside if atlas != "schaefer400-17net")  # the same parcels in other rows


def did_you_mean(order: ROIOrder) -> str:
    """`"Did you mean 'a424'? "` for a name that is spelt nearly like a known one, else nothing."""
    near: list[str] = []
    if isinstance(order, str):
        near = difflib.get_close_matches(order.lower().replace("_", "-"), (*ROI_ORDERS, *ATLASES), n=1, cutoff=0.75)
    return f"Did you mean {near[0]!r}? " if near else ""


def roi_order_text(order: ROIOrder) -> str:
    """The order as one string, for a column of a table: a name as it is, a list of labels as JSON text."""
    if isinstance(order, str):
        return order
    order = _name_or_labels(order)
    return order if isinstance(order, str) else json.dumps(list(order))


def order_name(order: ROIOrder | None) -> str:
    """How messages call an order."""
    if order is None or (isinstance(order, str) and not order.startswith("[")):
        return repr(order)
    labels = resolve_roi_order(order).labels
    return f"a list of {len(labels)} labels ({', '.join(labels[:2])}, ...)"


def n_rois_of(order: ROIOrder, n_rois: int | None = None) -> int | None:
    """How many parcels an order has; for one that is not known, `n_rois`.

    Raises:
        ValueError: if both are known and differ.
    """
    n_labels = len(resolve_roi_order(order).labels)
    if n_labels and n_rois is not None and n_rois != n_labels:
        raise ValueError(
            f"roi_order has {n_labels} ROIs but n_rois is {n_rois}. Give one of them, or make them agree."
        )
    return n_labels or n_rois


def _name_or_labels(order: Any) -> str | tuple[str, ...]:
    """The name, or the labels as plain text: the one door for what files and arrays hold (bytes, numpy's text, "
    "JSON)."""
    try:
        if isinstance(order, str) and order.startswith("["):
            order = json.loads(order)
        elif isinstance(order, (bytes, np.bytes_)):
            order = order.decode()
        if isinstance(order, str):
            return str(order)
        if isinstance(order, (Mapping, Set)) or np.ndim(order) != 1:
            raise TypeError("it is no list")
        labels = tuple(label.decode() if isinstance(label, bytes) else label for label in order)
        if not labels or not all(isinstance(label, str) and label for label in labels):
            raise TypeError("labels are text, and none is empty")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected roi_order to be a name such as {ROI_ORDERS[0]!r} or a list of label strings, got "
            f"{order!r:.100} ({str(error)[:100]})."
        ) from error
    return tuple(str(label) for label in labels)


def roi_labels(order: ROIOrder, coordinates: np.ndarray | None = None) -> tuple[str, ...]:
    """The label of each row.

    Args:
        order: name or list of labels.
        coordinates: (n_rois, 3), mm, in the order before sorting; needed for `"@y"` orders whose centres we do not
            ship.

    Raises:
        ValueError: if the name is not known, or is sorted by Y and the coordinates are neither given nor shipped.
    """
    resolved = resolve_roi_order(order)
    if not resolved.known:
        raise ValueError(
            f"The labels of roi_order {order!r} are not known. {did_you_mean(order)}Known orders: {list(ROI_ORDERS)}; "
            "or give the list of labels itself."
        )
    if not resolved.sorted_by_y:
        return resolved.labels
    if coordinates is None:
        coordinates = roi_coordinates(resolved.name or "")
    if coordinates is None:
        raise ValueError(
            f"roi_order {order!r} is sorted by Y, and the coordinates of {resolved.name!r} are not part of this "
            "package. Pass coordinates=(n_rois, 3) in label order, for example from read_coordinates(path)."
        )
    return tuple(resolved.labels[row] for row in stable_y_order(coordinates))


def roi_coordinates(order: ROIOrder) -> np.ndarray | None:
    """Centres of the parcels, (n_rois, 3) float32, mm MNI152, in row order; `None` where we do not ship them.

    Source: centres of mass in MNI152 label volumes, computed by this project (see `assets/README.md`).
    """
    resolved = resolve_roi_order(order)
    if resolved.name is None or not resolved.known:
        return None
    tables = [atlas_centres(part) for part in resolved.name.split("+")]
    if any(table is None for table in tables):
        return None
    coordinates = np.concatenate([table for table in tables if table is not None]).astype(np.float32)
    return coordinates[stable_y_order(coordinates)] if resolved.sorted_by_y else coordinates


@functools.cache
def _centres_by_label() -> dict[str, np.ndarray]:
    tables = {atlas: atlas_centres(atlas) for atlas in ATLASES}
    return {
        label: table[row]
        for atlas, table in tables.items()
        if table is not None
        for row, label in enumerate(atlas_labels(atlas))
    }


def label_centres(order: ROIOrder) -> np.ndarray:
    """Centres of the parcels, (n_rois, 3) float32, mm MNI152, before any sorting; NaN for parcels we ship none of."""
    centres = _centres_by_label()
    nowhere = np.full(3, np.nan, dtype=np.float32)
    rows = [centres.get(label, nowhere) for label in resolve_roi_order(order).labels]
    return np.asarray(rows, dtype=np.float32).reshape(-1, 3)


def stable_y_order(coordinates: np.ndarray) -> np.ndarray:
    """Rows from posterior to anterior: a stable ascending sort by Y, where ties keep their label order.

    The Y grid of A424 has 77 values for 424 parcels, so ties are everywhere and an unstable sort (numpy's default)
    gives another image than the one BrainLM was trained on.

    Args:
        coordinates: (n_rois, 3), mm, columns X, Y, Z.

    Returns:
        (n_rois,) int64, the label row of each sorted row.

    Raises:
        ValueError: if the shape is not (n_rois, 3) or a value is not finite.
    """
    coordinates = np.asarray(coordinates)
    if coordinates.ndim != 2 or coordinates.shape[1] != 3:
        raise ValueError(f"Expected coordinates of shape (n_rois, 3) with columns X, Y, Z, got {coordinates.shape}.")
    if not np.isfinite(coordinates).all():
        raise ValueError("Expected finite coordinates, got NaN or infinity. Repair the table before sorting by it.")
    return np.argsort(coordinates[:, 1], kind="stable").astype(np.int64)


def permutation(source: ROIOrder, target: ROIOrder, *, source_coordinates: np.ndarray | None = None) -> ROIPermutation:
    """Rows of `source` that fill the rows of `target`, matched by label and never by position.

    Args:
        source: order of the data.
        target: order that is wanted.
        source_coordinates: (n_rois, 3), mm, in the order before sorting; for an `"@y"` order whose centres are
            not shipped.

    Returns:
        The permutation with what is missing.

    Raises:
        ValueError: if an order is not known, or the two have no label in common.
    """
    names = roi_labels(target)
    index = matched_rows(roi_labels(source, source_coordinates), names)
    if (index < 0).all():
        count = other_resolution(roi_labels(source, source_coordinates))
        other = (
            f" ({count} are called as Schaefer's parcels are, in another resolution than 400 or too few to tell)"
            if count
            else ""
        )
        raise ValueError(
            f"Expected rows that can be matched to roi_order {order_name(target)}, got {order_name(source)}, which "
            f"has no label in common with it{other}. Parcellate the scan with the atlas that the model was trained "
            "on, or have its parcels rebuilt from these (embed --map-parcels, which costs accuracy)."
        )
    return ROIPermutation(index, tuple(name for name, row in zip(names, index) if row < 0))
