"""Arguments of training runs."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

from ..models.validation import CheckedFields, Range, check_choice, check_range
from ..optional import require
from .parameter_groups import fine_tuning_groups
from .schedules import scaled_learning_rate

_TENTH = 0.1
ABOVE_0 = Range(0, math.inf, True, True)
AT_LEAST_0, AT_LEAST_1 = Range(0, math.inf, without_high=True), Range(1, math.inf, without_high=True)


def option(default: Any, help: str) -> Any:
    """A field of training arguments: its value, or what makes it, and what `--help` says."""
    return HfArg(default_factory=default, help=help) if callable(default) else HfArg(default=default, help=help)


def switch() -> Any:
    """A field `published_...`, one such difference of the authors' accounting; see [`ScanTrainingArguments`]."""
    return HfArg(default=False, help=argparse.SUPPRESS)


@dataclass
class ScanTrainingArguments(CheckedFields, TrainingArguments):
    """What the training arguments of this package have in common, for [`SeededTrainer`].

    Different from `TrainingArguments`: the checkpoints of a run are ten, however long it is (500 steps, the default of
    transformers, are more than many runs here have), or, with `load_best_model_at_end` and evaluation by steps, as
    many as evaluations; every 10 steps are logged; losses that are not finite are not replaced in the log, since the
    Trainers stop there; columns are left to the collator.

    `published` sets every switch of the class whose name begins with `published_`; these are for one difference to
    the authors' accounting each, and not in `--help`. What a field is, its `help` says.

    Raises:
        ImportError: without accelerate (extra `train`).
        ValueError: for `published` where nothing differs, or what a field cannot be.
    """

    ranges: ClassVar[Mapping[str, Range]] = {
        "per_device_(train|eval)_batch_size|gradient_accumulation_steps|max_steps": AT_LEAST_1,
        "num_train_epochs|(save|logging|eval)_steps": ABOVE_0,
        r"(\w+_)?learning_rate|(\w+_)?weight_decay|adam_epsilon|max_grad_norm|(data_)?seed": AT_LEAST_0,
        r"\w+_(steps|epochs)": AT_LEAST_0,
        r"\w+": Range(-math.inf, math.inf, True, True),
    }

    save_steps: float | None = option(  # type: ignore[assignment]
        None, "Steps between checkpoints, or below 1 their share of the run; by default a tenth of it."
    )
    logging_steps: float = option(10, "Steps between log lines.")
    logging_nan_inf_filter: bool = option(
        False, "Hide losses that are not finite in the log; training stops there anyway."
    )
    remove_unused_columns: bool = option(False, "Must stay False: the collator needs all columns of a row.")
    allow_restricted: bool = option(
        False,
        "With push_to_hub: upload also what comes from weights that must not be shared without their authors' word.",
    )
    published: bool = option(False, "Keep count as the authors' training code does, where that differs on purpose.")

    def __post_init__(self) -> None:
        require("accelerate", extra="train", purpose="training with the Trainer")
        if self.published:
            switches = [entry.name for entry in fields(self) if entry.name.startswith("published_")]
            if not switches:
                raise ValueError(f"{type(self).__name__} has nothing that published would change. Leave it out.")
            for name in switches:
                setattr(self, name, True)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name in self.choices:
                check_choice(entry.name, value, self.choices[entry.name])
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                span = None if (entry.name, value) == ("max_steps", -1) else self.range_of(entry.name)
                check_range(f"{entry.name} (--{entry.name})", value, span)
        if self.save_steps is None:
            self.save_steps = _TENTH
            if self.load_best_model_at_end and self.eval_strategy == "steps":
                self.save_steps = self.eval_steps or self.logging_steps
        super().__post_init__()
        # transformers asks for it everywhere, and torch warns in every epoch where there is nothing to pin memory for.
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.accelerator.is_available()


@dataclass
class ScaledRateArguments(ScanTrainingArguments):
    """Arguments whose learning rate follows from the samples of an update, unless it is given."""

    base_learning_rate: float = option(
        1e-3, "Peak learning rate for 256 samples an update; scaled with those of an update over all devices."
    )
    learning_rate: float | None = option(  # type: ignore[assignment]
        None, "Peak learning rate as it is; by default base_learning_rate scaled with the batch."
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
class LayerDecayArguments(ScanTrainingArguments):
    """Arguments with learning rates that fall towards the input, and the authors' own groups of parameters."""

    ranges = {"layer_decay": Range(0, 1, without_low=True), **ScanTrainingArguments.ranges}

    layer_decay: float = option(
        1.0, "Factor between the learning rates of neighbouring layers, towards the input; 1 for one."
    )
    published_parameter_groups: bool = switch()
    published_step_counting: bool = switch()

    def groups(self, model: Any) -> list[dict[str, Any]]:
        """Groups for the optimizer, see [`fine_tuning_groups`]."""
        return fine_tuning_groups(
            model,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            published=self.published_parameter_groups,
        )


@dataclass
class PretrainingArguments(ScaledRateArguments):
    """What pretraining has in common, whatever its objective: no labels."""

    label_names: list[str] | None = option(list, "Empty: pretraining has no labels.")
    ddp_find_unused_parameters: bool | None = option(
        False, "False: every trainable parameter takes part in every step."
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
