"""Which frames of a scan are used: evenly spaced windows, and single frames as Brain-JEPA's data code picks them."""

import numpy as np


def sampled_frames(n_frames: int, start: float, n_sampled: int, sampling_rate: int) -> np.ndarray:
    """Frames of a window: `n_sampled` of them, evenly spaced from `start` over `sampling_rate * n_sampled` frames.

    Positions are spaced in float32 by `torch.linspace`, cut to the recording and rounded down; nothing is
    interpolated. With rate 3 and 160 frames the step is 479/159 frames.

    Args:
        n_frames: frames of the recording. A window that reaches past its end repeats the last frame.
        start: first position, in frames; need not be whole.
        n_sampled: frames of the window.
        sampling_rate: frames of the recording for each of the window.

    Returns:
        (n_sampled,) int64.
    """
    import torch  # its float32 rounding decides about one frame in some hundred thousand

    positions = torch.linspace(start, start + sampling_rate * n_sampled - 1, n_sampled)
    return positions.clamp(0, n_frames - 1).long().numpy()


def frame_step(n_sampled: int, sampling_rate: int) -> float:
    """Distance of neighbouring sampled frames, in frames of the recording."""
    return (sampling_rate * n_sampled - 1) / max(n_sampled - 1, 1)


def regular_starts(last: int, n_windows: int) -> np.ndarray:
    """Evenly spaced starts of windows from 0 to `last`, rounded down; int64 `(n_windows,)`."""
    return np.linspace(0, last, n_windows).astype(np.int64)
