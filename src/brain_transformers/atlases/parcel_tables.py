"""Functional gradients and geometric harmonics of parcels, computed by this project, for models from scratch."""

import functools

import numpy as np

from .assets import atlas_labels, prior, rows_of_edition
from .roi_orders import ROIOrder, labels_of

# Subcortical parcels have no row in the cortical table: they take the mean of that many nearest cortical parcels.
_N_NEAREST = 5

SOURCES = {
    "gradients": (
        "brain-transformers: diffusion map of the group connectivity of Schaefer-400 parcels; rows of Tian S3 are the "
        f"mean of the {_N_NEAREST} nearest cortical parcels"
    ),
    "harmonics": (
        "brain-transformers: Laplace-Beltrami modes of the HCP S1200 group surface, averaged in Schaefer-400 parcels"
    ),
}
"""Name of a table -> where this package has it from."""


@functools.cache
def _rows_by_label(name: str) -> dict[str, np.ndarray]:
    if name == "gradients":
        table = prior("gradients")
    else:
        signs = prior("harmony_sign_table")
        table = prior("eigenmodes") * np.repeat(signs, len(prior("eigenmodes")) // len(signs), axis=0)
    rows: dict[str, np.ndarray] = {}
    for edition in ("schaefer400-7net", "schaefer400-17net"):
        rows |= zip(atlas_labels(edition), rows_of_edition(table, edition))
    if name == "gradients":
        centres = prior("centroids_mni").astype(np.float64)
        for label, centre in zip(atlas_labels("tian-s3"), prior("tian_s3_centroids_mni").astype(np.float64)):
            nearest = np.argsort(np.linalg.norm(centres - centre, axis=1), kind="stable")[:_N_NEAREST]
            rows[label] = table[nearest].mean(axis=0)
    return rows


def parcel_table(name: str, roi_order: ROIOrder | None, n_columns: int) -> np.ndarray | None:
    """Functional gradients or geometric harmonics of the parcels of `roi_order`, or `None` where we have none.

    The sign of each hemisphere's harmonics is that of BrainHarmony's released table, whose rows are in another order.

    Args:
        name: "gradients" (cortex and Tian S3, at most 30 columns) or "harmonics" (cortex alone, at most 200).
        roi_order: name of an order made of those parcels, or a list of their labels.
        n_columns: leading components to take.

    Returns:
        float32 `(n_rois, n_columns)`.
    """
    labels, rows = labels_of(roi_order), _rows_by_label(name)
    if labels is None or any(label not in rows for label in labels):
        return None
    table = np.stack([rows[label] for label in labels]).astype(np.float32)
    return table[:, :n_columns] if n_columns <= table.shape[1] else None
