"""The selective scan and the convolution of BrainMT's mixer against the usual formulations, one direction and layer.

    python benchmarks/bench_selective_scan.py [ENTRY ...] --threads 1

1,024 channels and 16 states, as in the published model; 50,401 steps are its 200 frames of 252 patches and CLS. The
dense formulation, that of transformers where no kernel is installed, would take 10 GB at that length: it is run on a
quarter, and its time grows with the length.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from harness import Result, compare, main
from torch.nn import functional

from brain_transformers.layers.mamba_mixer import depthwise_convolution
from brain_transformers.layers.selective_scan import selective_scan, selective_scan_reference

_CHANNELS, _STATES = 1024, 16
_FULL = 50_401


def scan_inputs(length: int) -> list[torch.Tensor]:
    """u, delta, A, B, C, D."""
    torch.manual_seed(0)
    return [
        torch.randn(1, length, _CHANNELS),
        functional.softplus(torch.randn(1, length, _CHANNELS)),
        -torch.arange(1.0, _STATES + 1).repeat(_CHANNELS, 1),
        torch.randn(1, length, _STATES),
        torch.randn(1, length, _STATES),
        torch.ones(_CHANNELS),
    ]


def dense(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """Decays and inputs of all steps at once, `(batch, channels, length, states)`, then a loop over the steps."""
    u, delta = u.transpose(1, 2), delta.transpose(1, 2)
    decay = torch.exp(A[None, :, None, :] * delta[:, :, :, None])
    change = delta[:, :, :, None] * B[:, None] * u[:, :, :, None]
    state, outputs = torch.zeros_like(change[:, :, 0]), []
    for step in range(u.shape[2]):
        state = decay[:, :, step] * state + change[:, :, step]
        outputs.append(torch.matmul(state, C[:, step, :, None])[..., 0])
    return (torch.stack(outputs, dim=-1) + u * D[:, None]).transpose(1, 2)


def with_gradients(scan: object, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Output and gradients of its sum of squares."""
    tensors = [tensor.requires_grad_() for tensor in tensors]
    y = scan(*tensors)  # type: ignore[operator]
    return [y.detach(), *torch.autograd.grad(y, tensors, y.detach())]


def forward() -> Result:
    tensors = scan_inputs(_FULL // 4)
    with torch.no_grad():
        return compare(
            "scan, 12,600 steps",
            ("all steps dense, as transformers without kernels", partial(dense, *tensors)),
            ("chunked", partial(selective_scan, *tensors, implementation="chunked")),
            repeats=3,
            target=4,
        )


def full_length() -> Result:
    tensors = scan_inputs(_FULL)
    with torch.no_grad():
        return compare(
            "scan, 50,401 steps",
            ("one step after the other", partial(selective_scan_reference, *tensors)),
            ("chunked", partial(selective_scan, *tensors, implementation="chunked")),
            repeats=2,
        )


def reverse() -> Result:
    tensors = scan_inputs(_FULL // 4)

    def with_flips() -> torch.Tensor:
        u, delta, A, B, C, D = tensors
        turned = (u.flip(1), delta.flip(1), A, B.flip(1), C.flip(1), D)
        return selective_scan(*turned, implementation="chunked").flip(1)

    with torch.no_grad():
        return compare(
            "scan from the end, 12,600 steps",
            ("on reversed copies", with_flips),
            ("in place", partial(selective_scan, *tensors, reverse=True, implementation="chunked")),
            repeats=3,
        )


def training() -> Result:
    tensors = scan_inputs(1024)
    return compare(
        "scan and its gradients, 1,024 steps",
        ("autograd through the loop", lambda: with_gradients(selective_scan_reference, tensors)),
        ("chunked", lambda: with_gradients(partial(selective_scan, implementation="chunked"), tensors)),
        repeats=3,
    )


def convolution() -> Result:
    torch.manual_seed(0)
    values = torch.randn(1, _FULL // 4, 2 * _CHANNELS)[..., :_CHANNELS]
    weight, bias = torch.randn(_CHANNELS, 1, 4), torch.randn(_CHANNELS)

    def grouped() -> torch.Tensor:
        out = functional.conv1d(values.transpose(1, 2), weight, bias, padding=3, groups=_CHANNELS)
        return out[..., : values.shape[1]].transpose(1, 2).contiguous()

    with torch.no_grad():
        return compare(
            "causal convolution, 12,600 steps",
            ("grouped conv1d", grouped),
            ("shifted multiply-adds", lambda: depthwise_convolution(values, weight, bias)),
        )


ENTRIES = {
    "forward": forward,
    "full_length": full_length,
    "reverse": reverse,
    "training": training,
    "convolution": convolution,
}

if __name__ == "__main__":
    raise SystemExit(main("selective_scan", ENTRIES, __doc__))
