"""Which tokens masked modeling hides: patches in all frames, or in long runs of frames.

Ours: the authors published no pretraining. Neighbouring frames nearly repeat each other, so that a token must be
hidden together with those before and after it.
"""

import torch

from .configuration_brain_mt import BrainMTConfig


def run_length(config: BrainMTConfig, n_frames: int) -> int:
    """Frames that are hidden together: all of them, or those of a run."""
    return n_frames if config.mask_rule == "columns" else min(config.mask_run, n_frames)


def n_units(config: BrainMTConfig, n_frames: int) -> int:
    """What there is to choose from: patches, or runs of patches, of which the first and last may be cut."""
    run = run_length(config, n_frames)
    return int(config.n_patches or 0) * (-(-(n_frames + run - 1) // run) if run < n_frames else 1)


def hidden_tokens(config: BrainMTConfig, n_frames: int, noise: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Tokens to hide; of the patches, or of their runs, at least one is hidden and at least one is not.

    Args:
        config: names `mask_rule`, `mask_ratio`, `mask_run` and the patches of a frame.
        n_frames: frames of a sample.
        noise: `(batch, n_units)`; the smallest are hidden.
        shift: `(batch,)` numbers in [0, 1): where runs start, so that their seams lie anywhere.

    Returns:
        bool `(batch, n_patches * n_frames)`, patch-major, time fastest.

    Raises:
        ValueError: if there is only one unit to choose from.
    """
    batch, units = noise.shape
    if units < 2:
        raise ValueError(
            f"Expected at least two blocks to choose from, got {config.n_patches} patch of {n_frames} frames with "
            f'mask_rule {config.mask_rule!r}. Use mask_rule="runs" with a shorter mask_run, or larger volumes.'
        )
    n_hidden = min(max(round(config.mask_ratio * units), 1), units - 1)
    chosen = noise.argsort(dim=1)[:, :n_hidden]
    hidden = torch.zeros(batch, units, dtype=torch.bool, device=noise.device).scatter(1, chosen, True)
    run, n_patches = run_length(config, n_frames), int(config.n_patches or 0)
    first = (shift * run).long() if run < n_frames else torch.zeros_like(shift, dtype=torch.long)
    of_frame = (torch.arange(n_frames, device=noise.device)[None] + first[:, None]) // run
    hidden = hidden.view(batch, n_patches, units // n_patches)
    return hidden.gather(2, of_frame[:, None].expand(-1, n_patches, -1)).flatten(1)
