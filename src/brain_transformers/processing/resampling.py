"""Change the repetition time of a scan without folding fast signals into slow ones."""

import functools

import numpy as np

# Zero crossings of the windowed sinc on each side, and the Kaiser window's beta. The same as scipy's resample_poly.
_HALF_WIDTH = 10
_KAISER_BETA = 5.0


def resample_t_r(signals: np.ndarray, t_r: float, new_t_r: float) -> np.ndarray:
    """Resample in time by band-limited (windowed sinc) interpolation, with an anti-alias filter when slowing down.

    Sample 0 stays at time 0; no sample is taken behind the last frame. A constant stays constant, also at the edges,
    where the scan is mirrored.

    Args:
        signals: (n_rois, n_timepoints) float32.
        t_r: repetition time of `signals`, seconds.
        new_t_r: repetition time that is wanted, seconds.

    Returns:
        (n_rois, floor((n_timepoints - 1) * t_r / new_t_r) + 1) float32.
    """
    weights = _weights(signals.shape[1], float(t_r), float(new_t_r))
    return np.ascontiguousarray(signals @ weights)


@functools.lru_cache(maxsize=16)
def _weights(n_timepoints: int, t_r: float, new_t_r: float) -> np.ndarray:
    step = new_t_r / t_r
    # The small constant keeps the last frame when (n - 1) * t_r / new_t_r is whole up to rounding.
    n_new = int(np.floor((n_timepoints - 1) / step + 1e-6)) + 1
    cutoff = min(1.0, 1.0 / step)
    reach = _HALF_WIDTH / cutoff
    positions = np.arange(n_new) * step
    first = np.floor(positions - reach).astype(np.int64)
    taps = first[:, None] + np.arange(int(2 * reach) + 2)[None, :]
    distance = taps - positions[:, None]
    inside = np.abs(distance) <= reach
    kaiser = np.i0(_KAISER_BETA * np.sqrt(np.clip(1.0 - (distance / reach) ** 2, 0.0, None)))
    kernel = np.where(inside, np.sinc(cutoff * distance) * kaiser, 0.0)
    kernel /= kernel.sum(axis=1, keepdims=True)
    # Mirror taps that fall outside the scan; a scan shorter than the kernel is mirrored more than once.
    period = max(2 * (n_timepoints - 1), 1)
    folded = np.abs(taps) % period
    folded = np.where(folded >= n_timepoints, period - folded, folded)
    weights = np.zeros((n_timepoints, n_new))
    np.add.at(weights, (folded, np.broadcast_to(np.arange(n_new)[:, None], folded.shape)), kernel)
    return weights.astype(np.float32)
