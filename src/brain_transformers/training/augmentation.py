"""Random changes of windows in training: parcels and time set to 0, noise, scale.

Source: Brain-Semantoks (Gijsen et al., ICLR 2026), released training code.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]
_NOTHING: Range = (0.0, 0.0)
# Level -> share of parcels set to 0, share of the window set to 0, noise, scale.
AUGMENTATION_LEVELS: dict[int, tuple[Range, Range, float, Range]] = {
    0: (_NOTHING, _NOTHING, 0.0, (1.0, 1.0)),
    1: ((0.0, 0.1), (0.0, 0.3), 0.1, (0.8, 1.2)),
    2: ((0.1, 0.3), (0.2, 0.4), 0.2, (0.6, 1.4)),
    3: ((0.25, 0.5), (0.3, 0.6), 0.4, (0.4, 1.6)),
}
FINETUNING_AUGMENTATION = (0, 1, 1, 1)


@dataclass(frozen=True)
class Augmentation:
    """What is done to one window, in this order: parcels to 0, a block of time to 0, scale, noise everywhere.

    Attributes:
        zero_rois: parcels that are set to 0.
        block: first timepoint and length of the block that is set to 0.
        scale: factor.
        noise: `(n_rois, n_timepoints)`, added last, also where the signal was set to 0; or `None`.
    """

    zero_rois: np.ndarray
    block: tuple[int, int] = (0, 0)
    scale: float = 1.0
    noise: np.ndarray | None = None

    def __call__(self, signals: np.ndarray) -> np.ndarray:
        """A changed copy of `(n_rois, n_timepoints)`, float32."""
        output = np.array(signals, dtype=np.float32)
        output[self.zero_rois] = 0.0
        start, length = self.block
        output[:, start : start + length] = 0.0
        output *= np.float32(self.scale)
        if self.noise is not None:
            output += self.noise.astype(np.float32, copy=False)
        return output


def check_levels(levels: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Four augmentation levels (spatial, temporal, noise, scale); one number stands for all.

    Raises:
        ValueError: unless they are one or four numbers from 0 to 3.
    """
    values = (levels,) * 4 if isinstance(levels, int) else tuple(levels)
    if len(values) != 4 or any(value not in AUGMENTATION_LEVELS for value in values):
        raise ValueError(
            f"Expected one or four augmentation levels from {sorted(AUGMENTATION_LEVELS)} (parcels, time, noise, "
            f"scale), got {levels!r}."
        )
    return values[0], values[1], values[2], values[3]


def draw_augmentation(
    levels: int | Sequence[int], n_rois: int, n_timepoints: int, rng: np.random.Generator
) -> Augmentation:
    """Draw an augmentation; see [`AUGMENTATION_LEVELS`]."""
    spatial, temporal, noise, scale = check_levels(levels)
    roi_range, time_range = AUGMENTATION_LEVELS[spatial][0], AUGMENTATION_LEVELS[temporal][1]
    deviation, scale_range = AUGMENTATION_LEVELS[noise][2], AUGMENTATION_LEVELS[scale][3]
    roi_ratio, time_ratio, factor = (rng.uniform(*limits) for limits in (roi_range, time_range, scale_range))
    zero_rois = np.zeros(0, dtype=np.int64)
    if spatial:
        zero_rois = rng.choice(n_rois, zeroed_count(n_rois, roi_ratio), replace=False)
    block = (0, 0)
    if temporal:
        length = zeroed_count(n_timepoints, time_ratio)
        block = (int(rng.integers(0, n_timepoints - length + 1)), length)
    values = None
    if deviation:
        values = rng.standard_normal((n_rois, n_timepoints), dtype=np.float32) * np.float32(deviation)
    return Augmentation(zero_rois, block, float(factor), values)


def zeroed_count(size: int, ratio: float) -> int:
    """How many of `size` parcels or timepoints a share of `ratio` sets to 0: at least 1."""
    return max(1, int(size * ratio))


def augmenter(levels: int | Sequence[int]) -> Callable[[np.ndarray, np.random.Generator], np.ndarray] | None:
    """What a [`brain_transformers.ScanCollator`] takes as `augment`; `None` where all levels are 0."""
    checked = check_levels(levels)
    return functools.partial(_augment, checked) if any(checked) else None


def _augment(levels: Sequence[int], window: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return draw_augmentation(levels, window.shape[0], window.shape[1], rng)(window)
