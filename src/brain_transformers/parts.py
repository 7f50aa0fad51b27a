"""Long work in parts, so that whatever is killed goes on where it stopped, and in shards, one a job of an array.

A leaf, as `files.py` is: standard library only.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import StrPath, bind, digest, listed, to_json, write_file

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a work, counted from 1; what is in it follows from these two numbers alone."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `I/N`, or `slurm`: the place of this job in its array, which has to be the whole array.

        Raises:
            ValueError: if it is neither.
        """
        if text == "slurm":
            names = ("ID", "MIN", "COUNT")
            found = [os.environ.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names]
            step = os.environ.get("SLURM_ARRAY_TASK_STEP") or "1"
            if not all(value.isdigit() for value in (*found, step)):
                raise ValueError(
                    "--shard slurm: this is no job of an array (SLURM_ARRAY_TASK_ID, _MIN and _COUNT are not set). "
                    "Submit it with sbatch --array, or give --shard I/N."
                )
            place, first, count = map(int, found)
            return cls((place - first) // max(int(step), 1) + 1, count)
        numbers = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if numbers is None or not 1 <= int(numbers[1]) <= int(numbers[2]):
            raise ValueError(
                f"--shard {text}: expected I/N with I from 1 to N, such as 1/10, ..., 10/10, or slurm in a job array."
            )
        return cls(int(numbers[1]), int(numbers[2]))

    def share(self, total: int) -> range:
        """Which of `total` things are its own: neighbours, so that all shards in order are all things in order."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


class Parts:
    """Numbered files of one work in a folder, each with a marker beside it, without which it counts as not there.

    Markers hold the digest of their file and of the settings that the folder was bound to, so that neither damage nor
    other settings get into what is joined. Several processes may write to one folder, each its own numbers.

    Args:
        folder: made when it is first written to.
        count: how many parts there are.
        suffix: of the files, such as `".parquet"`.
        name: what they are called; shards say how many there are.
    """

    def __init__(self, folder: StrPath, count: int, suffix: str, *, name: str = "part") -> None:
        self.folder, self.count = Path(folder), count
        ending = f"-of-{count:05d}" if name == "shard" else ""
        first = 1 if name == "shard" else 0
        self._stems = [f"{name}-{number + first:05d}{ending}" for number in range(count)]
        self._suffix, self._name, self._settings = suffix, name, ""

    def path(self, number: int) -> Path:
        """The file of a part, counted from 0."""
        return self.folder / f"{self._stems[number]}{self._suffix}"

    def _marker(self, number: int) -> Path:
        return self.folder / f"{self._stems[number]}.json"

    def parts_of(self, number: int, count: int) -> "Parts":
        """The parts that one of these is made of, kept beside it until it is whole."""
        return Parts(self.folder / f".{self._stems[number]}.parts", count, self._suffix)

    def bind(self, settings: Mapping[str, Any], *, what: str, fix: str, overwrite: bool = False) -> None:
        """See that parts that are there were made with these settings, or make the folder theirs.

        Args:
            settings: whatever the parts follow from.
            what: what the folder holds, for the error.
            fix: what the user can do, as a sentence.
            overwrite: remove parts of other settings instead of refusing them.

        Raises:
            OtherSettingsError: if there are parts of other settings.
        """
        try:
            bind(self.folder / _SETTINGS, settings, what=what, fix=fix)
        except ValueError:
            begun = [*self.folder.glob(f"{self._name}-*.json"), *self.folder.glob(f".{self._name}-*/*")]
            if begun and not overwrite:
                raise
            self.remove()
            bind(self.folder / _SETTINGS, settings, what=what, fix=fix)
        self._settings = digest(json.loads(json.dumps(settings, default=str)))

    def write(self, number: int, write: Callable[[Path], Any], **told: Any) -> None:
        """Write a part with `write`, which has to leave its file whole or as it was, and its marker after it.

        Args:
            told: what the marker says besides, for [`read`](Parts.read).
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.path(number))
        said = {"file": file_digest(self.path(number)), "settings": self._settings, **told}
        write_file(self._marker(number), to_json(said))

    def read(self, number: int) -> dict[str, Any] | None:
        """What the marker of a part says, `None` if it is to be made: missing, damaged or of other settings."""
        path, marker = self.path(number), self._marker(number)
        if not (path.is_file() and marker.is_file()):
            return None
        try:
            said = dict(json.loads(marker.read_text(encoding="utf-8")))
            wrong = "of other settings" if said["settings"] != self._settings else ""
            wrong = wrong or ("damaged" if said["file"] != file_digest(path) else "")
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            wrong = "damaged"
        if wrong:
            print(f"{path} is {wrong} and made again")
            return None
        return said

    def all_of(self) -> list[dict[str, Any]]:
        """What all markers say.

        Raises:
            ValueError: if parts are missing; the message names them.
        """
        said = [self.read(number) for number in range(self.count)]
        missing = [f"{number + 1}/{self.count}" for number, one in enumerate(said) if one is None]
        if missing:
            raise ValueError(
                f"{self.folder}: {len(missing)} of {self.count} {self._name}s are not there yet "
                f"({listed(missing, 10)}). Run the same command with each of them as --shard, and then with --merge."
            )
        return [one for one in said if one is not None]

    def remove(self) -> None:
        """Remove what this class wrote into the folder, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        for item in self.folder.iterdir():
            if f"{self._name}-" in item.name and item.is_dir() and not item.is_symlink():
                shutil.rmtree(item, ignore_errors=True)  # the parts of a shard
            elif item.is_file() and re.search(rf"{self._name}-|{_SETTINGS}", item.name) and item.suffix != ".lock":
                item.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def shards_beside(output: StrPath, suffix: str, count: int | None = None) -> Parts:
    """The shards of what is to be written to `output`, in a folder beside it; by default as many as were begun.

    Raises:
        ValueError: if none were begun.
    """
    folder = Path(f"{os.fspath(output).rstrip('/')}.shards")
    if count is None:
        try:
            count = int(json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))["shards"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{folder}: there are no shards to join ({error}). Run the command with --shard I/N for each I first."
            ) from error
    return Parts(folder, count, suffix, name="shard")


def file_digest(path: StrPath) -> str:
    """SHA-256 of a file, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
