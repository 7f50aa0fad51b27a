"""Multi-head self-attention through the attention interface of transformers, without causal masking."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .plain import is_plain, linear


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


def pick_tokens(tokens: torch.Tensor, ids: torch.Tensor | slice) -> torch.Tensor:
    """Rows of `tokens` `(batch, n_tokens, width)`: a slice, or int64 ids `(batch, n)`."""
    if isinstance(ids, slice):
        return tokens[:, ids]
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


class FusedProjections(nn.Module):
    """The weights of self-attention: one fused projection for query, key and value, and one back.

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
        qkv = linear(self.qkv, hidden_states).view(batch, n_tokens, 3, self.num_attention_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value


class SelfAttention(FusedProjections):
    """Full self-attention; arguments as in [`FusedProjections`]."""

    def project_queries_of(
        self, hidden_states: torch.Tensor, query_ids: torch.Tensor | slice
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As [`project`], with queries only for some of the tokens."""
        if not is_plain(self.qkv):
            query, key, value = self.project(hidden_states)
            flat = pick_tokens(query.transpose(1, 2).flatten(2), query_ids)
            return flat.unflatten(2, (self.num_attention_heads, self.head_dim)).transpose(1, 2), key, value
        width = self.qkv.in_features
        bias_q = bias_kv = None
        if self.qkv.bias is not None:
            bias_q, bias_kv = self.qkv.bias[:width], self.qkv.bias[width:]
        query = nn.functional.linear(pick_tokens(hidden_states, query_ids), self.qkv.weight[:width], bias_q)
        pair = nn.functional.linear(hidden_states, self.qkv.weight[width:], bias_kv)
        query = query.unflatten(2, (self.num_attention_heads, self.head_dim)).transpose(1, 2)
        key, value = pair.unflatten(2, (2, self.num_attention_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        query_ids: torch.Tensor | slice | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, n_tokens, hidden_size)` in and out; the second value holds the weights of the eager path.

        With `query_ids` (see [`pick_tokens`]) only those tokens attend and come out, to all tokens. That cannot go
        with an `attention_mask`, whose form for a part of the queries differs between implementations.
        """
        if query_ids is None:
            query, key, value = self.project(hidden_states)
        else:
            query, key, value = self.project_queries_of(hidden_states, query_ids)
        dropout = self.attention_dropout if self.training else 0.0
        context, weights = attend(
            self, self.config, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
        )
        return linear(self.out_proj, context.flatten(2)), weights
