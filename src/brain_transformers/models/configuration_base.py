"""What the configurations of all families share."""

from collections.abc import Callable
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class BrainConfig(PreTrainedConfig):
    """Base of every configuration: what the input of the model is, in words that the extractor checks.

    Args:
        roi_order: name of the parcel order that the weights expect, or the list of labels, or `None` if unknown.
        t_r: repetition time of the training data in seconds, or `None` if unknown.
    """

    roi_order: str | list[str] | None = None
    t_r: float | int | None = None

    # Run once, before the first configuration is made: the package registers its model classes here, so that importing
    # it does not have to load them.
    before_first_instance: ClassVar[Callable[[], None] | None] = None

    def __post_init__(self, **kwargs: Any) -> None:
        callback, BrainConfig.before_first_instance = BrainConfig.before_first_instance, None
        if callback is not None:
            callback()
        super().__post_init__(**kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: repositories carry a one-line shim that imports this package, so no source is copied.

        (transformers would otherwise copy this file, without the modules that it needs, next to the weights.)
        """
