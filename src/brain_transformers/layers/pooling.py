"""From tokens to one vector a sample, and from errors to one loss."""

import torch
from torch import nn


def pool_tokens(
    hidden_states: torch.Tensor, pooling: str, token_mask: torch.Tensor | None = None, has_cls: bool = True
) -> torch.Tensor:
    """Pool a sequence of tokens.

    Args:
        hidden_states: `(batch, n_tokens, hidden_size)`, with CLS in front of them if there is one.
        pooling: `"cls"`; `"mean"`, `"max"` or `"first"` of the tokens without CLS; `"mean_with_cls"` over all of them,
            as BrainLM's fine-tuning code does; `"cls_mean"`: mean, then CLS.
        token_mask: `(batch, n_tokens)` without CLS, true for tokens that count; `None` if all do.
        has_cls: whether CLS stands in front.

    Returns:
        `(batch, hidden_size)`, twice as wide for `"cls_mean"`; NaN for a mean or maximum of no tokens.

    Raises:
        ValueError: for a pooling that there is none of.
    """
    if pooling not in ("mean", "max", "first", *(("cls", "mean_with_cls", "cls_mean") if has_cls else ())):
        raise ValueError(f"pooling must be one of those of the model's configuration, got {pooling!r}.")
    tokens = hidden_states[:, int(has_cls) :]
    if pooling == "cls":
        return hidden_states[:, 0]
    if pooling == "first":
        return tokens[:, 0]
    if pooling == "cls_mean":
        return torch.cat([pool_tokens(hidden_states, "mean", token_mask), hidden_states[:, 0]], dim=1)
    if pooling == "mean_with_cls":
        tokens = hidden_states
        token_mask = None if token_mask is None else nn.functional.pad(token_mask.bool(), (1, 0), value=True)
    if token_mask is None:
        return tokens.amax(1) if pooling == "max" else tokens.mean(1)
    weights = token_mask.to(tokens.dtype)[:, :, None]
    if pooling == "max":
        highest = tokens.masked_fill(weights == 0, -torch.inf).amax(1)
        return highest.masked_fill(highest == -torch.inf, torch.nan)
    return (tokens * weights).sum(1) / weights.sum(1)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of `values` where `mask` is 1 over the number of such entries, pooled over the batch (0 if none)."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
