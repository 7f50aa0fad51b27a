"""Short runs of latent prediction; run as a script, it is what `torchrun` starts in processes of its own."""

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
from tiny_pretraining import make_signals
from transformers import AutoModelForPreTraining, set_seed

import brain_transformers
from brain_transformers.training import JEPATrainer, JEPATrainingArguments


def make_model(dropout: float = 0.0, **overrides: Any) -> Any:
    """A model with the same random weights at every call."""
    set_seed(0)
    config = brain_transformers.load_config("brain-jepa-tiny", hidden_dropout_prob=dropout, **overrides)
    return AutoModelForPreTraining.from_config(config)


def make_rows(n_rows: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Rows that hold one window each."""
    return [{"signals": signals} for signals in make_signals(n_rows, 50, 40, seed)]


def make_arguments(output_dir: Path | str, **overrides: Any) -> JEPATrainingArguments:
    """Arguments of a short, quiet run on the CPU."""
    values: dict[str, Any] = {
        "use_cpu": True,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 2e-3,
        "target_momentum_start": 0.9,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return JEPATrainingArguments(output_dir=str(output_dir), **{**values, **overrides})


def train(
    output_dir: Path,
    *,
    dropout: float = 0.0,
    resume: str | None = None,
    rows: int = 12,
    eval_rows: int = 8,
    model: Any = None,
    **values: Any,
) -> JEPATrainer:
    """One run; returns its trainer."""
    trainer = JEPATrainer(
        make_model(dropout) if model is None else model,
        make_arguments(output_dir, **values),
        train_dataset=make_rows(rows),
        eval_dataset=make_rows(eval_rows, seed=5),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all parameters and buffers, those of the target included."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def logged(trainer: JEPATrainer, name: str) -> list[float]:
    """Values of one quantity in the order in which they were logged."""
    return [line[name] for line in trainer.state.log_history if name in line]


def main() -> None:
    """Train as told and leave weights and losses in the output folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--arguments", type=json.loads, default={})
    parser.add_argument("--resume", help="after the run, resume from this checkpoint in a second one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    results: dict[str, Any] = {}
    for name in ("straight", "resumed") if options.resume else ("straight",):
        resume = str(options.output / options.resume) if name == "resumed" else None
        trainer = train(options.output, resume=resume, **options.arguments)
        results[name] = {"losses": logged(trainer, "loss"), "eval_loss": trainer.evaluate()["eval_loss"]}
        if trainer.is_world_process_zero():
            torch.save(state_of(trainer.model), options.output / f"{name}.pt")
    results["world_size"] = trainer.args.world_size
    if trainer.is_world_process_zero():
        (options.output / "results.json").write_text(json.dumps(results))
    leave_process_group()


if __name__ == "__main__":
    sys.exit(main())
