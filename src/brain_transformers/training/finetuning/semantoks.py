"""Fine-tuning as the Brain-Semantoks authors do it: random augmented windows, layer-wise decay, averaged logits.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, and the released fine-tuning configuration.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils import logging

from ...data.collators import ScanCollator
from ...optional import require
from ..arguments import ABOVE_0, AT_LEAST_1, ScaledRateArguments, option
from ..augmentation import FINETUNING_AUGMENTATION, augmenter, check_levels
from ..parameter_groups import head_parameters
from ..schedules import FINETUNING_SCHEDULES, finetuning_lr
from ..scores import prediction_scores
from ..seeded_trainer import SeededTrainer
from .arguments import FineTuningArguments

logger = logging.get_logger(__name__)


@dataclass
class SemantoksFineTuningArguments(FineTuningArguments, ScaledRateArguments):
    """`FineTuningArguments` with the values of the Brain-Semantoks authors, for [`SemantoksFineTuner`].

    Batches of 16, 50 epochs, learning rate 1e-4 per 256 samples (6.25e-6 for 16), weight decay 0.05, a cosine by epoch
    to 0, gradients clipped at norm 1. With a validation set it is evaluated after each epoch, training stops when it
    has not become better for 50 epochs, and the weights of the best epoch are the result. (The authors' code keeps the
    best weights by reference and so tests those of the last epoch.) The best is by default that with the highest
    balanced accuracy, or the lowest mean absolute error; `load_best_model_at_end=False`, or `save_strategy="no"`,
    keeps the weights of the last epoch. With `published_parameter_groups` tokenizers have the full rate.
    """

    ranges = {
        "early_stopping_patience": AT_LEAST_1,
        "encoder_learning_rate_factor": ABOVE_0,
        **FineTuningArguments.ranges,
    }
    choices = {"schedule": FINETUNING_SCHEDULES}

    base_learning_rate: float = option(1e-4, "Learning rate for 256 samples an update.")
    schedule: str = option("cosine", "cosine, linear or constant, by epoch.")
    lr_warmup_epochs: int = option(0, "Epochs of warm-up, from a tenth of the rate.")
    augmentation: list[int] = option(
        lambda: list(FINETUNING_AUGMENTATION), "Levels from 0 to 3: parcels set to 0, time set to 0, noise, scale."
    )
    freeze_encoder_epochs: int = option(0, "Epochs in which only the head is trained.")
    encoder_learning_rate_factor: float = option(1.0, "Learning rate of the encoder over that of the head.")
    early_stopping_patience: int | None = option(
        50, "Evaluations without improvement after which training stops; None for no such stop."
    )

    learning_rate: float | None = option(  # type: ignore[assignment]
        None, "Learning rate; by default base_learning_rate scaled with the batch."
    )
    num_train_epochs: float = option(50.0, "Passes over the training set.")
    per_device_eval_batch_size: int = option(32, "Samples a device in evaluation.")
    eval_strategy: IntervalStrategy | str = option("epoch", "When to evaluate.")
    save_strategy: SaveStrategy | str = option("epoch", "When to save a checkpoint.")
    save_total_limit: int | None = option(1, "Checkpoints to keep; the best one is kept in any case.")
    load_best_model_at_end: bool = option(True, "Whether the best epoch is the result, and not the last.")
    restore_callback_states_from_checkpoint: bool = option(
        True, "Whether a resumed run counts on towards an early stop."
    )

    def __post_init__(self) -> None:
        check_levels(self.augmentation)
        if self.cycle_epochs is not None:
            raise ValueError("cycle_epochs is not of this schedule, which has one cycle. Leave it out.")
        if self.save_strategy == "no" or self.eval_strategy == "no":
            self.load_best_model_at_end = False
        metric, greater_is_better = self.metric_for_best_model, self.greater_is_better
        super().__post_init__()
        # transformers would put in the loss; the metric of the task is known once there is a model.
        self.metric_for_best_model, self.greater_is_better = metric, greater_is_better


class _FreezeEncoder(TrainerCallback):
    """Takes the encoder out of training for the first epochs.

    What is frozen follows from the epoch alone, so a resumed run is where the other was. The optimizer holds these
    parameters from the start; without gradients it passes over them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], epochs: int):
        self.parameters, self.epochs = [p for p in parameters if p.requires_grad], epochs

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.set_frozen(int(state.epoch or 0) < self.epochs)

    def set_frozen(self, frozen: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)


def _slower_encoder(groups: list[dict[str, Any]], in_head: set[int], factor: float) -> list[dict[str, Any]]:
    """Groups with the rate of the encoder multiplied; a group that holds parameters of both is split."""
    parts = []
    for group in groups:
        head = [parameter for parameter in group["params"] if id(parameter) in in_head]
        encoder = [parameter for parameter in group["params"] if id(parameter) not in in_head]
        parts += [{**group, "params": encoder, "lr": group["lr"] * factor}] if encoder else []
        parts += [{**group, "params": head}] if head else []
    return parts


def _is_regression(config: Any) -> bool:
    """Whether the head predicts numbers, by the rule of transformers."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def _protocol_scores(config: Any) -> tuple[Callable[[Any], dict[str, float]], str, bool]:
    """Scores for the Trainer, the name of the one to choose by, and whether more of it is better."""
    require("sklearn.metrics", extra="eval", purpose="the scores of a validation set")
    regression = _is_regression(config)

    def scores(prediction: Any) -> dict[str, float]:
        return prediction_scores(prediction.predictions, prediction.label_ids.astype(float if regression else int))

    return scores, "mae" if regression else "balanced_accuracy", not regression


class SemantoksFineTuner(SeededTrainer):
    """Fine-tunes `BrainSemantoksForSequenceClassification` with the authors' groups, schedule and scores.

    With an `eval_dataset`, the weights of the best epoch are in the model when `train` returns; without one, those of
    the last.

    Args:
        model: the classifier; those of other families work too.
        args: training arguments; they are copied.
        label_column: column of the rows that holds the label.
        label2id: numbers of text labels.
        compute_metrics: by default [`brain_transformers.training.scores.prediction_scores`]; with a function of
            your own, name one of its metrics in `metric_for_best_model`, or the loss decides.
        kwargs: everything else that [`SeededTrainer`] takes; `processing_class` is the model's extractor.

    Raises:
        ValueError: with `published_parameter_groups` for another family, when training starts.
        ImportError: with an `eval_dataset` and without scikit-learn (extra `eval`).
    """

    args: SemantoksFineTuningArguments

    def __init__(
        self,
        model: Any,
        args: SemantoksFineTuningArguments,
        label_column: str,
        *,
        label2id: Mapping[str, int] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        **kwargs: Any,
    ):
        args = copy.copy(args)
        seed = args.seed if args.data_seed is None else args.data_seed
        collator = ScanCollator(
            processing_class,
            label_column,
            label2id=label2id,
            regression=_is_regression(model.config),
            window="random",
            seed=seed,
            augment=augmenter(args.augmentation),
        )
        callbacks = list(kwargs.pop("callbacks", None) or [])
        if eval_dataset is None:
            args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
            if args.save_strategy == SaveStrategy.BEST:
                args.save_strategy = SaveStrategy.EPOCH
            logger.warning("No validation set: training runs to the end, and the weights of the last epoch are kept.")
        else:
            chosen = args.metric_for_best_model or "loss"
            more = not chosen.endswith("loss")
            if compute_metrics is None and model.config.problem_type != "multi_label_classification":
                compute_metrics, primary, primary_more = _protocol_scores(model.config)
                if args.metric_for_best_model is None or args.metric_for_best_model.removeprefix("eval_") == primary:
                    chosen, more = primary, primary_more
            args.metric_for_best_model = chosen
            args.greater_is_better = more if args.greater_is_better is None else args.greater_is_better
            if args.early_stopping_patience is not None and args.eval_strategy != "no":
                callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        if train_dataset is not None and len(train_dataset) % args.train_batch_size == 1:
            # A batch norm has no spread over one row; another row is left out in the next epoch.
            args.dataloader_drop_last |= any(isinstance(module, nn.BatchNorm1d) for module in model.modules())
        in_head = {id(parameter) for parameter in head_parameters(model)}
        encoder = [parameter for parameter in model.parameters() if id(parameter) not in in_head]
        self._freezing = _FreezeEncoder(encoder, args.freeze_encoder_epochs)
        super().__init__(
            model,
            args,
            collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=[*callbacks, self._freezing],
            **kwargs,
        )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; see [`SeededTrainer.train`]. However it ends, the encoder is not left frozen."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._freezing.set_frozen(False)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate; see `transformers.Trainer.evaluation_loop`.

        Each process has running statistics of its own batches. All take those of the first, which are saved: scores
        would otherwise be of weights that nobody keeps.
        """
        if self.args.world_size > 1:
            model: Any = self.model
            for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
                for buffer in norm.buffers():
                    torch.distributed.broadcast(buffer, src=0)
        return super().evaluation_loop(*args, **kwargs)

    def optimizer_groups(self, model: Any) -> list[dict[str, Any]]:
        """Those of [`LayerDecayArguments.groups`], with the rate of the encoder multiplied."""
        groups, factor = self.args.groups(self.model), self.args.encoder_learning_rate_factor
        in_head = {id(parameter) for parameter in head_parameters(self.model)}
        return groups if factor == 1 else _slower_encoder(groups, in_head, factor)

    def rate_by_step(self, n_steps: int) -> Callable[[int], float]:
        """See [`SeededTrainer.rate_by_step`]: the schedule by epoch."""
        args, per_epoch = self.args, self.updates_per_epoch
        epochs = max(math.ceil(n_steps / per_epoch), 1)
        options: dict[str, Any] = {
            "peak": 1.0,
            "epochs": epochs,
            "schedule": args.schedule,
            "warmup_epochs": args.lr_warmup_epochs,
            "min_lr": args.min_learning_rate / (args.learning_rate or 1),
        }
        return lambda step: finetuning_lr(min(step // per_epoch, epochs - 1), **options)
