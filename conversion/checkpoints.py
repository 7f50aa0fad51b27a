"""Reading the authors' checkpoints safely, and renaming their weights with a full account of every key."""

import argparse
import hashlib
import json
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.torch_version import TorchVersion

import brain_transformers as bt
from brain_transformers.cli.failures import answer
from brain_transformers.hub.model_card import Provenance, build_model_card
from brain_transformers.hub.registry import MODELS
from brain_transformers.hub.sharing import check_repo_id, push_folder, save_model_folder
from brain_transformers.models.family import NamedModel


class ConversionError(ValueError):
    """The checkpoint is not what the converter expects; the message says what was expected, found, and the fix."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """The boundary of everything that reads or interprets bytes of others: whatever fails is a [`ConversionError`].

    Args:
        path: the file.
        expected: what it should hold, as words that fit after "Expected".

    Raises:
        ConversionError: naming the file, what was expected, what is wrong, and what to do.
    """
    try:
        yield
    except ConversionError as error:
        if str(path) in str(error):
            raise
        raise ConversionError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ConversionError(f"{path} is missing. Expected {expected}.") from error
    except Exception as error:  # the libraries below raise what they please on damaged files
        reason = " ".join(str(error).split())[:300]
        raise ConversionError(
            f"{path} cannot be read ({type(error).__name__}{f': {reason}' if reason else ''}). Expected {expected}. "
            "If it is truncated or corrupt, compare its size with the source and download it again."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a [`ConversionError`] that names it."""
    with reading(path, "the JSON object of the authors' folder, with the weights beside it"):
        content = json.loads(path.read_text(encoding="utf-8"))
    return _mapping(content, path, "a JSON object")


def _mapping(content: Any, path: Path, expected: str) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        found = "keys that are no text" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ConversionError(f"{path} holds {found}, expected {expected}.")
    return content


# Before it, a file that `weights_only=True` accepts could corrupt memory.
_SAFE_TORCH = "2.10"


def read_torch_checkpoint(path: Path) -> dict[str, Any]:
    """Load a `torch.save` file with `weights_only=True`, so that no code in it can run; there is no other way.

    Raises:
        ConversionError: if it is missing, truncated, or holds anything but tensors and plain containers; or if this
            PyTorch is too old to read files of others safely.
    """
    if TorchVersion(torch.__version__) < _SAFE_TORCH:
        raise ConversionError(
            f"PyTorch {torch.__version__} cannot read files of others safely (CVE-2026-24747: a prepared file "
            "corrupts memory, weights_only or not). Expected PyTorch 2.10 or newer: pip install 'torch>=2.10'. "
            "Converted models load with older ones too."
        )
    with reading(path, "the weights of the authors, saved with torch.save"):
        with path.open("rb") as file:
            first = file.read(2)
        if not first:
            raise ConversionError(f"{path} is empty. Download it again.")
        if first == b"PK":
            _check_claims(path)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # The words of torch end in the advice to switch the protection off.
            if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
                raise
            named = re.search(r"(?:GLOBAL|Unsupported (?:global|class|type)):? ?([\w.]+)", str(error))
            what = f"it names {named[1]}" if named else "it is no such file, or damaged"
            raise ConversionError(
                f"{path} is not a plain file of tensors ({what}). It is refused, since loading it could run code. "
                "Expected a state dict saved with torch.save: ask the source for one, or download it again."
            ) from None
    return _mapping(content, path, "a dictionary of tensors")


def _check_claims(path: Path) -> None:
    """Raise ConversionError if members of a zip file are said to be larger than the file; torch does not compress."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > path.stat().st_size:
        raise ConversionError(
            f"{path} claims to hold {claimed:,} bytes and has {path.stat().st_size:,}. Expected a file that "
            "torch.save wrote: download it again."
        )


def _check_tensor(key: str, value: Any) -> None:
    """Raise ConversionError for what is no dense tensor of sound numbers that the file really holds."""
    problem = None
    if not isinstance(value, torch.Tensor):
        problem = f"holds a {type(value).__name__}, expected a tensor"
    elif value.layout != torch.strided or value.is_quantized or value.is_complex():
        problem = "is sparse, quantized or complex, expected plain numbers"
    elif value.is_meta:  # names and shapes alone, as in tests of the published sizes
        return
    elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
        problem = f"claims the shape {tuple(value.shape)}, and the file holds fewer numbers than that"
    elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
        problem = "holds NaN or infinite numbers, which no trained model has"
    if problem:
        raise ConversionError(f"{key} {problem}. Download the file again, or ask the source for a sound one.")


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
            ConversionError: if a key matches no rule, two keys are the same tensor of the model, a value is not a
                tensor, or a fused tensor lacks a part.
        """
        report, converted = KeyReport(), {}
        parts: dict[str, dict[int, torch.Tensor]] = {}
        sources: dict[tuple[str, int | None], str] = {}
        for key, value in state_dict.items():
            if not isinstance(key, str):
                raise ConversionError(f"The checkpoint has the key {key!r}, expected names of tensors.")
            reason = next((reason for pattern, reason in self.dropped if pattern.fullmatch(key)), None)
            if reason is not None:
                report.dropped[key] = reason
                continue
            target = self.target_of(key)
            if target is None:
                report.unknown.append(key)
                continue
            _check_tensor(key, value)
            name, place = target
            if (earlier := sources.setdefault(target, key)) != key:
                raise ConversionError(
                    f"{earlier} and {key} of the checkpoint are both {name} of the model, and which is meant cannot "
                    "be told. Expected one of them: is this file put together from two?"
                )
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
        for name in converted.keys() & parts.keys():
            raise ConversionError(f"The checkpoint holds {name} of the model both fused and in parts; expected one.")
        for name, places in parts.items():
            absent = [part for i, part in enumerate(self.FUSED_ORDER) if i not in places]
            if absent:
                raise ConversionError(f"The checkpoint lacks the {' and '.join(absent)} part of {name}.")
            shapes = {tuple(part.shape) for part in places.values()}
            if len(shapes) > 1 or () in shapes:
                raise ConversionError(f"The parts of {name} have the shapes {sorted(shapes)}, expected three alike.")
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
    kinds = [
        f"{name}: {converted[name].dtype} in the file, {expected[name].dtype} in the model"
        for name in sorted(set(expected) & set(converted))
        if converted[name].is_floating_point() != expected[name].is_floating_point()
    ]
    problems = []
    for title, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", shapes),
        ("of another type", kinds),
    ):
        if names:
            problems.append(f"{len(names)} {title} ({'; '.join(names[:4])}{'; ...' if len(names) > 4 else ''})")
    if problems:
        raise ConversionError(
            f"Weights and config.json do not belong together: {', '.join(problems)}. "
            "Use the config.json that was published with these weights."
        )


def check_layers(config: Any, state_dict: dict[str, torch.Tensor]) -> None:
    """Raise ConversionError for more layers than there are tensors, before a model of so many is built."""
    for name in ("num_hidden_layers", "decoder_num_hidden_layers", "predictor_num_hidden_layers"):
        if getattr(config, name, 0) > len(state_dict):
            raise ConversionError(
                f"The configuration has {name} = {getattr(config, name):,}, and the file {len(state_dict)} tensors. "
                "They do not belong together: use the configuration that was published with these weights."
            )


def check_output(output: Path, *sources: Path | None) -> None:
    """Raise ConversionError where the result would come to lie among the authors' files, or over another model's.

    Args:
        output: folder to write.
        sources: the authors' files and folders that are read.
    """
    target = output.resolve()
    for source in sources:
        if source is not None and (source.resolve() == target or target in source.resolve().parents):
            raise ConversionError(
                f"--output {output} is the folder of the authors' files ({source}), whose config.json would be "
                "replaced. Name another folder."
            )
    if target.exists() and not target.is_dir():
        raise ConversionError(f"--output {output} is a file. Name a folder.")
    if list(target.glob("*.bin")) or ((target / "config.json").is_file() and not _is_ours(target / "config.json")):
        raise ConversionError(
            f"--output {output} holds a model that this package did not write, and it would be replaced. Name another "
            "folder."
        )


def _is_ours(config_file: Path) -> bool:
    """Whether a `config.json` is of this package, which always names its shim."""
    return "modeling_shim." in config_file.read_text(encoding="utf-8", errors="replace")


def name_by_size(config: Any) -> str | None:
    """Name of the published model that has the same sizes, if there is one. It says nothing about the weights."""
    geometry = ("n_rois", "n_timepoints", "patch_size")
    fields = ("model_type", *geometry, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    for name in bt.list_models(published=True):
        published = bt.load_config(name)
        if all(getattr(published, field, None) == getattr(config, field, None) for field in fields):
            return name
    return None


def save_converted(
    model_class: Any,
    config: Any,
    tensors: dict[str, torch.Tensor],
    output: Path,
    checkpoint: Path,
    *,
    extractor: Any,
    dropped: dict[str, str],
    notes: Iterable[str] = (),
    source: str | None = None,
    needs: tuple[str, str] | None = None,
) -> Any:
    """Put the tensors into a model, write its folder with a card, and return the model.

    Args:
        model_class, config: of the model.
        tensors: one for every weight and buffer that is saved; copied as float32, so that none shares storage.
        output: folder to write; appears complete or not at all.
        checkpoint: the authors' file, whose hash goes into the card.
        extractor: feature extractor of the model.
        dropped: what of the file was left out, with the reason.
        notes: further lines for the card.
        source: where the file comes from, as its user says.
        needs: see [`Provenance`].
    """
    with torch.device("meta"):
        model = model_class(config)
    copies = {
        name: value.to(torch.float32, copy=True).contiguous() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
    model.load_state_dict(copies, strict=True, assign=True)
    published = name_by_size(config)
    entry = MODELS[published] if published else NamedModel()
    provenance = Provenance(checkpoint.name, sha256_of(checkpoint), dropped, tuple(notes), source, published, needs)
    card = build_model_card(output.resolve().name, entry, config, provenance, model, extractor)
    # Buffers that are made and not stored are still on the meta device, and saving does not need them.
    save_model_folder(model, output, extractor=extractor, card=card)
    return model


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every converter."""
    parser.add_argument("--output", type=Path, required=True, help="folder to write; appears complete or not at all")
    parser.add_argument(
        "--source",
        help="where you got the file, such as vandijklab/brainlm; the card says it, and otherwise calls it unknown",
    )
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the result to a private repository")


def command_line(
    parser: argparse.ArgumentParser, arguments: list[str] | None, convert: Callable[[argparse.Namespace], None]
) -> int:
    """Run a converter and return its exit code: 0, or 2 with the reason in one line, or 130, 143 after a signal."""
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.push_to_hub is not None:
            check_repo_id(options.push_to_hub)  # now, and not after the work
        convert(options)
        print(f"written to {options.output}")
        if options.push_to_hub:
            print("The repository is private: ask the authors before you share their weights in this form.")
            print(f"uploaded to {push_folder(options.output, options.push_to_hub)}")

    words = [Path(sys.argv[0]).name, *(sys.argv[1:] if arguments is None else arguments)]
    return answer(run, options, words)
