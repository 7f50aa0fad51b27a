"""Harmonix-F: the fMRI encoder of BrainHarmony, whose patches last as many seconds whatever the repetition time.

Source: Dong et al., "Brain Harmony: A Multimodal Foundation Model Unifying Morphology and Function into 1D Tokens",
NeurIPS 2025 (arXiv 2509.24693), and the released code's behaviour. The authors released neither the masks nor the loop
of its pretraining: masks here are those of Brain-JEPA, on its grid and the observed tokens.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.masking import check_attention_mask, gather_tokens, padding_masks
from ...layers.packing import Packing
from ...layers.plain import input_dtype
from ...layers.pooling import pool_tokens
from ...layers.positions import min_max_scaled, reset_time_positions, time_and_roi
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
from .configuration_harmonix_f import HarmonixFConfig

PatchSize = int | torch.Tensor


@functools.cache
def resizing_matrices(stored: int, wanted: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Between patches of the stored kernel's length and of another: both float32, on the CPU.

    Returns:
        The resizing `(stored, wanted)`: row i is the unit vector i, resized bicubically with antialiasing; and its
        Moore-Penrose inverse `(wanted, stored)`, which takes a kernel, or as well a patch, from one to the other.
    """
    units = torch.eye(stored)[:, None, None]
    resized = nn.functional.interpolate(units, size=(1, wanted), mode="bicubic", antialias=True, align_corners=False)
    matrix = resized[:, 0, 0]
    return matrix, torch.linalg.pinv(matrix)


class HarmonixFPositions(nn.Module):
    """Positions of tokens: the first half of the channels is time, the second the parcel.

    Time is a fixed sine-cosine table with a row a token, as it is stored in released weights. The parcel is the mean
    of learned projections of its functional gradients and of its geometric harmonics, scaled to [-1, 1] by one
    minimum and maximum.
    """

    time_positions: torch.Tensor

    def __init__(self, config: HarmonixFConfig):
        super().__init__()
        half, self.n_rois = config.hidden_size // 2, int(config.n_rois or 0)
        self.register_buffer("time_positions", torch.empty(self.n_rois * config.n_windows, half))
        self.gradient_projection = nn.Linear(config.gradient_size, half)
        self.harmonics_projection = nn.Linear(config.harmonics_size, half)

    def reset_tables(self) -> None:
        """Fill the table of time from the formula."""
        reset_time_positions(self.time_positions, self.n_rois)

    def parcels(self, gradients: torch.Tensor, harmonics: torch.Tensor) -> torch.Tensor:
        """The parcels' half `(n_rois, hidden_size / 2)`, in float32."""
        dtype = input_dtype(self.gradient_projection, gradients)
        projected = self.gradient_projection(gradients.to(dtype)) + self.harmonics_projection(harmonics.to(dtype))
        return min_max_scaled(0.5 * projected.float())

    def forward(self, parcels: torch.Tensor, n_windows: int, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Positions float32 `(batch, n, hidden_size)` of the tokens `ids`, or `(1, n_tokens, hidden_size)` of all."""
        return time_and_roi(self.time_positions, parcels, self.n_rois, n_windows, ids)


class HarmonixFPredictor(LatentPredictor):
    """[`LatentPredictor`] with a table of time of its own; it projects the encoder's half of the parcels once more."""

    time_positions: torch.Tensor

    def __init__(self, config: HarmonixFConfig):
        eps = config.predictor_layer_norm_eps
        zero_padded = config.padded_attention == "zero"
        super().__init__(config, layer_stack(config, "predictor_", layer_norm_eps=eps), eps, zero_padded)
        half, self.n_rois = config.predictor_hidden_size // 2, int(config.n_rois or 0)
        self.register_buffer("time_positions", torch.empty(self.n_rois * config.n_windows, half))
        self.parcel_projection = nn.Linear(config.hidden_size // 2, half)

    def reset_tables(self) -> None:
        """Fill the table of time from the formula."""
        reset_time_positions(self.time_positions, self.n_rois)

    def positions(self, parcels: torch.Tensor, n_windows: int, ids: torch.Tensor | None = None) -> torch.Tensor:
        """As [`HarmonixFPositions`], `predictor_hidden_size` wide; no gradients go back to the encoder."""
        parcels = parcels.detach()
        projected = self.parcel_projection(parcels.to(input_dtype(self.parcel_projection, parcels))).float()
        return time_and_roi(self.time_positions, projected, self.n_rois, n_windows, ids)


class HarmonixFEmbeddings(nn.Module):
    """Tokens from patches of any length, with positions of time and parcel."""

    def __init__(self, config: HarmonixFConfig):
        super().__init__()
        self.config = config
        self.patch_projection = nn.Linear(config.patch_size, config.hidden_size)
        self.positions = HarmonixFPositions(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_cls_token else None

    def patches(self, signals: torch.Tensor, patch_size: PatchSize | None) -> torch.Tensor:
        """Patches of each sample's own length, resized to that of the stored kernel.

        Resizing the patches instead of the kernel is the same product in another order, so that one batch may mix
        lengths, and the projection stays one layer.

        Returns:
            `(batch, n_rois, n_windows, config.patch_size)`.
        """
        if patch_size is None or isinstance(patch_size, int):
            return self._resized(signals, patch_size or self.config.patch_size)
        sizes = patch_size.flatten().tolist()
        if len(set(sizes)) == 1:
            return self._resized(signals, int(sizes[0]))
        n_windows = self.config.n_windows
        output = signals.new_zeros(*signals.shape[:2], n_windows, self.config.patch_size)
        for size in sorted(set(sizes)):
            rows = torch.tensor([own == size for own in sizes], device=signals.device)
            frames = signals[rows, :, : n_windows * size]
            frames = nn.functional.pad(frames, (0, n_windows * size - frames.shape[2]))
            output[rows] = self._resized(frames, int(size))
        return output

    def _resized(self, signals: torch.Tensor, patch_size: int) -> torch.Tensor:
        stored = self.config.patch_size
        n_windows = signals.shape[2] // patch_size
        patches = signals[:, :, : n_windows * patch_size].unflatten(2, (n_windows, patch_size))
        if patch_size == stored:
            return patches
        return patches @ resizing_matrices(stored, patch_size)[1].to(patches)

    def forward(
        self,
        signals: torch.Tensor,
        patch_size: PatchSize | None,
        parcels: torch.Tensor,
        ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed all tokens, or only the tokens `ids` `(n_masks * batch, n)`, without CLS."""
        patches = self.patches(signals, patch_size)
        n_windows = patches.shape[2]
        patches = chosen_patches(patches.flatten(1, 2), ids)
        tokens = self.patch_projection(patches.to(input_dtype(self.patch_projection, patches)))
        return tokens + self.positions(parcels, n_windows, ids).to(tokens.dtype)


class HarmonixFPreTrainedModel(ROIPreTrainedModel):
    """Weights and input checks that the Harmonix-F classes share."""

    config: HarmonixFConfig
    base_model_prefix = "harmonix_f"
    where_pooled = {"keep_padding": False}
    _no_split_modules = ["PreNormLayer", "HarmonixFEmbeddings"]
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\.", r"^classifier\."]

    @property
    def has_cls_token(self) -> bool:  # type: ignore[override]
        """Whether a CLS token stands in front; the released encoder has none."""
        return self.config.use_cls_token

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the released code does: normal, and what closes a block smaller by the root of its depth."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, HarmonixFPositions):
            module.reset_tables()
        elif isinstance(module, HarmonixFEmbeddings) and module.cls_token is not None:
            init.normal_(module.cls_token, std=std)
        elif isinstance(module, HarmonixFPredictor):
            module.reset_tables()
            init.normal_(module.mask_token, std=std)
            self._scale_by_depth(module.layers)
        elif isinstance(module, HarmonixFModel):
            self._scale_by_depth(module.layers)
            self._reset_tables(module)

    def _scale_by_depth(self, layers: nn.ModuleList) -> None:
        layer: Any
        for depth, layer in enumerate(layers, start=1):
            for closing in (layer.attention.out_proj, layer.mlp.fc2):
                init.normal_(closing.weight, std=self.config.initializer_range / math.sqrt(2 * depth))

    def n_windows_of(self, signals: torch.Tensor, patch_size: PatchSize | None) -> int:
        """Windows of the input.

        Raises:
            ValueError: for signals of the wrong shape, patches that do not fit, or more windows than fit one batch.
        """
        self._check_signals(signals)
        sizes = [self.config.patch_size]
        if isinstance(patch_size, torch.Tensor):
            if patch_size.numel() not in (1, len(signals)) or patch_size.is_floating_point():
                raise ValueError(
                    f"patch_size must be one whole number, or int64 ({len(signals)},), got {patch_size.dtype} "
                    f"{tuple(patch_size.shape)}."
                )
            sizes = sorted(set(patch_size.flatten().tolist()))
        elif patch_size is not None:
            sizes = [patch_size]
        shortest = sizes[0]
        if shortest < 1 or signals.shape[2] < shortest:
            raise ValueError(
                f"n_timepoints must be at least patch_size={shortest}, one token, got {signals.shape[2]}. Leave this "
                "scan out, or pad it with the feature extractor."
            )
        return signals.shape[2] // shortest if len(sizes) == 1 else self.config.n_windows

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, Any] | None = None) -> int:
        """See [`BrainPreTrainedModel.n_tokens`]: one token a parcel and patch."""
        if inputs is None:
            return config.n_rois * config.n_windows
        sizes = {int(size) for size in torch.as_tensor(inputs.get("patch_size", config.patch_size)).flatten()}
        n_rois, n_timepoints = inputs["signals"].shape[-2:]
        return n_rois * (n_timepoints // sizes.pop() if len(sizes) == 1 else config.n_windows)


class HarmonixFModel(HarmonixFPreTrainedModel):
    """Harmonix-F encoder: every 35 seconds of every parcel are a token that attends to all others.

    Its feature vector is the mean of the observed tokens. Known limits: the statistics that its pretraining scaled by
    were never published; the released tables of the parcels, which converted weights keep, are in two different row
    orders; tokens without data get nothing from attention but pass through every layer, and stand in
    `last_hidden_state` as the authors' stage-0 files hold them.
    """

    gradients: torch.Tensor
    harmonics: torch.Tensor

    def __init__(self, config: HarmonixFConfig):
        super().__init__(config)
        self.embeddings = HarmonixFEmbeddings(config)
        self.layers = layer_stack(
            config,
            drop_path_rate=float(config.drop_path_rate),
            hidden_dropout=config.hidden_dropout_prob,
            attention_dropout=config.attention_probs_dropout_prob,
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.register_buffer("gradients", torch.zeros(int(config.n_rois or 0), config.gradient_size))
        self.register_buffer("harmonics", torch.zeros(int(config.n_rois or 0), config.harmonics_size))
        self.post_init()

    def parcels(self) -> torch.Tensor:
        """The parcels' half of the positions."""
        return self.embeddings.positions.parcels(self.stored_table("gradients"), self.stored_table("harmonics"))

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        patch_size: PatchSize | None = None,
        context_indices: Indices | None = None,
        output_indices: torch.Tensor | None = None,
        keep_padding: bool = True,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows of parcellated BOLD.

        Args:
            signals: float `(batch, n_rois, n_timepoints)`, scaled as the model was trained.
            attention_mask: `(batch, n_tokens)`, 1 = observed, 0 = padding; with or without an entry for CLS.
            patch_size: frames of a token, `config.patch_seconds / t_r` rounded: one number, or int64 `(batch,)`; by
                default `config.patch_size`.
            context_indices: int64 `(batch, n)` token ids, or several such: only these tokens are encoded, and the
                output is `(n_masks * batch, n, hidden_size)`, all samples for mask 0 first.
            output_indices: int64 `(batch, n)`: all tokens are encoded but only these come out, in this order.
            keep_padding: whether padded tokens are wanted. They do not touch the others, so that where these alone are
                read they need not run: they are then 0, unless states of all layers are asked for.

        Returns:
            `last_hidden_state` `(batch, [1 +] n_tokens, hidden_size)` after the final norm, in natural order, padded
            tokens included; and `pooler_output` `(batch, hidden_size)` over the observed ones.

        Raises:
            ValueError: for a wrong number of ROIs or timepoints, or wrong masks.
        """
        n_windows = self.n_windows_of(signals, patch_size)
        batch, n_tokens, cls = len(signals), signals.shape[1] * n_windows, int(self.has_cls_token)
        attention_mask = check_attention_mask(attention_mask, batch, n_tokens, has_cls=self.has_cls_token)
        ids, keep, output_indices = chosen_tokens(context_indices, output_indices, attention_mask, batch, n_tokens)
        hidden_states = self.embeddings(signals, patch_size, self.parcels(), ids)
        if self.embeddings.cls_token is not None:
            token = self.embeddings.cls_token.expand(len(hidden_states), -1, -1).to(hidden_states.dtype)
            hidden_states = torch.cat([token, hidden_states], dim=1)
        wanted = None if output_indices is None else output_indices + cls
        asked = any(
            kwargs.get(name, getattr(self.config, name)) for name in ("output_hidden_states", "output_attentions")
        )
        hidden_states = encode(self, hidden_states, keep, wanted, asked, keep_padding, **kwargs)
        if output_indices is not None:
            keep = None if keep is None else keep.gather(1, output_indices)
            cls = 0
        hidden_states = self.layernorm(hidden_states)
        if keep is not None and not keep_padding and not asked:
            padded = nn.functional.pad(~keep, (hidden_states.shape[1] - keep.shape[1], 0))
            hidden_states = hidden_states.masked_fill(padded[:, :, None], 0.0)
        pooled = pool_tokens(hidden_states, self.config.pooling, keep, has_cls=bool(cls))
        return BrainModelOutput(last_hidden_state=hidden_states, pooler_output=pooled)


def encode(
    model: HarmonixFModel,
    hidden_states: torch.Tensor,
    keep_mask: torch.Tensor | None,
    query_ids: torch.Tensor | None = None,
    whole: bool = False,
    keep_padding: bool = True,
    **kwargs: Any,
) -> torch.Tensor:
    """Run the layers over a sequence of which some tokens are padding.

    Observed tokens attend among themselves, so those of all samples run in one packed sequence without a mask; padded
    tokens get nothing from attention, which leaves a small recurrence for each on its own. The numbers are those of
    the whole sequence with a mask, which is run where states or weights of all tokens are asked for, while compiling,
    and with `padded_attention="observed"`.

    Args:
        keep_mask: bool `(batch, n_tokens)`; `None` if nothing is padded.
        query_ids: int64 `(batch, n)`, the tokens that come out.
        whole: run the whole sequence with a mask.
        keep_padding: also run padded tokens; what comes out for them otherwise means nothing.
    """
    layers: Any = model.layers
    zero = model.config.padded_attention == "zero"
    if keep_mask is None or whole or not zero or torch.compiler.is_compiling() or torch.jit.is_tracing():
        mask, keep = padding_masks(model.config, hidden_states, keep_mask)
        for layer in layers:
            last = query_ids if layer is layers[-1] else None
            hidden_states = layer(hidden_states, mask, keep if zero else None, last, **kwargs)
        return hidden_states
    keep = nn.functional.pad(keep_mask, (hidden_states.shape[1] - keep_mask.shape[1], 0), value=True)
    packing, padding = Packing(keep), Packing(~keep)
    observed, padded = packing.pack(hidden_states), padding.pack(hidden_states)
    for layer in layers:
        observed = layer(observed, lengths=packing.lengths, **kwargs)
        if keep_padding:
            padded = layer.without_attention(padded, padding.lengths)
    hidden_states = packing.unpack(observed, padded, padding)
    return hidden_states if query_ids is None else gather_tokens(hidden_states, query_ids)


class HarmonixFForMaskedModeling(LatentPredictionHead, HarmonixFPreTrainedModel):
    """Harmonix-F with its three networks: predicts the target encoder's representation of hidden blocks.

    `harmonix_f` is the target encoder, a moving average of `context_encoder`; it is the network that `AutoModel`
    loads. [`JEPATrainer`] updates it after each optimizer step. The authors' wrapper starts the average from weights
    of its own and never says how it moves; here it starts as a copy.
    """

    averaged_buffers = ("time_positions",)
    body_class, predictor_class = HarmonixFModel, HarmonixFPredictor

    @classmethod
    def windows_to_mask(cls, config: Any, n_windows: int, inputs: Mapping[str, torch.Tensor] | None) -> int:
        """See [`LatentPredictionHead.windows_to_mask`]: those that some sample of the batch has observed.

        What is padded in another is left out of its loss.
        """
        if inputs is None or inputs.get("attention_mask") is None:
            return n_windows
        of_windows = inputs["attention_mask"].view(-1, config.n_rois, n_windows).bool().any(1).any(0)
        return max(int(of_windows.nonzero().max()) + 1, 1)

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        patch_size: PatchSize | None = None,
        context_indices: Indices | None = None,
        target_indices: Indices | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> LatentPredictionOutput:
        """Predict the targets from the contexts.

        Args:
            signals, attention_mask, patch_size: see [`HarmonixFModel.forward`].
            context_indices, target_indices: int64 `(batch, n)` token ids, or several such of one length. Both or none;
                if none, they are drawn by `config.mask_rule` from torch's global generator.
            return_loss: there for the Trainer, which asks for it in evaluation.

        Returns:
            `loss`, the mean over samples of each one's mean over its observed targets (`sample_losses`); a sample
            without any counts as 0.
        """
        n_windows = self.n_windows_of(signals, patch_size)
        parcels = self.context_encoder.parcels()
        return self.predicted(
            signals,
            attention_mask,
            context_indices,
            target_indices,
            n_windows,
            lambda ids: self.predictor.positions(parcels, n_windows, ids),
            {"patch_size": patch_size},
            **kwargs,
        )

    def losses(
        self, errors: torch.Tensor, target_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See [`LatentPredictionHead.losses`]: the mean over samples of each one's mean."""
        sample_losses = errors.sum(1) / (errors.shape[1] if target_mask is None else target_mask.sum(1).clamp(min=1))
        return sample_losses.mean(), sample_losses


class HarmonixFForSequenceClassification(BrainForSequenceClassification, HarmonixFPreTrainedModel):
    """Harmonix-F with a norm and a linear layer on the pooled vector, which `pooler_output` holds after the norm."""

    body_class = HarmonixFModel
    _keys_to_ignore_on_load_unexpected = [r"^context_encoder\.", r"^predictor\."]

    def body_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """See [`BrainForSequenceClassification.body_options`]."""
        return dict(self.where_pooled)

    def add_head(self) -> None:
        """See [`BrainForSequenceClassification.add_head`]."""
        width = self.config.hidden_size
        norm = nn.LayerNorm(width, eps=self.config.layer_norm_eps)
        self.classifier = NormedHead(norm, linear=nn.Linear(width, self.num_labels))
