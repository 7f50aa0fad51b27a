"""Functional connectivity: the reference that an embedding of a resting-state scan has to be compared with."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..atlases.gradients import compute_gradients
from ..atlases.parcel_tables import parcel_table
from ..atlases.roi_orders import ROIOrder, n_rois_of, permutation, resolve_roi_order, roi_order_text
from .missing import missing_frames
from .rows import unpack_row, without_cut_frames

# Rounding makes correlations of a series with itself, or its copy, slightly more than 1; arctanh would be infinite.
_HIGHEST_CORRELATION = 1 - 1e-7


def functional_connectivity(
    signals: np.ndarray, *, vectorize: bool = True, fisher_z: bool = False, frame_mask: Any = None
) -> np.ndarray:
    """Pearson correlation between the series of all pairs of ROIs, over the frames that were measured.

    Frames that are NaN, 0 or copies of each other in every ROI take no part (see [`missing_frames`]).

    Args:
        signals: `(n_rois, n_timepoints)` or `(batch, n_rois, n_timepoints)`, any scale; a correlation has no unit.
        vectorize: return the upper triangle without the diagonal, row by row, `(..., n_rois * (n_rois - 1) / 2)`;
            otherwise the full matrix `(..., n_rois, n_rois)`.
        fisher_z: return `arctanh(r)`, clipped at |r| = 1 - 1e-7; the diagonal of a full matrix is set to 0.
        frame_mask: `(n_timepoints,)`, 0 for frames that were cut, which take no part either; for a batch, one a scan.

    Returns:
        float64 correlations. A constant series has no correlation with anything: its entries are 0.

    Raises:
        ValueError: for another number of axes, fewer than two timepoints, or values that are not finite.
    """
    signals = np.asarray(signals, dtype=np.float64)
    if signals.ndim not in (2, 3) or signals.shape[-1] < 2:
        raise ValueError(
            "functional_connectivity expects (n_rois, n_timepoints) or (batch, n_rois, n_timepoints) with at least "
            f"two timepoints, got shape {signals.shape}."
        )
    if signals.ndim == 3:
        options = {"vectorize": vectorize, "fisher_z": fisher_z}
        masks = [None] * len(signals) if frame_mask is None else frame_mask
        return np.stack(
            [
                functional_connectivity(scan, **options, frame_mask=mask)
                for scan, mask in zip(signals, masks, strict=True)
            ]
        )
    signals = without_cut_frames(signals, frame_mask, "the scan")
    missing = missing_frames(signals)
    if missing is not None and (~missing).sum() >= 2:
        signals = signals[:, ~missing]
    if not np.isfinite(signals).all():
        raise ValueError("signals hold NaN or infinite values; fill or drop those ROIs before correlating.")
    centred = signals - signals.mean(-1, keepdims=True)
    norms = np.linalg.norm(centred, axis=-1, keepdims=True)
    # A constant series keeps a rounding residue after centring; relative to its level that is not signal.
    flat = norms <= 1e-12 * np.sqrt(signals.shape[-1]) * np.abs(signals).max(-1, keepdims=True)
    unit = np.where(flat, 0.0, centred / np.where(flat, 1.0, norms))
    matrix = np.clip(unit @ unit.swapaxes(-1, -2), -1.0, 1.0)
    if fisher_z:
        matrix = np.arctanh(np.clip(matrix, -_HIGHEST_CORRELATION, _HIGHEST_CORRELATION))
        n_rois = matrix.shape[-1]
        matrix[..., np.arange(n_rois), np.arange(n_rois)] = 0.0
    if not vectorize:
        return matrix
    rows, columns = np.triu_indices(matrix.shape[-1], k=1)
    return matrix[..., rows, columns]


# The right edition fits at least twice as well as the other one in 150 series of 40 to 1,000 frames with the
# connectivity of three people of HCP and two groups, where it correlates by 0.17 to 0.6.
_CLEARLY, _LEAST_FIT, _LEAST_FRAMES = 1.4, 0.15, 40
_EDITIONS = ("schaefer400-7net", "schaefer400-17net")


def fit_of_editions(cortex: np.ndarray) -> dict[str, float]:
    """How well the connectivity of 400 rows fits each edition of Schaefer's parcels: which pairs are alike by their
    functional gradients, correlated with which pairs of rows go together.

    Args:
        cortex: (400, n_timepoints); rows that are constant or not finite play no part, nor do frames.

    Returns:
        Edition -> correlation; empty where the data do not allow it.
    """
    series = np.asarray(cortex[::2], dtype=np.float64)  # half of the parcels tell as much as all
    series = series[:, np.isfinite(series).any(axis=0)]
    if series.shape[1] < _LEAST_FRAMES:
        return {}
    good = np.isfinite(series).all(axis=1) & (np.ptp(series, axis=1) > 0)
    if good.sum() * 2 < len(good):
        return {}
    rows, columns = np.triu_indices(int(good.sum()), k=1)
    matrix = np.corrcoef(series[good])[rows, columns]
    fits = {}
    for edition in _EDITIONS:
        gradients = parcel_table("gradients", edition, 10)
        assert gradients is not None
        fits[edition] = float(np.corrcoef(matrix, np.corrcoef(gradients[::2][good])[rows, columns])[0, 1])
    return fits


def contradicted_edition(signals: np.ndarray, roi_order: ROIOrder) -> str:
    """What is wrong with rows that are said to be in one edition of Schaefer's 400 parcels and are in the other, in
    words; nothing where the order has not both editions, or the data do not tell.

    Args:
        signals: (n_rois, n_timepoints).
        roi_order: what its rows are said to be.
    """
    name = resolve_roi_order(roi_order).name or ""
    own = next((edition for edition in _EDITIONS if edition in name.split("+")), None)
    if own is None or "@" in str(roi_order):
        return ""
    parts = name.split("+")
    start = sum(n_rois_of(part) or 0 for part in parts[: parts.index(own)])
    fits = fit_of_editions(signals[start : start + 400])
    other = next(edition for edition in _EDITIONS if edition != own)
    if not fits or fits[other] < max(_LEAST_FIT, _CLEARLY * fits[own]):
        return ""
    return (
        f"the connectivity of its rows is that of {other!r} (r {fits[other]:.2f}) and not of {own!r} (r "
        f"{fits[own]:.2f}), which it is said to be"
    )


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
            missing = missing_frames(signals)
            signals = signals if missing is None else signals[:, ~missing]
            if np.isfinite(signals).all() and signals.shape[1] > 1 and (np.ptp(signals, axis=1) > 0).all():
                used += 1
                yield signals

    gradients = compute_gradients(mean_connectivity(scans()), n_components=n_components)
    if used < len(rows):
        print(f"{len(rows) - used} scans with constant or missing parcels are left out of the gradients")
    return gradients, f"diffusion map of the connectivity of {used} {what}"
