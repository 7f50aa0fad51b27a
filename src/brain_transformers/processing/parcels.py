"""Parcels of a scan: its rows, brought by label into the order of the model, and those that it lacks."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..atlases.roi_orders import (
    SORTED_BY_Y,
    ResolvedOrder,
    ROIOrder,
    ROIPermutation,
    did_you_mean,
    order_name,
    permutation,
    resolve_roi_order,
    roi_order_text,
    stable_y_order,
)
from .parcel_maps import LOSS, map_weights, mixed

MISSING_ROIS = ("error", "fill", "mask")
Warn = Callable[[Any, str], None]


@dataclass
class Rows:
    """Where each emitted row comes from, and its centre.

    Attributes:
        n_source: rows that a scan must have.
        index: (n_rois,) row of the scan for each emitted one, -1 where it has none.
        identity: whether rows come as they are.
        order: (n_rois,) how fitted statistics are sorted, or `None`.
        coordinates: (n_rois, 3) centres of the emitted rows in mm, or `None`.
        mix: (n_rois, n_source) weights by which rows in the order of the model are rebuilt first, or `None`.
    """

    n_source: int
    index: np.ndarray
    identity: bool
    order: np.ndarray | None
    coordinates: np.ndarray | None
    mix: np.ndarray | None = None

    def rebuilt(self, signals: np.ndarray) -> np.ndarray:
        """The scan with rows of the model's parcels, where they have to be rebuilt from others."""
        return signals if self.mix is None else mixed(self.mix, signals)

    @property
    def present(self) -> np.ndarray:
        """(n_rois,) bool: the scan has this row."""
        return self.index >= 0


@dataclass
class ModelParcels:
    """The rows that a model takes.

    Attributes:
        roi_order: their order, or `None` to take rows as they come.
        n_rois: how many.
        coordinates: (n_rois, 3) centres in `roi_order`, before any sorting, or `None` if unknown.
        sort_rows: `"y"` to sort them from posterior to anterior.
        missing_rois: what to do about parcels that a scan lacks.
        parcel_map: how scans of another atlas become theirs, see [`parcel_map`], or `None`.
    """

    roi_order: ROIOrder | None
    n_rois: int
    coordinates: np.ndarray | None
    sort_rows: str | None
    missing_rois: str
    parcel_map: Mapping[str, Any] | None = None

    def rows(self, given: ROIOrder | None, coordinates: np.ndarray | None, warn: Warn) -> Rows:
        """How a scan with rows in the order `given` becomes the model's.

        Args:
            given: order of the scan, or `None` if nothing is said of it.
            coordinates: (n_source, 3) of the scan's rows, instead of those that are known.
            warn: is told once what is filled in, and what cannot be checked.

        Raises:
            ValueError: if the order is not said, cannot be matched, or lacks parcels that the model needs.
        """
        held = self.parcel_map
        if held is not None and given is not None and roi_order_text(given) == held["from"]:
            weights = map_weights(held)
            lost = int((weights.sum(axis=1) == 0).sum())
            warn(
                ("mapped", held["from"]),
                f"Rows of {order_name(given)} are mapped to the parcels of the model ({held['method']}, as asked for"
                f"{f'; {lost} cannot be rebuilt' if lost else ''}). {LOSS}",
            )
            own = self.rows(self.roi_order, None, warn)
            return replace(own, n_source=weights.shape[1], mix=weights)
        index, sorted_by_y, n_source, missing = self._matched(given, warn)
        if missing:
            self._lacks(missing, given, warn)
        centres = None
        if coordinates is not None:
            coordinates = check_coordinates(coordinates, n_source)
            if sorted_by_y:
                _check_sorted(coordinates, given)
            centres = coordinates[index]
            centres[index < 0] = 0.0 if self.coordinates is None else self.coordinates[index < 0]
        order = None
        if self.sort_rows == "y":
            # Rows are defined by the table the model was trained with, so its own coordinates come first.
            basis = self.coordinates if self.coordinates is not None else centres
            if sorted_by_y:
                order = None if self.coordinates is None else stable_y_order(self.coordinates)
            elif basis is None:
                raise ValueError(
                    "This model takes rows sorted by Y, and no coordinates are known for "
                    f"{order_name(self.roi_order)}. Pass coordinates=(n_rois, 3) in mm to the extractor or the call "
                    "(--coordinates FILE, with columns index from 1, X, Y, Z), or rows that are sorted already with "
                    'roi_order="<order>@y".'
                )
            else:
                order = stable_y_order(basis)
                index = index[order]
                centres = None if centres is None else centres[order]
        if centres is None and self.coordinates is not None:
            centres = self.coordinates if order is None else self.coordinates[order]
        identity = n_source == self.n_rois and bool((index == np.arange(self.n_rois)).all())
        return Rows(n_source, index, identity, order, centres)

    def _matched(self, given: ROIOrder | None, warn: Warn) -> tuple[np.ndarray, bool, int, tuple[str, ...]]:
        """Row of the scan for each row of `roi_order`; whether they are sorted by Y already; how many rows the scan
        has; and which parcels it lacks."""
        index = np.arange(self.n_rois)
        if self.roi_order is None:
            if given is None:
                return index, False, self.n_rois, ()
            warn(
                "no roi_order",
                f"This extractor has no roi_order, so rows declared as {order_name(given)} are used as they come.",
            )
            return index, resolve_roi_order(given).sorted_by_y, self.n_rois, ()
        if given is None:
            raise ValueError(
                f"Expected roi_order of the scan, got none; this model takes rows in the order "
                f"{order_name(self.roi_order)}. Editions of an atlas differ only in row order, so it is never "
                f"guessed: pass roi_order={order_name(self.roi_order)} if the rows are in that order, or the name of "
                "theirs."
            )
        own, declared = resolve_roi_order(self.roi_order), resolve_roi_order(given)
        same = _same(own, declared)
        if same and (not declared.sorted_by_y or self.sort_rows == "y"):
            return index, declared.sorted_by_y, self.n_rois, ()
        if not (declared.known and own.known):
            raise ValueError(
                f"Expected rows in the order {order_name(self.roi_order)}, got {order_name(given)}, and "
                "the labels of one of them are not known, so rows cannot be matched. "
                f"{did_you_mean(given if not declared.known else self.roi_order)}Give the order as a list of labels."
            )
        if same:
            moved = permutation(given, self.roi_order, source_coordinates=self.coordinates)
        else:
            moved = _permutation(roi_order_text(given), roi_order_text(self.roi_order))
        used = set(moved.index.tolist())
        unused = [label for row, label in enumerate(declared.labels) if row not in used]
        if unused and declared.name is None:  # names of the scan's own, of which one may have been meant
            warn(
                ("unused", tuple(unused)),
                f"{len(unused)} of the {len(declared.labels)} parcels of the scan are not among those of the model "
                f"and play no part ({', '.join(unused[:5])}{', ...' if len(unused) > 5 else ''}).",
            )
        return moved.index, False, len(declared.labels), moved.missing

    def _lacks(self, missing: tuple[str, ...], given: ROIOrder | None, warn: Warn) -> None:
        what = f"{len(missing)} of the {self.n_rois} parcels of {order_name(self.roi_order)}"
        if self.missing_rois == "error":
            raise ValueError(
                f"Expected {what} that {order_name(given)} lacks (first: {list(missing[:3])}). Parcellate with the "
                'full atlas, or set missing_rois="fill" or "mask" on the extractor if the model allows it.'
            )
        done = "masked" if self.missing_rois == "mask" else "set to 0"
        warn(("missing", missing), f"The scan lacks {what}; they are {done} (first: {list(missing[:3])}).")


@functools.lru_cache(maxsize=64)
def _permutation(given: str, wanted: str) -> ROIPermutation:
    """The permutation between two orders, which thousands of scans in a row ask for."""
    moved = permutation(given, wanted)
    moved.index.flags.writeable = False
    return moved


def _same(own: ResolvedOrder, declared: ResolvedOrder) -> bool:
    return declared.name == own.name if declared.name and own.name else declared.labels == own.labels


def _check_sorted(coordinates: np.ndarray, given: ROIOrder | None) -> None:
    falls = np.flatnonzero(np.diff(coordinates[:, 1]) < 0)
    if falls.size:
        row = int(falls[0])
        raise ValueError(
            f"Expected rows of {order_name(given)} sorted by ascending Y, got Y {coordinates[row, 1]:g} in row {row} "
            f"and {coordinates[row + 1, 1]:g} in the next. Pass the rows in label order with "
            f"roi_order={order_name(str(given).removesuffix(SORTED_BY_Y))} and the extractor sorts them."
        )


def check_coordinates(coordinates: Any, n_rois: int) -> np.ndarray:
    """`coordinates` as float32 (n_rois, 3).

    Raises:
        ValueError: for another shape, or what cannot be mm in MNI space.
    """
    try:
        table = np.array(coordinates, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Expected coordinates of shape ({n_rois}, 3), numbers in mm, got something else ({error})."
        ) from error
    if table.shape != (n_rois, 3):
        raise ValueError(f"Expected coordinates of shape ({n_rois}, 3), columns X, Y, Z in mm, got {table.shape}.")
    if not np.isfinite(table).all() or np.abs(table).max() > 250:
        raise ValueError(
            "Expected coordinates in mm MNI (finite, within 250 mm of the origin). Check units and columns."
        )
    return table


def split_order(roi_order: ROIOrder | None, n_rois: int) -> tuple[str | list[str] | None, bool]:
    """An order as it is saved (a name, or a list of plain text), and whether `"@y"` stood behind it.

    Raises:
        ValueError: if it cannot be an order, or has another number of parcels than `n_rois`.
    """
    if roi_order is None:
        return None, False
    by_y = isinstance(roi_order, str) and roi_order.endswith(SORTED_BY_Y)
    if isinstance(roi_order, str):
        roi_order = roi_order.removesuffix(SORTED_BY_Y)
    labels = resolve_roi_order(roi_order).labels
    if labels and len(labels) != n_rois:
        raise ValueError(
            f"roi_order {order_name(roi_order)} has {len(labels)} parcels but n_rois is {n_rois}. "
            "Make them agree, or set roi_order=None to take rows as they come."
        )
    text = roi_order_text(roi_order)
    return (list(resolve_roi_order(text).labels) if text.startswith("[") else text), by_y
