"""Trainer of models that learn from their own moving average."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..augmentation import augmenter
from ..moving_average import MovingAverageTrainer
from ..parameter_groups import SCHEDULED_DECAY
from ..schedules import cosine_between, decaying_loss_weight, warmup_cosine_lr
from .arguments import SelfDistillationTrainingArguments

_LOGGED = (
    "cls_loss",
    "network_loss",
    "mask_loss",
    "within_view_loss",
    "student_projection_std",
    "teacher_projection_std",
)


class SelfDistillationTrainer(MovingAverageTrainer):
    """Pretrains Brain-Semantoks: two windows of each scan, a masked student, and a teacher that is its moving average.

    The teacher is part of the model and saved with it, and everything that is drawn follows from seed, epoch and row,
    so a resumed run goes on bit for bit. On several processes the loss is that of the joint batch (its covariance is
    summed over them), so two processes train as one with twice the batch. With accumulation the loss is the mean over
    the parts, each with a covariance of its own.

    Logged beside the loss: its terms, the spread of the projections (near 0 when the representation collapses, which
    brings a warning), the weight decay, the momentum of the teacher and the weight of the network term.

    Args:
        model: a model with a [`MovingAverageMixin`], such as [`BrainSemantoksForMaskedModeling`].
        data_collator: makes batches of two views with their masks; by default two random windows of each scan are cut
            with `processing_class` if that is a [`ScanProcessor`], and otherwise rows must hold two views.
        others: see [`SeededTrainer`].

    Raises:
        TypeError: if `args` are not [`SelfDistillationTrainingArguments`], or the model has no teacher.
        ValueError: if the training set is smaller than one batch.
    """

    args: SelfDistillationTrainingArguments
    arguments_class = SelfDistillationTrainingArguments

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """See [`SeededTrainer.set_up`]."""
        super().set_up(data_collator)
        args = self.args
        self.average_model.across_ranks = args.world_size > 1
        if data_collator is None:
            masks = {"masking_frequency": args.masking_frequency, "canonical_masks": args.canonical_masks or None}
            augment = augmenter(args.augmentation)
            self.data_collator = self.pretraining_collator(None, masks, n_views=2, augment=augment)
        self._part = 0  # forward passes since the last optimizer step
        self._sums: dict[str, torch.Tensor] = {}
        self._n_summed = 0

    # --- where the run is ---

    def _counts(self) -> tuple[int, int, float]:
        """Step that the schedules are at, steps of the run, and steps of an epoch."""
        args, parts = self.args, self.args.gradient_accumulation_steps
        batches = self.batches_per_epoch
        updates = self.updates_per_epoch
        done = self.state.global_step
        if not args.published_step_counting:
            return done, self.state.max_steps, updates
        part = max(self._part - 1, 0)
        step = done // updates * batches + done % updates * parts + part
        return step, self._total_batches(self.state.max_steps), batches

    def _total_batches(self, max_steps: int) -> int:
        if self.args.max_steps > 0:
            return max_steps * self.args.gradient_accumulation_steps
        return int(self.args.num_train_epochs * self.batches_per_epoch)

    def network_loss_weight(self) -> float:
        """Weight of the network term in the pass that is running."""
        args = self.args
        step, _, per_epoch = self._counts()
        return decaying_loss_weight(
            step,
            weight=self.average_model.config.network_loss_weight,
            decay_steps=round(args.network_loss_decay_epochs * per_epoch),
            delay_steps=round(args.network_loss_delay_epochs * per_epoch),
            schedule=args.network_loss_schedule,
        )

    # --- optimizer ---

    def optimizer_groups(self, model: Any) -> list[dict[str, Any]]:
        """Those of [`LayerDecayArguments.groups`]."""
        args, groups = self.args, self.args.groups(self.average_model)
        if args.published_parameter_groups and args.final_weight_decay is not None:
            for group in groups:  # the authors' schedule overwrites the decay of every group
                group[SCHEDULED_DECAY] = True
        return groups

    def rate_by_step(self, n_steps: int) -> Callable[[int], float]:
        """See [`SeededTrainer.rate_by_step`]: linear warmup and a cosine to 0."""
        args, per_epoch, total = self.args, self.updates_per_epoch, n_steps
        if args.published_step_counting:
            per_epoch, total = self.batches_per_epoch, self._total_batches(n_steps)
        warmup = args.warmup_epochs * per_epoch
        if args.warmup_steps:
            warmup = args.warmup_steps * (total if args.warmup_steps < 1 else 1)
        steps = {"warmup_steps": min(round(warmup), total), "max_steps": total}
        return lambda step: warmup_cosine_lr(step, peak=1.0, **steps)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass, with the weight decay of its step."""
        self._part += 1
        args = self.args
        step, total, _ = self._counts()
        if args.final_weight_decay is not None and self.optimizer is not None:
            decay = cosine_between(step, first=args.weight_decay, last=args.final_weight_decay, total_steps=total)
            for group in self.optimizer.param_groups:
                if group[SCHEDULED_DECAY]:
                    group["weight_decay"] = decay
        if args.published_step_counting:
            # The last update of an epoch may have fewer parts; the authors divide it by the full number all the same.
            self.current_gradient_accumulation_steps = args.gradient_accumulation_steps
        return super().training_step(model, inputs, num_items_in_batch)

    def momentum_of(self, update: int) -> float:
        """Momentum of the teacher after the optimizer step that is being done."""
        step, total, _ = self._counts()
        return cosine_between(step, first=self.args.teacher_momentum, last=1, total_steps=total)

    def move_average(self) -> None:
        """Move the teacher; called after each optimizer step."""
        super().move_average()
        self._part = 0

    # --- loss and logs ---

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's loss; in training with the scheduled weight of the network term."""
        if model.training:
            outputs = model(**inputs, network_loss_weight=self.network_loss_weight())
            for name in _LOGGED:
                value = outputs[name].detach().float()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._n_summed += 1
        else:
            outputs = model(**inputs)
        loss = outputs["loss"].mean()
        return (loss, outputs) if return_outputs else loss

    def sums_to_keep(self) -> dict[str, Any]:
        """The terms of the loss since the last log line, and what the collapse monitor has seen."""
        # The spread over one row is NaN, which JSON has no word for.
        sums = {name: value if math.isfinite(value := float(tensor)) else None for name, tensor in self._sums.items()}
        return {"terms": sums, "passes": self._n_summed, "monitor": self.collapse_monitor.state()}

    def restore_sums(self, sums: dict[str, Any]) -> None:
        """See [`SeededTrainer.restore_sums`]."""
        self._sums = {
            name: torch.tensor(math.nan if value is None else value, device=self.args.device)
            for name, value in sums["terms"].items()
        }
        self._n_summed = sums["passes"]
        self.collapse_monitor.restore(sums["monitor"])

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One batch of evaluation; where every process has all of it, nothing is summed over them."""
        self.average_model.across_ranks = self.args.world_size > 1 and self.last_evaluation_batch() is None
        try:
            return super().prediction_step(model, inputs, *args, **kwargs)
        finally:
            self.average_model.across_ranks = self.args.world_size > 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the terms of the loss and the schedules beside it."""
        if "loss" in logs and self._n_summed:
            terms = {name: float(value) / self._n_summed for name, value in self._sums.items()}
            self._sums, self._n_summed = {}, 0
            spread = {name: terms[name] for name in ("student_projection_std", "teacher_projection_std")}
            if all(math.isfinite(value) for value in spread.values()):
                self.collapse_monitor.update(spread, self.state.global_step)
            step, total, _ = self._counts()
            if self.optimizer is not None:
                decays = [g["weight_decay"] for g in self.optimizer.param_groups if g.get(SCHEDULED_DECAY)]
                terms["weight_decay"] = decays[0] if decays else 0.0
            terms["teacher_momentum"] = self.momentum
            terms["network_loss_weight"] = self.network_loss_weight() if step < total else 0.0
            logs = {**logs, **terms}
        super().log(logs, *args, **kwargs)
