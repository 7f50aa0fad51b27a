"""Masks that hide the end of the window, for forecasting with BrainLM-ViT."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LastTimepointsMask:
    """What `predict_last` and `predict_last_pixel` hide, for one length of window.

    Attributes:
        patch_columns: half-open range of hidden patch columns in the padded grid; every row of them is hidden.
        timepoints: half-open range of timepoints that the loss looks at; empty if none.
        zeroed_columns: half-open range of columns of the padded image that are set to 0, for timepoints that are
            hidden although their patch stays visible; empty if none.
    """

    patch_columns: tuple[int, int]
    timepoints: tuple[int, int]
    zeroed_columns: tuple[int, int]


def last_timepoints_mask(
    n_timepoints: int, patch_size: int, image_size: int, mask_ratio: float, train_mode: str
) -> LastTimepointsMask:
    """Plan the mask for a window centred in the padded square.

    `"predict_last"` hides every patch that holds one of the last `int(mask_ratio * n_timepoints)` timepoints, so up to
    `patch_size - 1` more than asked; `"predict_last_pixel"` hides exactly those: whole patches where it can, and
    zeroed columns of the image for the rest. (The authors' code masks nothing when fewer timepoints than one patch
    column are asked for; here the last ones are always masked.)
    """
    left = (image_size - n_timepoints) // 2
    end = n_timepoints + left
    end_patch = math.ceil(end / patch_size)
    n_hidden = int(mask_ratio * n_timepoints)
    if n_hidden == 0:
        return LastTimepointsMask((end_patch, end_patch), (n_timepoints, n_timepoints), (end, end))
    start = end - n_hidden
    n_columns = (end_patch * patch_size - start) // patch_size
    if train_mode == "predict_last" and start % patch_size:
        n_columns += 1
    first_patch = end_patch - n_columns
    first_hidden = min(first_patch * patch_size, end)
    if train_mode == "predict_last":
        return LastTimepointsMask((first_patch, end_patch), (max(first_hidden - left, 0), n_timepoints), (end, end))
    return LastTimepointsMask((first_patch, end_patch), (start - left, n_timepoints), (start, first_hidden))


def last_timepoints_noise(
    plan: LastTimepointsMask, grid_size: int, device: torch.device | None = None
) -> torch.Tensor:
    """Noise `(grid_size**2,)` that is 1 for the patches that the plan hides and 0 elsewhere."""
    noise = torch.zeros(grid_size, grid_size, device=device)
    noise[:, plan.patch_columns[0] : plan.patch_columns[1]] = 1.0
    return noise.flatten()
