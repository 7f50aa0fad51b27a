"""The preprocessing of the Brain-Semantoks authors, as functions, and their draws of masks.

Golden cases hold what the authors' code gave; the package itself goes by `SemantoksHDF5Builder` and the extractor.
Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, released training code.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch

from brain_transformers.models.brain_semantoks.masking_brain_semantoks import MaskDraws

_EPS = 1e-8


def published_recording(
    signals: np.ndarray, length: int, source_t_r: float = 2.0, target_t_r: float | None = None
) -> tuple[np.ndarray, int]:
    """The authors' preprocessing of a whole scan.

    z-score per parcel without NaN, linear resampling if a repetition time is wanted, and a cut at the first NaN of
    parcel 0. (Timepoints behind `ts_len` take part in the z-score and stay in the series.)

    Args:
        signals: `(n_rois, n_timepoints)`.
        length: `ts_len`, or `n_timepoints`.
        source_t_r, target_t_r: seconds.

    Returns:
        float32 signals and the length that crops are drawn from.
    """
    signals = signals.astype(np.float32)
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(signals).all(axis=1)
        values = np.where(known[:, None], signals, 0.0).astype(np.float32)
        mean = np.nanmean(values, axis=1, keepdims=True)
        spread = np.nanstd(values, axis=1, keepdims=True)
    scaled = (signals - mean) / (spread + np.float32(_EPS))
    if target_t_r is not None:
        ratio = source_t_r / target_t_r
        n_old, n_new = scaled.shape[1], int(scaled.shape[1] * ratio)
        places = np.arange(n_new) / ratio
        # A place on a sample belongs to the interval before it, so that the last sample before a gap is kept; beyond
        # the last sample the last slope goes on.
        left = np.clip(np.ceil(places).astype(np.int64) - 1, 0, max(n_old - 2, 0))
        fraction = places - left
        right = np.minimum(left + 1, n_old - 1)
        scaled = (scaled[:, left] + (scaled[:, right] - scaled[:, left]) * fraction).astype(np.float32)
        length = int(length * ratio)
    gaps = np.flatnonzero(np.isnan(scaled[0]))
    if gaps.size:
        scaled, length = scaled[:, : gaps[0]], int(gaps[0])
    return scaled.astype(np.float32, copy=False), length


def published_crop(signals: np.ndarray, length: int, start: int, n_timepoints: int) -> np.ndarray:
    """The authors' crop: from `start`, or from 0 with zeros behind it where the scan is shorter than the crop.

    Returns:
        float32 `(n_rois, n_timepoints)`.
    """
    if length < n_timepoints:
        signals, start = np.pad(signals, ((0, 0), (0, n_timepoints - length))), 0
    return signals[:, start : start + n_timepoints]


class PublishedDraws(MaskDraws):
    """The same numbers as the authors' training code draws after seeding Python and torch with `seed`."""

    def __init__(self, seed: int):
        self.python = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def temporal_first(self) -> bool:
        return self.python.choice((True, False))

    def ratio(self, low: float, high: float) -> float:
        return self.python.uniform(low, high)

    def start(self, last: int) -> int:
        return self.python.randint(0, last)

    def networks(self, n_networks: int) -> Sequence[int]:
        return torch.randperm(n_networks, generator=self.torch).tolist()

    def count(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self.torch))
