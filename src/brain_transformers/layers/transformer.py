"""Feed-forward block and the pre-norm transformer layer."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import SelfAttention, pick_tokens
from .plain import linear


class FeedForward(nn.Module):
    """Two linear maps with an activation between them: `(batch, n_tokens, hidden_size)` in and out."""

    def __init__(self, hidden_size: int, intermediate_size: int, hidden_act: str = "gelu"):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[hidden_act]
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return linear(self.fc2, self.activation(linear(self.fc1, hidden_states)))


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
    ):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = SelfAttention(config, hidden_size, num_attention_heads, qkv_bias, attention_dropout)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.mlp = FeedForward(hidden_size, intermediate_size, hidden_act)
        self.dropout = nn.Dropout(hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        query_ids: torch.Tensor | slice | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(batch, n_tokens, hidden_size)` in and out.

        With `query_ids` only those tokens are computed, from all tokens: what a last layer needs when the rest of its
        output is not used. See [`SelfAttention.forward`].
        """
        normed = self.layernorm_before(hidden_states)
        if query_ids is None:
            attention_output, _ = self.attention(normed, attention_mask, **kwargs)
        else:
            attention_output, _ = self.attention(normed, attention_mask, query_ids, **kwargs)
            hidden_states = pick_tokens(hidden_states, query_ids)
        hidden_states = hidden_states + self.dropout(attention_output)
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states)))
