"""Schedules as plain functions of the step: learning rates, weight decay, momentum, weight of a loss."""

import math

NETWORK_LOSS_SCHEDULES = ("cosine", "linear")
FINETUNING_SCHEDULES = ("cosine", "linear", "constant")


def half_cosine(step: float, total: float = 1) -> float:
    """From 1 at the start to 0 after `total` steps, along half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * step / total))


def cosine_between(step: float, *, first: float, last: float, total_steps: float) -> float:
    """Half a cosine from `first` to `last`: the weight decay of Brain-JEPA and Brain-Semantoks, the latter's momentum.

    Args:
        first, last: at the first step and after the run.
    """
    return last + (first - last) * half_cosine(step, total_steps)


def linear_between(step: float, *, first: float, last: float, total_steps: float) -> float:
    """A straight line from `first` to `last`, which goes on past the run: the momentum of Brain-JEPA's target."""
    return first + step * (last - first) / total_steps


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
    return peak * half_cosine(progress)


def warmup_cosine(step: int, *, start: float, peak: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """Linear from `start` to `peak`, then half a cosine down to `final`.

    The released code's learning rate. Its first optimizer step uses `step=1`, so the value for 0 is never used. Past
    `total_steps` the cosine rises again.
    """
    if step < warmup_steps:
        return start + step / max(1, warmup_steps) * (peak - start)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return max(final, final + (peak - final) * half_cosine(progress))


def warmup_half_cosine_lr(epoch: float, *, peak: float, final: float, warmup: float, total: float) -> float:
    """Fine-tuning schedule of the released code: linear warmup from 0, half a cosine to `final`; in (part) epochs."""
    if epoch < warmup:
        return peak * epoch / warmup
    return final + (peak - final) * half_cosine(epoch - warmup, total - warmup)


def warm_restarts_lr(
    step: int,
    *,
    peak: float,
    final: float,
    warmup_steps: int,
    cycle_steps: int,
    cycle_growth: float = 1.0,
    peak_decay: float = 1.0,
) -> float:
    """Cycles of a linear warm-up from `final` to the peak and half a cosine back to `final`: the schedule of BrainMT.

    Args:
        step: steps done, at least 0.
        peak: highest rate of the first cycle.
        final: where each cycle begins and ends.
        warmup_steps: steps of the linear part of every cycle.
        cycle_steps: steps of the first cycle, its warm-up included.
        cycle_growth: length of the part after the warm-up, over that of the cycle before.
        peak_decay: highest rate of a cycle, over that of the one before.

    Raises:
        ValueError: for a negative step, a warm-up that fills its cycle, or cycles that shrink.
    """
    if step < 0 or not 0 <= warmup_steps < cycle_steps or cycle_growth < 1:
        raise ValueError(
            f"Expected step >= 0, 0 <= warmup_steps < cycle_steps and cycle_growth >= 1, got step={step}, "
            f"warmup_steps={warmup_steps}, cycle_steps={cycle_steps}, cycle_growth={cycle_growth}."
        )
    cycle = 0
    while step >= cycle_steps:
        step -= cycle_steps
        cycle_steps = int((cycle_steps - warmup_steps) * cycle_growth) + warmup_steps
        cycle += 1
    height = peak * peak_decay**cycle - final
    if step < warmup_steps:
        return final + height * step / warmup_steps
    return final + height * half_cosine(step - warmup_steps, cycle_steps - warmup_steps)


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
    return min_lr + (peak - min_lr) * half_cosine(progress)


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
    return weight * half_cosine(step, decay_steps)


def scaled_learning_rate(base_learning_rate: float, batch_size: int) -> float:
    """Linear scaling rule: the base rate is for batches of 256.

    Args:
        base_learning_rate: rate for 256 samples an update.
        batch_size: samples an update, over all devices, processes and accumulation steps.
    """
    return base_learning_rate * batch_size / 256
