"""From rows of a scan dataset to a batch of model inputs."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.base import ScanProcessor, join
from ..processing.time import WINDOWS
from .labels import check_column, class_name
from .participants import is_gap
from .row_randomness import EPOCH, EVALUATION_EPOCH, ROW_INDEX, BatchNumbers, RowRandomness, SeededDraws, row_key

Rows = Sequence[Mapping[str, Any]]
# What a processor says of its windows beside the inputs of the model.
_WINDOW_NAMES = ("scan_index", "window_start")


class ScanCollator:
    """Turn rows of a scan dataset into a batch, whatever their modality: windows, labels, and masks for pretraining.

    What is drawn (random windows, augmentation, masks) is a pure function of seed, epoch and row, or of seed, epoch
    and number of the batch for what all its rows share. Resumed runs, any number of workers and of processes, and
    every evaluation therefore see the same.

    Args:
        processor: cuts and scales the scans; or a function from rows to a batch with one window a row, such as another
            collator; or `None` for rows that hold the inputs of the model, one window each, as arrays.
        label_column: column of the rows that becomes `labels`: int64 for whole numbers and mapped text, else float32.
        label2id: numbers of text labels.
        regression: labels are numbers to predict, so float32 even where they are whole.
        window: `"first"`, `"center"`, `"all"`, `"cover"` or `"random"`; by default the processor's own choice. With
            `"all"` and `"cover"` a row may give several windows, and its label is repeated.
        train_window, eval_window: instead of `window`, one choice for training and one for evaluation, such as
            `"random"` and `"all"`, so that training sees the whole of every scan over its epochs. Which it is the rows
            say, as the Trainers of this package hand them out. Evaluation rows with several windows come with
            `scan_index`, by which [`FineTuningTrainer`] averages their predictions.
        n_windows: this many evenly spaced windows of each scan, instead of `window`.
        n_views: this many windows of each row on a new second axis of all inputs, each drawn on its own; rows that
            hold inputs hold that axis already.
        seed: of random windows, augmentation and masks.
        rng_for_row: for `"random"`, instead of `seed`: makes the generator that a row's window is drawn from.
        return_windows: also return `scan_index` (position of the row in the batch) and `window_start`.
        augment: `(window, generator) -> window`, done to the main input of rows of training.
        masks: `(draws, inputs) -> arguments of forward`, such as `draw_masks` of a model with its configuration; they
            are added to the batch.
        batches: which batch rows belong to, for what its rows share; by default a call is one.

    Raises:
        ValueError: if random windows come without `seed` or `rng_for_row`, or a row cannot be used.
    """

    def __init__(
        self,
        processor: ScanProcessor | Callable[[Rows], Mapping[str, Any]] | None = None,
        label_column: str | None = None,
        *,
        label2id: Mapping[str, int] | None = None,
        regression: bool = False,
        window: str | None = None,
        train_window: str | None = None,
        eval_window: str | None = None,
        n_windows: int | None = None,
        n_views: int | None = None,
        seed: int | None = None,
        rng_for_row: Callable[[Mapping[str, Any]], np.random.Generator] | None = None,
        return_windows: bool = False,
        augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        masks: Callable[[SeededDraws, Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]] | None = None,
        batches: BatchNumbers | None = None,
    ) -> None:
        for name, value in (("window", window), ("train_window", train_window), ("eval_window", eval_window)):
            if value is not None and value not in WINDOWS:
                raise ValueError(f"Expected {name} to be one of {list(WINDOWS)}, got {value!r}.")
        if (train_window is None) != (eval_window is None) or (window is not None and train_window is not None):
            raise ValueError(
                f"Expected either window or both train_window and eval_window, got {window!r}, {train_window!r} and "
                f'{eval_window!r}. Pass, for example, train_window="random", eval_window="all".'
            )
        self.processor: Any = processor
        self.label_column = label_column
        self.label2id = None if label2id is None else dict(label2id)
        self.regression = regression
        self.window = window
        self.train_window, self.eval_window = train_window, eval_window
        self.n_windows, self.n_views = n_windows, n_views
        self.rng_for_row = RowRandomness(seed, "window") if rng_for_row is None and seed is not None else rng_for_row
        self.return_windows = return_windows
        self.augment, self.masks = augment, masks
        if (augment is not None or masks is not None) and seed is None:
            raise ValueError("Expected a seed for augment and masks, which are drawn, got none. Pass seed=.")
        if seed is not None:
            self._rng_of_views = RowRandomness(seed, "view")
            self.batches = BatchNumbers(seed) if batches is None else batches
        if isinstance(processor, ScanProcessor) and n_windows is None and self.rng_for_row is None:
            choices = (train_window, eval_window) if train_window is not None else (window or processor.window,)
            if "random" in choices:
                raise ValueError(
                    "Random windows need seed=, from which they follow with the epoch and the row (the Trainers of "
                    "this package tell both), or rng_for_row=, a function from a row to a numpy generator."
                )

    @property
    def makes_masks(self) -> bool:
        """Whether batches come with masks; the Trainers add theirs otherwise."""
        return self.masks is not None

    def __call__(self, rows: Rows) -> dict[str, Any]:
        """Collate rows as a numpy-format dataset gives them.

        Returns:
            What the processor gives, such as `signals` (batch, n_rois, n_timepoints) float32, and where they apply
            `attention_mask` (batch, n_tokens) int64, `labels` (batch,) and masks.

        Raises:
            ValueError: if a row cannot be used, or gives other than one window where something is drawn for each.
        """
        rows = list(rows)
        if isinstance(self.processor, ScanProcessor):
            batch = self._windows(self.processor, rows)
        else:
            beside = {ROW_INDEX, EPOCH, self.label_column}
            inputs = [{key: value for key, value in row.items() if key not in beside} for row in rows]
            batch = stack(inputs) if self.processor is None else dict(self.processor(rows))
            for key in (ROW_INDEX, EPOCH):  # collators that make tensors of every key
                batch.pop(key, None)
            if self.label_column is not None:
                batch["labels"] = self._labels(rows)
        if self.augment is None and self.masks is None:
            return batch
        main = next(iter(batch))
        if len(batch[main]) != len(rows):
            raise ValueError(
                f"Expected one window a row, got {len(batch[main])} windows of {len(rows)} rows. Use a collator with "
                'window "random", "first" or "center".'
            )
        if self.n_views is not None and (batch[main].dim() < 4 or batch[main].shape[1] != self.n_views):
            raise ValueError(
                f"Expected rows with {self.n_views} windows of a scan on the first axis of {main}, got shape "
                f"{tuple(batch[main].shape[1:])}. For scans of any length pass the feature extractor as "
                "processing_class."
            )
        if self.augment is not None and row_key(rows[0])[0] != EVALUATION_EPOCH:
            batch[main] = self._augmented(batch[main], rows)
        if self.masks is not None:
            batch.update(self.masks(self.batches.draws(rows), batch))
        return batch

    def _windows(self, processor: ScanProcessor, rows: Rows) -> dict[str, Any]:
        evaluation = self.train_window is not None and self._is_evaluation(rows)
        window = self.window or processor.window
        if self.train_window is not None:
            window = str(self.eval_window if evaluation else self.train_window)
        parts: list[dict[str, np.ndarray]] = []
        one_each = _OneEach(len(rows) * (self.n_views or 1))
        for row in rows:
            rng = self.rng_for_row(row) if window == "random" and self.rng_for_row is not None else None
            rngs = [rng] * (self.n_views or 1) if self.n_views is None or rng is None else rng.spawn(self.n_views)
            parts += [
                one_each.take(processor(row, window=window, rng=rng, return_windows=True, n_windows=self.n_windows))
                for rng in rngs
            ]
        windows = [{name: value for name, value in part.items() if name not in _WINDOW_NAMES} for part in parts]
        batch = {name: torch.from_numpy(value) for name, value in one_each.join(windows).items()}
        counts = torch.tensor([len(part["window_start"]) for part in parts])
        if self.n_views is not None:
            batch = {name: value.unflatten(0, (len(rows), -1)) for name, value in batch.items()}
            counts = torch.ones(len(rows), dtype=torch.int64)
        if self.label_column is not None:
            batch["labels"] = torch.repeat_interleave(self._labels(rows), counts)
        if self.return_windows or (evaluation and window in ("all", "cover")):
            batch["scan_index"] = torch.repeat_interleave(torch.arange(len(rows)), counts)
        if self.return_windows:
            batch["window_start"] = torch.from_numpy(np.concatenate([part["window_start"] for part in parts]))
        return batch

    def _augmented(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Each window of each row changed, those of a row with one generator."""
        assert self.augment is not None
        views = values if self.n_views is not None else values[:, None]
        changed = np.empty(views.shape, dtype=np.float32)
        for of_row, output, row in zip(views.numpy(), changed, rows, strict=True):
            rng = self._rng_of_views(row)
            for number, view in enumerate(of_row):
                output[number] = self.augment(view, rng)
        return torch.from_numpy(changed.reshape(values.shape))

    @staticmethod
    def _is_evaluation(rows: Rows) -> bool:
        if any(EPOCH not in row for row in rows):
            raise ValueError(
                "Expected rows that say whether they are for training or evaluation, since train_window and "
                "eval_window differ. Use FineTuningTrainer or another Trainer of this package instead of "
                "transformers.Trainer, wrap the dataset in SeededRows, or pass one window= for both."
            )
        return all(row[EPOCH] == EVALUATION_EPOCH for row in rows)

    def check_labels(self, rows: Any) -> None:
        """Refuse a dataset with a scan that has no label, before training instead of when its batch comes.

        Raises:
            ValueError: if it has no such column, or saying how many there are and how to leave them out.
        """
        name, names = self.label_column, getattr(rows, "column_names", None)
        if name is None or not names or not hasattr(rows, "__len__"):
            return  # what cannot be looked through is told by its batch
        check_column(names, name, "dataset")
        missing = sum(map(is_gap, rows.with_format(None).select_columns([name])[name]))
        if missing:
            raise ValueError(self._without_label(f"{missing} of {len(rows)} scans have"))

    def _without_label(self, who: str) -> str:
        name = self.label_column
        return (
            f"{who} no {name}. Leave them out: dataset.filter(lambda row: row[{name!r}] not in (None, 'n/a') and "
            f"row[{name!r}] == row[{name!r}])."
        )

    def _labels(self, rows: Rows) -> torch.Tensor:
        name = str(self.label_column)
        for row in rows:
            check_column([key for key in row if key not in (ROW_INDEX, EPOCH)], name, "row")
        values: list[Any] = [row[name] for row in rows]
        if any(map(is_gap, values)):
            raise ValueError(self._without_label("A scan of this batch has"))
        if self.label2id is not None:
            unknown = [value for value in values if class_name(value) not in self.label2id]
            if unknown:
                raise ValueError(f"Label {str(unknown[0])!r} is not in label2id {sorted(self.label2id)}.")
            values = [self.label2id[class_name(value)] for value in values]
        array = np.asarray(values)
        if array.dtype.kind == "U":
            with contextlib.suppress(ValueError):  # numbers as text are numbers, as for Labels
                array = array.astype(np.float64)
        if array.dtype.kind in "iub" and not self.regression:
            return torch.from_numpy(array.astype(np.int64))
        if array.dtype.kind not in "iubf":
            raise ValueError(
                f"Labels in {self.label_column!r} are not numbers (first: {values[0]!r}). Pass label2id=."
            )
        return torch.from_numpy(array.astype(np.float32))


class _OneEach:
    """Joins windows; where each scan has one, its main input is written into the batch at once.

    The memory of one scan serves the next then. Memory that is new to a process costs more time than all arithmetic.
    """

    def __init__(self, n_windows: int):
        self.n_windows, self.n_taken = n_windows, 0
        self.name, self.whole = "", np.empty(0)

    def take(self, part: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        part = dict(part)
        name, value = next(iter(part.items()))
        if not self.name:
            self.name, self.whole = name, np.empty((self.n_windows, *value.shape[1:]), value.dtype)
        slot = self.whole[self.n_taken : self.n_taken + 1]
        if (name, value.shape, value.dtype) == (self.name, slot.shape, slot.dtype):
            slot[:] = value
            part[name] = slot
            self.n_taken += 1
        return part

    def join(self, parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        if not self.n_taken == self.n_windows == len(parts):
            return join(parts)
        rest = join([{**part, self.name: part[self.name][..., :0]} for part in parts])
        return {**rest, self.name: self.whole}


ROISeriesCollator = ScanCollator
"""The name of [`ScanCollator`] when series of parcels were all that there was."""


def stack(rows: Rows) -> dict[str, torch.Tensor]:
    """Stack rows that hold model inputs as arrays of one shape, such as `signals` (n_rois, n_timepoints).

    Floats become float32 and whole numbers int64.

    Raises:
        ValueError: if rows differ in keys or shapes, or hold text.
    """
    batch = {}
    for key in rows[0]:
        try:
            values = np.stack([np.asarray(row[key]) for row in rows])
        except (KeyError, ValueError) as error:
            shapes = [np.shape(row[key]) if key in row else "missing" for row in rows]
            raise ValueError(
                f"Expected {key!r} of one shape in every row, got {shapes[:4]}. Rows must hold windows of one length; "
                "for scans of any length pass the feature extractor as processing_class, or a ScanCollator as "
                "data_collator."
            ) from error
        if values.dtype.kind not in "fiub":
            raise ValueError(
                f"Expected numbers in {key!r}, got dtype {values.dtype}. Keep only the model's inputs in the dataset, "
                "or pass a ScanCollator as data_collator."
            )
        dtype = np.float32 if values.dtype.kind == "f" else np.int64
        batch[key] = torch.from_numpy(values.astype(dtype, copy=False))
    return batch
