"""Brain-JEPA: a ViT over (ROI, window) tokens that learns to predict the representation of what it does not see.

Source: Dong et al., "Brain-JEPA: Brain Dynamics Foundation Model with Gradient Positioning and Spatiotemporal
    Masking",
NeurIPS 2024 (arXiv 2409.19407), and the released code's behaviour: plain index masks, no CLS token, smooth L1 loss.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.initialisation import initialise, initialised_linear
from ...layers.masking import (
    check_attention_mask,
    gather_tokens,
    pack_observed_tokens,
    padding_masks,
    restore_tokens,
)
from ...layers.plain import input_dtype
from ...layers.pooling import pool_tokens
from ...layers.positions import TimeROIPositions
from ...layers.transformer import PreNormLayer, layer_stack
from ..classification import BrainForSequenceClassification, NormedHead
from ..latent_prediction import (
    Indices,
    LatentPredictionHead,
    LatentPredictionOutput,
    LatentPredictor,
    chosen_patches,
    chosen_tokens,
)
from ..modeling_base import BrainModelOutput
from ..modeling_roi import ROIPreTrainedModel
from .configuration_brain_jepa import BrainJEPAConfig


class BrainJEPAEmbeddings(nn.Module):
    """Tokens from patches of the signal, with positions of time and ROI."""

    def __init__(self, config: BrainJEPAConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.patch_projection = nn.Linear(config.patch_size, config.hidden_size)
        gradient_size = config.gradient_size if config.position_type == "gradient" else None
        self.positions = TimeROIPositions(config.n_rois, config.n_windows, config.hidden_size, gradient_size)

    def patches(self, signals: torch.Tensor) -> torch.Tensor:
        """`(batch, n_tokens, patch_size)`, ROI-major, time fastest; frames past the last whole patch are left out."""
        batch, n_rois, n_timepoints = signals.shape
        n_windows = n_timepoints // self.patch_size
        signals = signals[:, :, : n_windows * self.patch_size]
        return signals.reshape(batch, n_rois * n_windows, self.patch_size)

    def forward(
        self, signals: torch.Tensor, gradients: torch.Tensor | None, ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(batch, n_tokens, hidden_size)`, or of the tokens `ids` alone `(n_masks * batch, n, hidden_size)`."""
        patches = chosen_patches(self.patches(signals), ids)
        tokens = self.patch_projection(patches.to(input_dtype(self.patch_projection, patches)))
        positions = self.positions(gradients, signals.shape[2] // self.patch_size, ids)
        return tokens + positions.to(tokens.dtype)


def _layers(config: BrainJEPAConfig, prefix: str = "") -> nn.ModuleList:
    dropout, attention_dropout = config.hidden_dropout_prob, config.attention_probs_dropout_prob
    return layer_stack(config, prefix, hidden_dropout=dropout, attention_dropout=attention_dropout)


class BrainJEPAPredictor(LatentPredictor):
    """[`LatentPredictor`] with positions of its own, from the gradients of the encoder."""

    def __init__(self, config: BrainJEPAConfig):
        super().__init__(config, _layers(config, "predictor_"), config.layer_norm_eps)
        gradient_size = config.gradient_size if config.position_type == "gradient" else None
        width = config.predictor_hidden_size
        self.positions = TimeROIPositions(config.n_rois, config.n_windows, width, gradient_size)


class BrainJEPAPreTrainedModel(ROIPreTrainedModel):
    """Weights and input checks that the Brain-JEPA classes share."""

    config: BrainJEPAConfig
    base_model_prefix = "brain_jepa"
    has_cls_token = False
    _no_split_modules = ["PreNormLayer", "BrainJEPAEmbeddings"]
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}
    _can_compile_fullgraph = True
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\.", r"^classifier\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the released training did: normal with std 0.02 everywhere, without a rescaling by depth."""
        super()._init_weights(module)
        if isinstance(module, TimeROIPositions):
            module.reset_tables()
        elif isinstance(module, BrainJEPAPredictor):
            init.normal_(module.mask_token, std=self.config.initializer_range)
        elif isinstance(module, BrainJEPAModel):
            self._reset_tables(module)
        else:
            initialise(module)

    def _check_length(self, n_timepoints: int) -> None:
        if n_timepoints < self.config.patch_size:
            raise ValueError(
                f"n_timepoints must be at least patch_size={self.config.patch_size}, one token, got {n_timepoints}. "
                "Leave this scan out, or pad it with the feature extractor."
            )

    def set_gradients(self, gradients: torch.Tensor, source: str) -> None:
        """Store a gradient table `(n_rois, gradient_size)`: [`set_table`] by another name."""
        self.set_table("gradients", gradients, source)


class BrainJEPAModel(BrainJEPAPreTrainedModel):
    """Brain-JEPA encoder: every 16 frames of every parcel are a token that attends to all others; no CLS token.

    By default all tokens are encoded, in natural order (ROI-major, time fastest), and their mean is the feature
    vector. Known limits: trained on UK Biobank at an effective repetition time of 2.2 s, with a robust scaling whose
    parameters were never published; users report linear probes at chance on data from elsewhere. The gradient table
    is part of the positions and is saved with the weights: converted weights need the authors' table, other atlases
    need one of their own and training from scratch.
    """

    gradients: torch.Tensor

    def __init__(self, config: BrainJEPAConfig):
        super().__init__(config)
        self.embeddings = BrainJEPAEmbeddings(config)
        self.layers = _layers(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        n_rows = config.n_rois if config.position_type == "gradient" else 0
        self.register_buffer("gradients", torch.zeros(n_rows, config.gradient_size))
        self.post_init()

    def known_gradients(self) -> torch.Tensor | None:
        """The gradient table; `None` for positions by index."""
        return self.stored_table("gradients") if self.config.position_type == "gradient" else None

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        context_indices: Indices | None = None,
        output_indices: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows of parcellated BOLD.

        Args:
            signals: float `(batch, n_rois, n_timepoints)`, scaled as the model was trained.
            attention_mask: `(batch, n_tokens)`, 1 = observed, 0 = padding. Padded tokens are left out of the
                computation and come back as zeros.
            context_indices: int64 `(batch, n)` token ids, or several such: only these tokens are encoded, and the
                output is `(n_masks * batch, n, hidden_size)`, all samples for mask 0 first.
            output_indices: int64 `(batch, n)`: all tokens are encoded but only these come out, in this order; the last
                layer computes nothing else.

        Returns:
            `last_hidden_state` `(batch, n_tokens, hidden_size)` after the final norm, in natural order, and
            `pooler_output` `(batch, hidden_size)`, pooled over the tokens that came out.

        Raises:
            ValueError: for a wrong number of ROIs or timepoints, or wrong masks.
        """
        self._check_signals(signals)
        batch, n_rois, n_timepoints = signals.shape
        n_tokens = n_rois * (n_timepoints // self.config.patch_size)
        attention_mask = check_attention_mask(attention_mask, batch, n_tokens, has_cls=False)
        ids, keep, output_indices = chosen_tokens(context_indices, output_indices, attention_mask, batch, n_tokens)
        packed = None
        if attention_mask is not None and ids is None and output_indices is None:
            packed = pack_observed_tokens(attention_mask)
            ids, keep = packed.ids_keep, packed.keep_mask

        hidden_states = self.embeddings(signals, self.known_gradients(), ids)
        mask, _ = padding_masks(self.config, hidden_states, keep)
        for layer in self.layers:
            wanted = output_indices if layer is self.layers[-1] else None
            hidden_states = layer(hidden_states, mask, query_ids=wanted, **kwargs)
        if output_indices is not None:
            if len(self.layers) == 0:
                hidden_states = gather_tokens(hidden_states, output_indices)
            keep = None if keep is None else keep.gather(1, output_indices)
        hidden_states = self.layernorm(hidden_states)
        pooled = pool_tokens(hidden_states, self.config.pooling, keep, has_cls=False)
        if self.config.pooler_norm:
            pooled = nn.functional.layer_norm(pooled, pooled.shape[-1:], eps=self.config.layer_norm_eps)
        if packed is not None:
            hidden_states = restore_tokens(hidden_states, packed)
        return BrainModelOutput(last_hidden_state=hidden_states, pooler_output=pooled)


class BrainJEPAForMaskedModeling(LatentPredictionHead, BrainJEPAPreTrainedModel):
    """Brain-JEPA with its three networks: predicts the target encoder's representation of hidden blocks.

    `brain_jepa` is the target encoder, an exponential moving average of `context_encoder`, and what `AutoModel` loads.
    """

    # As in the released code, whose position tables are parameters.
    averaged_buffers = ("time_positions",)
    rounds_product = True
    body_class, predictor_class = BrainJEPAModel, BrainJEPAPredictor

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        context_indices: Indices | None = None,
        target_indices: Indices | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> LatentPredictionOutput:
        """Predict the targets from the contexts.

        Args:
            signals: float `(batch, n_rois, n_timepoints)`.
            attention_mask: `(batch, n_tokens)`, 1 = observed, 0 = padding; padded tokens are neither seen nor
                predicted, wherever the masks lie.
            context_indices, target_indices: int64 `(batch, n)` token ids, or several such of one length. Both or none;
                if none, they are drawn by `config.mask_rule` from torch's global generator.
            return_loss: there for the Trainer, which asks for it in evaluation.
        """
        self._check_signals(signals)
        n_windows = signals.shape[2] // self.config.patch_size
        gradients = self.context_encoder.known_gradients()
        return self.predicted(
            signals,
            attention_mask,
            context_indices,
            target_indices,
            n_windows,
            lambda ids: self.predictor.positions(gradients, n_windows, ids),
            **kwargs,
        )


class BrainJEPAForSequenceClassification(BrainForSequenceClassification, BrainJEPAPreTrainedModel):
    """Brain-JEPA with a head for classification or regression; `pooler_output` is the vector after its LayerNorm."""

    body_class = BrainJEPAModel
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\."]

    def add_head(self) -> None:
        """The head of the downstream model: LayerNorm on the pooled vector, batch norm for linear probing, linear."""
        config, width, probing = (
            self.config,
            self.config.hidden_size,
            self.config.classifier_head == "batch_norm_linear",
        )
        self.classifier = NormedHead(
            nn.LayerNorm(width, eps=config.layer_norm_eps) if config.classifier_norm else None,
            batch_norm=nn.BatchNorm1d(width, affine=False, eps=1e-6, momentum=0.1) if probing else None,
            # Released downstream code: 2e-5 for fine-tuning, 0.01 for linear probing.
            linear=initialised_linear(width, self.num_labels, 0.01 if probing else 2e-5),
        )

    def freeze_for_probing(self) -> None:
        """Leave only the last linear layer trainable, as in linear probing (batch norm has no parameters)."""
        self.requires_grad_(False)
        self.classifier.get_submodule("linear").requires_grad_(True)
