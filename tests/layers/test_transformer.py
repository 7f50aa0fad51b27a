"""The one transformer layer: padded queries, chosen queries, layer scale and stochastic depth."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from brain_transformers.layers.masking import padding_masks
from brain_transformers.layers.transformer import PreNormLayer


def layer(implementation: str = "sdpa", **options: Any) -> PreNormLayer:
    torch.manual_seed(0)
    config = PreTrainedConfig()
    config._attn_implementation = implementation
    made = PreNormLayer(config, 16, 2, 32, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    return made.eval()


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 16, generator=torch.Generator().manual_seed(1))


# All observed, the last two padded, nothing observed.
KEEP = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [0] * 6]).bool()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padded_queries_get_the_bias_of_the_projection(implementation: str) -> None:
    block, values = layer(implementation), tokens()
    mask, keep = padding_masks(block.attention.config, values, KEEP)
    output, _ = block.attention(values, mask, keep)
    whole = block.attention(values[:1])[0]
    short = block.attention(values[1:2, :4])[0]
    bias = block.attention.out_proj.bias
    torch.testing.assert_close(output[0], whole[0])
    torch.testing.assert_close(output[1, :4], short[0])
    torch.testing.assert_close(output[1, 4:], bias.expand(2, -1))
    torch.testing.assert_close(output[2], bias.expand(6, -1))  # zeros before the projection, and no NaN


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_sample_without_tokens_has_finite_gradients(implementation: str) -> None:
    block, values = layer(implementation), tokens().requires_grad_()
    mask, keep = padding_masks(block.attention.config, values, KEEP)
    block(values, mask, keep).square().sum().backward()
    assert bool(torch.isfinite(values.grad).all())
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in block.parameters())


@pytest.mark.parametrize("ids", [slice(-2, None), torch.tensor([[5, 0], [1, 4], [2, 2]])])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_chosen_queries_equal_those_of_the_whole_pass(ids: Any, masked: bool, qkv_bias: bool) -> None:
    block, values = layer(qkv_bias=qkv_bias), tokens()
    mask, keep = padding_masks(block.attention.config, values, KEEP) if masked else (None, None)
    whole = block(values, mask, keep)
    expected = whole[:, ids] if isinstance(ids, slice) else torch.stack([whole[row, ids[row]] for row in range(3)])
    torch.testing.assert_close(block(values, mask, keep, ids), expected)


def test_factors_scale_what_a_block_adds() -> None:
    block, values = layer(layer_scale_init_value=0.1), tokens()
    block.reset_layer_scale()
    with torch.no_grad():
        assert block.layer_scale1.tolist() == pytest.approx([0.1] * 16)
        block.layer_scale2.zero_()
        added = block.attention(block.layernorm_before(values))[0]
        torch.testing.assert_close(block(values), values + 0.1 * added)
    assert not [name for name, _ in layer().named_parameters() if "scale" in name]


def test_stochastic_depth_leaves_samples_out_and_scales_the_rest() -> None:
    block, values = layer(drop_path_rate=0.5), tokens(1).expand(400, -1, -1)
    with torch.no_grad():
        still = block(values)
        torch.testing.assert_close(still, block(values))  # none in evaluation
        torch.manual_seed(3)
        attention = block.train().attention(block.layernorm_before(values))[0]
        output = block._add(torch.zeros_like(values), attention, None)
    dropped = (output == 0).flatten(1).all(1)
    assert 150 < int(dropped.sum()) < 250
    torch.testing.assert_close(output[~dropped], 2 * attention[~dropped])
