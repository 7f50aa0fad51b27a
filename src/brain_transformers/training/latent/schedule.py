"""The schedule of Brain-JEPA, which sets learning rate and weight decay together."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..parameter_groups import SCHEDULED_DECAY
from ..schedules import cosine_between, warmup_cosine


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
