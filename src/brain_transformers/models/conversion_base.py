"""What the converters of all families share: an account of every key, and the words in which a converter is described.

Files are read, and the result is made into a model, by the `conversion` package, which stands above the models.
"""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class ConversionError(ValueError):
    """The checkpoint is not what the converter expects; the message says what was expected, found, and the fix."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class GivenFile:
    """A file of the authors that was given to a converter.

    Attributes:
        path: the file; of a folder, the one that holds the weights.
        content: what was read from it.
    """

    path: Path
    content: Any

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return file_sha256(self.path)


@dataclass(frozen=True)
class InputFile:
    """A file that a converter takes.

    Attributes:
        name: of the argument; its flag is `--like-this`.
        kind: how it is read; one of `conversion.containers.READERS`.
        expected: what it should hold, as words that fit after "expected".
        help: for the command line.
        beside: name of the file beside the checkpoint that is taken where none is given.
    """

    name: str
    kind: str
    expected: str
    help: str
    beside: str | None = None


@dataclass
class ConvertedCheckpoint:
    """A checkpoint in the names of this package.

    Attributes:
        model_class, config: of the model that takes it.
        state_dict: a tensor for every weight and buffer of the model that is saved.
        report: the account of keys.
        notes: lines for the card.
        warnings: what whoever converts should know at once.
        processor_values: arguments of the extractor that the configuration does not tell.
        needs: what the extractor must be given at every call because nothing saved holds it: argument and meaning.
    """

    model_class: Any
    config: Any
    state_dict: dict[str, torch.Tensor]
    report: "KeyReport"
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    processor_values: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, str] | None = None


@dataclass(frozen=True)
class Converter:
    """How files of authors become models of this package, as `CONVERTER` in `conversion_<family>.py`.

    Attributes:
        description: for `--help`.
        files: files that are taken; the first is the checkpoint, which must be given.
        flags: further arguments of `convert` -> their settings for `argparse`.
        convert: takes a [`GivenFile`] or `None` for each file and the values of the flags, by name.
    """

    description: str
    files: tuple[InputFile, ...]
    flags: Mapping[str, Mapping[str, Any]]
    convert: Callable[..., ConvertedCheckpoint]


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
    """What became of the keys of a checkpoint.

    Attributes:
        renamed: the authors' name -> ours.
        dropped: name of a tensor, or of a part and the number of its tensors -> why it is left out.
        n_dropped: tensors that are left out.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    n_dropped: int = 0

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = [f"{len(self.renamed)} tensors converted, {self.n_dropped} dropped, 0 refused"]
        lines += [f"  dropped {key}: {reason}" for key, reason in self.dropped.items()]
        return "\n".join(lines)


class KeyMap:
    """Rules that turn the authors' names into ours.

    Args:
        rules: pairs of a regular expression that must match a whole key, and its replacement.
        fused: pairs of a pattern with one group `(query|key|value)` and the replacement of the fused tensor; the three
            are stacked in this order.
        dropped: pairs of a pattern and the reason why such a key is left out; keys with the same group `part` of a
            pattern are reported together.
        shaped: pairs of the end of one of our names and what makes such a tensor of ours of the authors' one.
    """

    FUSED_ORDER = ("query", "key", "value")

    def __init__(
        self,
        rules: Iterable[tuple[str, str]],
        fused: Iterable[tuple[str, str]] = (),
        dropped: Iterable[tuple[str, str]] = (),
        shaped: Iterable[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = (),
    ):
        self.shaped = tuple(shaped)
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
        unknown: list[str] = []
        dropped: Counter[tuple[str, str]] = Counter()
        for key, value in state_dict.items():
            if not isinstance(key, str):
                raise ConversionError(f"The checkpoint has the key {key!r}, expected names of tensors.")
            left_out = ((pattern.fullmatch(key), reason) for pattern, reason in self.dropped)
            found = next(((match.groupdict().get("part", key), reason) for match, reason in left_out if match), None)
            if found is not None:
                dropped[found] += 1
                continue
            if (target := self.target_of(key)) is None:
                unknown.append(key)
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
        if unknown:
            raise ConversionError(
                f"{len(unknown)} keys of the checkpoint are unknown ({_first(unknown, 5, ', ')}) and refused, beside "
                f"{len(report.renamed)} that would be converted and {dropped.total()} dropped. Expected only the keys "
                "of the published models: is this a file of another model or version?"
            )
        report.n_dropped = dropped.total()
        report.dropped = {
            part if part in state_dict else f"{part} ({count} tensors)": reason
            for (part, reason), count in dropped.items()
        }
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
        for end, change in self.shaped:
            converted |= {name: change(value) for name, value in converted.items() if name.endswith(end)}
        return converted, report


WB = r"(?P<wb>weight|bias)"


def block_rules(source: str, target: str, fc1: str = "fc1", fc2: str = "fc2") -> list[tuple[str, str]]:
    """Rules for the layers of a vision transformer by the names that most authors use.

    Args:
        source: pattern of what stands before the number of a layer.
        target: what stands before `layers` in our name.
        fc1, fc2: names of the two linear layers of the feed-forward block.
    """
    block, layer = rf"{source}(?P<layer>\d+)\.", rf"{target}layers.\g<layer>."
    return [
        (rf"{block}norm1\.{WB}", rf"{layer}layernorm_before.\g<wb>"),
        (rf"{block}norm2\.{WB}", rf"{layer}layernorm_after.\g<wb>"),
        (rf"{block}attn\.qkv\.{WB}", rf"{layer}attention.qkv.\g<wb>"),
        (rf"{block}attn\.proj\.{WB}", rf"{layer}attention.out_proj.\g<wb>"),
        (rf"{block}mlp\.{fc1}\.{WB}", rf"{layer}mlp.fc1.\g<wb>"),
        (rf"{block}mlp\.{fc2}\.{WB}", rf"{layer}mlp.fc2.\g<wb>"),
        (rf"{block}ls(?P<n>[12])\.gamma", rf"{layer}layer_scale\g<n>"),
    ]


def _first(names: list[str], n: int, separator: str) -> str:
    return separator.join([*names[:n], *(["..."] if len(names) > n else [])])


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Weights without the names that wrappers of parallel training and compilation put before those of a network.

    Raises:
        ConversionError: if a tensor is there with such a name and without.
    """
    cleaned: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in state_dict.items():
        name = re.sub(r"(^|\.)(?:module|_orig_mod)\.", r"\1", key)
        if (earlier := sources.setdefault(name, key)) != key:
            raise ConversionError(f"The checkpoint holds both {earlier} and {key}, expected one of them.")
        cleaned[name] = value
    return cleaned


def weights_of(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """State dict of a checkpoint without wrappers: what it holds under one of these names, or all of it."""
    return unwrapped(next((content[name] for name in names if isinstance(content.get(name), dict)), content))


def tensor_of(state_dict: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """A tensor of a checkpoint that tells a size.

    Raises:
        ConversionError: if it is not there, or no sound tensor.
    """
    if name not in state_dict:
        raise ConversionError(f"The checkpoint lacks {name}. It is incomplete, or of another model or version.")
    _check_tensor(name, state_dict[name])
    return state_dict[name]


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Layers of which there are tensors `<prefix><number>.<...>`."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return max((int(match[1]) + 1 for name in names if (match := pattern.match(name))), default=0)


def published_heads(
    width: int, given: int | None, published: Mapping[int, int], flag: str = "--num-attention-heads"
) -> int:
    """Attention heads, which no key tells: those that were given, or of a published width.

    Raises:
        ConversionError: for another width.
    """
    if given is None and width not in published:
        raise ConversionError(
            f"The number of attention heads is not in the file, and {width} is not a published width. Pass {flag}."
        )
    return given or published[width]


def encoder_sizes(weights: Mapping[str, torch.Tensor], norm: str, blocks: str, prefix: str = "") -> dict[str, Any]:
    """Width, depth and feed-forward width of a transformer of [`block_rules`], as fields of a configuration.

    Args:
        norm, blocks: its final norm, and what stands before the number of a layer.
        prefix: of the fields.
    """
    return {
        f"{prefix}hidden_size": len(tensor_of(weights, f"{norm}.weight")),
        f"{prefix}num_hidden_layers": count_layers(weights, blocks),
        f"{prefix}intermediate_size": len(tensor_of(weights, f"{blocks}0.mlp.fc1.bias")),
    }


def check_against_model(
    model_class: Any, config: Any, converted: dict[str, torch.Tensor], allowed: Iterable[str] = ()
) -> dict[str, torch.Tensor]:
    """Compare names and shapes with those of the model that will hold the weights.

    Args:
        model_class, config: of the model, which is built without memory.
        converted: converted state dict.
        allowed: names of the model that the checkpoint need not hold.

    Returns:
        The tensors of the model, without memory.

    Raises:
        ConversionError: listing what is missing, unexpected, or of another shape.
    """
    # Before a model of a billion layers is built.
    for name, value in config.to_dict().items():
        if name.endswith("layers") and isinstance(value, int) and value > len(converted):
            raise ConversionError(
                f"The configuration has {name} = {value:,}, and the file {len(converted)} tensors. "
                "They do not belong together: use the configuration that was published with these weights."
            )
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    both = sorted(expected.keys() & converted.keys())
    found = {
        "missing": sorted(expected.keys() - converted.keys() - set(allowed)),
        "unexpected": sorted(converted.keys() - expected.keys()),
        "of another shape": [
            f"{name}: {tuple(converted[name].shape)} in the file, {tuple(expected[name].shape)} by its config"
            for name in both
            if converted[name].shape != expected[name].shape
        ],
        "of another type": [
            f"{name}: {converted[name].dtype} in the file, {expected[name].dtype} in the model"
            for name in both
            if converted[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    problems = [f"{len(names)} {title} ({_first(names, 4, '; ')})" for title, names in found.items() if names]
    if problems:
        raise ConversionError(
            f"Weights and config.json do not belong together: {', '.join(problems)}. "
            "Use the config.json that was published with these weights."
        )
    return expected
