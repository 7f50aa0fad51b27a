"""Short runs of self-distillation; run as a script, it is what `torchrun` starts in processes of its own."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from process_group import leave_process_group
from transformers import AutoModelForPreTraining, set_seed

import brain_transformers as bt


def make_model(**overrides: Any) -> Any:
    """A model with the same random weights at every call."""
    set_seed(0)
    return AutoModelForPreTraining.from_config(bt.load_config("brain-semantoks-tiny", **overrides))


def make_scans(n_scans: int, seed: int = 0, n_timepoints: int = 70) -> list[dict[str, Any]]:
    """Rows of a scan dataset: smooth series that differ between scans."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n_scans):
        mixing = rng.standard_normal((20, 6))
        sources = rng.standard_normal((6, n_timepoints + 4))
        sources = sum(sources[:, lag : lag + n_timepoints] for lag in range(5))
        signals = (mixing @ sources + 0.3 * rng.standard_normal((20, n_timepoints))).astype(np.float32)
        sizes = {"n_rois": 20, "n_timepoints": n_timepoints, "t_r": 2.0}
        rows.append({"signals": signals.reshape(-1), **sizes, "subject": str(number)})
    return rows


def make_arguments(output_dir: Path | str, **overrides: Any) -> bt.SelfDistillationTrainingArguments:
    """Arguments of a short, quiet run on the CPU."""
    values: dict[str, Any] = {
        "use_cpu": True,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 2e-3,
        "warmup_epochs": 0.0,
        "network_loss_decay_epochs": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return bt.SelfDistillationTrainingArguments(output_dir=str(output_dir), **{**values, **overrides})


def make_trainer(
    output_dir: Path, *, scans: int = 12, eval_scans: int = 8, model: Any = None, **values: Any
) -> bt.SelfDistillationTrainer:
    """A trainer on scans, with the extractor of the model."""
    model = make_model() if model is None else model
    return bt.SelfDistillationTrainer(
        model,
        make_arguments(output_dir, **values),
        train_dataset=make_scans(scans),
        eval_dataset=make_scans(eval_scans, seed=5),
        processing_class=bt.ROISeriesFeatureExtractor.from_model_config(model.config),
    )


def train(output_dir: Path, *, resume: str | None = None, **options: Any) -> bt.SelfDistillationTrainer:
    """One run; returns its trainer."""
    trainer = make_trainer(output_dir, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those of the teacher included."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def logged(trainer: Any, name: str) -> list[float]:
    """Values of one quantity in the order in which they were logged."""
    return [line[name] for line in trainer.state.log_history if name in line]


def main() -> None:
    """Train as told and leave weights and losses in the output folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arguments", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(1)
    trainer = train(options.output, **options.arguments)
    results = {
        "losses": logged(trainer, "loss"),
        "cls_losses": logged(trainer, "cls_loss"),
        "eval_loss": trainer.evaluate()["eval_loss"],
        "world_size": trainer.args.world_size,
    }
    if trainer.is_world_process_zero():
        torch.save(state_of(trainer.model), options.output / "weights.pt")
        (options.output / "results.json").write_text(json.dumps(results))
    leave_process_group()


if __name__ == "__main__":
    sys.exit(main())
