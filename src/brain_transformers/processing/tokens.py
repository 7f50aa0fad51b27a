"""Tokens that a series becomes: windows of each parcel, or square patches of the parcel x time image."""

import numpy as np

LAYOUTS = ("roi_time", "image")
MEASURED_SHARE = 0.5
"""Share of the frames that a scan has for a token, of which so many must have been measured for it to count."""
# Side of the padded square of BrainLM's image form, by patch size (27 x 27 and 31 x 31 patches).
_IMAGE_SIDE = {16: 432, 14: 434}


def image_side(image_size: int | None, patch_size: int, n_rois: int, n_timepoints: int) -> int:
    """Side of the square image that a series of this size is put into.

    Raises:
        ValueError: if it is no multiple of the patches, or the series does not fit.
    """
    image_size = _IMAGE_SIDE.get(patch_size) if image_size is None else image_size
    if not isinstance(image_size, int) or not 0 < image_size <= 2**14 or image_size % patch_size:
        raise ValueError(
            f"Expected image_size to be a multiple of patch_size {patch_size}, got {image_size}. "
            "Released models use patches of 16 on 432 or of 14 on 434; pass image_size for others."
        )
    if n_rois > image_size or n_timepoints > image_size:
        raise ValueError(f"{n_rois} ROIs x {n_timepoints} timepoints do not fit in an image of {image_size}.")
    return image_size


def _enough(observed: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Whether enough was measured of the frames on the last axis that are inside of the scan."""
    n_inside = inside.sum(axis=-1)
    return (n_inside > 0) & (observed.sum(axis=-1) >= MEASURED_SHARE * n_inside)


def series_token_mask(
    observed: np.ndarray, inside: np.ndarray, patch_size: int, n_rois: int, hidden: np.ndarray | None = None
) -> np.ndarray:
    """(n_windows, n_tokens) int64: tokens, ROI-major, of whose frames at least `MEASURED_SHARE` was measured.

    Args:
        observed: (n_windows, n_timepoints) bool, timepoints that were measured.
        inside: the same shape, timepoints that the scan has; the others are padding behind it.
        patch_size: timepoints of a token.
        n_rois: parcels.
        hidden: (n_rois,) bool, parcels of which nothing was, or `None`.
    """
    shape = (len(observed), -1, patch_size)
    of_windows = _enough(observed.reshape(shape), inside.reshape(shape))
    mask = np.repeat(of_windows[:, None, :], n_rois, axis=1)
    if hidden is not None:
        mask[:, hidden] = False
    return mask.reshape(len(observed), -1).astype(np.int64)


def image_token_mask(observed: np.ndarray, inside: np.ndarray, patch_size: int, image_size: int) -> np.ndarray:
    """(n_windows, n_tokens) int64: patches of the image of whose frames at least `MEASURED_SHARE` was measured.

    The constant border of the image is part of every training image and stays visible.
    """
    n_timepoints = observed.shape[1]
    side, left = image_size // patch_size, (image_size - n_timepoints) // 2
    visible = np.ones((len(observed), side), dtype=bool)
    for column in range(side):
        low, high = max(column * patch_size - left, 0), min((column + 1) * patch_size - left, n_timepoints)
        if low < high:
            visible[:, column] = _enough(observed[:, low:high], inside[:, low:high])
    return np.repeat(visible[:, None, :], side, axis=1).reshape(len(observed), -1).astype(np.int64)
