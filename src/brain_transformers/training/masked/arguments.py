"""Arguments of masked-reconstruction runs."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.trainer_utils import SchedulerType

from ...models.validation import Range
from ..arguments import PretrainingArguments, option, switch
from ..parameter_groups import without_adapters


@dataclass
class MAETrainingArguments(PretrainingArguments):
    """`TrainingArguments` with the recipe of BrainLM as defaults, for [`MAETrainer`].

    From the released training code: base learning rate 1e-3 per 256 samples, weight decay 0.05, 100 epochs, warmup
    over 5 % of the steps, cosine to 0, batches of 128 a device, gradients clipped at norm 1, AdamW with betas 0.9 and
    0.999, seed 1234, logging every 10 steps. Different from it on purpose: torch's AdamW instead of the old one of
    transformers (which added eps before bias correction), single learned vectors do not decay, checkpoints are a tenth
    of the run apart instead of 10 steps, and nothing is evaluated unless asked for. `published_parameter_groups` lets
    CLS and mask tokens decay, as the authors' code does.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a mask ratio outside (0, 1).
    """

    ranges = {"mask_ratio": Range(0, 1, without_low=True, without_high=True), **PretrainingArguments.ranges}

    mask_ratio: float | None = option(None, "Share of tokens to hide; by default that of the model's configuration.")
    train_mode: str | None = option(
        None,
        "auto_encode, predict_last or predict_last_pixel, for models that offer it; by default that of the model.",
    )
    published_parameter_groups: bool = switch()

    weight_decay: float = option(0.05, "Weight decay of AdamW.")
    num_train_epochs: float = option(100.0, "Passes over the training set.")
    warmup_steps: float = option(0.05, "Steps of linear warmup, or below 1 their share of all steps.")
    lr_scheduler_type: SchedulerType | str = option("cosine", "Learning rate schedule after the warmup.")
    per_device_train_batch_size: int = option(128, "Samples a device and forward pass.")
    seed: int = option(1234, "Seed of weights, order, windows, masks and dropout.")

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
