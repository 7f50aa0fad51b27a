"""Makes the families known to the Auto classes of transformers.

Configurations and the feature extractor are registered at once: that is light. Model classes need
`transformers.modeling_utils`, which takes about two seconds to import, so they are registered when the first
configuration of this package is made: every way to a model of ours (`from_pretrained`, `from_config`, a pipeline)
makes one.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def _check_first(cls: type, method: str, check: Callable[[Any], None]) -> None:
    """Let a class method see its first argument checked first, once.

    transformers has no place for a package to say what a name means before a server is asked for it. Whatever passes
    the check goes on as it would without it.
    """
    original = getattr(cls, method)
    if getattr(original, "checked_first", False):
        return

    @functools.wraps(original.__func__)
    def checked(cls: type, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        check(pretrained_model_name_or_path)
        return original.__func__(cls, pretrained_model_name_or_path, *args, **kwargs)

    checked.checked_first = True  # type: ignore[attr-defined]
    setattr(cls, method, classmethod(checked))


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
    for cls, method in (
        (AutoConfig, "from_pretrained"),
        (AutoFeatureExtractor, "from_pretrained"),
        (BrainConfig, "get_config_dict"),
        (ROISeriesFeatureExtractor, "get_feature_extractor_dict"),
    ):
        _check_first(cls, method, check_is_no_bare_name)
    if _MODELING_AUTO in sys.modules:
        _register_models()
    else:
        BrainConfig.before_first_instance = _register_models
