"""Arguments of self-distillation runs."""

from dataclasses import dataclass

from ...models.validation import SHARE
from ..arguments import LayerDecayArguments, PretrainingArguments, option
from ..schedules import NETWORK_LOSS_SCHEDULES


@dataclass
class SelfDistillationTrainingArguments(LayerDecayArguments, PretrainingArguments):
    """`TrainingArguments` with the recipe of Brain-Semantoks as defaults, for [`SelfDistillationTrainer`].

    From the released training code: 100 epochs of 512 samples an update, AdamW with betas 0.9 and 0.999, base learning
    rate 7e-4 per 256 samples after a warmup of 3 epochs, then a cosine to 0; weight decay from 0.05 to 0.3; gradients
    clipped at norm 1; momentum of the teacher from 0.99 to 1; the network term falls from its weight to 0 within the
    first 5 epochs; incomplete batches are dropped; seed 21. Different on purpose: biases, norms, layer scales and
    learned vectors do not decay, and all schedules count optimizer steps, so that they end with the run whatever the
    accumulation. `warmup_steps`, if set, is used instead of `warmup_epochs`.

    With `published_parameter_groups` everything decays, as in the authors' runs. With `published_step_counting`
    schedules of weight decay, momentum and network term count forward passes, and the learning rate counts optimizer
    steps out of the number of forward passes, as the authors' code does; this differs only with accumulation, where
    the learning rate then does not reach 0, and the last update of an epoch is divided by the full number of parts
    even if it has fewer.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a momentum outside [0, 1] or an unknown schedule.
    """

    ranges = {"teacher_momentum|masking_frequency": SHARE, **LayerDecayArguments.ranges}
    choices = {"network_loss_schedule": NETWORK_LOSS_SCHEDULES}

    base_learning_rate: float = option(
        7e-4, "Peak learning rate for 256 samples an update; scaled with those of an update over all devices."
    )
    final_weight_decay: float | None = option(0.3, "Weight decay at the end of the run; None keeps weight_decay.")
    teacher_momentum: float = option(0.99, "Momentum of the teacher at the start; it climbs to 1.")
    warmup_epochs: float = option(3.0, "Epochs of linear warmup.")
    network_loss_decay_epochs: float = option(5.0, "Epochs in which the network term falls to 0; 0 keeps it.")
    network_loss_delay_epochs: float = option(0.0, "Epochs without the network term at the beginning.")
    network_loss_schedule: str = option("cosine", "cosine or linear.")
    augmentation: list[int] = option(
        lambda: [1, 1, 1, 1], "Levels from 0 to 3: parcels set to 0, time set to 0, noise, scale."
    )
    masking_frequency: float | None = option(None, "Probability that a batch is masked; by default that of the model.")
    canonical_masks: bool = option(False, "Draw masks over 7 cortical networks for a model with 17.")

    weight_decay: float = option(0.05, "Weight decay of AdamW at the start of the run.")
    num_train_epochs: float = option(100.0, "Passes over the training set.")
    per_device_train_batch_size: int = option(512, "Samples a device and forward pass.")
    per_device_eval_batch_size: int = option(64, "Samples a device in evaluation.")
    dataloader_drop_last: bool = option(True, "Leave incomplete batches of training out.")
    seed: int = option(21, "Seed of weights, order, windows, masks and dropout.")
    ddp_find_unused_parameters: bool | None = option(
        True, "True: the mask embedding takes no part in batches without masks."
    )
