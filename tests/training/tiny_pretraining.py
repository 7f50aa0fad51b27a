"""Small models, data with structure and short runs for the tests of training.

Run as a script, it is what `torchrun` and the kill test start in processes of their own.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from process_group import leave_process_group
from transformers import AutoModelForPreTraining, TrainerCallback, set_seed

import brain_transformers
from brain_transformers.training import MAETrainer, MAETrainingArguments

FAMILIES = {
    "brainlm-tiny": {"n_rois": 12},
    # A square of 4 x 4 patches, of which the border ones hold few or no entries: masks differ in size between samples.
    "brainlm-vit-tiny": {"n_rois": 24, "image_size": 64},
}


def make_model(family: str = "brainlm-tiny", dropout: float = 0.0, **overrides: Any) -> Any:
    """A model with the same random weights at every call."""
    values = {**FAMILIES[family], **overrides}
    if family == "brainlm-tiny":
        values["embedding_dropout"] = dropout
    else:
        values["attention_probs_dropout_prob"] = dropout
    set_seed(0)
    return AutoModelForPreTraining.from_config(brain_transformers.load_config(family, **values))


def make_signals(n_scans: int, n_rois: int, n_timepoints: int, seed: int = 0) -> np.ndarray:
    """Scans in which ROIs share slow time courses, as with a global signal, so that visible ones tell hidden ones."""
    rng = np.random.default_rng(seed)
    mixing = np.abs(np.random.default_rng(99).normal(size=(n_rois, 3))) + 0.3
    courses = rng.normal(size=(n_scans, 3, n_timepoints))
    for time_point in range(1, n_timepoints):
        courses[:, :, time_point] += 0.8 * courses[:, :, time_point - 1]
    signals = mixing @ courses + 0.3 * rng.normal(size=(n_scans, n_rois, n_timepoints))
    return (signals / signals.std()).astype(np.float32)


def make_windows(n_rows: int, family: str = "brainlm-tiny", seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Rows that hold fixed windows as arrays."""
    n_rois = FAMILIES[family]["n_rois"]
    coordinates = np.random.default_rng(1).normal(size=(n_rois, 3)).astype(np.float32)
    coordinates = coordinates[np.argsort(coordinates[:, 1])]
    return [{"signals": signals, "coordinates": coordinates} for signals in make_signals(n_rows, n_rois, 40, seed)]


def make_scans(n_rows: int, n_rois: int = 12, seed: int = 0, **columns: Any) -> list[dict[str, Any]]:
    """Rows of a scan dataset: longer than a window, flat, with their repetition time."""
    return [
        {
            "signals": signals.reshape(-1),
            "n_rois": n_rois,
            "n_timepoints": 100,
            "t_r": 0.735,
            "roi_order": "",
            **{name: values[number] for name, values in columns.items()},
        }
        for number, signals in enumerate(make_signals(n_rows, n_rois, 100, seed))
    ]


def make_arguments(output_dir: Path | str, **overrides: Any) -> MAETrainingArguments:
    """Arguments of a short, quiet run on the CPU."""
    values: dict[str, Any] = {
        "use_cpu": True,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return MAETrainingArguments(output_dir=str(output_dir), **{**values, **overrides})


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def logged(trainer: MAETrainer, name: str) -> list[float]:
    """Values of one quantity in the order in which they were logged."""
    return [line[name] for line in trainer.state.log_history if name in line]


class _Slow(TrainerCallback):
    """Leaves time to kill the run between two steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print(f"step {state.global_step}", flush=True)
        time.sleep(0.25)


def main() -> None:
    """Train as told and leave parameters and metrics in the output folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--family", default="brainlm-tiny")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--arguments", type=json.loads, default={})
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--resume", help="after the run, resume from this checkpoint in a second one")
    parser.add_argument("--spoiled-row", type=int, help="training row that holds an infinite value")
    options = parser.parse_args()
    rows = make_windows(12, options.family)
    if options.spoiled_row is not None:
        rows[options.spoiled_row]["signals"][0, 0] = np.inf

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    results: dict[str, Any] = {}
    for name in ("straight", "resumed") if options.resume else ("straight",):
        trainer = MAETrainer(
            make_model(options.family, options.dropout),
            make_arguments(options.output, **options.arguments),
            train_dataset=rows,
            eval_dataset=make_windows(7, options.family, seed=5),
            callbacks=[_Slow()] if options.slow else [],
        )
        trainer.train(resume_from_checkpoint=str(options.output / options.resume) if name == "resumed" else None)
        results[name] = {"metrics": trainer.evaluate(), "losses": logged(trainer, "loss")}
        if trainer.is_world_process_zero():
            torch.save(parameters_of(trainer.model), options.output / f"{name}.pt")
    results["world_size"] = trainer.args.world_size
    if trainer.is_world_process_zero():
        (options.output / "results.json").write_text(json.dumps(results))
    leave_process_group()


if __name__ == "__main__":
    sys.exit(main())
