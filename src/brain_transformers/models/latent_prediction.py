"""Prediction in the latent space (JEPA): index masks, the predictor, and what such a head gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from ..layers.masking import check_attention_mask, check_tensor, gather_tokens, padding_masks
from .batch_draws import BatchDraws
from .block_masks import draw_masks
from .moving_average import MovingAverageMixin

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


def chosen_tokens(
    context_indices: Indices | None,
    output_indices: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    batch: int,
    n_tokens: int,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """What an encoder is asked for: ids of the tokens that go in, which of these are observed, ids that come out.

    Each is `None` for all; the rows of the first two are those of one context mask after the other.

    Raises:
        ValueError: for wrong masks, or for both.
    """
    keep = None if attention_mask is None else attention_mask.bool()
    if output_indices is not None:
        if context_indices is not None:
            raise ValueError("Pass context_indices or output_indices, not both: the first chooses what goes in.")
        (output_indices,) = index_masks(output_indices, "output_indices", batch, n_tokens)
    if context_indices is None:
        return None, keep, output_indices
    masks = index_masks(context_indices, "context_indices", batch, n_tokens)
    return torch.cat(masks), None if keep is None else torch.cat([keep.gather(1, mask) for mask in masks]), None


def chosen_patches(patches: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """The patches `ids` `(n_masks * batch, n)` of `(batch, n_tokens, patch_size)`, or all of them."""
    if ids is None:
        return patches
    if len(ids) != len(patches):
        patches = patches.repeat(len(ids) // len(patches), 1, 1)
    return gather_tokens(patches, ids)


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


class LatentPredictionHead(MovingAverageMixin):
    """Three networks: the released one, which is the moving average of `context_encoder`, and `predictor`.

    Stands in front of a family's `...PreTrainedModel`. The released network is the target encoder and gets no
    gradients; a Trainer updates it after each optimizer step, another training loop calls `update_moving_average`.
    """

    body_class: type[Any]
    predictor_class: type[Any]
    context_encoder: Any
    predictor: Any
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: Any):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.body_class(config))
        self.context_encoder = self.body_class(config)
        self.predictor = self.predictor_class(config)
        self.post_init()

    @classmethod
    def draw_masks(
        cls,
        config: Any,
        draws: BatchDraws,
        inputs: Mapping[str, torch.Tensor] | None = None,
        *,
        mask_rule: str | None = None,
    ) -> dict[str, torch.Tensor]:
        """See [`BrainPreTrainedModel.draw_masks`]: `context_indices` and `target_indices`.

        The sizes of the blocks, and the lengths that contexts and targets are cut to, belong to a batch and not to a
        row, so masks are made for all rows that the processes see at the same time.
        """
        n_windows = cls.n_tokens(config, inputs) // config.n_rois
        within = cls.windows_to_mask(config, n_windows, inputs)
        masks = draw_masks(
            config, draws.size, within, draws.of_batch("mask"), call_index=draws.call_index, rule=mask_rule
        )
        return {name: (ids // within * n_windows + ids % within)[draws.slots] for name, ids in vars(masks).items()}

    @classmethod
    def windows_to_mask(cls, config: Any, n_windows: int, inputs: Mapping[str, torch.Tensor] | None) -> int:
        """Windows of a batch, from the first one on, that the blocks of its masks lie in; by default all."""
        return n_windows

    def predicted(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None,
        context_indices: Indices | None,
        target_indices: Indices | None,
        n_windows: int,
        positions: Callable[[torch.Tensor], torch.Tensor],
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> LatentPredictionOutput:
        """Predict the targets from the contexts; see `forward` of the family.

        Args:
            n_windows: of the input.
            positions: see [`LatentPredictor.forward`].
            options: what both encoders take beside the signals and their mask.
        """
        options = options or {}
        batch, n_tokens, cls = len(signals), signals.shape[1] * n_windows, int(self.has_cls_token)
        attention_mask = check_attention_mask(attention_mask, batch, n_tokens, has_cls=bool(cls))
        if (context_indices is None) != (target_indices is None):
            raise ValueError("Pass context_indices and target_indices together, or none of them to have them drawn.")
        if context_indices is None or target_indices is None:
            drawn = draw_masks(self.config, batch, n_windows)
            context_indices = drawn.context_indices.to(signals.device)
            target_indices = drawn.target_indices.to(signals.device)
        contexts = index_masks(context_indices, "context_indices", batch, n_tokens)
        target_ids = index_masks(target_indices, "target_indices", batch, n_tokens)
        of_masks = self.compute_targets(signals, target_ids, attention_mask, **options)
        # Same order as the predictions: target masks outermost, then context masks, then samples.
        targets = torch.cat([part for part in of_masks for _ in contexts])
        encoded = self.context_encoder(
            signals, attention_mask, context_indices=contexts, return_dict=True, **options, **kwargs
        )
        states = encoded.last_hidden_state[:, cls:]
        predictions, predictor_states = self.predictor(
            states, contexts, target_ids, positions, attention_mask, **kwargs
        )
        errors = nn.functional.smooth_l1_loss(predictions.float(), targets.float(), reduction="none").mean(-1)
        target_mask = None
        if attention_mask is not None:
            target_mask = torch.cat([attention_mask.gather(1, ids) for ids in target_ids for _ in contexts])
            errors = errors * target_mask.float()
        loss, sample_losses = self.losses(errors, target_mask)
        return LatentPredictionOutput(
            loss=loss,
            sample_losses=sample_losses,
            predictions=predictions,
            targets=targets,
            target_mask=target_mask,
            context_indices=contexts,
            target_indices=target_ids,
            context_hidden_state=states,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            predictor_hidden_states=predictor_states,
        )

    def losses(
        self, errors: torch.Tensor, target_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss, and that of each sample for families that average over these; here over all observed targets.

        Args:
            errors: smooth L1 (beta 1) of each token `(first axis, n_targets)`, 0 where it is padded.
            target_mask: see [`LatentPredictionOutput`].
        """
        count = errors.numel() if target_mask is None else target_mask.float().sum().clamp(min=1)
        return errors.sum() / count, None

    @torch.no_grad()
    def compute_targets(
        self,
        signals: torch.Tensor,
        target_indices: tuple[torch.Tensor, ...],
        attention_mask: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Representation of the target tokens by the target encoder, which sees all tokens, without gradients.

        Returns:
            For each mask `(batch, n_targets, hidden_size)`, normalised over the channels without a learned scale.
        """
        ids = torch.cat(target_indices, dim=1)
        encoder: Any = self.base_model
        states = encoder(signals, attention_mask, output_indices=ids, return_dict=True, **options).last_hidden_state
        states = nn.functional.layer_norm(states, states.shape[-1:])
        return states.split([mask.shape[1] for mask in target_indices], dim=1)
