"""Arguments of self-distillation runs."""

import argparse
from dataclasses import dataclass, field

from ..arguments import PretrainingArguments
from ..schedules import NETWORK_LOSS_SCHEDULES


@dataclass
class SelfDistillationTrainingArguments(PretrainingArguments):
    """`TrainingArguments` with the recipe of Brain-Semantoks as defaults, for [`SelfDistillationTrainer`].

    From the released training code: 100 epochs of 512 samples an update, AdamW with betas 0.9 and 0.999, base learning
    rate 7e-4 per 256 samples after a warmup of 3 epochs, then a cosine to 0; weight decay from 0.05 to 0.3; gradients
    clipped at norm 1; momentum of the teacher from 0.99 to 1; the network term falls from its weight to 0 within the
    first 5 epochs; incomplete batches are dropped; seed 21. Different on purpose: biases, norms, layer scales and
    learned vectors do not decay, and all schedules count optimizer steps, so that they end with the run whatever the
    accumulation.

    Args:
        base_learning_rate: peak learning rate for 256 samples an update; scaled with the samples of an update.
        learning_rate: peak learning rate as it is; `None` computes it from `base_learning_rate`.
        final_weight_decay: weight decay at the end; `weight_decay` is that of the start. `None`: no schedule.
        teacher_momentum: momentum of the teacher at the first step; it climbs to 1.
        warmup_epochs: epochs of linear warmup; `warmup_steps`, if set, is used instead.
        network_loss_decay_epochs: epochs in which the network term falls to 0; 0 keeps it.
        network_loss_delay_epochs: epochs without that term at the beginning.
        network_loss_schedule: `"cosine"` or `"linear"`.
        augmentation: four levels: parcels set to 0, time set to 0, noise, scale.
        masking_frequency: probability that a batch is masked; `None` takes the model's configuration.
        canonical_masks: draw masks over 7 cortical networks for a model with 17.
        layer_decay: factor between the learning rates of neighbouring layers.
        published_parameter_groups: everything decays, as in the authors' runs.
        published_step_counting: schedules of weight decay, momentum and network term count forward passes, and the
            learning rate counts optimizer steps out of the number of forward passes, as the authors' code does; this
            differs only with accumulation, where the learning rate then does not reach 0, and the last update of an
            epoch is divided by the full number of parts even if it has fewer.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a momentum outside [0, 1] or an unknown schedule.
    """

    base_learning_rate: float = field(
        default=7e-4, metadata={"help": "Peak learning rate for 256 samples an update; scaled with the batch."}
    )
    final_weight_decay: float | None = field(
        default=0.3, metadata={"help": "Weight decay at the end of the run; None keeps weight_decay."}
    )
    teacher_momentum: float = field(default=0.99, metadata={"help": "Momentum of the teacher at the start."})
    warmup_epochs: float = field(default=3.0, metadata={"help": "Epochs of linear warmup."})
    network_loss_decay_epochs: float = field(
        default=5.0, metadata={"help": "Epochs in which the network term falls to 0; 0 keeps it."}
    )
    network_loss_delay_epochs: float = field(
        default=0.0, metadata={"help": "Epochs without the network term at the beginning."}
    )
    network_loss_schedule: str = field(default="cosine", metadata={"help": "cosine or linear."})
    augmentation: list[int] = field(
        default_factory=lambda: [1, 1, 1, 1],
        metadata={"help": "Levels from 0 to 3: parcels set to 0, time set to 0, noise, scale."},
    )
    masking_frequency: float | None = field(
        default=None, metadata={"help": "Probability that a batch is masked; by default that of the model."}
    )
    canonical_masks: bool = field(
        default=False, metadata={"help": "Draw masks over 7 cortical networks for a model with 17."}
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor between the learning rates of neighbouring layers."}
    )
    published_parameter_groups: bool = field(default=False, metadata={"help": argparse.SUPPRESS})
    published_step_counting: bool = field(default=False, metadata={"help": argparse.SUPPRESS})

    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW at the start of the run."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Passes over the training set."})
    per_device_train_batch_size: int = field(default=512, metadata={"help": "Samples a device and forward pass."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Samples a device in evaluation."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave incomplete batches of training out."})
    seed: int = field(default=21, metadata={"help": "Seed of weights, order, windows, masks and dropout."})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "True: the mask embedding takes no part in batches without masks."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_momentum <= 1:
            raise ValueError(f"Expected teacher_momentum between 0 and 1, got {self.teacher_momentum}.")
        if self.masking_frequency is not None and not 0 <= self.masking_frequency <= 1:
            raise ValueError(f"Expected masking_frequency between 0 and 1, got {self.masking_frequency}.")
        if self.network_loss_schedule not in NETWORK_LOSS_SCHEDULES:
            raise ValueError(
                f"Expected network_loss_schedule to be one of {list(NETWORK_LOSS_SCHEDULES)}, got "
                f"{self.network_loss_schedule!r}."
            )
        super().__post_init__()
