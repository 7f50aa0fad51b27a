"""Trainer for fine-tuning any family with a learning rate that falls towards the input."""

from typing import Any

import torch
from torch.optim import Optimizer

from ..distillation.parameter_groups import semantoks_parameter_groups
from ..layer_decay import layer_decay_groups, scale_learning_rates
from ..seeded_trainer import SeededTrainer
from .arguments import FineTuningArguments


def fine_tuning_groups(
    model: Any, *, learning_rate: float, weight_decay: float, layer_decay: float, published: bool = False
) -> list[dict[str, Any]]:
    """Groups of a classifier's parameters for AdamW, with a learning rate that falls towards the input.

    They are those of [`semantoks_parameter_groups`] for Brain-Semantoks (the rule of its authors) and of
    [`layer_decay_groups`] for every other family (the rule of BEiT, which the fine-tuning scripts of Brain-JEPA name).

    Args:
        model: a `...ForSequenceClassification` model or a body.
        learning_rate: of the head.
        weight_decay: of the parameters that decay.
        layer_decay: in (0, 1]; 1 for one learning rate.
        published: for Brain-Semantoks, the groups of the authors' code.

    Raises:
        ValueError: for a layer decay outside (0, 1], or `published` with another family.
    """
    if getattr(model.config, "model_type", None) == "brain_semantoks":
        head = getattr(model, "classifier", None)
        return semantoks_parameter_groups(
            model,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            published=published,
            head=None if head is None else head.parameters(),
        )
    if published:
        raise ValueError(
            f"Expected published groups for Brain-Semantoks, got {type(model).__name__}. Leave "
            "published_parameter_groups out."
        )
    groups = layer_decay_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    return scale_learning_rates(groups, learning_rate)


class FineTuningTrainer(SeededTrainer):
    """[`SeededTrainer`] with `layer_decay` of [`FineTuningArguments`].

    At 1 the groups are those of `transformers.Trainer`, and below it those of [`fine_tuning_groups`]. Evaluation gives
    one prediction a scan, whether the collator cuts one window of it or several.
    """

    args: FineTuningArguments

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

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """AdamW (or what `args.optim` names) over the groups."""
        args = self.args
        if self.optimizer is not None or args.layer_decay == 1:
            return super().create_optimizer(model)
        learner: Any = self.model if model is None else model
        kind, options = self.get_optimizer_cls_and_kwargs(args, learner)
        groups = fine_tuning_groups(
            learner,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            layer_decay=args.layer_decay,
        )
        self.optimizer = kind(groups, **options)
        return self.optimizer
