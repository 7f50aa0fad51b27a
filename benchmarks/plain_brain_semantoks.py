"""Brain-Semantoks as it was published, step by step, with the names of the published weights.

Written from the description of the architecture: a mask gather per network, eager attention, the kernel of the long
convolution built in every call, one pass of the encoder per view. Tokenizers that nothing uses are left out unless
`dead_tokenizers` asks for them.
"""

import math
from typing import Any

import torch
from torch import nn


class PlainLongConvolution(nn.Module):
    """The kernel in segments, divided by the norm that it had in the first pass; grouped convolution."""

    kernel_norm: torch.Tensor
    multiplier: torch.Tensor
    kernel_norm_initialized: torch.Tensor

    def __init__(self, n_rois: int, n_heads: int, kernel_size: int, num_scales: int, low: float, high: float):
        super().__init__()
        self.kernel_list = nn.ParameterList(
            nn.Parameter(torch.randn(n_heads, n_rois, kernel_size)) for _ in range(num_scales)
        )
        self.D = nn.Parameter(torch.randn(n_heads, n_rois))
        self.register_buffer("multiplier", torch.linspace(low, high, n_rois).view(1, -1, 1))
        self.register_buffer("kernel_norm", torch.ones(n_heads, n_rois, 1))
        self.register_buffer("kernel_norm_initialized", torch.tensor(False))

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        scales = len(self.kernel_list)
        kernel = torch.cat(
            [
                nn.functional.interpolate(part, scale_factor=2 ** max(0, i - 1), mode="nearest")
                * self.multiplier ** (scales - 1 - i)
                for i, part in enumerate(self.kernel_list)
            ],
            dim=-1,
        )
        if not bool(self.kernel_norm_initialized):
            self.kernel_norm.copy_(kernel.detach().norm(dim=-1, keepdim=True))
            self.kernel_norm_initialized.fill_(True)
        kernel = kernel / self.kernel_norm
        n_heads, n_rois, length = kernel.shape
        left = (length - 1) // 2
        padded = nn.functional.pad(windows, (left, length - 1 - left))
        weight = kernel.flip(-1).transpose(0, 1).reshape(n_rois * n_heads, 1, length)
        mixed = nn.functional.conv1d(padded, weight, groups=n_rois)
        direct = windows[:, :, None] * self.D.transpose(0, 1)[None, :, :, None]
        return mixed + direct.flatten(1, 2)


class PlainLongBranch(nn.Module):
    def __init__(self, n_rois: int, out_channels: int, **options: Any):
        super().__init__()
        n_heads = math.ceil(out_channels / n_rois)
        self.slconv = PlainLongConvolution(
            n_rois,
            n_heads,
            options.get("kernel_size", 4),
            options.get("num_scales", 3),
            options.get("decay_min", 2.0),
            options.get("decay_max", 2.0),
        )
        self.projection = nn.Linear(n_heads * n_rois, out_channels)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.projection(self.slconv(windows).transpose(1, 2)).transpose(1, 2)


class PlainDepthwise(nn.Module):
    def __init__(self, n_rois: int, out_channels: int, kernel_size: int, dilation: int):
        super().__init__()
        self.depthwise = nn.Conv1d(n_rois, n_rois, kernel_size, padding="same", dilation=dilation, groups=n_rois)
        self.pointwise = nn.Conv1d(n_rois, out_channels, 1)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(windows))


def plain_branch(n_rois: int, type: str, out_channels: int, **options: Any) -> nn.Module:
    """One branch of a tokenizer from the authors' dictionary."""
    if type == "sgconv":
        return PlainLongBranch(n_rois, out_channels, **options)
    dilation = options.get("dilation", 1) if type == "dilated" else 1
    if options.get("depthwise"):
        return PlainDepthwise(n_rois, out_channels, options["kernel_size"], dilation)
    return nn.Conv1d(n_rois, out_channels, options["kernel_size"], padding="same", dilation=dilation)


class PlainTokenizer(nn.Module):
    def __init__(self, n_rois: int, branches: list[dict[str, Any]], width: int, norm: bool, pooling: str):
        super().__init__()
        self.branches = nn.ModuleList(plain_branch(n_rois, **branch) for branch in branches)
        self.pooling = pooling
        self.pool = nn.Module()
        if pooling == "attention":
            self.pool.attention = nn.Linear(width, 1, bias=False)
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        channels = nn.functional.gelu(torch.cat([branch(windows) for branch in self.branches], dim=1))
        if self.pooling == "max":
            return self.norm(channels.max(-1).values)
        if self.pooling == "attention":
            attention: Any = self.pool.attention
            weights = torch.softmax(attention(channels.transpose(1, 2)), dim=1)
            return self.norm((channels.transpose(1, 2) * weights).sum(1))
        return self.norm(channels.mean(-1))


class PlainScale(nn.Module):
    def __init__(self, width: int, value: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), value))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.gamma


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, n, width = tokens.shape
        size = width // self.heads
        query, key, value = self.qkv(tokens).reshape(batch, n, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.transpose(-1, -2) * size**-0.5, dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, n, width))


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, mlp: int, scale: float | None):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = PlainAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp), nn.GELU(), nn.Dropout(0.0), nn.Linear(mlp, width), nn.Dropout(0.0)
        )
        self.ls1 = PlainScale(width, scale) if scale else nn.Identity()
        self.ls2 = PlainScale(width, scale) if scale else nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PlainTransformer(nn.Module):
    temporal_pos_embedding: torch.Tensor

    def __init__(self, values: dict[str, Any], n_networks: int, n_windows: int):
        super().__init__()
        width = values["embedding_dim"]
        if values.get("do_masking", True):
            self.mask_embedding = nn.Parameter(0.02 * torch.randn(1, width))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        omega = 10000 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
        angle = torch.arange(n_windows, dtype=torch.float64)[:, None] * omega
        self.register_buffer("temporal_pos_embedding", torch.cat([angle.sin(), angle.cos()], dim=1).float())
        self.network_learnable_pos_embedding = nn.Embedding(n_networks, width)
        self.transformer_blocks = nn.ModuleList(
            PlainBlock(width, values["heads"], values["mlp_dim"], values.get("layer_scale_init_value"))
            for _ in range(values["depth"])
        )
        self.norm = nn.LayerNorm(width)  # never used

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if mask is not None and hasattr(self, "mask_embedding"):
            tokens = tokens.clone()
            tokens[mask] = self.mask_embedding
        tokens = tokens + self.network_learnable_pos_embedding.weight[:, None] + self.temporal_pos_embedding
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens.flatten(1, 2)], dim=1)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return tokens


class PlainEncoder(nn.Module):
    """The published encoder.

    Args:
        values: the authors' constructor arguments.
        networks: network of each parcel.
    """

    def __init__(self, values: dict[str, Any], networks: list[int]):
        super().__init__()
        self.values, self.networks = values, torch.tensor(networks)
        self.size = values["patch_size"]
        self.n_windows = (values["target_time_length"] - self.size) // self.size + 1
        n_networks, width = max(networks) + 1, values["embedding_dim"]
        if values.get("max_spatial"):
            self.shared_roi_projection = nn.Linear(self.size, width)
        else:
            atlases = values["atlas_names"] if values.get("dead_tokenizers") else values["atlas_names"][:1]
            self.network_tokenizers = nn.ModuleDict(
                {
                    atlas: nn.ModuleList(
                        PlainTokenizer(
                            networks.count(network),
                            values["tokenizer_config"],
                            width,
                            values.get("tokenizer_final_norm", "layer") == "layer",
                            values.get("tokenizer_pooling_type", "mean"),
                        )
                        for network in range(n_networks)
                    )
                    for atlas in atlases
                }
            )
        self.inter_network_transformer = PlainTransformer(values, n_networks, self.n_windows)
        self.norm = nn.LayerNorm(width)
        if values.get("num_classes", 0):
            self.head = nn.Sequential(nn.Dropout(0.0), nn.Linear(width, values["num_classes"]))

    def tokenize(self, signals: torch.Tensor) -> torch.Tensor:
        """`(batch, n_networks, n_windows, width)`."""
        windows = signals.unfold(2, self.size, self.size)[:, :, : self.n_windows]
        if self.values.get("max_spatial"):
            return self.shared_roi_projection(windows)
        batch = len(signals)
        tokens = []
        tokenizers: Any = self.network_tokenizers[self.values["atlas_names"][0]]
        for network, tokenizer in enumerate(tokenizers):
            part = windows[:, self.networks == network].transpose(1, 2).flatten(0, 1)
            tokens.append(tokenizer(part).view(batch, self.n_windows, -1))
        return torch.stack(tokens, dim=1)

    def forward(self, signals: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`(batch, 1 + n_networks * n_windows, width)`."""
        return self.norm(self.inter_network_transformer(self.tokenize(signals), mask))


class PlainHead(nn.Module):
    def __init__(self, values: dict[str, Any]):
        super().__init__()
        layers, sizes = values["projection_nlayers"], [values["embedding_dim"]]
        sizes += [values["projection_hidden_dim"]] * (layers - 1) + [values["projection_bottleneck_dim"]]
        if layers == 1:
            self.mlp: nn.Module = nn.Linear(*sizes)
        else:
            parts: list[nn.Module] = []
            for place in range(layers):
                parts += [nn.Linear(sizes[place], sizes[place + 1]), nn.GELU()]
            self.mlp = nn.Sequential(*parts[:-1])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.mlp(tokens), dim=-1)


def plain_coding_rate(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """The loss of two views, each `(n, q)`."""
    n, size = student[0].shape
    agreement = ((teacher[0] * student[1]).sum(-1).mean() + (teacher[1] * student[0]).sum(-1).mean()) / 2
    halves = []
    for one, other in zip(student, teacher):
        features = (one + other) / 2
        covariance = features.T @ features
        factor = torch.linalg.cholesky(torch.eye(size) + size / (n * 0.05) * covariance)
        halves.append(factor.diagonal().log().sum())
    return -agreement - (halves[0] + halves[1]) / 2 * (size + n) / (size * n)


class PlainPretraining(nn.Module):
    """Student and teacher with their heads, and the published forward pass."""

    def __init__(self, values: dict[str, Any], networks: list[int]):
        super().__init__()
        self.values = values
        self.student_encoder, self.teacher_encoder = PlainEncoder(values, networks), PlainEncoder(values, networks)
        self.student_predictor, self.teacher_predictor = PlainHead(values), PlainHead(values)
        separate = values.get("use_separate_mask_predictor", False)
        self.student_mask_predictor = PlainHead(values) if separate else self.student_predictor
        self.teacher_mask_predictor = PlainHead(values) if separate else self.teacher_predictor

    def forward(
        self, views: list[torch.Tensor], masks: list[torch.Tensor] | None, network_weight: float, mask_weight: float
    ) -> torch.Tensor:
        """The loss of two views."""
        n_networks = len(self.student_encoder.inter_network_transformer.network_learnable_pos_embedding.weight)
        student = [self.student_encoder(view, None if masks is None else masks[i]) for i, view in enumerate(views)]
        with torch.no_grad():
            teacher = [self.teacher_encoder(view) for view in views]

        def networks(tokens: torch.Tensor) -> torch.Tensor:
            return tokens[:, 1:].unflatten(1, (n_networks, -1)).mean(2)

        with torch.no_grad():
            teacher_cls = [self.teacher_predictor(tokens[:, 0]) for tokens in teacher]
            teacher_net = [self.teacher_predictor(networks(tokens)).flatten(0, 1) for tokens in teacher]
        loss = plain_coding_rate([self.student_predictor(tokens[:, 0]) for tokens in student], teacher_cls)
        student_net = [self.student_predictor(networks(tokens)).flatten(0, 1) for tokens in student]
        loss = loss + network_weight * plain_coding_rate(student_net, teacher_net)
        if masks is None:
            return loss
        total = torch.zeros(())
        for view, mask in enumerate(masks):
            chosen = mask.flatten(1)
            ours = self.student_mask_predictor(student[view][:, 1:][chosen])
            with torch.no_grad():
                theirs = self.teacher_mask_predictor(teacher[view][:, 1:][chosen])
            cosine = nn.functional.cosine_similarity(ours, theirs, dim=-1)
            weights = (1 / chosen.sum(1).clamp(min=1))[:, None].expand_as(chosen)[chosen]
            total = total + (cosine * weights).sum()
        return loss - mask_weight * total / (2 * len(views[0]))
