"""What every processor of scans does, whatever a scan of its modality is.

A modality is one file with a subclass of [`ScanProcessor`] that says what it reads and how such a scan is checked, cut
and masked. Calling it, rows of datasets, fitting, saving and loading are written here, once.
"""

import abc
import copy
import difflib
import inspect
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm.auto import tqdm
from transformers import BatchFeature, FeatureExtractionMixin

from ..files import compact, write_file
from ..foreign import read_json
from ..models.configuration_base import ScanFacts
from ..models.remote_code import shim_reference, write_shim
from .rows import check_columns, scan_name
from .trials import Look

CONTRACT_NAME = "input_contract.json"
"""File beside the weights that says, for programs, what a model is and what it wants of a scan."""

# Scans that one kind of warning names.
_MOST_WARNINGS = 10


@dataclass
class CheckedScan:
    """A scan that [`ScanProcessor.check`] found usable; a modality adds what it needs to cut windows.

    Attributes:
        name: what messages call it.
        values: what it holds, an array unless the modality says otherwise.
    """

    name: str
    values: Any

    def done(self) -> list[str]:
        """What becomes of it that is nothing to be warned of, such as resampling, as short phrases."""
        return []


class ScanProcessor(FeatureExtractionMixin, abc.ABC):
    """Turns scans of one modality into the inputs of a model; the base class of all modalities.

    A subclass sets `reads`, `scan_ndim` and `model_input_names` and writes `check` and `cut`, and where they apply
    `starts`, `mask`, `measure` and `settle`, `report`, `describe`, `refuse` and `unpack`. Its constructor takes what
    is saved in `preprocessor_config.json` and sets it as attributes of the same names.

    Attributes:
        reads: columns that a row of a dataset must have; the first one holds the scan.
        scan_ndim: axes of one scan that is passed as an array.
        takes_from_config: arguments of the constructor that a model config may hold under the same name.
        model_input_names: what comes out; the first one is the main input.
        tags: for the metadata of a model card.
        tells: further columns of a dataset, which say what is known of a scan; a new model needs them too.
        own_tables: tables of a model that the processor keeps as well, see `set_table`.
        mild: kinds of warnings that ask for nothing: what is told of scans that are as they should be.
        auto_class: class of transformers that finds it.
        made_by: how a user comes to a dataset for it, as the beginning of a sentence.
        modality: what it reads, in a word for programs.
        window: which windows are cut unless a call says otherwise.
    """

    reads: ClassVar[tuple[str, ...]]
    scan_ndim: ClassVar[int]
    takes_from_config: ClassVar[tuple[str, ...]] = ()
    model_input_names: ClassVar[list[str]]
    tags: ClassVar[tuple[str, ...]] = ("neuroimaging",)
    tells: ClassVar[tuple[str, ...]] = ()
    own_tables: ClassVar[frozenset[str]] = frozenset()
    mild: ClassVar[frozenset[str]] = frozenset(
        {"tail", "folding", "padding", "missing frames", "empty windows", "unused"}
    )
    auto_class: ClassVar[str] = "AutoFeatureExtractor"
    made_by: ClassVar[str] = "Prepare what the model reads (brain-transformers prepare --kind)"
    modality: ClassVar[str] = "scans"
    window: str = "first"

    def __init__(self, **kwargs: Any) -> None:
        # What transformers writes beside the arguments; anything else is a misspelt argument or a damaged file.
        unknown = sorted(set(kwargs) - {"feature_extractor_type", "auto_map", "processor_class"})
        if unknown:
            near = difflib.get_close_matches(unknown[0], inspect.signature(type(self).__init__).parameters, n=1)
            hint = f"Did you mean {near[0]}?" if near else "Leave it out."
            raise TypeError(f"{type(self).__name__} has no argument {unknown[0]!r:.80}. {hint}")
        super().__init__()
        self._warned: set[Any] = set()
        self._n_warned: Counter[str] = Counter()

    # --- what a modality says ---

    @abc.abstractmethod
    def check(self, scan: Any, name: str, **known: Any) -> CheckedScan:
        """The scan with everything it takes to cut windows; the one place that a scan is checked at.

        Args:
            scan: as it was passed, or as `unpack` took it from a row.
            name: what messages call it.
            known: what is known of it, as the call or its row says.

        Raises:
            ValueError: if it cannot be used; the message says what was expected, what came, and what to do.
        """

    def starts(
        self,
        scan: Any,
        *,
        window: str,
        start: float | None = None,
        n_windows: int | None = None,
        rng: np.random.Generator | None = None,
    ) -> list[float]:
        """Where the windows of a checked scan start; by default a scan is one window. See `time.window_starts`."""
        return [0.0] * (n_windows or 1)

    @abc.abstractmethod
    def cut(self, scan: Any, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """Model inputs of the windows of a checked scan, each with a leading axis of `len(starts)`."""

    def mask(self, scan: Any, starts: Sequence[float]) -> np.ndarray | None:
        """`attention_mask` (n_windows, n_tokens) int64 of those windows, 1 = observed; `None` if all tokens are."""
        return None

    def window_start(self, scan: Any, start: float) -> int:
        """The timepoint that a window is said to start at."""
        return int(start)

    def report(self, scans: Sequence[Any], starts: Sequence[Sequence[float]], batch: Mapping[str, np.ndarray]) -> None:
        """Say what the user should know of the scans of a call, with `warn_once`."""

    def measure(self, scan: Any, name: str, **known: Any) -> Any:
        """What one training scan gives to `settle`."""
        raise ValueError(f"{type(self).__name__} has nothing to fit.")

    def settle(self, measures: list[Any]) -> None:
        """Set what is fitted from the `measure` of every training scan."""

    @property
    def scan_columns(self) -> tuple[str, ...]:
        """Columns that hold scans or their files, in place of what is known of them."""
        return self.reads[:1]

    @property
    def file_options(self) -> dict[str, Any]:
        """Options of the builder that reads files of such scans, where rows have to be made for this processor."""
        return {}

    @property
    def is_fitted(self) -> bool:
        """Whether scans can be processed: nothing is to be fitted, or it was."""
        return True

    def describe(self) -> dict[str, str]:
        """What it does to a scan, in words: `scans`, `scale` and whatever else the modality has -> how."""
        return {
            "scans": f"rows with {', '.join(self.reads)}",
            "inputs": ", ".join(self.model_input_names),
            "scale": "fitted" if self.is_fitted else "not fitted",
        }

    def contract(self) -> dict[str, Any]:
        """What scans must be, for programs: JSON-ready, large values as a digest; a modality adds what it knows."""
        settings = {name: value for name, value in self.to_dict().items() if name != "auto_map"}
        return {
            "class": type(self).__name__,
            "modality": self.modality,
            "columns": list(self.reads),
            "inputs": list(self.model_input_names),
            "fitted": self.is_fitted,
            "settings": {name: compact(value) for name, value in json.loads(json.dumps(settings)).items()},
        }

    def refuse(self, config: Any) -> None:
        """Refuse a model that this processor does not belong to, whose shapes may fit all the same.

        Raises:
            ValueError: with the reason.
        """

    def example(self, config: Any) -> tuple[str, str, str]:
        """For the Python of a model card: arguments of a call, those of `fit`, and what a scan is, in words."""
        return "scan", "scans", f"an array of {self.scan_ndim} axes"

    def as_row(self, item: Any, index: int) -> Mapping[str, Any]:
        """Item `index` of a dataset as a row that says all that this modality needs.

        Raises:
            ValueError: if it does not.
        """
        if not isinstance(item, Mapping) or item.get(self.reads[0]) is None:
            what = (
                f"a row with {', '.join(map(str, list(item)[:8]))}"
                if isinstance(item, Mapping)
                else type(item).__name__
            )
            raise ValueError(f"Expected scan {index} as a row with {', '.join(self.reads)}, got {what}.")
        return item

    def unpack(self, row: Mapping[str, Any], name: str, **known: Any) -> tuple[Any, dict[str, Any]]:
        """(scan, what is known of it) of a row of a dataset; `known` is what the call says."""
        check_columns(row, self.reads, name)
        return row[self.reads[0]], known

    def per_scan(self, name: str, value: Any, n_scans: int) -> list[Any]:
        """An argument of the call, for each scan.

        Raises:
            ValueError: if it is a list of another length.
        """
        if value is None or (not isinstance(value, (list, tuple)) and np.ndim(value) == 0):
            return [value] * n_scans
        if len(value) != n_scans:
            raise ValueError(f"Expected one {name}, or one for each of the {n_scans} scans, got {len(value)}.")
        return list(value)

    # --- one scan, looked at and tried; see `trials` ---

    def look(self, row: Mapping[str, Any], name: str) -> Look:
        """What a row holds, whether or not the model takes it."""
        return Look()

    def unscaled(self) -> Any:
        """A copy that takes scans although nothing is fitted: with everything but the scale."""
        return copy.deepcopy(self)

    # --- a dataset, and a new model for it ---

    @classmethod
    def facts(cls, rows: Any, chosen: Mapping[str, Any], what: str) -> ScanFacts:
        """What the rows of a dataset (`what` in messages) have in common, but for fields of a model in `chosen`."""
        return ScanFacts()

    def remarks(self, facts: ScanFacts) -> list[str]:
        """Lines about what becomes of scans with these facts, where that is not what one would expect."""
        return []

    def set_table(self, name: str, array: np.ndarray) -> None:
        """Keep one of `own_tables`; raises ValueError if it does not fit."""
        kept = ", ".join(sorted(self.own_tables)) or "none"
        raise ValueError(f"{type(self).__name__} keeps no table {name!r}, it keeps {kept}. Store it in the model.")

    def make_table(self, name: str, shape: tuple[Any, ...], rows: Any, what: str) -> tuple[np.ndarray, str] | None:
        """A table of a model that follows from what is known or from rows, and its source; `None` if it does not."""
        return None

    def representatives(self, rows: Any) -> list[int]:
        """Numbers of the rows that stand for all when a dataset is tried; by default the first one."""
        return [0]

    def try_row(self, row: Mapping[str, Any]) -> None:
        """Raise ValueError if a row cannot be used, also where nothing is fitted yet; says what should be known."""
        if self.is_fitted:
            copy.deepcopy(self)(row, window="first")

    def try_rows(self, rows: Any, what: str) -> None:
        """Try some rows (`None`: none), so that what the model cannot take is said before training and not in it.

        Raises:
            ValueError: what the processor says about a row of this set (`what`, such as `"training"`).
        """
        for number in () if rows is None else self.representatives(rows):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # said when the row is used
                    self.try_row(rows[number])
            except ValueError as error:
                raise ValueError(f"Row {number} of the {what} set does not fit: {error}") from error

    # --- written once ---

    def main_input(self, batch: Mapping[str, Any]) -> str:
        """Name of what was measured in a batch: the first of `model_input_names` that is there."""
        return next(name for name in self.model_input_names if name in batch)

    def __call__(
        self,
        scans: Any,
        *,
        window: str | None = None,
        start: float | Sequence[float] | None = None,
        rng: np.random.Generator | None = None,
        return_tensors: str | None = None,
        return_windows: bool = False,
        n_windows: int | None = None,
        **known: Any,
    ) -> BatchFeature:
        """Make a batch of model inputs.

        Args:
            scans: one scan or several (a list, or an array with a leading axis), or one row of a dataset or several.
            window: which windows to cut, instead of the processor's choice.
            start: first timepoint of the window instead of `window`; one, or one a scan.
            rng: numpy generator, for `window="random"`.
            return_tensors: `"pt"` or `"np"`.
            return_windows: also return `scan_index` and `window_start`, both (n_windows,) int64.
            n_windows: this many evenly spaced windows of each scan, from its start to its end, instead of `window`.
                They overlap where the scan is short, and are all the same where it is not longer than one.
            known: what is known of the scans; one value, or one a scan.

        Returns:
            What `cut` gives, and `attention_mask` where something is padded.

        Raises:
            ValueError: if a scan cannot be used; the message says what was expected, what came, and what to do.
        """
        items = self.scans_of(scans)
        values = {key: self.per_scan(key, value, len(items)) for key, value in known.items()}
        firsts = self.per_scan("start", start, len(items))
        checked, starts = [], []
        for number, item in enumerate(items):
            scan, name, facts = self.named(item, number, {key: value[number] for key, value in values.items()})
            checked.append(self.check(scan, name, **facts))
            starts.append(
                self.starts(
                    checked[-1], window=window or self.window, start=firsts[number], n_windows=n_windows, rng=rng
                )
            )
        parts = []
        for scan, first in zip(checked, starts):
            part = self.cut(scan, first)
            mask = self.mask(scan, first)
            if mask is not None and not mask.all():
                part["attention_mask"] = mask
            parts.append(part)
        batch = join(parts)
        scan_index = np.repeat(np.arange(len(checked)), [len(first) for first in starts])
        self.refuse_infinite(batch, [checked[owner].name for owner in scan_index])
        self.report(checked, starts, batch)
        if return_windows:
            batch["scan_index"] = scan_index
            batch["window_start"] = np.array(
                [self.window_start(scan, first) for scan, part in zip(checked, starts) for first in part], np.int64
            )
        return BatchFeature(batch, tensor_type=return_tensors)

    def fit(self, scans: Iterable[Any], **known: Any) -> Any:
        """Set what is fitted from training scans, arrays or rows of a dataset, and return the processor itself.

        Raises:
            ValueError: if there is nothing to fit, there are no scans, or one does not fit.
        """
        total = len(scans) if isinstance(scans, Sized) else None
        progress = tqdm(
            scans, desc="Fitting statistics", unit="scan", total=total, disable=total is not None and total < 32
        )
        measures = []
        for number, item in enumerate(progress):
            scan, name, facts = self.named(item, number, known)
            measures.append(self.measure(scan, name, **facts))
        if not measures:
            raise ValueError("Expected at least one scan to fit on, got none.")
        self.settle(measures)
        return self

    def refuse_infinite(self, batch: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        """Refuse windows, each of the scan with this name, whose values are not finite."""
        main = batch[self.main_input(batch)]
        if not np.isfinite([main.min(initial=0), main.max(initial=0)]).all():
            wrong = ~np.isfinite(main.reshape(len(main), -1)).all(axis=1)
            if wrong.any():
                raise not_finite(names[int(wrong.argmax())])

    def named(self, item: Any, number: int, known: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
        """An array or a row as (scan, what messages call it, what is known of it)."""
        if not isinstance(item, Mapping):
            return item, f"scan {number}", known
        name = scan_name(item, number)
        scan, facts = self.unpack(item, name, **known)
        return scan, name, facts

    def scans_of(self, scans: Any) -> list[Any]:
        """What a caller passed, as a list of scans or of rows.

        Raises:
            ValueError: if there are none, or they are no arrays.
        """
        if isinstance(scans, Mapping):
            # A slice of a dataset holds a column each: the last one of numbers, or of scans if there is no other.
            if np.ndim(scans.get(self.reads[-1], 0)) == (1 if len(self.reads) > 1 else self.scan_ndim + 1):
                return [dict(zip(scans, values)) for values in zip(*scans.values(), strict=True)]
            return [scans]
        if not isinstance(scans, (list, tuple)) and not hasattr(scans, "__array__") and isinstance(scans, Iterable):
            scans = list(scans)
        if isinstance(scans, (list, tuple)):
            items = list(scans)
            if items and isinstance(items[0], Mapping):
                return items
            if items and hasattr(items[0], "__array__"):
                items = [as_array(item) for item in items]
            if items and as_array(items[0]).ndim < self.scan_ndim:
                items = [as_array(items)]
        else:
            array = as_array(scans)
            items = list(array) if array.ndim == self.scan_ndim + 1 else [array]
        if not items:
            raise ValueError("Expected at least one scan, got an empty list.")
        return items

    def warn_once(self, key: Any, message: str) -> None:
        """Warn, once for each `key`; a tuple of a kind and a scan for what belongs to single scans."""
        if key in self._warned:
            return
        self._warned.add(key)
        kind = key[0] if isinstance(key, tuple) else key
        self._n_warned[kind] += 1
        # What belongs to single scans is said of the first ones only: a large dataset would say nothing else.
        if self._n_warned[kind] <= _MOST_WARNINGS:
            more = " Other scans like it are not named." if self._n_warned[kind] == _MOST_WARNINGS else ""
            warnings.warn(message + more, UserWarning, stacklevel=2)

    # --- construction and saving ---

    @classmethod
    def from_model_config(cls, config: Any, **overrides: Any) -> Any:
        """Make the processor that fits a model config of any family.

        Reads `takes_from_config` where the config has them, and what its family says of the scale that its weights
        know (`models/<family>/family.py`).
        """
        return cls(**{**cls.fitting(config), **overrides})

    @classmethod
    def fitting(cls, config: Any) -> dict[str, Any]:
        """Arguments of the constructor that fit a model config."""
        values = dict(getattr(config, "processor_defaults", {}))
        given = {name: getattr(config, name, None) for name in cls.takes_from_config}
        return {**values, **{name: value for name, value in given.items() if value is not None}}

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoFeatureExtractor") -> None:
        """Do nothing: copying this one module into a model folder would separate it from the package it needs."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load `preprocessor_config.json` of a folder or of the Hub, as transformers does.

        Raises:
            OSError: if there is none, or it is no JSON.
            ValueError: if it holds what no extractor can be; the message names the file and the field.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are fields
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{pretrained_model_name_or_path}: preprocessor_config.json is damaged or was not written by this "
                f"package: {reason} Save the extractor again, or convert the checkpoint again."
            ) from error

    @classmethod
    def _shim_names(cls) -> list[str]:
        """Classes that remote code imports from this package: none for a processor that is not in it."""
        return [cls.__name__] if cls.__module__.startswith(f"{__package__.partition('.')[0]}.") else []

    def to_dict(self) -> dict[str, Any]:
        """Everything that the constructor takes, JSON-ready (the base method would drop `window`)."""
        output = {key: copy.deepcopy(value) for key, value in self.__dict__.items() if not key.startswith("_")}
        output["feature_extractor_type"] = type(self).__name__
        for name in self._shim_names():
            output["auto_map"] = {"AutoFeatureExtractor": shim_reference(name)}
        return output

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `preprocessor_config.json`, and beside it the module that its `auto_map` refers to.

        An input contract that lies there is kept true.
        """
        if self._shim_names() and not Path(save_directory).is_file():  # transformers reports that one
            write_shim(save_directory, self._shim_names())
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        contract = Path(save_directory) / CONTRACT_NAME
        if contract.is_file():
            content = read_json(contract, "an input contract", OSError)
            write_file(contract, json.dumps({**content, "input": self.contract()}, indent=2, sort_keys=True) + "\n")


# --- scans ---


def as_array(values: Any) -> np.ndarray:
    """An array of what the caller has: arrays, lists of numbers, or tensors of any device and precision."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values  # bfloat16
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected scans as arrays, got {type(values).__name__} that is none ({error}).") from error


def join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """One batch of several, of what all of them have.

    Where only some have an `attention_mask`, it is ones; one that ends early says nothing of the tokens behind it.
    """
    if len(parts) == 1:
        return dict(parts[0])
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        have = [part[name] for part in parts if name in part]
        if name == "attention_mask":
            width, main = max(mask.shape[1] for mask in have), next(iter(parts[0]))
            masks = [part.get(name, np.ones((len(part[main]), 0), have[0].dtype)) for part in parts]
            have = [np.pad(mask, [(0, 0), (0, width - mask.shape[1])], constant_values=1) for mask in masks]
        if len(have) == len(parts):
            joined[name] = np.concatenate(_of_one_length(have))
    return joined


def _of_one_length(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Windows that differ in their last axis, as those of scans with other repetition times, with zeros behind."""
    lengths = {part.shape[-1] for part in parts}
    if parts[0].ndim < 2 or len(lengths) == 1:
        return parts
    longest = max(lengths)
    return [np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, longest - part.shape[-1])]) for part in parts]


def not_finite(name: str) -> ValueError:
    """The error for a scan whose scaled values are infinite or NaN."""
    return ValueError(
        f"Expected finite numbers after scaling {name}, got infinite ones or NaN. Its values are too large: check "
        "that file, or leave it out."
    )


# --- arguments ---


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse what is none of these."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        raise ValueError(f"Expected {name} to be one of {list(choices)}, got {value!r:.80}.")


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """`value`, if it is a number within these limits."""
    number = float("nan")
    if isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool):
        number = float(min(max(value, -1e300), 1e300)) if value == value else number
    if not low <= number <= high:
        raise ValueError(f"Expected {name} to be a number between {low:g} and {high:g}, got {value!r:.80}.")
    return value


def check_size(name: str, value: Any, most: int) -> int:
    """`value`, if it is a whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"Expected {name} to be a positive integer up to {most}, got {value!r:.40}.")
    return value
