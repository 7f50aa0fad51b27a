"""The base of the Trainers: a run goes on as if it had never been interrupted."""

import errno
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import rotate_checkpoints

from .. import files
from .arguments import check_for_training
from .checkpoints import (
    RECORD,
    DamagedCheckpointError,
    faults_of_checkpoint,
    last_complete_checkpoint,
    open_record,
    read_record,
    write_record,
)
from .checkpoints import logger as checkpoint_logger
from .finite import FiniteWatch, NotFiniteError, broken_names
from .finite_trainer import FiniteTrainer
from .run_settings import model_settings, run_settings, same_processor
from .seeded_rows import SeededRows


class _FollowRun(TrainerCallback):
    """Tells the sampler which epoch begins, and takes up the sums of the run that goes on.

    accelerate tells the epoch too, except when a resumed run skips batches on several processes.
    """

    def __init__(self, trainer: "SeededTrainer"):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.take_up_run()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        sampler = self.trainer.row_sampler
        if sampler is not None:
            sampler.set_epoch(int(state.epoch or 0))


class SeededTrainer(FiniteTrainer):
    """Base of the Trainers of this package; also of use on its own, for fine-tuning.

    Rows of its datasets know their index and epoch (see [`SeededRows`]), and the order of rows in an epoch follows
    from the seed. A [`ScanCollator`] with that seed then gives the same batches in a resumed run as in an
    uninterrupted one, and the same rows, however many processes share a batch. Dropout draws from torch's global
    generator, which checkpoints hold; on several processes each has its own.

    With `resume_from_checkpoint=True` the newest whole checkpoint is taken: one that a kill cut short, or with a
    damaged file, is passed over. A run that goes on must have the processor, the data and the model that it began
    with; losses, logs and weights are then those of the uninterrupted run, and a run that is at its end already does
    not take another step.

    What `push_to_hub` uploads is the model with its processor and card: no checkpoints, pictures or tables of the run.

    A loss, gradient norm, weight or score that is NaN or infinite ends the run before anything is logged or saved from
    it, on all processes at once. Steps are not slowed down: what happened is kept on the device and read where the
    Trainer logs, evaluates or saves.

    Of transformers' private methods this class extends `_save_checkpoint` (its record is written last), the four
    `_load_...` (whatever a library finds wrong with a checkpoint is one error) and `_run_epoch` (a run at its end
    takes no other step), and sets `_tr_loss` and its two companions, which checkpoints of transformers do not hold.

    Args:
        model, args, data_collator, train_dataset, eval_dataset, processing_class: as for `transformers.Trainer`;
            datasets are map-style.
        kwargs: everything else that `transformers.Trainer` takes.

    Raises:
        TypeError: if `args` are not of the class that the Trainer needs.
        ValueError: with `remove_unused_columns=True`, a sampling strategy other than random and sequential, a strategy
            of uploading checkpoints, where evaluation is asked for without an `eval_dataset`, or for a `train_dataset`
            of several splits.
    """

    arguments_class: ClassVar[type[TrainingArguments]] = TrainingArguments

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
        self._settings: dict[str, Any] | None = None
        self._taken_up: dict[str, Any] = {}
        self._went_on_from: str | None = None
        self._loss_since = 0
        expected = self.arguments_class
        if not isinstance(args, expected) and not (args is None and expected is TrainingArguments):
            raise TypeError(
                f"Expected args to be {expected.__name__}, got {type(args).__name__}. They are TrainingArguments with "
                f"the options of {type(self).__name__}; build them with {expected.__name__}(output_dir=...)."
            )
        if args is not None:
            check_for_training(args, eval_dataset)
        if isinstance(train_dataset, Mapping):
            raise ValueError(
                "Expected the rows of one split as train_dataset, got all of a dataset. Pass dataset['train']; it has "
                f"splits {', '.join(map(str, train_dataset))}."
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
        self.add_callback(_FollowRun(self))
        self.set_up(data_collator)

    def set_up(self, data_collator: Callable[..., Any] | None) -> None:
        """What a Trainer adds when it is made and its arguments are known to be right."""

    # --- optimizer ---

    def optimizer_groups(self, model: Any) -> list[dict[str, Any]] | None:
        """Groups of parameters for the optimizer; `None` for those of `transformers.Trainer`."""
        return None

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """AdamW (or what `args.optim` names) over the groups."""
        learner: Any = self.model if model is None else model
        groups = self.optimizer_groups(learner) if self.optimizer is None else None
        if groups is None:
            return super().create_optimizer(model)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, learner)
        self.optimizer = kind(groups, **options)
        return self.optimizer

    def rate_by_step(self, n_steps: int) -> Callable[[int], float] | None:
        """Factor of the learning rate by the step, of a run of `n_steps`; `None` for a schedule of transformers."""
        return None

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """The schedule of [`rate_by_step`], or of transformers."""
        optimizer = optimizer or self.optimizer
        rate = self.rate_by_step(num_training_steps) if self.lr_scheduler is None else None
        if rate is not None and optimizer is not None:
            self.lr_scheduler = LambdaLR(optimizer, rate)
        return super().create_scheduler(num_training_steps, optimizer)

    # --- runs that go on ---

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a checkpoint folder, or `True` for the newest whole one in `output_dir`.

        Raises:
            ValueError: if `True` was given and there is no whole checkpoint.
            DamagedCheckpointError: if the named checkpoint cannot be gone on from.
            OtherSettingsError: if it is of a run with another processor, model or dataset.
            FolderInUseError: if another process writes checkpoints to `output_dir`.
            NotFiniteError: if a loss, gradient norm, weight or score became NaN or infinite.
            OSError: if the disk is full; what was saved before is left.
        """
        writes = self.args.should_save and self.args.save_strategy != "no" and self.hp_search_backend is None
        folder = Path(str(self.args.output_dir)) / "checkpoints"
        with files.locked(folder, "training") if writes else nullcontext():
            checkpoint = self._checkpoint_to_go_on_from(resume_from_checkpoint)
            self._settings = None
            self._taken_up, self._went_on_from = {}, checkpoint
            if checkpoint is not None:
                self._taken_up = read_record(checkpoint)
                self._refuse_another_run(checkpoint)
            output = super().train(checkpoint, *args, **kwargs)
        self._stop_if_not_finite(with_weights=True)
        return output._replace(training_loss=output.metrics.get("train_loss", output.training_loss))

    def _settings_of_run(self) -> dict[str, Any]:
        """What this run is made of; put together when a checkpoint is written or read, since it reads the scans."""
        if self._settings is None:
            self._settings = run_settings(self.args, processor=self.processing_class, rows=self.train_dataset)
            self._settings["model"] = model_settings(self.model)
        return self._settings

    def _checkpoint_to_go_on_from(self, asked: str | bool | None) -> str | None:
        """The checkpoint, which the first process chooses for all."""
        if not asked:
            return None
        output_dir, world_size = str(self.args.output_dir), self.args.world_size
        if asked is True:
            found = [last_complete_checkpoint(output_dir, world_size) if self.args.process_index == 0 else None]
            if world_size > 1:
                torch.distributed.broadcast_object_list(found, src=0)
            if found[0] is None:
                raise ValueError(
                    f"Expected a complete checkpoint in {output_dir}, found none. Start without "
                    "resume_from_checkpoint, or name the folder."
                )
            return found[0]
        faults = faults_of_checkpoint(asked, world_size)
        if any(fault.endswith("damaged") or fault.startswith(("*", "trainer_state")) for fault in faults):
            raise DamagedCheckpointError(
                f"Expected a whole checkpoint in {asked}, but {', '.join(faults)}. Use resume_from_checkpoint=True, "
                "which takes the newest one that is whole."
            )
        with self._reading(asked):
            TrainerState.load_from_json(str(Path(asked) / "trainer_state.json"))
        if faults:
            checkpoint_logger.warning(
                f"In {asked}, {', '.join(faults)}: training goes on from it, but not bit for bit as the run that "
                "wrote it."
            )
        return asked

    @contextmanager
    def _reading(self, checkpoint: str | None) -> Iterator[None]:
        """Turns whatever a library finds wrong with a checkpoint into one error."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DamagedCheckpointError(
                f"Expected a whole checkpoint of this model in {checkpoint}, but it cannot be gone on from "
                f"({type(error).__name__}: {reason}). Choose an earlier one, or start without resume_from_checkpoint."
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with self._reading(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with self._reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with self._reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with self._reading(checkpoint):
            super()._load_scaler(checkpoint)

    def _refuse_another_run(self, checkpoint: str) -> None:
        before = dict(self._taken_up.get("settings", {}))
        if same_processor(self.processing_class, checkpoint):
            before.pop("processor", None)  # fitted to the same scans, but for the last digits of another machine
        now = {name: value for name, value in self._settings_of_run().items() if name in before}
        others = files.check_same(
            {name: before[name] for name in now},
            now,
            f"{checkpoint} is of another run",
            "Go on with what it was started with, or start a new run in another output_dir.",
            may_change=("training arguments",),
        )
        if others:
            checkpoint_logger.warning(
                f"{checkpoint} was written with other settings ({'; '.join(others)}), so the numbers will not be "
                "those of an uninterrupted run."
            )

    def take_up_run(self) -> None:
        """Put the sums of the run that goes on where the Trainer has just begun new ones."""
        self._watch = FiniteWatch(self.args.device)
        if broken := broken_names(self._tensors_to_check()):
            kind = NotFiniteError if self._went_on_from is None else DamagedCheckpointError
            raise kind(
                f"Expected finite weights in {self._went_on_from or 'the model'}, got NaN, infinity or values too "
                f"large to compute with in {broken[0]} and {len(broken) - 1} other tensors. Start from another one."
            )
        running = self._taken_up.get("running")
        if running is None:
            self._loss_since = self.state.global_step
            return
        self._loss_since = running["since_step"]
        of_processes, rank = running["unlogged_loss"], self.args.process_index
        own = (
            of_processes[rank] if len(of_processes) == self.args.world_size else sum(of_processes) / len(of_processes)
        )
        self._tr_loss = torch.tensor(own, device=self.args.device)
        self._total_loss_scalar = running["logged_loss"]
        self._globalstep_last_logged = running["last_logged_step"]
        self.restore_sums(running["sums"])

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> Any:
        """Lengths of the run; intervals that are shares of it become numbers of steps.

        Otherwise transformers would warn, whenever a run goes on, that they are not those of the checkpoint.
        """
        values = super().set_initial_training_values(args, dataloader)
        for name in ("logging_steps", "eval_steps", "save_steps"):
            share = getattr(args, name)
            if share and 0 < share < 1:
                setattr(args, name, math.ceil(values[-1] * share))
        return values

    def sums_to_keep(self) -> dict[str, Any]:
        """What a Trainer adds up between two log lines beside the loss, as JSON values; see `restore_sums`."""
        return {}

    def restore_sums(self, sums: dict[str, Any]) -> None:
        """Go on with what `sums_to_keep` gave."""

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """One epoch; none for a run that is at its end, from which transformers would take another step."""
        stoppers = [cb for cb in self.callback_handler.callbacks if isinstance(cb, EarlyStoppingCallback)]
        stopped = any(stop.early_stopping_patience_counter >= stop.early_stopping_patience for stop in stoppers)
        if self.state.global_step >= self.state.max_steps or (stopped and self.state.global_step > 0):
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, and last its record; see [`write_record`].

        Raises:
            OSError: if the disk is full; the unfinished checkpoint is removed.
        """
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        writes = self.args.should_save
        keeps_record = writes and not self.args.save_only_model
        with self._room_for(folder, temporary=True):
            if keeps_record:
                open_record(folder)
            elif writes:
                (folder / RECORD).unlink(missing_ok=True)  # of a checkpoint that is now written over
            # Earlier checkpoints go when this one is whole.
            limit, self.args.save_total_limit = self.args.save_total_limit, None
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            unlogged = self.accelerator.gather(self._tr_loss.reshape(1)).tolist()  # waits for all files, too
            if keeps_record:
                running = {
                    "logged_loss": self._total_loss_scalar,
                    "unlogged_loss": unlogged,
                    "last_logged_step": self._globalstep_last_logged,
                    "since_step": self._loss_since,
                    "sums": self.sums_to_keep(),
                }
                write_record(folder, {"settings": self._settings_of_run(), "running": running})
        if writes:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder.parent), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)

    @contextmanager
    def _room_for(self, folder: Path, temporary: bool = False) -> Iterator[None]:
        """Turns whatever a library says of a full disk into one error."""
        try:
            yield
        except Exception as error:
            if not files.no_space(error):
                raise
            if temporary and self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            earlier = "What was saved before is whole" if temporary else "It is not whole"
            raise OSError(
                errno.ENOSPC,
                f"No space left for {folder} after step {self.state.global_step}. {earlier}; make room in "
                f"{folder.parent} (save_total_limit keeps fewer checkpoints) and go on with resume_from_checkpoint "
                "(--resume on the command line)",
            ) from error

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; see `transformers.Trainer.save_model`.

        Raises:
            NotFiniteError: if a weight or buffer is NaN or infinite; nothing is written then.
            OSError: if the disk is full.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        with nullcontext() if _internal_call else self._room_for(folder):
            super().save_model(output_dir, _internal_call)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; see `transformers.Trainer.log`. The loss of a whole run is that of all its steps, resumed or not."""
        if "train_loss" in logs:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step - self._loss_since, 0.001)
        super().log(logs, *args, **kwargs)
