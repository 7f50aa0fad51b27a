"""Learning-rate schedules as plain functions of the step."""

import math


def warmup_cosine_lr(step: int, *, peak: float, warmup_steps: int, max_steps: int) -> float:
    """Learning rate right after `step` optimizer steps: linear from 0 to `peak`, then half a cosine down to 0.

    The schedule of BrainLM (released training code: "cosine with restarts", one cycle) and of
    `lr_scheduler_type="cosine"`.

    Args:
        step: optimizer steps done, at least 0.
        peak: highest learning rate, reached after `warmup_steps`.
        warmup_steps: steps of the linear part.
        max_steps: steps of the whole run; 0 from there on.

    Raises:
        ValueError: if `step` is negative or the warmup is longer than the run.
    """
    if step < 0 or not 0 <= warmup_steps <= max_steps:
        raise ValueError(
            f"Expected step >= 0 and 0 <= warmup_steps <= max_steps, got step={step}, warmup_steps={warmup_steps}, "
            f"max_steps={max_steps}."
        )
    if step >= max_steps:
        return 0.0
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))


def scaled_learning_rate(base_learning_rate: float, batch_size: int) -> float:
    """Linear scaling rule: the base rate is for batches of 256.

    Args:
        base_learning_rate: rate for 256 samples an update.
        batch_size: samples an update, over all devices, processes and accumulation steps.
    """
    return base_learning_rate * batch_size / 256
