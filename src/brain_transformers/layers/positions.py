"""Fixed sine-cosine position tables."""

import math

import torch


def sincos_1d_table(n_positions: int, hidden_size: int) -> torch.Tensor:
    """Sine-cosine table over one axis with interleaved columns, as BrainLM (13M) uses it.

    Column `2i` is `sin(n w_i)` and column `2i + 1` is `cos(n w_i)` with `w_i = 10000^(-2i / hidden_size)`.

    Returns:
        float32 `(n_positions, hidden_size)`, computed in float32 as the released weights were.
    """
    position = torch.arange(n_positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, hidden_size, 2, dtype=torch.float32) * (-math.log(10000.0) / hidden_size))
    table = torch.zeros(n_positions, hidden_size)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, : hidden_size // 2]
    return table


def sincos_2d_table(grid_size: int, hidden_size: int) -> torch.Tensor:
    """Sine-cosine table over a square grid, with a first row of zeros for the CLS token.

    The column index (time) fills the first half of the channels and the row index (parcels) the second half; each half
    holds all sines, then all cosines, with frequencies `10000^(-i / (hidden_size / 4))`. Computed in float64.

    Returns:
        float32 `(1 + grid_size**2, hidden_size)`; row `1 + r * grid_size + c` belongs to patch `(r, c)`.

    Raises:
        ValueError: if `hidden_size` is not divisible by 4.
    """
    if hidden_size % 4:
        raise ValueError(f"A two-dimensional sine-cosine table needs a width divisible by 4, got {hidden_size}.")
    quarter = hidden_size // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(grid_size, dtype=torch.float64)[:, None] * frequency
    axis = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
    columns = axis[None, :, :].expand(grid_size, -1, -1)
    rows = axis[:, None, :].expand(-1, grid_size, -1)
    grid = torch.cat([columns, rows], dim=2).reshape(grid_size * grid_size, hidden_size)
    return torch.cat([grid.new_zeros(1, hidden_size), grid]).to(torch.float32)
