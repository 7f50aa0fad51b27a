"""A generator for each row of a dataset: a pure function of (seed, epoch, row index), whoever draws and whenever.

Dataloaders fetch ahead, workers have generators of their own, and several processes share the rows of one batch, so
the state of a global generator says nothing about what a row will see. Here the sampler, which runs in the main
process, hands out (epoch, row) pairs; the dataset passes them on inside the row; and whoever draws for a row (window
start, masking noise) makes a generator from them. A resumed run therefore draws what an uninterrupted one would have
drawn, with any number of workers, persistent or not, and with any number of processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def epoch_order(n_rows: int, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
    """Rows of a dataset in the order of an epoch; `shuffle=False` keeps that of the dataset."""
    return row_generator(seed, epoch, 0, "order").permutation(n_rows) if shuffle else np.arange(n_rows)


def row_key(row: Mapping[str, Any]) -> tuple[int, int]:
    """(epoch, index) of a row.

    Raises:
        ValueError: if the row does not come from [`brain_transformers.training.SeededRows`].
    """
    if ROW_INDEX not in row:
        raise ValueError(
            "Expected a row with its index and epoch, got one without. Wrap the dataset in "
            "brain_transformers.training.SeededRows (the Trainers of this package do so)."
        )
    return int(row[EPOCH]), int(row[ROW_INDEX])


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
        """Generator for `row`; raises ValueError as [`row_key`] does."""
        return row_generator(self.seed, *row_key(row), self.purpose)


@dataclass(frozen=True)
class SeededDraws:
    """What the masks of a batch are drawn from; see [`brain_transformers.models.batch_draws.BatchDraws`].

    Attributes:
        seed: of the run.
        keys: (epoch, index) of each row of this process.
        size: rows that all processes together see in this forward pass.
        slots: places of the rows of this process among them.
        number: of the batch in its epoch.
        call_index: batches before it, over all epochs.
    """

    seed: int
    keys: Sequence[tuple[int, int]]
    size: int
    slots: np.ndarray
    number: int = 0
    call_index: int = 0

    @classmethod
    def of_one_batch(cls, n_rows: int, seed: int) -> "SeededDraws":
        """Draws for one batch that belongs to no run, as a function of the seed."""
        return cls(seed, [(0, row) for row in range(n_rows)], n_rows, np.arange(n_rows), call_index=seed)

    def of_rows(self, purpose: str) -> list[np.random.Generator]:
        """A generator for each row of this process."""
        return [row_generator(self.seed, epoch, index, purpose) for epoch, index in self.keys]

    def of_batch(self, purpose: str) -> np.random.Generator:
        """A generator for the batch, the same on all processes."""
        # Index 0 of "order" is the order of the epoch; those above it belong to its batches.
        return row_generator(self.seed, self.keys[0][0], self.number + (purpose == "order"), purpose)


class BatchNumbers:
    """Which batch of its epoch rows belong to, for what all rows of a batch share on all processes.

    Args:
        seed: seed of the run.
        n_rows: rows of the training set; 0 if unknown, or if rows are not shuffled over it.
        rows_per_batch, eval_rows_per_batch: rows that all processes together see in one forward pass; 0 if unknown:
            each call is a batch then, with the number of its first row.
        shuffle: whether training rows are shuffled (by [`EpochSampler`]).
        first_slot: place in a batch of this process's first row, where several processes share batches.
    """

    def __init__(
        self,
        seed: int,
        n_rows: int = 0,
        *,
        rows_per_batch: int = 0,
        eval_rows_per_batch: int = 0,
        shuffle: bool = True,
        first_slot: int | None = None,
    ):
        self.seed, self.n_rows, self.shuffle, self.first_slot = seed, n_rows, shuffle, first_slot
        self.rows_per_batch, self.eval_rows_per_batch = rows_per_batch, eval_rows_per_batch
        self._places: tuple[int, np.ndarray] | None = None

    def place(self, epoch: int, index: int) -> int:
        """Position of a row in the order of its epoch."""
        if epoch == EVALUATION_EPOCH or not self.n_rows or not self.shuffle:
            return index
        if self._places is None or self._places[0] != epoch:
            self._places = (epoch, np.argsort(epoch_order(self.n_rows, self.seed, epoch)))
        return int(self._places[1][index])

    def draws(self, rows: Sequence[Mapping[str, Any]]) -> SeededDraws:
        """What the masks of `rows`, this process's part of a batch, are drawn from.

        accelerate fills the last batch of an epoch up with rows from its beginning, so the rows of a process may all
        be of an earlier batch. They begin at another slot then, by which the last batch is known; they take the masks
        of their old slots.

        Raises:
            ValueError: if rows do not come from [`brain_transformers.training.SeededRows`].
        """
        keys = [row_key(row) for row in rows]
        epoch, places = keys[0][0], [self.place(*key) for key in keys]
        size = self.eval_rows_per_batch if epoch == EVALUATION_EPOCH else self.rows_per_batch
        if not size:
            return SeededDraws(self.seed, keys, len(rows), np.arange(len(rows)), places[0], places[0])
        number, slots = places[0] // size, np.array(places) % size
        if epoch == EVALUATION_EPOCH:
            return SeededDraws(self.seed, keys, size, slots, number, number)
        if self.n_rows and self.first_slot not in (None, slots[0]):
            number = (self.n_rows - 1) // size
        before = epoch * -(-self.n_rows // size)
        return SeededDraws(self.seed, keys, size, slots, number, before + number)
