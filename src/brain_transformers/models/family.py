"""What is said of a family of models once: its classes, its named configurations and what was published of them.

Light, so that every family can be known without importing torch.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Auto class of transformers -> what the names of our classes end in.
KIND_OF_AUTO_CLASS = {
    "AutoConfig": "Config",
    "AutoModel": "Model",
    "AutoModelForPreTraining": "ForMaskedModeling",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
}


@dataclass(frozen=True)
class AuthorsFile:
    """A file of the authors that a model is converted from, or a folder of such files.

    Attributes:
        argument: of the family's converter, such as `"checkpoint"`.
        name: what the authors call it, with its folder; of a folder with `/` at its end.
        repository: of the Hub that holds it, from which `get` fetches it; `None` where it lies elsewhere.
        revision: commit of that repository; the newest where none is known to be the one.
        parts: files of a folder that are read.
        sha256: hashes by name of the file (of a folder, of its parts), as far as they are known.
        download: for a file that lies elsewhere, one line for a person: a command, or where to click.
        without: what the model lacks without it, where conversion can do without.
    """

    argument: str
    name: str
    repository: str | None = None
    revision: str | None = None
    parts: tuple[str, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    download: str | None = None
    without: str | None = None

    @property
    def flag(self) -> str:
        """Of the commands that take it."""
        return f"--{self.argument.replace('_', '-')}"

    @property
    def needs_a_person(self) -> bool:
        """Whether nothing can be done without a file that no program may fetch."""
        return self.repository is None and self.without is None

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files in the repository."""
        return tuple(f"{self.name}{part}" for part in self.parts) or (self.name,)


def cloned(repository: str, name: str) -> str:
    """The line that brings a file out of a repository of code, in whatever folder of it."""
    folder = repository.rpartition("/")[2]
    return f"git clone --depth 1 https://github.com/{repository} && find {folder} -name {name}"


@dataclass(frozen=True)
class NamedModel:
    """A named configuration, and the published checkpoint that it belongs to, if there is one.

    Attributes:
        values: fields that differ from the defaults of the configuration class.
        parameters: of the network that is released, which `AutoModel` loads.
        trained_parameters: what pretraining trains: that network, or its trained twin, and the parts that only
            training needs.
        source: where the authors published the weights, or `None` for configurations of our own.
        files: of the authors, from which the family's converter makes a model folder; the first is the checkpoint.
        license: licence of those weights, `"unknown"` if their authors state none, or `None` if there are no weights.
        citation: the paper.
        limits: what is known not to work.
        trained_on: the scans that the published weights were trained on, in a sentence or two.
        datasets: their names, as tags of a card.
        claims: numbers of the paper for this model, as far as they are known, in a sentence.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    trained_parameters: int | None = None
    source: str | None = None
    files: tuple[AuthorsFile, ...] = ()
    license: str | None = None
    citation: str | None = None
    limits: tuple[str, ...] = ()
    trained_on: str | None = None
    datasets: tuple[str, ...] = ()
    claims: str | None = None

    @property
    def conversion(self) -> str:
        """What the family's converter is given, without its `--output`."""
        return " ".join(f"{file.flag} {file.name}" for file in self.files)


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        folder: its folder under `models`; its modules are `configuration_<folder>` and `modeling_<folder>`.
        stem: what the names of its classes begin with.
        title: what its authors call it.
        model_type: the name in `config.json`.
        objective: how it is pretrained; see `training.objectives`.
        processor: the class that makes its inputs of scans, and its module, relative to the package.
        joint_processor: likewise the class that takes scans of several modalities, for models that hold an encoder of
            each; `None` if there are none.
        processor_defaults: arguments of `processor` that differ from its own defaults: the scale that the
            weights know, and how scans come to it.
        models: named configurations.
        fine_tuning_head: fields of the configuration for the head that its authors fine-tune.
        converter: folder of the family whose `conversion_<folder>` reads the authors' files of this one; `None` if
            nothing was published.
    """

    folder: str
    stem: str
    title: str
    model_type: str
    objective: str
    processor: tuple[str, str] = ("processing.roi_series", "ROISeriesFeatureExtractor")
    joint_processor: tuple[str, str] | None = None
    processor_defaults: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, NamedModel] = field(default_factory=dict)
    fine_tuning_head: Mapping[str, Any] = field(default_factory=dict)
    converter: str | None = None

    @property
    def classes(self) -> dict[str, str]:
        """Name of each public class -> module that defines it, relative to the package."""
        place = f"models.{self.folder}"
        return {
            f"{self.stem}{kind}": f"{place}.{'configuration' if kind == 'Config' else 'modeling'}_{self.folder}"
            for kind in KIND_OF_AUTO_CLASS.values()
        }

    @property
    def public_classes(self) -> dict[str, str]:
        """[`classes`] and the processors, which code of a repository imports too: they are names of the package."""
        processors = [each for each in (self.processor, self.joint_processor) if each is not None]
        return {**self.classes, **{name: module for module, name in processors}}

    @property
    def auto_classes(self) -> dict[str, str]:
        """Auto class -> name of the class of this family that it resolves to."""
        return {auto: f"{self.stem}{kind}" for auto, kind in KIND_OF_AUTO_CLASS.items()}

    def load_class(self, kind: str) -> Any:
        """The class `<stem><kind>`, such as `"Config"` or `"ForMaskedModeling"`; imports its module."""
        name = f"{self.stem}{kind}"
        return getattr(importlib.import_module(f"brain_transformers.{self.classes[name]}"), name)

    def model_class(self, name: str) -> Any:
        """The model class of this name, if it is one of this family; imports its module."""
        kinds = {auto: kind for auto, kind in KIND_OF_AUTO_CLASS.items() if auto != "AutoConfig"}
        return next((self.load_class(kind) for kind in kinds.values() if name == f"{self.stem}{kind}"), None)

    def load_processor(self, joint: bool = False) -> Any:
        """The class that makes its inputs of scans, or of scans of several modalities; imports its module."""
        module, name = self.joint_processor if joint and self.joint_processor else self.processor
        return getattr(importlib.import_module(f"brain_transformers.{module}"), name)

    def load_converter(self) -> Any:
        """The [`Converter`] of the authors' files; imports its module."""
        return importlib.import_module(f"{__package__}.{self.converter}.conversion_{self.converter}").CONVERTER
