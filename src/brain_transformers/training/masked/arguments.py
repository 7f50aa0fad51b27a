"""Arguments of masked-reconstruction runs."""

import argparse
import inspect
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers.trainer_utils import SchedulerType

from ..arguments import PretrainingArguments
from ..parameter_groups import without_adapters


@dataclass
class MAETrainingArguments(PretrainingArguments):
    """`TrainingArguments` with the recipe of BrainLM as defaults, for [`MAETrainer`].

    From the released training code: base learning rate 1e-3 per 256 samples, weight decay 0.05, 100 epochs, warmup
    over 5 % of the steps, cosine to 0, batches of 128 a device, gradients clipped at norm 1, AdamW with betas 0.9 and
    0.999, seed 1234, logging every 10 steps. Different from it on purpose: torch's AdamW instead of the old one of
    transformers (which added eps before bias correction), single learned vectors do not decay, checkpoints are a tenth
    of the run apart instead of 10 steps, and nothing is evaluated unless asked for.

    Args:
        base_learning_rate: peak learning rate for 256 samples an update; scaled with the samples of an update over all
            devices, processes and accumulation steps.
        learning_rate: peak learning rate as it is; `None` computes it from `base_learning_rate`.
        mask_ratio: share of tokens to hide in training and evaluation; `None` takes the model's configuration.
        train_mode: `"auto_encode"` (random tokens), `"predict_last"` or `"predict_last_pixel"` (the last timepoints),
            for models that offer it (BrainLM-ViT); `None` takes the model's configuration.
        published_parameter_groups: let CLS and mask tokens decay, as the authors' code does.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a mask ratio outside (0, 1).
    """

    base_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate for 256 samples an update; scaled with the batch."}
    )
    mask_ratio: float | None = field(
        default=None, metadata={"help": "Share of tokens to hide; by default that of the model's configuration."}
    )
    train_mode: str | None = field(
        default=None,
        metadata={
            "help": "auto_encode, predict_last or predict_last_pixel, for models that offer it; by default that of "
            "the model."
        },
    )
    published_parameter_groups: bool = field(default=False, metadata={"help": argparse.SUPPRESS})

    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Passes over the training set."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Steps of linear warmup, or below 1 their share of all steps."}
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "Learning rate schedule after the warmup."}
    )
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Samples a device and forward pass."})
    seed: int = field(default=1234, metadata={"help": "Seed of weights, order, windows, masks and dropout."})

    def __post_init__(self) -> None:
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"Expected mask_ratio between 0 and 1, both excluded, got {self.mask_ratio}. With nothing hidden "
                "there is nothing to predict, and with everything hidden nothing to predict from."
            )
        super().__post_init__()

    def mask_arguments(self, model: nn.Module) -> dict[str, Any]:
        """What to pass to `model.forward` beside the batch: the mask options that are set.

        Raises:
            ValueError: if an option is set that the model does not have, or to what it cannot be.
        """
        inner = without_adapters(model)
        known = inspect.signature(inner.forward).parameters
        options = {"mask_ratio": self.mask_ratio, "train_mode": self.train_mode}
        chosen = {name: value for name, value in options.items() if value is not None}
        foreign = [name for name in chosen if name not in known]
        if foreign:
            raise ValueError(
                f"{type(inner).__name__} has no option {foreign[0]}, got {foreign[0]}={chosen[foreign[0]]!r}. Leave "
                "it out."
            )
        for name, value in chosen.items():
            inner.config.check_field(name, value)
        return chosen
