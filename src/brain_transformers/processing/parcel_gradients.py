"""Functional gradients of an atlas: the table that Brain-JEPA's positions are made of, for any set of parcels."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .missing import missing_frames
from .roi_orders import ROIOrder, permutation, roi_order_text
from .rows import unpack_row

# Rounding makes correlations of a series with itself, or its copy, slightly more than 1; arctanh would be infinite.
_HIGHEST_CORRELATION = 1 - 1e-7


def mean_connectivity(scans: Iterable[np.ndarray]) -> np.ndarray:
    """Mean Pearson correlation between parcels over scans (averaged after Fisher's z transform).

    Frames in which nothing was measured (see [`missing_frames`]) take no part.

    Args:
        scans: arrays (n_rois, n_timepoints) with the same rows; lengths may differ.

    Returns:
        (n_rois, n_rois) float64.

    Raises:
        ValueError: if there are no scans, or a parcel is constant or not finite in one.
    """
    total, count = None, 0
    for number, scan in enumerate(scans):
        series = np.asarray(scan, dtype=np.float64)
        missing = missing_frames(series) if series.ndim == 2 else None
        series = series if missing is None else series[:, ~missing]
        bad = ~np.isfinite(series).all(axis=1) | (np.ptp(series, axis=1) == 0)
        if bad.any():
            raise ValueError(
                f"Expected finite series that vary, got {int(bad.sum())} constant or not finite rows in scan {number} "
                f"(first: {np.flatnonzero(bad)[:5].tolist()}). Leave that scan out, or fill those parcels."
            )
        z = np.arctanh(np.clip(np.corrcoef(series), -_HIGHEST_CORRELATION, _HIGHEST_CORRELATION))
        total, count = z if total is None else total + z, count + 1
    if total is None:
        raise ValueError("Expected at least one scan, got none.")
    return np.tanh(total / count)


def compute_gradients(
    connectivity: np.ndarray | None = None,
    *,
    scans: Iterable[np.ndarray] | None = None,
    n_components: int = 30,
    sparsity: float = 0.9,
    alpha: float = 0.5,
) -> np.ndarray:
    """Functional gradients by diffusion map embedding, as BrainSpace computes them with its defaults.

    The strongest `1 - sparsity` of each row is kept, rows are compared by their normalised angle, and the affinity is
    embedded at diffusion time 0 (all scales), components scaled by `w / (1 - w)` of their eigenvalue. The paper of
    Brain-JEPA names this method and 30 components; its script was not released. Gradients of another group are other
    positions: weights must be used with the table that they were trained with.

    Args:
        connectivity: (n_rois, n_rois), such as a group mean correlation matrix.
        scans: instead, arrays (n_rois, n_timepoints) that it is computed from (see [`mean_connectivity`]).
        n_components: leading gradients, at most `n_rois - 1`.
        sparsity: share of each row that is set to 0.
        alpha: anisotropy of the diffusion; 0.5 is Fokker-Planck.

    Returns:
        (n_rois, n_components) float32. The largest absolute entry of each column is positive.

    Raises:
        ValueError: unless exactly one of `connectivity` and `scans` is given, the matrix is square and finite, and
            there are enough parcels.
    """
    if (connectivity is None) == (scans is None):
        raise ValueError("Expected either connectivity or scans, got both or none. Pass one of them.")
    matrix = mean_connectivity(scans) if scans is not None else np.array(connectivity, dtype=np.float64)
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


def gradients_of_rows(
    rows: Any, roi_order: ROIOrder | None, shape: tuple[int, int], what: str
) -> tuple[np.ndarray, str]:
    """Gradients of the connectivity of the scans of a dataset, and what to call them.

    Args:
        rows: the dataset; scans with constant or missing parcels are left out.
        roi_order: of the gradients; `None` takes rows as they come.
        shape: parcels and components.
        what: how to call the scans.

    Raises:
        ValueError: if there are not as many components.
    """
    n_rois, n_components = shape
    if n_components >= n_rois:
        raise ValueError(
            f"{n_rois} parcels have at most {n_rois - 1} gradients, and gradient_size is {n_components}. Choose "
            f"{min(n_rois - 1, 30)} or less (--config gradient_size={min(n_rois - 1, 30)})."
        )
    wanted, used = None if roi_order is None else roi_order_text(roi_order), 0

    def scans() -> Iterator[np.ndarray]:
        nonlocal used
        progress = tqdm(range(len(rows)), desc="Connectivity for the gradients", unit="scan", disable=len(rows) < 32)
        for number in progress:
            signals, order, _ = unpack_row(rows[number])
            if roi_order is not None and order is not None and order != wanted:
                index = permutation(order, roi_order).index
                if (index < 0).any():
                    continue
                signals = signals[index]
            if np.isfinite(signals).all() and (np.ptp(signals, axis=1) > 0).all():
                used += 1
                yield signals

    gradients = compute_gradients(scans=scans(), n_components=n_components)
    if used < len(rows):
        print(f"{len(rows) - used} scans with constant or missing parcels are left out of the gradients")
    return gradients, f"diffusion map of the connectivity of {used} {what}"
