"""Arguments of fine-tuning runs."""

from dataclasses import dataclass

from transformers.trainer_utils import SchedulerType

from ...models.validation import Range
from ..arguments import ABOVE_0, LayerDecayArguments, option


@dataclass
class FineTuningArguments(LayerDecayArguments):
    """`TrainingArguments` with defaults for fine-tuning on scans, for [`FineTuningTrainer`].

    Learning rate 1e-4, weight decay 0.05, 20 epochs, warmup over 10 % of the steps, cosine to 0, batches of 16:
    choices of this package, since the papers' fine-tuning settings differ by task.

    The recipe that BrainMT's authors intend is `layer_decay=0.75`, learning rate 2e-4 down to
    `min_learning_rate=1e-6`, 70 epochs with `cycle_epochs=35`, a warm-up of 5 epochs in each (`warmup_steps` is then
    5 / 70 of the run), `adam_epsilon=1e-6` and batches of 1 or 2. What their code does instead is `published=True`:
    groups of parameters as in the model's `published_groups`, and a schedule whose lengths are counted in batches and
    that takes one step an epoch.

    With `mixup_alpha` each sample of a batch is mixed with the one at the mirrored place, and so are their labels, by
    one share an update from beta(alpha, alpha).

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a layer decay outside (0, 1], or cycles of a schedule that is no cosine.
    """

    ranges = {"mixup_alpha": Range(0, 100), "cycle_epochs": ABOVE_0, **LayerDecayArguments.ranges}

    cycle_epochs: float | None = option(
        None, "Epochs after which the cosine begins again with its warm-up; by default never."
    )
    min_learning_rate: float = option(0.0, "Where the cosine ends.")
    mixup_alpha: float = option(0.0, "Mix samples of a batch, by shares from beta(alpha, alpha); 0 for none.")

    learning_rate: float = option(1e-4, "Peak learning rate.")
    weight_decay: float = option(0.05, "Weight decay of AdamW.")
    num_train_epochs: float = option(20.0, "Passes over the training set.")
    warmup_steps: float = option(0.1, "Steps of linear warmup, or below 1 their share of all steps.")
    lr_scheduler_type: SchedulerType | str = option("cosine", "Learning rate schedule after the warmup.")
    per_device_train_batch_size: int = option(16, "Samples a device and forward pass.")

    def __post_init__(self) -> None:
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
