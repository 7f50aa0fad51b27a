"""Trainer for fine-tuning any family with a learning rate that falls towards the input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...data.collators import ScanCollator
from ...data.row_kinds import kind_of
from ...processing.base import ScanProcessor
from ..parameter_groups import without_adapters
from ..schedules import warm_restarts_lr
from ..seeded_trainer import SeededTrainer
from .arguments import FineTuningArguments


class FineTuningTrainer(SeededTrainer):
    """[`SeededTrainer`] with `layer_decay` and `cycle_epochs` of [`FineTuningArguments`].

    At `layer_decay=1` the groups are those of `transformers.Trainer`, and below it those of [`fine_tuning_groups`].
    Evaluation gives one prediction a scan, whether the collator cuts one window of it or several. Without a
    `data_collator`, scans with a column `labels` are cut by `processing_class`: random windows in training, all of
    each scan in evaluation.
    """

    args: FineTuningArguments

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """See [`SeededTrainer.set_up`]; labels are looked at before training."""
        if data_collator is None:
            self._collate_scans()
        check: Any = getattr(self.data_collator, "check_labels", None)
        sets = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        for rows in (self.train_dataset, *sets):
            if check is not None and rows is not None:
                check(getattr(rows, "dataset", rows))

    def _collate_scans(self) -> None:
        """Make a collator for scans with `labels`, where none is given; rows of inputs need none.

        Raises:
            ValueError: for scans without labels or without a processor.
        """
        rows: Any = self.train_dataset
        columns = getattr(getattr(rows, "dataset", rows), "column_names", None) or ()
        if kind_of(columns) is None:
            return
        label = next((name for name in ("labels", "label") if name in columns), None)
        if label is None or not isinstance(self.processing_class, ScanProcessor):
            raise ValueError(
                "Expected a data_collator, which cuts the scans and finds their labels. Pass data_collator="
                'ScanCollator(extractor, label_column="..."), with train_window="random", eval_window="cover", seed=0.'
            )
        config: Any = without_adapters(self.model).config
        self.data_collator = ScanCollator(
            self.processing_class,
            label,
            label2id=config.label2id if isinstance(rows[0][label], str) else None,
            regression=config.problem_type == "regression" or config.num_labels == 1,
            train_window="random",
            eval_window="cover",
            seed=self.row_seed,
        )

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward pass, over a mixed batch if `mixup_alpha` is set."""
        if self.args.mixup_alpha:
            inputs = self._mixed(self._prepare_inputs(inputs))
        return super().training_step(model, inputs, num_items_in_batch)

    def _mixed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch whose samples and labels are mixed; the share follows from the seed and the update alone."""
        args, bare = self.args, without_adapters(self.model)
        rng = np.random.default_rng([args.seed, self.state.global_step, args.process_index])
        share = float(rng.beta(args.mixup_alpha, args.mixup_alpha))
        labels = inputs["labels"]
        if not labels.is_floating_point() and bare.num_labels > 1:
            bare.config.problem_type = bare.config.problem_type or "single_label_classification"
            labels = torch.nn.functional.one_hot(labels.view(-1), bare.num_labels)
        labels = labels.float()
        return {**bare.mix_inputs(inputs, share), "labels": share * labels + (1 - share) * labels.flip(0)}

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """One prediction a scan: the mean over its windows, where the collator cut several (`scan_index`)."""
        scan_index = inputs.pop("scan_index", None)
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if scan_index is None or not isinstance(logits, torch.Tensor):
            return loss, logits, labels
        owners, counts = scan_index.unique_consecutive(return_counts=True)
        sums = logits.new_zeros(len(owners), *logits.shape[1:]).index_add_(0, scan_index, logits)
        first = counts.cumsum(0) - counts
        means = sums / counts.view(-1, *[1] * (logits.dim() - 1))
        return loss, means, None if labels is None else labels[first]

    def optimizer_groups(self, model: Any) -> list[dict[str, Any]] | None:
        """Those of [`LayerDecayArguments.groups`], where they differ from those of transformers."""
        args = self.args
        return args.groups(model) if args.layer_decay < 1 or args.published_parameter_groups else None

    def rate_by_step(self, n_steps: int) -> Callable[[int], float] | None:
        """See [`SeededTrainer.rate_by_step`]: cycles, if there are any."""
        args = self.args
        if not args.has_cycles:
            return None
        cycle = max(n_steps if args.cycle_epochs is None else round(args.cycle_epochs * self.updates_per_epoch), 1)
        options: dict[str, Any] = {
            "peak": 1.0,
            "final": args.min_learning_rate / args.learning_rate,
            "warmup_steps": min(args.get_warmup_steps(n_steps), cycle - 1),
            "cycle_steps": cycle,
        }
        every = self.updates_per_epoch if args.published_step_counting else 1
        return lambda step: warm_restarts_lr(step // every, **options)
