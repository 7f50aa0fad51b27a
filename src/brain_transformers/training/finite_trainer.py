"""A Trainer that stops where its numbers are lost."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.trainer_utils import PredictionOutput

from .finite import (
    FiniteWatch,
    NotFiniteError,
    WatchedTensor,
    all_whole,
    broken_names,
    describe_scans,
    is_broken,
    tensors_of,
)
from .seeded_data import SeededDataTrainer

_OR_TOO_LARGE = "NaN, infinite or too large to compute with"


class FiniteTrainer(SeededDataTrainer):
    """Ends a run at a loss, gradient norm, weight or score that is NaN or infinite, on all processes at once.

    Of transformers' private methods it extends `_get_grad_norm` and `_maybe_log_save_evaluate`: the only places that
    see the norm before it is a number of the host, and that come before anything is logged or saved.
    """

    _watch: FiniteWatch | None = None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate; see `transformers.Trainer.evaluate`.

        Raises:
            NotFiniteError: if the loss, or the score that chooses the best model, is NaN or infinite. Others may be
                undefined, such as R2 of a single scan.
        """
        with self._finite_scores(metric_key_prefix) as metrics:
            metrics.update(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predict; see `transformers.Trainer.predict`.

        Raises:
            NotFiniteError: as [`SeededTrainer.evaluate`] does.
        """
        with self._finite_scores(metric_key_prefix) as metrics:
            output = super().predict(test_dataset, ignore_keys, metric_key_prefix)
            metrics.update(output.metrics or {})
        return output

    @contextmanager
    def _finite_scores(self, prefix: str) -> Iterator[dict[str, float]]:
        metrics: dict[str, float] = {}
        chosen = str(self.args.metric_for_best_model or "loss").removeprefix("eval_")
        try:
            yield metrics
        except NotFiniteError:
            raise
        except FloatingPointError as error:
            raise self._not_finite(f"{prefix}_loss", self._evaluated_scans()) from error
        decisive = (f"{prefix}_loss", f"{prefix}_{chosen}")
        if broken := [name for name in decisive if name in metrics and is_broken(metrics[name])]:
            raise self._not_finite(", ".join(dict.fromkeys(broken)), self._evaluated_scans())

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass; see `transformers.Trainer.training_step`."""
        step = self.state.global_step + 1
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except FloatingPointError as error:  # a model that has noticed by itself
            raise self._not_finite("loss", self._scans_of_step(step), step) from error
        if self._watch is not None:
            self._watch.note("loss", loss, step)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With scaled losses, gradients that overflow are usual; the scaler leaves such a step out.
        if self._watch is not None and norm is not None and getattr(self.accelerator, "scaler", None) is None:
            self._watch.note("gradient norm", norm, self.state.global_step + 1)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save where it is time; all processes come here after each step."""
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            self._stop_if_not_finite(with_weights=control.should_evaluate or control.should_save)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _tensors_to_check(self, optimizer: bool = True) -> list[WatchedTensor]:
        assert self.model is not None
        inner = getattr(self.optimizer, "optimizer", self.optimizer)  # without accelerate's wrapper
        return tensors_of(self.model, inner if optimizer else None)

    def _stop_if_not_finite(self, with_weights: bool) -> None:
        """Raise on all processes if one has seen a value that is not finite."""
        if self._watch is None:
            return
        several = self.args.world_size > 1
        gather = self.accelerator.gather if several else None
        if (found := self._watch.read(gather)) is not None:
            step, what = found
            raise self._not_finite(what, self._scans_of_step(step), step)
        if not with_weights:
            return
        whole = all_whole(self._tensors_to_check(), self.args.device)[None]
        if not bool((whole if gather is None else gather(whole)).all()):
            broken = broken_names(self._tensors_to_check())
            which = f"{broken[0]} and {len(broken) - 1} other tensors" if broken else "weights"
            step = self.state.global_step
            raise self._not_finite(which, self._scans_of_step(step), step, _OR_TOO_LARGE)

    def _not_finite(
        self, what: str, scans: str = "", step: int | None = None, how: str = "NaN or infinite"
    ) -> NotFiniteError:
        step = self.state.global_step if step is None else step
        culprits = f" Scans of that step: {scans}." if scans else ""
        return NotFiniteError(
            f"{what} became {how} at step {step}, so training stops and nothing is saved from it; earlier "
            f"checkpoints are as they were.{culprits} Look for extreme values in the scans, or lower the learning "
            "rate."
        )

    def _scans_of_step(self, step: int) -> str:
        """The scans of an optimizer step on all processes; they follow from seed and step."""
        dataset, sampler = self.train_dataset, self.row_sampler
        if sampler is None or dataset is None or step < 1:
            return ""
        args = self.args
        n_rows: int = len(dataset)  # type: ignore[arg-type]
        batch = args.train_batch_size * args.world_size
        batches = n_rows // batch if args.dataloader_drop_last else math.ceil(n_rows / batch)
        updates = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
        epoch, update = divmod(step - 1, updates)
        size = batch * args.gradient_accumulation_steps
        order = [key.row for key in sampler.keys(epoch)][: batches * batch]
        return describe_scans(getattr(dataset, "dataset", dataset), order[update * size : (update + 1) * size])

    def _evaluated_scans(self) -> str:
        dataset: Any = None if self._evaluated is None else self._evaluated.dataset
        return "" if dataset is None else describe_scans(getattr(dataset, "dataset", dataset), range(len(dataset)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; see `transformers.Trainer.save_model`.

        Raises:
            NotFiniteError: if a weight or buffer is NaN or infinite; nothing is written then.
        """
        if broken := broken_names(self._tensors_to_check(optimizer=False)):
            raise self._not_finite(f"{broken[0]} and {len(broken) - 1} other tensors", how=_OR_TOO_LARGE)
        super().save_model(output_dir, _internal_call)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; see `transformers.Trainer.log`."""
        if any(map(is_broken, logs.values())):  # such as a gradient norm that the loss scaler deals with
            logs = {name: value for name, value in logs.items() if not is_broken(value)}  # JSON has no word for them
        super().log(logs, *args, **kwargs)
