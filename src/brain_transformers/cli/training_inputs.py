"""What `pretrain` and `finetune` share: flags of training arguments, datasets, checkpoints, results."""

import argparse
import difflib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

TRAIN_SPLIT, EVAL_SPLIT = "train", "validation"


class TrainingCommandParser(argparse.ArgumentParser):
    """A parser that takes all flags of a class of training arguments too, and leaves those that are set.

    The class may depend on some options, so these are looked at first. It takes seconds to import, so that happens
    only when this command is used or its help is shown. Errors are one line. `training_flags` of what is parsed holds
    the training arguments on the command line and no defaults.

    Args:
        load_arguments_class: takes the values of `selectors` (`None` where absent), imports and returns the class;
            `None`, for help without a model, if it depends on it.
        explain_flag: what to say about a flag that the class does not have, if there is more to say; takes the flag
            and the values of `selectors`.
        selectors: options that decide on the class, `--model` first.
        kwargs: for `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *,
        load_arguments_class: Callable[..., Any],
        explain_flag: Callable[..., str | None] = lambda flag, *values: None,
        selectors: Sequence[str] = ("--model",),
        **kwargs: Any,
    ):
        # Shortened names could mean a flag of either set.
        super().__init__(allow_abbrev=False, **kwargs)
        self._load_arguments_class = load_arguments_class
        self._explain_flag = explain_flag
        self._selectors = selectors
        self._selected: list[str | None] = [None] * len(selectors)

    def _training_parser(self) -> argparse.ArgumentParser | None:
        try:
            arguments_class = self._load_arguments_class(*self._selected)
        except (ValueError, ImportError) as error:
            self.error(str(error))
        if arguments_class is None:
            return None
        from transformers import HfArgumentParser

        fail = self.error

        class Flags(HfArgumentParser):
            def error(self, message: str) -> NoReturn:
                fail(message)

        return Flags(arguments_class, prog=self.prog, add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command's own arguments, then the training arguments among the rest."""
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        names = [first.add_argument(option, nargs="?").dest for option in self._selectors]
        early = first.parse_known_args(args)[0]  # `--help` may stand before them
        self._selected = [getattr(early, name) for name in names]
        parsed, rest = super().parse_known_args(args, namespace)
        training = self._training_parser()
        assert training is not None  # there is a model
        for action in training._actions:
            action.default = argparse.SUPPRESS
        flags, unknown = training.parse_known_args(rest)
        if unknown:
            self._refuse(unknown, [*self._option_string_actions, *training._option_string_actions])
        if "resume_from_checkpoint" in flags:
            self.error(
                "--resume_from_checkpoint: the command finds the last complete checkpoint itself. Pass --resume"
            )
        parsed.training_flags = vars(flags)
        return parsed, []

    def _refuse(self, unknown: Sequence[str], known: Sequence[str]) -> NoReturn:
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"unexpected {flag!r}")
        reason = self._explain_flag(flag, *self._selected) or f"there is no flag {flag} for {self._selected[0]}"
        similar = difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
        self.error(reason + (f"; did you mean {similar[0]}?" if similar else ""))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and leave."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def format_help(self) -> str:
        """Help of the command, then that of the training arguments."""
        training = self._training_parser()
        if training is None:
            return (
                f"{super().format_help()}\ntraining arguments:\n  They depend on the model: "
                f"{self.prog} --model NAME --help\n"
            )
        return (
            f"{super().format_help()}\ntraining arguments:\n{training.format_help().strip().partition(chr(10))[2]}\n"
        )


def add_training_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    load_arguments_class: Callable[..., Any],
    *,
    help: str,
    description: str,
    explain_flag: Callable[..., str | None] = lambda flag, *values: None,
    selectors: Sequence[str] = ("--model",),
) -> argparse.ArgumentParser:
    """Add a command that takes training arguments, with the flags that every such command has."""
    listed = subparsers.add_parser(name, help=help)
    parser = TrainingCommandParser(
        load_arguments_class=load_arguments_class,
        explain_flag=explain_flag,
        selectors=selectors,
        prog=listed.prog,
        description=f"{description} Every flag of transformers' TrainingArguments works here too.",
    )
    subparsers.choices[name] = parser
    parser.add_argument("--dataset", type=Path, required=True, help="folder that `brain-transformers prepare` wrote")
    parser.add_argument(
        "--output", "--output_dir", "--output-dir", dest="output", type=Path, required=True, help="folder of the run"
    )
    parser.add_argument(
        "--train-split",
        default=TRAIN_SPLIT,
        help=f"split to train on, where there are several (default {TRAIN_SPLIT})",
    )
    parser.add_argument(
        "--eval-split",
        default=EVAL_SPLIT,
        help=f"split to evaluate on, where there are several (default {EVAL_SPLIT})",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="fields of the configuration of a new model, such as hidden_size=128",
    )
    parser.add_argument(
        "--normalization",
        help="scale of the inputs of a new model; by default that of its family (BrainLM robust, Brain-JEPA "
        "zscore-scan, Brain-Semantoks zscore). Brain-JEPA's authors pretrained with robust-means, for scans whose "
        "parcels keep their own level",
    )
    parser.add_argument(
        "--coordinates", type=Path, help="BrainLM: table of parcel centres (index, X, Y, Z in mm MNI), where unknown"
    )
    parser.add_argument(
        "--gradients",
        type=Path,
        help="a new Brain-JEPA: table of functional gradients (.npy or text, a row a parcel); by default ours for "
        "Schaefer-400 and Tian S3 parcels, and computed from the training scans for others",
    )
    parser.add_argument(
        "--networks",
        type=Path,
        help="a new Brain-Semantoks: text file with the network of each parcel, a name or number a line, where the "
        "names of the parcels do not tell",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint, if any")
    return parser


def _load(folder: Path) -> Any:
    """A saved dataset, or several by name, in numpy format."""
    from ..optional import require

    require("datasets", extra="data", purpose="reading datasets")
    from ..data.builders import load_dataset

    if not ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        raise FileNotFoundError(
            f"{folder} holds no saved dataset. Write one with `brain-transformers prepare SCANS --output {folder}`."
        )
    return load_dataset(folder)


def load_splits(folder: Path, train_split: str, eval_split: str) -> tuple[Any, Any]:
    """Training rows and evaluation rows (or `None`) of a saved dataset, in numpy format.

    Raises:
        FileNotFoundError: if `folder` does not exist or holds no dataset.
        ValueError: if the training split is missing or empty.
    """
    loaded = _load(folder)
    if isinstance(loaded, dict):
        if train_split not in loaded:
            raise ValueError(
                f"{folder} has no split {train_split!r}, only {sorted(loaded)}. Choose one with --train-split."
            )
        train, evaluation = loaded[train_split], loaded.get(eval_split)
    else:
        train, evaluation = loaded, None
    if not len(train):
        raise ValueError(f"{folder} has no rows to train on.")
    return train, evaluation


def load_joined(folder: Path) -> Any:
    """All rows of a saved dataset, in numpy format: those of its splits one after another.

    Raises:
        FileNotFoundError: if `folder` does not exist or holds no dataset.
        ValueError: if there are no rows.
    """
    loaded = _load(folder)
    if isinstance(loaded, dict):
        import datasets

        loaded = datasets.concatenate_datasets(list(loaded.values())).with_format("numpy")
    if not len(loaded):
        raise ValueError(f"{folder} has no rows to train on.")
    return loaded


def column(rows: Any, name: str) -> list[Any]:
    """A column as Python values, of exactly these rows."""
    return list(rows.with_format(None).select_columns([name])[name])


def resume_point(output: Path, resume: bool, world_size: int) -> str | None:
    """The checkpoint to go on from, or `None` to start anew; says which.

    Raises:
        FileExistsError: if the folder holds checkpoints and `resume` is false.
    """
    from ..training.checkpoints import last_complete_checkpoint

    checkpoint = last_complete_checkpoint(output, world_size)
    if checkpoint is not None and not resume:
        raise FileExistsError(
            f"{output} holds checkpoints of an earlier run. Pass --resume to go on from {Path(checkpoint).name}, or "
            "choose another --output."
        )
    if resume:
        print(f"going on from {checkpoint}" if checkpoint else f"no complete checkpoint in {output}: starting anew")
    return checkpoint


# Flags that change neither the numbers of a run nor what is trained.
_HOW_ONLY = (
    "logging",
    "save",
    "eval",
    "report",
    "dataloader_num",
    "dataloader_pin",
    "disable_tqdm",
    "log_",
    "run_name",
)


def settle_run(
    output: Path, checkpoint: str | None, settings: dict[str, Any], flags: dict[str, Any], rows: Any, writes: bool
) -> None:
    """Keep what a run is made of beside its checkpoints, or see that a run that goes on is the same as before.

    Other flags of training are said, since training then goes on, but not to the numbers of an uninterrupted run.

    Args:
        output: folder of the run.
        checkpoint: where it goes on from, or `None`.
        settings: what must not differ: model, label and so on.
        flags: training arguments on the command line.
        rows: training rows.
        writes: whether this process writes.

    Raises:
        ValueError: if the earlier run was another one.
    """
    path = output / "run_settings.json"
    kept = {name: str(value) for name, value in flags.items() if not name.startswith(_HOW_ONLY)}
    now = {**settings, "training scans": _digest_of_rows(rows), "flags": kept}
    if checkpoint is not None and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in now if name != "flags" and now[name] != before.get(name)]
        if changed:
            what = "; ".join(f"{name}: {before.get(name)} then, {now[name]} now" for name in changed)
            raise ValueError(
                f"{output} holds checkpoints of another run ({what}). Choose another --output, or call with what it "
                "was started with."
            )
        flags_before = before.get("flags", {})
        for name in sorted({*kept, *flags_before}):
            if kept.get(name) != flags_before.get(name):
                print(
                    f"warning: --{name} was {flags_before.get(name, 'not given')} and is "
                    f"{kept.get(name, 'not given')} now, so the numbers will not be those of an uninterrupted run"
                )
    if writes:
        output.mkdir(parents=True, exist_ok=True)
        _write_json(path, now)


def _digest_of_rows(rows: Any) -> str:
    """Digest of which scans these are, without their values."""
    names = ("source_file", "subject", "session", "run", "n_timepoints", "n_rois", "roi_order", "t_r")
    known = [column(rows, name) for name in names if name in rows.column_names]
    return hashlib.sha256(json.dumps(known, default=str).encode()).hexdigest()[:16]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    from ..plotting.report import write_atomically

    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_results(output: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics.json` so that it is whole or absent, and print the scores."""
    _write_json(output / "metrics.json", metrics)
    for name, value in metrics.items():
        if name == "train_loss" or (name.startswith("eval_") and "runtime" not in name and "per_second" not in name):
            print(f"{name}: {value:.4f}")
