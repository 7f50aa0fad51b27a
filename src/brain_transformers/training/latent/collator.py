"""Batches for latent prediction: windows of scans, and the masks that say what is seen and what is predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...models.brain_jepa.masking_brain_jepa import BlockMasks, MaskScales, balanced_masks, published_masks
from ..masked.collator import stack_windows
from ..seeded_rows import EPOCH, EVALUATION_EPOCH, ROW_INDEX, BatchNumbers, Collator, row_generator, without_row_keys


class BlockMaskCollator:
    """A collator whose batches also hold `context_indices` and `target_indices` of Brain-JEPA.

    The sizes of the blocks, and the lengths that contexts and targets are cut to, belong to a batch and not to a row.
    So that they do not depend on how a batch is spread over processes, masks are made for all rows that the processes
    see at the same time, as a pure function of seed, epoch and number of that batch; every process makes the same and
    takes those of its rows. Resumed runs, workers and processes therefore see the same masks.

    Args:
        collator: turns rows into a batch with one window a row; default [`stack_windows`].
        config: configuration of the model: patch size, number of ROIs, and scales of the blocks.
        seed: seed of the run.
        n_rows: rows of the training set.
        rows_per_batch: rows that all processes together see in one forward pass of training.
        eval_rows_per_batch: the same in evaluation, where the order is that of the dataset.
        shuffle: whether training rows are shuffled (by [`EpochSampler`]).
        rule: `"balanced"` or `"published"`; by default that of the configuration.
        first_slot: place in a batch of this process's first row, where several processes share batches.
    """

    makes_masks = True

    def __init__(
        self,
        collator: Collator | None,
        config: Any,
        *,
        seed: int,
        n_rows: int,
        rows_per_batch: int,
        eval_rows_per_batch: int,
        shuffle: bool = True,
        rule: str | None = None,
        first_slot: int | None = None,
    ):
        self.collator = collator
        self.scales = MaskScales.from_config(config)
        self.patch_size, self.n_rois = int(config.patch_size), int(config.n_rois)
        self.rule = rule or config.mask_rule
        if self.rule not in ("balanced", "published"):
            raise ValueError(f"Expected rule 'balanced' or 'published', got {self.rule!r}.")
        self.seed = seed
        self.batches = BatchNumbers(
            n_rows,
            seed,
            rows_per_batch=rows_per_batch,
            eval_rows_per_batch=eval_rows_per_batch,
            shuffle=shuffle,
            first_slot=first_slot,
        )

    def masks_of_batch(self, epoch: int, number: int, n_windows: int) -> BlockMasks:
        """Masks of all rows of batch `number` of an epoch."""
        evaluating = epoch == EVALUATION_EPOCH
        size = self.batches.size(epoch)
        rng = row_generator(self.seed, epoch, number, "mask")
        if self.rule == "balanced":
            return balanced_masks(size, self.n_rois, n_windows, self.scales, rng=rng)
        batches = -(-self.batches.n_rows // self.batches.rows_per_batch)
        call_index = number if evaluating else epoch * batches + number
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return published_masks(size, self.n_rois, n_windows, self.scales, call_index=call_index, generator=generator)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows of `SeededRows`.

        Raises:
            ValueError: if rows do not know their index, or the inner collator makes more or fewer windows than rows.
        """
        if any(ROW_INDEX not in row for row in rows):
            raise ValueError(
                "Expected rows with their index and epoch, got some without. Wrap the dataset in "
                "brain_transformers.training.SeededRows (the Trainers of this package do so)."
            )
        batch = dict(stack_windows(without_row_keys(rows)) if self.collator is None else self.collator(rows))
        for key in (ROW_INDEX, EPOCH):  # collators that make tensors of every key
            batch.pop(key, None)
        size = batch["signals"].shape[0]
        if size != len(rows):
            raise ValueError(
                f"Expected one window a row, got {size} windows of {len(rows)} rows. Use a collator with window "
                '"random", "first" or "center".'
            )
        epoch = int(rows[0][EPOCH])
        n_windows = batch["signals"].shape[2] // self.patch_size
        masks = self.masks_of_batch(epoch, self.batches.number(rows), n_windows)
        # Rows that fill up the last batch of an epoch come from its start; they take the masks of their old slots.
        slots = torch.tensor([self.batches.place(row) % self.batches.size(epoch) for row in rows])
        batch["context_indices"] = masks.context_indices[slots]
        batch["target_indices"] = masks.target_indices[slots]
        return batch
