"""What the configurations of all families share."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

ROIOrder = str | list[str]


@strict
class BrainConfig(PreTrainedConfig):
    """Base of every configuration: what the input of the model is, in words that the extractor checks.

    Args:
        roi_order: name of the parcel order that the weights expect, or the list of labels, or `None` if unknown.
        t_r: repetition time of the training data in seconds, or `None` if unknown.
    """

    roi_order: str | list[str] | None = None
    t_r: float | int | None = None

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: repositories carry a one-line shim that imports this package, so no source is copied.

        (transformers would otherwise copy this file, without the modules that it needs, next to the weights.)
        """
