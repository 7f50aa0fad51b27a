"""What the configurations of all families share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .remote_code import shim_reference, write_shim


@strict
class BrainConfig(PreTrainedConfig):
    """Base of every configuration: what the input of the model is, in words that the extractor checks.

    Args:
        roi_order: name of the parcel order that the weights expect, or the list of labels, or `None` if unknown.
        t_r: repetition time of the training data in seconds, or `None` if unknown.
    """

    roi_order: str | list[str] | None = None
    t_r: float | int | None = None

    # Fields that say where a table that is saved with the weights came from; `None` means that there is none.
    table_sources: ClassVar[tuple[str, ...]] = ()
    # Run once, before the first configuration is made: the package registers its model classes here, so that importing
    # it does not have to load them.
    before_first_instance: ClassVar[Callable[[], None] | None] = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "BrainConfig":
        # Here and not in `__post_init__`, since unpickling makes a configuration without initialising it.
        callback, BrainConfig.before_first_instance = BrainConfig.before_first_instance, None
        if callback is not None:
            callback()
        return super().__new__(cls)

    @classmethod
    def auto_class_names(cls) -> dict[str, str]:
        """Auto class -> name of the class of this family that it resolves to."""
        stem = cls.__name__.removesuffix("Config")
        return {
            "AutoConfig": cls.__name__,
            "AutoModel": f"{stem}Model",
            "AutoModelForPreTraining": f"{stem}ForMaskedModeling",
            "AutoModelForSequenceClassification": f"{stem}ForSequenceClassification",
        }

    def to_dict(self) -> dict[str, Any]:
        """All fields, with the `auto_map` that makes the saved model loadable with `trust_remote_code=True`."""
        output = super().to_dict()
        output["auto_map"] = {auto: shim_reference(name) for auto, name in self.auto_class_names().items()}
        return output

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `config.json`, and beside it the module that its `auto_map` refers to."""
        if not Path(save_directory).is_file():  # transformers reports that one
            write_shim(save_directory, self.auto_class_names().values())
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: repositories carry a one-line shim that imports this package, so no source is copied.

        (transformers would otherwise copy this file, without the modules that it needs, next to the weights.)
        """
