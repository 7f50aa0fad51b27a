"""Samples of different lengths in one sequence, behind one another: what is padded costs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

VARLEN = "torch_varlen"
"""Name of torch's variable-length attention among the implementations of transformers."""

# What the flash kernels take.
_LARGEST_HEAD = 256


@dataclass
class SequenceLengths:
    """How many tokens of each sample stand in a packed sequence `(1, n_tokens, width)`.

    Attributes:
        keys: of each sample.
        device: of the sequence.
        queries: of each sample, where only some tokens come out of a layer; by default `keys`.
    """

    keys: tuple[int, ...]
    device: torch.device
    queries: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.queries = self.queries or self.keys

    @cached_property
    def flash_arguments(self) -> dict[str, Any]:
        """What transformers hands to kernels for variable lengths."""
        arguments: dict[str, Any] = {}
        for name, lengths in (("q", self.queries), ("k", self.keys)):
            ends = torch.tensor((0, *lengths), dtype=torch.int32).cumsum(0, dtype=torch.int32)
            arguments[f"cu_seq_lens_{name}"] = ends.to(self.device)
            arguments[f"max_length_{name}"] = max(lengths, default=0)
        return arguments


@dataclass
class Packing:
    """The observed tokens of a batch in one sequence.

    Attributes:
        keep: bool `(batch, n_tokens)`, which tokens are observed. Counting them synchronises with the device once.
    """

    keep: torch.Tensor

    @cached_property
    def lengths(self) -> SequenceLengths:
        """Observed tokens of each sample."""
        return SequenceLengths(tuple(self.keep.sum(1).tolist()), self.keep.device)

    @cached_property
    def places(self) -> torch.Tensor:
        """Of the observed tokens in the batch, int64 `(n_observed,)`."""
        return self.keep.flatten().nonzero().flatten()

    def pack(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch, n_tokens, width)` -> `(1, n_observed, width)`."""
        return tokens.flatten(0, 1)[self.places][None]

    def unpack(self, observed: torch.Tensor, padded: torch.Tensor, padding: "Packing") -> torch.Tensor:
        """Back to `(batch, n_tokens, width)`, from these tokens and those of the opposite packing."""
        output = observed.new_empty(self.keep.numel(), observed.shape[2])
        output = output.index_copy(0, self.places, observed[0])
        return output.index_copy(0, padding.places, padded[0].to(observed.dtype)).view(*self.keep.shape, -1)


@lru_cache(maxsize=1)
def _varlen_attn() -> Callable[..., Any] | None:
    try:  # torch 2.10 brought it
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def varlen_runs(query: torch.Tensor, dropout: float = 0.0) -> bool:
    """Whether torch's variable-length attention takes such queries `(batch, n_heads, n_tokens, head_dim)`."""
    return (
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and dropout == 0
        and query.shape[3] <= _LARGEST_HEAD
        and query.shape[3] % 8 == 0
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and _varlen_attn() is not None
    )


def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """torch's own variable-length attention, without the package flash-attn: an implementation for transformers.

    A sequence that is not packed goes to `sdpa`.

    Args:
        module, scaling: see [`eager_attention`].
        query, key, value: `(1, n_heads, n_tokens, head_dim)`, float16 or bfloat16 on a CUDA device from Ampere on.
        attention_mask, dropout: only for a sequence that is not packed.
        cu_seq_lens_q, cu_seq_lens_k: int32 `(n_samples + 1,)`, where each sample begins and the last ends.
        max_length_q, max_length_k: tokens of the longest sample.

    Returns:
        `(1, n_tokens, n_heads, head_dim)`.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    function = _varlen_attn()
    assert function is not None  # asked before
    packed = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))
    context = function(*packed, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, scale=scaling)
    return context[None], None


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, sdpa_mask)


def attend_within_samples(
    function: Callable[..., tuple[torch.Tensor, Any]],
    name: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: SequenceLengths,
    dropout: float,
    **kwargs: Any,
) -> torch.Tensor:
    """Attention in a packed sequence, every sample for itself.

    By the kernels for variable lengths where `name` is one of flash-attn's or torch's runs; else sample by sample,
    which on a CPU is five times as fast as padding with a mask.

    Args:
        function, name: an implementation of attention and its name among those of transformers.
        module: the attention module.
        query, key, value: `(1, n_heads, n_tokens, head_dim)`.

    Returns:
        `(1, n_queries, n_heads, head_dim)`.
    """
    if name in ("sdpa", VARLEN) and varlen_runs(query, dropout):
        function, name = varlen_attention, VARLEN
    elif name == VARLEN:
        function, name = sdpa_attention_forward, "sdpa"
    if name == VARLEN or name.startswith("flash_attention"):
        return function(module, query, key, value, None, dropout=dropout, **lengths.flash_arguments, **kwargs)[0]
    sizes = (lengths.queries, lengths.keys, lengths.keys)
    if all(len(set(each)) == 1 for each in sizes):  # as many tokens in each sample: a batch
        n_samples = len(lengths.keys)
        batch = (each[0].unflatten(1, (n_samples, -1)).transpose(0, 1) for each in (query, key, value))
        return function(module, *batch, None, dropout=dropout, **kwargs)[0].flatten(0, 1)[None]
    parts = zip(*(each.split(size, 2) for each, size in zip((query, key, value), sizes)))
    contexts = [function(module, *part, None, dropout=dropout, **kwargs)[0] for part in parts if part[0].shape[2]]
    return torch.cat(contexts, dim=1)
