"""Masks of Brain-Semantoks pretraining: whole windows or whole networks are hidden from the student.

Source: Gijsen, Schulz, Ritter, "Brain-Semantoks: Learning Semantic Tokens of Brain Dynamics with a Self-Distilled
Foundation Model", ICLR 2026 (arXiv 2512.11582), and the settings behind the released weights. The paper hides 65-85 %
of the tokens; by the rule that the weights were trained with it is 63 % on average (from 56 % to 80 %), since the
upper end of the number of networks is exclusive and one window is always taken off. Both rules are here.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...atlases.networks import networks_of_parcels

MASK_KINDS = ("slice", "temporal", "network")
MASK_RULES = ("published", "nominal")


class MaskDraws:
    """The random choices that a mask is made of, from a numpy generator; the Trainer gives one per row."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def temporal_first(self) -> bool:
        """True for windows, false for networks, each with probability 1/2."""
        return bool(self.rng.random() < 0.5)

    def ratio(self, low: float, high: float) -> float:
        """Uniform in `[low, high)`."""
        return float(self.rng.uniform(low, high))

    def start(self, last: int) -> int:
        """Uniform in 0..`last`, both included."""
        return int(self.rng.integers(0, last + 1))

    def networks(self, n_networks: int) -> Sequence[int]:
        """A random permutation of the networks."""
        return self.rng.permutation(n_networks).tolist()

    def count(self, low: int, high: int) -> int:
        """Uniform in `low`..`high - 1`."""
        return int(self.rng.integers(low, high))


def network_count_range(n_networks: int, mask_range: tuple[float, float]) -> tuple[int, int]:
    """Number of networks that the published rule hides: `low` included, `high` excluded."""
    return max(1, int(n_networks * mask_range[0])), min(n_networks, int(n_networks * mask_range[1]))


def temporal_length(ratio: float, n_windows: int) -> int:
    """Number of windows that the published rule hides for a drawn ratio; may be 0."""
    return min(max(1, math.ceil(ratio * n_windows)), n_windows) - 1


def _nominal_length(ratio: float, size: int) -> int:
    return min(max(1, round(ratio * size)), max(size - 1, 1))


def draw_mask(
    kind: str,
    n_networks: int,
    n_windows: int,
    draws: MaskDraws,
    mask_range: tuple[float, float] = (0.65, 0.85),
    rule: str = "published",
) -> np.ndarray:
    """Draw the mask of one view.

    Args:
        kind: `"temporal"` (a block of windows, all networks), `"network"` (some networks, all windows), or `"slice"`
            (one or the other, with equal probability).
        n_networks, n_windows: size of the mask.
        draws: the random choices, in the order in which they are made.
        mask_range: shares between which the hidden share is drawn.
        rule: `"published"`, or `"nominal"`: the drawn share times the size, rounded, and at least 1 is seen and
            hidden.

    Returns:
        bool `(n_networks, n_windows)`, true where the student sees the mask embedding.

    Raises:
        ValueError: for an unknown kind or rule, or if the published rule leaves no number of networks to draw from.
    """
    if kind not in MASK_KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, MASK_KINDS))}, got {kind!r}.")
    if rule not in MASK_RULES:
        raise ValueError(f"rule must be one of {', '.join(map(repr, MASK_RULES))}, got {rule!r}.")
    if kind == "slice":
        kind = "temporal" if draws.temporal_first() else "network"
    mask = np.zeros((n_networks, n_windows), dtype=bool)
    if kind == "temporal":
        ratio = draws.ratio(*mask_range)
        length = temporal_length(ratio, n_windows) if rule == "published" else _nominal_length(ratio, n_windows)
        start = draws.start(n_windows - length)
        mask[:, start : start + length] = True
        return mask
    if rule == "nominal":
        order = draws.networks(n_networks)
        count = _nominal_length(draws.ratio(*mask_range), n_networks)
        mask[list(order[:count])] = True
        return mask
    low, high = network_count_range(n_networks, mask_range)
    if low >= high:
        raise ValueError(
            f"No number of networks to hide: mask range {mask_range[0]}-{mask_range[1]} of {n_networks} networks "
            f"gives at least {low} and fewer than {high}. Widen the range, use masks of whole windows "
            "(kind='temporal'), or rule='nominal'."
        )
    order = draws.networks(n_networks)
    mask[list(order[: draws.count(low, high)])] = True
    return mask


def concatenate_network_ids(parts: Sequence[Sequence[float]]) -> list[int]:
    """Network ids of several atlases as one numbering: those of an atlas follow the largest id of those before it.

    Args:
        parts: ids of the parcels of each atlas, starting anywhere.
    """
    ids: list[int] = []
    for part in parts:
        lowest, offset = int(min(part)), max(ids, default=-1) + 1
        ids += [int(network) - lowest + offset for network in part]
    return ids


def functional_network_mapping(functional_ids: Sequence[int], actual_ids: Sequence[int]) -> list[list[int]]:
    """For each functional network, the sorted networks of the model that share a parcel with it.

    Args:
        functional_ids: network of each parcel by the 7-network map.
        actual_ids: network of each parcel by the model's own map.

    Raises:
        ValueError: if the two do not have the same length.
    """
    if len(functional_ids) != len(actual_ids):
        raise ValueError(
            f"Both maps must cover the same parcels, got {len(functional_ids)} and {len(actual_ids)} ids."
        )
    shared: list[set[int]] = [set() for _ in range(max(functional_ids) + 1)]
    for functional, actual in zip(functional_ids, actual_ids):
        shared[functional].add(actual)
    return [sorted(networks) for networks in shared]


def canonical_mapping(config: Any) -> list[list[int]]:
    """[`functional_network_mapping`] of a model's configuration.

    Raises:
        ValueError: if its order of parcels is none that we know.
    """
    known = networks_of_parcels(config.roi_order, 7)
    if known is None or config.networks is None:
        raise ValueError(f"canonical_masks needs a roi_order whose parcel names are known, got {config.roi_order!r}.")
    return functional_network_mapping(known[0], config.networks)


def expand_functional_mask(mask: np.ndarray, mapping: Sequence[Sequence[int]], n_networks: int) -> np.ndarray:
    """Copy a mask over functional networks to the networks of a model with a finer map.

    The 7- and 17-network maps overlap, so a network of the model may belong to several functional ones; as in the
    authors' code the rows are copied in order, true and false alike, and later ones overwrite earlier ones.

    Args:
        mask: bool `(n_functional, n_windows)`.
        mapping: networks of the model for each functional one, see [`functional_network_mapping`].
        n_networks: networks of the model.

    Returns:
        bool `(n_networks, n_windows)`.
    """
    expanded = np.zeros((n_networks, mask.shape[1]), dtype=bool)
    for row, networks in zip(mask, mapping):
        expanded[list(networks)] = row
    return expanded
