"""Checkpoints of a run: which are whole, and what a run that goes on needs beside what the Trainer writes."""

import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import logging

from .. import files

logger = logging.get_logger(__name__)

_NAME = re.compile(r"^checkpoint-(\d+)$")
RECORD = "brain_transformers_checkpoint.json"
"""Written last: sizes and checksums of the files of a checkpoint, and what the Trainer of transformers forgets."""
# Nothing goes on from these, so damage to them is no reason to go further back.
_NOT_NEEDED = {RECORD, "training_args.bin", "README.md"}


class DamagedCheckpointError(ValueError):
    """A checkpoint that nothing can go on from; the message says which file, and what to do."""


def open_record(checkpoint: str | Path) -> None:
    """Mark a checkpoint as unfinished until [`write_record`] closes it, so that a kill in between is seen."""
    files.write_file(Path(checkpoint) / RECORD, "{}\n")


def write_record(checkpoint: str | Path, content: Mapping[str, Any]) -> None:
    """Close a checkpoint that is complete."""
    folder = Path(checkpoint)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _NOT_NEEDED]
    paths = [path for path in paths if not path.name.startswith(".")]  # what a kill left of an earlier record
    sums = {path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)] for path in paths}
    record = {**content, "files": sums}
    files.write_file(folder / RECORD, json.dumps({**record, "digest": files.digest(record)}, indent=1) + "\n")


def read_record(checkpoint: str | Path) -> dict[str, Any]:
    """What [`write_record`] wrote; empty for a checkpoint of an earlier version.

    Raises:
        ValueError: if it is damaged.
    """
    path = Path(checkpoint) / RECORD
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.pop("digest", None) != files.digest(record):
        raise ValueError(f"{path} is damaged")
    return record


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def faults_of_checkpoint(checkpoint: str | Path, world_size: int = 1) -> list[str]:
    """What keeps a checkpoint from a resume that continues bit for bit; empty if it is whole.

    Files are compared with the sums that were taken when it was written. A checkpoint without them is of an earlier
    version; then each file must at least be readable. (The Trainer writes `trainer_state.json` last.)

    Args:
        checkpoint: a `checkpoint-N` folder.
        world_size: number of processes; each has its own file of generator states.

    Returns:
        Such as `["optimizer.pt is missing", "rng_state.pth is damaged"]`.
    """
    folder = Path(checkpoint)
    needed = ["trainer_state.json", "optimizer.pt", "scheduler.pt"]
    needed += ["rng_state.pth"] if world_size <= 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    try:
        sums = read_record(folder).get("files")
    except (OSError, ValueError, RecursionError):
        return [*(f"{name} is missing" for name in missing), f"{RECORD} is unfinished or damaged"]
    damaged = []
    if sums is None:
        present = [folder / name for name in needed if name not in missing]
        damaged = [path.name for path in (*present, *sorted(folder.glob("*.safetensors"))) if not _is_readable(path)]
    else:
        for name, (size, checksum) in sums.items():
            path = folder / name
            if not path.is_file():
                missing += [] if name in missing else [name]
            elif path.stat().st_size != size or _checksum(path) != checksum:
                damaged.append(name)
    return [*(f"{name} is missing" for name in missing), *(f"{name} is damaged" for name in damaged)]


def _is_readable(path: Path) -> bool:
    """Whether a file has the form of its kind; whatever a library finds wrong with it means no."""
    try:
        if path.suffix == ".json":
            state = json.loads(path.read_text(encoding="utf-8"))
            return isinstance(state, dict) and isinstance(state.get("global_step"), int)
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                return bool(tensors.keys())
        with zipfile.ZipFile(path) as archive:  # what torch.save writes
            return archive.testzip() is None
    except Exception as error:
        logger.info(f"{path} cannot be read: {error}")
        return False


def last_complete_checkpoint(output_dir: str | Path, world_size: int = 1) -> str | None:
    """The newest checkpoint in `output_dir` that is whole, or `None`.

    Newer ones that a kill cut short, or with a damaged file, are named in a warning and left where they are; the run
    overwrites them when it gets there again.
    """
    folder = Path(output_dir)
    numbered = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match and path.is_dir():
            numbered.append((int(match.group(1)), path))
    for _, path in sorted(numbered, reverse=True):
        faults = faults_of_checkpoint(path, world_size)
        if not faults:
            return str(path)
        logger.warning(f"{path} is not whole ({', '.join(faults)}) and is passed over.")
    return None
