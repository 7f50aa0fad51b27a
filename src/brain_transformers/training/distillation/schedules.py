"""Schedules of Brain-Semantoks (Gijsen et al., ICLR 2026, released training code) as plain functions of the step."""

import math

NETWORK_LOSS_SCHEDULES = ("cosine", "linear")
FINETUNING_SCHEDULES = ("cosine", "linear", "constant")


def cosine_weight_decay(step: int, *, start: float, end: float, max_steps: int) -> float:
    """Weight decay of a step: half a cosine from `start` to `end`.

    Args:
        step: steps done before it.
        start, end: at the first step and after the last.
        max_steps: length of the run.
    """
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / max_steps))


def cosine_teacher_momentum(step: int, *, base: float, max_steps: int) -> float:
    """Momentum of the moving average after a step: half a cosine from `base` to 1.

    Args:
        step: steps done before it.
        base: at the first step, 0.99 for the released weights.
        max_steps: length of the run.
    """
    return 1 - (1 - base) * (math.cos(math.pi * step / max_steps) + 1) / 2


def decaying_loss_weight(
    step: int, *, weight: float, decay_steps: int, delay_steps: int = 0, schedule: str = "cosine"
) -> float:
    """Weight of the network term: off before `delay_steps`, then falling from `weight` to 0 within `decay_steps`.

    Args:
        step: steps done before it.
        weight: value where the term starts.
        decay_steps: length of the fall; 0 keeps the weight constant.
        delay_steps: steps without the term at the beginning.
        schedule: `"cosine"` or `"linear"`.

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in NETWORK_LOSS_SCHEDULES:
        raise ValueError(f"Expected schedule to be one of {list(NETWORK_LOSS_SCHEDULES)}, got {schedule!r}.")
    step -= delay_steps
    if step < 0:
        return 0.0
    if decay_steps == 0:
        return weight
    if step >= decay_steps:
        return 0.0
    if schedule == "linear":
        return weight * (1 - step / decay_steps)
    return weight * 0.5 * (1 + math.cos(math.pi * step / decay_steps))


def finetuning_lr(
    epoch: int, *, peak: float, epochs: int, schedule: str = "cosine", warmup_epochs: int = 0, min_lr: float = 0.0
) -> float:
    """Learning rate of an epoch of fine-tuning: linear warm-up from a tenth of the peak, then the schedule.

    Args:
        epoch: 0-based.
        peak: highest rate.
        epochs: length of the run, warm-up included.
        schedule: `"cosine"` or `"linear"` down to `min_lr`, or `"constant"`.
        warmup_epochs: epochs of the warm-up.
        min_lr: rate that the schedule ends at.

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in FINETUNING_SCHEDULES:
        raise ValueError(f"Expected schedule to be one of {list(FINETUNING_SCHEDULES)}, got {schedule!r}.")
    if epoch < warmup_epochs:
        return peak * (0.1 + 0.9 * epoch / warmup_epochs)
    progress = (epoch - warmup_epochs) / max(1, epochs - warmup_epochs)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak + (min_lr - peak) * progress
    return min_lr + (peak - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
