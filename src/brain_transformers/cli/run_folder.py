"""The folder of a training run: who holds it, whether a run in it goes on, and what it holds in the end."""

import argparse
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import OtherSettingsError, difference, digest, listed, locked, to_json, whole_folder, write_file
from .flags import holds_dataset

_SETTINGS, _SCORES = "run_settings.json", "metrics.json"
_MODEL = ("config.json", "*.safetensors", "*.bin")
# What a run that ends writes anew; what else lies in the folder is kept.
_OURS = re.compile(r"(model.*|adapter_model)\.safetensors(\.index\.json)?|predictions\.csv|metrics\.json")
_OUR_CARD = "library_name: brain-transformers"
# A run may be made longer. A checkpoint brings all other values with it, so that a flag would have no effect.
_MAY_CHANGE = ("max_steps", "num_train_epochs")


@dataclass(frozen=True)
class Beginning:
    """What a run is made of before its first step.

    Attributes:
        model: with the weights that it starts from.
        processor: its feature extractor.
        make_trainer: makes the Trainer, of the arguments that all of them take.
        said: what is learned, for the user.
        settings: further settings of the run, such as the label.
    """

    model: Any
    processor: Any
    make_trainer: Callable[..., Any]
    said: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def train_in_folder(
    args: argparse.Namespace,
    training: Any,
    begin: Callable[[], Beginning],
    rows: Any,
    evaluation_rows: Any,
    evaluate: Callable[[Any], tuple[dict[str, Any], dict[str, str]]],
    written: str,
) -> int:
    """Train in a folder that this process holds, or go on there, and leave the model in it; returns the exit code.

    Args:
        args: the command line, with `command`, `output`, `model`, `tables`, `resume` and `overwrite`.
        training: the training arguments.
        begin: makes what the run starts from.
        rows, evaluation_rows: what it trains and is evaluated on; the second may be `None`.
        evaluate: of the Trainer, the scores in the end and more files for the folder (name to text).
        written: what to say when all is done.

    Raises:
        FileExistsError: if the folder holds something that would be replaced without having been asked for.
        FolderInUseError: if another process trains in it.
        OtherSettingsError: if the run that goes on was another one; names the first differences.
    """
    from transformers import set_seed

    from ..hub.registry import MODELS

    # A launcher tells each process its rank and waits for none of them here.
    with locked(args.output, args.command) if training.process_index == 0 else nullcontext():
        run = _look(args, training)
        set_seed(training.seed)
        beginning = begin()
        beginning.processor.try_rows(evaluation_rows, "evaluation")
        if not run.settle(beginning, new=args.model in MODELS, rows=rows, evaluation_rows=evaluation_rows):
            return 0
        print(beginning.said)
        trainer = beginning.make_trainer(
            model=beginning.model,
            args=training,
            train_dataset=rows,
            eval_dataset=evaluation_rows,
            processing_class=beginning.processor,
        )
        metrics, files = run.train(trainer), dict[str, str]()
        if evaluation_rows is not None:
            scores, files = evaluate(trainer)
            metrics.update(scores)
        if run.finish(trainer, beginning.processor, metrics, files):
            print(written)
        trainer.accelerator.end_training()  # leaves the process group, if there is one
    return 0


@dataclass
class RunFolder:
    """A folder that this process trains in.

    Attributes:
        args: the command line.
        training: the training arguments.
        before: settings of the run that the folder holds, `None` if it holds none.
        checkpoint: where the run goes on from, or `None`.
        finished: whether there is nothing left to do.
    """

    args: argparse.Namespace
    training: Any
    before: dict[str, Any] | None
    checkpoint: str | None
    finished: bool = False

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.args.output)

    def settle(self, beginning: Beginning, *, new: bool, **rows: Any) -> bool:
        """Keep what the run is made of, or see that the run that goes on is the same as before.

        Args:
            beginning: of the run.
            new: whether the model was made for these rows, so that fitted values follow from them.
            rows: `rows=` and `evaluation_rows=`.

        Returns:
            Whether there is something to do; if not, that is said.

        Raises:
            OtherSettingsError: if the earlier run was another one; names the first differences.
        """
        import torch

        training = self.training
        if training.process_index == 0:
            from ..training.run_settings import run_settings

            model, processor = beginning.model, beginning.processor
            settings = {"command": self.args.command, **beginning.settings}
            settings.update(run_settings(training, model=model, processor=processor, **rows))
            state = model.state_dict()
            for table in model.config.table_sources:
                names = [name for name in state if name.rpartition(".")[2] == table]
                values = {name: state.pop(name) for name in names}
                if values and table in self.args.tables:
                    settings[table] = digest(values)
            if new:  # fitted to the rows, with the last digits of this machine
                settings["processor"].pop("statistics", None)
                settings["initial weights"] = digest(state)
            self._settle(json.loads(json.dumps(settings, default=str)))
        if training.world_size > 1:  # none goes on before the first one has compared
            torch.distributed.barrier()
        if self.finished:
            if training.process_index == 0:
                print(f"{self.path}: this run is finished, there is nothing to go on with")
                _print_scores(_read_table(self.path / _SCORES, "the scores") or {})
            if training.world_size > 1:
                torch.distributed.destroy_process_group()
        elif training.save_strategy != "no":
            self.args.go_on = "--resume"
        return not self.finished

    def _settle(self, now: dict[str, Any]) -> None:
        if self.before is not None and (self.checkpoint is not None or self.finished):
            changed = difference({name: value for name, value in self.before.items() if name != "finished"}, now)
            longer = [line for line in changed if line.split(":")[0].rpartition(".")[2] in _MAY_CHANGE]
            if other := [line for line in changed if line not in longer]:
                # Another command has other settings throughout, which say nothing more.
                command = [line for line in other if line.startswith("command: ")]
                raise OtherSettingsError(
                    f"{self.path} holds another run ({listed(command or other)}). Choose another --output, or "
                    "call with what it was started with."
                )
            for line in longer:
                print(f"warning: {line}, so the numbers will not be those of an uninterrupted run")
        if self.finished:
            return
        if self.args.overwrite and not self.args.resume:
            for _, checkpoint in _checkpoints(self.path):
                shutil.rmtree(checkpoint)
        self.before = now
        write_file(self.path / _SETTINGS, to_json(now))

    def train(self, trainer: Any) -> dict[str, Any]:
        """Train from the start or from the checkpoint; returns the scores.

        Raises:
            ValueError: if the best model is to be chosen by a score that there is not.
        """
        try:
            return dict(trainer.train(resume_from_checkpoint=self.checkpoint).metrics)
        except KeyError as error:
            if "metric_for_best_model" not in str(error):
                raise
            raise ValueError(f"--metric-for-best-model: {' '.join(str(error.args[0]).split())}") from error

    def finish(self, trainer: Any, processor: Any, metrics: Mapping[str, Any], files: Mapping[str, str]) -> bool:
        """Put model, extractor, scores and `files` (name to text) into the folder, all at once, and print the scores.

        Returns:
            Whether this process did that; with several, the main one does.
        """
        from ..hub.model_card import trained_model_card
        from ..hub.sharing import save_model_folder

        if not trainer.is_world_process_zero():
            return False
        model = trainer.accelerator.unwrap_model(trainer.model)
        # Before anything is replaced, since the folder may be that of the model that training started from.
        card = None
        if not _holds_a_readme_of_its_own(self.path):
            card = trained_model_card(self.path.resolve().name, model, processor, self.args.model)
        with whole_folder(self.path, is_ours=lambda name: _OURS.fullmatch(name) is not None) as folder:
            save_model_folder(model, folder, extractor=processor, card=card)
            contents = {
                "trainer_state.json": to_json(dataclasses.asdict(trainer.state)),
                _SCORES: to_json(metrics),
                _SETTINGS: to_json({**(self.before or {}), "finished": trainer.state.global_step}),
                **files,
            }
            for name, text in contents.items():
                write_file(folder / name, text)
        _print_scores(metrics)
        return True


def check_output(args: argparse.Namespace) -> None:
    """Raise what can be said of the folder before anything is loaded; see [`train_in_folder`]."""
    output: Path = args.output
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"{output} is a file; give the name of a folder.")
    if holds_dataset(output):
        raise FileExistsError(f"{output} holds a dataset. Choose another --output.")
    if Path(args.model).is_dir() and Path(args.model).resolve() == output.resolve():
        raise FileExistsError(f"{output} is the model that training starts from. Choose another --output.")
    if args.overwrite or (args.resume and (output / _SETTINGS).is_file()):
        return
    if _checkpoints(output) or not _holds_model(output):
        return
    raise FileExistsError(
        f"{output} holds a finished model. Choose another --output, or pass --overwrite to replace it when training "
        "has ended."
    )


def _holds_model(output: Path) -> bool:
    return any(any(output.glob(pattern)) for pattern in _MODEL)


def _holds_a_readme_of_its_own(output: Path) -> bool:
    file = output / "README.md"
    return file.is_file() and _OUR_CARD not in file.read_text(encoding="utf-8", errors="replace")


def _look(args: argparse.Namespace, training: Any) -> RunFolder:
    from ..training.checkpoints import last_complete_checkpoint

    output: Path = args.output
    checkpoint = last_complete_checkpoint(output, training.world_size)
    if checkpoint is not None and not (args.resume or args.overwrite):
        raise FileExistsError(
            f"{output} holds checkpoints of an earlier run. Pass --resume to go on from {Path(checkpoint).name}, "
            "--overwrite to start anew, or choose another --output."
        )
    if not args.resume:
        return RunFolder(args, training, None, None)
    run = RunFolder(args, training, _read_table(output / _SETTINGS, "the settings"), checkpoint)
    steps = (run.before or {}).get("finished")
    if isinstance(steps, int) and _holds_model(output) and (output / _SCORES).is_file():
        from ..training.run_settings import training_settings

        before, now = (run.before or {}).get("training arguments"), training_settings(training)
        same = isinstance(before, dict) and all(before.get(name) == now[name] for name in _MAY_CHANGE)
        run.finished = same and (checkpoint is None or _step(checkpoint) >= steps)
        if not run.finished and checkpoint is None:
            raise FileExistsError(
                f"{output} holds a finished run without checkpoints, so there is nothing to go on from with other "
                "flags. Choose another --output, or pass --overwrite without --resume to start anew."
            )
    if not run.finished:
        print(f"going on from {checkpoint}" if checkpoint else f"no complete checkpoint in {output}: starting anew")
    return run


def _read_table(path: Path, what: str) -> dict[str, Any] | None:
    """A JSON file of names and values that an earlier run wrote, or `None` where there is none."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"got {type(values).__name__}")
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(
            f"{path}: expected {what} of an earlier run, and cannot read them ({error}). Choose another --output, or "
            "pass --overwrite without --resume to start anew."
        ) from error
    return values


def _checkpoints(output: Path) -> list[tuple[int, Path]]:
    found = [path for path in output.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdigit()]
    return sorted((_step(path), path) for path in found)


def _step(checkpoint: str | Path) -> int:
    return int(Path(checkpoint).name.rpartition("-")[2])


def _print_scores(metrics: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
        if name == "train_loss" or (name.startswith("eval_") and "runtime" not in name and "per_second" not in name):
            print(f"{name}: {value:.4f}" if isinstance(value, (int, float)) else f"{name}: {value}")
