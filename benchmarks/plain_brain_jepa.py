"""Brain-JEPA as it was published, step by step: eager attention, whole tables, everything embedded, then picked.

Written from the description of the architecture, on the weights of our models, so that both give the same numbers.
"""

from typing import Any

import numpy as np
import torch
from plain_brainlm import plain_pre_norm_layer
from torch import nn


def plain_position_table(positions: Any, gradients: torch.Tensor) -> torch.Tensor:
    """The whole table: projected rows are repeated for every window, then scaled by the minimum and maximum."""
    projected = positions.gradient_projection(gradients)
    repeated = projected.repeat_interleave(positions.n_windows, dim=0)
    low, high = repeated.min(), repeated.max()
    return torch.cat([positions.time_positions, (repeated - low) / (high - low) * 2 - 1], dim=1)[None]


def plain_apply_masks(tokens: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    """Pick tokens by a repeated index, masks on the batch axis."""
    parts = [torch.gather(tokens, 1, mask[:, :, None].repeat(1, 1, tokens.shape[2])) for mask in masks]
    return torch.cat(parts)


def plain_encoder(encoder: Any, signals: torch.Tensor, masks: list[torch.Tensor] | None = None) -> torch.Tensor:
    """Embed all patches with a convolution, add the table, pick, and run every layer over what is left."""
    projection = encoder.embeddings.patch_projection
    size = projection.in_features
    kernel = projection.weight[:, None, None, :]
    tokens = (
        nn.functional.conv2d(signals[:, None], kernel, projection.bias, stride=(1, size)).flatten(2).transpose(1, 2)
    )
    tokens = tokens + plain_position_table(encoder.embeddings.positions, encoder.gradients)
    if masks is not None:
        tokens = plain_apply_masks(tokens, masks)
    for layer in encoder.layers:
        tokens = plain_pre_norm_layer(layer, tokens)
    return encoder.layernorm(tokens)


def plain_predictor(
    predictor: Any,
    context: torch.Tensor,
    contexts: list[torch.Tensor],
    targets: list[torch.Tensor],
    gradients: torch.Tensor,
) -> torch.Tensor:
    """Tile the whole table over the batch, pick, run every layer over all tokens, keep the last ones."""
    batch = contexts[0].shape[0]
    table = plain_position_table(predictor.positions, gradients).repeat(batch, 1, 1)
    tokens = predictor.embed(context) + plain_apply_masks(table, contexts)
    n_context = tokens.shape[1]
    queries = plain_apply_masks(table, targets)
    queries = torch.cat([part for part in queries.chunk(len(targets)) for _ in contexts])
    queries = queries + predictor.mask_token.repeat(queries.shape[0], queries.shape[1], 1)
    tokens = torch.cat([tokens.repeat(len(targets), 1, 1), queries], dim=1)
    for layer in predictor.layers:
        tokens = plain_pre_norm_layer(layer, tokens)
    tokens = predictor.layernorm(tokens)
    return predictor.projection(tokens[:, n_context:])


def plain_loss(
    model: Any, signals: torch.Tensor, contexts: list[torch.Tensor], targets: list[torch.Tensor]
) -> torch.Tensor:
    """One pretraining forward pass: the target encoder's whole output, then the targets of it."""
    with torch.no_grad():
        states = plain_encoder(model.brain_jepa, signals)
        states = nn.functional.layer_norm(states, states.shape[-1:])
        wanted = plain_apply_masks(states, targets)
        wanted = torch.cat([part for part in wanted.chunk(len(targets)) for _ in contexts])
    context = plain_encoder(model.context_encoder, signals, contexts)
    predictions = plain_predictor(model.predictor, context, contexts, targets, model.context_encoder.gradients)
    return nn.functional.smooth_l1_loss(predictions, wanted)


def plain_masks(
    batch: int, n_rois: int, n_windows: int, call_index: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The published collator's rule with dense grids: a mask image a block, nonzero and set operations on tensors."""
    sizes = torch.Generator().manual_seed(call_index)

    def share(low: float, high: float) -> float:
        return low + torch.rand(1, generator=sizes).item() * (high - low)

    n_cross, n_cross_windows = int(n_rois * share(0.45, 0.6)), int(n_windows * share(0.2, 0.6))
    n_seen, n_seen_windows = int(n_rois * share(0.84, 1)), int(n_windows * share(0.84, 1))
    contexts, targets = [], []
    for _ in range(batch):
        seen = torch.randperm(n_rois, generator=generator)[:n_seen]
        first = int(torch.randint(0, n_windows - n_seen_windows, (1,), generator=generator))
        context = torch.zeros(n_rois, n_windows, dtype=torch.int32)
        context[seen, first : first + n_seen_windows] = 1
        cross = torch.randperm(n_rois, generator=generator)[:n_cross]
        start = first + int(torch.randint(0, n_seen_windows - n_cross_windows, (1,), generator=generator))
        block = torch.zeros(n_rois, n_windows, dtype=torch.int32)
        block[cross, start : start + n_cross_windows] = 1
        context[cross] = 0
        runs = [torch.nonzero(block.flatten()).squeeze(1)]
        all_rois = torch.arange(n_rois)
        inside = all_rois[torch.isin(all_rois, seen) & torch.isin(all_rois, cross)]
        if n_seen == n_rois - 1:
            inside = cross.sort().values
        outside = all_rois[~torch.isin(all_rois, inside)]
        for side_start in (n_windows - 3, 0):
            fraction, width = share(0.15, 0.3), int(n_windows * share(0.0, 0.4))
            one = inside[torch.randperm(len(inside), generator=generator)[: int(len(inside) * fraction)]]
            two = outside[torch.randperm(len(outside), generator=generator)[: int(len(outside) * fraction)]]
            windows = torch.randperm(3, generator=generator)[:width] + side_start
            block = torch.zeros(n_rois, n_windows, dtype=torch.int32)
            rois = torch.cat([one, two])
            block[rois[:, None], windows[None, :]] = 1
            context[:, windows] = 0
            runs.append(torch.nonzero(block.flatten()).squeeze(1))
        contexts.append(torch.nonzero(context.flatten()).squeeze(1))
        targets.append(torch.cat(runs))
    n_context, n_targets = (min(len(row) for row in rows) for rows in (contexts, targets))
    return (
        torch.stack([row[:n_context] for row in contexts]),
        torch.stack([row[:n_targets] for row in targets]),
    )


def plain_item(folder: Any, medians: np.ndarray, iqrs: np.ndarray, start: float) -> torch.Tensor:
    """A pretraining item: two gzipped CSV files parsed, stacked, the whole recording scaled, then 160 frames taken."""
    import pandas

    parts = [
        pandas.read_csv(folder / name, header=None).iloc[:, 1:].to_numpy()[:, :490]
        for name in ("subcortical.csv.gz", "cortical.csv.gz")
    ]
    series = np.concatenate(parts).astype(np.float32)
    scaled = ((series - medians[:, None]) / iqrs[:, None]).astype(np.float32)
    frames = torch.linspace(start, start + 479, 160).clamp(0, scaled.shape[1] - 1).long()
    return torch.from_numpy(scaled)[:, frames]
