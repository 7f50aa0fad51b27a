"""`input_contract.json`: what a model is and wants of a scan, for programs; and whether a folder keeps to it."""

import copy
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import RepoCard
from safetensors.torch import load_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoProcessor, PreTrainedConfig

from ..families import FAMILIES
from ..files import compact, digest, listed, write_file
from ..foreign import read_json, reading
from ..processing.base import CONTRACT_NAME
from .model_card import CARD_ROW, card_rows

_VERSION = 1
_FINGERPRINT = "fingerprint of the model"


@dataclass
class Verification:
    """What [`verify`] found.

    Attributes:
        folder: of the model.
        facts: what was looked at and is as it should be, in words.
        refused: what is not, each with expected, got and what to do.
    """

    folder: Path
    facts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was refused."""
        return not self.refused


def write_contract(folder: str | Path, processor: Any = None, config_class: Any = AutoConfig) -> Path:
    """Write `input_contract.json` of a saved model, from the files that lie there; returns its path.

    Args:
        folder: of the model.
        processor: the one that is saved there; loaded if it is not given.
        config_class: what reads its configuration, for a family that transformers has not been told of.

    Raises:
        OSError, ValueError: if the folder holds no model, or one that cannot be read.
    """
    saved = _Saved(Path(folder), config_class)
    content: dict[str, Any] = {"contract": _VERSION, "model": saved.section}
    processor = processor or saved.processor
    if processor is not None:
        content["input"] = processor.contract()
    write_file(saved.folder / CONTRACT_NAME, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return saved.folder / CONTRACT_NAME


def verify(folder: str | Path, *, needs_contract: bool = True) -> Verification:
    """Hold a model folder against its contract, its weights against its configuration, its card against both.

    Takes seconds and no data: weights are read once for their fingerprint and never run.

    Args:
        folder: with `config.json` (or `adapter_config.json`), weights as safetensors and `input_contract.json`.
        needs_contract: refuse a folder without a contract.

    Raises:
        OSError, ValueError: if there is no model, or a file cannot be read at all.
    """
    result, saved = Verification(Path(folder)), _Saved(Path(folder))
    path, processor = result.folder / CONTRACT_NAME, saved.processor
    section = saved.section
    _check_shapes(result, saved)
    if processor is not None and saved.config is not None:
        _check_fit(result, saved)
    if path.is_file():
        contract = read_json(path, "an input contract", OSError)
        if contract.get("contract") != _VERSION:
            result.refused.append(
                f"{CONTRACT_NAME}: expected version {_VERSION}, got {contract.get('contract')!r:.40}. Update "
                "brain-transformers, or write it anew with --write."
            )
        _compare(result, "model", contract.get("model"), section)
        _compare(result, "input", contract.get("input"), None if processor is None else processor.contract())
    elif needs_contract:
        result.refused.append(
            f"{CONTRACT_NAME}: expected one beside the weights, got none. If you trust the folder, write it: "
            "brain-transformers verify FOLDER --write."
        )
    _check_card(result, saved)
    return result


# --- the model ---


@dataclass(frozen=True)
class _Saved:
    """A model folder, of which each file is read once.

    Args:
        folder: of the model.
        config_class: what reads its configuration.
    """

    folder: Path
    config_class: Any = AutoConfig

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights and tables, mapped from their files."""
        files = [*self.folder.glob("model*.safetensors"), *self.folder.glob("adapter_model*.safetensors")]
        if not files:
            raise FileNotFoundError(f"{self.folder} holds no weights: expected model.safetensors. Name a saved model.")
        tensors: dict[str, torch.Tensor] = {}
        for file in sorted(files):
            with reading(file, "weights as safetensors", "Copy, download or convert it again.", OSError):
                tensors |= load_file(file)
        return tensors

    @cached_property
    def config(self) -> Any:
        """The configuration; `None` for an adapter."""
        return self.config_class.from_pretrained(self.folder) if (self.folder / "config.json").is_file() else None

    @cached_property
    def processor(self) -> Any:
        """The processor; `None` if there is none."""
        for name, auto in (
            ("processor_config.json", AutoProcessor),
            ("preprocessor_config.json", AutoFeatureExtractor),
        ):
            if (self.folder / name).is_file():
                return auto.from_pretrained(self.folder)
        return None

    @cached_property
    def section(self) -> dict[str, Any]:
        """What the files say of the model: class, sizes, fingerprint of weights and tables."""
        section: dict[str, Any] = {
            "fingerprint": digest(self.tensors),
            "parameters": sum(tensor.numel() for tensor in self.tensors.values()),
        }
        config, adapter = self.config, self.folder / "adapter_config.json"
        if config is not None:
            section["class"] = (config.architectures or ["unknown"])[0]
            section["model_type"] = config.model_type
            section["config"] = _own_fields(config)
        elif adapter.is_file():
            settings = read_json(adapter, "the settings of an adapter", OSError)
            section["class"] = str(settings.get("peft_type"))
            section["base_model"] = settings.get("base_model_name_or_path")
        else:
            raise FileNotFoundError(f"{self.folder} holds no config.json. Name a saved model.")
        return section


def _own_fields(config: Any) -> dict[str, Any]:
    """Fields that this package declares, and labels: what transformers adds changes with its version."""
    inherited = {each.name for each in dataclasses.fields(PreTrainedConfig)}
    written = config.to_dict()
    own: dict[str, Any] = {"num_labels": config.num_labels}
    for name in sorted({each.name for each in dataclasses.fields(config)} - inherited):
        part = getattr(config, name)
        if isinstance(part, PreTrainedConfig):  # of an encoder inside
            own[name] = _own_fields(part)
        elif name in written:
            own[name] = compact(written[name])
    return own


def _check_shapes(result: Verification, saved: _Saved) -> None:
    """Weights against the configuration, by names and shapes."""
    name = str(saved.section["class"])
    if saved.config is None:
        return
    model_class = next((each for family in FAMILIES if (each := family.model_class(name))), None)
    if model_class is None:
        result.refused.append(
            f"config.json: expected architectures to name a class of this package, got {name!r:.80}."
        )
        return
    with torch.device("meta"):
        model = model_class(copy.deepcopy(saved.config))
    expected, found = (
        {key: list(value.shape) for key, value in each.items()} for each in (model.state_dict(), saved.tensors)
    )
    wrong = [
        f"{key}: expected {expected.get(key, 'no such tensor')}, got {found.get(key, 'none')}"
        for key in sorted({*expected, *found})
        if expected.get(key) != found.get(key)
    ]
    if wrong:
        result.refused.append(
            f"The weights do not fit config.json: {listed(wrong)}. Copy or download the folder again."
        )
    else:
        result.facts.append(
            f"{name}: {len(found)} tensors of {saved.section['parameters']:,} numbers, as config.json says"
        )


def _check_fit(result: Verification, saved: _Saved) -> None:
    """The processor against the configuration."""
    try:
        saved.processor.refuse(saved.config)
    except ValueError as error:
        result.refused.append(f"The processor does not belong to this model: {error}")
    else:
        what = saved.processor.describe()
        result.facts.append(f"takes {what['scans']}; {what['inputs']}; scale: {what['scale']}")


def _compare(result: Verification, section: str, promised: Any, found: Mapping[str, Any] | None) -> None:
    """What the contract says against what is there, but for what a newer version of this package added."""
    if not isinstance(promised, Mapping):
        if found is not None:
            result.refused.append(f"{CONTRACT_NAME}: expected a section {section!r}, got none. Write it with --write.")
        return
    if found is None:
        result.refused.append(f"{CONTRACT_NAME}: promises a processor, and the folder holds none. Copy it again.")
        return
    # Of settings a newer version may have more; a contract that says nothing of the rest promises nothing.
    wrong = [f"{name}: the contract does not say it" for name in found if name not in promised]
    wrong += _differences(promised, json.loads(json.dumps(found)), "")
    if wrong:
        result.refused.append(
            f"{section}: not what the contract says: {listed(wrong, 5)}. If you changed it on purpose, write the "
            "contract anew with --write; else get the model again."
        )
    else:
        words = f", fingerprint {found['fingerprint']}" if "fingerprint" in found else ""
        result.facts.append(f"{section}: as the contract says{words}")


def _differences(promised: Mapping[str, Any], found: Mapping[str, Any], at: str) -> Iterator[str]:
    for name, value in promised.items():
        here = found.get(name)
        if isinstance(value, Mapping) and isinstance(here, Mapping):
            yield from _differences(value, here, f"{at}{name}.")
        elif here != value:
            yield f"{at}{name}: expected {json.dumps(value)[:80]}, got {json.dumps(here)[:80]}"


# --- the card ---


def _check_card(result: Verification, saved: _Saved) -> None:
    """What the table of a card of this package says, against the files."""
    path = result.folder / "README.md"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if RepoCard(text, ignore_metadata_errors=True).data.to_dict().get("library_name") != "brain-transformers":
        return
    said = {match[1]: match[2] for match in map(CARD_ROW.fullmatch, text.splitlines()) if match}
    found: dict[str, str] = {}
    if saved.config is not None:
        found |= card_rows(saved.config, saved.processor)
        found.pop("scale", None)  # it may have been fitted since
    wrong = [
        f"{name}: it says {said[name]!r:.120}, it is {found[name]!r:.120}"
        for name in said
        if found.get(name, said[name]) != said[name]
    ]
    told = re.search(r"`([0-9a-f]{16})`", said.get(_FINGERPRINT, ""))
    if told and told[1] != saved.section["fingerprint"]:
        wrong.append(f"{_FINGERPRINT}: it says {told[1]}, it is {saved.section['fingerprint']}")
    if wrong:
        result.refused.append(f"README.md does not describe this model: {listed(wrong)}. Get the folder again.")
    elif said:
        result.facts.append("README.md: its table is that of these files")
