"""Harmonix-S: a vision transformer over the cubes of a T1 volume, and a masked autoencoder that trains it.

Source: Dong et al., "Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D Tokens",
NeurIPS 2025 (arXiv 2509.24693), and the released weights. The decoder is ours: the authors released the encoder only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.masking import (
    check_attention_mask,
    check_tensor,
    choose_tokens,
    padding_masks,
)
from ...layers.pooling import masked_mean
from ...layers.transformer import PreNormLayer, layer_stack
from ..classification import BrainForSequenceClassification
from ..modeling_base import BrainModelOutput, BrainPreTrainedModel, MaskedModelingOutput, encoder_output
from ..patches import PatchDecoder, PatchEmbeddings, patches_of, start_patches
from .configuration_harmonix_s import HarmonixSConfig


def volumes_of(patches: torch.Tensor, grid: tuple[int, ...], patch_size: int) -> torch.Tensor:
    """The way back of [`patches_of`], for `grid` patches along each axis; one number a patch is spread over it."""
    x, y, z = grid
    side = patch_size
    cubes = patches.expand(-1, -1, side**3).reshape(len(patches), x, y, z, side, side, side)
    return cubes.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(patches), 1, x * side, y * side, z * side)


class HarmonixSPreTrainedModel(BrainPreTrainedModel):
    """Weights and checks that the Harmonix-S classes share."""

    config: HarmonixSConfig
    base_model_prefix = "harmonix_s"
    main_input_name = "t1_volumes"
    input_modalities = ["image"]
    _no_split_modules = ["PreNormLayer", "PatchEmbeddings"]
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the released code does: Xavier uniform, and no bias."""
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight)
            else:  # as the linear map of a patch that it is
                bound = (6 / (module.weight[0].numel() + len(module.weight))) ** 0.5
                init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (PatchEmbeddings, PatchDecoder)):
            start_patches(module, self.config.grid, self.config.initializer_range)

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> int:
        """See [`BrainPreTrainedModel.n_tokens`]: one token a patch."""
        return config.n_patches


class HarmonixSModel(HarmonixSPreTrainedModel):
    """Harmonix-S, the structural encoder of BrainHarmony: a token for each cube of a T1 volume.

    BrainHarmony reads the tokens of the patches, `last_hidden_state[:, 1:]`. Known limits: volumes are brains without
    skull in MNI152, as the feature extractor makes them; the grid of the released weights is 10 x 12 x 10 patches.
    """

    def __init__(self, config: HarmonixSConfig):
        super().__init__(config)
        width, side = config.hidden_size, config.patch_size
        projection = nn.Conv3d(1, width, kernel_size=side, stride=side)
        self.embeddings = PatchEmbeddings(projection, config.grid, width)
        self.layers = layer_stack(config, drop_path_rate=float(config.drop_path_rate))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        t1_volumes: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode T1 volumes.

        Args:
            t1_volumes: float `(batch, 1, *image_size)`, scaled by the feature extractor.
            attention_mask: `(batch, n_patches)`, 1 = observed, for volumes of which some patches are not to count,
                such as a lesion; with or without a leading entry for CLS. These are left out and come back as zeros.
            noise: `(batch, n_patches)`; patches are encoded in its ascending order.
            mask_ratio: share of patches to hide, with `noise` drawn at random if it is not given. Default 0.

        Raises:
            ValueError: for volumes of another size, or wrong masks.
        """
        config = self.config
        check_tensor("t1_volumes", t1_volumes)
        if tuple(t1_volumes.shape[1:]) != (1, *config.image_size):
            size = ", ".join(map(str, config.image_size))
            raise ValueError(
                f"t1_volumes must be (batch, 1, {size}), got {tuple(t1_volumes.shape)}. Pass the image through the "
                "feature extractor, which turns, resamples, scales and crops it."
            )
        attention_mask = check_attention_mask(attention_mask, len(t1_volumes), config.n_patches)
        selection = choose_tokens(t1_volumes, config.n_patches, noise, mask_ratio, attention_mask)
        hidden_states = self.embeddings(t1_volumes, selection.ids_keep if selection else None)
        mask, _ = padding_masks(config, hidden_states, selection.keep_mask if selection else None)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return encoder_output(self.layernorm(hidden_states), selection, config.pooling)


class HarmonixSDecoder(PatchDecoder):
    """From the tokens that were seen to the voxels of every patch."""

    def __init__(self, config: HarmonixSConfig):
        super().__init__(config, layer_stack(config, "decoder_"), config.n_patches, config.patch_size**3)

    def forward(
        self, encoded: BrainModelOutput, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Voxels of all patches `(batch, n_patches, patch_size**3)`, and the states of all layers."""
        hidden_states, mask = self.start(encoded, attention_mask)
        states = [hidden_states]
        for layer in self.layers:
            states.append(layer(states[-1], mask, **kwargs))
        return self.prediction(self.layernorm(states[-1])[:, 1:]), tuple(states)


class HarmonixSForMaskedModeling(HarmonixSPreTrainedModel):
    """Harmonix-S with a decoder: hides patches of T1 volumes and reconstructs them.

    The authors released neither their decoder nor the code of this stage. The decoder is that of masked autoencoders
    in general, the loss the authors' helper: squared errors of patches that were hidden, by default of voxels scaled
    in each patch.
    """

    masked_by_noise = True
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]
    _may_be_new = ("decoder.",)

    def __init__(self, config: HarmonixSConfig):
        super().__init__(config)
        self.harmonix_s = HarmonixSModel(config)
        self.decoder = HarmonixSDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        t1_volumes: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        """Hide patches and predict them; arguments as in [`HarmonixSModel.forward`].

        `mask_ratio` defaults to the configuration. `return_loss` is there for the Trainer, which asks for it in
        evaluation.

        Returns:
            `loss`; `logits` `(batch, n_patches, patch_size**3)`; `predictions`, `targets` and `signal_mask`
            `(batch, 1, *image_size)`, of voxels scaled in each patch if `config.norm_pix_loss`.
        """
        config = self.config
        mask_ratio = config.mask_ratio if mask_ratio is None else mask_ratio
        encoded = self.harmonix_s(t1_volumes, attention_mask, noise, mask_ratio, return_dict=True, **kwargs)
        attention_mask = check_attention_mask(attention_mask, len(t1_volumes), config.n_patches)
        logits, states = self.decoder(encoded, attention_mask, **kwargs)
        targets = patches_of(t1_volumes.float(), config.grid, config.patch_size)
        if config.norm_pix_loss:
            variance, mean = torch.var_mean(targets, dim=2, keepdim=True)
            targets = (targets - mean) / (variance + 1e-6).sqrt()
        hidden, loss = encoded.token_mask, None
        mask = targets.new_zeros(targets.shape[:2]) if hidden is None else hidden
        if encoded.hides_some_of(config.n_patches):
            loss = masked_mean((logits.float() - targets).square().mean(2), mask)
        predictions, targets, signal_mask = (
            volumes_of(values, config.grid, config.patch_size) for values in (logits, targets, mask[:, :, None])
        )
        return MaskedModelingOutput.of(
            encoded,
            loss=loss,
            logits=logits,
            mask=mask,
            predictions=predictions,
            targets=targets,
            signal_mask=signal_mask,
            decoder_hidden_states=states if kwargs.get("output_hidden_states") else None,
        )


class HarmonixSForSequenceClassification(BrainForSequenceClassification, HarmonixSPreTrainedModel):
    """Harmonix-S with a linear head for classification or regression on the pooled tokens."""

    body_class = HarmonixSModel
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def add_head(self) -> None:
        """See [`BrainForSequenceClassification.add_head`]."""
        self.classifier = nn.Linear(self.config.hidden_size, self.num_labels)
