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

from ..data.row_randomness import EPOCH, EVALUATION_EPOCH, ROW_INDEX, RowRandomness, row_generator

__all__ = [
    "EPOCH",
    "EVALUATION_EPOCH",
    "ROW_INDEX",
    "BatchNumbers",
    "Collator",
    "EpochSampler",
    "RowKey",
    "RowRandomness",
    "SeededRows",
    "row_generator",
    "without_row_keys",
]


class RowKey(NamedTuple):
    """What the sampler hands to the dataset: which row, in which epoch."""

    epoch: int
    row: int


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
        return self.keys(self.epoch)

    def keys(self, epoch: int) -> Iterator[RowKey]:
        """The rows of an epoch in its order."""
        order = np.arange(self.n_rows)
        if self.shuffle:
            order = row_generator(self.seed, epoch, 0, "order").permutation(self.n_rows)
        return (RowKey(epoch, index) for index in order.tolist())


class BatchNumbers:
    """Which batch of its epoch rows belong to, for what all rows of a batch share on all processes.

    Args:
        n_rows: rows of the training set; 0 if unknown, or if rows are not shuffled over it.
        seed: seed of the run.
        rows_per_batch, eval_rows_per_batch: rows that all processes together see in one forward pass.
        shuffle: whether training rows are shuffled (by [`EpochSampler`]).
        first_slot: place in a batch of this process's first row, where several processes share batches.
    """

    def __init__(
        self,
        n_rows: int,
        seed: int,
        *,
        rows_per_batch: int,
        eval_rows_per_batch: int,
        shuffle: bool,
        first_slot: int | None = None,
    ):
        self.n_rows, self.seed, self.shuffle, self.first_slot = n_rows, seed, shuffle, first_slot
        self.rows_per_batch, self.eval_rows_per_batch = rows_per_batch, eval_rows_per_batch
        self._places: tuple[int, np.ndarray] | None = None

    def size(self, epoch: int) -> int:
        """Rows of a batch."""
        return self.eval_rows_per_batch if epoch == EVALUATION_EPOCH else self.rows_per_batch

    def place(self, row: Mapping[str, Any]) -> int:
        """Position of a row in the order of its epoch."""
        epoch, index = int(row[EPOCH]), int(row[ROW_INDEX])
        if epoch == EVALUATION_EPOCH or not self.n_rows or not self.shuffle:
            return index
        if self._places is None or self._places[0] != epoch:
            order = [key.row for key in EpochSampler(self.n_rows, self.seed).keys(epoch)]
            self._places = (epoch, np.argsort(order))
        return int(self._places[1][index])

    def number(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Number of the batch that `rows` are this process's part of.

        accelerate fills the last batch of an epoch up with rows from its beginning, so the rows of a process may all
        be of an earlier batch. They begin at another slot then, by which the last batch is known.
        """
        epoch, place = int(rows[0][EPOCH]), self.place(rows[0])
        size = self.size(epoch)
        if epoch != EVALUATION_EPOCH and self.n_rows and self.first_slot not in (None, place % size):
            return (self.n_rows - 1) // size
        return place // size


def without_row_keys(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows without `ROW_INDEX` and `EPOCH`, for collators that would make tensors of every key."""
    return [{key: value for key, value in row.items() if key not in (ROW_INDEX, EPOCH)} for row in rows]


Collator = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Rows to a batch of tensors, keyed by the model's input names."""
