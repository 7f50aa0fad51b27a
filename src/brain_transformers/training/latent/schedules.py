"""Schedules of Brain-JEPA: learning rate, weight decay and momentum of the target."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..parameter_groups import SCHEDULED_DECAY


def warmup_cosine(step: int, *, start: float, peak: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """Linear from `start` to `peak`, then half a cosine down to `final`.

    The released code's learning rate. Its first optimizer step uses `step=1`, so the value for 0 is never used. Past
    `total_steps` the cosine rises again.
    """
    if step < warmup_steps:
        return start + step / max(1, warmup_steps) * (peak - start)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return max(final, final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def cosine_between(step: int, *, first: float, last: float, total_steps: int) -> float:
    """Half a cosine from `first` to `last`, never past `last` while it runs: the released code's weight decay."""
    value = last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * step / total_steps))
    return max(last, value) if last <= first else min(last, value)


def target_momentum(update: int, *, first: float, last: float, total_steps: float) -> float:
    """Momentum of the target after optimizer step `update` (0-based): linear from `first`, `last` after the run."""
    return first + update * (last - first) / total_steps


def warmup_half_cosine_lr(epoch: float, *, peak: float, final: float, warmup: float, total: float) -> float:
    """Fine-tuning schedule of the released code: linear warmup from 0, half a cosine to `final`; in (part) epochs."""
    if epoch < warmup:
        return peak * epoch / warmup
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (total - warmup)))


class LatentPredictionSchedule(LRScheduler):
    """Learning rate and weight decay of Brain-JEPA, both set before each optimizer step.

    Args:
        optimizer: groups with `scheduled_decay=True` get the weight decay.
        start, peak, final: learning rates, see [`warmup_cosine`].
        warmup_steps, total_steps: optimizer steps.
        weight_decay, final_weight_decay: see [`cosine_between`].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        start: float,
        peak: float,
        final: float,
        warmup_steps: int,
        total_steps: int,
        weight_decay: float,
        final_weight_decay: float,
    ):
        self.rates: dict[str, Any] = {
            "start": start,
            "peak": peak,
            "final": final,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
        }
        self.decay: dict[str, Any] = {
            "first": weight_decay,
            "last": final_weight_decay,
            "total_steps": total_steps,
        }
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """Learning rate of each group; sets the weight decay as well."""
        step = self.last_epoch + 1
        decay = cosine_between(step, **self.decay)
        for group in self.optimizer.param_groups:
            if group.get(SCHEDULED_DECAY):
                group["weight_decay"] = decay
        return [warmup_cosine(step, **self.rates)] * len(self.optimizer.param_groups)
