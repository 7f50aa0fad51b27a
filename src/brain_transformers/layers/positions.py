"""Fixed sine-cosine position tables."""

import math

import torch
from torch import nn
from transformers import initialization as init

from .plain import input_dtype


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


def sincos_axis_table(n_positions: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sine-cosine table over one axis with all sines first, then all cosines; frequencies `10000^(-i / (width / 2))`.

    Returns:
        float64 `(n_positions, width)`; cast it to float32 to get the tables of ViT-MAE and Brain-JEPA.

    Raises:
        ValueError: if `width` is odd.
    """
    if width % 2:
        raise ValueError(f"A sine-cosine table needs an even width, got {width}.")
    half = width // 2
    frequency = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angle = torch.arange(n_positions, dtype=torch.float64, device=device)[:, None] * frequency
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


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
    axis = sincos_axis_table(grid_size, hidden_size // 2)
    columns = axis[None, :, :].expand(grid_size, -1, -1)
    rows = axis[:, None, :].expand(-1, grid_size, -1)
    grid = torch.cat([columns, rows], dim=2).reshape(grid_size * grid_size, hidden_size)
    return torch.cat([grid.new_zeros(1, hidden_size), grid]).to(torch.float32)


def min_max_scaled(table: torch.Tensor) -> torch.Tensor:
    """Scale a table to [-1, 1] with one minimum and one maximum over all its entries.

    Gradients flow through the minimum and the maximum, as in Brain-JEPA's released code.
    """
    low, high = table.flatten().amin(0), table.flatten().amax(0)
    return (table - low) / (high - low) * 2 - 1


class TimeROIPositions(nn.Module):
    """Brain-JEPA's positions of tokens (ROI, window): the first half of the channels is time, the second the ROI.

    Time is a fixed sine-cosine table of the window. The ROI is a learned projection of its functional gradients,
    scaled to [-1, 1] by one minimum and maximum over all ROIs and channels; or, without gradients, a fixed sine-cosine
    table of the ROI's index. Fixed tables are buffers with one row a token: in released weights their rows differ a
    little from the formula and from each other, so they are used as stored. For another number of windows they are
    computed from the formula.

    Args:
        n_rois, n_windows: tokens that the stored tables are made for; ROI-major, time fastest.
        hidden_size: channels of a position, divisible by 4.
        gradient_size: number of gradient components of an ROI, or `None` for positions by index.
    """

    time_positions: torch.Tensor
    roi_positions: torch.Tensor

    def __init__(self, n_rois: int, n_windows: int, hidden_size: int, gradient_size: int | None):
        super().__init__()
        if hidden_size % 4:
            raise ValueError(f"Positions of time and ROI need a width divisible by 4, got {hidden_size}.")
        self.n_rois, self.n_windows, self.half_width = n_rois, n_windows, hidden_size // 2
        self.register_buffer("time_positions", torch.empty(n_rois * n_windows, self.half_width))
        self.gradient_projection = None if gradient_size is None else nn.Linear(gradient_size, self.half_width)
        if gradient_size is None:
            self.register_buffer("roi_positions", torch.empty(n_rois * n_windows, self.half_width))

    def reset_tables(self) -> None:
        """Fill the fixed tables from their formulas."""
        time = sincos_axis_table(self.n_windows, self.half_width).float()
        init.copy_(self.time_positions, time.repeat(self.n_rois, 1))
        if self.gradient_projection is None:
            roi = sincos_axis_table(self.n_rois, self.half_width).float()
            init.copy_(self.roi_positions, roi.repeat_interleave(self.n_windows, dim=0))

    def roi_half(self, gradients: torch.Tensor) -> torch.Tensor:
        """Scaled projection `(n_rois, hidden_size / 2)` of `gradients` `(n_rois, gradient_size)`, in float32."""
        assert self.gradient_projection is not None
        gradients = gradients.to(input_dtype(self.gradient_projection, gradients))
        return min_max_scaled(self.gradient_projection(gradients).float())

    def forward(
        self, gradients: torch.Tensor | None, n_windows: int | None = None, ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Positions of the tokens `ids` `(batch, n)`, or of all.

        Args:
            gradients: `(n_rois, gradient_size)`; not used for positions by index.
            n_windows: windows of the input, by default those of the stored tables.
            ids: int64 natural token ids, `roi * n_windows + window`.

        Returns:
            float32 `(batch, n, hidden_size)`, or `(1, n_rois * n_windows, hidden_size)` without `ids`.
        """
        n_windows = self.n_windows if n_windows is None else n_windows
        stored = n_windows == self.n_windows
        if stored:
            time = self.time_positions.float()
        else:
            time = sincos_axis_table(n_windows, self.half_width, device=self.time_positions.device).float()
        if self.gradient_projection is not None:
            assert gradients is not None
            roi = self.roi_half(gradients)
        elif stored:
            roi = self.roi_positions.float()
        else:
            roi = sincos_axis_table(self.n_rois, self.half_width, device=self.time_positions.device).float()
        one_row_an_roi = self.gradient_projection is not None or not stored
        if ids is not None:
            return torch.cat(
                [time[ids if stored else ids % n_windows], roi[ids // n_windows if one_row_an_roi else ids]], dim=-1
            )
        if not stored:
            time = time.repeat(self.n_rois, 1)
        if one_row_an_roi:
            roi = roi[:, None].expand(-1, n_windows, -1).reshape(self.n_rois * n_windows, self.half_width)
        return torch.cat([time, roi], dim=-1)[None]
