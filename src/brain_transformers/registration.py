"""Makes the families known to the Auto classes of transformers.

Configurations and the feature extractor are registered at once: that is light. Model classes need
`transformers.modeling_utils`, which takes about two seconds to import, so they are registered when (and only when)
`transformers.models.auto.modeling_auto` is loaded, whoever loads it and whenever.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

_MODELING_AUTO = "transformers.models.auto.modeling_auto"


@dataclass(frozen=True)
class Family:
    """Classes of one architecture: `folder` under `models`, and the stem of its modules and classes."""

    folder: str
    stem: str

    @property
    def config_module(self) -> str:
        return f"brain_transformers.models.{self.folder}.configuration_{self.folder}"

    @property
    def modeling_module(self) -> str:
        return f"brain_transformers.models.{self.folder}.modeling_{self.folder}"

    def class_name(self, kind: str) -> str:
        return f"{self.stem}{kind}"


FAMILIES = (Family("brainlm", "BrainLM"), Family("brainlm_vit", "BrainLMViT"))

_KIND_OF_AUTO_CLASS = {
    "AutoModel": "Model",
    "AutoModelForPreTraining": "ForMaskedModeling",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
}


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls [`_register_models`] once, right after `modeling_auto` has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODELING_AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register_models()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register_models() -> None:
    modeling_auto = importlib.import_module(_MODELING_AUTO)
    for family in FAMILIES:
        config_class = getattr(importlib.import_module(family.config_module), family.class_name("Config"))
        modeling = importlib.import_module(family.modeling_module)
        for auto_class, kind in _KIND_OF_AUTO_CLASS.items():
            model_class = getattr(modeling, family.class_name(kind))
            getattr(modeling_auto, auto_class).register(config_class, model_class, exist_ok=True)


def register_auto_classes() -> None:
    """Register every family with AutoConfig, AutoFeatureExtractor and the AutoModel classes. Safe to call again."""
    from transformers import AutoConfig, AutoFeatureExtractor

    try:
        from .processing.feature_extraction_roi_series import ROISeriesFeatureExtractor
    except ImportError:  # TEMPORARY until the module lands
        ROISeriesFeatureExtractor = None

    for family in FAMILIES:
        config_class = getattr(importlib.import_module(family.config_module), family.class_name("Config"))
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        if ROISeriesFeatureExtractor is not None:
            AutoFeatureExtractor.register(config_class, ROISeriesFeatureExtractor, exist_ok=True)
    if _MODELING_AUTO in sys.modules:
        _register_models()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
