"""Trainer of the masked autoencoders."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from ..parameter_groups import decay_parameter_names
from ..seeded_trainer import SeededTrainer
from .arguments import MAETrainingArguments
from .metrics import ReconstructionScores, masked_statistics


class MAETrainer(SeededTrainer):
    """Pretrains any `...ForMaskedModeling` model of this package by masked reconstruction.

    The loss of an update is the sum of errors over all its masked entries divided by their number, as BrainLM defines
    it for
    a batch, however the update is divided into accumulation steps and processes: gradients and the logged loss equal
    those of one large batch up to rounding, also when parts differ in how many entries they mask. (With DeepSpeed,
    which owns the gradients, they are the plain mean over the parts.)

    Evaluation adds `eval_mse`, `eval_mae`, `eval_r2`, `eval_pearson_r` and, as BrainLM's code reports the last two,
    `eval_r2_clipped`, `eval_pearson_r_clipped`, pooled over all masked entries (see [`ReconstructionScores`]);
    `eval_loss` is the
    model's loss weighted with the masked entries. Windows and masks are the same in every evaluation. Series are not
    gathered unless `compute_metrics` is given (`predictions` is then the tuple of predictions and signal mask,
    `label_ids` the targets), or `predict` is called.

    Args:
        model: model whose output has `loss`, `predictions`, `targets` and `signal_mask`.
        data_collator: makes a batch with one window a row; see [`SeededTrainer.pretraining_collator`].
        others: see [`SeededTrainer`].

    Raises:
        TypeError: if `args` are not [`MAETrainingArguments`].
        ValueError: for mask options that the model does not have.
    """

    args: MAETrainingArguments
    arguments_class = MAETrainingArguments

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """See [`SeededTrainer.set_up`]."""
        args = self.args
        self.mask_arguments = args.mask_arguments(cast(Any, self.model))
        self.data_collator = self.pretraining_collator(data_collator)
        # Micro-batches and processes hide different numbers of entries, so their losses are added as sums.
        self._adds_sums = not self.is_deepspeed_enabled and (
            args.gradient_accumulation_steps > 1 or args.world_size > 1
        )
        self.loss_is_scaled_for_ga = self._adds_sums
        self._in_training_step = False
        self._update_sums: torch.Tensor | None = None
        self._entries_per_part = 1
        self._scores = ReconstructionScores()
        self._weighted_loss = 0.0

    # --- optimizer ---

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay, see [`decay_parameter_names`]."""
        return decay_parameter_names(model, published=self.args.published_parameter_groups)

    # --- loss ---

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's loss over the masked entries of `inputs`.

        Inside a training step that is one of several parts of an update it is scaled so that parts add up.

        Raises:
            ValueError: if nothing is masked.
        """
        outputs = model(**inputs, **self.mask_arguments)
        loss = outputs.get("loss")
        if loss is None:
            raise ValueError(
                "Expected masked entries to learn from, got none: the mask ratio is 0, or rounds to no token of this "
                "window. Set mask_ratio in the training arguments."
            )
        loss = loss.mean()
        if self._in_training_step and self._adds_sums:
            mask = outputs["signal_mask"]
            count = mask.sum(dtype=torch.float32)
            loss_sum = loss * count
            part = torch.stack([loss_sum.detach().float(), count.detach()])
            self._update_sums = part if self._update_sums is None else self._update_sums + part
            # A constant that all processes agree on, near the number of entries, keeps gradients in the range of half
            # precision until the true number is known.
            self._entries_per_part = mask[0].numel() * self.args.per_device_train_batch_size
            loss = loss_sum / self._entries_per_part
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass.

        After the last part of an update, its gradients are divided by the number of its masked entries.
        """
        if not self._adds_sums:
            return super().training_step(model, inputs, num_items_in_batch)
        self._in_training_step = True
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._in_training_step = False
        if not self.accelerator.sync_gradients or self._update_sums is None:
            return torch.zeros_like(loss)
        local, self._update_sums = self._update_sums, None
        world_size = self.args.world_size
        total = self.accelerator.reduce(local, "sum")[1] if world_size > 1 else local[1]
        # Backward has averaged over the processes; a mean over all entries needs the sum.
        scale = world_size * self._entries_per_part / total.clamp(min=1)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(float(scale) if self.is_fsdp_enabled else scale.to(parameter.grad.device))
        return world_size * local[0] / total.clamp(min=1)

    # --- evaluation ---

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The Trainer's loop, with scores over all masked entries added to the metrics."""
        self._scores, self._weighted_loss = ReconstructionScores(), 0.0
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics = {"loss": self._weighted_loss / max(self._scores.count, 1), **self._scores.compute()}
        assert output.metrics is not None
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Score one batch; returns loss, (predictions, signal mask) and targets, the last two only if asked for."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            batch_loss = self._loss_without_repeated_rows(model, inputs, loss)
        predictions, targets, mask = (outputs[name].detach() for name in ("predictions", "targets", "signal_mask"))
        statistics = masked_statistics(predictions, targets, mask)
        loss_sums = torch.where(statistics[:, 0] > 0, batch_loss.detach().to(statistics) * statistics[:, 0], 0.0)
        # Eight numbers a sample travel between processes; samples repeated to fill up the last batch are dropped
        # there.
        gathered = self.accelerator.gather_for_metrics(torch.cat([statistics, loss_sums[:, None]], dim=1))
        self._scores.update_from_statistics(gathered[:, :-1])
        self._weighted_loss += float(gathered[:, -1].sum())
        if prediction_loss_only:
            return loss.detach(), None, None
        return loss.detach(), (predictions, mask), targets

    def _loss_without_repeated_rows(
        self, model: nn.Module, inputs: dict[str, Any], loss: torch.Tensor
    ) -> torch.Tensor:
        """`loss`, or in a last batch that was filled up with rows from the start, the loss over its own rows.

        Several processes get batches of one size; accelerate repeats rows for that and drops them when it gathers.
        """
        state, rows = self.accelerator.gradient_state, next(iter(inputs.values())).shape[0]
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return loss
        # Every process takes part, as sharded models need it, also one whose rows are all its own or all repeated.
        own = min(max(state.remainder - self.args.process_index * rows, 0), rows) or rows
        return self.compute_loss(model, {name: value[:own] for name, value in inputs.items()})
