"""Makes the families known to the Auto classes of transformers.

Configurations and the feature extractor are registered at once: that is light. Model classes need
`transformers.modeling_utils`, which takes about two seconds to import, so they are registered when the first
configuration of this package is made: every way to a model of ours (`from_pretrained`, `from_config`, a pipeline)
makes one.
"""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .foreign import read_json

_MODELING_AUTO = "transformers.models.auto.modeling_auto"


@dataclass(frozen=True)
class Family:
    """Classes of one architecture: `folder` under `models`, the stem of its classes, and its `model_type`."""

    folder: str
    stem: str
    model_type: str

    @property
    def config_module(self) -> str:
        return f"brain_transformers.models.{self.folder}.configuration_{self.folder}"

    @property
    def modeling_module(self) -> str:
        return f"brain_transformers.models.{self.folder}.modeling_{self.folder}"

    def class_name(self, kind: str) -> str:
        return f"{self.stem}{kind}"


FAMILIES = (
    Family("brainlm", "BrainLM", "brainlm_mae"),
    Family("brainlm_vit", "BrainLMViT", "brainlm_vit_mae"),
    Family("brain_semantoks", "BrainSemantoks", "brain_semantoks"),
    Family("brain_jepa", "BrainJEPA", "brain_jepa"),
)

_KIND_OF_AUTO_CLASS = {
    "AutoModel": "Model",
    "AutoModelForPreTraining": "ForMaskedModeling",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
}


def _register_models() -> None:
    """Register the model classes with the AutoModel classes; imports them."""
    modeling_auto = importlib.import_module(_MODELING_AUTO)
    for family in FAMILIES:
        config_class = getattr(importlib.import_module(family.config_module), family.class_name("Config"))
        modeling = importlib.import_module(family.modeling_module)
        for auto_class, kind in _KIND_OF_AUTO_CLASS.items():
            model_class = getattr(modeling, family.class_name(kind))
            getattr(modeling_auto, auto_class).register(config_class, model_class, exist_ok=True)


def _check_first(cls: type, method: str, check: Callable[[Any], None], files: tuple[str, ...]) -> None:
    """Let a class method see its first argument checked first, once: as a name, and as a folder with these files.

    transformers has no place for a package to say what a name means before a server is asked for it. Whatever passes
    the check goes on as it would without it.
    """
    original = getattr(cls, method)
    if getattr(original, "checked_first", False):
        return

    @functools.wraps(original.__func__)
    def checked(cls: type, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        check(pretrained_model_name_or_path)
        _check_files(pretrained_model_name_or_path, files)
        return original.__func__(cls, pretrained_model_name_or_path, *args, **kwargs)

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

    from .hub.registry import check_is_no_bare_name
    from .models.configuration_base import BrainConfig
    from .processing.feature_extraction_roi_series import ROISeriesFeatureExtractor

    for family in FAMILIES:
        config_class = getattr(importlib.import_module(family.config_module), family.class_name("Config"))
        AutoConfig.register(family.model_type, config_class, exist_ok=True)
        AutoFeatureExtractor.register(config_class, ROISeriesFeatureExtractor, exist_ok=True)
    config, processor = ("config.json",), ("preprocessor_config.json",)
    for cls, method, files in (
        (AutoConfig, "from_pretrained", config),
        (AutoFeatureExtractor, "from_pretrained", processor + config),
        (BrainConfig, "get_config_dict", config),
        (ROISeriesFeatureExtractor, "get_feature_extractor_dict", processor),
    ):
        _check_first(cls, method, check_is_no_bare_name, files)
    if _MODELING_AUTO in sys.modules:
        _register_models()
    else:
        BrainConfig.before_first_instance = _register_models
