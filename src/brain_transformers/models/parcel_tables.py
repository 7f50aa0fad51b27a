"""Functional gradients and geometric harmonics of parcels, computed by this project, for models from scratch."""

import functools
from importlib import resources

import numpy as np

# Subcortical parcels have no row in the cortical table: they take the mean of that many nearest cortical parcels.
_N_NEAREST = 5

GRADIENT_SOURCE = (
    "brain-transformers: diffusion map of the group connectivity of Schaefer-400 parcels; rows of Tian S3 are the "
    f"mean of the {_N_NEAREST} nearest cortical parcels"
)

HARMONICS_SOURCE = (
    "brain-transformers: Laplace-Beltrami modes of the HCP S1200 group surface, averaged in Schaefer-400 parcels"
)


@functools.cache
def _gradients_by_label() -> dict[str, np.ndarray]:
    path = resources.files("brain_transformers") / "assets" / "priors_schaefer400.npz"
    with path.open("rb") as file, np.load(file) as archive:
        table, centres = archive["gradients"], archive["centroids_mni"].astype(np.float64)
        rows = {str(name): table[row] for row, name in enumerate(archive["names7"])}
        # The 7- and 17-network editions name the same parcels differently.
        rows |= {str(name): table[row] for name, row in zip(archive["names17"], archive["order17_to_7"])}
        for name, centre in zip(archive["tian_s3_names"], archive["tian_s3_centroids_mni"].astype(np.float64)):
            nearest = np.argsort(np.linalg.norm(centres - centre, axis=1), kind="stable")[:_N_NEAREST]
            rows[str(name)] = table[nearest].mean(axis=0)
    return rows


@functools.cache
def _harmonics_by_label() -> dict[str, np.ndarray]:
    path = resources.files("brain_transformers") / "assets" / "priors_schaefer400.npz"
    with path.open("rb") as file, np.load(file) as archive:
        signs = archive["harmony_sign_table"]
        table = archive["eigenmodes"] * np.repeat(signs, len(archive["eigenmodes"]) // len(signs), axis=0)
        rows = {str(name): table[row] for row, name in enumerate(archive["names7"])}
        return rows | {str(name): table[row] for name, row in zip(archive["names17"], archive["order17_to_7"])}


@functools.cache
def _labels(atlas: str) -> tuple[str, ...] | None:
    key = {"schaefer400-7net": "names7", "schaefer400-17net": "names17", "tian-s3": "tian_s3_names"}.get(atlas)
    if key is None:
        return None
    path = resources.files("brain_transformers") / "assets" / "priors_schaefer400.npz"
    with path.open("rb") as file, np.load(file) as archive:
        return tuple(str(name) for name in archive[key])


def _labels_of(roi_order: str | list[str] | None) -> list[str] | None:
    """Labels of an order, `None` where this package does not know them."""
    if not isinstance(roi_order, str):
        return roi_order
    parts = [_labels(atlas) for atlas in roi_order.split("+")]
    return None if None in parts else [label for part in parts for label in part or ()]


def _table_of(rows: dict[str, np.ndarray], roi_order: str | list[str] | None, n_columns: int) -> np.ndarray | None:
    labels = _labels_of(roi_order)
    if labels is None or any(label not in rows for label in labels):
        return None
    table = np.stack([rows[label] for label in labels]).astype(np.float32)
    return table[:, :n_columns] if n_columns <= table.shape[1] else None


def parcel_gradients(roi_order: str | list[str] | None, n_components: int) -> np.ndarray | None:
    """Functional gradients of the parcels of `roi_order`, or `None` where this package has none.

    Args:
        roi_order: name of an order made of Schaefer-400 and Tian S3 parcels, or a list of their labels.
        n_components: leading components to take, at most 30.

    Returns:
        float32 `(n_rois, n_components)`.
    """
    return _table_of(_gradients_by_label(), roi_order, n_components)


def parcel_harmonics(roi_order: str | list[str] | None, n_modes: int) -> np.ndarray | None:
    """Geometric harmonics of cortical parcels, as [`parcel_gradients`]; at most 200 modes.

    The sign of each hemisphere's modes is that of BrainHarmony's released table, whose rows are in another order.
    """
    return _table_of(_harmonics_by_label(), roi_order, n_modes)
