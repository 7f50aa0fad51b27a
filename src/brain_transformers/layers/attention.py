"""Multi-head self-attention through the attention interface of transformers, without causal masking."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention, the reference of the fused kernels and the one that returns attention weights.

    Args:
        module: the attention module, read for `training` only.
        query, key, value: `(batch, n_heads, n_tokens, head_dim)`.
        attention_mask: additive mask that broadcasts to `(batch, n_heads, n_queries, n_keys)`, or `None`.
        scaling: factor on the scores before the softmax.
        dropout: probability of dropping an attention weight.

    Returns:
        Context `(batch, n_tokens, n_heads, head_dim)` and weights `(batch, n_heads, n_queries, n_keys)`.
    """
    scores = torch.matmul(query * scaling, key.transpose(-1, -2))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    dropped = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2).contiguous(), weights


def attend(
    module: nn.Module,
    config: PreTrainedConfig,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Run the implementation that `config._attn_implementation` names (eager, sdpa, flex, flash, or a registered one).

    Shapes are those of [`eager_attention`]; fused implementations return `None` for the weights.
    """
    implementation = config._attn_implementation or "eager"
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
    context, weights = function(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, is_causal=False, **kwargs
    )
    return context, weights


class SelfAttention(nn.Module):
    """Full self-attention with one fused projection for query, key and value.

    Args:
        config: read for `_attn_implementation` at each call, so that `set_attn_implementation` acts at once.
        hidden_size: width of the tokens.
        num_attention_heads: number of heads; divides `hidden_size`.
        qkv_bias: whether the fused projection has a bias.
        attention_dropout: dropout on the attention weights while training.
    """

    is_causal = False  # transformers' sdpa path is causal unless the module says otherwise

    def __init__(
        self,
        config: PreTrainedConfig,
        hidden_size: int,
        num_attention_heads: int,
        qkv_bias: bool = True,
        attention_dropout: float = 0.0,
    ):
        super().__init__()
        self.config = config
        self.num_attention_heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def project(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, each a view `(batch, n_heads, n_tokens, head_dim)` of one matrix product."""
        batch, n_tokens, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, n_tokens, 3, self.num_attention_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, n_tokens, hidden_size)` in and out; the second value holds the weights of the eager path."""
        query, key, value = self.project(hidden_states)
        dropout = self.attention_dropout if self.training else 0.0
        context, weights = attend(
            self, self.config, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
        )
        return self.out_proj(context.flatten(2)), weights
