"""How each model learns in pretraining: the arguments and the Trainer that belong to its objective."""

import dataclasses
import difflib
import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Objective:
    """One way to pretrain; its classes are imported when they are asked for.

    Attributes:
        name: `objective` of the families that learn this way.
        arguments_name, trainer_name: classes in `brain_transformers.training`.
        released: the network that `AutoModel` takes from the saved folder.
    """

    name: str
    arguments_name: str
    trainer_name: str
    released: str

    @property
    def arguments_class(self) -> Any:
        """The subclass of `TrainingArguments` with the published recipe as defaults."""
        return getattr(importlib.import_module("brain_transformers.training"), self.arguments_name)

    @property
    def trainer_class(self) -> Any:
        """The Trainer."""
        return getattr(importlib.import_module("brain_transformers.training"), self.trainer_name)


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("masked reconstruction", "MAETrainingArguments", "MAETrainer", "the encoder"),
        Objective(
            "latent prediction",
            "JEPATrainingArguments",
            "JEPATrainer",
            "the target encoder (the moving average of the context encoder)",
        ),
        Objective(
            "self-distillation",
            "SelfDistillationTrainingArguments",
            "SelfDistillationTrainer",
            "the teacher (the moving average of the student)",
        ),
    )
}


_MODEL_FILES = ("config.json", "preprocessor_config.json")


def check_model_exists(model: str) -> None:
    """Raise ValueError for what can be neither a configuration nor a folder nor a Hub name; asks no server."""
    from ..hub.registry import list_models

    if model in list_models():
        return
    if Path(model).is_dir():
        if missing := [name for name in _MODEL_FILES if not (Path(model) / name).is_file()]:
            raise ValueError(
                f"{model} is no folder of a model: it has no {' and no '.join(missing)}. Name a folder that "
                "conversion, pretrain or finetune wrote."
            )
        return
    if "/" not in model or model.startswith((".", "/", "~")) or model.count("/") > 1:
        similar = difflib.get_close_matches(model, list_models(), n=1)
        raise ValueError(
            f"{model} is no folder, no Hub name (organisation/name) and no configuration. "
            f"{f'Did you mean {similar[0]}? ' if similar else ''}Configurations: {', '.join(list_models())}."
        )


def load_pretrained(kind: Any, model: str) -> Any:
    """`kind.from_pretrained(model)`, whose failures are one line that names the model.

    Raises:
        ValueError: if there is no such model, or it cannot be loaded.
    """
    try:
        return kind.from_pretrained(model)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # what a damaged file makes of the libraries is not to be listed
        reason = " ".join(str(error).split())
        if not isinstance(error, (OSError, ValueError)):
            reason = f"a file in it is damaged ({type(error).__name__}: {reason}). Copy or download it again."
        # Of a bare name this package says itself where its weights are.
        if not Path(model).is_dir() and not isinstance(error, FileNotFoundError):
            reason = f"there is no such folder, and the Hub gave none ({reason.partition('. ')[0]})"
        raise ValueError(reason if model in reason else f"{model} cannot be loaded: {reason}") from error


@functools.cache
def objective_of(model: str) -> Objective:
    """The objective of a named configuration, or of a folder or Hub name of a model.

    Raises:
        ValueError: if there is no such model, or it is none of this package.
    """
    from transformers import AutoConfig

    from ..hub.registry import list_models, load_config

    check_model_exists(model)
    if model in list_models():
        config: Any = load_config(model)
    else:
        config = load_pretrained(AutoConfig, model)
    from ..models.configuration_base import BrainConfig

    if not isinstance(config, BrainConfig):
        raise ValueError(f"{model} holds a {config.model_type!r} model, which this package cannot pretrain.")
    return OBJECTIVES[config.family.objective]


def objectives_with_flag(flag: str) -> list[Objective]:
    """The objectives whose arguments have a flag such as `--mask_ratio`."""
    field = flag.lstrip("-").partition("=")[0].replace("-", "_")
    names = {field, field.removeprefix("no_")}
    return [
        objective
        for objective in OBJECTIVES.values()
        if names & {entry.name for entry in dataclasses.fields(objective.arguments_class)}
    ]
