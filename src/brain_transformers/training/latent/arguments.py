"""Arguments of latent-prediction runs."""

from dataclasses import dataclass

from ...models.validation import SHARE
from ..arguments import ABOVE_0, PretrainingArguments, option, switch


@dataclass
class JEPATrainingArguments(PretrainingArguments):
    """`TrainingArguments` with the recipe of Brain-JEPA as defaults, for [`JEPATrainer`].

    From the released configuration, which trains with 512 samples an update: learning rate from 5e-5 over 40 of 300
    epochs to 1e-3 and along half a cosine to 1e-6, weight decay from 0.04 to 0.4 along half a cosine, AdamW with betas
    0.9 and 0.999, no clipping, batches of 16 a device, seed 0. Different on purpose: the momentum of the target
    reaches its last value at the end of the run, as the paper says (the released code counts optimizer steps against
    the number of forward passes, so that with 8 accumulation steps it climbs from 0.996 to 0.9965 only;
    `published_momentum` does so too). `schedule_scale` is the authors' ipe_scale.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for a momentum outside [0, 1] or an unknown mask rule.
    """

    ranges = {
        "target_momentum_(start|end)": SHARE,
        "schedule_scale": ABOVE_0,
        **PretrainingArguments.ranges,
    }
    choices = {"mask_rule": (None, "balanced", "published")}

    base_learning_rate: float = option(
        5e-4, "Peak learning rate for 256 samples an update; scaled with those of an update over all devices."
    )
    start_learning_rate: float | None = option(
        None, "Learning rate at the start of the warmup; by default 1/20 of the peak."
    )
    final_learning_rate: float | None = option(None, "Learning rate at the end; by default 1/1000 of the peak.")
    final_weight_decay: float = option(0.4, "Weight decay at the end of the run.")
    target_momentum_start: float = option(0.996, "Momentum of the target at the start.")
    target_momentum_end: float = option(1.0, "Momentum of the target after the last step.")
    target_momentum_steps: float | None = option(
        None, "Optimizer steps that the momentum climbs over; by default the whole run."
    )
    published_momentum: bool = switch()
    schedule_scale: float = option(1.0, "Schedules are laid out for this many times the length of the run.")
    mask_rule: str | None = option(None, "balanced or published; by default that of the model's configuration.")
    monitor_collapse: bool = option(True, "Log spread and effective rank of the targets, and warn when they fall.")

    weight_decay: float = option(0.04, "Weight decay of AdamW at the start of the run.")
    num_train_epochs: float = option(300.0, "Passes over the training set.")
    warmup_steps: float = option(40 / 300, "Steps of linear warmup, or below 1 their share of all steps.")
    max_grad_norm: float = option(0.0, "Norm that gradients are clipped at; 0 for none.")
    per_device_train_batch_size: int = option(16, "Samples a device and forward pass.")
    per_device_eval_batch_size: int = option(16, "Samples a device in evaluation.")
    seed: int = option(0, "Seed of weights, order, windows, masks and dropout.")

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.learning_rate is not None
        if self.start_learning_rate is None:
            self.start_learning_rate = self.learning_rate / 20
        if self.final_learning_rate is None:
            self.final_learning_rate = self.learning_rate / 1000
