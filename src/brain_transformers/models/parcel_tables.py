"""Functional gradients of parcels, computed by this project, for models that are trained from scratch."""

import functools
from importlib import resources

import numpy as np

# Subcortical parcels have no row in the cortical table: they take the mean of that many nearest cortical parcels.
_N_NEAREST = 5

GRADIENT_SOURCE = (
    "brain-transformers: diffusion map of the group connectivity of Schaefer-400 parcels; rows of Tian S3 are the "
    f"mean of the {_N_NEAREST} nearest cortical parcels"
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
def _labels(atlas: str) -> tuple[str, ...] | None:
    key = {"schaefer400-7net": "names7", "schaefer400-17net": "names17", "tian-s3": "tian_s3_names"}.get(atlas)
    if key is None:
        return None
    path = resources.files("brain_transformers") / "assets" / "priors_schaefer400.npz"
    with path.open("rb") as file, np.load(file) as archive:
        return tuple(str(name) for name in archive[key])


def parcel_gradients(roi_order: str | list[str] | None, n_components: int) -> np.ndarray | None:
    """Functional gradients of the parcels of `roi_order`, or `None` where this package has none.

    Args:
        roi_order: name of an order made of Schaefer-400 and Tian S3 parcels, or a list of their labels.
        n_components: leading components to take, at most 30.

    Returns:
        float32 `(n_rois, n_components)`.
    """
    if roi_order is None:
        return None
    if isinstance(roi_order, str):
        labels: list[str] = []
        for atlas in roi_order.split("+"):
            part = _labels(atlas)
            if part is None:
                return None
            labels += part
    else:
        labels = list(roi_order)
    rows = _gradients_by_label()
    if any(label not in rows for label in labels):
        return None
    table = np.stack([rows[label] for label in labels]).astype(np.float32)
    return table[:, :n_components] if n_components <= table.shape[1] else None
