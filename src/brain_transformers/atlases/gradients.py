"""Functional gradients of an atlas: the table that Brain-JEPA's positions are made of, for any set of parcels."""

import numpy as np


def compute_gradients(
    connectivity: np.ndarray, *, n_components: int = 30, sparsity: float = 0.9, alpha: float = 0.5
) -> np.ndarray:
    """Functional gradients by diffusion map embedding, as BrainSpace computes them with its defaults.

    The strongest `1 - sparsity` of each row is kept, rows are compared by their normalised angle, and the affinity is
    embedded at diffusion time 0 (all scales), components scaled by `w / (1 - w)` of their eigenvalue. The paper of
    Brain-JEPA names this method and 30 components; its script was not released. Gradients of another group are other
    positions: weights must be used with the table that they were trained with.

    Args:
        connectivity: (n_rois, n_rois), such as the mean correlation matrix of a group
            (`brain_transformers.processing.connectivity.mean_connectivity`).
        n_components: leading gradients, at most `n_rois - 1`.
        sparsity: share of each row that is set to 0.
        alpha: anisotropy of the diffusion; 0.5 is Fokker-Planck.

    Returns:
        (n_rois, n_components) float32. The largest absolute entry of each column is positive.

    Raises:
        ValueError: unless the matrix is square and finite, and there are enough parcels.
    """
    matrix = np.array(connectivity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"Expected a finite square matrix of connectivity, got shape {matrix.shape}.")
    n_rois = len(matrix)
    if not 0 < n_components < n_rois:
        raise ValueError(f"Expected n_components between 1 and {n_rois - 1} for {n_rois} ROIs, got {n_components}.")
    n_dropped = int(n_rois * sparsity)
    if 0 < n_dropped < n_rois:
        dropped = np.argpartition(matrix, n_dropped, axis=1)[:, :n_dropped]
        np.put_along_axis(matrix, dropped, 0.0, axis=1)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"Row {int(np.argmin(norms))} of the connectivity has no entry left. Lower the sparsity.")
    rows = matrix / norms
    affinity = np.maximum(1 - np.arccos(np.clip(rows @ rows.T, -1, 1)) / np.pi, 0)
    weight = affinity.sum(axis=1) ** -alpha
    affinity = affinity * weight[:, None] * weight[None, :]
    degree = affinity.sum(axis=1)
    values, vectors = np.linalg.eigh(affinity / np.sqrt(np.outer(degree, degree)))
    order = np.argsort(-np.abs(values), kind="stable")[: n_components + 1]
    values = values[order] / values[order[0]]
    vectors = vectors[:, order] / np.sqrt(degree)[:, None]
    vectors = vectors / vectors[:, :1]
    gradients = vectors[:, 1:] * (values[1:] / (1 - values[1:]))
    largest = gradients[np.abs(gradients).argmax(axis=0), np.arange(n_components)]
    return (gradients * np.where(largest < 0, -1.0, 1.0)).astype(np.float32)
