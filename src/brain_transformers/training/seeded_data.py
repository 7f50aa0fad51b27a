"""A Trainer whose data are the same whether a run was interrupted or not, and on how many processes it runs."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, Sampler
from transformers.trainer_utils import EvalLoopOutput

from ..data.collators import ScanCollator
from ..data.row_randomness import BatchNumbers, SeededDraws
from ..processing.base import ScanProcessor
from .parameter_groups import without_adapters
from .seeded_rows import EpochSampler, SeededRows
from .uploads import UploadsTheModel


class SeededDataTrainer(UploadsTheModel):
    """The data of a [`SeededTrainer`]: rows know their index and epoch, and their order follows from the seed.

    Of transformers' private methods it replaces `_get_train_sampler`, for which there is no other place.
    """

    row_sampler: EpochSampler | None = None
    batches_per_epoch: int = 1
    _evaluated: DataLoader | None = None

    def pretraining_collator(
        self, data_collator: Callable[..., Any] | None, mask_options: Mapping[str, Any] | None = None, **options: Any
    ) -> Callable[..., Any]:
        """`data_collator` with the masks that the model draws, unless it has a true attribute `makes_masks`.

        Args:
            data_collator: makes a batch with one window a row; `None` for random windows by `processing_class` where
                that is a [`ScanProcessor`], and otherwise for rows that hold windows as arrays.
            mask_options: what `model.draw_masks` takes by name; `None` values are left to the configuration.
            options: of the [`ScanCollator`].
        """
        if data_collator is not None and getattr(data_collator, "makes_masks", False):
            return data_collator
        args, model = self.args, without_adapters(self.model)
        chosen = {name: value for name, value in (mask_options or {}).items() if value is not None}
        batches = BatchNumbers(
            self.row_seed,
            0 if self.train_dataset is None else len(self.train_dataset),  # type: ignore[arg-type]
            rows_per_batch=args.train_batch_size * args.world_size,
            eval_rows_per_batch=args.eval_batch_size * args.world_size,
            shuffle=args.train_sampling_strategy == "random",
            # The place of this process's first row, where several share a batch.
            first_slot=args.process_index * args.train_batch_size if args.world_size > 1 else None,
        )
        masks = functools.partial(type(model).draw_masks, model.config, **chosen)
        if chosen:
            masks(SeededDraws.of_one_batch(1, self.row_seed))  # so that wrong options are told before the first batch
        processor = self.processing_class if isinstance(self.processing_class, ScanProcessor) else None
        return ScanCollator(
            processor if data_collator is None else data_collator,
            window="random",
            seed=self.row_seed,
            masks=masks,
            batches=batches,
            **options,
        )

    @property
    def row_seed(self) -> int:
        """Seed of order, windows and masks: `args.data_seed`, or else `args.seed`."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return max(math.ceil(self.batches_per_epoch / self.args.gradient_accumulation_steps), 1)

    def get_train_dataloader(self) -> DataLoader:
        """Dataloader of the training set, with rows that know their index and epoch.

        Raises:
            ValueError: if it would be empty, because incomplete batches are dropped.
        """
        self.train_dataset = SeededRows.wrap(self.train_dataset)
        loader = super().get_train_dataloader()
        if len(loader) == 0:
            rows: Any = self.train_dataset
            raise ValueError(
                f"Expected at least {self.args.train_batch_size * self.args.world_size} scans to fill one batch of "
                f"training, got {len(rows)}. Use a smaller batch (per_device_train_batch_size), more data, or "
                "dataloader_drop_last=False (a batch norm needs two scans in a batch)."
            )
        self.batches_per_epoch = len(loader)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Dataloader of an evaluation set, with rows that know their index; none is left out.

        Raises:
            ValueError: if there is no evaluation set.
        """
        if eval_dataset is None and self.eval_dataset is None:
            raise ValueError("Expected an evaluation set, got none. Give the Trainer an eval_dataset.")
        self.eval_dataset = SeededRows.wrap(self.eval_dataset)
        with self._keep_incomplete_batches():
            return super().get_eval_dataloader(SeededRows.wrap(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Dataloader of a test set, with rows that know their index; none is left out."""
        with self._keep_incomplete_batches():
            return super().get_test_dataloader(SeededRows.wrap(test_dataset))

    @contextmanager
    def _keep_incomplete_batches(self) -> Iterator[None]:
        """`dataloader_drop_last` is about training; transformers would drop rows of evaluation too."""
        drop, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None:
            return None
        self.row_sampler = EpochSampler(
            len(dataset),  # type: ignore[arg-type]
            self.row_seed,
            shuffle=self.args.train_sampling_strategy == "random",
        )
        return self.row_sampler

    def evaluation_loop(self, dataloader: DataLoader, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate; see `transformers.Trainer.evaluation_loop`."""
        self._evaluated = dataloader
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def last_evaluation_batch(self) -> dict[str, Any] | None:
        """All rows of the last batch of the evaluation that is running, if the processes' parts were filled up.

        Several processes get batches of one size, so accelerate repeats rows from the beginning; some may get nothing
        but those. Losses that are defined on a batch would then be of other rows, and processes could disagree on
        what is masked. Where the batch is an ordinary one: `None`.
        """
        state, loader = self.accelerator.gradient_state, self._evaluated
        if self.args.world_size == 1 or loader is None or not state.end_of_dataloader or state.remainder <= 0:
            return None
        dataset: Any = loader.dataset
        assert loader.collate_fn is not None
        return loader.collate_fn([dataset[row] for row in range(len(dataset) - state.remainder, len(dataset))])
