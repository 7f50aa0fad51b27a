"""What the configurations of all families share."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from transformers import PreTrainedConfig

from .family import Family
from .remote_code import shim_reference, write_shim
from .validation import CHOICES, RANGES, CheckedFields, Range

# What a caller may say and a file may not: code to run, and where to take it from.
_NOT_FROM_FILES = ("auto_map", "trust_remote_code", "attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class ScanFacts:
    """What the scans of a dataset have in common, for a model that fits them; `None` where it is not known.

    Attributes:
        n_rois: parcels of a scan, where scans are series of parcels.
        roi_order: name of their order, or the list of labels.
        t_r: repetition time of most scans in seconds.
        volume_size: voxels `[y, x, z]`, where scans are volumes.
        n_frames: frames that all scans of about the usual length have, where scans are volumes.
        processor_options: arguments of the processor that follow from how the scans were prepared.
    """

    n_rois: int | None = None
    roi_order: str | list[str] | None = None
    t_r: float | None = None
    volume_size: list[int] | None = None
    n_frames: int | None = None
    processor_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """What a model must be told beside its input, such as where its parcels lie.

    Attributes:
        what: what a row says.
        shape: rows and columns.
        source: where the one that the model has came from; `None` if it has none.
        kept_in: `"weights"`: a buffer that is saved with them; `"configuration"`: it decides on the shapes of the
            weights, so that it is given when a model is made; `"processor"`: only the way of a scan into the model
            needs it.
        columns: field of the configuration with the number of columns, where that can be chosen.
        exchangeable: whether trained weights go with another table than they were trained with.
        kind: what a user gives for it; one of `data.model_tables.FORMATS`.
    """

    what: str
    shape: tuple[int | None, ...]
    source: str | None = None
    kept_in: str = "weights"
    columns: str | None = None
    exchangeable: bool = False
    kind: str = "numbers"

    def fitted(self, called: str, values: np.ndarray) -> np.ndarray:
        """Leading columns of a table of numbers that a user gave, as float32 of its shape.

        Raises:
            ValueError: if rows or columns are lacking, or numbers say nothing; `called` is what the message calls it.
        """
        n_rows, n_columns = (int(size or 0) for size in self.shape)
        if values.ndim != 2 or len(values) != n_rows or values.shape[1] < n_columns:
            fewer = f" Fewer: --config {self.columns}=..." if self.columns else ""
            raise ValueError(
                f"{called}: expected {n_rows} rows (parcels in the order of the dataset) and at least {n_columns} "
                f"columns, got shape {values.shape}.{fewer}"
            )
        values = values[:, :n_columns]
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ValueError(f"{called}: expected finite numbers, got {values[row].tolist()[:4]} in row {row + 1}.")
        if (constant := np.flatnonzero(np.ptp(values, axis=0) == 0)).size:
            raise ValueError(f"{called}: column {constant[0] + 1} is the same for every parcel, which says nothing.")
        return np.ascontiguousarray(values, dtype=np.float32)


class TableError(ValueError):
    """A table that was given cannot be used; the message says what was expected.

    Attributes:
        table: its name.
    """

    def __init__(self, table: str, message: str):
        super().__init__(message)
        self.table = table


@strict
class BrainConfig(CheckedFields, PreTrainedConfig):
    """Base of every configuration, whatever the modality: its family, checks of its fields, saving and loading.

    Models of parcel series start from [`ROIConfig`]. What a field is that several families have is said here; a
    family documents those of its own. Defaults are those of its released checkpoint.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: widths and depth of the encoder, and
            with `decoder_` or `predictor_` before their names of the part that only pretraining has.
        hidden_act: activation of the feed-forward blocks; `"gelu"` is the exact form.
        layer_norm_eps, initializer_range: epsilon of the norms, and standard deviation of weights at the start.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout after each block and on attention, while training.
        drop_path_rate: stochastic depth of the last layer while training; layers before it have linearly less.
        mask_ratio: share of tokens that masked modeling hides.
        pooling: how `pooler_output` is made of the tokens, see [`pool_tokens`].
        classifier_head, classifier_dropout: head for labels, and dropout inside an MLP.
        weights_license: licence of published weights that the model, or the one that it was trained from, comes from;
            conversion sets it, and everything that is trained or saved again keeps it. `None`: of nobody's.
    """

    weights_license: str | None = None

    # What the configurations of one family share: the names of its classes, its objective, how scans come to it.
    family: ClassVar[Family]
    # Outputs beside the logits, which the Trainer need not gather in evaluation; also of the pretraining heads.
    keys_to_ignore_at_inference = [
        *("mask", "predictions", "targets", "signal_mask", "target_mask", "token_mask", "ids_restore"),
        *("context_indices", "target_indices", "context_hidden_state", "last_hidden_state", "pooler_output"),
        *("raw_logits", "classification_loss", "reconstruction_loss"),
    ]
    # Table that is saved with the weights -> field that says where it came from; `None` there means that it is none.
    table_sources: ClassVar[Mapping[str, str]] = {}
    # Fields by which a published model is told from others; they say nothing of the weights.
    size_fields: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    )
    ranges: ClassVar[Mapping[str, Range]] = RANGES
    choices: ClassVar[Mapping[str, tuple[str | None, ...]]] = CHOICES
    # Field -> values of earlier versions and what they are called now.
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    # What tells a `config.json` in the authors' own format, which has to be converted: keys, and other model types.
    authors_keys: ClassVar[tuple[str, ...]] = ()
    authors_model_types: ClassVar[tuple[str, ...]] = ()
    # Run once, before the first configuration is made: the package registers its model classes here, so that importing
    # it does not have to load them.
    before_first_instance: ClassVar[Callable[[], None] | None] = None
    # What models are loaded from, for what was given: the package says here which folder the name of a model means.
    weights_source: ClassVar[Callable[[Any], Any]] = staticmethod(lambda source: source)

    def __new__(cls, *args: Any, **kwargs: Any) -> "BrainConfig":
        # Here and not in `__post_init__`, since unpickling makes a configuration without initialising it.
        callback, BrainConfig.before_first_instance = BrainConfig.before_first_instance, None
        if callback is not None:
            callback()
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, str) and name in self.renamed_values:
            value = self.renamed_values[name].get(value, value)
        try:
            self.check_field(name, value)
        except ValueError as error:
            raise StrictDataclassFieldValidationError(field=name, cause=error) from error
        super().__setattr__(name, value)

    @classmethod
    def of_fields(cls, name: str, values: Mapping[str, Any], chosen: Mapping[str, Any]) -> Any:
        """The configuration of a named model, with fields that were chosen in place of its own.

        Raises:
            ValueError: if a field is unknown, or has a value that it cannot have.
        """
        plain = cls(**values)
        for field_name in chosen:
            if not hasattr(plain, field_name) and not hasattr(plain, f"_{field_name}"):
                similar = difflib.get_close_matches(field_name, plain.to_dict(), n=1)
                meant = f" Did you mean {similar[0]}?" if similar else ""
                raise ValueError(f"The configuration of {name} has no field {field_name}.{meant}")
        try:
            return cls(**{**values, **chosen})
        except StrictDataclassError as error:
            reason = str(error).splitlines()[-1].strip()
            reason = (reason.partition("Error: ")[2] or reason).rstrip(".")
            raise ValueError(f"{reason} (in the configuration of {name}).") from error

    def validate_labels(self) -> None:
        """Check what transformers declares but does not check: the tables of labels."""
        for name in ("id2label", "label2id"):
            if not isinstance(getattr(self, name), (dict, type(None))):
                raise ValueError(f"{name} must be a table of labels, got {type(getattr(self, name)).__name__}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedConfig.from_pretrained`; see [`from_dict`] for what is refused."""
        kwargs.setdefault("name_or_path", pretrained_model_name_or_path)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a configuration of the content of a file, and of what the caller sets otherwise.

        Args:
            config_dict: content of `config.json`. Keys that would choose code to run are not taken from it.
            kwargs: values that go before those of the file, such as `attn_implementation`.

        Raises:
            ValueError: for anything that is no configuration of this family, naming the file.
        """
        source = kwargs.get("name_or_path") or "config.json"
        try:
            values = {k: v for k, v in config_dict.items() if k not in _NOT_FROM_FILES and not k.startswith("_")}
            if (found := values.pop("model_type", cls.model_type)) != cls.model_type:
                raise ValueError(f"it is of model_type {found!r}")
            for name in values:
                known = getattr(cls, name, None)
                if name in cls.__dataclass_fields__ or known is None or isinstance(known, property):
                    continue
                raise ValueError(f"{name!r} is no setting")
            made = super().from_dict(values, **kwargs)
            (made[0] if isinstance(made, tuple) else made).validate()  # what the caller set came after the first check
            return made
        except Exception as error:  # whatever a foreign file makes transformers and us do
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"The configuration in {source} cannot be used: {reason[:500]}. Expected the config.json of a "
                f"{cls.model_type} model as save_pretrained writes it. Mend it, or save or download the model again."
            ) from error

    def describe(self) -> dict[str, str]:
        """What the network is, in words, for a model card."""
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        return {"encoder": f"{layers} layers, width {self.hidden_size}, {heads} heads"}

    def load_processor(self) -> Any:
        """The class that makes the inputs of a model of this configuration; imports its module."""
        return self.family.load_processor()

    @property
    def processor_defaults(self) -> Mapping[str, Any]:
        """Arguments of the processor that the weights of this family expect, beside what the configuration says."""
        return self.family.processor_defaults

    @property
    def tables(self) -> dict[str, Table]:
        """Name -> what a model of this configuration must be told; none unless a family says so."""
        return {}

    def fitted_to(self, facts: ScanFacts, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a configuration like this one, but for what fits the scans of a dataset and what was chosen.

        By default nothing follows from the scans; the processor brings them to the sizes of this configuration.

        Returns:
            Fields that differ, or may, from this configuration; those of `chosen` among them.

        Raises:
            ValueError: if the family cannot be made to fit them, saying what is needed.
        """
        return dict(chosen)

    @classmethod
    def auto_class_names(cls) -> dict[str, str]:
        """Auto class -> name of the class that remote code imports from this package; none if it is not in it."""
        return cls.family.auto_classes if cls.__module__.startswith(f"{__name__.partition('.')[0]}.") else {}

    def to_dict(self) -> dict[str, Any]:
        """All fields, with the `auto_map` that makes the saved model loadable with `trust_remote_code=True`."""
        output = super().to_dict()
        if names := self.auto_class_names():
            output["auto_map"] = {auto: shim_reference(name) for auto, name in names.items()}
        if output.get("weights_license") is None:
            output.pop("weights_license", None)
        return output

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `config.json`, and beside it the module that its `auto_map` refers to."""
        if (names := self.auto_class_names()) and not Path(save_directory).is_file():  # transformers reports that one
            write_shim(save_directory, names.values())
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: repositories carry a one-line shim that imports this package, so no source is copied.

        (transformers would otherwise copy this file, without the modules that it needs, next to the weights.)
        """
