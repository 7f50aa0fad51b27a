"""Rows that know their index and epoch, and the order of an epoch; see `data.row_randomness` for what they are for."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch.utils.data import Dataset, Sampler

from ..data.row_kinds import NumpyRows
from ..data.row_randomness import EPOCH, EVALUATION_EPOCH, ROW_INDEX, epoch_order


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
        self.dataset, self._rows = dataset, NumpyRows.of(dataset)

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
        row = dict(self._rows[index])
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
        order = epoch_order(self.n_rows, self.seed, epoch, self.shuffle)
        return (RowKey(epoch, index) for index in order.tolist())
