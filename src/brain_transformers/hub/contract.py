"""`input_contract.json`: what a model is and wants of a scan, for programs; and whether a folder keeps to it."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import RepoCard
from safetensors import safe_open
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
    folder = Path(folder)
    content: dict[str, Any] = {"contract": _VERSION, "model": _model_section(folder, config_class)}
    processor = processor or _processor(folder)
    if processor is not None:
        content["input"] = processor.contract()
    write_file(folder / CONTRACT_NAME, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return folder / CONTRACT_NAME


def verify(folder: str | Path, *, needs_contract: bool = True) -> Verification:
    """Hold a model folder against its contract, its weights against its configuration, its card against both.

    Takes seconds and no data: weights are read once for their fingerprint and never run.

    Args:
        folder: with `config.json` (or `adapter_config.json`), weights as safetensors and `input_contract.json`.
        needs_contract: refuse a folder without a contract.

    Raises:
        OSError, ValueError: if there is no model, or a file cannot be read at all.
    """
    result = Verification(Path(folder))
    path = result.folder / CONTRACT_NAME
    section = _model_section(result.folder)
    _check_shapes(result, section)
    processor = _processor(result.folder)
    if processor is not None and section.get("config") is not None:
        _check_fit(result, processor)
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
    _check_card(result, section, processor)
    return result


# --- the model ---


def _weight_files(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("model*.safetensors"), *folder.glob("adapter_model*.safetensors")])
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights: expected model.safetensors. Name a saved model.")
    return files


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All weights and tables, mapped from their files."""
    tensors: dict[str, torch.Tensor] = {}
    for file in _weight_files(folder):
        with reading(file, "weights as safetensors", "Copy, download or convert it again.", OSError):
            tensors |= load_file(file)
    return tensors


def _model_section(folder: Path, config_class: Any = AutoConfig) -> dict[str, Any]:
    """What the files say of the model: class, sizes, fingerprint of weights and tables."""
    tensors = _tensors(folder)
    section: dict[str, Any] = {
        "fingerprint": digest(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
    }
    if (folder / "config.json").is_file():
        config = config_class.from_pretrained(folder)
        section["class"] = (config.architectures or ["unknown"])[0]
        section["model_type"] = config.model_type
        section["config"] = _own_fields(config)
    elif (folder / "adapter_config.json").is_file():
        adapter = read_json(folder / "adapter_config.json", "the settings of an adapter", OSError)
        section["class"] = str(adapter.get("peft_type"))
        section["base_model"] = adapter.get("base_model_name_or_path")
    else:
        raise FileNotFoundError(f"{folder} holds no config.json. Name a saved model.")
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


def _processor(folder: Path) -> Any:
    for name, auto in (("processor_config.json", AutoProcessor), ("preprocessor_config.json", AutoFeatureExtractor)):
        if (folder / name).is_file():
            return auto.from_pretrained(folder)
    return None


def _check_shapes(result: Verification, section: Mapping[str, Any]) -> None:
    """Weights against the configuration: by names and shapes alone, without memory."""
    name = str(section["class"])
    if "config" not in section:
        return
    model_class = next((each for family in FAMILIES if (each := family.model_class(name))), None)
    if model_class is None:
        result.refused.append(
            f"config.json: expected architectures to name a class of this package, got {name!r:.80}."
        )
        return
    with torch.device("meta"):
        model = model_class(AutoConfig.from_pretrained(result.folder))
    expected = {key: list(value.shape) for key, value in model.state_dict().items()}
    found: dict[str, list[int]] = {}
    for file in _weight_files(result.folder):
        with safe_open(file, framework="pt") as opened:
            found |= {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
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
        result.facts.append(f"{name}: {len(found)} tensors of {section['parameters']:,} numbers, as config.json says")


def _check_fit(result: Verification, processor: Any) -> None:
    """The processor against the configuration."""
    try:
        processor.refuse(AutoConfig.from_pretrained(result.folder))
    except ValueError as error:
        result.refused.append(f"The processor does not belong to this model: {error}")
    else:
        what = processor.describe()
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
    wrong = list(_differences(promised, json.loads(json.dumps(found)), ""))
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


def _check_card(result: Verification, section: Mapping[str, Any], processor: Any) -> None:
    """What the table of a card of this package says, against the files."""
    path = result.folder / "README.md"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if RepoCard(text, ignore_metadata_errors=True).data.to_dict().get("library_name") != "brain-transformers":
        return
    said = {match[1]: match[2] for match in map(CARD_ROW.fullmatch, text.splitlines()) if match}
    found: dict[str, str] = {}
    if "config" in section:
        found |= card_rows(AutoConfig.from_pretrained(result.folder), processor)
        found.pop("scale", None)  # it may have been fitted since
    wrong = [
        f"{name}: it says {said[name]!r:.120}, it is {found[name]!r:.120}"
        for name in said
        if found.get(name, said[name]) != said[name]
    ]
    told = re.search(r"`([0-9a-f]{16})`", said.get(_FINGERPRINT, ""))
    if told and told[1] != section["fingerprint"]:
        wrong.append(f"{_FINGERPRINT}: it says {told[1]}, it is {section['fingerprint']}")
    if wrong:
        result.refused.append(f"README.md does not describe this model: {listed(wrong)}. Get the folder again.")
    elif said:
        result.facts.append("README.md: its table is that of these files")
