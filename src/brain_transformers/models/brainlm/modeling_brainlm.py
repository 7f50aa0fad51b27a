"""BrainLM with parcel x time tokens: a masked autoencoder with post-norm layers.

Source: Ortega Caro et al., "BrainLM: A foundation model for brain activity recordings", ICLR 2024, and the released
weights. The paper stresses linear (Nystrom) attention, but every released configuration runs full attention.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.masking import (
    check_attention_mask,
    check_tensor,
    choose_tokens,
    gather_tokens,
    pack_observed_tokens,
    padding_masks,
    restore_tokens,
)
from ...layers.plain import is_plain
from ...layers.pooling import masked_mean
from ...layers.positions import interleaved_sincos_table
from ...layers.token_convolution import TokenConvolution
from ...layers.transformer import FeedForward
from ..classification import BrainForSequenceClassification
from ..modeling_base import BrainModelOutput, MaskedModelingOutput, encoder_output
from ..modeling_roi import ROIPreTrainedModel
from .configuration_brainlm import BrainLMConfig


def landmark_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_landmarks: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nystrom attention through segment means, with six Newton-like iterations for the pseudo-inverse.

    The starting scale of the iteration is one number for the whole batch, as in the authors' code, so the result for
    a sample depends slightly on the samples beside it.

    Args:
        query, key, value: `(batch, n_heads, n_tokens, head_dim)`; `n_tokens` is a multiple of `num_landmarks`.
        num_landmarks: number of segments.
        scaling: factor on the scores.

    Returns:
        Context `(batch, n_heads, n_tokens, head_dim)` and `(batch, n_heads, n_tokens, num_landmarks)` weights.
    """
    batch, n_heads, n_tokens, head_dim = query.shape
    segments = (batch, n_heads, num_landmarks, n_tokens // num_landmarks, head_dim)
    query = query * scaling
    query_means = query.reshape(segments).mean(3)
    key_means = key.reshape(segments).mean(3)
    to_landmarks = torch.softmax(query @ key_means.transpose(-1, -2), dim=-1)
    between = torch.softmax(query_means @ key_means.transpose(-1, -2), dim=-1)
    from_landmarks = torch.softmax(query_means @ key.transpose(-1, -2), dim=-1)
    identity = torch.eye(num_landmarks, device=query.device, dtype=query.dtype)
    inverse = between.transpose(-1, -2) / between.sum(-2).flatten().amax(0)
    for _ in range(6):
        product = between @ inverse
        inverse = 0.25 * inverse @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product)))
    weights = to_landmarks @ inverse
    return weights @ (from_landmarks @ value), weights


class BrainLMAttention(SelfAttention):
    """Self-attention plus a depthwise convolution of the values along the tokens.

    The convolution runs over the sequence as it stands, CLS first. In a masked encoder the tokens stand in the order
    of the masking noise, so its neighbours are random there; in the decoder and in the feature path they are in
    natural order. Attention dropout has no effect in the authors' code, and none here.
    """

    def __init__(self, config: BrainLMConfig, hidden_size: int, num_attention_heads: int):
        super().__init__(config, hidden_size, num_attention_heads)
        self.token_convolution = (
            TokenConvolution(num_attention_heads, config.conv_kernel_size) if config.conv_kernel_size else None
        )

    def forward(  # type: ignore[override]  # no single queries: the convolution runs along all tokens
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        keep_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`keep_mask` `(batch, n_tokens)` is false at padding, whose values must not reach the convolution."""
        query, key, value = self.project(hidden_states)
        weights: torch.Tensor | None
        if self.config.uses_landmarks:
            self._check_landmark_length(hidden_states.shape[1], keep_mask)
            context, landmark_weights = landmark_attention(query, key, value, self.config.num_landmarks, self.scaling)
            context, weights = context.transpose(1, 2).flatten(2), landmark_weights
        else:
            context, weights = self.attend(query, key, value, attention_mask, **kwargs)
        if self.token_convolution is not None:
            if keep_mask is not None:
                value = value * keep_mask[:, None, :, None].to(value.dtype)
            context = context + self.token_convolution(value).transpose(1, 2).flatten(2)
        return self.out_proj(context), weights

    def _check_landmark_length(self, n_tokens: int, keep_mask: torch.Tensor | None) -> None:
        expected = self.config.segment_means_seq_len
        if n_tokens != expected or keep_mask is not None:
            raise ValueError(
                f"Landmark attention needs exactly segment_means_seq_len={expected} tokens with CLS and no padding, "
                f"got {n_tokens}. Use mask_ratio=0 with a window of the right length, or set num_landmarks=None."
            )


class BrainLMLayer(GradientCheckpointingLayer):
    """Transformer layer that normalises after each block."""

    def __init__(self, config: BrainLMConfig, hidden_size: int, num_attention_heads: int, intermediate_size: int):
        super().__init__()
        self.attention = BrainLMAttention(config, hidden_size, num_attention_heads)
        self.attention_layernorm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(hidden_size, intermediate_size, config.hidden_act)
        self.mlp_layernorm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        keep_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        attention_output, _ = self.attention(hidden_states, attention_mask, keep_mask, **kwargs)
        hidden_states = self.attention_layernorm(hidden_states + self.dropout(attention_output))
        return self.mlp_layernorm(hidden_states + self.dropout(self.mlp(hidden_states)))


class BrainLMEmbeddings(nn.Module):
    """Tokens from patches of the signal, parcel centres and time positions, with CLS in front."""

    time_positions: torch.Tensor

    def __init__(self, config: BrainLMConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.signal_projection = nn.Linear(config.patch_size, config.hidden_size)
        self.coordinate_projection = nn.Linear(3, config.hidden_size)
        self.register_buffer("time_positions", torch.empty(config.num_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.embedding_dropout)

    def forward(
        self, signals: torch.Tensor, coordinates: torch.Tensor, ids_keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embed the tokens `ids_keep` `(batch, n_kept)`, or all in natural order.

        Hidden tokens are never projected.

        Returns:
            `(batch, 1 + n_kept, hidden_size)`.
        """
        batch, n_rois, n_timepoints = signals.shape
        n_windows = n_timepoints // self.patch_size
        patches = signals.reshape(batch, n_rois * n_windows, self.patch_size)
        if ids_keep is None:
            ids = torch.arange(n_rois * n_windows, device=signals.device).expand(batch, -1)
        else:
            ids = ids_keep
            patches = gather_tokens(patches, ids)
        centres = gather_tokens(coordinates, ids // n_windows)
        if is_plain(self.signal_projection, self.coordinate_projection):
            tokens = self._in_one_product(patches, centres, ids % n_windows, n_windows)
        else:
            dtype = self.cls_token.dtype
            tokens = self.signal_projection(patches.to(dtype)) + self.coordinate_projection(centres.to(dtype))
            tokens = tokens + self.time_positions.to(dtype)[ids % n_windows]
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(batch, -1, -1), tokens], dim=1)
        if self.training and self.dropout.p > 0:
            tokens = torch.cat([tokens[:, :1], self.dropout(tokens[:, 1:])], dim=1)
        return tokens

    def _in_one_product(
        self, patches: torch.Tensor, centres: torch.Tensor, windows: torch.Tensor, n_windows: int
    ) -> torch.Tensor:
        """Signal, coordinates, time position and CLS as one matrix product, so that the sequence is written once.

        Each token is a row [patch | xyz | one-hot window] and each weight a column block.
        """
        window = nn.functional.pad(windows, (1, 0), value=n_windows)  # the last "window" is CLS
        dtype = self.signal_projection.weight.dtype
        content = nn.functional.pad(torch.cat([patches, centres], dim=2).to(dtype), (0, 0, 1, 0))
        features = torch.cat([content, nn.functional.one_hot(window, n_windows + 1).to(dtype)], dim=2)
        positions = self.time_positions[:n_windows].to(dtype)
        positions = positions + self.signal_projection.bias + self.coordinate_projection.bias
        weight = torch.cat(
            [
                self.signal_projection.weight,
                self.coordinate_projection.weight,
                positions.transpose(0, 1),
                self.cls_token[0].transpose(0, 1),
            ],
            dim=1,
        )
        return nn.functional.linear(features, weight)


class BrainLMDecoder(nn.Module):
    """Decoder: fills hidden places with the mask token and predicts the signal of every token."""

    time_positions: torch.Tensor

    def __init__(self, config: BrainLMConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.config = config
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.embed = nn.Linear(config.hidden_size, width)
        self.coordinate_projection = nn.Linear(3, width)
        self.register_buffer("time_positions", torch.empty(config.num_positions, width))
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            BrainLMLayer(config, width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
            for _ in range(config.decoder_num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction1 = nn.Linear(width, width // 2)
        self.prediction2 = nn.Linear(width // 2, config.patch_size)

    def forward(
        self,
        encoded: BrainModelOutput,
        coordinates: torch.Tensor,
        n_windows: int,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """Predict all tokens in natural order.

        Returns:
            Predictions `(batch, n_tokens, patch_size)` (zeros at padding) and, on request, the hidden states.
        """
        latent = self.embed(encoded.last_hidden_state)
        tokens = latent[:, 1:]
        if encoded.ids_restore is not None:
            tokens = restore_tokens(tokens, encoded, self.mask_token)
        places = self.coordinate_projection(coordinates.to(latent.dtype))
        positions = places[:, :, None] + self.time_positions[:n_windows].to(latent.dtype)
        tokens = self.dropout(tokens + positions.flatten(1, 2))

        packed = None
        if attention_mask is not None:
            # Padding is packed away, so that it cannot stand between two observed tokens of the convolution.
            packed = pack_observed_tokens(attention_mask)
            tokens = gather_tokens(tokens, packed.ids_keep)
        hidden_states = torch.cat([latent[:, :1], tokens], dim=1)
        mask, keep = padding_masks(self.config, hidden_states, packed.keep_mask if packed else None)
        states = [hidden_states]
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, keep, **kwargs)
            if output_hidden_states:
                states.append(hidden_states)
        hidden_states = self.layernorm(hidden_states)[:, 1:]
        hidden_states = nn.functional.leaky_relu(self.prediction1(hidden_states), negative_slope=0.1)
        predictions = self.prediction2(hidden_states)
        if self.config.use_tanh_decoder:
            predictions = torch.tanh(predictions)
        if packed is not None:
            predictions = restore_tokens(predictions, packed)
        return predictions, tuple(states) if output_hidden_states else None


class BrainLMPreTrainedModel(ROIPreTrainedModel):
    """Weights, input checks and reconstruction that the BrainLM classes share."""

    config: BrainLMConfig
    base_model_prefix = "brainlm"
    _no_split_modules = ["BrainLMLayer", "BrainLMEmbeddings"]
    _can_record_outputs = {"hidden_states": BrainLMLayer, "attentions": BrainLMAttention}
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the authors' code does: normal everywhere in the encoder, Xavier in the decoder."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, TokenConvolution):
            init.normal_(module.weight, std=std)
        elif isinstance(module, BrainLMEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.coordinate_projection.weight, std=std * self.config.coordinate_init_scale)
            init.copy_(module.time_positions, interleaved_sincos_table(*module.time_positions.shape))
        elif isinstance(module, BrainLMModel):
            table: Any = module.coordinates
            if not table.is_meta and not getattr(table, "_is_hf_initialized", False):
                # A config of saved weights names a table that a new model does not have.
                self.config.coordinates_source = None
                init.zeros_(table)
        elif isinstance(module, BrainLMDecoder):
            init.normal_(module.mask_token, std=std)
            init.copy_(module.time_positions, interleaved_sincos_table(*module.time_positions.shape))
            for part in module.modules():
                if isinstance(part, TokenConvolution):
                    bound = part.weight.shape[1] ** -0.5
                    init.uniform_(part.weight, -bound, bound)
                elif isinstance(part, nn.Linear):
                    # The fused projection holds three square matrices; Xavier's bound is that of one.
                    fan_out = (
                        part.out_features // 3 if part.out_features == 3 * part.in_features else part.out_features
                    )
                    bound = (6.0 / (part.in_features + fan_out)) ** 0.5
                    if part is module.coordinate_projection:
                        bound *= self.config.coordinate_init_scale
                    init.uniform_(part.weight, -bound, bound)

    def _check_length(self, n_timepoints: int) -> None:
        config = self.config
        longest = config.num_positions * config.patch_size
        if n_timepoints % config.patch_size or not 0 < n_timepoints <= longest:
            raise ValueError(
                f"n_timepoints must be a positive multiple of patch_size={config.patch_size} up to {longest}, got "
                f"{n_timepoints}. Cut or pad the series with the feature extractor."
            )

    def _reconstruct(
        self,
        decoder: BrainLMDecoder,
        encoded: BrainModelOutput,
        signals: torch.Tensor,
        coordinates: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool = False,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        batch, n_rois, n_timepoints = signals.shape
        patch_size = self.config.patch_size
        n_windows = n_timepoints // patch_size
        predictions, states = decoder(
            encoded, coordinates, n_windows, attention_mask, output_hidden_states=output_hidden_states, **kwargs
        )
        logits = predictions.reshape(batch, n_rois, n_windows, patch_size)
        if encoded.token_mask is None:
            mask = torch.zeros(batch, n_rois, n_windows, device=signals.device)
        else:
            mask = encoded.token_mask.reshape(batch, n_rois, n_windows)
        signal_mask = mask[..., None].expand(-1, -1, -1, patch_size).flatten(2)
        predictions = logits.flatten(2)
        loss = None
        if encoded.hides_some_of(n_rois * n_windows):
            error = predictions.float() - signals.float()
            error = error.square() if self.config.reconstruction_loss == "mse" else error.abs()
            loss = masked_mean(error, signal_mask)
        return MaskedModelingOutput.of(
            encoded,
            loss=loss,
            logits=logits,
            mask=mask,
            predictions=predictions,
            targets=signals,
            signal_mask=signal_mask,
            token_mask=mask.flatten(1),
            decoder_hidden_states=states,
        )


class BrainLMModel(BrainLMPreTrainedModel):
    """BrainLM encoder (13M): every 20 timepoints of every parcel are a token that attends to all others.

    By default all tokens are encoded, in natural order (ROI-major, time fastest), without masking. The released
    weights were trained with tokens in random order in the encoder, where the convolution along the tokens mixes
    whatever stands side by side: pass `noise` to get that order. Known limits: the released weights come from UK
    Biobank and HCP adults at TR 0.72-0.735 s; the medians and quartiles of their robust scaling were never published.
    """

    coordinates: torch.Tensor

    def __init__(self, config: BrainLMConfig):
        super().__init__(config)
        self.embeddings = BrainLMEmbeddings(config)
        self.layers = nn.ModuleList(
            BrainLMLayer(config, config.hidden_size, config.num_attention_heads, config.intermediate_size)
            for _ in range(config.num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.register_buffer("coordinates", torch.zeros(config.n_rois, 3))
        self.post_init()

    def set_coordinates(self, coordinates: torch.Tensor, source: str) -> None:
        """Store parcel centres `(n_rois, 3)` in mm (MNI): [`set_table`] by another name."""
        self.set_table("coordinates", coordinates, source)

    def resolve_coordinates(self, signals: torch.Tensor, coordinates: torch.Tensor | None) -> torch.Tensor:
        """The given parcel centres, or the stored ones, as float32 `(batch, n_rois, 3)`."""
        batch, n_rois, _ = signals.shape
        if coordinates is None:
            if self.config.coordinates_source is None:
                raise ValueError(
                    f"This model stores no parcel centres. Pass coordinates=(batch, {n_rois}, 3) in mm MNI (a feature "
                    "extractor that knows them does so), or call set_table('coordinates', array, source) once."
                )
            coordinates = self.coordinates
        check_tensor("coordinates", coordinates)
        if tuple(coordinates.shape) not in ((n_rois, 3), (1, n_rois, 3), (batch, n_rois, 3)):
            raise ValueError(
                f"coordinates must be ({batch}, {n_rois}, 3) or ({n_rois}, 3) in mm, got {tuple(coordinates.shape)}."
            )
        looks = coordinates.device.type == "cpu" and not torch.compiler.is_compiling()
        if looks and not bool(torch.isfinite(coordinates).all()):
            raise ValueError("coordinates must be finite, got NaN or infinity. Mend the table of parcel centres.")
        return coordinates.to(device=signals.device, dtype=torch.float32).expand(batch, -1, -1)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        signals: torch.Tensor,
        coordinates: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows of parcellated BOLD.

        Args:
            signals: float `(batch, n_rois, n_timepoints)`, robust-scaled; `n_timepoints` is a multiple of
                `patch_size`.
            coordinates: float `(batch, n_rois, 3)`, parcel centres in mm MNI; stored ones are used if left out.
            attention_mask: `(batch, n_rois * n_windows)`, 1 = observed, 0 = padding (a leading entry for CLS is
                accepted). Padded tokens are left out of the computation and come back as zeros.
            noise: `(batch, n_rois * n_windows)`; tokens are encoded in its ascending order.
            mask_ratio: share of tokens to hide, with `noise` drawn at random if it is not given. Default 0.

        Raises:
            ValueError: for a wrong number of ROIs or timepoints, or missing coordinates.
        """
        self._check_signals(signals)
        coordinates = self.resolve_coordinates(signals, coordinates)
        batch, n_rois, n_timepoints = signals.shape
        n_tokens = n_rois * (n_timepoints // self.config.patch_size)
        attention_mask = check_attention_mask(attention_mask, batch, n_tokens)
        selection = choose_tokens(signals, n_tokens, noise, mask_ratio, attention_mask)
        hidden_states = self.embeddings(signals, coordinates, selection.ids_keep if selection else None)
        mask, keep = padding_masks(self.config, hidden_states, selection.keep_mask if selection else None)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, keep, **kwargs)
        return encoder_output(self.layernorm(hidden_states), selection, self.config.pooling)


class BrainLMForMaskedModeling(BrainLMPreTrainedModel):
    """BrainLM with its decoder: hides a share of the parcel x time tokens and reconstructs their signal."""

    masked_by_noise = True

    def __init__(self, config: BrainLMConfig):
        super().__init__(config)
        self.brainlm = BrainLMModel(config)
        self.decoder = BrainLMDecoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor,
        coordinates: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        mask_ratio: float | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        """Hide tokens and predict them; arguments as in [`BrainLMModel.forward`].

        `mask_ratio` defaults to `config.mask_ratio`. `logits` are `(batch, n_rois, n_windows, patch_size)` and `mask`
        is `(batch, n_rois, n_windows)`. The loss is the mean over the hidden entries of the whole batch, `None` if
        nothing is hidden. `return_loss` is there for the Trainer, which asks for it in evaluation.
        """
        encoded = self.brainlm(
            signals,
            coordinates,
            attention_mask,
            noise,
            self.config.mask_ratio if mask_ratio is None else mask_ratio,
            return_dict=True,
            **kwargs,
        )
        coordinates = self.brainlm.resolve_coordinates(signals, coordinates)
        n_tokens = signals.shape[1] * (signals.shape[2] // self.config.patch_size)
        attention_mask = check_attention_mask(attention_mask, signals.shape[0], n_tokens)
        return self._reconstruct(self.decoder, encoded, signals, coordinates, attention_mask, **kwargs)


class BrainLMForSequenceClassification(BrainForSequenceClassification, BrainLMPreTrainedModel):
    """BrainLM with a head for classification or regression on the pooled vector, linear or the authors' MLP."""

    body_class = BrainLMModel
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]
