"""All families, and the one call that makes them known to the Auto classes of transformers.

What is said of a family stands in `models/<family>/family.py`; a new folder there is a new family.

Configurations and the feature extractor are registered at once: that is light. Model classes need
`transformers.modeling_utils`, which takes about two seconds to import, so they are registered when the first
configuration of this package is made: every way to a model of ours (`from_pretrained`, `from_config`, a pipeline)
makes one.
"""

import difflib
import functools
import importlib
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

from . import models
from .foreign import read_json
from .models.family import KIND_OF_AUTO_CLASS, Family, NamedModel

_MODELING_AUTO = "transformers.models.auto.modeling_auto"

FAMILIES: tuple[Family, ...] = tuple(
    importlib.import_module(f"{models.__name__}.{folder.name}.family").FAMILY
    for folder in pkgutil.iter_modules(models.__path__)
    if folder.ispkg
)
"""Every folder of `models`, in the order of their names."""

_FAMILY_OF = {name: family for family in FAMILIES for name in family.models}

MODELS: dict[str, NamedModel] = {name: family.models[name] for name, family in _FAMILY_OF.items()}
"""Every named configuration."""

PUBLIC_CLASSES = {name: module for family in FAMILIES for name, module in family.public_classes.items()}
"""Name of each public class -> module that defines it, relative to the package."""


def family_of(name: str) -> Family:
    """The family of a named configuration."""
    return _FAMILY_OF[name]


def conversion_command(name: str) -> str:
    """The command that makes a model folder of the authors' files, for a published model."""
    entry = MODELS[name]
    source = (entry.source or "").partition(",")[0]
    return (
        f"brain-transformers convert {family_of(name).converter} {entry.conversion} --output {name}/ --source {source}"
    )


def cache_folder() -> Path:
    """Where weights that were fetched by name are kept: `BRAIN_TRANSFORMERS_CACHE`, or a folder in `HF_HOME`."""
    if own := os.environ.get("BRAIN_TRANSFORMERS_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "brain-transformers"


def fetched(name: str) -> Path | None:
    """The folder of the weights of a name, if `brain-transformers get` has fetched them."""
    folder = cache_folder() / "models" / name
    return folder if name in MODELS and (folder / "config.json").is_file() else None


def shared_base(base: str, given: str | None, argument: str) -> str:
    """What the model of an adapter is called where the adapter is shared: by its name, on the Hub or of ours.

    Args:
        base: what it was loaded from here.
        given: its name elsewhere, if the user says it.
        argument: how a user says it.

    Raises:
        ValueError: if it is a folder of this machine, and no name was given.
    """
    folder = Path(base)
    if given is not None or not folder.is_dir():
        return given or base
    if (name := folder.resolve().name) in MODELS and fetched(name) is not None and folder.samefile(str(fetched(name))):
        return name
    raise ValueError(
        f"The adapter belongs to the model in {base}, a folder that nobody else has. Push that model too, and name it "
        f"here: {argument}='organisation/name'."
    )


def weights_source(source: Any) -> Any:
    """What to load weights from: for the name of a published model the folder of those that were fetched.

    Everything else, a folder of that name included, stays as it is. Weights of these names lie on no server: without
    this, one would be asked, at length where there is no network.

    Raises:
        FileNotFoundError: for a name without weights, saying how to get them, or which name was meant.
    """
    if not isinstance(source, str) or "/" in source or Path(source).exists():
        return source
    if source not in MODELS:
        if similar := difflib.get_close_matches(source, MODELS, n=1, cutoff=0.8):
            raise FileNotFoundError(
                f"There is no folder {source} here, and no model of that name: {similar[0]!r} is one."
            )
        return source
    return fetched_folder(source)


def fetched_folder(name: str) -> Path:
    """The folder of the weights of a name.

    Raises:
        FileNotFoundError: if they were not fetched; the message says how to.
    """
    if (folder := fetched(name)) is not None:
        return folder
    entry = MODELS[name]
    how = "None were published."
    if entry.source is not None:
        given = "".join(f" {file.flag} FILE" for file in entry.files if file.needs_a_person)
        takes = "takes the files that you download from" if given else "fetches them from"
        how = f"`brain-transformers get {name}{given}` {takes} their authors ({entry.source})."
    raise FileNotFoundError(
        f"There are no weights of {name} here. {how} Random weights: brain_transformers.new_model({name!r}, dataset), "
        "with the parcels of your dataset."
    )


def _register_models() -> None:
    """Register the model classes with the AutoModel classes; imports them."""
    modeling_auto = importlib.import_module(_MODELING_AUTO)
    for family in FAMILIES:
        for auto_class, kind in KIND_OF_AUTO_CLASS.items():
            if auto_class != "AutoConfig":
                registry = getattr(modeling_auto, auto_class)
                registry.register(family.load_class("Config"), family.load_class(kind), exist_ok=True)
                _check_first(registry, "from_pretrained", ("config.json",))
        if family.joint_processor is not None:
            from transformers import AutoProcessor  # which the models have loaded, and takes seconds otherwise

            AutoProcessor.register(family.load_class("Config"), family.load_processor(joint=True), exist_ok=True)
    # Light once models are loaded: a pipeline makes or takes a configuration before it asks for its task.
    importlib.import_module(".pipeline", __package__).register()


def _check_first(cls: type, method: str, files: tuple[str, ...]) -> None:
    """Let a class method see its first argument as [`weights_source`] gives it, once, and these files of it checked.

    transformers has no place for a package to say what a name means before a server is asked for it. Whatever is no
    name of ours goes on as it would without it.
    """
    original = getattr(cls, method)
    if getattr(original, "checked_first", False):
        return

    @functools.wraps(original.__func__)
    def checked(cls: type, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        source = weights_source(pretrained_model_name_or_path)
        _check_files(source, files)
        return original.__func__(cls, source, *args, **kwargs)

    checked.checked_first = True  # type: ignore[attr-defined]
    setattr(cls, method, classmethod(checked))


# What transformers reads of a file before a class of ours sees it.
_READ_FIRST = {"model_type": str, "feature_extractor_type": str, "auto_map": dict}


def _check_files(source: Any, names: tuple[str, ...]) -> None:
    """Refuse a folder whose settings transformers would meet with a traceback of its own.

    Raises:
        OSError: if a file is no JSON object, or a field that chooses a class has another type; the message names it.
    """
    for name in names:
        if not isinstance(source, (str, os.PathLike)) or not (path := Path(source) / name).is_file():
            continue
        content = read_json(path, "the settings of a model, as save_pretrained writes them", OSError)
        for field, kind in _READ_FIRST.items():
            value = content.get(field)
            # `auto_map` holds names of classes, of which a tokenizer may have two.
            inside = value.values() if isinstance(value, dict) else ()
            if not isinstance(value, (kind, type(None))) or not all(isinstance(item, (str, list)) for item in inside):
                raise OSError(
                    f"{path}: expected {field} to be a {kind.__name__}, got {value!r:.80}. Copy or download it again."
                )


def register_auto_classes() -> None:
    """Register every family with AutoConfig, AutoFeatureExtractor and the AutoModel classes. Safe to call again."""
    from transformers import AutoConfig, AutoFeatureExtractor
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    from .models.configuration_base import BrainConfig
    from .processing.base import ScanProcessor

    for family in FAMILIES:
        config_class = family.load_class("Config")
        AutoConfig.register(family.model_type, config_class, exist_ok=True)
        AutoFeatureExtractor.register(config_class, family.load_processor(), exist_ok=True)
        if family.joint_processor is not None:
            # Found by its name in a file; a configuration has one class, so that it stands for itself here.
            joint = family.load_processor(joint=True)
            AutoFeatureExtractor.register(joint, joint, exist_ok=True)
    config, processor = ("config.json",), ("preprocessor_config.json",)
    for cls, method, files in (
        (AutoConfig, "from_pretrained", config),
        (AutoFeatureExtractor, "from_pretrained", processor + config),
        (BrainConfig, "from_pretrained", config),
        (BrainConfig, "get_config_dict", config),
        (ScanProcessor, "from_pretrained", processor),
        (ScanProcessor, "get_feature_extractor_dict", processor),
        # Of which those classes take the method that are made when they are first imported.
        (_BaseAutoModelClass, "from_pretrained", config),
    ):
        _check_first(cls, method, files)
    BrainConfig.weights_source = staticmethod(weights_source)
    if _MODELING_AUTO in sys.modules:
        _register_models()
    else:
        BrainConfig.before_first_instance = _register_models
