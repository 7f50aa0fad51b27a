"""Which tokens an encoder sees: random masking, padding, and the way back to natural order."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

# Rows of a sequence: int64 `(batch, n)` ids of each sample, or one slice for all.
TokenIds = torch.Tensor | slice


def num_kept_tokens(n_tokens: int, mask_ratio: float) -> int:
    """Number of visible tokens: `int(n_tokens * (1 - mask_ratio))` in double precision, as ViT-MAE counts them.

    The product is rounded down after rounding in binary, so 4,240 tokens at ratio 0.9 leave 423, not 424.
    """
    return int(n_tokens * (1 - mask_ratio))


@dataclass
class TokenSelection:
    """The tokens that go through an encoder, in the order in which they go.

    Attributes:
        ids_keep: int64 `(batch, n_kept)`, natural token ids of the visible tokens in encoder order.
        ids_restore: int64 `(batch, n_tokens)`, place of each natural token in the shuffled sequence.
        token_mask: float32 `(batch, n_tokens)`, 1 for tokens that are observed and hidden from the encoder.
        keep_mask: bool `(batch, n_kept)`, false where a row of `ids_keep` is filled up; `None` if none is.
        natural: whether the kept tokens are all observed ones in natural order, so that nothing was masked.
    """

    ids_keep: torch.Tensor
    ids_restore: torch.Tensor
    token_mask: torch.Tensor
    keep_mask: torch.Tensor | None = None
    natural: bool = False


def invert_permutation(ids: torch.Tensor) -> torch.Tensor:
    """Inverse of each row of an int64 `(batch, n)` tensor of permutations."""
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return torch.empty_like(ids).scatter_(1, ids, places)


def select_tokens(
    noise: torch.Tensor,
    mask_ratio: float,
    attention_mask: torch.Tensor | None = None,
    n_hidden: int | None = None,
) -> TokenSelection:
    """Keep the tokens with the smallest noise, in ascending order of noise (ViT-MAE's rule).

    Args:
        noise: `(batch, n_tokens)`; ties are ordered as `torch.argsort` orders them.
        mask_ratio: share of the observed tokens of each sample to hide, in [0, 1).
        attention_mask: `(batch, n_tokens)`, 1 = observed, 0 = padding. Padding is never kept nor counted as masked.
            Samples with fewer observed tokens keep fewer, so their rows of `ids_keep` are filled up and
            `keep_mask` says where. Reading the longest row synchronises with the device once; a compiled or exported
            pass does not, and fills all rows up to `n_tokens`.
        n_hidden: exact number of tokens to hide in place of `mask_ratio`; with padding, hidden places that are padded
            do not count.
    """
    n_tokens = noise.shape[1]
    if attention_mask is None:
        ids_shuffle = torch.argsort(noise, dim=1)
        ids_restore = invert_permutation(ids_shuffle)
        n_kept = num_kept_tokens(n_tokens, mask_ratio) if n_hidden is None else n_tokens - n_hidden
        token_mask = (ids_restore >= n_kept).to(torch.float32)
        return TokenSelection(ids_shuffle[:, :n_kept], ids_restore, token_mask)
    observed = attention_mask.bool()
    ids_shuffle = torch.argsort(noise.masked_fill(~observed, torch.inf), dim=1)
    ids_restore = invert_permutation(ids_shuffle)
    if n_hidden is None:
        counts = (observed.sum(1).double() * (1 - mask_ratio)).long()
    else:
        threshold = noise.sort(dim=1).values[:, -n_hidden, None] if n_hidden else torch.inf
        counts = (observed & (noise < threshold)).sum(1)
    n_kept = n_tokens if torch.compiler.is_compiling() else int(counts.max())
    token_mask = ((ids_restore >= counts[:, None]) & observed).to(torch.float32)
    keep_mask = torch.arange(n_kept, device=noise.device)[None, :] < counts[:, None]
    return TokenSelection(ids_shuffle[:, :n_kept], ids_restore, token_mask, keep_mask)


def pack_observed_tokens(attention_mask: torch.Tensor) -> TokenSelection:
    """Select the observed tokens of each sample in natural order, so that padding costs and changes nothing."""
    order = torch.arange(attention_mask.shape[1], device=attention_mask.device, dtype=torch.float32)
    selection = select_tokens(order.expand(attention_mask.shape[0], -1), 0.0, attention_mask)
    selection.natural = True
    return selection


def choose_tokens(
    signals: torch.Tensor,
    n_tokens: int,
    noise: torch.Tensor | None,
    mask_ratio: float | None,
    attention_mask: torch.Tensor | None,
    n_hidden: int | None = None,
) -> TokenSelection | None:
    """What an encoder is to see: `None` for everything in natural order, else a selection.

    Args:
        signals: `(batch, ...)`, read for batch size and device.
        n_tokens: tokens of a sample.
        noise: `(batch, n_tokens)`; drawn at random if something is to be hidden and it is not given.
        mask_ratio: share to hide; without noise, 0 or `None` keeps the natural order.
        attention_mask: `(batch, n_tokens)`, 1 = observed.
        n_hidden: exact number to hide in place of `mask_ratio`.

    Raises:
        ValueError: for a share that is none, or noise of another shape.
    """
    mask_ratio = mask_ratio or 0.0
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be at least 0 and below 1, got {mask_ratio}.")
    if noise is None and mask_ratio == 0:
        return None if attention_mask is None else pack_observed_tokens(attention_mask)
    if noise is None:
        noise = torch.rand(signals.shape[0], n_tokens, device=signals.device)
    check_tensor("noise", noise)
    if tuple(noise.shape) != (len(signals), n_tokens):
        raise ValueError(f"noise must be ({len(signals)}, {n_tokens}), one number a token, got {tuple(noise.shape)}.")
    return select_tokens(noise, mask_ratio, attention_mask, n_hidden)


def gather_tokens(tokens: torch.Tensor, ids: TokenIds) -> torch.Tensor:
    """Rows of `tokens` `(batch, n_tokens, width)`: a slice, or int64 ids `(batch, n)`."""
    if isinstance(ids, slice):
        return tokens[:, ids]
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


def restore_tokens(tokens: torch.Tensor, order: Any, filler: torch.Tensor | None = None) -> torch.Tensor:
    """Put the tokens that an encoder saw back in their natural places.

    Args:
        tokens: `(batch, n_kept, width)`, without CLS.
        order: a [`TokenSelection`] or what else has its `ids_restore` and `keep_mask`, such as the output of a body.
        filler: `(..., width)`, what stands in all other places, such as the mask embedding; zeros by default.

    Returns:
        `(batch, n_tokens, width)`.
    """
    filler = tokens.new_zeros(1) if filler is None else filler.to(tokens.dtype)
    if order.keep_mask is not None:
        tokens = torch.where(order.keep_mask[:, :, None], tokens, filler)
    batch, n_kept, width = tokens.shape
    hidden = filler.expand(batch, order.ids_restore.shape[1] - n_kept, width)
    return gather_tokens(torch.cat([tokens, hidden], dim=1), order.ids_restore)


def padding_masks(
    config: PreTrainedConfig, hidden_states: torch.Tensor, keep_mask: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Masks for a sequence of which some tokens are padding.

    Args:
        config: names the attention implementation, which decides the form of the first mask.
        hidden_states: `(batch, n_tokens, width)`.
        keep_mask: bool `(batch, n)`, false at padding, or `None` when there is none: then no mask is built at all.
            With fewer entries than tokens, those that are missing in front (CLS) are observed.

    Returns:
        The mask for attention, and bool `(batch, n_tokens)` for what runs along the tokens; both may be `None`. In a
        sample without any observed token all attend to all, so that there is no softmax over nothing.
    """
    if keep_mask is None:
        return None, None
    keep = torch.nn.functional.pad(keep_mask, (hidden_states.shape[1] - keep_mask.shape[1], 0), value=True)
    keys = keep | ~keep.any(1, keepdim=True)
    return create_bidirectional_mask(config=config, inputs_embeds=hidden_states, attention_mask=keys), keep


def check_tensor(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a tensor with something in it."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}. Use torch.as_tensor({name}).")
    if value.dim() == 0 or value.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(value.shape)}.")


def check_observed(attention_mask: torch.Tensor | None) -> None:
    """Raise ValueError if a sample has no observed token: its features would be those of no data.

    Not looked at where the host would have to wait for it in training, or the pass is being compiled.

    Args:
        attention_mask: `(batch, n_tokens)` without CLS, 1 = observed.
    """
    if attention_mask is None or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if attention_mask.device.type != "cpu" and torch.is_grad_enabled():
        return
    empty = (~attention_mask.bool().any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"attention_mask must hold an observed token in every sample, got none in {len(empty)} of "
            f"{len(attention_mask)}: row {', '.join(map(str, empty[:5]))} of the batch. Leave these scans out."
        )


def check_attention_mask(
    attention_mask: torch.Tensor | None, batch: int, n_tokens: int, has_cls: bool = True
) -> torch.Tensor | None:
    """Check an attention mask and drop its leading entry for CLS, if it has one.

    Args:
        attention_mask: `(batch, n_tokens)`, 1 = observed, or `(batch, 1 + n_tokens)` where the model has a CLS token.
        batch, n_tokens: sizes of the input, CLS left out.
        has_cls: whether the model has a CLS token.

    Raises:
        ValueError: if it has another shape, or a sample is empty.
    """
    if attention_mask is None:
        return None
    check_tensor("attention_mask", attention_mask)
    if has_cls and tuple(attention_mask.shape) == (batch, n_tokens + 1):
        attention_mask = attention_mask[:, 1:]
    if tuple(attention_mask.shape) != (batch, n_tokens):
        cls = "or one more for CLS" if has_cls else "and none for CLS, which this model does not have"
        raise ValueError(
            f"attention_mask must be ({batch}, {n_tokens}), one entry a token (ROI-major, time fastest), {cls}; got "
            f"{tuple(attention_mask.shape)}."
        )
    check_observed(attention_mask)
    return attention_mask
