"""Pooling over nothing gives NaN, which is seen, and not a number, which is not."""

import pytest
import torch

from brain_transformers.layers.pooling import pool_tokens


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_no_token_is_no_number(pooling: str) -> None:
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[1, 0, 1], [0, 0, 0]])
    with_cls = torch.cat([torch.full((2, 1, 4), 50.0), tokens], dim=1)
    for pooled in (pool_tokens(tokens, pooling, mask, has_cls=False), pool_tokens(with_cls, pooling, mask)):
        seen = tokens[0, [0, 2]]
        torch.testing.assert_close(pooled[0], seen.mean(0) if pooling == "mean" else seen.amax(0))
        assert bool(pooled[1].isnan().all())
    torch.testing.assert_close(pool_tokens(with_cls, "mean_with_cls", mask)[1], with_cls[1, 0])
