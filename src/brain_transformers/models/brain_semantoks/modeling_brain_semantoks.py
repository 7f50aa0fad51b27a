"""Brain-Semantoks: functional networks as tokens, trained by self-distillation.

Source: Gijsen, Schulz, Ritter, "Brain-Semantoks: Learning Semantic Tokens of Brain Dynamics with a Self-Distilled
Foundation Model", ICLR 2026 (arXiv 2512.11582), and the released weights. The loss is that of SimDINO.
"""

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...layers.attention import SelfAttention
from ...layers.initialisation import initialise, initialised_linear
from ...layers.masking import check_observed, check_tensor
from ...layers.plain import is_plain
from ...layers.pooling import pool_tokens
from ...layers.positions import sincos_table
from ...layers.transformer import PreNormLayer, layer_stack
from ..batch_draws import BatchDraws
from ..classification import BrainForSequenceClassification
from ..modeling_base import BrainModelOutput
from ..modeling_roi import ROIPreTrainedModel
from ..moving_average import MovingAverageMixin
from .configuration_brain_semantoks import BrainSemantoksConfig
from .masking_brain_semantoks import MaskDraws, canonical_mapping, draw_mask, expand_functional_mask

logger = logging.get_logger(__name__)


@dataclass
class SelfDistillationOutput(ModelOutput):
    """Output of [`BrainSemantoksForMaskedModeling`]; `q` is `config.projection_size`.

    Args:
        loss: sum of the three terms.
        cls_loss: coding-rate loss on the CLS tokens.
        network_loss: coding-rate loss on the networks' averages over time, with its weight; 0 if that is 0.
        mask_loss: negative cosine of hidden tokens, with its weight; 0 if nothing is hidden.
        within_view_loss: the same before its weight.
        student_projection_std, teacher_projection_std: standard deviation over the batch of the projected CLS of the
            first view, averaged over coordinates: near 0 when the representation has collapsed.
        student_last_hidden_state, teacher_last_hidden_state: `(batch, n_views, 1 + n_tokens, hidden_size)`.
        student_cls_projection, teacher_cls_projection: `(batch, n_views, q)`, unit vectors.
        student_network_projection, teacher_network_projection: `(batch, n_views, n_networks, q)`; `None` where the
            term has no weight, unless `output_hidden_states=True`.
        student_mask_projection, teacher_mask_projection: on request (`output_hidden_states=True`), `(batch, n_views,
            n_tokens, q)`, 0 at tokens that are not hidden.
        token_mask: `(batch, n_views, n_tokens)`, 1 for tokens that were hidden from the student.
    """

    loss: torch.Tensor | None = None
    cls_loss: torch.Tensor | None = None
    network_loss: torch.Tensor | None = None
    mask_loss: torch.Tensor | None = None
    within_view_loss: torch.Tensor | None = None
    student_projection_std: torch.Tensor | None = None
    teacher_projection_std: torch.Tensor | None = None
    student_last_hidden_state: torch.Tensor | None = None
    teacher_last_hidden_state: torch.Tensor | None = None
    student_cls_projection: torch.Tensor | None = None
    teacher_cls_projection: torch.Tensor | None = None
    student_network_projection: torch.Tensor | None = None
    teacher_network_projection: torch.Tensor | None = None
    student_mask_projection: torch.Tensor | None = None
    teacher_mask_projection: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None


class ConvolutionBranch(nn.Module):
    """Convolution over the timepoints of a window, with zeros around it; for even kernels the extra zero is on the
    right.

    Args:
        n_rois: parcels of the network.
        out_channels: width of the branch.
        kernel_size, dilation: of the convolution.
        depthwise: one kernel a parcel, then a linear map over parcels.
    """

    def __init__(self, n_rois: int, out_channels: int, kernel_size: int, dilation: int, depthwise: bool):
        super().__init__()
        self.pointwise: nn.Conv1d | None = None
        if depthwise:
            self.convolution = nn.Conv1d(n_rois, n_rois, kernel_size, padding="same", dilation=dilation, groups=n_rois)
            self.pointwise = nn.Conv1d(n_rois, out_channels, 1)
        else:
            self.convolution = nn.Conv1d(n_rois, out_channels, kernel_size, padding="same", dilation=dilation)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """`(rows, n_rois, patch_size)` -> `(rows, out_channels, patch_size)`."""
        hidden = self.convolution(windows)
        return hidden if self.pointwise is None else self.pointwise(hidden)


class LongConvolutionBranch(nn.Module):
    """Long convolution per parcel and head, made of few numbers, then a linear map over parcels and heads.

    The kernel is a row of segments that repeat their taps 1, 1, 2, 4, ... times and decay with the scale. It is
    divided by `kernel_norm`, the norm that it had **before training**: a constant of the model, saved with it, and not
    the norm of the trained kernel.

    Args:
        n_rois: parcels of the network.
        out_channels: width of the branch; there are `ceil(out_channels / n_rois)` heads.
        patch_size: timepoints of a window.
        kernel_size: taps of a segment.
        num_scales: segments.
        decay_min, decay_max: factors between scales, spread linearly over the parcels.
    """

    decay: torch.Tensor
    kernel_norm: torch.Tensor

    def __init__(
        self,
        n_rois: int,
        out_channels: int,
        patch_size: int,
        kernel_size: int,
        num_scales: int,
        decay_min: float,
        decay_max: float,
    ):
        super().__init__()
        self.num_scales = num_scales
        self.decay_range = (float(decay_min), float(decay_max))
        self.kernel_length = kernel_size * 2 ** (num_scales - 1)
        n_heads = -(-out_channels // n_rois)
        self.kernels = nn.ParameterList(
            nn.Parameter(torch.empty(n_heads, n_rois, kernel_size)) for _ in range(num_scales)
        )
        self.skip = nn.Parameter(torch.empty(n_heads, n_rois))
        self.register_buffer("decay", torch.empty(1, n_rois, 1))
        self.register_buffer("kernel_norm", torch.empty(n_heads, n_rois, 1))
        self.patch_size = patch_size
        self.projection = nn.Linear(n_heads * n_rois, out_channels)

    def kernels_of_scales(self) -> list[torch.Tensor]:
        """The kernel of each scale; torch.compile of torch 2.11 does not unpack a list of parameters."""
        return [self.kernels[scale] for scale in range(self.num_scales)]

    def raw_kernel(self) -> torch.Tensor:
        """The kernel before division, `(n_heads, n_rois, kernel_length)`; first entries act at the shortest lag."""
        segments = []
        for scale, kernel in enumerate(self.kernels_of_scales()):
            repeated = kernel.repeat_interleave(2 ** max(0, scale - 1), dim=2)
            segments.append(repeated * self.decay ** (self.num_scales - 1 - scale))
        return torch.cat(segments, dim=2)

    @torch.no_grad()
    def measure_kernel_norm(self) -> torch.Tensor:
        """Norm of the kernel as it is now, `(n_heads, n_rois, 1)`: what `kernel_norm` is at initialisation."""
        return self.raw_kernel().norm(dim=2, keepdim=True)

    def band(self) -> torch.Tensor:
        """Banded matrices of the kernels, `(n_rois, patch_size, n_heads * patch_size)`: from input time to head and
        output time, so that the convolution is one matrix product a parcel."""
        size, length = self.patch_size, self.kernel_length
        right = length - 1 - (length - 1) // 2
        kernel = self.raw_kernel() / self.kernel_norm.to(self.skip.dtype)
        # The direct path is a tap at lag 0.
        kernel = torch.cat(
            [kernel[:, :, :right], (kernel[:, :, right] + self.skip)[:, :, None], kernel[:, :, right + 1 :]], dim=2
        )
        # All lags between two timepoints of a window; row s of the band starts at the lag -s.
        lags = nn.functional.pad(kernel, (size - 1 - right, right + size - length))
        return lags.unfold(2, size, 1).permute(1, 2, 0, 3).flip(1).flatten(2)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """`(rows, n_rois, patch_size)` -> `(rows, out_channels, patch_size)`."""
        size = windows.shape[2]
        mixed = torch.bmm(windows.transpose(0, 1), self.band()).unflatten(2, (-1, size))
        mixed = mixed.transpose(0, 1).flatten(1, 2)
        if is_plain(self.projection):  # a linear map at each timepoint is a convolution with kernels of one
            return nn.functional.conv1d(mixed, self.projection.weight[:, :, None], self.projection.bias)
        return self.projection(mixed.transpose(1, 2)).transpose(1, 2)


class NetworkTokenizer(nn.Module):
    """Turns windows of the parcels of one network into tokens: branches side by side, GELU, pooling, norm."""

    def __init__(self, config: BrainSemantoksConfig, n_rois: int):
        super().__init__()
        self.pooling = config.tokenizer_pooling
        branches: list[nn.Module] = []
        for branch in config.tokenizer_branches or []:
            values = {name: value for name, value in branch.items() if name != "type"}
            if branch["type"] == "long_convolution":
                branches.append(LongConvolutionBranch(n_rois, patch_size=config.patch_size, **values))
            else:
                branches.append(ConvolutionBranch(n_rois, **values))
        self.branches = nn.ModuleList(branches)
        self.attention_pool = (
            initialised_linear(config.hidden_size, 1, None, bias=False) if self.pooling == "attention" else None
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-5) if config.tokenizer_norm else nn.Identity()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """`(rows, n_rois, patch_size)` -> `(rows, hidden_size)`."""
        channels = [nn.functional.gelu(branch(windows)) for branch in self.branches]
        if self.attention_pool is not None:
            joined = torch.cat(channels, dim=1)
            weights = torch.softmax(self.attention_pool(joined.transpose(1, 2)), dim=1)
            return self.norm((joined @ weights)[:, :, 0])
        pooled = [part.amax(2) if self.pooling == "max" else part.mean(2) for part in channels]
        return self.norm(torch.cat(pooled, dim=1))


class BrainSemantoksEmbeddings(nn.Module):
    """Tokens of all networks and windows, network-major, with CLS in front."""

    time_positions: torch.Tensor
    roi_index: torch.Tensor

    def __init__(self, config: BrainSemantoksConfig):
        super().__init__()
        self.config = config
        self.rois_of_networks = config.rois_of_networks()
        self.sizes = [len(rois) for rois in self.rois_of_networks]
        self.tokenizers = nn.ModuleList()
        self.shared_projection: nn.Linear | None = None
        if config.spatial_mode == "rois":
            self.shared_projection = nn.Linear(config.patch_size, config.hidden_size)
        else:
            self.tokenizers.extend(NetworkTokenizer(config, size) for size in self.sizes)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.mask_embedding = nn.Parameter(torch.empty(1, config.hidden_size)) if config.use_mask_embedding else None
        self.network_positions = nn.Parameter(torch.empty(config.n_networks, config.hidden_size))
        self.register_buffer("time_positions", torch.empty(config.n_windows, config.hidden_size))
        # Parcels sorted by network, so that each network is a slice.
        self.register_buffer("roi_index", torch.empty(config.n_rois, dtype=torch.int64), persistent=False)
        self.dropout = nn.Dropout(config.embedding_dropout)

    def tokenize(self, signals: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens before positions.

        Tokenizers do not run on hidden windows where that can be known without waiting for the device.

        Args:
            signals: `(batch, n_rois, n_windows * patch_size)`.
            token_mask: bool `(batch, n_networks, n_windows)`, true where the mask embedding stands.

        Returns:
            `(batch, n_networks, n_windows, hidden_size)`.
        """
        config = self.config
        batch, n_rois, _ = signals.shape
        windows = signals.reshape(batch, n_rois, config.n_windows, config.patch_size)
        if self.shared_projection is not None:
            return self._hide(self.shared_projection(windows), token_mask)
        windows = windows.index_select(1, self.roi_index).transpose(1, 2).flatten(0, 1)
        parts = windows.split(self.sizes, dim=1)
        if token_mask is None or self.mask_embedding is None or not self._may_look(signals):
            tokens = torch.stack([tokenizer(part) for tokenizer, part in zip(self.tokenizers, parts)], dim=1)
            tokens = tokens.view(batch, config.n_windows, config.n_networks, -1).transpose(1, 2)
            return self._hide(tokens, token_mask)
        seen_of_network = (~token_mask).transpose(0, 1).flatten(1)
        parts_of_tokens: list[torch.Tensor] = []
        # With nothing hidden the mask embedding still takes part, so that its gradient is zero and not missing.
        takes_part = torch.is_grad_enabled() and not bool(token_mask.any())
        for tokenizer, part, seen in zip(self.tokenizers, parts, seen_of_network):
            rows = seen.nonzero()[:, 0]
            if len(rows) == len(seen):
                tokens = tokenizer(part)
                parts_of_tokens.append(tokens + 0 * self.mask_embedding if takes_part else tokens)
                continue
            hidden = self.mask_embedding.expand(len(seen), -1)
            if len(rows) or torch.is_grad_enabled():  # with no rows it still takes part, so that gradients are zeros
                seen_tokens = tokenizer(part.index_select(0, rows))
                hidden = hidden.to(seen_tokens.dtype).index_copy(0, rows, seen_tokens)
            parts_of_tokens.append(hidden)
        return torch.stack(parts_of_tokens).view(config.n_networks, batch, config.n_windows, -1).transpose(0, 1)

    @staticmethod
    def _may_look(signals: torch.Tensor) -> bool:
        return signals.device.type == "cpu" and not torch.compiler.is_compiling()

    def _hide(self, tokens: torch.Tensor, token_mask: torch.Tensor | None) -> torch.Tensor:
        if token_mask is None or self.mask_embedding is None:
            return tokens
        return torch.where(token_mask[..., None], self.mask_embedding.to(tokens.dtype), tokens)

    def forward(self, signals: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, 1 + n_networks * n_windows, hidden_size)`; arguments as in [`tokenize`]."""
        weight = self.cls_token
        tokens = self.tokenize(signals.to(weight.dtype), token_mask)
        positions = self.network_positions[:, None] + self.time_positions.to(weight.dtype)
        tokens = (tokens + positions).flatten(1, 2)
        cls = weight.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return self.dropout(torch.cat([cls, tokens], dim=1))


class ProjectionHead(nn.Module):
    """Linear layers with GELU between them, then unit length: `(..., hidden_size)` -> `(..., projection_size)`."""

    def __init__(self, config: BrainSemantoksConfig):
        super().__init__()
        hidden = [config.projection_hidden_size] * (config.projection_num_layers - 1)
        sizes = [config.hidden_size, *hidden, config.projection_size]
        self.layers = nn.ModuleList(
            initialised_linear(size, following, 0.02, zero_bias=True) for size, following in itertools.pairwise(sizes)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            tokens = nn.functional.gelu(layer(tokens))
        tokens = self.layers[-1](tokens)
        return nn.functional.normalize(tokens, dim=-1, eps=1e-6 if tokens.dtype == torch.float16 else 1e-12)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, for losses of the whole batch under DistributedDataParallel.

    The gradient is scaled by the number of processes, since DistributedDataParallel averages gradients where a sum
    over the parts of the batch is wanted.
    """
    world_size = torch.distributed.get_world_size()
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total + world_size * (values - values.detach())


@dataclass
class CodingRateLoss:
    """Parts of [`coding_rate_loss`]: `loss = -alignment_weight * compression - expansion`."""

    loss: torch.Tensor
    compression: torch.Tensor
    expansion: torch.Tensor


def coding_rate_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    alignment_weight: float = 1.0,
    epsilon: float = 0.05,
    across_ranks: bool = False,
) -> CodingRateLoss:
    """SimDINO's loss: views agree (cosine across views), and together they fill the space (coding rate).

    Covariance and Cholesky factor are float32, also under autocast.

    Args:
        student, teacher: unit vectors `(2, n, q)`, one slice a view; gradients flow through the student.
        alignment_weight: factor on the cosine.
        epsilon: squared distortion of the coding rate.
        across_ranks: take means and covariance over all processes, so that the loss is that of the joint batch. (The
            authors divided by the number of processes but kept the covariance local.)

    Raises:
        FloatingPointError: on a CPU, if the covariance is not positive definite, which means that it is not finite.
            Elsewhere the loss is NaN then, which the Trainer reports.
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = student.float(), teacher.float().detach()
        n, size = student.shape[1:]
        # Pairs across views: teacher of one, student of the other.
        compression = (teacher.flip(0) * student).sum()
        features = (student + teacher) / 2
        covariance = features.transpose(1, 2) @ features
        if across_ranks:
            compression, covariance = sum_over_ranks(compression), sum_over_ranks(covariance)
            n = n * torch.distributed.get_world_size()
        compression = compression / (2 * n)
        identity = torch.eye(size, device=covariance.device)
        factor, info = torch.linalg.cholesky_ex(identity + covariance * (size / (n * epsilon)))
        if info.device.type == "cpu" and not torch.compiler.is_compiling() and bool(info.any()):
            raise FloatingPointError(
                "The covariance of the projected tokens has no Cholesky factor: the projections are not finite. "
                "Expected finite signals and weights; lower the learning rate or look for NaN in the data."
            )
        half_logdet = factor.diagonal(dim1=1, dim2=2).log().sum(1)
        expansion = half_logdet.mean() * ((size + n) / (size * n))
        expansion = torch.where((info == 0).all(), expansion, torch.nan)
        return CodingRateLoss(-alignment_weight * compression - expansion, compression, expansion)


class BrainSemantoksPreTrainedModel(ROIPreTrainedModel):
    """Weights and input checks that the Brain-Semantoks classes share."""

    config: BrainSemantoksConfig
    base_model_prefix = "brain_semantoks"
    _no_split_modules = ["PreNormLayer", "BrainSemantoksEmbeddings"]
    _can_record_outputs = {"hidden_states": PreNormLayer, "attentions": SelfAttention}
    _can_compile_fullgraph = True
    # What only the pretraining model or only the classifier has.
    _keys_to_ignore_on_load_unexpected = [r"^student\.", r"^(student|teacher)_(mask_)?head\.", r"^classifier\."]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Learned vectors, tokenizers, layers; the last layer is in none: the authors train it at the full rate."""
        embeddings, *layers = super().layer_groups()
        vectors = [
            vector
            for module in self.modules()
            if isinstance(module, BrainSemantoksEmbeddings)
            for vector in (module.mask_embedding, module.cls_token, module.network_positions)
            if vector is not None
        ]
        known = {id(vector) for vector in vectors}
        return [vectors, [parameter for parameter in embeddings if id(parameter) not in known], *layers[:-1]]

    def published_groups(self, layer_decay: float) -> list[tuple[list[nn.Parameter], float, bool]]:
        """See [`BrainPreTrainedModel.published_groups`]: tokenizers, learned vectors, the rest, and the head.

        Tokenizers have the full rate, since the name that the authors' code looks for no longer exists; learned
        vectors decay, as the head does, and everything where `layer_decay` is 1.
        """
        classifier: Any = getattr(self, "classifier", None)
        head = [] if classifier is None else list(classifier.parameters())
        vectors, tokenizers, *_ = self.layer_groups()
        scales = self.learning_rate_scales(layer_decay) | {id(parameter): 1.0 for parameter in tokenizers}
        first = [*tokenizers, *vectors]
        known = {id(parameter) for parameter in [*first, *head]}
        always = {id(parameter) for parameter in (self.parameters() if layer_decay == 1 else vectors)}
        others = (each for each in self.parameters() if id(each) not in known)
        groups = self.grouped([*first, *others], scales, lambda each: each.ndim > 1 or id(each) in always)
        return [*groups, (head, 1.0, True)]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the authors' code does: torch's defaults for linear maps and convolutions, N(0, 1) for the
        long kernels, N(0, 0.02) for learned vectors, truncated normal for projection heads."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            fan_in = module.weight[0].numel()
            bound = fan_in**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
            initialise(module, cut_at=2.0)
            return
        super()._init_weights(module)
        if isinstance(module, LongConvolutionBranch):
            init.normal_(module.skip)
            for kernel in module.kernels:
                init.normal_(kernel)
            low, high = module.decay_range
            init.copy_(module.decay, torch.linspace(low, high, module.decay.shape[1])[None, :, None])
            # Nothing moves the kernel before the first pass, so its norm is measured here and stays.
            init.copy_(module.kernel_norm, module.measure_kernel_norm())
        elif isinstance(module, BrainSemantoksEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.network_positions, std=std)
            if module.mask_embedding is not None:
                init.normal_(module.mask_embedding, std=std)
            init.copy_(module.time_positions, sincos_table((self.config.n_windows,), self.config.hidden_size))
            init.copy_(module.roi_index, torch.tensor([roi for rois in module.rois_of_networks for roi in rois]))
        elif isinstance(module, PreNormLayer):
            module.reset_layer_scale()

    def _check_length(self, n_timepoints: int) -> None:
        config = self.config
        longest = (config.n_windows + 1) * config.patch_size
        if not config.patch_size <= n_timepoints < longest:
            raise ValueError(
                f"n_timepoints must be at least one patch ({config.patch_size}) and below {longest}, got "
                f"{n_timepoints}. Cut longer scans into windows with the feature extractor (window='all')."
            )


class BrainSemantoksModel(BrainSemantoksPreTrainedModel):
    """Brain-Semantoks encoder (58.7M): 9 functional networks x 5 windows of 40 s, and a CLS token.

    Each network has its own tokenizer over its parcels, so the rows of the input must be in the order of the model's
    atlas. The released weights are the teacher (moving average) of self-distillation and expect Schaefer-400 in the
    7-network order, then Tian S3, then Buckner-7, at TR 2.0 s, z-scored per parcel over the whole scan. Known limits:
    trained on UK Biobank only; the licence of the weights is not stated.
    """

    def __init__(self, config: BrainSemantoksConfig):
        super().__init__(config)
        self.embeddings = BrainSemantoksEmbeddings(config)
        self.layers = layer_stack(
            config,
            drop_path_rate=config.drop_path_rate,
            qkv_bias=False,
            attention_dropout=config.attention_probs_dropout_prob,
            layer_scale_init_value=config.layer_scale_init_value,
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BrainModelOutput:
        """Encode windows of parcellated BOLD.

        Args:
            signals: float `(batch, n_rois, n_timepoints)`, z-scored per parcel. Windows past the end of a shorter
                input count as not observed; timepoints past the last whole window are not used.
            attention_mask: 1 = observed, 0 = not: `(batch, n_rois * n_windows)` as the feature extractor gives it,
                ROI-major, or `(batch, n_networks * n_windows)`; a leading entry for CLS is accepted. A length that
                fits both is that of parcels; `(batch, n_rois, n_windows)` and `(batch, n_networks, n_windows)` say it
                by their shape. A token without any observed parcel becomes the mask embedding and stays in the
                sequence, as hidden tokens did in training (see `config.missing_tokens`); parcels that are missing
                within a network should be 0.
            bool_masked_pos: bool `(batch, n_tokens)` or `(batch, n_networks, n_windows)`, true where the token is
                replaced by the mask embedding. Order of tokens: network-major, time fastest.

        Returns:
            `last_hidden_state` `(batch, 1 + n_tokens, hidden_size)`, and `pooler_output` `(batch,
            config.pooled_size)`; `token_mask` says which tokens were replaced.

        Raises:
            ValueError: for wrong numbers of parcels or timepoints, or masks of another shape.
        """
        self._check_signals(signals)
        signals, token_mask = self.prepare(signals, attention_mask, bool_masked_pos)
        hidden_states = self.embeddings(signals, token_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        return BrainModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=pool_tokens(hidden_states, self.config.pooling),
            token_mask=None if token_mask is None else token_mask.flatten(1).to(torch.float32),
        )

    def prepare(
        self,
        signals: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Signals of the model's length, and tokens to replace: bool `(batch, n_networks, n_windows)`, or `None`."""
        config = self.config
        length = config.n_windows * config.patch_size
        shape = (signals.shape[0], config.n_networks, config.n_windows)
        masks = []
        if bool_masked_pos is not None:
            if tuple(bool_masked_pos.shape) not in ((shape[0], config.n_tokens), shape):
                raise ValueError(
                    f"bool_masked_pos must be ({shape[0]}, {config.n_tokens}) or {shape}, one entry a token "
                    f"(network-major, time fastest), got {tuple(bool_masked_pos.shape)}."
                )
            masks.append(bool_masked_pos.reshape(shape).bool())
        observed = self._observed_tokens(attention_mask, shape)
        if config.missing_tokens == "mask":
            if observed is not None:
                masks.append(~observed)
            n_real = -(-signals.shape[2] // config.patch_size)
            if n_real < config.n_windows:
                beyond = torch.arange(config.n_windows, device=signals.device) >= n_real
                masks.append(beyond.expand(shape))
        signals = signals[:, :, :length]
        if signals.shape[2] < length:
            signals = nn.functional.pad(signals, (0, length - signals.shape[2]))
        if not masks:
            return signals, None
        if not config.use_mask_embedding:
            logger.warning_once(
                "This model has no mask embedding, so masks have no effect: hidden and missing tokens are computed "
                "from the signals as they are."
            )
            return signals, None
        token_mask = masks[0]
        for mask in masks[1:]:
            token_mask = token_mask | mask
        return signals, token_mask

    def _observed_tokens(
        self, attention_mask: torch.Tensor | None, shape: tuple[int, int, int]
    ) -> torch.Tensor | None:
        if attention_mask is None:
            return None
        config = self.config
        batch, _, n_windows = shape
        of_rois, of_networks = config.n_rois * n_windows, config.n_tokens
        check_tensor("attention_mask", attention_mask)
        flat = attention_mask.flatten(1) if attention_mask.dim() > 1 else attention_mask
        given, explicit = tuple(attention_mask.shape), attention_mask.dim() == 3
        parcels = given[1:] == (config.n_rois, n_windows) if explicit else flat.shape[-1] in (of_rois, of_rois + 1)
        networks = given == shape if explicit else flat.shape[-1] in (of_networks, of_networks + 1)
        if attention_mask.dim() not in (2, 3) or given[0] != batch or not (parcels or networks):
            raise ValueError(
                f"attention_mask must be ({batch}, {of_rois}) or ({batch}, {config.n_rois}, {n_windows}), one entry a "
                f"parcel and window, or ({batch}, {of_networks}) or {shape}, one a network and window; flat ones may "
                f"have one more in front for CLS. Got {given}."
            )
        observed = flat.bool()[:, -(of_rois if parcels else of_networks) :]
        check_observed(observed)
        if not parcels:
            return observed.reshape(shape)
        observed = observed.reshape(batch, config.n_rois, n_windows)
        parts = observed.index_select(1, self.embeddings.roi_index).split(self.embeddings.sizes, dim=1)
        return torch.stack([part.any(1) for part in parts], dim=1)

    def network_tokens(self, last_hidden_state: torch.Tensor) -> torch.Tensor:
        """Tokens as `(batch, n_networks, n_windows, hidden_size)`, without CLS."""
        batch, _, width = last_hidden_state.shape
        return last_hidden_state[:, 1:].reshape(batch, self.config.n_networks, self.config.n_windows, width)

    def observed_tokens(self, output: Any, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """See [`BrainPreTrainedModel.observed_tokens`]: a token of a network counts if one of its parcels was seen."""
        if output.token_mask is not None:
            return output.token_mask == 0
        observed = self._observed_tokens(
            attention_mask, (len(output.last_hidden_state), self.config.n_networks, self.config.n_windows)
        )
        return None if observed is None else observed.flatten(1)

    def roi_tokens(self, last_hidden_state: torch.Tensor, n_timepoints: int | None = None) -> torch.Tensor:
        """Tokens as `(batch, n_rois, n_windows, hidden_size)`: each parcel has the token of its network."""
        networks = torch.empty(self.config.n_rois, dtype=torch.int64)
        for network, rois in enumerate(self.embeddings.rois_of_networks):
            networks[rois] = network
        return self.network_tokens(last_hidden_state).index_select(1, networks.to(last_hidden_state.device))


class BrainSemantoksForMaskedModeling(MovingAverageMixin, BrainSemantoksPreTrainedModel):
    """Self-distillation: a student that sees two masked windows of a scan learns what its own moving average sees.

    `self.brain_semantoks` is the moving average (the teacher), which is the network that gets released and that
    `BrainSemantoksModel` and `BrainSemantoksForSequenceClassification` load; `self.student` is trained. The teacher
    moves only through [`update_moving_average`], which the Trainer calls after each optimizer step.
    """

    trained_twin = "student"
    followers = {"teacher_head": "student_head", "teacher_mask_head": "student_mask_head"}

    def __init__(self, config: BrainSemantoksConfig):
        super().__init__(config)
        self.brain_semantoks = BrainSemantoksModel(config)
        self.student = BrainSemantoksModel(config)
        self.teacher_head = ProjectionHead(config)
        self.student_head = ProjectionHead(config)
        self.teacher_mask_head = ProjectionHead(config) if config.separate_mask_head else None
        self.student_mask_head = ProjectionHead(config) if config.separate_mask_head else None
        # Set by the Trainer: losses are then those of the joint batch of all processes.
        self.across_ranks = False
        self.post_init()

    @classmethod
    def draw_masks(
        cls,
        config: Any,
        draws: BatchDraws,
        inputs: Mapping[str, torch.Tensor] | None = None,
        *,
        masking_frequency: float | None = None,
        canonical_masks: bool = False,
    ) -> dict[str, torch.Tensor]:
        """See [`BrainPreTrainedModel.draw_masks`]: `bool_masked_pos` `(batch, 2, n_networks, n_windows)`.

        Batches are masked or not as a whole, with the probability of the configuration or `masking_frequency`. With
        `canonical_masks` they are drawn over the networks of the 7-network edition and copied to those of the model,
        which must have the 17-network map of an order that we know.
        """
        frequency = config.masking_frequency if masking_frequency is None else masking_frequency
        has_masked_term = config.use_mask_embedding or config.masked_term_without_embedding
        mapping = canonical_mapping(config) if canonical_masks else None
        if not has_masked_term or frequency <= 0 or draws.of_batch("order").random() >= frequency:
            return {}
        n_networks = config.n_networks if mapping is None else len(mapping)
        sizes = config.mask_kind, n_networks, config.n_windows
        try:
            masks = [
                draw_mask(*sizes, source, config.mask_range, config.mask_rule)
                for source in map(MaskDraws, draws.of_rows("mask"))
                for _ in range(2)
            ]
        except ValueError as error:
            raise ValueError(f"{error} For a new model: mask_rule=nominal (--config mask_rule=nominal).") from error
        if mapping is not None:
            masks = [expand_functional_mask(mask, mapping, config.n_networks) for mask in masks]
        return {"bool_masked_pos": torch.from_numpy(np.stack(masks)).unflatten(0, (-1, 2))}

    @can_return_tuple
    def forward(
        self,
        signals: torch.Tensor,
        bool_masked_pos: torch.Tensor | None = None,
        network_loss_weight: float | None = None,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool = True,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SelfDistillationOutput:
        """Compare student and teacher on two windows of each scan.

        Args:
            signals: float `(batch, 2, n_rois, n_timepoints)`: two windows of each scan.
            bool_masked_pos: bool `(batch, 2, n_tokens)` or `(batch, 2, n_networks, n_windows)`, true where the student
                sees the mask embedding. The teacher sees everything. `None`: nothing is hidden.
            network_loss_weight: weight of the network term, which the Trainer lets fall to 0 early in training;
                defaults to `config.network_loss_weight`.
            attention_mask: `(batch, 2, ...)` with the last axis as in [`BrainSemantoksModel.forward`]: data that
                neither student nor teacher has.
            return_loss: for the Trainer, which asks for it in evaluation.
            output_hidden_states: also return projections that the loss does not need.

        Raises:
            ValueError: if there are not two views, or masks have another shape.
            FloatingPointError: see [`coding_rate_loss`].
        """
        check_tensor("signals", signals)
        if signals.dim() != 4 or signals.shape[1] != 2:
            raise ValueError(
                "signals must be (batch, 2, n_rois, n_timepoints), two windows of each scan, got "
                f"{tuple(signals.shape)}. Use SelfDistillationTrainer, whose collator cuts them, or stack two "
                "windows of each scan."
            )
        for name, value in (("bool_masked_pos", bool_masked_pos), ("attention_mask", attention_mask)):
            if value is not None and tuple(value.shape[:2]) != tuple(signals.shape[:2]):
                raise ValueError(
                    f"{name} must start with (batch, 2) = {tuple(signals.shape[:2])}, got {tuple(value.shape)}."
                )
        config = self.config
        batch, views = signals.shape[:2]
        flat = signals.flatten(0, 1)
        padding = None if attention_mask is None else attention_mask.flatten(0, 1)
        masked = None if bool_masked_pos is None else bool_masked_pos.flatten(0, 1)
        # Nothing crosses samples in the encoder, so both views are one batch: views of a sample side by side.
        student = self.student(flat, padding, masked, return_dict=True, **kwargs).last_hidden_state
        with torch.no_grad():
            teacher = self.brain_semantoks(flat, padding, return_dict=True, **kwargs).last_hidden_state

        weight = config.network_loss_weight if network_loss_weight is None else network_loss_weight
        has_network_term = not (isinstance(weight, (int, float)) and weight == 0)
        wants_networks = bool(output_hidden_states) or has_network_term
        student_cls, student_networks = self._project(self.student_head, student, wants_networks)
        with torch.no_grad():
            teacher_cls, teacher_networks = self._project(self.teacher_head, teacher, wants_networks)
        cls_loss = self._coding_rate(student_cls[:, :, None], teacher_cls[:, :, None])
        network_loss = torch.zeros_like(cls_loss)
        if has_network_term and student_networks is not None and teacher_networks is not None:
            network_loss = weight * self._coding_rate(student_networks, teacher_networks)
        within_view_loss = torch.zeros_like(cls_loss)
        student_dense = teacher_dense = None
        # Every process takes part in the sum over processes, also one whose own rows are not masked.
        has_masked_term = config.use_mask_embedding or config.masked_term_without_embedding
        if has_masked_term and (masked is not None or self.across_ranks):
            per_row = cls_loss.new_zeros(batch * views)
            if masked is not None:
                token_mask = masked.reshape(batch * views, config.n_tokens).bool()
                per_row, student_dense, teacher_dense = self._mask_term(
                    student, teacher, token_mask, bool(output_hidden_states)
                )
            total, rows = per_row.sum(), batch * views
            if self.across_ranks:
                total, rows = sum_over_ranks(total), rows * torch.distributed.get_world_size()
            within_view_loss = -total / rows
        mask_loss = config.mask_loss_weight * within_view_loss
        return SelfDistillationOutput(
            loss=cls_loss + network_loss + mask_loss,
            cls_loss=cls_loss.detach(),
            network_loss=network_loss.detach(),
            mask_loss=mask_loss.detach(),
            within_view_loss=within_view_loss.detach(),
            student_projection_std=_spread(student_cls[:, 0]),
            teacher_projection_std=_spread(teacher_cls[:, 0]),
            student_last_hidden_state=student.unflatten(0, (batch, views)),
            teacher_last_hidden_state=teacher.unflatten(0, (batch, views)),
            student_cls_projection=student_cls,
            teacher_cls_projection=teacher_cls,
            student_network_projection=student_networks,
            teacher_network_projection=teacher_networks,
            student_mask_projection=student_dense,
            teacher_mask_projection=teacher_dense,
            token_mask=None if masked is None else masked.reshape(batch, views, -1).to(torch.float32),
        )

    def _project(
        self, head: ProjectionHead, tokens: torch.Tensor, with_networks: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Projected CLS `(batch, 2, q)` and network averages `(batch, 2, n_networks, q)`, in one pass of the head."""
        views = (-1, 2)
        if not with_networks:
            return head(tokens[:, 0]).unflatten(0, views), None
        networks = self.student.network_tokens(tokens).mean(2)
        projected = head(torch.cat([tokens[:, :1], networks], dim=1)).unflatten(0, views)
        return projected[:, :, 0], projected[:, :, 1:]

    def _coding_rate(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Loss of `(batch, 2, n, q)` vectors, all `batch * n` of a view together."""
        student, teacher = (vectors.transpose(0, 1).flatten(1, 2) for vectors in (student, teacher))
        config = self.config
        return coding_rate_loss(
            student, teacher, config.alignment_weight, config.coding_rate_epsilon, self.across_ranks
        ).loss

    def _mask_term(
        self, student: torch.Tensor, teacher: torch.Tensor, token_mask: torch.Tensor, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Cosine at hidden tokens, averaged over those of each row, with 0 where none is hidden; if they are to be
        kept, also both projections as `(batch, 2, n_tokens, q)`, 0 at other tokens."""
        student_head = self.student_head if self.student_mask_head is None else self.student_mask_head
        teacher_head = self.teacher_head if self.teacher_mask_head is None else self.teacher_mask_head
        projected = student_head(student[:, 1:])
        with torch.no_grad():
            target = teacher_head(teacher[:, 1:])
        cosine = nn.functional.cosine_similarity(projected.float(), target.float(), dim=-1, eps=1e-8)
        per_row = torch.where(token_mask, cosine, 0.0).sum(1) / token_mask.sum(1).clamp(min=1)
        if not keep:
            return per_row, None, None
        student, teacher = (
            torch.where(token_mask[..., None], vectors.detach(), 0.0).unflatten(0, (-1, 2))
            for vectors in (projected, target)
        )
        return per_row, student, teacher


def _spread(projections: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation over the batch of each coordinate, averaged over coordinates."""
    return projections.detach().float().std(0).mean()


class BrainSemantoksForSequenceClassification(BrainForSequenceClassification, BrainSemantoksPreTrainedModel):
    """Brain-Semantoks with a head for classification or regression on the pooled vector.

    For regression `config.classifier_loss` chooses between squared and absolute error.
    """

    body_class = BrainSemantoksModel
    _keys_to_ignore_on_load_unexpected = [r"^student\.", r"^(student|teacher)_(mask_)?head\."]

    def add_head(self) -> None:
        """Linear, or the authors' downstream heads, which start near 0: batch norm and linear, or an MLP with GELU."""
        config, kind, width = self.config, self.config.classifier_head, self.config.pooled_size
        parts, hidden = OrderedDict[str, nn.Module](), OrderedDict[str, nn.Module]()
        for number, size in enumerate(config.classifier_hidden_sizes if kind == "mlp" else []):
            hidden[f"{number}"] = initialised_linear(width, size, 0.02)
            hidden[f"activation{number}"] = nn.GELU()
            hidden[f"dropout{number}"] = nn.Dropout(config.classifier_dropout)
            width = size
        if kind == "batch_norm_linear":
            parts["norm"] = nn.BatchNorm1d(width)
        elif not hidden:
            parts["dropout"] = nn.Dropout(config.classifier_dropout)
        parts["hidden"] = nn.Sequential(hidden)
        parts["output"] = (
            nn.Linear(width, self.num_labels) if kind == "linear" else initialised_linear(width, self.num_labels, 2e-5)
        )
        self.classifier = nn.Sequential(parts)

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See [`BrainForSequenceClassification.classification_loss`]; for regression as it is configured."""
        loss = super().classification_loss(logits, labels)
        if self.config.problem_type == "regression" and self.config.classifier_loss == "mae":
            # Labels of one output may come as (batch,) or (batch, 1); subtracting those would broadcast.
            return nn.functional.l1_loss(logits, labels.reshape(logits.shape).to(logits.dtype))
        return loss
