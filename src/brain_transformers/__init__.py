"""fMRI foundation models for Hugging Face Transformers.

Importing this package registers its models with the Auto classes. Everything else is loaded when it is first used.
"""

import importlib
from typing import Any

from .registration import register_auto_classes
from .version import __version__

_EXPORTS = {
    "BrainLMConfig": "models.brainlm.configuration_brainlm",
    "BrainLMModel": "models.brainlm.modeling_brainlm",
    "BrainLMForMaskedModeling": "models.brainlm.modeling_brainlm",
    "BrainLMForSequenceClassification": "models.brainlm.modeling_brainlm",
    "BrainLMViTConfig": "models.brainlm_vit.configuration_brainlm_vit",
    "BrainLMViTModel": "models.brainlm_vit.modeling_brainlm_vit",
    "BrainLMViTForMaskedModeling": "models.brainlm_vit.modeling_brainlm_vit",
    "BrainLMViTForSequenceClassification": "models.brainlm_vit.modeling_brainlm_vit",
    "ROISeriesFeatureExtractor": "processing.feature_extraction_roi_series",
    "list_models": "hub.registry",
    "load_config": "hub.registry",
}

__all__ = ["__version__", "register_auto_classes", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


register_auto_classes()
