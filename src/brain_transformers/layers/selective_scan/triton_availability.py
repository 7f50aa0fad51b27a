"""Whether the Triton scan can run, answered without importing Triton."""

import functools
import importlib.util
import os

import torch


def reason_against(device: torch.device, dtype: torch.dtype, state_size: int) -> str | None:
    """Why the Triton scan cannot run on such tensors; None if it can."""
    if not _installed():
        return "Triton is not installed. It comes with torch's CUDA builds on Linux: pip install triton"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"it takes tensors on a CUDA device, got one on {device}"
    if dtype == torch.float64:
        return "it computes in float32, got float64"
    return None


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
