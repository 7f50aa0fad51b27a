"""Arguments of latent-prediction runs."""

import argparse
from dataclasses import dataclass, field

from ..arguments import PretrainingArguments


@dataclass
class JEPATrainingArguments(PretrainingArguments):
    """`TrainingArguments` with the recipe of Brain-JEPA as defaults, for [`JEPATrainer`].

    From the released configuration, which trains with 512 samples an update: learning rate from 5e-5 over 40 of 300
    epochs to 1e-3 and along half a cosine to 1e-6, weight decay from 0.04 to 0.4 along half a cosine, AdamW with betas
    0.9 and 0.999, no clipping, batches of 16 a device, seed 0. Different on purpose: the momentum of the target
    reaches its last value at the end of the run, as the paper says (the released code counts optimizer steps against
    the number of forward passes, so that with 8 accumulation steps it climbs from 0.996 to 0.9965 only).

    Args:
        base_learning_rate: peak learning rate for 256 samples an update; scaled with the samples of an update.
        learning_rate: peak learning rate as it is; `None` computes it from `base_learning_rate`.
        start_learning_rate, final_learning_rate: by default 1/20 and 1/1000 of the peak.
        final_weight_decay: weight decay at the end; `weight_decay` is that of the start.
        target_momentum_start, target_momentum_end: momentum of the target at the first and after the last step.
        target_momentum_steps: optimizer steps that the climb is stretched over; by default all of the run.
        published_momentum: stretch it over all forward passes, as the released code does.
        schedule_scale: stretches all schedules over that many times the length of the run (the authors' ipe_scale).
        mask_rule: `"balanced"` or `"published"`; `None` takes the model's configuration.
        monitor_collapse: log `target_std` and `target_rank` with the loss.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a momentum outside [0, 1] or an unknown mask rule.
    """

    base_learning_rate: float = field(
        default=5e-4, metadata={"help": "Peak learning rate for 256 samples an update; scaled with the batch."}
    )
    start_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate at the start of the warmup; by default 1/20 of the peak."}
    )
    final_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate at the end; by default 1/1000 of the peak."}
    )
    final_weight_decay: float = field(default=0.4, metadata={"help": "Weight decay at the end of the run."})
    target_momentum_start: float = field(default=0.996, metadata={"help": "Momentum of the target at the start."})
    target_momentum_end: float = field(default=1.0, metadata={"help": "Momentum of the target after the last step."})
    target_momentum_steps: float | None = field(
        default=None, metadata={"help": "Optimizer steps that the momentum climbs over; by default the whole run."}
    )
    published_momentum: bool = field(default=False, metadata={"help": argparse.SUPPRESS})
    schedule_scale: float = field(
        default=1.0, metadata={"help": "Schedules are laid out for this many times the length of the run."}
    )
    mask_rule: str | None = field(
        default=None, metadata={"help": "balanced or published; by default that of the model's configuration."}
    )
    monitor_collapse: bool = field(
        default=True, metadata={"help": "Log spread and effective rank of the targets, and warn when they fall."}
    )

    weight_decay: float = field(default=0.04, metadata={"help": "Weight decay of AdamW at the start of the run."})
    num_train_epochs: float = field(default=300.0, metadata={"help": "Passes over the training set."})
    warmup_steps: float = field(
        default=40 / 300, metadata={"help": "Steps of linear warmup, or below 1 their share of all steps."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "Norm that gradients are clipped at; 0 for none."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Samples a device and forward pass."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Samples a device in evaluation."})
    seed: int = field(default=0, metadata={"help": "Seed of weights, order, windows, masks and dropout."})

    def __post_init__(self) -> None:
        for name in ("target_momentum_start", "target_momentum_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Expected {name} between 0 and 1, got {getattr(self, name)}.")
        if self.mask_rule not in (None, "balanced", "published"):
            raise ValueError(f"Expected mask_rule 'balanced' or 'published', got {self.mask_rule!r}.")
        if not self.schedule_scale > 0:
            raise ValueError(f"Expected schedule_scale above 0, got {self.schedule_scale}.")
        super().__post_init__()
        assert self.learning_rate is not None
        if self.start_learning_rate is None:
            self.start_learning_rate = self.learning_rate / 20
        if self.final_learning_rate is None:
            self.final_learning_rate = self.learning_rate / 1000
