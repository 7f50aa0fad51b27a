"""Randomness that belongs to a row: a pure function of (seed, epoch, row index), whoever computes it and whenever.

Dataloaders fetch ahead, workers have generators of their own, and several processes share the rows of one batch, so
the state of a global generator says nothing about what a row will see. Here the sampler, which runs in the main
process, hands out (epoch, row) pairs; the dataset passes them on inside the row; and whoever draws for a row (window
start, masking noise) makes a generator from them. A resumed run therefore draws what an uninterrupted one would have
drawn, with any number of workers, persistent or not, and with any number of processes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Sampler

ROW_INDEX = "__row_index__"
EPOCH = "__epoch__"
EVALUATION_EPOCH = -1
"""Epoch of rows that were asked for by plain index, as evaluation does: their randomness is always the same."""

_PURPOSES = {"order": 0, "window": 1, "noise": 2, "view": 3, "mask": 4}


class RowKey(NamedTuple):
    """What the sampler hands to the dataset: which row, in which epoch."""

    epoch: int
    row: int


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


class SeededRows(Dataset):
    """A dataset whose rows know their index and epoch, under the keys `ROW_INDEX` and `EPOCH`.

    Args:
        dataset: map-style dataset of dict rows; a `datasets.Dataset` without a format is read in numpy format.

    Raises:
        TypeError: if the dataset has no length or cannot be indexed.
    """

    def __init__(self, dataset: Any):
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"Expected a dataset with a length that can be indexed, got {type(dataset).__name__}. The randomness "
                "of a row follows from its index, so streaming datasets are not supported: save them to disk and load "
                "them from there."
            )
        format_of = getattr(dataset, "format", None)
        if isinstance(format_of, dict) and format_of.get("type") is None:
            # A `datasets.Dataset` would give Python lists, which takes ten to forty times longer.
            dataset = dataset.with_format("numpy")
        self.dataset = dataset

    @classmethod
    def wrap(cls, dataset: Any) -> Any:
        """`dataset` with seeded rows; `None`, wrapped ones and names stay as they are, dicts are wrapped inside."""
        if dataset is None or isinstance(dataset, (cls, str)):
            return dataset
        if isinstance(dataset, dict):
            return {name: cls.wrap(part) for name, part in dataset.items()}
        return cls(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: RowKey | int) -> dict[str, Any]:
        epoch, index = key if isinstance(key, tuple) else (EVALUATION_EPOCH, int(key))
        row = dict(self.dataset[index])
        row[ROW_INDEX], row[EPOCH] = index, epoch
        return row


class EpochSampler(Sampler[RowKey]):
    """Every row once an epoch, in an order that follows from (seed, epoch).

    Args:
        n_rows: length of the dataset.
        seed: seed of the run.
        shuffle: `False` keeps the order of the dataset.
    """

    def __init__(self, n_rows: int, seed: int, shuffle: bool = True):
        self.n_rows = n_rows
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; accelerate's dataloaders call this too."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[RowKey]:
        epoch = self.epoch
        order = np.arange(self.n_rows)
        if self.shuffle:
            order = row_generator(self.seed, epoch, 0, "order").permutation(self.n_rows)
        return (RowKey(epoch, index) for index in order.tolist())


def without_row_keys(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without `ROW_INDEX` and `EPOCH`, for collators that would make tensors of every key."""
    return [{key: value for key, value in row.items() if key not in (ROW_INDEX, EPOCH)} for row in rows]


Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Rows to a batch of tensors, keyed by the model's input names."""
