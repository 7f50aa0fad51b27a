"""Arguments of training runs."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from ..optional import require
from .schedules import scaled_learning_rate

_TENTH = 0.1


@dataclass
class ScanTrainingArguments(TrainingArguments):
    """What the training arguments of this package have in common, for [`SeededTrainer`].

    Different from `TrainingArguments`: the checkpoints of a run are ten, however long it is (500 steps, the default of
    transformers, are more than many runs here have); every 10 steps are logged; losses that are not finite are not
    replaced in the log, since the Trainers stop there; columns are left to the collator.

    Args:
        save_steps: steps between checkpoints, or below 1 their share of the run; `None` for a tenth, or, with
            `load_best_model_at_end` and evaluation by steps, whenever it is evaluated.
        published: keep count as the authors' code does: sets every switch of the class whose name begins with
            `published_`, which are for one such difference each and not in `--help`.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for `published` where nothing differs, or a number that is NaN, infinite, or below its range.
    """

    save_steps: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={"help": "Steps between checkpoints, or below 1 their share of the run; by default a tenth of it."},
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between log lines."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite in the log; training stops there anyway."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator needs all columns of a row."}
    )

    published: bool = field(
        default=False,
        metadata={"help": "Keep count as the authors' training code does, where that differs on purpose."},
    )

    def __post_init__(self) -> None:
        require("accelerate", extra="train", purpose="training with the Trainer")
        if self.published:
            switches = [entry.name for entry in fields(self) if entry.name.startswith("published_")]
            if not switches:
                raise ValueError(f"{type(self).__name__} has nothing that published would change. Leave it out.")
            for name in switches:
                setattr(self, name, True)
        _check_numbers(self)
        if self.save_steps is None:
            self.save_steps = _TENTH
            if self.load_best_model_at_end and self.eval_strategy == "steps":
                self.save_steps = self.eval_steps or self.logging_steps
        super().__post_init__()
        # transformers asks for it everywhere, and torch warns in every epoch where there is nothing to pin memory for.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()


# Fields of one or the other class that count or scale something, and what they are at least.
_AT_LEAST = {
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(
        (
            *(
                "learning_rate",
                "base_learning_rate",
                "start_learning_rate",
                "final_learning_rate",
                "min_learning_rate",
            ),
            *("weight_decay", "final_weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps", "warmup_epochs"),
            *("network_loss_decay_epochs", "network_loss_delay_epochs", "lr_warmup_epochs", "save_steps"),
            *("logging_steps", "eval_steps", "seed", "data_seed", "target_momentum_steps"),
        ),
        0,
    ),
}


def _check_numbers(arguments: TrainingArguments) -> None:
    """Raise ValueError for numbers that no run can mean."""
    for entry in fields(arguments):
        value = getattr(arguments, entry.name)
        if not isinstance(value, (int, float)):
            continue
        least = _AT_LEAST.get(entry.name)
        if not math.isfinite(value) or (least is not None and value < least):
            bound = "a finite number" if least is None else f"a finite number of {least} or more"
            raise ValueError(f"Expected {entry.name} (--{entry.name}) to be {bound}, got {value}. Choose another.")


@dataclass
class ScaledRateArguments(ScanTrainingArguments):
    """Arguments whose learning rate follows from the samples of an update.

    Args:
        base_learning_rate: peak learning rate for 256 samples an update.
        learning_rate: peak learning rate as it is; `None` computes it from `base_learning_rate`.
    """

    base_learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate for 256 samples an update; scaled with the batch."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate; by default base_learning_rate scaled with the batch."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = scaled_learning_rate(self.base_learning_rate, self.samples_per_update)

    @property
    def samples_per_update(self) -> int:
        """Samples of one optimizer step, over all devices, processes and accumulation steps."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size


@dataclass
class PretrainingArguments(ScaledRateArguments):
    """What pretraining has in common, whatever its objective: no labels."""

    label_names: list[str] | None = field(default_factory=list, metadata={"help": "Empty: pretraining has no labels."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "False: every trainable parameter takes part in every step."}
    )


def check_for_training(args: TrainingArguments, eval_dataset: Any) -> None:
    """Raise ValueError for arguments that do not fit a SeededTrainer or its datasets."""
    if args.remove_unused_columns:
        raise ValueError(
            "Expected remove_unused_columns=False, got True: the collator reads columns that the model does not "
            "take. Set it to False in the training arguments."
        )
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"Expected train_sampling_strategy 'random' or 'sequential', got {args.train_sampling_strategy!r}: "
            "windows have one length, and the order must follow from seed and epoch."
        )
    if args.push_to_hub and args.hub_strategy in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            "Expected hub_strategy 'every_save' or 'end', got one that uploads checkpoints, which hold states of the "
            "optimizer and of random generators. Choose another."
        )
    if eval_dataset is not None:
        return
    asked = {
        "eval_strategy": args.eval_strategy != "no",
        "eval_on_start": args.eval_on_start,
        "load_best_model_at_end": args.load_best_model_at_end,
        "save_strategy": args.save_strategy == "best",
    }
    for name in (name for name, needs in asked.items() if needs):
        value = getattr(args, name)
        raise ValueError(
            f"{name}={getattr(value, 'value', value)!r} (--{name}) needs an evaluation set, got no eval_dataset. Pass "
            f"eval_dataset= (on the command line a dataset with an evaluation split, see --eval-split), or leave "
            f"{name} out."
        )
