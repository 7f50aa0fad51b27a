"""The decoder of masked autoencoders over patches: ViT-MAE's."""

from typing import Any

import torch
from torch import nn

from ..layers.masking import padding_masks, restore_tokens
from .modeling_base import BrainModelOutput


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
