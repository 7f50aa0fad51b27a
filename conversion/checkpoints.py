"""Reading the authors' checkpoints safely, and renaming their weights with a full account of every key."""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class ConversionError(ValueError):
    """The checkpoint is not what the converter expects; the message says what was expected, found, and the fix."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a [`ConversionError`] that names it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConversionError(
            f"{path} is missing. Expected the authors' folder with config.json and weights."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, expected a JSON object.")
    return content


def read_torch_checkpoint(path: Path) -> dict[str, Any]:
    """Load a `torch.save` file with `weights_only=True`, so that no code in it can run.

    Raises:
        ConversionError: if it is missing, truncated, or holds anything but tensors and plain containers.
    """
    if not path.is_file():
        raise ConversionError(f"{path} is missing. Expected the weights of the authors' folder.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} is not a plain file of tensors ({str(error).splitlines()[0]}). It is refused, since loading it "
            "could run code. Expected a state dict saved with torch.save."
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise ConversionError(
            f"{path} cannot be read ({str(error).splitlines()[0]}). It is truncated or corrupt: compare its size "
            "with the source and download it again."
        ) from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors.")
    return content


@dataclass
class KeyReport:
    """What became of the keys of a checkpoint."""

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{len(self.renamed)} tensors converted, {len(self.dropped)} dropped, {len(self.unknown)} unknown"]
        lines += [f"  dropped {key}: {reason}" for key, reason in self.dropped.items()]
        return "\n".join(lines)


class KeyMap:
    """Rules that turn the authors' names into ours.

    Args:
        rules: pairs of a regular expression that must match a whole key, and its replacement.
        fused: pairs of a pattern with one group `(query|key|value)` and the replacement of the fused tensor; the three
            are stacked in this order.
        dropped: pairs of a pattern and the reason why such a key is left out.
    """

    FUSED_ORDER = ("query", "key", "value")

    def __init__(
        self,
        rules: Iterable[tuple[str, str]],
        fused: Iterable[tuple[str, str]] = (),
        dropped: Iterable[tuple[str, str]] = (),
    ):
        self.rules = [(re.compile(pattern), target) for pattern, target in rules]
        self.fused = [(re.compile(pattern), target) for pattern, target in fused]
        self.dropped = [(re.compile(pattern), reason) for pattern, reason in dropped]

    def target_of(self, key: str) -> tuple[str, int | None] | None:
        """New name of a key, and its place (0, 1, 2) if it is part of a fused tensor; `None` if no rule matches."""
        for pattern, target in self.fused:
            if match := pattern.fullmatch(key):
                return match.expand(target), self.FUSED_ORDER.index(match["part"])
        for pattern, target in self.rules:
            if match := pattern.fullmatch(key):
                return match.expand(target), None
        return None

    def convert(self, state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], KeyReport]:
        """Rename, fuse and drop; nothing is guessed.

        Raises:
            ConversionError: if a key matches no rule, a value is not a tensor, or a fused tensor lacks a part.
        """
        report, converted = KeyReport(), {}
        parts: dict[str, dict[int, torch.Tensor]] = {}
        for key, value in state_dict.items():
            reason = next((reason for pattern, reason in self.dropped if pattern.fullmatch(key)), None)
            if reason is not None:
                report.dropped[key] = reason
                continue
            target = self.target_of(key)
            if target is None:
                report.unknown.append(key)
                continue
            if not isinstance(value, torch.Tensor):
                raise ConversionError(f"{key} holds a {type(value).__name__}, expected a tensor.")
            name, place = target
            report.renamed[key] = name
            if place is None:
                converted[name] = value
            else:
                parts.setdefault(name, {})[place] = value
        if report.unknown:
            shown = ", ".join(report.unknown[:5])
            raise ConversionError(
                f"{len(report.unknown)} keys of the checkpoint are unknown "
                f"({shown}{', ...' if len(report.unknown) > 5 else ''}). Expected only the keys of the published "
                "models: is this a file of another model or version?"
            )
        for name, places in parts.items():
            absent = [part for i, part in enumerate(self.FUSED_ORDER) if i not in places]
            if absent:
                raise ConversionError(f"The checkpoint lacks the {' and '.join(absent)} part of {name}.")
            converted[name] = torch.cat([places[i] for i in range(3)])
        return converted, report


def check_against_model(
    converted: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], allowed: set[str]
) -> None:
    """Compare names and shapes with those of the model that will hold the weights.

    Args:
        converted: converted state dict.
        expected: state dict of the model (may be on the meta device).
        allowed: names of the model that the checkpoint need not hold.

    Raises:
        ConversionError: listing what is missing, unexpected, or of another shape.
    """
    missing = sorted(set(expected) - set(converted) - allowed)
    unexpected = sorted(set(converted) - set(expected))
    shapes = [
        f"{name}: {tuple(converted[name].shape)} in the file, {tuple(expected[name].shape)} by its config"
        for name in sorted(set(expected) & set(converted))
        if converted[name].shape != expected[name].shape
    ]
    problems = []
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            problems.append(f"{len(names)} {title} ({'; '.join(names[:4])}{'; ...' if len(names) > 4 else ''})")
    if problems:
        raise ConversionError(
            f"Weights and config.json do not belong together: {', '.join(problems)}. "
            "Use the config.json that was published with these weights."
        )
