"""Harmonix-S against the published formulation, at base size, on random weights.

    python benchmarks/bench_harmonix_s.py [ENTRY ...]

Speed does not depend on the values of the weights, so none are needed.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from harness import Result, compare, main
from plain_brainlm import plain_pre_norm_layer
from torch import nn

import brain_transformers as bt


@lru_cache(maxsize=1)
def build() -> Any:
    torch.manual_seed(0)
    return bt.HarmonixSModel(bt.load_config("harmonix-s-base", num_hidden_layers=1)).eval()


def block() -> Result:
    """One layer of the encoder over the tokens of one volume."""
    (layer,) = build().layers
    tokens = torch.randn(1, 1201, 768, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_pre_norm_layer(layer, tokens)

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return layer(tokens)

    return compare("base layer, 1,201 tokens", ("eager", plain), ("fused", ours), repeats=7, target=1.1)


def embed() -> Result:
    """Tokens of a quarter of the patches, as in pretraining: a convolution over all of them, then picked."""
    embeddings = build().embeddings
    generator = torch.Generator().manual_seed(1)
    volumes = torch.randn(1, 1, 160, 192, 160, generator=generator)
    ids = torch.randperm(1200, generator=generator)[None, :300]

    @torch.no_grad()
    def plain() -> torch.Tensor:
        projection, positions = embeddings.patch_projection, embeddings.positions
        tokens = nn.functional.conv3d(volumes, projection.weight, projection.bias, stride=16)
        tokens = tokens.flatten(2).transpose(1, 2) + positions[:, 1:]
        tokens = tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))
        return torch.cat([embeddings.cls_token + positions[:, :1], tokens], dim=1)

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return embeddings(volumes, ids)

    return compare("tokens of 300 patches", ("convolution", plain), ("one product", ours), repeats=7)


ENTRIES = {function.__name__: function for function in (block, embed)}

if __name__ == "__main__":
    raise SystemExit(main("harmonix_s", ENTRIES, __doc__))
