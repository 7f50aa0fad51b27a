"""Finding the checkpoint to resume from after a run was killed."""

import json
import re
from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)

_NAME = re.compile(r"^checkpoint-(\d+)$")


def missing_from_checkpoint(checkpoint: str | Path, world_size: int = 1) -> list[str]:
    """What a checkpoint of the Trainer lacks for a resume that continues bit for bit; empty if it is complete.

    The Trainer writes `trainer_state.json` last, so a run that is killed while it saves leaves a folder without one.

    Args:
        checkpoint: a `checkpoint-N` folder.
        world_size: number of processes; each has its own file of generator states.
    """
    folder = Path(checkpoint)
    missing = [name for name in ("optimizer.pt", "scheduler.pt") if not (folder / name).is_file()]
    if world_size <= 1:
        states = ["rng_state.pth"]
    else:
        states = [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing += [name for name in states if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    try:
        json.loads((folder / "trainer_state.json").read_text())
    except (OSError, ValueError):
        missing.append("trainer_state.json")
    return missing


def last_complete_checkpoint(output_dir: str | Path, world_size: int = 1) -> str | None:
    """The newest checkpoint in `output_dir` that was written to the end, or `None`.

    Newer ones that a kill cut short are named in a warning and left where they are; the run overwrites them when it
    gets there again.

    Args:
        output_dir: folder of the run.
        world_size: number of processes.
    """
    folder = Path(output_dir)
    numbered = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match and path.is_dir():
            numbered.append((int(match.group(1)), path))
    for _, path in sorted(numbered, reverse=True):
        missing = missing_from_checkpoint(path, world_size)
        if not missing:
            return str(path)
        logger.warning(f"{path} is incomplete (lacks {', '.join(missing)}) and is passed over.")
    return None
