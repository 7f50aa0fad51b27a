"""Whether the Triton scan can run, answered without importing Triton where there is no GPU."""

import functools
import importlib.util
import os

import torch

from .chunked import SEGMENT, chunked_scan, chunked_scan_backward
from .reference import ScanInputs

# Largest difference from the plain scan, relative to the largest value, in the test on a device.
_TOLERANCE = 1e-4


def reason_against(device: torch.device, dtype: torch.dtype, state_size: int) -> str | None:
    """Why the Triton scan cannot run on such tensors; None if it can."""
    if not _installed():
        return "Triton is not installed. It comes with torch's CUDA builds on Linux: pip install triton"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it takes tensors on a CUDA device, got one on {device}"
    if dtype == torch.float64:
        return "it computes in float32, got float64"
    return fails_on(device) if device.type == "cuda" else None


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def fails_on(device: torch.device) -> str | None:
    """What went wrong in a small scan on the device, forward and backward, both ways; None if all was well.

    Kernels are compiled on the user's machine, for a device that no test here has seen: they are tried once a process
    before they are trusted.
    """
    generator = torch.Generator().manual_seed(0)
    u, steps, B, C, grad = (
        torch.randn(1, SEGMENT + 8, width, generator=generator).to(device) for width in (40, 40, 2, 2, 40)
    )
    A, D = -torch.arange(1.0, 3, device=device).repeat(40, 1), torch.ones(40, device=device)
    inputs = (u, torch.nn.functional.softplus(steps), A, B, C, D)
    kept = [torch.zeros(2, 1, 2, 40, device=device) for _ in range(2)]
    try:
        from .triton_scan import triton_scan, triton_scan_backward

        for reverse in (False, True):
            scan = ScanInputs(*inputs, reverse)
            ours = (triton_scan(scan, kept[0]), *triton_scan_backward(grad, scan, kept[0]))
            expected = (chunked_scan(scan, kept[1]), *chunked_scan_backward(grad, scan, kept[1]))
            for actual, right in zip(ours, expected, strict=True):
                error = float((actual - right).abs().max() / right.abs().max())
                if not error <= _TOLERANCE:
                    return f"its kernels give other numbers on {device} (off by {error:.2g} of the largest)"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler says
        return f"its kernels do not run on {device} ({type(error).__name__}: {error})"
    return None
