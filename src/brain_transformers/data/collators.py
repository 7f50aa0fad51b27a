"""From rows of a scan dataset to a batch of model inputs."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.base import ScanProcessor, join
from ..processing.time import WINDOWS
from .labels import class_name
from .participants import is_gap
from .row_randomness import EPOCH, EVALUATION_EPOCH, RowRandomness

# What an extractor says of its windows beside the inputs of the model.
_WINDOW_NAMES = ("scan_index", "window_start")


class ROISeriesCollator:
    """Turn rows of a scan dataset into a batch: parcel order, scale, repetition time and window on the way.

    Args:
        extractor: the model's feature extractor.
        label_column: column of the rows that becomes `labels`: int64 for whole numbers and mapped text, else float32.
        label2id: numbers of text labels.
        window: `"first"`, `"center"`, `"all"`, `"cover"` or `"random"`; by default the extractor's own choice. With
            `"all"` and `"cover"` a row may give several windows, and its label is repeated.
        train_window, eval_window: instead of `window`, one choice for training and one for evaluation, such as
            `"random"` and `"all"`, so that training sees the whole of every scan over its epochs. Which it is the rows
            say, as the Trainers of this package hand them out. Evaluation rows with several windows come with
            `scan_index`, by which [`FineTuningTrainer`] averages their predictions.
        seed: for `"random"`: windows follow from it, the epoch and the row, so that a resumed run draws the same.
        rng_for_row: for `"random"`, instead of `seed`: makes the generator that a row's window is drawn from.
        return_windows: also return `scan_index` (position of the row in the batch) and `window_start`.
        n_windows: this many evenly spaced windows of each scan, instead of `window`.

    Raises:
        ValueError: if random windows come without `seed` or `rng_for_row`, or a row cannot be used.
    """

    def __init__(
        self,
        extractor: ScanProcessor,
        label_column: str | None = None,
        *,
        label2id: Mapping[str, int] | None = None,
        window: str | None = None,
        train_window: str | None = None,
        eval_window: str | None = None,
        seed: int | None = None,
        rng_for_row: Callable[[Mapping[str, Any]], np.random.Generator] | None = None,
        return_windows: bool = False,
        n_windows: int | None = None,
    ) -> None:
        for name, value in (("window", window), ("train_window", train_window), ("eval_window", eval_window)):
            if value is not None and value not in WINDOWS:
                raise ValueError(f"Expected {name} to be one of {list(WINDOWS)}, got {value!r}.")
        if (train_window is None) != (eval_window is None) or (window is not None and train_window is not None):
            raise ValueError(
                f"Expected either window or both train_window and eval_window, got {window!r}, {train_window!r} and "
                f'{eval_window!r}. Pass, for example, train_window="random", eval_window="all".'
            )
        self.extractor = extractor
        self.label_column = label_column
        self.label2id = None if label2id is None else dict(label2id)
        self.window = window
        self.train_window, self.eval_window = train_window, eval_window
        self.rng_for_row = RowRandomness(seed, "window") if rng_for_row is None and seed is not None else rng_for_row
        self.return_windows = return_windows
        self.n_windows = n_windows
        choices = (train_window, eval_window) if train_window is not None else (window or extractor.window,)
        if n_windows is None and "random" in choices and self.rng_for_row is None:
            raise ValueError(
                "Random windows need seed=, from which they follow with the epoch and the row (the Trainers of this "
                "package tell both), or rng_for_row=, a function from a row to a numpy generator."
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows as a numpy-format dataset gives them.

        Returns:
            What the extractor gives: `signals` (batch, n_rois, n_timepoints) float32, and where they apply
            `coordinates` (batch, n_rois, 3) and `attention_mask` (batch, n_tokens) int64; and `labels` (batch,).
        """
        rows = list(rows)
        evaluation = self.train_window is not None and self._is_evaluation(rows)
        window = self.window or self.extractor.window
        if self.train_window is not None:
            window = str(self.eval_window if evaluation else self.train_window)
        parts = []
        for row in rows:
            rng = self.rng_for_row(row) if window == "random" and self.rng_for_row is not None else None
            parts.append(self.extractor(row, window=window, rng=rng, return_windows=True, n_windows=self.n_windows))
        counts = [len(part["window_start"]) for part in parts]
        windows = [{name: value for name, value in part.items() if name not in _WINDOW_NAMES} for part in parts]
        batch = {name: torch.from_numpy(value) for name, value in join(windows).items()}
        if self.label_column is not None:
            labels = self._labels([row[self.label_column] for row in rows])
            batch["labels"] = torch.repeat_interleave(labels, torch.tensor(counts))
        if self.return_windows or (evaluation and window in ("all", "cover")):
            batch["scan_index"] = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts))
        if self.return_windows:
            batch["window_start"] = torch.from_numpy(np.concatenate([part["window_start"] for part in parts]))
        return batch

    @staticmethod
    def _is_evaluation(rows: Sequence[Mapping[str, Any]]) -> bool:
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
            ValueError: saying how many there are and how to leave them out.
        """
        name = self.label_column
        if name is None or name not in (getattr(rows, "column_names", None) or ()) or not hasattr(rows, "__len__"):
            return  # what cannot be looked through is told by its batch
        missing = sum(map(is_gap, rows.with_format(None).select_columns([name])[name]))
        if missing:
            raise ValueError(self._without_label(f"{missing} of {len(rows)} scans have"))

    def _without_label(self, who: str) -> str:
        name = self.label_column
        return (
            f"{who} no {name}. Leave them out: dataset.filter(lambda row: row[{name!r}] not in (None, 'n/a') and "
            f"row[{name!r}] == row[{name!r}])."
        )

    def _labels(self, values: list[Any]) -> torch.Tensor:
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
        if array.dtype.kind in "iub":
            return torch.from_numpy(array.astype(np.int64))
        if array.dtype.kind != "f":
            raise ValueError(
                f"Labels in {self.label_column!r} are not numbers (first: {values[0]!r}). Pass label2id=."
            )
        return torch.from_numpy(array.astype(np.float32))
