"""Fixed sine-cosine position tables."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init

from .plain import input_dtype


def sincos_table(
    grid: Sequence[int], width: int, cls_row: bool = False, device: torch.device | None = None
) -> torch.Tensor:
    """Sine-cosine table over a grid of one, two or three axes, as ViT-MAE and what follows it uses it.

    Each axis has its share of the channels, the last one what is left: the second axis comes first, then the first,
    then the third. A share holds all sines, then all cosines, with frequencies `10000^(-i / (share / 2))`.

    Args:
        grid: size of each axis.
        width: channels of a position.
        cls_row: put a row of zeros in front, for the CLS token.
        device: where to compute it.

    Returns:
        float32 `(cls_row + product of grid, width)`, computed in float64; the last axis runs fastest.

    Raises:
        ValueError: if the share of an axis is odd.
    """
    share = width // len(grid)
    shares = [share] * (len(grid) - 1) + [width - share * (len(grid) - 1)]
    order = (1, 0, 2)[: len(grid)] if len(grid) > 1 else (0,)
    if any(channels % 2 for channels in shares):
        raise ValueError(
            f"A sine-cosine table over {len(grid)} axes needs an even number of channels for each, so a width "
            f"divisible by {2 * len(grid)}; got {width}."
        )
    parts = []
    for axis, channels in zip(order, shares, strict=True):
        waves = torch.cat(_sines_and_cosines(grid[axis], channels, torch.float64, device), dim=1)
        shape = [1] * len(grid)
        shape[axis] = grid[axis]
        parts.append(waves.view(*shape, channels).expand(*grid, channels))
    table = torch.cat(parts, dim=-1).flatten(0, -2).to(torch.float32)
    return nn.functional.pad(table, (0, 0, 1, 0)) if cls_row else table


def interleaved_sincos_table(n_positions: int, width: int) -> torch.Tensor:
    """Sine-cosine table over one axis, a sine and a cosine in turn, as BrainLM (13M) uses it.

    Returns:
        float32 `(n_positions, width)`, computed in float32 as the released weights were.
    """
    return torch.stack(_sines_and_cosines(n_positions, width, torch.float32), dim=2).flatten(1)[:, :width]


def _sines_and_cosines(
    n_positions: int, width: int, dtype: torch.dtype, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines and cosines of the positions, each `(n_positions, ceil(width / 2))`, at `10000^(-2i / width)`."""
    steps = torch.arange(0, width, 2, dtype=dtype, device=device)
    angle = torch.arange(n_positions, dtype=dtype, device=device)[:, None] * torch.exp(
        steps * (-math.log(10000.0) / width)
    )
    return torch.sin(angle), torch.cos(angle)


def min_max_scaled(table: torch.Tensor) -> torch.Tensor:
    """Scale a table to [-1, 1] with one minimum and one maximum over all its entries.

    Gradients flow through the minimum and the maximum, as in Brain-JEPA's released code.
    """
    low, high = table.flatten().amin(0), table.flatten().amax(0)
    return (table - low) / (high - low) * 2 - 1


def reset_time_positions(stored: torch.Tensor, n_rois: int) -> None:
    """Fill a table of time that has a row a token, ROI-major, from the formula."""
    init.copy_(stored, sincos_table((len(stored) // n_rois,), stored.shape[1]).repeat(n_rois, 1))


def time_and_roi(
    time: torch.Tensor, rois: torch.Tensor, n_rois: int, n_windows: int, ids: torch.Tensor | None
) -> torch.Tensor:
    """Time, then ROI, of the tokens `ids` `(batch, n)`, `roi * n_windows + window`, or of all `(1, n_tokens)`.

    Args:
        time: a row a token, as it is stored; for inputs of another number of windows it comes from the formula.
        rois: `(n_rois, width / 2)`, or a row a token.
    """
    if ids is None:
        ids = torch.arange(n_rois * n_windows, device=rois.device)[None]
    if len(time) == n_rois * n_windows:
        first = time.float()[ids]
    else:
        first = sincos_table((n_windows,), time.shape[1], device=rois.device)[ids % n_windows]
    return torch.cat([first, rois[ids if len(rois) == n_rois * n_windows else ids // n_windows]], dim=-1)


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
        reset_time_positions(self.time_positions, self.n_rois)
        if self.gradient_projection is None:
            roi = sincos_table((self.n_rois,), self.half_width)
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
        if self.gradient_projection is not None:
            assert gradients is not None
            rois = self.roi_half(gradients)
        elif n_windows == self.n_windows:
            rois = self.roi_positions.float()
        else:
            rois = sincos_table((self.n_rois,), self.half_width, device=self.time_positions.device)
        return time_and_roi(self.time_positions, rois, self.n_rois, n_windows, ids)
