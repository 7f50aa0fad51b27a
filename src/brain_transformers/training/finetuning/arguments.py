"""Arguments of fine-tuning runs."""

from dataclasses import dataclass, field

from transformers.trainer_utils import SchedulerType

from ..arguments import ScanTrainingArguments


@dataclass
class FineTuningArguments(ScanTrainingArguments):
    """`TrainingArguments` with defaults for fine-tuning on scans, for [`FineTuningTrainer`].

    Learning rate 1e-4, weight decay 0.05, 20 epochs, warmup over 10 % of the steps, cosine to 0, batches of 16:
    choices of this package, since the papers' fine-tuning settings differ by task.

    Args:
        layer_decay: factor between the learning rates of neighbouring layers, in (0, 1]; 1 for one rate.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a layer decay outside (0, 1].
    """

    layer_decay: float = field(
        default=1.0,
        metadata={"help": "Factor between the learning rates of neighbouring layers, towards the input; 1 for one."},
    )

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
        super().__post_init__()
