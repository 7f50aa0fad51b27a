"""One selective scan for every machine: which formulation runs is decided at each call, by device, type and kernels.

The choice is made inside an operator of torch, so that `torch.compile` and `torch.export` see one operation whatever
runs: an exported program takes the formulation of the machine that it runs on.
"""

from typing import Any

import torch

from . import mamba_ssm_scan, triton_availability
from .chunked import SEGMENT, chunked_scan, chunked_scan_backward
from .reference import Gradients, ScanInputs, selective_scan_reference

SCANS = ("reference", "chunked", "triton", "mamba_ssm")
"""Names that `implementation` of [`selective_scan`] takes."""


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    *,
    mask: torch.Tensor | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> torch.Tensor:
    """h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t and y_t = h_t C_t + D u_t, with h = 0 before the first step.

    Exponentials, products and states are float32 whatever the inputs (float64 if one is); so is the output, for the
    caller to round once. What is kept for the backward pass does not grow with the state but for one state every
    32 steps.

    Args:
        u: `(batch, length, channels)`, the input.
        delta: `(batch, length, channels)`, the step sizes after softplus, not negative.
        A: `(channels, state_size)`, negative.
        B, C: `(batch, length, state_size)`.
        D: `(channels,)`, or nothing is passed by the state.
        mask: `(batch, length)`, true or 1 = observed. Other steps leave the state as it is, in both directions; what
            comes out at them means nothing.
        reverse: run from the last step to the first.
        implementation: one of [`SCANS`], or None: on a CUDA device `mamba_ssm`'s kernel, else Triton, whichever is
            installed, elsewhere `"chunked"`.

    Raises:
        ValueError: for shapes that do not fit and an unknown `implementation`.
        RuntimeError: if the `implementation` asked for cannot run here.
    """
    _check_shapes(u, delta, A, B, C, D, mask)
    if implementation is not None and implementation not in SCANS:
        raise ValueError(f"implementation must be one of {', '.join(SCANS)} or None, got {implementation!r}")
    if mask is not None:
        delta = delta.masked_fill(~mask.bool()[:, :, None], 0)
    if implementation == "reference":
        return selective_scan_reference(u, delta, A, B, C, D, reverse)
    keep_states = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (u, delta, A, B, C, D)
    )
    operator = torch.ops.brain_transformers.selective_scan
    return operator(u, delta, A, B, C, D, reverse, implementation or "", keep_states)[0]


def chosen_scan(
    device: torch.device, dtype: torch.dtype = torch.float32, state_size: int = 16, implementation: str | None = None
) -> str:
    """The name of the formulation that [`selective_scan`] takes on such a device, computing in float32 or float64.

    Raises:
        RuntimeError: if the `implementation` asked for cannot run on it; the message says what is missing.
    """
    reasons = {"mamba_ssm": mamba_ssm_scan.reason_against, "triton": triton_availability.reason_against}
    if implementation:
        reason = reasons[implementation](device, dtype, state_size) if implementation in reasons else None
        if reason is not None:
            raise RuntimeError(f"The selective scan {implementation!r} cannot run here: {reason}")
        return implementation
    if device.type == "cuda":
        for name, reason_against in reasons.items():
            if reason_against(device, dtype, state_size) is None:
                return name
    return "chunked"


def _check_shapes(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> None:
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(
            "u must be (batch, length, channels) and A (channels, state_size), "
            f"got shapes {tuple(u.shape)} and {tuple(A.shape)}"
        )
    (batch, length, channels), state_size = u.shape, A.shape[1]
    expected: dict[str, tuple[torch.Tensor | None, tuple[int, ...]]] = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, state_size)),
        "B": (B, (batch, length, state_size)),
        "C": (C, (batch, length, state_size)),
        "D": (D, (channels,)),
        "mask": (mask, (batch, length)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape} for u {tuple(u.shape)} and {state_size} states, "
                f"got {tuple(tensor.shape)}"
            )


# Operators of torch have a flat list of arguments: those of ScanInputs, and what the schemas below name besides.


def _scan(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the states from which the backward pass starts each segment (none unless they are kept)."""
    scan, implementation, keep_states = ScanInputs(*arguments[:7]), *arguments[7:]
    chosen = chosen_scan(scan.u.device, scan.dtype, scan.A.shape[1], implementation)
    states = _states(scan, keep_states)
    kept = states if keep_states else None
    if chosen == "mamba_ssm":  # its backward pass needs no states
        return mamba_ssm_scan.mamba_ssm_scan(scan), states
    if chosen == "triton":
        from .triton_scan import triton_scan

        return triton_scan(scan, kept), states
    return chunked_scan(scan, kept), states


def _scan_fake(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    scan, _, keep_states = ScanInputs(*arguments[:7]), *arguments[7:]
    return torch.empty(scan.u.shape, dtype=scan.dtype, device=scan.u.device), _states(scan, keep_states)


def _states(scan: ScanInputs, keep: bool) -> torch.Tensor:
    # One or two rows more than segments: `torch.export` would make a program for short sequences only out of one row.
    n_states = scan.u.shape[1] // SEGMENT + 2 if keep else 0
    shape = (n_states, scan.u.shape[0], scan.A.shape[1], scan.A.shape[0])
    return torch.zeros(shape, dtype=scan.dtype, device=scan.u.device)


def _scan_backward(grad: torch.Tensor, *arguments: Any) -> Gradients:
    scan, implementation, states = ScanInputs(*arguments[:7]), *arguments[7:]
    chosen = chosen_scan(scan.u.device, scan.dtype, scan.A.shape[1], implementation)
    if chosen == "mamba_ssm":
        return mamba_ssm_scan.mamba_ssm_scan_backward(grad, scan)
    if chosen == "triton":
        from .triton_scan import triton_scan_backward

        return triton_scan_backward(grad, scan, states)
    return chunked_scan_backward(grad, scan, states)


def _scan_backward_fake(grad: torch.Tensor, *arguments: Any) -> Gradients:
    u, delta, A, B, C, D, _ = ScanInputs(*arguments[:7])
    tensors = (u, delta, A, B, C, A[:0, 0] if D is None else D)
    grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D = (
        torch.empty(each.shape, dtype=each.dtype, device=each.device) for each in tensors
    )
    return grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    u, delta, A, B, C, D, ctx.reverse, ctx.implementation, _ = inputs
    ctx.save_for_backward(u, delta, A, B, C, D, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    u, delta, A, B, C, D, states = ctx.saved_tensors
    grads = torch.ops.brain_transformers.selective_scan_backward(
        grad, u, delta, A, B, C, D, ctx.reverse, ctx.implementation, states
    )
    return (*grads[:5], None if D is None else grads[5], None, None, None)


# Defined one by one: the decorator `custom_op` would load torch's compiler at the first call, a second of work.
_TENSORS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, bool reverse, str implementation"
torch.library.define("brain_transformers::selective_scan", f"({_TENSORS}, bool keep_states) -> (Tensor, Tensor)")
torch.library.define(
    "brain_transformers::selective_scan_backward",
    f"(Tensor grad, {_TENSORS}, Tensor states) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
for _name, _run, _fake in (
    ("brain_transformers::selective_scan", _scan, _scan_fake),
    ("brain_transformers::selective_scan_backward", _scan_backward, _scan_backward_fake),
):
    torch.library.impl(_name, "default", _run)
    torch.library.register_fake(_name, _fake)
torch.library.register_autograd("brain_transformers::selective_scan", _differentiate, setup_context=_keep)
