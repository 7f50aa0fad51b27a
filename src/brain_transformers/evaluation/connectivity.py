"""Functional connectivity: the reference that an embedding of a resting-state scan has to be compared with."""

import numpy as np

from ..processing.missing import missing_frames


def functional_connectivity(signals: np.ndarray, *, vectorize: bool = True, fisher_z: bool = False) -> np.ndarray:
    """Pearson correlation between the series of all pairs of ROIs, over the frames that were measured.

    Frames that are NaN, 0 or copies of each other in every ROI take no part (see [`missing_frames`]).

    Args:
        signals: `(n_rois, n_timepoints)` or `(batch, n_rois, n_timepoints)`, any scale; a correlation has no unit.
        vectorize: return the upper triangle without the diagonal, row by row, `(..., n_rois * (n_rois - 1) / 2)`;
            otherwise the full matrix `(..., n_rois, n_rois)`.
        fisher_z: return `arctanh(r)`, clipped at |r| = 1 - 1e-7; the diagonal of a full matrix is set to 0.

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
        return np.stack([functional_connectivity(scan, **options) for scan in signals])
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
        matrix = np.arctanh(np.clip(matrix, -1 + 1e-7, 1 - 1e-7))
        n_rois = matrix.shape[-1]
        matrix[..., np.arange(n_rois), np.arange(n_rois)] = 0.0
    if not vectorize:
        return matrix
    rows, columns = np.triu_indices(matrix.shape[-1], k=1)
    return matrix[..., rows, columns]
