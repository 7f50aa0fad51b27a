"""Harmonix-F against the published formulation, at base size, on random weights.

    python benchmarks/bench_harmonix_f.py [ENTRY ...]

The authors' CPU path is their eager one: all scores of all tokens in memory, padded keys pushed down by a mask. Speed
does not depend on the values of the weights, so none are needed.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from harness import Result, compare, main
from torch import nn

import brain_transformers as bt
from brain_transformers.models.harmonix_f.modeling_harmonix_f import encode

N_ROIS, N_WINDOWS = 400, 18


@lru_cache(maxsize=1)
def build() -> Any:
    torch.manual_seed(0)
    model = bt.HarmonixFModel(bt.load_config("harmonix-f-base", num_hidden_layers=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model.eval()


def tokens(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, N_ROIS * N_WINDOWS, 768, generator=torch.Generator().manual_seed(1))


def observed(*n_windows: int) -> torch.Tensor:
    return (torch.arange(N_WINDOWS) < torch.tensor(n_windows)[:, None])[:, None].expand(-1, N_ROIS, -1).flatten(1)


@torch.no_grad()
def plain_layer(states: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """One layer with all scores in memory; padded queries get nothing, as in the authors' flash path."""
    (layer,) = build().layers
    attention = layer.attention
    qkv = attention.qkv(layer.layernorm_before(states)).unflatten(2, (3, 12, 64)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    scores = query @ key.transpose(-1, -2) * 64**-0.5
    if keep is not None:
        scores = scores + torch.where(keep, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    if keep is not None:
        context = context * keep[:, :, None]
    states = states + attention.out_proj(context)
    return states + layer.mlp(layer.layernorm_after(states))


@torch.no_grad()
def ours(states: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    return encode(build(), states, keep)


def block() -> Result:
    """One layer over all tokens of a scan."""
    states = tokens()
    return compare(
        "base layer, 7,200 tokens",
        ("eager", lambda: plain_layer(states, None)),
        ("fused", lambda: ours(states, None)),
        repeats=3,
        target=2.2,
    )


def padded_block() -> Result:
    """One layer over a scan of UK Biobank, which fills 11 of 18 patches."""
    states, keep = tokens(), observed(11)
    return compare(
        "base layer, 4,400 of 7,200 tokens observed",
        ("eager", lambda: plain_layer(states, keep)),
        ("packed", lambda: ours(states, keep)),
        repeats=3,
        target=4.5,
    )


def pooled_block() -> Result:
    """The same where no padded token is read, as for a classifier, `embed` or the fusion of BrainHarmony."""
    states, keep = tokens(), observed(11)

    @torch.no_grad()
    def packed() -> torch.Tensor:
        return encode(build(), states, keep, keep_padding=False)[keep]

    return compare(
        "base layer, 4,400 of 7,200 tokens observed and alone read",
        ("eager", lambda: plain_layer(states, keep)[keep]),
        ("packed", packed),
        repeats=3,
        target=7,  # 7.8 measured
    )


def pooled_lengths() -> Result:
    """Scans that fill 11, 7 and 4 of 18 patches, where no padded token is read, against one masked pass over all."""
    states, keep = tokens(3), observed(11, 7, 4)

    @torch.no_grad()
    def masked() -> torch.Tensor:
        return encode(build(), states, keep, whole=True)[keep]

    @torch.no_grad()
    def packed() -> torch.Tensor:
        return encode(build(), states, keep, keep_padding=False)[keep]

    return compare(
        "base layer, three scans of other lengths, alone read",
        ("padded, with a mask", masked),
        ("packed", packed),
        repeats=3,
        target=4,
    )


def mixed_lengths() -> Result:
    """Scans that fill 11, 7 and 4 of 18 patches, against one masked pass over all."""
    states, keep = tokens(3), observed(11, 7, 4)

    @torch.no_grad()
    def masked() -> torch.Tensor:
        return encode(build(), states, keep, whole=True)

    return compare(
        "base layer, three scans of other lengths",
        ("padded, with a mask", masked),
        ("each group alone", lambda: ours(states, keep)),
        repeats=3,
        target=2,
    )


def mixed_attention() -> Result:
    """The same without what padded tokens need, which is their feed-forward block: the attention alone."""
    (layer,) = build().layers
    states, keep = tokens(3), observed(11, 7, 4)
    rows = [states[n : n + 1, keep[n]] for n in range(3)]
    bias = torch.where(keep, 0.0, torch.finfo(torch.float32).min)[:, None, None]

    @torch.no_grad()
    def masked() -> list[torch.Tensor]:
        context, _ = layer.attention(states, bias.expand(-1, -1, states.shape[1], -1))
        return [context[n : n + 1, keep[n]] for n in range(3)]

    @torch.no_grad()
    def alone() -> list[torch.Tensor]:
        return [layer.attention(row)[0] for row in rows]

    return compare(
        "attention, three scans of other lengths",
        ("padded, with a mask", masked),
        ("each alone", alone),
        repeats=3,
        target=4,
    )


def positions() -> Result:
    """The positions of all tokens: written out for 7,200 rows, or of 400 parcels and looked up."""
    model = build()
    table = model.embeddings.positions

    @torch.no_grad()
    def plain() -> torch.Tensor:
        projected = 0.5 * (table.gradient_projection(model.gradients) + table.harmonics_projection(model.harmonics))
        rows = projected.repeat_interleave(N_WINDOWS, dim=0)
        rows = 2 * (rows - rows.min()) / (rows.max() - rows.min()) - 1
        return torch.cat([table.time_positions, rows], dim=1)[None].repeat(8, 1, 1)

    @torch.no_grad()
    def looked_up() -> torch.Tensor:
        return table(model.parcels(), N_WINDOWS).expand(8, -1, -1)

    return compare("positions, batch of 8", ("written out", plain), ("looked up", looked_up), repeats=7)


def patches() -> Result:
    """Patches of 24 frames: the kernel resized row by row in each pass, or the patches by a kept matrix."""
    embeddings = build().embeddings
    signals = torch.randn(8, N_ROIS, 24 * N_WINDOWS, generator=torch.Generator().manual_seed(1))
    weight, bias = embeddings.patch_projection.weight, embeddings.patch_projection.bias

    @torch.no_grad()
    def plain() -> torch.Tensor:
        unit = [torch.eye(48)[row][None, None, None] for row in range(48)]
        resized = [
            nn.functional.interpolate(row, size=(1, 24), mode="bicubic", antialias=True, align_corners=False)
            for row in unit
        ]
        inverse = torch.linalg.pinv(torch.cat(resized)[:, 0, 0])
        kernel = (weight @ inverse.T)[:, None, None, :]
        convolved = nn.functional.conv2d(signals[:, None], kernel, bias, stride=(1, 24))
        return convolved.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def kept() -> torch.Tensor:
        return embeddings.patch_projection(embeddings.patches(signals, 24).flatten(1, 2))

    return compare("patches of 24 frames, batch of 8", ("kernel resized", plain), ("patches resized", kept), repeats=7)


ENTRIES = {
    function.__name__: function
    for function in (
        *(block, padded_block, pooled_block, mixed_lengths, pooled_lengths),
        *(mixed_attention, positions, patches),
    )
}

if __name__ == "__main__":
    raise SystemExit(main("harmonix_f", ENTRIES, __doc__))
