"""A generator for each row of a dataset: a pure function of (seed, epoch, row index), whoever draws and whenever."""

from collections.abc import Mapping
from typing import Any

import numpy as np

ROW_INDEX = "__row_index__"
EPOCH = "__epoch__"
EVALUATION_EPOCH = -1
"""Epoch of rows that were asked for by plain index, as evaluation does: their randomness is always the same."""

_PURPOSES = {"order": 0, "window": 1, "noise": 2, "view": 3, "mask": 4}


def row_generator(seed: int, epoch: int, index: int, purpose: str) -> np.random.Generator:
    """Generator (Philox) for one use of one row in one epoch.

    Uses with different `purpose` are independent, so that a change in how many numbers one of them draws leaves the
    others alone.

    Args:
        seed: seed of the run, at least 0.
        epoch: 0-based epoch, or `EVALUATION_EPOCH`.
        index: row of the dataset.
        purpose: `"window"`, `"noise"`, `"view"`, `"mask"`, or `"order"` (order of the rows, with `index=0`).

    Raises:
        ValueError: for an unknown purpose.
    """
    if purpose not in _PURPOSES:
        raise ValueError(f"Expected purpose to be one of {sorted(_PURPOSES)}, got {purpose!r}.")
    # One is added because a spawn key holds non-negative numbers only.
    sequence = np.random.SeedSequence(seed, spawn_key=(_PURPOSES[purpose], epoch - EVALUATION_EPOCH, index))
    return np.random.Generator(np.random.Philox(sequence))


class RowRandomness:
    """Makes the generator for a row of [`SeededRows`]; give it to a collator as its `rng_for_row`.

    Args:
        seed: seed of the run.
        purpose: see [`row_generator`].
    """

    def __init__(self, seed: int, purpose: str):
        self.seed = seed
        self.purpose = purpose
        row_generator(seed, 0, 0, purpose)  # so that a wrong purpose or seed fails here and not in a worker

    def __call__(self, row: Mapping[str, Any]) -> np.random.Generator:
        """Generator for `row`.

        Raises:
            ValueError: if the row does not come from [`SeededRows`].
        """
        if ROW_INDEX not in row:
            raise ValueError(
                "Expected a row with its index and epoch, got one without. Wrap the dataset in "
                "brain_transformers.training.SeededRows (the Trainers of this package do so)."
            )
        return row_generator(self.seed, int(row[EPOCH]), int(row[ROW_INDEX]), self.purpose)
