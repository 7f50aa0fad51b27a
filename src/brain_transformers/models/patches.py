"""What masked autoencoders over patches of an image or volume have in common: ViT-MAE's first layer and decoder."""

import math
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from ..layers.masking import gather_tokens, padding_masks, restore_tokens
from ..layers.plain import is_plain
from ..layers.positions import sincos_table
from .modeling_base import BrainModelOutput


def patches_of(images: torch.Tensor, grid: tuple[int, ...], side: int) -> torch.Tensor:
    """Values of each patch of images or volumes `(batch, channels, *sizes)`, `grid` patches along each axis.

    Returns:
        `(batch, n_patches, channels * values)`.
    """
    n_axes = len(grid)
    cut = images.reshape(*images.shape[:2], *(size for count in grid for size in (count, side)))
    patches = cut.permute(0, *range(2, 2 + 2 * n_axes, 2), 1, *range(3, 3 + 2 * n_axes, 2))
    return patches.flatten(1, n_axes).flatten(2)


class PatchEmbeddings(nn.Module):
    """A projection of each patch, with fixed positions, after a CLS token.

    Args:
        projection: convolution whose kernel is its stride.
        grid: patches along each axis.
        width: of the tokens.
    """

    positions: torch.Tensor

    def __init__(self, projection: nn.Conv2d | nn.Conv3d, grid: tuple[int, ...], width: int):
        super().__init__()
        self.grid, self.n_channels = grid, projection.in_channels
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_projection = projection
        self.register_buffer("positions", torch.empty(1, 1 + math.prod(grid), width))

    def forward(self, images: torch.Tensor, ids_keep: torch.Tensor | None = None) -> torch.Tensor:
        """Embed the patches `ids_keep` `(batch, n_kept)`, or all of them in natural order.

        Args:
            images: `(batch, channels, *sizes)`; one channel stands for identical channels.

        Returns:
            `(batch, 1 + n_kept, width)`.
        """
        projection, dtype = self.patch_projection, self.cls_token.dtype
        images = images.to(dtype)
        if is_plain(projection):
            # One matrix product over the patches that are wanted, since they do not overlap. Where one channel stands
            # for all, their weights are summed instead of the image being repeated.
            patches = patches_of(images, self.grid, projection.kernel_size[0])
            patches = patches if ids_keep is None else gather_tokens(patches, ids_keep)
            weight = projection.weight if images.shape[1] == self.n_channels else projection.weight.sum(1)
            tokens = nn.functional.linear(patches, weight.flatten(1), projection.bias)
        else:
            channels = images.expand(-1, self.n_channels, *images.shape[2:])
            tokens = projection(channels).flatten(2).transpose(1, 2)
            tokens = tokens if ids_keep is None else gather_tokens(tokens, ids_keep)
        positions = self.positions.to(dtype)
        tokens = tokens + (positions[:, 1:] if ids_keep is None else positions[0, 1:][ids_keep])
        cls = (self.cls_token + positions[:, :1]).to(tokens.dtype)
        return torch.cat([cls.expand(len(tokens), -1, -1), tokens], dim=1)


class PatchDecoder(nn.Module):
    """Fills hidden places with the mask token; a family runs the layers and predicts the values of its patches.

    Args:
        config: with `hidden_size`, `decoder_hidden_size` and `layer_norm_eps`.
        layers: transformer layers of the decoder's width.
        n_patches: patches of a sample.
        n_values: values of a patch.
    """

    positions: torch.Tensor

    def __init__(self, config: Any, layers: nn.ModuleList, n_patches: int, n_values: int):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.embed = nn.Linear(config.hidden_size, width)
        self.register_buffer("positions", torch.empty(1, 1 + n_patches, width))
        self.layers = layers
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction = nn.Linear(width, n_values)

    def start(
        self, encoded: BrainModelOutput, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Input of the first layer, CLS and all patches in natural order, and the mask for attention.

        Args:
            encoded: output of the encoder.
            attention_mask: `(batch, n_patches)`, 1 = observed.
        """
        latent = self.embed(encoded.last_hidden_state)
        tokens = latent[:, 1:]
        if encoded.ids_restore is not None:
            tokens = restore_tokens(tokens, encoded, self.mask_token)
        hidden_states = torch.cat([latent[:, :1], tokens], dim=1) + self.positions.to(latent.dtype)
        keep = None if attention_mask is None else attention_mask.bool()
        return hidden_states, padding_masks(self.config, hidden_states, keep)[0]


def start_patches(module: PatchEmbeddings | PatchDecoder, grid: tuple[int, ...], std: float) -> None:
    """CLS or mask token at random, and sine-cosine positions of `grid` patches along each axis."""
    init.normal_(module.cls_token if isinstance(module, PatchEmbeddings) else module.mask_token, std=std)
    init.copy_(module.positions, sincos_table(grid, module.positions.shape[-1], cls_row=True)[None])
