"""From tokens to one vector a sample."""

import torch
from torch import nn


def pool_tokens(hidden_states: torch.Tensor, pooling: str, token_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Pool a sequence whose first token is CLS.

    Args:
        hidden_states: `(batch, 1 + n_tokens, hidden_size)`.
        pooling: `"cls"`; `"mean"` or `"max"` over the tokens without CLS; `"mean_with_cls"` over all of them, as
            BrainLM's fine-tuning code does.
        token_mask: `(batch, n_tokens)`, true for tokens that count; `None` if all do.

    Returns:
        `(batch, hidden_size)`; NaN for a mean or maximum of no tokens.
    """
    if pooling == "cls":
        return hidden_states[:, 0]
    tokens = hidden_states if pooling == "mean_with_cls" else hidden_states[:, 1:]
    if token_mask is not None and pooling == "mean_with_cls":
        token_mask = nn.functional.pad(token_mask.bool(), (1, 0), value=True)
    return _pool(tokens, pooling, token_mask)


def pool_all_tokens(hidden_states: torch.Tensor, pooling: str, token_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Pool a sequence without CLS.

    Args:
        hidden_states: `(batch, n_tokens, hidden_size)`.
        pooling: `"mean"`, `"max"`, or `"first"` for the first token alone.
        token_mask: `(batch, n_tokens)`, true for tokens that count; `None` if all do.

    Returns:
        `(batch, hidden_size)`; NaN for a mean or maximum of no tokens.
    """
    if pooling == "first":
        return hidden_states[:, 0]
    return _pool(hidden_states, pooling, token_mask)


def _pool(tokens: torch.Tensor, pooling: str, token_mask: torch.Tensor | None) -> torch.Tensor:
    if pooling not in ("mean", "mean_with_cls", "max"):
        raise ValueError(f"pooling must be one of those of the model's configuration, got {pooling!r}.")
    if token_mask is None:
        return tokens.amax(1) if pooling == "max" else tokens.mean(1)
    weights = token_mask.to(tokens.dtype)[:, :, None]
    if pooling == "max":
        highest = tokens.masked_fill(weights == 0, -torch.inf).amax(1)
        return highest.masked_fill(highest == -torch.inf, torch.nan)
    return (tokens * weights).sum(1) / weights.sum(1)
