"""Trainer of models that predict latent states of a target network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..monitors import target_statistics
from ..moving_average import MovingAverageTrainer
from ..parameter_groups import SCHEDULED_DECAY, own_name
from ..schedules import linear_between
from .arguments import JEPATrainingArguments
from .schedule import LatentPredictionSchedule


class JEPATrainer(MovingAverageTrainer):
    """Pretrains Brain-JEPA, and every other model of this package with a target network, by latent prediction.

    The context encoder and the predictor learn; the target follows as a moving average after every optimizer step and
    is saved with the model, so a resumed run goes on bit for bit. Learning rate and weight decay follow
    [`LatentPredictionSchedule`]. Parameters with at least two axes decay, the mask token among them, biases and norms
    do not (released code). The loss is the model's mean over a batch, and the mean of those means over accumulation
    steps and processes; all processes cut their masks to the same lengths, so two of them equal one with twice the
    batch.

    With `monitor_collapse`, `target_std` and `target_rank` of the last batch are logged beside the loss, and a fall of
    either brings a warning.

    Args:
        model: a `...ForMaskedModeling` model with a `context_encoder`.
        data_collator: makes a batch with one window a row; see [`SeededTrainer.pretraining_collator`].
        others: see [`SeededTrainer`].

    Raises:
        TypeError: if `args` are not [`JEPATrainingArguments`], or the model has no target.
    """

    args: JEPATrainingArguments
    arguments_class = JEPATrainingArguments

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """See [`SeededTrainer.set_up`]."""
        super().set_up(data_collator)
        self.data_collator = self.pretraining_collator(data_collator, {"mask_rule": self.args.mask_rule})
        self._last_targets: torch.Tensor | None = None

    def momentum_of(self, update: int) -> float:
        """Momentum of the target after optimizer step `update` (0-based)."""
        args = self.args
        total = args.target_momentum_steps
        if total is None:
            passes = args.gradient_accumulation_steps if args.published_momentum else 1
            total = self.state.max_steps * passes * args.schedule_scale
        momentum = linear_between(
            update, first=args.target_momentum_start, last=args.target_momentum_end, total_steps=total
        )
        return min(max(momentum, 0.0), 1.0)

    # --- optimizer ---

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay: trainable, at least two axes, no bias."""
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.ndim > 1 and own_name(name) != "bias"
        ]

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """AdamW (or what `args.optim` names), with the groups marked whose weight decay is scheduled."""
        optimizer = super().create_optimizer(model)
        for group in optimizer.param_groups:
            group.setdefault(SCHEDULED_DECAY, group["weight_decay"] > 0)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Learning rate and weight decay over `num_training_steps` optimizer steps."""
        if self.lr_scheduler is None:
            args = self.args
            warmup = args.warmup_steps * (num_training_steps if args.warmup_steps < 1 else 1)
            optimizer = self.optimizer if optimizer is None else optimizer
            assert optimizer is not None
            assert args.learning_rate is not None
            assert args.start_learning_rate is not None
            assert args.final_learning_rate is not None
            self.lr_scheduler = LatentPredictionSchedule(  # type: ignore[assignment]
                optimizer,
                start=args.start_learning_rate,
                peak=args.learning_rate,
                final=args.final_learning_rate,
                warmup_steps=int(warmup),
                total_steps=int(args.schedule_scale * num_training_steps),
                weight_decay=args.weight_decay,
                final_weight_decay=args.final_weight_decay,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler  # type: ignore[return-value]

    # --- loss and logs ---

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's loss; the targets are kept until the next one, for the monitors."""
        outputs = model(**inputs)
        loss = outputs["loss"].mean()
        if model.training and self.args.monitor_collapse:
            self._last_targets = outputs["targets"]
        return (loss, outputs) if return_outputs else loss

    def sums_to_keep(self) -> dict[str, Any]:
        """What the collapse monitor has seen."""
        return self.collapse_monitor.state()

    def restore_sums(self, sums: dict[str, Any]) -> None:
        """See [`SeededTrainer.restore_sums`]."""
        self.collapse_monitor.restore(sums)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the statistics of the last targets beside the training loss."""
        if "loss" in logs and self._last_targets is not None:
            statistics = target_statistics(self._last_targets)
            self._last_targets = None
            self.collapse_monitor.update(statistics, self.state.global_step)
            logs = {**logs, **statistics}
        super().log(logs, *args, **kwargs)
