"""Depthwise convolution along the token axis, as BrainLM adds it to attention.

Computed as a product with banded matrices, which was measured 2.6 times faster than a grouped convolution on a CPU
(see `benchmarks/results`).
"""

import torch
from torch import nn

# Tokens per output block of the banded product: measured best on CPU at 4,241 tokens with a kernel of 65.
_BLOCK = 64


def token_convolution(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross-correlate each head's values with its kernel along the tokens, zero padded to the same length.

    Args:
        values: `(batch, n_heads, n_tokens, head_dim)`.
        weight: `(n_heads, kernel_size)`, shared by all channels of a head; `kernel_size` is odd.
    """
    batch, n_heads, n_tokens, head_dim = values.shape
    kernel_size = weight.shape[1]
    reach = kernel_size // 2
    n_blocks = -(-n_tokens // _BLOCK)
    padded = nn.functional.pad(values, (0, 0, reach, reach + n_blocks * _BLOCK - n_tokens))
    windows = padded.unfold(2, _BLOCK + 2 * reach, _BLOCK).transpose(-1, -2)
    offset = (
        torch.arange(_BLOCK + 2 * reach, device=values.device)[None, :]
        - torch.arange(_BLOCK, device=values.device)[:, None]
    )
    inside = (offset >= 0) & (offset < kernel_size)
    band = weight[:, offset.clamp(0, kernel_size - 1)] * inside.to(weight.dtype)
    blocks = torch.matmul(band[None, :, None].to(values.dtype), windows)
    return blocks.reshape(batch, n_heads, n_blocks * _BLOCK, head_dim)[:, :, :n_tokens]


class TokenConvolution(nn.Module):
    """Learned depthwise convolution along the tokens: one kernel a head, no bias.

    Args:
        num_attention_heads: number of kernels.
        kernel_size: odd number of tokens that a kernel spans.
    """

    def __init__(self, num_attention_heads: int, kernel_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_attention_heads, kernel_size))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(batch, n_heads, n_tokens, head_dim)` in and out."""
        return token_convolution(values, self.weight)
