"""What `pretrain` and `finetune` share: flags of training arguments, datasets, models that fit them, results."""

import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OWN_FIELDS = ("output_dir", "debug", "resume_from_checkpoint")


class TrainingCommandParser(argparse.ArgumentParser):
    """A parser that takes all flags of a class of training arguments too, and leaves them in `training_flags`.

    The class takes seconds to import, so that happens only when this command is used or its help is shown.

    Args:
        load_arguments_class: imports and returns the class.
        kwargs: for `argparse.ArgumentParser`.
    """

    def __init__(self, *, load_arguments_class: Callable[[], Any], **kwargs: Any):
        # Shortened names could mean a flag of either set.
        super().__init__(allow_abbrev=False, **kwargs)
        self._load_arguments_class = load_arguments_class

    def _training_parser(self) -> argparse.ArgumentParser:
        from transformers import HfArgumentParser

        return HfArgumentParser(
            self._load_arguments_class(), prog=self.prog, add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command's own arguments, then the training arguments among the rest."""
        parsed, rest = super().parse_known_args(args, namespace)
        flags, unknown = self._training_parser().parse_known_args(rest)
        parsed.training_flags = {name: value for name, value in vars(flags).items() if name not in _OWN_FIELDS}
        return parsed, unknown

    def format_help(self) -> str:
        """Help of the command, then that of the training arguments."""
        training = self._training_parser().format_help().strip()
        return f"{super().format_help()}\ntraining arguments:\n{training.partition(chr(10))[2]}\n"


def add_training_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    load_arguments_class: Callable[[], Any],
    *,
    help: str,
    description: str,
) -> argparse.ArgumentParser:
    """Add a command that takes training arguments, with the flags that every such command has."""
    listed = subparsers.add_parser(name, help=help)
    parser = TrainingCommandParser(
        load_arguments_class=load_arguments_class,
        prog=listed.prog,
        description=f"{description} Every flag of transformers' TrainingArguments works here too.",
    )
    subparsers.choices[name] = parser
    parser.add_argument("--dataset", type=Path, required=True, help="folder that `brain-transformers prepare` wrote")
    parser.add_argument(
        "--output", "--output_dir", "--output-dir", dest="output", type=Path, required=True, help="folder of the run"
    )
    parser.add_argument("--train-split", default="train", help="split to train on, where there are several")
    parser.add_argument(
        "--eval-split", default="validation", help="split to evaluate on, where there are several (default validation)"
    )
    parser.add_argument("--coordinates", type=Path, help="table of parcel centres (index, X, Y, Z in mm MNI)")
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="fields of the configuration of a new model, such as hidden_size=128",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last complete checkpoint, if any")
    return parser


def load_splits(folder: Path, train_split: str, eval_split: str) -> tuple[Any, Any]:
    """Training rows and evaluation rows (or `None`) of a saved dataset, in numpy format.

    Raises:
        FileNotFoundError: if `folder` does not exist or holds no dataset.
        ValueError: if the training split is missing or empty.
    """
    from ..optional import require

    require("datasets", extra="data", purpose="reading datasets")
    from ..data.builders import load_dataset

    if not ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
        raise FileNotFoundError(
            f"{folder} holds no saved dataset. Write one with `brain-transformers prepare SCANS --output {folder}`."
        )
    loaded = load_dataset(folder)
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


def _parse_overrides(pairs: list[str]) -> dict[str, Any]:
    overrides = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"Expected --config NAME=VALUE, got {pair!r}.")
        try:
            overrides[name] = json.loads(value)
        except json.JSONDecodeError:
            overrides[name] = value
    return overrides


def make_config(name: str, pairs: list[str], rows: Any) -> Any:
    """Configuration of a new model that fits the rows of a dataset.

    Parcels and repetition time are those of the rows, unless `pairs` say otherwise; what differs from the named
    configuration is printed.
    """
    from ..hub.registry import load_config
    from ..processing.roi_orders import resolve_roi_order

    chosen = _parse_overrides(pairs)
    config, row = load_config(name, **chosen), rows[0]
    found: dict[str, Any] = {"n_rois": int(row["n_rois"])}
    if row["roi_order"] and config.roi_order is not None:
        order = resolve_roi_order(str(row["roi_order"]))
        sorted_rows = isinstance(config.roi_order, str) and config.roi_order.endswith("@y")
        found["roi_order"] = list(order.labels) if order.name is None else order.name
        if sorted_rows and isinstance(found["roi_order"], str) and not found["roi_order"].endswith("@y"):
            found["roi_order"] += "@y"
    if row["t_r"] is not None and math.isfinite(row["t_r"]):
        found["t_r"] = float(row["t_r"])
    changed = {key: value for key, value in found.items() if key not in chosen and getattr(config, key) != value}
    for key, value in changed.items():
        shown = f"a list of {len(value)} labels" if isinstance(value, list) else value
        print(f"{key}: {shown}, as in the dataset ({name} has {getattr(config, key)})")
    return load_config(name, **{**chosen, **changed})


def make_extractor(config: Any, rows: Any, coordinates: Path | None) -> Any:
    """Feature extractor for a new model, with its scale fitted on the training rows where it needs that.

    Raises:
        ValueError: if rows have to be sorted by centres that nobody knows.
    """
    from ..data.readers import read_coordinates
    from ..processing.feature_extraction_roi_series import ROISeriesFeatureExtractor

    table = None if coordinates is None else read_coordinates(coordinates, n_rois=config.n_rois)
    extractor = ROISeriesFeatureExtractor.from_model_config(config, coordinates=table)
    sorted_already = str(rows[0]["roi_order"]).endswith("@y")
    if extractor.sort_rows == "y" and not sorted_already and known_coordinates(extractor) is None:
        raise ValueError(
            f"{config.model_type} takes parcels sorted from back to front, and no centres are known for this order. "
            "Pass --coordinates TABLE with columns index, X, Y, Z in mm MNI."
        )
    if not extractor.is_fitted:
        extractor.fit(rows)
        print(f"scale fitted on the {len(rows)} scans of the training set")
    return extractor


def known_coordinates(extractor: Any) -> Any:
    """Parcel centres `(n_rois, 3)` in mm that the extractor holds or that belong to its order, or `None`."""
    from ..processing.roi_orders import roi_coordinates

    if extractor.coordinates is not None or extractor.roi_order is None:
        return extractor.coordinates
    return roi_coordinates(extractor.roi_order)


def store_coordinates(model: Any, extractor: Any, coordinates: Path | None) -> None:
    """Keep the parcel centres of the training data in a model that needs them, so that it is complete when saved.

    Raises:
        ValueError: if the model needs them and nobody knows them.
    """
    body = model.base_model
    if not hasattr(body, "set_coordinates") or model.config.coordinates_source is not None:
        return
    table = known_coordinates(extractor)
    if table is None:
        raise ValueError(
            f"{type(model).__name__} needs the centre of every parcel, and none are known for this order. Pass "
            "--coordinates TABLE with columns index, X, Y, Z in mm MNI."
        )
    import numpy as np
    import torch

    source = "centres of the feature extractor" if coordinates is None else coordinates.name
    body.set_coordinates(torch.from_numpy(np.asarray(table, dtype=np.float32)), source=source)


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


def write_results(output: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics.json` so that it is whole or absent, and print the scores."""
    path = output / "metrics.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, path)
    for name, value in metrics.items():
        if name == "train_loss" or (name.startswith("eval_") and "runtime" not in name and "per_second" not in name):
            print(f"{name}: {value:.4f}")
