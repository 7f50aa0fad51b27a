"""Batches for masked modeling: windows of scans, and the noise that decides what is hidden."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..seeded_rows import EPOCH, ROW_INDEX, Collator, RowRandomness, without_row_keys


def stack_windows(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows that hold model inputs as arrays of one shape, such as `signals` (n_rois, n_timepoints).

    Floats become float32 and whole numbers int64.

    Raises:
        ValueError: if rows differ in keys or shapes, or hold text.
    """
    batch = {}
    for key in rows[0]:
        try:
            values = np.stack([np.asarray(row[key]) for row in rows])
        except (KeyError, ValueError) as error:
            shapes = [np.shape(row[key]) if key in row else "missing" for row in rows]
            raise ValueError(
                f"Expected {key!r} of one shape in every row, got {shapes[:4]}. Rows must hold windows of one length; "
                "for scans of any length pass a ROISeriesCollator as data_collator."
            ) from error
        if values.dtype.kind not in "fiub":
            raise ValueError(
                f"Expected numbers in {key!r}, got dtype {values.dtype}. Keep only the model's inputs in the dataset, "
                "or pass a ROISeriesCollator as data_collator."
            )
        dtype = np.float32 if values.dtype.kind == "f" else np.int64
        batch[key] = torch.from_numpy(values.astype(dtype, copy=False))
    return batch


class TokenCount:
    """Number of tokens that a model of the ROI families makes of a batch: the length of its masking noise.

    Args:
        config: configuration of the model.
    """

    def __init__(self, config: Any):
        self.patch_size = int(config.patch_size)
        self.grid_size = getattr(config, "grid_size", None)

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> int:
        """`n_rois * n_windows`, or all patches of the padded square for models that read the series as an image."""
        if self.grid_size is not None:
            return int(self.grid_size) ** 2
        n_rois, n_timepoints = batch["signals"].shape[-2:]
        return n_rois * (n_timepoints // self.patch_size)


class MaskedModelingCollator:
    """A collator whose batches also hold `noise`, float32 `(batch, n_tokens)` in [0, 1): tokens with the most are
    hidden.

    The noise of a row is a pure function of seed, epoch and row (see `seeded_rows`), so masks are the same in a
    resumed run, with any number of workers and processes, and in every evaluation.

    Args:
        collator: turns rows into a batch with one window a row; default [`stack_windows`].
        n_tokens: length of the noise, or a function of the batch such as [`TokenCount`].
        seed: seed of the run.
    """

    def __init__(
        self, collator: Collator | None = None, *, n_tokens: int | Callable[[Mapping[str, Any]], int], seed: int
    ):
        self.collator = collator
        self.n_tokens = n_tokens
        self.seed = seed
        self._noise = RowRandomness(seed, "noise")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows of [`SeededRows`].

        Raises:
            ValueError: if the inner collator makes more or fewer windows than there are rows.
        """
        batch = dict(stack_windows(without_row_keys(rows)) if self.collator is None else self.collator(rows))
        for key in (ROW_INDEX, EPOCH):  # collators that make tensors of every key
            batch.pop(key, None)
        size = next(iter(batch.values())).shape[0]
        if size != len(rows):
            raise ValueError(
                f"Expected one window a row, got {size} windows of {len(rows)} rows. Use a collator with window "
                '"random", "first" or "center".'
            )
        n_tokens = self.n_tokens(batch) if callable(self.n_tokens) else self.n_tokens
        noise = np.stack([self._noise(row).random(n_tokens, dtype=np.float32) for row in rows])
        batch["noise"] = torch.from_numpy(noise)
        return batch
