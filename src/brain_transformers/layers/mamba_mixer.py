"""The mixer of Mamba (version 1), causal or in both directions, on any device.

Parameters are named as in `mamba_ssm`, Vim and VideoMamba, so that their state dicts load as they are.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from .plain import input_dtype, is_plain
from .selective_scan import selective_scan

MixerType = Literal["bidirectional_v2", "causal"]
StepInit = Literal["normal", "mamba"]

# Step sizes of a new mixer with `step_init="mamba"`: log-uniform between these.
_SMALLEST_STEP, _LARGEST_STEP = 1e-3, 1e-1


def depthwise_convolution(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, reverse: bool = False
) -> torch.Tensor:
    """out_t = bias + sum over k of weight[:, 0, k] values_{t - (K - 1) + k}, zeros before the start.

    By shifted multiply-adds, without a transpose: on a CPU 2.6 times faster than a grouped `conv1d` between transposes
    (measured with 12,600 steps and 1,024 channels, one thread).

    Args:
        values: `(batch, length, channels)`.
        weight: `(channels, 1, K)`.
        bias: `(channels,)`.
        reverse: the mirror image: out_t sees values_t to values_{t + K - 1}, zeros after the end.
    """
    return _ShiftedSum.apply(values, weight, bias, reverse)


def _shifted_sum(values: torch.Tensor, taps: torch.Tensor, bias: torch.Tensor | None, reverse: bool) -> torch.Tensor:
    """`taps`, `(K, channels)`, in the order of the shift."""
    out = values * taps[0] if bias is None else torch.addcmul(bias, values, taps[0])
    for shift in range(1, min(len(taps), values.shape[1])):
        later, earlier = (slice(shift, None), slice(None, -shift))
        to, of = (earlier, later) if reverse else (later, earlier)
        out[:, to].addcmul_(values[:, of], taps[shift])
    return out


class _ShiftedSum(torch.autograd.Function):
    """Keeps the values and the kernel, where autograd would keep a copy for each tap."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, reverse: bool) -> Any:
        ctx.save_for_backward(values, weight)
        ctx.reverse, ctx.has_bias = reverse, bias is not None
        return _shifted_sum(values, weight[:, 0].flip(-1).t(), bias, reverse)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        values, weight = ctx.saved_tensors
        length = values.shape[1]
        grad_values = _shifted_sum(grad, weight[:, 0].flip(-1).t(), None, not ctx.reverse)
        grad_taps = []
        for shift in range(weight.shape[-1]):
            later, earlier = slice(shift, None), slice(0, max(length - shift, 0))
            to, of = (earlier, later) if ctx.reverse else (later, earlier)
            grad_taps.append((grad[:, to] * values[:, of]).sum((0, 1)))
        grad_weight = torch.stack(grad_taps[::-1], dim=-1)[:, None]
        return grad_values, grad_weight, grad.sum((0, 1)) if ctx.has_bias else None, None


class DepthwiseConvolution(nn.Module):
    """[`depthwise_convolution`] with its weights: `weight`, `(channels, 1, kernel_size)`, and `bias`."""

    def __init__(self, channels: int, kernel_size: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    def forward(self, values: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        """`(batch, length, channels)` in and out, in float32 at least."""
        dtype = torch.promote_types(values.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(dtype)
        return depthwise_convolution(values.to(dtype), self.weight.to(dtype), bias, reverse)


class MambaMixer(nn.Module):
    """Selective state space layer: `(batch, length, hidden_size)` in and out.

    `"bidirectional_v2"` is what Vim calls v2 (VideoMamba's default): both directions have a convolution, projections
    and decays of their own (suffix `_b` for the backward one) and share `in_proj`, the gate and `out_proj`. Nothing is
    reversed in memory: the backward direction convolves and scans from the end.

    Args:
        hidden_size: width of the sequence.
        state_size: states a channel.
        conv_kernel: steps that the convolution spans.
        expand: channels = `expand * hidden_size`.
        time_step_rank: width from which step sizes are made; `"auto"` is `ceil(hidden_size / 16)`.
        use_bias: bias of `in_proj` and `out_proj`.
        use_conv_bias: bias of the convolutions.
        mixer_type: `"bidirectional_v2"` or `"causal"` (the stock Mamba).
        if_divide_out: halve the sum of both directions (an option of Vim; leaves no trace in the weights).
        scan: which [`selective_scan`] runs, see its `implementation`; None chooses at each call.

    Raises:
        ValueError: for an unknown `mixer_type`.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        state_size: int = 16,
        conv_kernel: int = 4,
        expand: int = 2,
        time_step_rank: int | Literal["auto"] = "auto",
        use_bias: bool = False,
        use_conv_bias: bool = True,
        mixer_type: MixerType = "bidirectional_v2",
        if_divide_out: bool = False,
        scan: str | None = None,
    ):
        super().__init__()
        if mixer_type not in get_args(MixerType):
            raise ValueError(
                f"mixer_type must be one of {', '.join(get_args(MixerType))}, got {mixer_type!r}. (Vim's v1 shares "
                "all but A_b_log between the directions; no published model uses it.)"
            )
        channels = int(expand * hidden_size)
        rank = math.ceil(hidden_size / 16) if time_step_rank == "auto" else int(time_step_rank)
        self.state_size, self.time_step_rank = state_size, rank
        self.mixer_type, self.if_divide_out, self.scan = mixer_type, if_divide_out, scan
        self.suffixes = ("", "_b") if mixer_type == "bidirectional_v2" else ("",)
        self.in_proj = nn.Linear(hidden_size, 2 * channels, bias=use_bias)
        for suffix in self.suffixes:
            self.add_module(f"conv1d{suffix}", DepthwiseConvolution(channels, conv_kernel, use_conv_bias))
            self.add_module(f"x_proj{suffix}", nn.Linear(channels, rank + 2 * state_size, bias=False))
            self.add_module(f"dt_proj{suffix}", nn.Linear(rank, channels))
            decay = "A_log" if not suffix else "A_b_log"
            self.register_parameter(decay, nn.Parameter(torch.empty(channels, state_size)))
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.empty(channels)))
        self.out_proj = nn.Linear(channels, hidden_size, bias=use_bias)
        self.initialise()

    def initialise(self, std: float = 0.02, depth: int = 1, step_init: StepInit = "normal") -> None:
        """Draw all weights anew, those of the linear layers too: for `_init_weights`, which has met those before.

        Args:
            std: standard deviation of the projections.
            depth: number of layers of the network; `out_proj` is drawn smaller by its root.
            step_init: how step sizes start. `"normal"`: projections like the others and no bias, so that they start at
                softplus(0) = 0.69 (VideoMamba and BrainMT); `"mamba"`: between 0.001 and 0.1, as in Mamba.

        Raises:
            ValueError: for an unknown `step_init`.
        """
        if step_init not in get_args(StepInit):
            raise ValueError(f"step_init must be one of {', '.join(get_args(StepInit))}, got {step_init!r}")
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init.normal_(module.weight, std=std)
                if module.bias is not None:
                    init.zeros_(module.bias)
            elif isinstance(module, DepthwiseConvolution):
                bound = module.weight.shape[-1] ** -0.5
                init.uniform_(module.weight, -bound, bound)
                if module.bias is not None:
                    init.uniform_(module.bias, -bound, bound)
        bound = (self.out_proj.in_features * depth) ** -0.5
        init.uniform_(self.out_proj.weight, -bound, bound)
        for suffix in self.suffixes:
            log_A, D = self._decay(suffix)
            states = torch.arange(1, self.state_size + 1, dtype=torch.float32, device=log_A.device)
            init.copy_(log_A, states.log().expand_as(log_A))
            init.ones_(D)
            if step_init == "mamba":
                dt_proj: Any = self.get_submodule(f"dt_proj{suffix}")
                init.uniform_(dt_proj.weight, -(self.time_step_rank**-0.5), self.time_step_rank**-0.5)
                share = torch.rand(dt_proj.bias.shape, device=dt_proj.bias.device)
                steps = _SMALLEST_STEP * (_LARGEST_STEP / _SMALLEST_STEP) ** share
                init.copy_(dt_proj.bias, steps + torch.log(-torch.expm1(-steps)))  # softplus of it gives `steps`

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Mix the steps of a sequence.

        Args:
            hidden_states: `(batch, length, hidden_size)`.
            attention_mask: `(batch, length)`, 1 = observed, 0 = padding, on either side: observed steps come out as if
                the others were not there, in both directions. What comes out at the others means nothing.
        """
        u, z = self.in_proj(hidden_states).chunk(2, dim=-1)
        if attention_mask is not None:
            u = u.masked_fill(~attention_mask.bool()[:, :, None], 0)
        y = self._direction(u, attention_mask, "")
        for suffix in self.suffixes[1:]:
            y = y.add_(self._direction(u, attention_mask, suffix))  # before the gate: one product for both
        if self.if_divide_out:
            y = y / len(self.suffixes)
        gate = nn.functional.silu(z.to(y.dtype))
        y = y * gate if torch.is_grad_enabled() else y.mul_(gate)
        return self.out_proj(y.to(input_dtype(self.out_proj, hidden_states)))

    def _direction(self, u: torch.Tensor, mask: torch.Tensor | None, suffix: str) -> torch.Tensor:
        """Convolution, projections and scan of one direction, `(batch, length, channels)` in float32 at least."""
        convolved = self.get_submodule(f"conv1d{suffix}")(u, reverse=bool(suffix))
        x = nn.functional.silu(convolved, inplace=not torch.is_grad_enabled())
        x_proj = self.get_submodule(f"x_proj{suffix}")
        steps, B, C = x_proj(x.to(input_dtype(x_proj, u))).split(
            [self.time_step_rank, self.state_size, self.state_size], dim=-1
        )
        log_A, D = self._decay(suffix)
        delta = self._step_sizes(self.get_submodule(f"dt_proj{suffix}"), steps, x.dtype)
        A = -torch.exp(log_A.to(x.dtype))
        return selective_scan(x, delta, A, B, C, D, mask=mask, reverse=bool(suffix), implementation=self.scan)

    def _decay(self, suffix: str) -> tuple[nn.Parameter, nn.Parameter]:
        return self.get_parameter("A_b_log" if suffix else "A_log"), self.get_parameter(f"D{suffix}")

    @staticmethod
    def _step_sizes(dt_proj: Any, steps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """softplus of the projection, which is not rounded to a lower type on the way."""
        if is_plain(dt_proj):
            with maybe_autocast(steps.device.type, enabled=False):
                weight, bias = dt_proj.weight.to(dtype), dt_proj.bias.to(dtype)
                projected = nn.functional.linear(steps.to(dtype), weight, bias)
        else:
            projected = dt_proj(steps.to(input_dtype(dt_proj, steps))).to(dtype)
        return nn.functional.softplus(projected)
