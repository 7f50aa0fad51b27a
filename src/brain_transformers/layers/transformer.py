"""Feed-forward block and the pre-norm transformer layer."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SelfAttention
from .masking import TokenIds, gather_tokens
from .packing import SequenceLengths
from .plain import product


def drop_path(values: torch.Tensor, rate: float, lengths: SequenceLengths | None = None) -> torch.Tensor:
    """Stochastic depth: all of `values` `(batch, n_tokens, width)` of a sample become 0 with this probability.

    What stays is scaled up by as much. In a packed sequence `(1, n_tokens, width)` samples are those of `lengths`.
    """
    if rate == 0:
        return values
    sizes = None if lengths is None else torch.tensor(lengths.queries, device=values.device)
    stays = values.new_empty(len(values) if sizes is None else len(sizes)).bernoulli_(1 - rate) / (1 - rate)
    stays = (
        stays[:, None, None] if sizes is None else stays.repeat_interleave(sizes, output_size=values.shape[1])[:, None]
    )
    return values * stays


class FeedForward(nn.Module):
    """Two linear maps with an activation between them: `(batch, n_tokens, hidden_size)` in and out."""

    def __init__(self, hidden_size: int, intermediate_size: int, hidden_act: str = "gelu"):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return product(self.fc2, self.activation(product(self.fc1, hidden_states)))


class PreNormLayer(GradientCheckpointingLayer):
    """Transformer layer that normalises before attention and before the feed-forward block.

    Args:
        config: passed to [`SelfAttention`].
        hidden_size, num_attention_heads, intermediate_size: widths of the layer.
        hidden_act: activation of the feed-forward block; `"gelu"` is the exact (erf) form.
        layer_norm_eps: epsilon of both norms.
        qkv_bias: bias of the query, key and value projection.
        hidden_dropout: dropout after each of the two blocks while training.
        attention_dropout: dropout on attention weights while training.
        drop_path_rate: probability, while training, of leaving a block out for a sample; what stays is scaled up.
        layer_scale_init_value: start of a learned factor on each channel of both blocks' output; `None` or 0 for no
            factor.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_attention_heads: int,
        intermediate_size: int,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
        qkv_bias: bool = True,
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = SelfAttention(config, hidden_size, num_attention_heads, qkv_bias, attention_dropout)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = FeedForward(hidden_size, intermediate_size, hidden_act)
        self.dropout = nn.Dropout(hidden_dropout)
        self.drop_path_rate = drop_path_rate
        self.layer_scale_init_value = layer_scale_init_value
        self.layer_scale1 = nn.Parameter(torch.empty(hidden_size)) if layer_scale_init_value else None
        self.layer_scale2 = nn.Parameter(torch.empty(hidden_size)) if layer_scale_init_value else None

    def reset_layer_scale(self) -> None:
        """Set the learned factors to their start; for `_init_weights`."""
        for scale in (self.layer_scale1, self.layer_scale2):
            if scale is not None:
                init.constant_(scale, float(self.layer_scale_init_value or 0.0))

    def _add(
        self,
        hidden_states: torch.Tensor,
        output: torch.Tensor,
        scale: torch.Tensor | None,
        lengths: SequenceLengths | None = None,
    ) -> torch.Tensor:
        """The tokens with what a block adds to them."""
        output = drop_path(self.dropout(output), self.drop_path_rate if self.training else 0.0, lengths)
        return hidden_states + output if scale is None else torch.addcmul(hidden_states, output, scale)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        keep_mask: torch.Tensor | None = None,
        query_ids: TokenIds | None = None,
        lengths: SequenceLengths | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(batch, n_tokens, hidden_size)` in and out, or only the tokens `query_ids` out, computed from all.

        The last layer needs no more than these where the rest of its output is not used. See
        [`SelfAttention.forward`] for the masks; without `keep_mask` padded tokens attend as others do.
        """
        attention_output, _ = self.attention(
            self.layernorm_before(hidden_states), attention_mask, keep_mask, query_ids, lengths, **kwargs
        )
        if query_ids is not None:
            hidden_states = gather_tokens(hidden_states, query_ids)
        return self._rest(hidden_states, attention_output, lengths)

    def without_attention(self, hidden_states: torch.Tensor, lengths: SequenceLengths | None = None) -> torch.Tensor:
        """What the layer makes of tokens that attend to nothing, as with a `keep_mask` that is false for them."""
        projection: Any = self.attention.out_proj
        nothing = projection(hidden_states.new_zeros(1, 1, projection.in_features))  # the same for each of them
        return self._rest(hidden_states, nothing.expand(*hidden_states.shape[:2], -1), lengths)

    def _rest(
        self, hidden_states: torch.Tensor, attention_output: torch.Tensor, lengths: SequenceLengths | None
    ) -> torch.Tensor:
        hidden_states = self._add(hidden_states, attention_output, self.layer_scale1, lengths)
        return self._add(hidden_states, self.mlp(self.layernorm_after(hidden_states)), self.layer_scale2, lengths)


def layer_stack(config: Any, prefix: str = "", drop_path_rate: float = 0.0, **options: Any) -> nn.ModuleList:
    """The layers of an encoder, decoder or predictor.

    Args:
        config: of the model; `hidden_size`, `num_attention_heads`, `intermediate_size` and `num_hidden_layers` are
            read with `prefix` before their names, `hidden_act` and `layer_norm_eps` without.
        prefix: such as `"decoder_"`.
        drop_path_rate: that of the last layer; layers before it have linearly less, the first none.
        options: further arguments of [`PreNormLayer`], or other ones than those of `config`.
    """
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size")
    depth = getattr(config, f"{prefix}num_hidden_layers")
    options = {
        **{name: getattr(config, prefix + name) for name in sizes},
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        **options,
    }
    rates = [drop_path_rate * number / max(depth - 1, 1) for number in range(depth)]
    return nn.ModuleList(PreNormLayer(config, drop_path_rate=rate, **options) for rate in rates)
