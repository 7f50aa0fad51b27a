"""Temporal band-pass filter of parcellated scans."""

from collections.abc import Sequence

import numpy as np

from ..optional import require
from .missing import bridged


def check_band(band: Sequence[float] | None) -> list[float] | None:
    """`band` as `[low, high]` in Hz, or `None`.

    Raises:
        ValueError: unless it is two ascending positive numbers.
    """
    if band is None:
        return None
    try:
        low, high = (float(value) for value in band)
    except (TypeError, ValueError, OverflowError):
        low = high = 0.0
    if not 0 < low < high or high == float("inf"):
        raise ValueError(f"Expected band_pass to be [low, high] in Hz with 0 < low < high, got {band!r:.80}.")
    return [low, high]


def band_pass_filter(signals: np.ndarray, t_r: float, band: Sequence[float], order: int = 5) -> np.ndarray:
    """Butterworth band-pass, forward and backward, so that nothing is shifted in time.

    The mean is removed with everything below the band. NaN and infinite values are bridged linearly for the filter and
    are NaN again afterwards; parcels without any finite value stay NaN.

    Args:
        signals: (n_rois, n_timepoints).
        t_r: repetition time, seconds.
        band: low and high edge, Hz.
        order: of the filter; 5 as in the walkthrough of Brain-Semantoks.

    Returns:
        float32 (n_rois, n_timepoints).

    Raises:
        ValueError: if the band lies outside what this repetition time can hold.
        ImportError: without scipy (extra `data`).
    """
    low, high = check_band(band) or (0.0, 0.0)
    nyquist = 0.5 / t_r
    if high >= nyquist:
        raise ValueError(
            f"Expected band_pass below {nyquist:.4g} Hz, half the sampling rate at t_r {t_r:g} s, got {high:g}. Lower "
            "the upper edge."
        )
    processing = require("scipy.signal", extra="data", purpose="band-pass filtering")
    values = np.array(signals, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        values = bridged(values, finite)
    sections = processing.butter(order, [low, high], btype="bandpass", fs=1.0 / t_r, output="sos")
    padding = min(3 * (2 * len(sections) + 1), values.shape[1] - 1)
    filtered = processing.sosfiltfilt(sections, values, axis=1, padlen=padding).astype(np.float32)
    filtered[~finite] = np.nan
    return filtered
