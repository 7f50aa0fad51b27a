"""The compiled kernel of the package `mamba_ssm`, where it really is there."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from ...optional import require
from .reference import Gradients, ScanInputs

# What the kernel takes.
_LARGEST_STATE = 256


def reason_against(device: torch.device, dtype: torch.dtype, state_size: int) -> str | None:
    """Why `mamba_ssm`'s kernel cannot run on such tensors; None if it can."""
    if device.type != "cuda":
        return f"it takes tensors on a CUDA device, got one on {device}"
    if dtype == torch.float64:
        return "it computes in float32, got float64"
    if state_size > _LARGEST_STATE:
        return f"it takes up to {_LARGEST_STATE} states a channel, got {state_size}"
    return _kernel()[1]


@functools.cache
def _kernel() -> tuple[Callable[..., Any] | None, str | None]:
    """mamba_ssm's function, or why there is none: the package may be there without its kernel, and then the function
    fails only when it is called."""
    build = (
        "mamba-ssm builds its kernel only if told to: MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation "
        "--no-binary mamba-ssm mamba-ssm (with a CUDA compiler)"
    )
    try:
        interface = require("mamba_ssm.ops.selective_scan_interface", extra="mamba", purpose="the scan of mamba_ssm")
    except ImportError as error:
        return None, f"{error}. {build}"
    if getattr(interface, "selective_scan_cuda", None) is None:
        return None, f"mamba_ssm is installed without its kernel (selective_scan_cuda is missing). {build}"
    return interface.selective_scan_fn, None


def mamba_ssm_scan(scan: ScanInputs) -> torch.Tensor:
    """The output. Everything goes in as float32, so that nothing is rounded on the way.

    The kernel has no reverse mode: its inputs are reversed in time, here and nowhere else.
    """
    u, delta, A, B, C, D, reverse = scan
    function = _kernel()[0]
    assert function is not None  # asked before
    in_time = (each.float().transpose(1, 2) for each in (u, delta, B, C))  # (batch, channels or states, length)
    x, steps, rows, columns = (each.flip(-1) if reverse else each.contiguous() for each in in_time)
    y = function(x, steps, A.float().contiguous(), rows, columns, None if D is None else D.float().contiguous())
    return (y.flip(-1) if reverse else y).transpose(1, 2).contiguous()


def mamba_ssm_scan_backward(grad: torch.Tensor, scan: ScanInputs) -> Gradients:
    """The gradients, from the kernel run anew."""
    inputs = [each.detach().requires_grad_() for each in scan[:6] if each is not None]
    u, delta, A, B, C, *rest = inputs
    with torch.enable_grad():
        y = mamba_ssm_scan(ScanInputs(u, delta, A, B, C, rest[0] if rest else None, scan.reverse))
        grads = torch.autograd.grad(y, inputs, grad)
    grad_u, grad_delta, grad_A, grad_B, grad_C, *grad_D = (each.contiguous() for each in grads)
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D[0] if grad_D else scan.A.new_empty(0)
