"""The folder of a training run: whether a run in it goes on, and as the same one, and what it holds in the end."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import check_same, to_json, whole_folder, write_file

_SETTINGS, _SCORES = "run_settings.json", "metrics.json"
# What a run that ends writes anew; what else lies in the folder is kept.
_OURS = re.compile(r"(model.*|adapter_model)\.safetensors(\.index\.json)?|predictions\.csv|metrics\.json")
# A run may be made longer. A checkpoint brings all other values with it, so that a flag would have no effect.
_MAY_CHANGE = ("max_steps", "num_train_epochs")


@dataclass
class RunFolder:
    """A folder that this process trains in; see [`RunFolder.open`].

    Attributes:
        path: the folder.
        resume, overwrite: whether an earlier run in it may go on, or be replaced.
        before: settings of the run that the folder holds, `None` if it holds none.
        checkpoint: where the run goes on from, or `None`.
        finished: whether there is nothing left to do.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False
    before: dict[str, Any] | None = None
    checkpoint: str | None = None
    finished: bool = False

    @classmethod
    def open(cls, path: Path, world_size: int, *, resume: bool, overwrite: bool) -> "RunFolder":
        """Look what the folder holds.

        Raises:
            FileExistsError: if it holds something that would be replaced without having been asked for.
            ValueError: if its settings cannot be read.
        """
        from .checkpoints import last_complete_checkpoint

        checkpoint = last_complete_checkpoint(path, world_size)
        if checkpoint is not None and not (resume or overwrite):
            raise FileExistsError(
                f"{path} holds checkpoints of an earlier run. Pass --resume to go on from {Path(checkpoint).name}, "
                "--overwrite to start anew, or choose another --output."
            )
        if not resume:
            return cls(path, overwrite=overwrite)
        return cls(path, resume, overwrite, _read_table(path / _SETTINGS, "the settings"), checkpoint)

    def bind(self, settings: dict[str, Any], *, writes: bool) -> bool:
        """Keep what the run is made of, or see that the run that goes on is the same as before, and say it.

        Args:
            settings: see [`run_settings`]; of the process that `writes` the whole, of others the training arguments.

        Returns:
            Whether there is something to do; if not, that is said.

        Raises:
            FileExistsError: if there is nothing to go on from.
            OtherSettingsError: if the earlier run was another one; names the first differences.
        """
        self._look_whether_finished(settings["training arguments"])
        if writes:
            self._bind(json.loads(json.dumps(settings, default=str)))
        if self.finished and writes:
            print(f"{self.path}: this run is finished, there is nothing to go on with")
            _print_scores(_read_table(self.path / _SCORES, "the scores") or {})
        elif self.resume:
            start = f"no complete checkpoint in {self.path}: starting anew"
            print(f"going on from {self.checkpoint}" if self.checkpoint else start)
        return not self.finished

    def _look_whether_finished(self, asked: dict[str, Any]) -> None:
        steps = (self.before or {}).get("finished")
        if isinstance(steps, int) and _holds_model(self.path) and (self.path / _SCORES).is_file():
            then = (self.before or {}).get("training arguments")
            same = isinstance(then, dict) and all(then.get(name) == asked[name] for name in _MAY_CHANGE)
            self.finished = same and (self.checkpoint is None or _step(self.checkpoint) >= steps)
            if not self.finished and self.checkpoint is None:
                raise FileExistsError(
                    f"{self.path} holds a finished run without checkpoints, so there is nothing to go on from with "
                    "other flags. Choose another --output, or pass --overwrite without --resume to start anew."
                )

    def _bind(self, now: dict[str, Any]) -> None:
        if self.before is not None and (self.checkpoint is not None or self.finished):
            before = {name: value for name, value in self.before.items() if name != "finished"}
            said = f"{self.path} holds another run"
            fix = "Choose another --output, or call with what it was started with."
            # Another command has other settings throughout, which say nothing more.
            check_same({"command": before.get("command")}, {"command": now.get("command")}, said, fix)
            for line in check_same(before, now, said, fix, _MAY_CHANGE):
                print(f"warning: {line}, so the numbers will not be those of an uninterrupted run")
        if self.finished:
            return
        if self.overwrite and not self.resume:
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

    def finish(
        self,
        trainer: Any,
        save: Callable[[Any, Path], Any],
        metrics: Mapping[str, Any],
        files: Mapping[str, str],
    ) -> bool:
        """Put model, scores and `files` (name to text) into the folder, all at once, and print the scores.

        Returns:
            Whether this process did that; with several, the main one does.
        """
        if not trainer.is_world_process_zero():
            return False
        with whole_folder(self.path, is_ours=lambda name: _OURS.fullmatch(name) is not None) as folder:
            save(trainer.accelerator.unwrap_model(trainer.model), folder)
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


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise FileExistsError for a finished model that nobody said to replace; imports nothing."""
    if overwrite or (resume and (folder / _SETTINGS).is_file()) or _checkpoints(folder) or not _holds_model(folder):
        return
    raise FileExistsError(
        f"{folder} holds a finished model. Choose another --output, or pass --overwrite to replace it when training "
        "has ended."
    )


def _holds_model(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("config.json", "*.safetensors", "*.bin"))


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
    """Print those that say how good a model is."""
    for name, value in metrics.items():
        if name == "train_loss" or (name.startswith("eval_") and "runtime" not in name and "per_second" not in name):
            print(f"{name}: {value:.4f}" if isinstance(value, (int, float)) else f"{name}: {value}")
