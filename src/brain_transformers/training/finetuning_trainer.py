"""Trainer for fine-tuning any family with a learning rate that falls towards the input."""

from typing import Any

from torch.optim import Optimizer

from .arguments import FineTuningArguments
from .distillation_groups import semantoks_parameter_groups
from .layer_decay import layer_decay_groups, scale_learning_rates
from .seeded_trainer import SeededTrainer


class FineTuningTrainer(SeededTrainer):
    """[`SeededTrainer`] with `layer_decay` of [`FineTuningArguments`].

    At 1 the groups are those of `transformers.Trainer`. Below it they are those of [`semantoks_parameter_groups`] for
    Brain-Semantoks (the rule of its authors) and of [`layer_decay_groups`] for every other family (the rule of BEiT,
    which the fine-tuning scripts of Brain-JEPA name).
    """

    args: FineTuningArguments

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """AdamW (or what `args.optim` names) over the groups."""
        args = self.args
        if self.optimizer is not None or args.layer_decay == 1:
            return super().create_optimizer(model)
        learner: Any = self.model if model is None else model
        kind, options = self.get_optimizer_cls_and_kwargs(args, learner)
        if getattr(learner.config, "model_type", None) == "brain_semantoks":
            groups = semantoks_parameter_groups(
                learner,
                learning_rate=args.learning_rate,
                weight_decay=args.weight_decay,
                layer_decay=args.layer_decay,
            )
        else:
            groups = scale_learning_rates(
                layer_decay_groups(learner, weight_decay=args.weight_decay, layer_decay=args.layer_decay),
                args.learning_rate,
            )
        self.optimizer = kind(groups, **options)
        return self.optimizer
