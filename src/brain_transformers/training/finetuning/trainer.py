"""Trainer for fine-tuning any family with a learning rate that falls towards the input."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..parameter_groups import fine_tuning_groups, without_adapters
from ..schedules import warm_restarts_lr
from ..seeded_trainer import SeededTrainer
from .arguments import FineTuningArguments


class FineTuningTrainer(SeededTrainer):
    """[`SeededTrainer`] with `layer_decay` and `cycle_epochs` of [`FineTuningArguments`].

    At `layer_decay=1` the groups are those of `transformers.Trainer`, and below it those of [`fine_tuning_groups`].
    Evaluation gives one prediction a scan, whether the collator cuts one window of it or several.
    """

    args: FineTuningArguments

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """See [`SeededTrainer.set_up`]; labels are looked at before training."""
        check: Any = getattr(self.data_collator, "check_labels", None)
        sets = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        for rows in (self.train_dataset, *sets):
            if check is not None and rows is not None:
                check(getattr(rows, "dataset", rows))

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass, over a mixed batch if `mixup_alpha` is set."""
        if self.args.mixup_alpha:
            inputs = self._mixed(self._prepare_inputs(inputs))
        return super().training_step(model, inputs, num_items_in_batch)

    def _mixed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch whose samples and labels are mixed; the share follows from the seed and the update alone."""
        args, bare = self.args, without_adapters(self.model)
        rng = np.random.default_rng([args.seed, self.state.global_step, args.process_index])
        share = float(rng.beta(args.mixup_alpha, args.mixup_alpha))
        labels = inputs["labels"]
        if not labels.is_floating_point() and bare.num_labels > 1:
            bare.config.problem_type = bare.config.problem_type or "single_label_classification"
            labels = torch.nn.functional.one_hot(labels.view(-1), bare.num_labels)
        labels = labels.float()
        return {**bare.mix_inputs(inputs, share), "labels": share * labels + (1 - share) * labels.flip(0)}

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """One prediction a scan: the mean over its windows, where the collator cut several (`scan_index`)."""
        scan_index = inputs.pop("scan_index", None)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if scan_index is None or not isinstance(logits, torch.Tensor):
            return loss, logits, labels
        owners, counts = scan_index.unique_consecutive(return_counts=True)
        sums = logits.new_zeros(len(owners), *logits.shape[1:]).index_add_(0, scan_index, logits)
        first = counts.cumsum(0) - counts
        means = sums / counts.view(-1, *[1] * (logits.dim() - 1))
        return loss, means, None if labels is None else labels[first]

    def optimizer_groups(self, model: Any) -> list[dict[str, Any]] | None:
        """The groups."""
        args = self.args
        if args.layer_decay == 1 and not args.published_parameter_groups:
            return None
        return fine_tuning_groups(
            model,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            layer_decay=args.layer_decay,
            published=args.published_parameter_groups,
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """The schedule of transformers, or cycles by the step."""
        args, optimizer = self.args, optimizer or self.optimizer
        if self.lr_scheduler is None and args.has_cycles and optimizer is not None:
            per_epoch = max(math.ceil(self.batches_per_epoch / args.gradient_accumulation_steps), 1)
            cycle = num_training_steps if args.cycle_epochs is None else round(args.cycle_epochs * per_epoch)
            options: dict[str, Any] = {
                "peak": 1.0,
                "final": args.min_learning_rate / args.learning_rate,
                "warmup_steps": min(args.get_warmup_steps(num_training_steps), max(cycle, 1) - 1),
                "cycle_steps": max(cycle, 1),
            }
            every = per_epoch if args.published_step_counting else 1
            self.lr_scheduler = LambdaLR(optimizer, lambda step: warm_restarts_lr(step // every, **options))
        return super().create_scheduler(num_training_steps, optimizer)
