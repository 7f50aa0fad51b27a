"""BrainHarmony's stage 1 against the published formulation, at base size, on random weights.

    python benchmarks/bench_brain_harmony.py [ENTRY ...]

The authors' CPU path is their eager one: all scores of all tokens in memory. Speed does not depend on the values of
the weights, so none are needed.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from harness import Result, compare, main

import brain_transformers as bt

N_FMRI, N_T1, N_HUB = 7200, 1200, 128


@lru_cache(maxsize=1)
def build() -> Any:
    torch.manual_seed(0)
    config = bt.load_config("brain-harmony-base", num_hidden_layers=2, decoder_num_hidden_layers=1)
    return bt.BrainHarmonyForMaskedModeling(config).eval()


@torch.no_grad()
def plain_layer(layer: Any, states: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
    """One layer with all scores in memory; padded queries get nothing, as in the authors' flash path."""
    attention = layer.attention
    heads = (attention.num_attention_heads, attention.head_dim)
    qkv = attention.qkv(layer.layernorm_before(states)).unflatten(2, (3, *heads)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    scores = query @ key.transpose(-1, -2) * heads[1] ** -0.5
    if keep is not None:
        scores = scores + torch.where(keep, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    if keep is not None:
        context = context * keep[:, :, None]
    states = states + attention.out_proj(context)
    return states + layer.mlp(layer.layernorm_after(states))


def encoder() -> Result:
    """Two layers of the encoder over a pair whose scan fills 11 of 18 patches; the last one only makes hub tokens."""
    body = build().brain_harmony
    tokens = torch.randn(1, N_FMRI + N_T1, 768, generator=torch.Generator().manual_seed(1))
    of_fmri = (torch.arange(18) < 11).repeat(400)[None]
    keep = torch.nn.functional.pad(of_fmri, (1, N_T1 + N_HUB), value=True)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        states = body.embeddings(tokens)
        for layer in body.layers:
            states = plain_layer(layer, states, keep)
        states = body.layernorm(states)
        return torch.cat([states[:, :1], states[:, -N_HUB:]], dim=1)

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return body(tokens, of_fmri.long()).last_hidden_state

    return compare(
        "two base encoder layers, 8,529 tokens of which 5,729 are observed",
        ("eager, padding along", plain),
        ("without padding", ours),
        repeats=2,
        target=7,
    )


def decoder_layer() -> Result:
    """One layer of the decoder over all tokens."""
    (layer,) = build().decoder.layers
    states = torch.randn(1, 1 + N_FMRI + N_T1 + N_HUB, 512, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return layer(states)

    return compare(
        "base decoder layer, 8,529 tokens",
        ("eager", lambda: plain_layer(layer, states)),
        ("fused", ours),
        repeats=2,
        target=4,
    )


ENTRIES = {function.__name__: function for function in (encoder, decoder_layer)}

if __name__ == "__main__":
    raise SystemExit(main("brain_harmony", ENTRIES, __doc__))
