"""Multi-head self-attention through the attention interface of transformers, without causal masking."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .masking import TokenIds, gather_tokens
from .packing import SequenceLengths, attend_within_samples
from .plain import is_plain, product


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


class SelfAttention(nn.Module):
    """Full self-attention, with one fused projection for query, key and value.

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

    def project(
        self, hidden_states: torch.Tensor, query_ids: TokenIds | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, each `(batch, n_heads, n_tokens, head_dim)`; queries only of `query_ids`, if given."""
        heads = (self.num_attention_heads, self.head_dim)
        if query_ids is None or not is_plain(self.qkv):
            query, key, value = (
                product(self.qkv, hidden_states).unflatten(2, (3, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
            )
            if query_ids is not None:
                query = gather_tokens(query.transpose(1, 2).flatten(2), query_ids).unflatten(2, heads).transpose(1, 2)
            return query, key, value
        width, weight, bias = self.qkv.in_features, self.qkv.weight, self.qkv.bias
        bias_q, bias_kv = (None, None) if bias is None else (bias[:width], bias[width:])
        query = nn.functional.linear(gather_tokens(hidden_states, query_ids), weight[:width], bias_q)
        pair = nn.functional.linear(hidden_states, weight[width:], bias_kv)
        key, value = pair.unflatten(2, (2, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
        return query.unflatten(2, heads).transpose(1, 2), key, value

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        lengths: SequenceLengths | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the implementation that the config names (eager, sdpa, flex, flash, or a registered one).

        Arguments are those of [`eager_attention`], and the `lengths` of a packed sequence. Returns the context
        `(batch, n_tokens, hidden_size)` and the weights; fused implementations return `None` for these.
        """
        name = self.config._attn_implementation or "eager"
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        options = {
            "scaling": self.scaling,
            "dropout": self.attention_dropout if self.training else 0.0,
            "is_causal": False,
            **kwargs,
        }
        if lengths is not None:
            return attend_within_samples(function, name, self, query, key, value, lengths, **options).flatten(2), None
        context, weights = function(self, query, key, value, attention_mask, **options)
        return context.flatten(2), weights

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        keep_mask: torch.Tensor | None = None,
        query_ids: TokenIds | None = None,
        lengths: SequenceLengths | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend; the second value holds the weights of the eager path.

        Args:
            hidden_states: `(batch, n_tokens, hidden_size)`.
            attention_mask: see [`padding_masks`].
            keep_mask: bool `(batch, n_tokens)`; where it is false the context is 0, so that the output is the bias of
                `out_proj`.
            query_ids: the tokens (see [`gather_tokens`]) that come out, computed alone where nothing is masked: the
                form of a mask for a part of the queries differs between implementations.
            lengths: of a packed sequence `(1, n_tokens, hidden_size)`, whose samples attend each to itself.

        Returns:
            `(batch, n_tokens, hidden_size)`, or the tokens `query_ids` of it.
        """
        alone = query_ids if attention_mask is None else None
        query, key, value = self.project(hidden_states, alone)
        context, weights = self.attend(query, key, value, attention_mask, lengths, **kwargs)
        if query_ids is not None and alone is None:
            context = gather_tokens(context, query_ids)
        if keep_mask is not None:
            kept = keep_mask[:, :, None] if query_ids is None else gather_tokens(keep_mask[:, :, None], query_ids)
            context = context.masked_fill(~kept, 0.0)
        return product(self.out_proj, context), weights
