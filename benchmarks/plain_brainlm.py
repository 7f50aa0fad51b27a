"""BrainLM as it was published, step by step: eager attention, separate projections, repeated indices, decoder always
run.

Written from the description of the architecture, on the weights of our models, so that both give the same numbers.
"""

from typing import Any

import torch
from torch import nn


def linears_of(attention: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Weight and bias of query, key and value, which the published model keeps apart."""
    biases = attention.qkv.bias.chunk(3) if attention.qkv.bias is not None else (None, None, None)
    return list(zip(attention.qkv.weight.chunk(3), biases, strict=True))


def plain_attention(attention: Any, hidden_states: torch.Tensor, split_scale: bool, drop: float = 0.0) -> torch.Tensor:
    """Softmax attention that builds the whole score matrix; `split_scale` divides query and key each by d^(1/4)."""
    batch, n_tokens, width = hidden_states.shape
    n_heads, head_dim = attention.num_attention_heads, attention.head_dim
    query, key, value = (
        nn.functional.linear(hidden_states, weight, bias).view(batch, n_tokens, n_heads, head_dim).transpose(1, 2)
        for weight, bias in linears_of(attention)
    )
    if split_scale:
        query, key = query / head_dim**0.25, key / head_dim**0.25
        scores = query @ key.transpose(-1, -2)
    else:
        scores = query @ key.transpose(-1, -2) / head_dim**0.5
    probabilities = nn.functional.dropout(torch.softmax(scores, dim=-1), drop, attention.training)
    context = probabilities @ value
    convolution = getattr(attention, "token_convolution", None)
    if convolution is not None:
        weight = convolution.weight[:, None, :, None]
        context = context + nn.functional.conv2d(value, weight, padding=(weight.shape[2] // 2, 0), groups=n_heads)
    context = context.transpose(1, 2).reshape(batch, n_tokens, width)
    return attention.out_proj(context)


def plain_post_norm_layer(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    hidden_states = layer.attention_layernorm(plain_attention(layer.attention, hidden_states, True) + hidden_states)
    return layer.mlp_layernorm(layer.mlp(hidden_states) + hidden_states)


def plain_pre_norm_layer(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    hidden_states = hidden_states + plain_attention(layer.attention, layer.layernorm_before(hidden_states), False)
    return hidden_states + layer.mlp(layer.layernorm_after(hidden_states))


def plain_random_masking(
    tokens: torch.Tensor, mask_ratio: float, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ViT-MAE's masking: two sorts, a repeated index, a gathered mask."""
    batch, length, width = tokens.shape
    n_kept = int(length * (1 - mask_ratio))
    ids_shuffle = torch.argsort(noise, dim=1)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    ids_keep = ids_shuffle[:, :n_kept]
    kept = torch.gather(tokens, 1, ids_keep.unsqueeze(-1).repeat(1, 1, width))
    mask = torch.ones(batch, length, device=tokens.device)
    mask[:, :n_kept] = 0
    return kept, torch.gather(mask, 1, ids_restore), ids_restore


def plain_token_embeddings(
    embeddings: Any, signals: torch.Tensor, coordinates: torch.Tensor, mask_ratio: float, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Project every token, add coordinates repeated over windows and positions, then hide some."""
    batch, n_rois, n_timepoints = signals.shape
    n_windows = n_timepoints // embeddings.patch_size
    tokens = embeddings.signal_projection(signals.reshape(batch, n_rois, n_windows, embeddings.patch_size))
    tokens = tokens + embeddings.coordinate_projection(coordinates).unsqueeze(2).repeat(1, 1, n_windows, 1)
    tokens = tokens + embeddings.time_positions[:n_windows]
    tokens = tokens.reshape(batch, n_rois * n_windows, -1)
    tokens, mask, ids_restore = plain_random_masking(tokens, mask_ratio, noise)
    return torch.cat([embeddings.cls_token.expand(batch, -1, -1), tokens], dim=1), mask, ids_restore


def plain_tokens_forward(
    model: Any, signals: torch.Tensor, coordinates: torch.Tensor, noise: torch.Tensor, mask_ratio: float, decode: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The 13M model: encoder output, and loss or logits of the decoder if it runs."""
    body, decoder = model.brainlm, model.decoder
    hidden, mask, ids_restore = plain_token_embeddings(body.embeddings, signals, coordinates, mask_ratio, noise)
    for layer in body.layers:
        hidden = plain_post_norm_layer(layer, hidden)
    latent = body.layernorm(hidden)
    if not decode:
        return latent, None
    batch, n_rois, n_timepoints = signals.shape
    n_windows = n_timepoints // body.embeddings.patch_size
    tokens = decoder.embed(latent)
    hidden_places = decoder.mask_token.repeat(batch, ids_restore.shape[1] + 1 - tokens.shape[1], 1)
    patches = torch.cat([tokens[:, 1:], hidden_places], dim=1)
    patches = torch.gather(patches, 1, ids_restore.unsqueeze(-1).repeat(1, 1, patches.shape[2]))
    patches = patches.reshape(batch, n_rois, n_windows, -1)
    patches = patches + decoder.coordinate_projection(coordinates).unsqueeze(2).repeat(1, 1, n_windows, 1)
    patches = (patches + decoder.time_positions[:n_windows]).reshape(batch, n_rois * n_windows, -1)
    hidden = torch.cat([tokens[:, :1], patches], dim=1)
    for layer in decoder.layers:
        hidden = plain_post_norm_layer(layer, hidden)
    hidden = nn.functional.leaky_relu(decoder.prediction1(decoder.layernorm(hidden)), 0.1)
    logits = decoder.prediction2(hidden)[:, 1:].reshape(batch, n_rois, n_windows, -1)
    target = signals.reshape(logits.shape)
    weights = mask.reshape(batch, n_rois, n_windows, 1).expand_as(logits)
    return latent, ((logits - target) ** 2 * weights).sum() / weights.sum() if mask_ratio else logits


def plain_image_forward(
    model: Any, signals: torch.Tensor, noise: torch.Tensor, mask_ratio: float, decode: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The ViT models: repeat channels, pad, embed every patch, hide some; decode all patches, unpatchify, crop."""
    body, decoder, config = model.brainlm_vit, model.decoder, model.config
    side, patch, grid = config.image_size, config.patch_size, config.grid_size
    batch, n_rois, n_timepoints = signals.shape
    top, left = (side - n_rois) // 2, (side - n_timepoints) // 2
    pixels = signals.unsqueeze(1).repeat(1, 3, 1, 1)
    image = nn.functional.pad(pixels, (left, left, top, top), value=-1.0)
    tokens = body.embeddings.patch_projection(image).flatten(2).transpose(1, 2)
    tokens = tokens + body.embeddings.positions[:, 1:]
    tokens, mask, ids_restore = plain_random_masking(tokens, mask_ratio, noise)
    cls = (body.embeddings.cls_token + body.embeddings.positions[:, :1]).expand(batch, -1, -1)
    hidden = torch.cat([cls, tokens], dim=1)
    for layer in body.layers:
        hidden = plain_pre_norm_layer(layer, hidden)
    latent = body.layernorm(hidden)
    if not decode:
        return latent, None
    tokens = decoder.embed(latent)
    hidden_places = decoder.mask_token.repeat(batch, ids_restore.shape[1] + 1 - tokens.shape[1], 1)
    patches = torch.cat([tokens[:, 1:], hidden_places], dim=1)
    patches = torch.gather(patches, 1, ids_restore.unsqueeze(-1).repeat(1, 1, patches.shape[2]))
    hidden = torch.cat([tokens[:, :1], patches], dim=1) + decoder.positions
    for layer in decoder.layers:
        hidden = plain_pre_norm_layer(layer, hidden)
    raw = decoder.prediction(decoder.layernorm(hidden))[:, 1:]
    raw = raw.reshape(batch, grid, grid, patch, patch, 3)
    picture = torch.einsum("nhwpqc->nchpwq", raw).reshape(batch, 3, side, side)
    logits = picture[:, :, top:-top, left:-left].mean(1)
    pixel_mask = mask.reshape(batch, grid, grid).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    pixel_mask = pixel_mask[:, top:-top, left:-left]
    target = pixels.mean(1)
    return latent, ((logits - target) ** 2 * pixel_mask).sum() / pixel_mask.sum() if mask_ratio else logits


class PlainAdamW:
    """The optimizer of the published runs, tensor by tensor: eps before bias correction, decay after the update."""

    def __init__(self, parameters: list[torch.Tensor], lr: float, weight_decay: float):
        self.parameters, self.lr, self.weight_decay = parameters, lr, weight_decay
        self.steps = 0
        self.mean = [torch.zeros_like(parameter) for parameter in parameters]
        self.square = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        size = self.lr * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for parameter, mean, square in zip(self.parameters, self.mean, self.square, strict=True):
            assert parameter.grad is not None
            mean.mul_(0.9).add_(parameter.grad, alpha=0.1)
            square.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            denominator = square.sqrt().add_(1e-8)
            parameter.addcdiv_(mean, denominator, value=-size)
            parameter.add_(parameter, alpha=-self.lr * self.weight_decay)
