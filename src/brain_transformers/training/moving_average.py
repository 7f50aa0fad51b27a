"""Training of models that learn from their own moving average: a target network or a teacher."""

from collections.abc import Callable
from typing import Any, cast

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..models.moving_average import check_moving_average
from .monitors import CollapseMonitor
from .seeded_trainer import SeededTrainer


def update_target(model: Any, momentum: float) -> None:
    """`model.update_moving_average(momentum)`, after each step of a training loop of one's own.

    Raises:
        TypeError: if the model has no moving average.
    """
    check_moving_average(model)
    model.update_moving_average(momentum)


class _MoveAverage(TrainerCallback):
    """Moves the average after each optimizer step."""

    def __init__(self, trainer: "MovingAverageTrainer"):
        self.trainer = trainer

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.move_average()


class MovingAverageTrainer(SeededTrainer):
    """A [`SeededTrainer`] that moves the average after each optimizer step and watches for a collapse.

    The average is part of the model and saved with it, so a resumed run goes on bit for bit. Losses are defined on
    the joint batch of all processes.

    Raises:
        TypeError: if the model has no moving average.
    """

    # Of the last optimizer step.
    momentum = 0.996

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """See [`SeededTrainer.set_up`]."""
        self.average_model = cast(Any, self.model)
        check_moving_average(self.average_model)
        self.average_model.freeze_moving_average()
        self.collapse_monitor = CollapseMonitor()
        self.add_callback(_MoveAverage(self))

    def momentum_of(self, update: int) -> float:
        """Momentum of the average after optimizer step `update` (0-based); by default the same throughout."""
        return self.momentum

    def move_average(self) -> None:
        """Move the average; called after each optimizer step."""
        self.momentum = self.momentum_of(self.state.global_step)
        self.average_model.update_moving_average(self.momentum)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One batch of evaluation; the last one as one process would see it."""
        return super().prediction_step(model, self.last_evaluation_batch() or inputs, *args, **kwargs)
