"""Spatiotemporal block masks of Brain-JEPA and Harmonix-F: which tokens are seen, and which are predicted.

A mask has an observed block (a random set of ROIs over a run of windows) and three targets: a cross-ROI block (a
random set of ROIs, taken out of the observed ones, over a run of the same windows) and two cross-time blocks (random
ROIs at some of the last three, and of the first three, windows, which are taken out of the context for all ROIs).
Context and targets never share a token. Sizes are drawn once a batch, the rest a sample; all samples of a batch are
then cut to the shortest context and the shortest target.

Two rules:

- `"published"` is the rule of the released code, number for number when it is given the same generators. Three of its
  properties are side effects. Samples are cut from the end of the ROI-major order, so at batch 16 the five fifths of
  the ROIs hold 2.76, 2.75, 2.32, 1.01 and 0.28 context tokens an ROI: right-hemisphere parcels, which come last, are
  hardly ever a context, and cutting targets takes mostly those at the first windows. The observed run never reaches
  the last window. The cross-ROI run never reaches the end of the observed one.
- `"balanced"` draws the same sizes but lets both runs lie anywhere and cuts samples to length by a random choice, so
  that every parcel and window can be a context. It is the default for new training, because nothing in the method asks
  for the side effects; released weights were trained with the published rule, which only matters for repeating that.

Every draw comes from generators that are passed in, or else from torch's global generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

# The cross-time blocks lie in the first three and the last three windows (released code, written for 10 windows).
_SIDE_WINDOWS = 3


@dataclass(frozen=True)
class MaskScales:
    """Ranges that the shares of ROIs and windows of each block are drawn from, as `mask_...` of a configuration."""

    observation: tuple[float, float] = (0.84, 1.0)
    cross_rois: tuple[float, float] = (0.45, 0.6)
    cross_windows: tuple[float, float] = (0.2, 0.6)
    side_rois: tuple[float, float] = (0.15, 0.3)
    side_windows: tuple[float, float] = (0.0, 0.4)

    @classmethod
    def from_config(cls, config: Any) -> "MaskScales":
        """The scales of a model's configuration."""
        scales = {field.name: getattr(config, f"mask_{field.name}") for field in fields(cls)}
        return cls(**{name: (float(scale[0]), float(scale[1])) for name, scale in scales.items()})


@dataclass(frozen=True)
class BlockMasks:
    """Masks of a batch.

    Attributes:
        context_indices: int64 `(batch, n_context)`, natural token ids (`roi * n_windows + window`), ascending.
        target_indices: int64 `(batch, n_targets)`: the three blocks one after the other, each ascending; a token may
            be in two of them.
    """

    context_indices: torch.Tensor
    target_indices: torch.Tensor


@dataclass(frozen=True)
class _Sizes:
    cross_rois: int
    cross_windows: int
    observed_rois: int
    observed_windows: int


def _draw(scale: tuple[float, float], share: float) -> float:
    return scale[0] + share * (scale[1] - scale[0])


def _block_sizes(n_rois: int, n_windows: int, scales: MaskScales, shares: Sequence[float]) -> _Sizes:
    """Sizes of a batch from four uniform numbers, in the order in which the released code draws them."""
    return _Sizes(
        int(n_rois * _draw(scales.cross_rois, shares[0])),
        int(n_windows * _draw(scales.cross_windows, shares[1])),
        int(n_rois * _draw(scales.observation, shares[2])),
        int(n_windows * _draw(scales.observation, shares[3])),
    )


def _check_geometry(batch: int, n_rois: int, n_windows: int) -> None:
    if batch < 1 or n_rois < 2 or n_windows < 2:
        raise ValueError(
            f"Expected at least one sample, 2 ROIs and 2 windows to mask, got batch {batch}, {n_rois} ROIs and "
            f"{n_windows} windows. Use a longer window or a smaller patch_size."
        )


def _side_windows(n_windows: int) -> tuple[int, int]:
    """Number of windows of a side, and the first one of the right side."""
    n_side = min(_SIDE_WINDOWS, n_windows)
    return n_side, n_windows - n_side


def published_masks(
    batch: int,
    n_rois: int,
    n_windows: int,
    scales: MaskScales = MaskScales(),
    *,
    call_index: int,
    generator: torch.Generator | None = None,
) -> BlockMasks:
    """Masks by the rule of the released code, with its order of draws.

    Sizes come from a generator seeded with `call_index`; everything else from `generator`, or from torch's global one
    (after `torch.manual_seed` then exactly the released code's masks come out).

    Args:
        batch: number of samples.
        n_rois, n_windows: the token grid. The released code is for 10 windows; for others the sides are the first and
            the last three.
        scales: ranges of the sizes.
        call_index: number of batches masked before, over all workers and epochs.
        generator: source of the draws of the samples.

    Raises:
        ValueError: if the sizes leave no room, as with scales that span all ROIs or windows.
    """
    _check_geometry(batch, n_rois, n_windows)
    size_generator = torch.Generator().manual_seed(call_index)

    def share() -> float:
        return torch.rand(1, generator=size_generator).item()

    sizes = _block_sizes(n_rois, n_windows, scales, [share() for _ in range(4)])
    if sizes.observed_rois >= n_rois or sizes.observed_windows >= n_windows or sizes.cross_rois >= n_rois:
        raise ValueError(
            f"Expected blocks smaller than {n_rois} ROIs and {n_windows} windows, got {sizes.observed_rois} observed "
            f"and {sizes.cross_rois} cross ROIs over {sizes.observed_windows} windows. Use smaller scales, or the "
            "balanced rule."
        )
    if sizes.observed_windows <= sizes.cross_windows:
        raise ValueError(
            f"Expected the observed run longer than the cross-ROI run, got {sizes.observed_windows} and "
            f"{sizes.cross_windows} windows. Use smaller mask_cross_windows, or the balanced rule."
        )
    n_side, right_start = _side_windows(n_windows)
    contexts, targets = [], []
    grid = np.arange(n_rois * n_windows).reshape(n_rois, n_windows)
    for _ in range(batch):
        observed_ids = torch.randperm(n_rois, generator=generator).numpy()[: sizes.observed_rois]
        first = int(torch.randint(0, n_windows - sizes.observed_windows, (1,), generator=generator))
        cross_ids = torch.randperm(n_rois, generator=generator).numpy()[: sizes.cross_rois]
        offset = int(torch.randint(0, sizes.observed_windows - sizes.cross_windows, (1,), generator=generator))
        observed = np.zeros(n_rois, dtype=bool)
        observed[observed_ids] = True
        cross = np.zeros(n_rois, dtype=bool)
        cross[cross_ids] = True
        # The released code loses the one ROI outside the observed set when there is exactly one.
        inside = cross if sizes.observed_rois == n_rois - 1 else observed & cross
        inside_ids, outside_ids = np.flatnonzero(inside), np.flatnonzero(~inside)
        start = first + offset
        blocks = [grid[cross, start : start + sizes.cross_windows].reshape(-1)]
        hidden_windows = np.zeros(n_windows, dtype=bool)
        hidden_windows[:first] = True
        hidden_windows[first + sizes.observed_windows :] = True
        for side_start in (right_start, 0):
            fraction = _draw(scales.side_rois, share())
            n_chosen_windows = int(n_windows * _draw(scales.side_windows, share()))
            chosen = np.zeros(n_rois, dtype=bool)
            for ids in (inside_ids, outside_ids):
                order = torch.randperm(len(ids), generator=generator).numpy()
                chosen[ids[order[: int(len(ids) * fraction)]]] = True
            windows = torch.randperm(n_side, generator=generator).numpy()[:n_chosen_windows] + side_start
            windows.sort()
            blocks.append(grid[np.ix_(chosen, windows)].reshape(-1))
            hidden_windows[windows] = True
        contexts.append(grid[np.ix_(observed & ~cross, ~hidden_windows)].reshape(-1))
        targets.append(np.concatenate(blocks))
    n_context, n_targets = (min(map(len, rows)) for rows in (contexts, targets))
    _check_lengths(n_context, n_targets, n_rois, n_windows)
    return BlockMasks(
        torch.from_numpy(np.stack([row[:n_context] for row in contexts])),
        torch.from_numpy(np.stack([row[:n_targets] for row in targets])),
    )


def _check_lengths(n_context: int, n_targets: int, n_rois: int, n_windows: int) -> None:
    if not n_context or not n_targets:
        raise ValueError(
            f"Expected context and target tokens, got {n_context} and {n_targets} for {n_rois} ROIs x {n_windows} "
            "windows. The grid is too small for these scales: use a longer window, a smaller patch_size, or other "
            "scales."
        )


def _smallest(keys: np.ndarray, counts: np.ndarray | int) -> np.ndarray:
    """Bool mask of the `counts` smallest keys of each row (last axis)."""
    padded = np.concatenate([np.sort(keys, axis=-1), np.full((*keys.shape[:-1], 1), np.inf)], axis=-1)
    index = np.broadcast_to(np.asarray(counts), keys.shape[:-1])[..., None]
    return keys < np.take_along_axis(padded, index, axis=-1)


def balanced_masks(
    batch: int, n_rois: int, n_windows: int, scales: MaskScales = MaskScales(), *, rng: np.random.Generator
) -> BlockMasks:
    """Masks by the balanced rule, all samples at once.

    Args:
        batch: number of samples.
        n_rois, n_windows: the token grid.
        scales: ranges of the sizes. Blocks may span all ROIs and windows; at least one window of each side stays for
            the context.
        rng: source of every draw.

    Raises:
        ValueError: if a sample is left without context or targets, as on very small grids.
    """
    _check_geometry(batch, n_rois, n_windows)
    shares = rng.random(4)
    sizes = _block_sizes(n_rois, n_windows, scales, shares.tolist())
    n_observed = max(sizes.observed_windows, 1)
    n_cross = min(max(sizes.cross_windows, 1), n_observed)
    n_side, right_start = _side_windows(n_windows)
    # One draw of everything that is uniform, so that the cost does not depend on the number of blocks.
    roi_keys = rng.random((4, batch, n_rois))
    window_keys = rng.random((2, batch, n_side))
    uniform = rng.random((6, batch))
    observed = _smallest(roi_keys[0], max(sizes.observed_rois, 1))
    cross = _smallest(roi_keys[1], max(sizes.cross_rois, 1))
    first = (uniform[0] * (n_windows - n_observed + 1)).astype(np.int64)
    start = first + (uniform[1] * (n_observed - n_cross + 1)).astype(np.int64)
    window = np.arange(n_windows)
    seen = (window >= first[:, None]) & (window < (first + n_observed)[:, None])
    cross_windows = (window >= start[:, None]) & (window < (start + n_cross)[:, None])
    blocks = [cross[:, :, None] & cross_windows[:, None, :]]
    for side, side_start in enumerate((right_start, 0)):
        fraction = scales.side_rois[0] + uniform[2 + side] * (scales.side_rois[1] - scales.side_rois[0])
        width = scales.side_windows[0] + uniform[4 + side] * (scales.side_windows[1] - scales.side_windows[0])
        # Never all of a short grid: something must be left to see.
        n_chosen = np.minimum((n_windows * width).astype(np.int64), min(n_side, (n_windows - 1) // 2))
        chosen_windows = np.zeros((batch, n_windows), dtype=bool)
        chosen_windows[:, side_start : side_start + n_side] = _smallest(window_keys[side], n_chosen)
        chosen_rois = _smallest(roi_keys[2 + side], (n_rois * fraction).astype(np.int64))
        blocks.append(chosen_rois[:, :, None] & chosen_windows[:, None, :])
        seen &= ~chosen_windows
    context = (observed & ~cross)[:, :, None] & seen[:, None, :]
    n_tokens = n_rois * n_windows
    context_ids = _cut_to_one_length(context.reshape(batch, n_tokens), rng)
    target_ids = _cut_to_one_length(np.stack(blocks, axis=1).reshape(batch, 3 * n_tokens), rng) % n_tokens
    _check_lengths(context_ids.shape[1], target_ids.shape[1], n_rois, n_windows)
    return BlockMasks(torch.from_numpy(context_ids), torch.from_numpy(target_ids))


def _cut_to_one_length(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places where each row is true, `(batch, n)` ascending, cut to the shortest row by a random choice."""
    flat = np.flatnonzero(mask)
    counts = np.count_nonzero(mask, axis=1)
    length, ends = int(counts.min()), np.cumsum(counts)
    keys = rng.random(len(flat))
    output = np.empty((len(mask), length), dtype=np.int64)
    for row, (end, count) in enumerate(zip(ends.tolist(), counts.tolist())):
        own = flat[end - count : end]
        if count > length > 0:
            key = keys[end - count : end]
            own = own[key <= np.partition(key, length - 1)[length - 1]]
        output[row] = own[:length]
    return output - (np.arange(len(mask)) * mask.shape[1])[:, None]


def draw_masks(
    config: Any,
    batch: int,
    n_windows: int,
    rng: np.random.Generator | None = None,
    *,
    call_index: int | None = None,
    rule: str | None = None,
) -> BlockMasks:
    """Masks by the rule of a model's configuration.

    Args:
        config: with `n_rois` and the fields of [`MaskScales`].
        batch: number of samples.
        n_windows: windows of the input.
        rng: source of every draw; by default one that torch's global generator seeds.
        call_index: for the published rule, number of batches before; drawn like the rest if left out.
        rule: `"balanced"` or `"published"` in place of `config.mask_rule`.
    """
    rng = np.random.default_rng(int(torch.randint(0, 2**62, (1,)))) if rng is None else rng
    scales = MaskScales.from_config(config)
    if (rule or config.mask_rule) == "balanced":
        return balanced_masks(batch, config.n_rois, n_windows, scales, rng=rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    call_index = int(rng.integers(2**31)) if call_index is None else call_index
    return published_masks(batch, config.n_rois, n_windows, scales, call_index=call_index, generator=generator)
