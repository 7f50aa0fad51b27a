"""Batches for self-distillation: two augmented crops of each scan, and what the student does not see of them.

Source: Brain-Semantoks (Gijsen et al., ICLR 2026), released training code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...data.collators import ROISeriesCollator
from ...models.brain_semantoks.configuration_brain_semantoks import BrainSemantoksConfig
from ...models.brain_semantoks.masking_brain_semantoks import (
    NumpyDraws,
    draw_mask,
    expand_functional_mask,
    functional_network_mapping,
)
from ...models.brain_semantoks.networks_brain_semantoks import networks_of_parcels
from ...processing.roi_series import ROISeriesFeatureExtractor
from ..seeded_rows import EPOCH, ROW_INDEX, BatchNumbers, Collator, row_generator, without_row_keys

Range = tuple[float, float]
_NOTHING: Range = (0.0, 0.0)
# Level -> share of parcels set to 0, share of the window set to 0, noise, scale.
AUGMENTATION_LEVELS: dict[int, tuple[Range, Range, float, Range]] = {
    0: (_NOTHING, _NOTHING, 0.0, (1.0, 1.0)),
    1: ((0.0, 0.1), (0.0, 0.3), 0.1, (0.8, 1.2)),
    2: ((0.1, 0.3), (0.2, 0.4), 0.2, (0.6, 1.4)),
    3: ((0.25, 0.5), (0.3, 0.6), 0.4, (0.4, 1.6)),
}
PRETRAINING_AUGMENTATION = (1, 1, 1, 1)
FINETUNING_AUGMENTATION = (0, 1, 1, 1)


@dataclass(frozen=True)
class Augmentation:
    """What is done to one crop, in this order: parcels to 0, a block of time to 0, scale, noise everywhere.

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
    """Draw an augmentation; see [`AUGMENTATION_LEVELS`].

    Args:
        levels: of parcels, time, noise and scale.
        n_rois, n_timepoints: size of the crop.
        rng: generator of the row.
    """
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


class TwoViewCollator:
    """Makes `signals` `(batch, 2, n_rois, n_timepoints)` and, for masked batches, `bool_masked_pos`.

    Crops, augmentations and masks of a row are pure functions of seed, epoch and row. Whether a batch is masked at all
    follows from seed, epoch and its number, and several processes that share a batch agree on it.

    Args:
        config: configuration of the model: size of the masks and how they are drawn.
        seed: seed of the run.
        collator: makes a batch with one window a row from rows, and takes a generator by row as `rng_for_row`; for
            scans. `None`: rows hold `signals` `(2, n_rois, n_timepoints)` already, and they are augmented like crops.
        augmentation: levels, see [`AUGMENTATION_LEVELS`]; in evaluation nothing is augmented.
        n_rows: rows of the training set, `rows_per_batch`: those of a batch over all processes; they tell the number
            of a batch. With `n_rows=0` every row counts as a batch of its own.
        eval_rows_per_batch: the same in evaluation.
        shuffle: whether the order of rows is drawn anew in each epoch.
        first_slot: place in a batch of this process's first row, where several processes share batches.
        masking_frequency: probability that a batch is masked; by default that of `config`.
        canonical_masks: draw masks over the networks of the 7-network edition and copy them to the networks of the
            model; for models with the 17-network map of an order that we know.

    Raises:
        ValueError: for unknown levels, or canonical masks without a known order.
    """

    def __init__(
        self,
        config: BrainSemantoksConfig,
        *,
        seed: int,
        collator: Callable[[Callable[[Mapping[str, Any]], np.random.Generator]], Collator] | None = None,
        augmentation: int | Sequence[int] = PRETRAINING_AUGMENTATION,
        n_rows: int = 0,
        rows_per_batch: int = 1,
        eval_rows_per_batch: int = 1,
        shuffle: bool = True,
        first_slot: int | None = None,
        masking_frequency: float | None = None,
        canonical_masks: bool = False,
    ):
        self.config = config
        self.seed = seed
        self.levels = check_levels(augmentation)
        self.batches = BatchNumbers(
            n_rows,
            seed,
            rows_per_batch=rows_per_batch,
            eval_rows_per_batch=eval_rows_per_batch,
            shuffle=shuffle,
            first_slot=first_slot,
        )
        self.masking_frequency = config.masking_frequency if masking_frequency is None else masking_frequency
        self._view = 0
        self._collator = collator(self._window_generator) if collator is not None else None
        self._mapping: list[list[int]] | None = None
        if canonical_masks:
            known = networks_of_parcels(config.roi_order, 7)
            if known is None or config.networks is None:
                raise ValueError(
                    f"canonical_masks needs a roi_order whose parcel names are known, got {config.roi_order!r}."
                )
            self._mapping = functional_network_mapping(known[0], config.networks)

    @classmethod
    def for_scans(
        cls, config: BrainSemantoksConfig, extractor: ROISeriesFeatureExtractor, **options: Any
    ) -> "TwoViewCollator":
        """A collator for rows of a scan dataset, which `extractor` scales, resamples and cuts at random."""
        return cls(
            config,
            collator=lambda rng_for_row: ROISeriesCollator(extractor, window="random", rng_for_row=rng_for_row),
            **options,
        )

    def _generator(self, row: Mapping[str, Any], purpose: str) -> np.random.Generator:
        if ROW_INDEX not in row:
            raise ValueError(
                "Expected a row with its index and epoch, got one without. Wrap the dataset in "
                "brain_transformers.training.SeededRows (the Trainers of this package do so)."
            )
        return row_generator(self.seed, int(row[EPOCH]), int(row[ROW_INDEX]), purpose)

    def _window_generator(self, row: Mapping[str, Any]) -> np.random.Generator:
        """Generator for the start of the crop that is being cut: the starts of both crops are drawn independently."""
        rng = self._generator(row, "window")
        return rng.spawn(2)[self._view]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate rows of [`SeededRows`].

        Raises:
            ValueError: if rows without index come in, or do not hold two views of one shape.
        """
        batch = self._views(rows)
        training = int(rows[0][EPOCH]) >= 0
        signals = batch["signals"]
        if training and any(self.levels):
            n_rois, n_timepoints = signals.shape[2:]
            augmented = np.empty(signals.shape, dtype=np.float32)
            for number, row in enumerate(rows):
                rng = self._generator(row, "view")
                for view in range(2):
                    change = draw_augmentation(self.levels, n_rois, n_timepoints, rng)
                    augmented[number, view] = change(signals[number, view].numpy())
            batch["signals"] = torch.from_numpy(augmented)
        if self._masks_batch(rows):
            batch["bool_masked_pos"] = torch.from_numpy(np.stack([self._masks_of(row) for row in rows]))
        return batch

    def _views(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self._collator is None:
            shapes = {np.shape(row["signals"]) for row in rows}
            if len(shapes) != 1 or len(next(iter(shapes))) != 3 or next(iter(shapes))[0] != 2:
                raise ValueError(
                    "Expected rows with signals of one shape (2, n_rois, n_timepoints), two crops of a scan, got "
                    f"{sorted(shapes)[:3]}. For scans of any length pass the feature extractor as processing_class."
                )
            clean = without_row_keys(rows)
            stacked = np.stack([np.asarray(row["signals"], dtype=np.float32) for row in clean])
            batch: dict[str, Any] = {"signals": torch.from_numpy(stacked)}
            if all("attention_mask" in row for row in clean):
                batch["attention_mask"] = torch.from_numpy(np.stack([row["attention_mask"] for row in clean]))
            return batch
        parts = []
        for self._view in range(2):
            parts.append(self._collator(rows))
        batch = {"signals": torch.stack([part["signals"] for part in parts], dim=1)}
        if any("attention_mask" in part for part in parts):
            n_tokens = self.config.n_rois * self.config.n_windows
            full = torch.ones(len(rows), n_tokens, dtype=torch.int64)
            batch["attention_mask"] = torch.stack([part.get("attention_mask", full) for part in parts], dim=1)
        return batch

    # --- masks ---

    def _masks_batch(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        has_masked_term = self.config.use_mask_embedding or self.config.masked_term_without_embedding
        if self.masking_frequency <= 0 or not has_masked_term:
            return False
        # Index 0 of this purpose is the order of the epoch; those above it belong to its batches.
        rng = row_generator(self.seed, int(rows[0][EPOCH]), 1 + self.batches.number(rows), "order")
        return bool(rng.random() < self.masking_frequency)

    def _masks_of(self, row: Mapping[str, Any]) -> np.ndarray:
        config = self.config
        draws = NumpyDraws(self._generator(row, "mask"))
        mapping = self._mapping
        n_networks = config.n_networks if mapping is None else len(mapping)
        masks = []
        for _ in range(2):
            mask = draw_mask(
                config.mask_kind, n_networks, config.n_windows, draws, config.mask_range, config.mask_rule
            )
            masks.append(mask if mapping is None else expand_functional_mask(mask, mapping, config.n_networks))
        return np.stack(masks)
