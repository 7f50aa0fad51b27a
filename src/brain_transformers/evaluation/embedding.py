"""From scans to a table of embeddings: one row a scan or a window, with where it came from."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.collators import ROISeriesCollator
from ..optional import require
from ..processing.roi_orders import roi_order_text

if TYPE_CHECKING:
    import pandas

POOLINGS = ("model", "cls", "mean", "max", "roi")
LEVELS = ("scan", "window")
_BIG_COLUMNS = ("signals",)


def pool_output(model: Any, output: Any, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """`(n_windows, n_features)` float32 from the output of a body."""
    if pooling == "model":
        if output.pooler_output is None:
            raise ValueError(f'{type(model).__name__} gives no pooler_output; choose pooling="mean".')
        return output.pooler_output.float()
    states = output.last_hidden_state.float()
    has_cls = getattr(model, "has_cls_token", True)
    if pooling == "cls":
        if not has_cls:
            raise ValueError(f'{type(model).__name__} has no CLS token; choose pooling="mean".')
        return states[:, 0]
    if pooling == "roi":
        if not hasattr(model, "roi_tokens"):
            raise ValueError(f'{type(model).__name__} has no tokens of single ROIs; choose pooling="mean".')
        tokens = model.roi_tokens(states)
        if attention_mask is None:
            return tokens.mean(2).flatten(1)
        observed = attention_mask[:, -tokens.shape[1] * tokens.shape[2] :].reshape((*tokens.shape[:3], 1)).to(tokens)
        return ((tokens * observed).sum(2) / observed.sum(2).clamp(min=1)).flatten(1)
    tokens = states[:, 1:] if has_cls else states
    if attention_mask is None:
        return tokens.mean(1) if pooling == "mean" else tokens.amax(1)
    observed = attention_mask[:, -tokens.shape[1] :, None].to(tokens)
    if attention_mask.shape[1] - tokens.shape[1] not in (0, 1):  # tokens are networks, and the mask is over parcels
        observed = torch.ones_like(tokens[..., :1]) if output.token_mask is None else 1 - output.token_mask[..., None]
    if pooling == "mean":
        return (tokens * observed).sum(1) / observed.sum(1).clamp(min=1)
    return tokens.masked_fill(observed == 0, -torch.inf).amax(1)


def _provenance(row: Mapping[str, Any]) -> dict[str, Any]:
    """The scalar columns of a row as plain Python values."""
    values = {}
    for name, value in row.items():
        if name in _BIG_COLUMNS:
            continue
        if isinstance(value, np.ndarray) and value.ndim > 0:
            continue
        values[name] = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return values


def _windows(dataset: Any, collator: ROISeriesCollator, progress: Any) -> Iterator[tuple[int, dict[str, Any], int]]:
    """(row of the dataset, model inputs of one window, its first timepoint), scan by scan."""
    for index in range(len(dataset)):
        batch = dict(collator([dataset[index]]))
        batch.pop("scan_index", None)
        starts = batch.pop("window_start")
        for number, start in enumerate(starts.tolist()):
            yield index, {name: value[number] for name, value in batch.items()}, int(start)
        progress.update(1)


def _batches(windows: Iterator[Any], batch_size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for window in windows:
        batch.append(window)
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _stack(inputs: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Join windows; a scan that was not padded gets a mask of ones when another of the batch was."""
    names = list(dict.fromkeys(name for window in inputs for name in window))
    joined = {}
    for name in names:
        template = next(window[name] for window in inputs if name in window)
        if name == "attention_mask":
            joined[name] = torch.stack([window.get(name, torch.ones_like(template)) for window in inputs])
        elif all(name in window for window in inputs):
            joined[name] = torch.stack([window[name] for window in inputs])
    return joined


def _numpy_rows(dataset: Any) -> Any:
    """Rows of a `datasets.Dataset` would come as Python lists, which takes ten to forty times longer."""
    if (getattr(dataset, "format", None) or {"type": "numpy"})["type"] is None:
        return dataset.with_format("numpy")
    return dataset


def check_extractor(model: Any, extractor: Any) -> None:
    """Refuse the extractor of another model, whose shapes may fit while parcels and scale do not.

    Raises:
        ValueError: if it puts parcels in another order than the model's configuration names.
    """
    config = model.config
    given, expected = getattr(extractor, "output_roi_order", None), getattr(config, "roi_order", None)
    if given is not None and expected is not None and roi_order_text(given) != roi_order_text(expected):

        def short(order: Any) -> str:
            return repr(order) if isinstance(order, str) else f"a list of {len(order)} labels"

        raise ValueError(
            f"{type(model).__name__} expects parcels in the order {short(expected)}, but this extractor gives "
            f"{short(given)}: it belongs to another model. Load the one in the model's folder with "
            "AutoFeatureExtractor."
        )
    given_t_r, t_r = getattr(extractor, "t_r", None), getattr(config, "t_r", None)
    if given_t_r is not None and t_r is not None and abs(given_t_r - t_r) > 0.025 * t_r:
        warnings.warn(
            f"This extractor resamples to {given_t_r:g} s, but the model was made for {t_r:g} s. Use the extractor in "
            "the model's folder, unless you mean it.",
            stacklevel=3,
        )


def run_windows(
    model: Any,
    dataset: Any,
    collator: ROISeriesCollator,
    pick: Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor],
    *,
    batch_size: int,
    device: str | torch.device | None,
    dtype: str,
    progress: bool,
    description: str,
) -> tuple[np.ndarray, list[int], list[int]]:
    """Run a model on the windows of all scans, in batches that span scans, without gradients.

    The model is left on `device`, in the mode it came in.

    Args:
        model: a body or a model with a head.
        dataset: rows of scans.
        collator: cuts the windows; made with `return_windows=True`.
        pick: from the model's output and inputs to the tensor to keep, `(n_windows, n_values)`.
        batch_size: windows in a forward pass.
        device: where to run; by default where the model is.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        progress: show a progress bar over scans.
        description: what the bar says.

    Returns:
        float32 `(n_windows, n_values)`, and of each window the row of the dataset and the first timepoint.

    Raises:
        ValueError: for an unknown dtype, an empty dataset, or a scan that the extractor refuses.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"Expected dtype to be one of ['float32', 'bfloat16'], got {dtype!r}.")
    if isinstance(dataset, dict):
        raise ValueError(
            f"Expected the scans of one split, got a dataset with the splits {', '.join(map(str, dataset))}. Choose "
            f"one: dataset[{next(iter(dataset), 'train')!r}]."
        )
    if len(dataset) == 0:
        raise ValueError("the dataset holds no scans, so there is nothing to embed.")
    check_extractor(model, collator.extractor)
    dataset = _numpy_rows(dataset)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device)
    was_training = model.training
    model.eval()
    precision = torch.autocast(device.type, dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    values: list[np.ndarray] = []
    rows: list[int] = []
    starts: list[int] = []
    bar = tqdm(total=len(dataset), desc=description, unit="scan", disable=not progress)
    try:
        with torch.inference_mode(), precision, bar:
            for batch in _batches(_windows(dataset, collator, bar), batch_size):
                inputs = {name: value.to(device) for name, value in _stack([item[1] for item in batch]).items()}
                values.append(pick(model(**inputs), inputs).float().cpu().numpy())
                rows += [item[0] for item in batch]
                starts += [item[2] for item in batch]
    finally:
        model.train(was_training)
    return np.concatenate(values), rows, starts


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
) -> "pandas.DataFrame":
    """Embed every scan of a dataset, without masking and without gradients.

    The result depends on `batch_size` only by rounding. The model is left on `device`, in the mode it came in.

    Args:
        model: a body such as [`BrainLMModel`], or a head that holds one (its body is used).
        dataset: rows with `signals`, `n_rois`, `n_timepoints`, `t_r`, `roi_order` and any other columns, as
            [`brain_transformers.data.load_dataset`] gives them; a list of such dictionaries works too.
        extractor: the model's feature extractor, or a [`ROISeriesCollator`] that holds one.
        pooling: `"model"`: `pooler_output`, as the configuration says; `"cls"`; `"mean"` or `"max"` over all tokens;
            `"roi"`: mean over time of each ROI's tokens, all ROIs side by side (n_rois * hidden_size columns).
        level: `"scan"`: mean over the windows of a scan; `"window"`: one row a window.
        window: which windows of a scan: `"all"` (side by side, a rest shorter than a window is left out), `"first"` or
            `"center"`.
        batch_size: windows in a forward pass.
        device: where to run; by default where the model is.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        progress: show a progress bar over scans.

    Returns:
        `pandas.DataFrame`: the scalar columns of the dataset, then `n_windows` (or `window_start`, the first timepoint
        after resampling), then float32 columns `e000`, `e001`, ...

    Raises:
        ValueError: for an unknown option, an empty dataset, or a scan that the extractor refuses.
        ImportError: without pandas (extra `eval`).
    """
    pandas = require("pandas", extra="eval", purpose="tables of embeddings")
    for name, value, choices in (
        ("pooling", pooling, POOLINGS),
        ("level", level, LEVELS),
        ("window", window, ("all", "first", "center")),
    ):
        if value not in choices:
            raise ValueError(f"Expected {name} to be one of {list(choices)}, got {value!r}.")
    dataset = _numpy_rows(dataset)
    inner = extractor.extractor if isinstance(extractor, ROISeriesCollator) else extractor
    body = getattr(model, model.base_model_prefix, model)
    values, rows_of, starts_of = run_windows(
        body,
        dataset,
        ROISeriesCollator(inner, window=window, return_windows=True),
        lambda output, inputs: pool_output(body, output, inputs.get("attention_mask"), pooling),
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        progress=progress,
        description="Embedding",
    )
    owners = np.array(rows_of)
    if level == "scan":
        counts = np.bincount(owners, minlength=len(dataset))
        sums = np.zeros((len(dataset), values.shape[1]))
        np.add.at(sums, owners, values)
        table = pandas.DataFrame([_provenance(dataset[index]) for index in range(len(dataset))])
        table["n_windows"] = counts
        values = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    else:
        scalars = [_provenance(dataset[index]) for index in range(len(dataset))]
        table = pandas.DataFrame([scalars[owner] for owner in rows_of])
        table["window_start"] = starts_of
    digits = max(3, len(str(values.shape[1] - 1)))
    columns = [f"e{number:0{digits}d}" for number in range(values.shape[1])]
    return pandas.concat([table, pandas.DataFrame(values, columns=columns)], axis=1)


def embedding_columns(table: "pandas.DataFrame") -> list[str]:
    """Names of the embedding columns of a table of [`embed_dataset`], in order."""
    names = [name for name in table.columns if len(name) > 3 and name[0] == "e" and name[1:].isdigit()]
    if not names:
        raise ValueError(f"expected embedding columns e000, e001, ..., found only {list(table.columns)[:10]}.")
    return names
