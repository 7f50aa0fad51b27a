"""What the authors of each family publish, in their layouts, but tiny: files of the golden cases by made-up names."""

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import PreTrainedConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))

from hub_server import HubServer, Repository

from brain_transformers import families
from brain_transformers.cli import finetune, flags, pretrain, training_inputs, training_run
from brain_transformers.cli import get as get_command
from brain_transformers.conversion.convert import Conversion, convert
from brain_transformers.models.conversion_base import file_sha256
from brain_transformers.models.family import AuthorsFile, NamedModel

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LICENSE = "cc-by-nc-nd-4.0"


@contextlib.contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[HubServer]:
    """A Hub for this process, which its own client finds as it finds the real one; caches are in `home`."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("BRAIN_TRANSFORMERS_CACHE", str(home / "cache"))
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        yield server


@dataclass
class Layout:
    """Files of authors.

    Attributes:
        folder: of the family whose converter takes them, and of the family that they become.
        files: argument of the converter -> file or folder.
        options: its flags.
        on_hub: whether the authors keep them there; of a checkpoint that is so, other files may still lie elsewhere.
    """

    folder: str
    files: dict[str, Path]
    options: dict[str, Any] = field(default_factory=dict)
    on_hub: tuple[str, ...] = ()

    @property
    def family(self) -> Any:
        return next(family for family in families.FAMILIES if family.folder == self.folder)

    def convert(self, *without: str) -> Conversion:
        """What becomes of them, without going by any name."""
        files = {argument: path for argument, path in self.files.items() if argument not in without}
        return convert(self.family.load_converter(), **files, **self.options)


def centres(path: Path, n_rois: int) -> Path:
    path.write_text("".join(f"{i + 1}\t{10 - i % 90}\t{(i * 7) % 5}\t{i % 70}\n" for i in range(n_rois)))
    return path


def _brainlm(work: Path, folder: str, case: str, n_rois: int, options: dict[str, int]) -> Layout:
    shutil.copytree(GOLDEN / "brainlm" / case / "checkpoint", work / "release")
    (work / "release" / "optimizer.pt").write_bytes(b"left over from training")
    files = {"checkpoint": work / "release", "coordinates": centres(work / "centres.dat", n_rois)}
    return Layout(folder, files, options, on_hub=("checkpoint",))


def _brain_jepa(work: Path) -> Layout:
    case = GOLDEN / "brain_jepa" / "pretrain_step_multi_mask"
    np.savetxt(work / "gradient.csv", load_file(case / "tensors.safetensors")["gradient"][0].numpy(), delimiter=",")
    files = {"checkpoint": next(case.glob("checkpoint.*")), "gradient": work / "gradient.csv"}
    return Layout("brain_jepa", files, {"num_attention_heads": 3})


def _brain_semantoks(work: Path) -> Layout:
    case = GOLDEN / "brain_semantoks" / "pretrain_small"
    files = {"checkpoint": case / "checkpoint.pth", "network_map": case / "network_mapping.npz"}
    return Layout("brain_semantoks", files, {"num_attention_heads": 4}, on_hub=tuple(files))


def _harmonix_f(work: Path) -> Layout:
    case = GOLDEN / "brain_harmony" / "jepa_pretrain_full"
    config = json.loads((case / "config.json").read_text())
    names = {"checkpoint": "checkpoint.pth", "gradient": "gradient.csv", "harmonics": "geo_harm.csv"}
    options = {
        "num_attention_heads": config["num_heads"],
        "predictor_num_attention_heads": config["predictor_num_heads"],
        "n_windows": config["num_patches"],
    }
    return Layout("harmonix_f", {name: case / file for name, file in names.items()}, options)


def _of_one_file(folder: str, case: str, **options: int) -> Layout:
    return Layout(folder, {"checkpoint": GOLDEN / "brain_harmony" / case / "checkpoint.pth"}, options)


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "brainlm": lambda work: _brainlm(work, "brainlm", "a_pretrain", 12, {}),
    "brainlm_vit": lambda work: _brainlm(work, "brainlm_vit", "b_predict_last_pixel_p16", 424, {"n_rois": 424}),
    "brain_jepa": _brain_jepa,
    "brain_semantoks": _brain_semantoks,
    "harmonix_f": _harmonix_f,
    "harmonix_s": lambda work: _of_one_file("harmonix_s", "t1_encoder", num_attention_heads=3),
    "brain_harmony": lambda work: _of_one_file(
        "brain_harmony",
        "stage1_harmonizer_normpix",
        num_attention_heads=4,
        n_t1_tokens=12,
        decoder_num_attention_heads=4,
    ),
}
"""Every family with published weights."""


@dataclass
class Published:
    """Files of authors in their place, and the name that they go by.

    Attributes:
        name: as in `get NAME`.
        layout: the files.
        given: what a user must or may pass.
        repository: of the Hub, if the checkpoint lies there.
        conversion: what must come of all files.
    """

    name: str
    layout: Layout
    given: dict[str, Any]
    repository: Repository | None
    conversion: Conversion

    @property
    def large(self) -> str:
        """Name of the weights in the repository."""
        assert self.repository is not None
        return next(iter(sorted(self.repository.lfs)))


def publish(
    layout: Layout,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    name: str = "made-up",
    pinned: Mapping[str, str] | None = None,
    **values: Any,
) -> Published:
    """Put files where their authors would, and let the registry say so; `values` are further ones of `NamedModel`."""
    done = layout.convert()
    config = done.model.config
    inherited = {each.name for each in dataclasses.fields(PreTrainedConfig)}
    own = {each.name for each in dataclasses.fields(type(config))} - inherited
    repository = Repository() if layout.on_hub else None
    files = []
    for argument, path in layout.files.items():
        parts = ("config.json", "pytorch_model.bin") if path.is_dir() else ()
        there = argument in layout.on_hub
        without = "the centres of parcels" if argument == "coordinates" else None
        file = AuthorsFile(
            argument,
            f"release/{path.name}/" if parts else f"release/{path.name}",
            repository=f"authors/{name}" if there else None,
            parts=parts,
            sha256=(pinned or {}) if there or pinned else {f"release/{path.name}": file_sha256(path)},
            download=None if there else f"curl -O https://authors.example/{path.name}",
            without=without,
        )
        if there and repository is not None:
            for one in sorted(path.iterdir()) if parts else [path]:
                inside = f"{file.name}{one.name}" if parts else file.name
                repository.files[inside] = one.read_bytes()
                if one.suffix in (".bin", ".pth"):
                    repository.lfs.add(inside)
        files.append(file)
    source = f"authors/{name}, folder release" if repository else f"github.com/authors/{name}"
    known: dict[str, Any] = {
        "parameters": done.model.base_model.num_parameters(),
        "source": source,
        "files": tuple(files),
        "license": LICENSE,
        "citation": "Authors, 2026",
        **values,
    }
    entry = NamedModel({field: getattr(config, field) for field in own}, **known)
    monkeypatch.setitem(families.MODELS, name, entry)
    monkeypatch.setitem(families._FAMILY_OF, name, layout.family)
    monkeypatch.setitem(layout.family.models, name, entry)
    for module in (flags, finetune, pretrain, training_inputs, training_run):
        monkeypatch.setattr(module, "NAMED_MODELS", (*flags.NAMED_MODELS, name))
    monkeypatch.setattr(get_command, "_PUBLISHED", [*get_command._PUBLISHED, name])
    if repository is not None:
        hub.repositories[f"authors/{name}"] = repository
    given = {argument: path for argument, path in layout.files.items() if argument not in layout.on_hub}
    return Published(name, layout, {**given, **layout.options}, repository, done)
