"""The made-up network: a masked autoencoder over patches of parcels."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.masking import check_attention_mask, choose_tokens, gather_tokens, padding_masks, restore_tokens
from ...layers.pooling import masked_mean
from ...layers.positions import sincos_table
from ...layers.transformer import PreNormLayer, layer_stack
from ..classification import BrainForSequenceClassification
from ..modeling_base import BrainModelOutput, MaskedModelingOutput, encoder_output
from ..modeling_roi import ROIPreTrainedModel
from .configuration_made_up import MadeUpConfig


class MadeUpEmbeddings(nn.Module):
    """A projection of each patch with its position, after a CLS token."""

    positions: torch.Tensor

    def __init__(self, config: MadeUpConfig):
        super().__init__()
        self.projection = nn.Linear(config.patch_size, config.hidden_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.register_buffer("positions", torch.empty(1, 1 + MadeUpModel.n_tokens(config), config.hidden_size))

    def forward(self, patches: torch.Tensor, ids_keep: torch.Tensor | None) -> torch.Tensor:
        positions = self.positions[:, 1:].expand(len(patches), -1, -1)
        if ids_keep is not None:
            patches, positions = gather_tokens(patches, ids_keep), gather_tokens(positions, ids_keep)
        tokens = self.projection(patches) + positions.to(self.cls_token.dtype)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


class MadeUpPreTrainedModel(ROIPreTrainedModel):
    """What the classes of the family share."""

    config: MadeUpConfig
    base_model_prefix = "made_up"
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        config = self.config
        if isinstance(module, MadeUpEmbeddings):
            init.normal_(module.cls_token, std=config.initializer_range)
            grid = (config.n_rois, config.n_timepoints // config.patch_size)
            init.copy_(module.positions, sincos_table(grid, config.hidden_size, cls_row=True)[None])
        elif isinstance(module, MadeUpDecoder):
            init.normal_(module.mask_token, std=config.initializer_range)

    def _check_length(self, n_timepoints: int) -> None:
        if n_timepoints != self.config.n_timepoints:
            raise ValueError(f"Expected n_timepoints {self.config.n_timepoints}, got {n_timepoints}.")


class MadeUpModel(MadeUpPreTrainedModel):
    """The body."""

    def __init__(self, config: MadeUpConfig):
        super().__init__(config)
        self.embeddings = MadeUpEmbeddings(config)
        self.layers = layer_stack(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows; arguments as in the other families."""
        self._check_signals(signals)
        n_tokens = self.n_tokens(self.config)
        attention_mask = check_attention_mask(attention_mask, len(signals), n_tokens)
        selection = choose_tokens(signals, n_tokens, noise, mask_ratio, attention_mask)
        patches = signals.reshape(len(signals), n_tokens, -1).to(self.embeddings.cls_token.dtype)
        hidden_states = self.embeddings(patches, selection.ids_keep if selection else None)
        mask, _ = padding_masks(self.config, hidden_states, selection.keep_mask if selection else None)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return encoder_output(self.layernorm(hidden_states), selection, self.config.pooling)


class MadeUpDecoder(nn.Module):
    """From the tokens that were seen to the signal of all."""

    def __init__(self, config: MadeUpConfig):
        super().__init__()
        self.config = config
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.layers = layer_stack(config)
        self.prediction = nn.Linear(config.hidden_size, config.patch_size)

    def forward(self, encoded: BrainModelOutput, attention_mask: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
        tokens = encoded.last_hidden_state[:, 1:]
        if encoded.ids_restore is not None:
            tokens = restore_tokens(tokens, encoded, self.mask_token)
        mask, _ = padding_masks(self.config, tokens, None if attention_mask is None else attention_mask.bool())
        for layer in self.layers:
            tokens = layer(tokens, mask, **kwargs)
        return self.prediction(tokens)


class MadeUpForMaskedModeling(MadeUpPreTrainedModel):
    """Hides patches and predicts them."""

    masked_by_noise = True
    _may_be_new = ("decoder.",)

    def __init__(self, config: MadeUpConfig):
        super().__init__(config)
        self.made_up = MadeUpModel(config)
        self.decoder = MadeUpDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        """Hide patches and predict them; arguments as in [`MadeUpModel.forward`]."""
        mask_ratio = self.config.mask_ratio if mask_ratio is None else mask_ratio
        encoded = self.made_up(signals, attention_mask, noise, mask_ratio, return_dict=True, **kwargs)
        attention_mask = check_attention_mask(attention_mask, len(signals), self.n_tokens(self.config))
        logits = self.decoder(encoded, attention_mask, **kwargs)
        predictions, hidden, loss = logits.reshape(signals.shape), encoded.token_mask, None
        signal_mask = torch.zeros_like(signals)
        if hidden is not None:
            signal_mask = hidden[:, :, None].expand(-1, -1, self.config.patch_size).reshape(signals.shape)
            loss = masked_mean((predictions.float() - signals.float()).square(), signal_mask)
        return MaskedModelingOutput(
            loss=loss,
            logits=logits,
            predictions=predictions,
            targets=signals,
            signal_mask=signal_mask,
            token_mask=hidden,
            ids_restore=encoded.ids_restore,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class MadeUpForSequenceClassification(BrainForSequenceClassification, MadeUpPreTrainedModel):
    """The body with a head."""

    body_class = MadeUpModel
