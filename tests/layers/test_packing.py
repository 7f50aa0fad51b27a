"""Samples of different lengths behind one another: each attends to itself, whatever computes it."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from brain_transformers.layers.packing import VARLEN, Packing, SequenceLengths, varlen_runs
from brain_transformers.layers.transformer import PreNormLayer, drop_path

CPU = torch.device("cpu")


def layer(implementation: str, **options: Any) -> PreNormLayer:
    torch.manual_seed(0)
    return PreNormLayer(SimpleNamespace(_attn_implementation=implementation), 32, 4, 64, **options).eval()


def batch(*lengths: int) -> tuple[torch.Tensor, Packing]:
    tokens = torch.randn(len(lengths), max(lengths), 32, generator=torch.Generator().manual_seed(1))
    return tokens, Packing(torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])


@pytest.mark.parametrize("implementation", ["eager", "sdpa", VARLEN])
@pytest.mark.parametrize("lengths", [(5, 9, 3), (4, 4), (6, 0, 2), (7,)], ids=str)
def test_each_sample_comes_out_as_alone(implementation: str, lengths: tuple[int, ...]) -> None:
    network, (tokens, packing) = layer(implementation), batch(*lengths)
    packed = network(packing.pack(tokens), lengths=packing.lengths)
    alone = [network(tokens[row : row + 1, :n]) for row, n in enumerate(lengths) if n]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1))


def test_only_some_tokens_of_each_sample_come_out() -> None:
    network, (tokens, packing) = layer("sdpa"), batch(5, 9, 3)
    lengths = SequenceLengths(packing.lengths.keys, CPU, queries=(1, 2, 0))
    some = network(packing.pack(tokens), query_ids=torch.tensor([[0, 5, 13]]), lengths=lengths)
    torch.testing.assert_close(some, network(packing.pack(tokens), lengths=packing.lengths)[:, [0, 5, 13]])


def test_a_batch_comes_back_as_it_was() -> None:
    tokens, packing = batch(5, 9, 3)
    rest = Packing(~packing.keep)
    assert torch.equal(packing.unpack(packing.pack(tokens), rest.pack(tokens), rest), tokens)


def test_kernels_for_variable_lengths_are_told_where_samples_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words of transformers, for each of flash-attn's names."""
    seen: dict[str, Any] = {}

    def kernel(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **arguments: Any) -> Any:
        seen.update(arguments)
        begins, ends = arguments["cu_seq_lens_k"][:-1], arguments["cu_seq_lens_k"][1:]
        parts = [
            torch.nn.functional.scaled_dot_product_attention(
                *(x[:, :, a:b] for x in (query, key, value)), scale=scaling
            )
            for a, b in zip(begins, ends)
        ]
        return torch.cat(parts, dim=2).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", kernel)
    tokens, packing = batch(5, 9, 3)
    packed = layer("flash_attention_2")(packing.pack(tokens), lengths=packing.lengths)
    torch.testing.assert_close(packed, layer("eager")(packing.pack(tokens), lengths=packing.lengths))
    assert seen["cu_seq_lens_q"].tolist() == seen["cu_seq_lens_k"].tolist() == [0, 5, 14, 17]
    assert seen["cu_seq_lens_q"].dtype == torch.int32
    assert (seen["max_length_q"], seen["max_length_k"]) == (9, 9)


def test_stochastic_depth_leaves_out_whole_samples() -> None:
    torch.manual_seed(0)
    lengths = SequenceLengths((5, 9, 3) * 10, CPU)
    dropped = drop_path(torch.ones(1, 170, 2), 0.5, lengths)[0].split(lengths.keys)
    values = {float(part.unique()) for part in dropped}  # one value a sample, or unique() is no number
    assert values == {0.0, 2.0}


def test_torchs_kernel_is_not_asked_for_what_it_cannot_do() -> None:
    assert not varlen_runs(torch.zeros(1, 4, 8, 64, dtype=torch.bfloat16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("implementation", ["sdpa", VARLEN])
def test_torchs_kernel_gives_the_numbers_of_each_sample_alone(implementation: str) -> None:
    network = PreNormLayer(SimpleNamespace(_attn_implementation=implementation), 128, 2, 256).cuda().bfloat16()
    keep = torch.arange(700)[None] < torch.tensor([500, 700, 64])[:, None]
    packing, tokens = Packing(keep.cuda()), torch.randn(3, 700, 128, device="cuda", dtype=torch.bfloat16)
    assert varlen_runs(tokens.view(3, 700, 2, 64).transpose(1, 2))
    packed = packing.pack(tokens).requires_grad_()
    output = network(packed, lengths=packing.lengths)
    exact = copy.deepcopy(network).double()
    inputs = packed.detach().double().requires_grad_()
    expected = exact(inputs, lengths=packing.lengths)  # in float64 sample by sample
    (gradient,), (exact_gradient,) = (
        torch.autograd.grad(y.float().sum(), x) for y, x in ((output, packed), (expected, inputs))
    )
    for actual, right in ((output, expected), (gradient, exact_gradient)):
        assert float((actual.detach().double() - right).norm() / right.norm()) < 2e-2
