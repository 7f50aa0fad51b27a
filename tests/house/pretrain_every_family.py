"""Two steps of pretraining of every family; run as a script, two processes share them."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

import torch
from model_checks import CASES, ModelCase, no_dropout
from process_group import leave_process_group
from transformers import set_seed

from brain_transformers.training.objectives import OBJECTIVES


def pretrain(case: ModelCase, folder: Path, batch_size: int, accumulation: int = 2) -> dict[str, torch.Tensor]:
    """The weights after two steps of plain gradient descent on made-up scans, by the Trainer of the objective."""
    folder.mkdir(parents=True, exist_ok=True)
    model, processor, rows = case.with_scans("ForMaskedModeling", folder, **no_dropout(case))
    objective = OBJECTIVES[model.config.family.objective]
    arguments = objective.arguments_class(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        optim="sgd",
        learning_rate=0.05,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    set_seed(0)
    trainer = objective.trainer_class(model, arguments, train_dataset=2 * rows, processing_class=processor)
    trainer.train()
    assert trainer.args.world_size == int(os.environ.get("WORLD_SIZE", "1"))
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def share(rank: int, folder: Path) -> None:
    """What each of two processes does: train every family; the first one leaves the weights in the folder."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for case in CASES:
        weights = pretrain(case, folder / f"{case.name}-{rank}", batch_size=1)
        if rank == 0:
            torch.save(weights, folder / f"{case.name}.pt")
    leave_process_group()


if __name__ == "__main__":
    # Forked, so that they find the imports done.
    torch.multiprocessing.start_processes(share, (Path(sys.argv[1]),), nprocs=2, start_method="fork")
