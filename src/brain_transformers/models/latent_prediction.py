"""Prediction in the latent space (JEPA): index masks, the predictor, and what such a head gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..layers.masking import check_tensor, padding_masks

Indices = torch.Tensor | Sequence[torch.Tensor]


@dataclass
class LatentPredictionOutput(ModelOutput):
    """Output of a latent-prediction head.

    With several masks a sample, the first axis holds all samples for target mask 0 with context mask 0, then with
    context mask 1, ..., then for target mask 1.

    Args:
        loss: smooth L1 (beta 1) between predictions and targets, mean over all elements; over the observed target
            tokens when something is padded.
        sample_losses: `(first axis of predictions,)`, the loss of each sample, for families that average over these.
        predictions: `(n_target_masks * n_context_masks * batch, n_targets, hidden_size)`, the predictor's output.
        targets: same shape, output of the target encoder on all tokens, normalised over the channels.
        target_mask: `(first axis of predictions, n_targets)`, 1 for target tokens that are observed; `None` without
            padding.
        context_indices, target_indices: the masks that were used, each a tuple of int64 `(batch, n)`.
        context_hidden_state: `(n_context_masks * batch, n_context, hidden_size)`, output of the context encoder after
            its final norm.
        hidden_states, attentions: of the context encoder, on request.
        predictor_hidden_states: on request, input of the predictor's first layer and the output of each; of the last
            layer only the target tokens exist.
    """

    loss: torch.Tensor | None = None
    sample_losses: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    target_mask: torch.Tensor | None = None
    context_indices: tuple[torch.Tensor, ...] | None = None
    target_indices: tuple[torch.Tensor, ...] | None = None
    context_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    predictor_hidden_states: tuple[torch.Tensor, ...] | None = None


def index_masks(indices: Indices, name: str, batch: int, n_tokens: int) -> tuple[torch.Tensor, ...]:
    """One mask or several as a tuple of int64 `(batch, n)` of one length.

    Raises:
        ValueError: if shapes or types do not fit, or ids on a CPU; elsewhere looking at them would wait for the
            device.
    """
    masks = (indices,) if isinstance(indices, torch.Tensor) else tuple(indices)
    for mask in masks:
        check_tensor(name, mask)
    shapes = [tuple(mask.shape) for mask in masks]
    if not masks or any(mask.dim() != 2 or mask.shape[0] != batch for mask in masks) or len(set(shapes)) > 1:
        raise ValueError(
            f"{name} must be int64 ({batch}, n) token ids below {n_tokens}, or several of one shape, got {shapes}. "
            "A token id is roi * n_windows + window."
        )
    if any(mask.is_floating_point() or mask.dtype == torch.bool for mask in masks):
        raise ValueError(
            f"{name} must hold int64 token ids, got {masks[0].dtype}. A bool mask has .nonzero() for that."
        )
    for mask in masks:
        looks = mask.device.type == "cpu" and mask.numel() > 0 and not torch.compiler.is_compiling()
        if looks and not 0 <= int(mask.min()) <= int(mask.max()) < n_tokens:
            raise ValueError(f"{name} must be token ids from 0 to {n_tokens - 1}, got one outside. See the docstring.")
    return tuple(mask.long() for mask in masks)


class LatentPredictor(nn.Module):
    """Narrow transformer that predicts target tokens from encoded context tokens and the targets' positions.

    Args:
        config: its `hidden_size` and `predictor_hidden_size` are the widths outside and inside.
        layers: transformer layers of the width inside.
        layer_norm_eps: of the final norm.
        zero_padded: leave the context of padded tokens at 0 in every layer, instead of letting them attend to what is
            observed; see [`PreNormLayer`].
    """

    def __init__(self, config: Any, layers: nn.ModuleList, layer_norm_eps: float, zero_padded: bool = False):
        super().__init__()
        self.config, self.zero_padded = config, zero_padded
        width = config.predictor_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.layers = layers
        self.layernorm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.projection = nn.Linear(width, config.hidden_size)

    def forward(
        self,
        context: torch.Tensor,
        context_indices: tuple[torch.Tensor, ...],
        target_indices: tuple[torch.Tensor, ...],
        positions: Callable[[torch.Tensor], torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Predict every target mask from every context mask.

        Args:
            context: `(n_context_masks * batch, n_context, hidden_size)` from the context encoder.
            context_indices, target_indices: token ids of the masks.
            positions: token ids `(batch, n)` -> positions `(batch, n, predictor_hidden_size)`.
            attention_mask: `(batch, n_tokens)`, or `None` when nothing is padded.

        Returns:
            Predictions as in [`LatentPredictionOutput`] and, on request, the hidden states.
        """
        n_contexts, n_targets = len(context_indices), len(target_indices)
        tokens = self.embed(context)
        tokens = tokens + positions(torch.cat(context_indices)).to(tokens.dtype)
        # Target masks outermost, then context masks, then samples; context tokens before the queries.
        query_ids = torch.cat([mask for mask in target_indices for _ in range(n_contexts)])
        queries = positions(query_ids).to(tokens.dtype) + self.mask_token.to(tokens.dtype)
        hidden_states = torch.cat([tokens.repeat(n_targets, 1, 1), queries], dim=1)
        keep = None
        if attention_mask is not None:
            keep = torch.cat(
                [
                    torch.cat([attention_mask.gather(1, context), attention_mask.gather(1, target)], dim=1)
                    for target in target_indices
                    for context in context_indices
                ]
            ).bool()
        mask, keep = padding_masks(self.config, hidden_states, keep)
        of_queries = slice(-query_ids.shape[1], None)
        states = [hidden_states]
        for layer in self.layers:
            wanted = of_queries if layer is self.layers[-1] else None
            zeroed = keep if self.zero_padded else None
            hidden_states = layer(hidden_states, mask, zeroed, wanted, **kwargs)
            if output_hidden_states:
                states.append(hidden_states)
        predictions = self.projection(self.layernorm(hidden_states[:, of_queries]))
        return predictions, tuple(states) if output_hidden_states else None


def latent_prediction_loss(
    predictions: torch.Tensor, targets: torch.Tensor, target_mask: torch.Tensor | None
) -> torch.Tensor:
    """Smooth L1 (beta 1) of each token `(first axis, n_targets)`, 0 where it is padded."""
    error = nn.functional.smooth_l1_loss(predictions.float(), targets.float(), reduction="none").mean(-1)
    return error if target_mask is None else error * target_mask.float()
