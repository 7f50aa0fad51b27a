"""BrainMT: 3-D convolutions a frame, bidirectional Mamba over all tokens, then attention with shared weights.

Source: Kannan et al., "BrainMT: A Hybrid Mamba-Transformer Architecture for Modeling Long-Range Dependencies in
Functional MRI Data", MICCAI 2025 (arXiv 2506.22591), and the released code's behaviour. The authors' code needs CUDA;
this one runs everywhere.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.mamba_mixer import MambaMixer
from ...layers.masking import (
    check_attention_mask,
    check_tensor,
    gather_tokens,
    pack_observed_tokens,
    padding_masks,
    restore_tokens,
)
from ...layers.pooling import masked_mean, pool_tokens
from ...layers.transformer import FeedForward, drop_path
from ..batch_draws import BatchDraws
from ..classification import BrainForSequenceClassification
from ..modeling_base import BrainModelOutput, BrainPreTrainedModel, MaskedModelingOutput
from .configuration_brain_mt import PATCH_SIZE, BrainMTConfig
from .masking_brain_mt import hidden_tokens, n_units


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of `(batch, channels, d, h, w)`; no copy where channels lie last in memory."""

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return super().forward(volumes.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


class BrainMTConvolutionBlock(nn.Module):
    """Two convolutions with norms and a residual: `(n_frames, channels, d, h, w)` in and out."""

    def __init__(self, channels: int, layer_norm_eps: float):
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm1 = ChannelNorm(channels, eps=layer_norm_eps)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = ChannelNorm(channels, eps=layer_norm_eps)

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        # The tanh form here, the exact one in the feed-forward block (spec, section 9).
        hidden = nn.functional.gelu(self.norm1(self.conv1(volumes)), approximate="tanh")
        return volumes + self.norm2(self.conv2(hidden))


class BrainMTStem(GradientCheckpointingLayer):
    """Frames `(n_frames, channels, y, x, z)` -> tokens `(n_frames, n_patches, hidden_size)`, frame by frame."""

    def __init__(self, config: BrainMTConfig):
        super().__init__()
        first, second = config.stem_widths
        halving: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False}
        self.conv1 = nn.Conv3d(config.num_channels, first, **halving)
        self.conv2 = nn.Conv3d(first, second, **halving)
        self.block0 = BrainMTConvolutionBlock(second, config.layer_norm_eps)
        self.downsample0 = nn.Conv3d(second, 2 * second, **halving)
        self.block1 = BrainMTConvolutionBlock(2 * second, config.layer_norm_eps)
        self.downsample1 = nn.Conv3d(2 * second, 4 * second, **halving)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        frames = frames.contiguous(memory_format=torch.channels_last_3d)
        hidden = nn.functional.relu(self.conv1(frames), inplace=not torch.is_grad_enabled())
        hidden = nn.functional.relu(self.conv2(hidden), inplace=not torch.is_grad_enabled())
        hidden = self.downsample0(self.block0(hidden))
        hidden = self.downsample1(self.block1(hidden))
        return hidden.flatten(2).transpose(1, 2)


class BrainMTEmbeddings(nn.Module):
    """Tokens of all frames with positions of patch and frame, after a CLS token: patch-major, time fastest."""

    def __init__(self, config: BrainMTConfig):
        super().__init__()
        self.config = config
        width, n_patches = config.hidden_size, int(config.n_patches or 0)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + n_patches, width))
        self.frame_embeddings = nn.Parameter(torch.zeros(1, config.n_frames, width))
        self.stem = BrainMTStem(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, volumes: torch.Tensor, bool_masked_pos: torch.Tensor | None, mask_token: torch.Tensor | None
    ) -> torch.Tensor:
        """`(batch, 1 + n_patches * n_frames, hidden_size)` of `(batch, n_frames, channels, y, x, z)`."""
        batch, n_frames = volumes.shape[:2]
        if bool_masked_pos is not None:
            volumes = hide_blocks(volumes, bool_masked_pos)
        frames = volumes.flatten(0, 1)
        # No frame reads another, so the chunks change memory and nothing else (spec, section 11.4).
        dtype = self.stem.conv1.weight.dtype
        chunks = [self.stem(chunk.to(dtype)) for chunk in frames.split(self.config.frames_per_chunk)]
        patches = torch.cat(chunks).unflatten(0, (batch, n_frames)).transpose(1, 2)
        if bool_masked_pos is not None and mask_token is not None:
            hidden = bool_masked_pos.view(batch, -1, n_frames, 1).to(patches.device)
            patches = torch.where(hidden, mask_token.to(patches.dtype), patches)
        patches = patches + self.position_embeddings[:, 1:, None] + self.frame_embeddings[:, None, :n_frames]
        cls = (self.cls_token + self.position_embeddings[:, :1]).expand(batch, -1, -1)
        return self.dropout(torch.cat([cls.to(patches.dtype), patches.flatten(1, 2)], dim=1))


def patch_of_voxels(token_values: torch.Tensor, volume_size: Any) -> torch.Tensor:
    """The value of its token for every voxel.

    Args:
        token_values: `(batch, n_patches * n_frames)`, patch-major.
        volume_size: `(y, x, z)`.

    Returns:
        `(batch, n_frames, 1, y, x, z)`.
    """
    grid = BrainMTConfig.grid_of(volume_size)
    values = token_values.view(len(token_values), *grid, -1).movedim(-1, 1)
    for axis, size in enumerate(volume_size, start=2):
        values = values.repeat_interleave(PATCH_SIZE, dim=axis).narrow(axis, 0, size)
    return values[:, :, None]


def hide_blocks(volumes: torch.Tensor, bool_masked_pos: torch.Tensor) -> torch.Tensor:
    """Volumes whose hidden blocks of 16 voxels a side are 0, before any convolution can carry them to a neighbour."""
    return volumes.masked_fill(patch_of_voxels(bool_masked_pos, volumes.shape[3:]), 0)


def blocks_of(volumes: torch.Tensor) -> torch.Tensor:
    """Volumes `(batch, n_frames, channels, y, x, z)` as blocks `(batch, n_tokens, channels * 4096)`; zeros past edges.

    Tokens are patch-major, time fastest, as in the model.
    """
    size = volumes.shape[3:]
    grid = BrainMTConfig.grid_of(size)
    padding = [edge for n, length in zip(reversed(grid), reversed(size)) for edge in (0, n * PATCH_SIZE - length)]
    batch, n_frames, channels = volumes.shape[:3]
    d, h, w = grid
    blocks = nn.functional.pad(volumes, padding).view(
        batch, n_frames, channels, d, PATCH_SIZE, h, PATCH_SIZE, w, PATCH_SIZE
    )
    return blocks.permute(0, 3, 5, 7, 1, 2, 4, 6, 8).reshape(batch, d * h * w * n_frames, -1)


def volumes_of(blocks: torch.Tensor, volume_size: Any, n_frames: int) -> torch.Tensor:
    """The inverse of [`blocks_of`], for pictures."""
    d, h, w = BrainMTConfig.grid_of(volume_size)
    channels = blocks.shape[2] // PATCH_SIZE**3
    values = blocks.view(len(blocks), d, h, w, n_frames, channels, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    values = values.permute(0, 4, 5, 1, 6, 2, 7, 3, 8).flatten(7, 8).flatten(5, 6).flatten(3, 4)
    y, x, z = volume_size
    return values[:, :, :, :y, :x, :z]


class RMSNorm(nn.Module):
    """Root-mean-square norm, in float32 at least until the weight is applied, as the fused kernel rounds."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, n_tokens, width)` in the dtype of the weight."""
        precise = at_least_float32(hidden_states)
        weight = self.weight.to(precise.dtype)
        return nn.functional.rms_norm(precise, weight.shape, weight, self.eps).to(self.weight.dtype)


class MambaStageLayerNorm(nn.LayerNorm):
    """LayerNorm over a residual stream of higher precision, in the dtype of the weight."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        precise = at_least_float32(hidden_states)
        weight, bias = self.weight.to(precise.dtype), self.bias.to(precise.dtype)
        return nn.functional.layer_norm(precise, weight.shape, weight, bias, self.eps).to(self.weight.dtype)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; float64 stays."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _mamba_norm(config: BrainMTConfig) -> nn.Module:
    norm = RMSNorm if config.mamba_norm == "rms" else MambaStageLayerNorm
    return norm(config.hidden_size, eps=config.mamba_norm_eps)


class BrainMTMambaLayer(GradientCheckpointingLayer):
    """Norm, mixer, and a residual that stays in float32: `(batch, n_tokens, hidden_size)` in and out."""

    def __init__(self, config: BrainMTConfig, drop_path_rate: float):
        super().__init__()
        self.norm = _mamba_norm(config)
        self.mixer = MambaMixer(
            config.hidden_size,
            state_size=config.state_size,
            conv_kernel=config.conv_kernel_size,
            expand=config.expand,
            time_step_rank=int(config.time_step_rank or 1),
            use_bias=config.use_bias,
            use_conv_bias=config.use_conv_bias,
            mixer_type=config.mixer_type,  # type: ignore[arg-type]
            if_divide_out=config.divide_directions,
        )
        self.drop_path_rate = drop_path_rate

    def forward(
        self, hidden_states: torch.Tensor, keep_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        mixed = self.mixer(self.norm(hidden_states), keep_mask)
        return hidden_states + drop_path(mixed, self.drop_path_rate if self.training else 0.0)


class BrainMTFeedForward(FeedForward):
    """The feed-forward block of all attention layers, with dropout after both of its maps."""

    def __init__(self, config: BrainMTConfig):
        super().__init__(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(self.activation(self.fc1(hidden_states)))))


class BrainMTAttentionLayer(GradientCheckpointingLayer):
    """Attention with weights of its own; its norm and its feed-forward block are those of all layers."""

    def __init__(self, config: BrainMTConfig, drop_path_rate: float):
        super().__init__()
        self.attention = SelfAttention(
            config,
            config.hidden_size,
            config.num_attention_heads,
            config.qkv_bias,
            config.attention_probs_dropout_prob,
        )
        self.drop_path_rate = drop_path_rate

    def forward(
        self,
        hidden_states: torch.Tensor,
        norm: nn.Module,
        mlp: nn.Module,
        attention_mask: torch.Tensor | None = None,
        query_ids: slice | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(batch, n_tokens, hidden_size)` in and out, of the tokens `query_ids` if given."""
        rate = self.drop_path_rate if self.training else 0.0
        attended, _ = self.attention(norm(hidden_states), attention_mask, query_ids=query_ids, **kwargs)
        if query_ids is not None:
            hidden_states = gather_tokens(hidden_states, query_ids)
        hidden_states = hidden_states + drop_path(attended, rate)
        return hidden_states + drop_path(mlp(norm(hidden_states)), rate)


class BrainMTPreTrainedModel(BrainPreTrainedModel):
    """Weights and input checks that the BrainMT classes share."""

    config: BrainMTConfig
    base_model_prefix = "brain_mt"
    main_input_name = "volumes"
    input_modalities = ["video"]
    _no_split_modules = ["BrainMTMambaLayer", "BrainMTAttentionLayer", "BrainMTStem"]
    _can_record_outputs = {
        "hidden_states": [BrainMTMambaLayer, BrainMTAttentionLayer],
        "attentions": SelfAttention,
    }
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^classifier\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the released code does, which overwrites Mamba's own start of the time step."""
        config = self.config
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv3d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.LayerNorm, RMSNorm)):
            init.ones_(module.weight)
            bias: Any = getattr(module, "bias", None)
            if bias is not None:
                init.zeros_(bias)
        elif isinstance(module, BrainMTEmbeddings):
            init.zeros_(module.cls_token)
            init.zeros_(module.frame_embeddings)
            init.normal_(module.position_embeddings, std=config.initializer_range)
        elif isinstance(module, BrainMTDecoder):
            init.normal_(module.mask_token, std=config.initializer_range)
        elif isinstance(module, MambaMixer):
            step_init: Any = "mamba" if config.time_step_init == "mamba" else "normal"
            module.initialise(config.initializer_range, config.n_layers, step_init)
        elif isinstance(module, BrainMTModel):
            fc2 = module.mlp.fc2
            bound = (fc2.in_features * config.n_layers) ** -0.5
            init.uniform_(fc2.weight, -bound, bound)

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> int:
        """See [`BrainPreTrainedModel.n_tokens`]: one token a patch and frame."""
        n_frames = config.n_frames if inputs is None else inputs["volumes"].shape[1]
        return config.n_patches * n_frames

    def published_groups(self, layer_decay: float) -> list[tuple[list[nn.Parameter], float, bool]]:
        """See [`BrainPreTrainedModel.published_groups`].

        The authors' names carry a prefix in their runs, so that none of their rules matches: one learning rate, and
        everything with two axes or more decays, CLS, positions and the state spaces' rates (`A_log`) included.
        """
        return self.grouped(self.parameters(), {}, lambda parameter: parameter.ndim > 1)

    def _check_volumes(self, volumes: torch.Tensor) -> None:
        """Raise ValueError for volumes that the model cannot take."""
        config = self.config
        check_tensor("volumes", volumes)
        if volumes.dim() != 6 or volumes.shape[2] != config.num_channels:
            raise ValueError(
                f"volumes must be (batch, n_frames, {config.num_channels}, y, x, z), got {tuple(volumes.shape)}. Pass "
                "the scan through the feature extractor."
            )
        size, n_frames = tuple(volumes.shape[3:]), volumes.shape[1]
        grid = config.grid_of(size)
        expected = None if config.volume_size is None else config.grid_of(config.volume_size)
        if math.prod(grid) != config.n_patches or (expected is not None and grid != expected):
            raise ValueError(
                f"volumes must have {config.volume_size or f'{config.n_patches} patches of 16 voxels a side'} (y, x, "
                f"z), got {list(size)} with {' x '.join(map(str, grid))} patches. Is the order of the axes (x, y, z)? "
                "The feature extractor turns and crops a scan as its affine says."
            )
        # One stored frame is added to all of them, as the authors' code does.
        if n_frames < 1 or 1 < config.n_frames < n_frames:
            raise ValueError(
                f"volumes must have 1 to {config.n_frames} frames, got {n_frames}. Cut windows with the feature "
                "extractor, or make a model with more n_frames."
            )


class BrainMTModel(BrainMTPreTrainedModel):
    """BrainMT: a token for each 16 voxels a side of each frame, mixed by Mamba in both directions, then by attention.

    Its feature vector is the CLS token after the last layer, without a final norm. Known limits: no weights were
    published, so that every model starts from random initialisation; the paper's mixer is bidirectional, the mixer of
    the authors' code causal (`mixer_type`). With the causal one the CLS token, which comes first, sees nothing before
    the attention stage.
    """

    def __init__(self, config: BrainMTConfig):
        super().__init__(config)
        mamba_rates, attention_rates = config.drop_path_rates()
        self.embeddings = BrainMTEmbeddings(config)
        self.mamba_layers = nn.ModuleList(BrainMTMambaLayer(config, rate) for rate in mamba_rates)
        self.mamba_norm = _mamba_norm(config)
        self.attention_layers = nn.ModuleList(BrainMTAttentionLayer(config, rate) for rate in attention_rates)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = BrainMTFeedForward(config)
        self.post_init()

    @property
    def layers(self) -> list[nn.Module]:
        """Layers of both stages, by depth; without the norm and feed-forward block that attention layers share."""
        return [*self.mamba_layers, *self.attention_layers]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        volumes: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        mask_token: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows of 4-D BOLD.

        Args:
            volumes: float `(batch, n_frames, channels, y, x, z)`, scaled by the feature extractor.
            attention_mask: `(batch, n_tokens)`, 1 = observed, 0 = padding, patch-major, time fastest; with or without
                a leading entry for CLS. Padded tokens are left out and come back as zeros.
            bool_masked_pos: bool `(batch, n_tokens)`, blocks to hide before the convolutions.
            mask_token: `(1, 1, hidden_size)`, put at the tokens that are hidden.
            pooled_only: compute nothing that only `last_hidden_state` needs: the last attention layer then has one
                query. Not with `hidden_states` or `attentions`.

        Returns:
            `last_hidden_state` `(batch, 1 + n_tokens, hidden_size)`, `None` with `pooled_only`, and `pooler_output`.

        Raises:
            ValueError: for volumes of another size or with too many frames, or wrong masks.
        """
        self._check_volumes(volumes)
        batch, n_frames = volumes.shape[:2]
        n_tokens = int(self.config.n_patches or 0) * n_frames
        attention_mask = check_attention_mask(attention_mask, batch, n_tokens)
        if bool_masked_pos is not None and tuple(bool_masked_pos.shape) != (batch, n_tokens):
            raise ValueError(f"bool_masked_pos must be ({batch}, {n_tokens}), got {tuple(bool_masked_pos.shape)}.")
        hidden_states = self.embeddings(volumes, bool_masked_pos, mask_token)
        packed = None
        if attention_mask is not None:
            # Padding lies between the frames of one patch and of the next: the rest is put together first.
            packed = pack_observed_tokens(attention_mask)
            hidden_states = torch.cat([hidden_states[:, :1], gather_tokens(hidden_states[:, 1:], packed.ids_keep)], 1)
        mask, keep = padding_masks(self.config, hidden_states, None if packed is None else packed.keep_mask)
        hidden_states = at_least_float32(hidden_states)
        for layer in self.mamba_layers:
            hidden_states = layer(hidden_states, keep, **kwargs)
        hidden_states = self.mamba_norm(hidden_states)  # what follows starts anew from the normed sequence
        only_cls = pooled_only and self.config.pooling == "cls"
        for number, layer in enumerate(self.attention_layers):
            last = number == len(self.attention_layers) - 1
            query_ids = slice(0, 1) if last and only_cls else None
            hidden_states = layer(hidden_states, self.norm, self.mlp, mask, query_ids, **kwargs)
        pooled = self._pooled(hidden_states, None if packed is None else packed.keep_mask)
        if pooled_only:
            return BrainModelOutput(pooler_output=pooled)
        if packed is not None:
            tokens = restore_tokens(hidden_states[:, 1:], packed)
            hidden_states = torch.cat([hidden_states[:, :1], tokens], dim=1)
        return BrainModelOutput(last_hidden_state=hidden_states, pooler_output=pooled)

    def _pooled(self, hidden_states: torch.Tensor, keep_mask: torch.Tensor | None) -> torch.Tensor:
        return pool_tokens(hidden_states, self.config.pooling, keep_mask)


class BrainMTDecoder(nn.Module):
    """From tokens to the voxels of their blocks, and what stands for a block that is hidden."""

    def __init__(self, config: BrainMTConfig):
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.num_channels * PATCH_SIZE**3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(batch, n, hidden_size)` -> `(batch, n, channels * 4096)`."""
        return self.projection(self.norm(tokens))


class BrainMTForMaskedModeling(BrainMTPreTrainedModel):
    """BrainMT that reconstructs hidden blocks of the volumes. Ours: the authors published no pretraining.

    Blocks of 16 voxels a side are set to 0 before the convolutions, which overlap and would carry hidden voxels to
    their neighbours otherwise; a learned token takes their place after them. Use the bidirectional mixer: with the
    causal one a hidden token sees only what stands before it, until the attention stage.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]
    _may_be_new = ("decoder.",)

    def __init__(self, config: BrainMTConfig):
        super().__init__(config)
        self.brain_mt = BrainMTModel(config)
        self.decoder = BrainMTDecoder(config)
        self.post_init()

    @classmethod
    def draw_masks(
        cls, config: Any, draws: BatchDraws, inputs: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """See [`BrainPreTrainedModel.draw_masks`]: `bool_masked_pos`."""
        n_frames = config.n_frames if inputs is None else inputs["volumes"].shape[1]
        drawn = np.stack([rng.random(n_units(config, n_frames) + 1) for rng in draws.of_rows("mask")])
        noise, shift = torch.from_numpy(drawn[:, 1:]), torch.from_numpy(drawn[:, 0])
        return {"bool_masked_pos": hidden_tokens(config, n_frames, noise, shift)}

    @can_return_tuple
    def forward(
        self,
        volumes: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MaskedModelingOutput:
        """Reconstruct hidden blocks.

        Args:
            volumes: float `(batch, n_frames, channels, y, x, z)`.
            attention_mask: `(batch, n_tokens)`, 1 = observed; padding is neither seen nor predicted.
            bool_masked_pos: bool `(batch, n_tokens)`; drawn by `config.mask_rule` from torch's global generator if
                not given.
            return_loss: there for the Trainer, which asks for it in evaluation.

        Returns:
            `loss`, the mean squared error over hidden voxels that change in the window (what never changes is
            background); `predictions`, `targets` and `signal_mask` `(batch, n_tokens, channels * 4096)`, see
            [`blocks_of`]; `token_mask` `(batch, n_tokens)`.
        """
        self._check_volumes(volumes)
        batch, n_frames = volumes.shape[:2]
        n_tokens = int(self.config.n_patches or 0) * n_frames
        if bool_masked_pos is None:
            drawn = torch.rand(batch, n_units(self.config, n_frames) + 1, device=volumes.device)
            bool_masked_pos = hidden_tokens(self.config, n_frames, drawn[:, 1:], drawn[:, 0])
        bool_masked_pos = bool_masked_pos.bool()
        outputs = self.brain_mt(
            volumes, attention_mask, bool_masked_pos, self.decoder.mask_token, return_dict=True, **kwargs
        )
        hidden, differs = bool_masked_pos, volumes != volumes[:, :1]
        observed = check_attention_mask(attention_mask, batch, n_tokens)
        if observed is not None:
            hidden = hidden & observed.bool()
            differs &= patch_of_voxels(observed.bool(), volumes.shape[3:])  # from the scan, not from what pads it
        predictions, targets = self.decoder(outputs.last_hidden_state[:, 1:]), blocks_of(volumes)
        changing = differs.any(dim=1, keepdim=True).expand_as(volumes)
        voxel_mask = blocks_of(changing.to(torch.float32)) * hidden[:, :, None]
        loss = masked_mean((predictions.float() - targets.float()) ** 2, voxel_mask)
        return MaskedModelingOutput.of(
            outputs,
            loss=loss,
            logits=predictions,
            mask=voxel_mask,
            predictions=predictions,
            targets=targets,
            signal_mask=voxel_mask,
            token_mask=hidden.to(torch.float32),
        )


class BrainMTForSequenceClassification(BrainForSequenceClassification, BrainMTPreTrainedModel):
    """BrainMT with a linear head for classification or regression on the CLS token.

    The authors' classifier has one logit and binary cross-entropy: `num_labels=1` with
    `problem_type="multi_label_classification"`, to be set, since transformers' rule would take squared errors. The
    command `finetune` gives two classes two logits and cross-entropy, whose difference is that one logit.
    """

    body_class = BrainMTModel
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    def add_head(self) -> None:
        """See [`BrainForSequenceClassification.add_head`]; the authors drop out before their one linear layer."""
        self.dropout = nn.Dropout(self.config.classifier_dropout)
        self.classifier = nn.Linear(self.config.hidden_size, self.num_labels)

    def body_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing but the pooled vector, unless states are asked for: the last layer then has one query."""
        names = ("output_hidden_states", "output_attentions")
        return {"pooled_only": not any(asked.get(name, getattr(self.config, name)) for name in names)}

    def predict(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`BrainForSequenceClassification.predict`]."""
        return self.classifier(self.dropout(pooled)), pooled
