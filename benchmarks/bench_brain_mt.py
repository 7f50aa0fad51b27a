"""BrainMT against the formulation of its authors' code, rebuilt from its description, on the same random weights.

    python benchmarks/bench_brain_mt.py [ENTRY ...] --threads 1

Width, channels and states are those of the published model; the number of frames is smaller where the plain form would
take too long or too much memory. The scan alone is in `bench_selective_scan.py`. `whole` runs all 200 frames through
the stem, one Mamba and two attention layers and weighs that: layers run one after the other, so that more of them take
longer and no more memory but for their weights.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from bench_selective_scan import dense
from harness import Result, compare, main, measure
from torch import nn
from torch.nn import functional

import brain_transformers as bt


def model_of(n_mamba: int, n_attention: int, **options: int) -> bt.BrainMTForSequenceClassification:
    torch.manual_seed(0)
    config = bt.load_config(
        "brain-mt-base", num_mamba_layers=n_mamba, num_attention_layers=n_attention, num_labels=1, **options
    )
    return bt.BrainMTForSequenceClassification(config).eval()


def frames(n_frames: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(1, n_frames, 1, 109, 91, 91)


# --- the plain formulation ---


def plain_stem(stem: nn.Module, volumes: torch.Tensor) -> torch.Tensor:
    """All frames at once, with a copy of every activation, and norms between permutations."""

    def block(part: nn.Module, values: torch.Tensor) -> torch.Tensor:
        def norm(layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
            last = hidden.permute(0, 2, 3, 4, 1).contiguous()
            done = functional.layer_norm(last, last.shape[-1:], layer.weight, layer.bias, layer.eps)
            return done.permute(0, 4, 1, 2, 3).contiguous()

        hidden = functional.gelu(norm(part.norm1, part.conv1(values)), approximate="tanh")
        return values + norm(part.norm2, part.conv2(hidden))

    hidden = functional.relu(stem.conv2(functional.relu(stem.conv1(volumes.flatten(0, 1)))))
    hidden = stem.downsample0(block(stem.block0, hidden))
    return stem.downsample1(block(stem.block1, hidden)).flatten(2).transpose(1, 2)


def plain_mixer(mixer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """Both directions as calls of their own: reversed copies, grouped convolutions, dense scans, two gates."""
    u, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)

    def direction(u: torch.Tensor, z: torch.Tensor, suffix: str) -> torch.Tensor:
        convolution, x_proj, dt_proj = (
            mixer.get_submodule(f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj")
        )
        log_A = mixer.A_b_log if suffix else mixer.A_log
        taps = convolution.weight.shape[-1]
        x = functional.conv1d(
            u.transpose(1, 2), convolution.weight, convolution.bias, padding=taps - 1, groups=u.shape[-1]
        )[..., : u.shape[1]]
        x = functional.silu(x).transpose(1, 2)
        steps, B, C = x_proj(x).split([mixer.time_step_rank, mixer.state_size, mixer.state_size], dim=-1)
        y = dense(x, functional.softplus(dt_proj(steps)), -torch.exp(log_A), B, C, mixer.get_parameter(f"D{suffix}"))
        return y * functional.silu(z)

    y = direction(u, z, "") + direction(u.flip(1), z.flip(1), "_b").flip(1)
    return mixer.out_proj(y)


# --- entries ---


def stem() -> Result:
    embeddings, volumes = model_of(1, 0).brain_mt.embeddings, frames(8)
    chunk = embeddings.config.frames_per_chunk

    def ours() -> torch.Tensor:
        return torch.cat([embeddings.stem(part) for part in volumes.flatten(0, 1).split(chunk)])

    with torch.no_grad():
        return compare(
            "stem, 8 frames",
            ("all frames at once", partial(plain_stem, embeddings.stem, volumes)),
            (f"{chunk} frames at a time, channels last", ours),
            repeats=2,
        )


def mixer() -> Result:
    layer = model_of(1, 0).brain_mt.mamba_layers[0].mixer
    torch.manual_seed(2)
    hidden_states = torch.randn(1, 1 + 252 * 12, 512)
    with torch.no_grad():
        return compare(
            "mixer in both directions, 12 frames",
            ("reversed copies, dense scans", partial(plain_mixer, layer, hidden_states)),
            ("nothing reversed, chunked scans, one gate", partial(layer, hidden_states)),
            repeats=2,
        )


def training() -> Result:
    layer = model_of(1, 0).brain_mt.mamba_layers[0].mixer
    torch.manual_seed(2)
    hidden_states = torch.randn(1, 1 + 252 * 2, 512, requires_grad=True)

    def gradients(function: object) -> list[torch.Tensor]:
        output = function(hidden_states)  # type: ignore[operator]
        return [output.detach(), *torch.autograd.grad(output, [hidden_states, *layer.parameters()], output.detach())]

    return compare(
        "mixer and its gradients, 2 frames",
        ("autograd through dense scans", lambda: gradients(partial(plain_mixer, layer))),
        ("chunked", lambda: gradients(layer)),
        repeats=2,
        tolerance=1e-3,
    )


def cls_query() -> Result:
    body = model_of(0, 1).brain_mt
    torch.manual_seed(2)
    tokens = torch.randn(1, 1 + 252 * 24, 512)
    layer = body.attention_layers[0]
    with torch.no_grad():
        return compare(
            "last attention layer, 24 frames",
            ("all tokens", lambda: layer(tokens, body.norm, body.mlp)[:, :1]),
            ("the CLS query alone", lambda: layer(tokens, body.norm, body.mlp, query_ids=slice(0, 1))),
            repeats=2,
        )


def whole() -> Result:
    def run() -> None:
        model = model_of(1, 2)
        with torch.no_grad():
            model(frames(200))

    return measure(
        "200 frames through the stem, 1 Mamba and 2 attention layers",
        "float32, from volumes to logits, with the volumes and weights in memory",
        run,
        most_mb=4000,
    )


ENTRIES = {"stem": stem, "mixer": mixer, "training": training, "cls_query": cls_query, "whole": whole}

if __name__ == "__main__":
    raise SystemExit(main("brain_mt", ENTRIES, __doc__))
