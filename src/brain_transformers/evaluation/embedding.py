"""From scans to a table of embeddings: one row a scan or a window, with where it came from."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.collators import ScanCollator
from ..layers.bfloat16 import warn_where_bfloat16_is_slow
from ..optional import require
from ..processing.base import ScanProcessor, check_choice, join
from ..processing.rows import scan_name

if TYPE_CHECKING:
    import pandas

POOLINGS = ("model", "cls", "mean", "max", "roi")
LEVELS = ("scan", "window")
SCAN_WINDOWS = ("all", "cover", "first", "center")
# Columns that a table of embeddings has of its own; a column of the dataset with such a name gets a prefix.
_OWN_COLUMNS = ("split", "n_windows", "window_start")
_FEATURE = re.compile(r"e\d{3,}")
_MAX_LISTED = 5
# Batches of windows that wait for others of their length.
_MOST_WAITING = 8


# --- rows ---


def _numpy_rows(dataset: Any, extractor: ScanProcessor) -> Any:
    """Rows of a `datasets` dataset would come as Python lists, which takes ten to forty times longer.

    Raises:
        ValueError: for what holds no rows of one split.
    """
    if isinstance(dataset, Mapping):
        if extractor.reads[0] in dataset:
            raise ValueError("Expected a list of scans, got a single one. Pass [scan].")
        raise ValueError(
            f"Expected the scans of one split, got a dataset with the splits {', '.join(map(str, dataset))}. Choose "
            f"one: dataset[{next(iter(dataset), 'train')!r}]."
        )
    if hasattr(dataset, "with_format"):
        kind = (getattr(dataset, "format", None) or {"type": None})["type"]
        return dataset if kind in ("numpy", "custom") else dataset.with_format("numpy")
    if not hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"Expected a dataset or a list of scans, got {type(dataset).__name__}. Make one with "
            "brain_transformers.data.dataset_from_arrays(arrays, roi_order=..., t_r=...)."
        )
    return dataset


def _provenance(row: Mapping[str, Any], scan_columns: Sequence[str]) -> dict[str, Any]:
    """The scalar columns of a row as plain Python values, by names that are no columns of the table's own."""
    values = {}
    for name, value in row.items():
        if name in (*scan_columns, "frame_mask") or np.ndim(value) > 0 or isinstance(value, (Mapping, set)):
            continue
        taken = name in _OWN_COLUMNS or _FEATURE.fullmatch(name)
        values[f"participant_{name}" if taken else name] = value.item() if hasattr(value, "item") else value
    return values


# --- running ---


class UnusableScanError(ValueError):
    """A scan cannot be used, and errors are to end the run."""


class NoScanLeftError(ValueError):
    """No scan of a dataset can be used; `left_out` says why, by the number of the scan."""

    def __init__(self, left_out: dict[int, str]):
        listing = "\n  ".join(list(left_out.values())[:_MAX_LISTED])
        super().__init__(f"None of {len(left_out)} scans can be used:\n  {listing}")
        self.left_out = left_out


@dataclass
class _Scans:
    """Reads the scans of a dataset one after the other and keeps what the table needs of them.

    Attributes:
        provenance, names: of each scan that was read.
        left_out: number of the scan -> why, where errors do not end the run.
    """

    dataset: Any
    collator: ScanCollator
    skip: bool
    progress: Any
    provenance: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    left_out: dict[int, str] = field(default_factory=dict)

    def windows(self) -> Iterator[tuple[int, dict[str, Any], int]]:
        """(number of the scan, model inputs of one window, its first timepoint), scan by scan."""
        for index, item in enumerate(self.dataset):
            row = self.collator.processor.as_row(item, index)
            self.provenance.append(_provenance(row, self.collator.processor.scan_columns))
            self.names.append(scan_name(row, index))
            try:
                batch = dict(self.collator([row]))
            except ValueError as error:
                if not self.skip:
                    raise UnusableScanError(str(error)) from error
                self.left_out[index] = str(error)
                batch = {"window_start": torch.empty(0)}
            batch.pop("scan_index", None)
            starts = batch.pop("window_start")
            for number, start in enumerate(starts.tolist()):
                yield index, {name: value[number : number + 1].numpy() for name, value in batch.items()}, int(start)
            self.progress.update(1)

    def refuse(self, index: int, reason: str) -> None:
        """Leave a scan out, or end the run."""
        message = f"{self.names[index]}: {reason}"
        if not self.skip:
            raise UnusableScanError(message)
        self.left_out.setdefault(index, message)


def _batches(windows: Iterator[Any], batch_size: int) -> Iterator[list[Any]]:
    """Windows of one length and with the same inputs together, so that nothing is padded that a window does not need.

    Of lengths that are rare, no more than a few batches wait.
    """
    waiting: dict[Any, list[Any]] = {}
    for window in windows:
        alike = tuple((name, value.shape) for name, value in window[1].items())
        waiting.setdefault(alike, []).append(window)
        if len(waiting[alike]) == batch_size:
            yield waiting.pop(alike)
        elif sum(map(len, waiting.values())) >= _MOST_WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
    yield from waiting.values()


def _why_not_finite(main: torch.Tensor, mask: torch.Tensor | None, window: int, values: np.ndarray) -> str:
    """What to say of a window of the main input whose values are not finite."""
    signals = main[window].float()
    if mask is not None and not bool(mask[window].any()):
        return "no token of a window was measured, so there is nothing to pool."
    bad = f"{int((~np.isfinite(values)).sum())} of {len(values)} values are not finite"
    if not bool(torch.isfinite(signals).all()):
        return f"{bad}: the scaled scan holds NaN or infinity. Look at the scan, or leave it out."
    return (
        f"{bad}: the network overflowed on scaled values up to {float(signals.abs().max()):.3g}, or its weights are "
        "not finite. Look at the scan, its units and the weights, or leave the scan out."
    )


@dataclass(frozen=True)
class WindowValues:
    """What [`run_windows`] gives.

    Attributes:
        values: float32 `(n_windows, n_values)`, all finite.
        scans: number of the scan in the dataset that each window is of.
        starts: first timepoint of each window.
        provenance: scalar columns of every scan of the dataset.
        names: of every scan, for messages.
        left_out: number of a scan -> why it was left out; it has no windows.
    """

    values: np.ndarray
    scans: np.ndarray
    starts: np.ndarray
    provenance: list[dict[str, Any]]
    names: list[str]
    left_out: dict[int, str]


Pick = Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]


def body_and_pooling(model: Any, processor: Any, pooling: str) -> tuple[Any, Pick]:
    """The body of a model, and what takes pooled values from its output, for [`run_windows`].

    Raises:
        TypeError: for what is no model and no processor of scans, such as their names.
    """
    check_choice("pooling", pooling, POOLINGS)
    for what, value, kind, fix in (
        ("a model", model, PreTrainedModel, "transformers.AutoModel"),
        ("a feature extractor", processor, ScanProcessor, "transformers.AutoFeatureExtractor"),
    ):
        if not isinstance(value, kind):
            got = repr(value) if isinstance(value, str) else type(value).__name__
            raise TypeError(
                f"Expected {what}, got {got:.80}. Load it first, with {fix}.from_pretrained(folder or Hub name)."
            )
    body = model.base_model
    return body, lambda output, inputs: body.pool(
        output, pooling, inputs.get("attention_mask"), inputs[processor.main_input(inputs)].shape[-1]
    )


def run_windows(
    model: Any,
    dataset: Any,
    collator: ScanCollator,
    pick: Pick,
    *,
    batch_size: int,
    device: str | torch.device | None,
    dtype: str,
    progress: bool,
    description: str,
    on_error: str = "raise",
    forward: Mapping[str, Any] | None = None,
) -> WindowValues:
    """Run a model on the windows of all scans, in batches that span scans, without gradients.

    The model is left on `device`, in the mode it came in.

    Args:
        model: a body or a model with a head.
        dataset: rows of scans; they are read once, one after the other, so that they may stream.
        collator: cuts the windows; made with `return_windows=True`.
        pick: from the model's output and inputs to the tensor to keep, `(n_windows, n_values)`.
        batch_size: windows in a forward pass.
        device: where to run; by default where the model is.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        progress: show a progress bar over scans.
        description: what the bar says.
        on_error: `"raise"`, or `"skip"` to leave out scans that cannot be used or whose values are not finite.
        forward: further arguments of the model.

    Raises:
        ValueError: for an unknown option, an empty dataset, a scan that the extractor refuses or that gives values
            which are not finite, or if no scan is left.
    """
    check_choice("dtype", dtype, ("float32", "bfloat16"))
    check_choice("on_error", on_error, ("raise", "skip"))
    if batch_size < 1:
        raise ValueError(f"Expected batch_size to be at least 1, got {batch_size}.")
    rows = _numpy_rows(dataset, collator.processor)
    total = len(rows) if hasattr(rows, "__len__") else None
    collator.processor.refuse(model.config)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device)
    was_training = model.training
    model.eval()
    precision: Any = nullcontext()
    if dtype == "bfloat16":
        warn_where_bfloat16_is_slow(device)
        precision = torch.autocast(device.type, dtype=torch.bfloat16)
    values: list[np.ndarray] = []
    owners: list[int] = []
    starts: list[int] = []
    bar = tqdm(total=total, desc=description, unit="scan", disable=not progress)
    scans = _Scans(rows, collator, on_error == "skip", bar)
    try:
        with torch.inference_mode(), precision, bar:
            for batch in _batches(scans.windows(), batch_size):
                joined = join([item[1] for item in batch])
                inputs = {name: torch.as_tensor(value, device=device) for name, value in joined.items()}
                main = collator.processor.main_input(inputs)
                found = pick(model(**inputs, **(forward or {})), inputs).float().cpu().numpy()
                for window in np.flatnonzero(~np.isfinite(found).all(1)):
                    scans.refuse(
                        batch[window][0],
                        _why_not_finite(inputs[main], inputs.get("attention_mask"), int(window), found[window]),
                    )
                values.append(found)
                owners += [item[0] for item in batch]
                starts += [item[2] for item in batch]
    finally:
        model.train(was_training)
    if not scans.names:
        raise ValueError("the dataset holds no scans, so there is nothing to embed.")
    kept = np.flatnonzero([owner not in scans.left_out for owner in owners])
    if not kept.size:
        raise NoScanLeftError(scans.left_out)
    of_scan, first = np.array(owners)[kept], np.array(starts)[kept]
    order = np.lexsort((first, of_scan))  # batches hold windows by their length
    return WindowValues(
        np.concatenate(values)[kept][order],
        of_scan[order],
        first[order],
        scans.provenance,
        scans.names,
        scans.left_out,
    )


def embed_dataset(
    model: Any,
    dataset: Any,
    extractor: Any,
    *,
    pooling: str = "model",
    level: str = "scan",
    window: str = "all",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    progress: bool = True,
    on_error: str = "raise",
) -> "pandas.DataFrame":
    """Embed every scan of a dataset, without masking and without gradients.

    The result depends on `batch_size` only by rounding. The model is left on `device`, in the mode it came in.

    Args:
        model: a body such as [`BrainLMModel`], or a head that holds one (its body is used).
        dataset: rows with what the extractor reads (series: `signals`, `n_rois`, `n_timepoints`, `t_r`, `roi_order`)
            and any other columns, as [`brain_transformers.data.load_dataset`] gives them; a list of such dictionaries
            and a dataset that streams work too.
        extractor: the model's feature extractor, or a [`ScanCollator`] that holds one.
        pooling: `"model"`: `pooler_output`, as the configuration says; `"cls"`; `"mean"` or `"max"` over all tokens;
            `"roi"`: mean over time of each ROI's tokens, all ROIs side by side (n_rois * hidden_size columns; 0,
            with a warning, for a ROI of which nothing was measured).
        level: `"scan"`: mean over the windows of a scan; `"window"`: one row a window.
        window: which windows of a scan: `"all"` (side by side, a rest shorter than a window is left out), `"cover"`
            (the same, and one more at the end where there is a rest), `"first"` or `"center"`.
        batch_size: windows in a forward pass.
        device: where to run; by default where the model is.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        progress: show a progress bar over scans.
        on_error: `"raise"`, or `"skip"` to leave out, with a warning, scans that cannot be used or whose embedding is
            not finite.

    Returns:
        `pandas.DataFrame`: the scalar columns of the dataset, then `n_windows` (or `window_start`, the first timepoint
        after resampling), then float32 columns `e000`, `e001`, ..., all finite. A column of the dataset with such a
        name, or named `split`, gets the prefix `participant_`. `table.attrs["left_out"]`: number of a scan that was
        left out -> why.

    Raises:
        ValueError: for an unknown option, an empty dataset, or a scan that cannot be used.
        ImportError: without pandas (extra `eval`).
    """
    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    check_choice("level", level, LEVELS)
    check_choice("window", window, SCAN_WINDOWS)
    inner = extractor.processor if isinstance(extractor, ScanCollator) else extractor
    body, pick = body_and_pooling(model, inner, pooling)
    run = run_windows(
        body,
        dataset,
        ScanCollator(inner, window=window, return_windows=True),
        pick,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        progress=progress,
        description="Embedding",
        on_error=on_error,
        forward=body.where_pooled,
    )
    if run.left_out:
        listing = "\n  ".join(list(run.left_out.values())[:_MAX_LISTED])
        warnings.warn(
            f"{len(run.left_out)} of {len(run.names)} scans were left out:\n  {listing}", UserWarning, stacklevel=2
        )
    if level == "scan":
        scans, places, counts = np.unique(run.scans, return_inverse=True, return_counts=True)
        sums = np.zeros((len(scans), run.values.shape[1]))
        np.add.at(sums, places.reshape(-1), run.values)
        values = (sums / counts[:, None]).astype(np.float32)
        own = {"n_windows": counts}
    else:
        scans, values, own = run.scans, run.values, {"window_start": run.starts}
    table = pandas.DataFrame([run.provenance[scan] for scan in scans]).assign(**own)
    table = pandas.concat([table, pandas.DataFrame(values, columns=feature_names(values.shape[1]))], axis=1)
    table.attrs["left_out"] = run.left_out
    return table


def feature_names(n_features: int) -> list[str]:
    """The names of the embedding columns: `e000`, `e001`, ..."""
    digits = max(3, len(str(n_features - 1)))
    return [f"e{number:0{digits}d}" for number in range(n_features)]


def embedding_columns(table: "pandas.DataFrame") -> list[str]:
    """Names of the embedding columns of a table of [`embed_dataset`], in order.

    These are `e000` and the columns behind it that count on from there: a column of another name or place is none of
    them, whatever it is called.

    Raises:
        ValueError: if there are none.
    """
    names = [str(name) for name in table.columns]
    best: list[str] = []
    for first, name in enumerate(names):
        if not re.fullmatch(r"e0{3,}", name):
            continue
        run = [name]
        while names[first + len(run) : first + len(run) + 1] == [f"e{len(run):0{len(name) - 1}d}"]:
            run.append(names[first + len(run)])
        best = max(best, run, key=len)
    if not best:
        raise ValueError(
            f"Expected embedding columns e000, e001, ... side by side, found only {', '.join(names[:10])}. Make a "
            "table with `brain-transformers embed`."
        )
    return best
