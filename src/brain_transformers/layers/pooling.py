"""From tokens to one vector a sample."""

import torch


def pool_tokens(hidden_states: torch.Tensor, pooling: str, token_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Pool a sequence whose first token is CLS.

    Args:
        hidden_states: `(batch, 1 + n_tokens, hidden_size)`.
        pooling: `"cls"`; `"mean"` or `"max"` over the tokens without CLS; `"mean_with_cls"` over all of them, as
            BrainLM's fine-tuning code does.
        token_mask: `(batch, n_tokens)`, true for tokens that count; `None` if all do.

    Returns:
        `(batch, hidden_size)`.
    """
    if pooling == "cls":
        return hidden_states[:, 0]
    tokens = hidden_states if pooling == "mean_with_cls" else hidden_states[:, 1:]
    if token_mask is None:
        return tokens.amax(1) if pooling == "max" else tokens.mean(1)
    weights = token_mask.to(tokens.dtype)
    if pooling == "mean_with_cls":
        weights = torch.cat([weights.new_ones(weights.shape[0], 1), weights], dim=1)
    if pooling == "max":
        return tokens.masked_fill(weights[:, :, None] == 0, torch.finfo(tokens.dtype).min).amax(1)
    return (tokens * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)


def pool_all_tokens(hidden_states: torch.Tensor, pooling: str, token_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Pool a sequence without CLS.

    Args:
        hidden_states: `(batch, n_tokens, hidden_size)`.
        pooling: `"mean"`, `"max"`, or `"first"` for the first token alone.
        token_mask: `(batch, n_tokens)`, true for tokens that count; `None` if all do.

    Returns:
        `(batch, hidden_size)`.
    """
    if pooling == "first":
        return hidden_states[:, 0]
    if token_mask is None:
        return hidden_states.amax(1) if pooling == "max" else hidden_states.mean(1)
    weights = token_mask.to(hidden_states.dtype)[:, :, None]
    if pooling == "max":
        return hidden_states.masked_fill(weights == 0, torch.finfo(hidden_states.dtype).min).amax(1)
    return (hidden_states * weights).sum(1) / weights.sum(1)
