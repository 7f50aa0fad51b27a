"""What a selective scan is, one step after the other."""

from typing import NamedTuple

import torch

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""With respect to u, delta, A, B, C and D (empty without D), each in its tensor's type."""


class ScanInputs(NamedTuple):
    """What a scan is of; see [`selective_scan`]."""

    u: torch.Tensor
    delta: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None
    reverse: bool

    @property
    def dtype(self) -> torch.dtype:
        """The type that it is computed in."""
        return scan_dtype(*self[:5])


def scan_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The type that a scan computes in: float64 where an input is float64, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def selective_scan_reference(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    reverse: bool = False,
) -> torch.Tensor:
    """The definition, in ordinary autograd: every other scan must give these numbers. Arguments as [`selective_scan`].

    Each step keeps its state for the backward pass: at full length these are gigabytes.
    """
    dtype = scan_dtype(u, delta, A, B, C)
    u, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    steps = list(zip(u.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1), strict=True))
    state = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for u_t, delta_t, B_t, C_t in reversed(steps) if reverse else steps:
        state = torch.exp(delta_t[:, :, None] * A) * state + (delta_t * u_t)[:, :, None] * B_t[:, None, :]
        outputs.append((state * C_t[:, None, :]).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1) if outputs else u
    return y if D is None else y + u * D.to(dtype)
