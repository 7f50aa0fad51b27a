"""A Trainer whose data are the same whether a run was interrupted or not, and on how many processes it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from .checkpoints import last_complete_checkpoint, missing_from_checkpoint
from .checkpoints import logger as checkpoint_logger
from .seeded_rows import EpochSampler, SeededRows


class _SetEpoch(TrainerCallback):
    """Tells the sampler which epoch begins.

    accelerate tells it too, except when a resumed run skips batches on several processes.
    """

    def __init__(self, trainer: "SeededTrainer"):
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        sampler = self.trainer.row_sampler
        if sampler is not None:
            sampler.set_epoch(int(state.epoch or 0))


class SeededTrainer(Trainer):
    """Base of the Trainers of this package; also of use on its own, for fine-tuning.

    Rows of its datasets know their index and epoch (see [`SeededRows`]), and the order of rows in an epoch follows
    from the seed. Collators that draw from [`RowRandomness`] then give the same batches in a resumed run as in an
    uninterrupted one, and the same rows, however many processes share a batch. Dropout draws from torch's global
    generator, which checkpoints hold; on several processes each has its own.

    With `resume_from_checkpoint=True` the newest complete checkpoint is taken: one that a kill cut short is passed
    over.

    Args:
        model, args, data_collator, train_dataset, eval_dataset, processing_class: as for `transformers.Trainer`;
            datasets are map-style.
        kwargs: everything else that `transformers.Trainer` takes.

    Raises:
        ValueError: with `remove_unused_columns=True`, or a sampling strategy other than random and sequential.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ):
        self.row_sampler: EpochSampler | None = None
        self._evaluated: DataLoader | None = None
        if args is not None and args.remove_unused_columns:
            raise ValueError(
                "Expected remove_unused_columns=False, got True: the collator reads columns that the model does not "
                "take. Set it to False in the training arguments."
            )
        if args is not None and args.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"Expected train_sampling_strategy 'random' or 'sequential', got {args.train_sampling_strategy!r}: "
                "windows have one length, and the order must follow from seed and epoch."
            )
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=SeededRows.wrap(train_dataset),
            eval_dataset=SeededRows.wrap(eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        self.add_callback(_SetEpoch(self))

    @property
    def row_seed(self) -> int:
        """Seed of order, windows and masks: `args.data_seed`, or else `args.seed`."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    @property
    def first_slot(self) -> int | None:
        """Place in a training batch of this process's first row, where several processes share batches."""
        return self.args.process_index * self.args.train_batch_size if self.args.world_size > 1 else None

    def get_train_dataloader(self) -> DataLoader:
        """Dataloader of the training set, with rows that know their index and epoch."""
        self.train_dataset = SeededRows.wrap(self.train_dataset)
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Dataloader of an evaluation set, with rows that know their index; none is left out."""
        self.eval_dataset = SeededRows.wrap(self.eval_dataset)
        with self._keep_incomplete_batches():
            return super().get_eval_dataloader(SeededRows.wrap(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Dataloader of a test set, with rows that know their index; none is left out."""
        with self._keep_incomplete_batches():
            return super().get_test_dataloader(SeededRows.wrap(test_dataset))

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

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a checkpoint folder, or `True` for the newest complete one in `output_dir`.

        Raises:
            ValueError: if `True` was given and there is no complete checkpoint.
        """
        world_size = self.args.world_size
        if resume_from_checkpoint is True:
            output_dir = str(self.args.output_dir)
            resume_from_checkpoint = last_complete_checkpoint(output_dir, world_size)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"Expected a complete checkpoint in {output_dir}, found none. Start without "
                    "resume_from_checkpoint, or name the folder."
                )
        elif isinstance(resume_from_checkpoint, str):
            missing = missing_from_checkpoint(resume_from_checkpoint, world_size)
            if missing:
                checkpoint_logger.warning(
                    f"{resume_from_checkpoint} lacks {', '.join(missing)}: training goes on from it, but not bit for "
                    "bit as the run that wrote it."
                )
        return super().train(resume_from_checkpoint, *args, **kwargs)
