"""Arguments of fine-tuning runs."""

import argparse
from dataclasses import dataclass, field

from transformers.trainer_utils import SchedulerType

from ..arguments import ScanTrainingArguments


@dataclass
class FineTuningArguments(ScanTrainingArguments):
    """`TrainingArguments` with defaults for fine-tuning on scans, for [`FineTuningTrainer`].

    Learning rate 1e-4, weight decay 0.05, 20 epochs, warmup over 10 % of the steps, cosine to 0, batches of 16:
    choices of this package, since the papers' fine-tuning settings differ by task.

    The recipe that BrainMT's authors intend is `layer_decay=0.75`, learning rate 2e-4 down to
    `min_learning_rate=1e-6`, 70 epochs with `cycle_epochs=35`, a warm-up of 5 epochs in each (`warmup_steps` is then
    5 / 70 of the run), `adam_epsilon=1e-6` and batches of 1 or 2. What their code does instead is `published=True`.

    Args:
        layer_decay: factor between the learning rates of neighbouring layers, in (0, 1]; 1 for one rate.
        cycle_epochs: with the cosine: begin again, with the warm-up, after so many epochs; `None` for one cycle.
        min_learning_rate: with the cosine: where a cycle begins and ends.
        mixup_alpha: both parameters of the beta distribution that the shares of mixup come from, one share an update;
            0 for none. Each sample of a batch is mixed with the one at the mirrored place, and so are their labels.
        published_parameter_groups: groups as in the authors' code, see `published_groups` of the model.
        published_step_counting: count the lengths of the schedule in batches, and take one step of it an epoch.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a layer decay outside (0, 1], or cycles of a schedule that is no cosine.
    """

    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Factor between the learning rates of neighbouring layers, towards the input; 1 for one."},
    )
    cycle_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs after which the cosine begins again with its warm-up; by default never."},
    )
    min_learning_rate: float = field(default=0.0, metadata={"help": "Where the cosine ends."})
    mixup_alpha: float = field(
        default=0.0, metadata={"help": "Mix samples of a batch, by shares from beta(alpha, alpha); 0 for none."}
    )
    published_parameter_groups: bool = field(default=False, metadata={"help": argparse.SUPPRESS})
    published_step_counting: bool = field(default=False, metadata={"help": argparse.SUPPRESS})

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training set."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of linear warmup, or below 1 their share of all steps."}
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "Learning rate schedule after the warmup."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Samples a device and forward pass."})

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"Expected layer_decay above 0 and at most 1, got {self.layer_decay}.")
        if not 0 <= self.mixup_alpha <= 100:
            raise ValueError(f"Expected mixup_alpha from 0 to 100, got {self.mixup_alpha}.")
        if self.cycle_epochs is not None and self.cycle_epochs <= 0:
            raise ValueError(f"Expected cycle_epochs above 0, got {self.cycle_epochs}.")
        super().__post_init__()
        if self.has_cycles and self.lr_scheduler_type != SchedulerType.COSINE:
            raise ValueError(
                "Expected lr_scheduler_type 'cosine' with cycle_epochs, min_learning_rate or published_step_counting, "
                f"got {SchedulerType(self.lr_scheduler_type).value!r}. Leave one of them out."
            )

    @property
    def has_cycles(self) -> bool:
        """Whether the schedule is that of cycles, and not one of transformers."""
        return self.cycle_epochs is not None or self.min_learning_rate > 0 or self.published_step_counting
