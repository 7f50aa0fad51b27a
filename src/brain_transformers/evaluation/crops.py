"""Crops, evenly spaced windows of scans: frozen features for a probe, and logits to be averaged over them."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ..data.collators import ScanCollator
from ..processing.base import ScanProcessor
from .embedding import Pick, body_and_pooling, run_windows


def crop_features(
    model: Any,
    dataset: Any,
    extractor: ScanProcessor,
    n_crops: int = 8,
    *,
    pooling: str = "model",
    batch_size: int = 16,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    progress: bool = True,
) -> torch.Tensor:
    """Frozen features of evenly spaced crops of each scan, which is what [`linear_probe_protocol`] takes.

    Crops are the same at every call, nothing is augmented, and the result depends on `batch_size` only by rounding.
    The model is left on `device`, in the mode it came in. Source of the 8 crops: Gijsen et al., "Brain-Semantoks",
    ICLR 2026, released evaluation code.

    Args:
        model, dataset, extractor, pooling, device, dtype, progress: see [`embed_dataset`].
        n_crops: crops a scan, from its start to its end; they overlap where the scan is short, and are all the same
            where it is not longer than one.
        batch_size: crops in a forward pass, of as many scans as it takes.

    Returns:
        float32 `(n_scans, n_crops, n_features)` on the CPU, in the order of `dataset`.

    Raises:
        ValueError: for an unknown option, an empty dataset, or a scan that the extractor refuses.
    """
    body, pick = body_and_pooling(model, extractor, pooling)
    options: dict[str, Any] = {"batch_size": batch_size, "device": device, "dtype": dtype, "progress": progress}
    options |= {"description": "Embedding crops", "forward": body.where_pooled}
    return _run_crops(body, dataset, extractor, n_crops, pick, **options)


def predict_crops(
    model: Any,
    dataset: Any,
    extractor: ScanProcessor,
    n_crops: int = 8,
    *,
    batch_size: int = 16,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    progress: bool = False,
) -> torch.Tensor:
    """Logits of evenly spaced crops of each scan; average them over the crops.

    (The authors of Brain-Semantoks test on random crops, so that their results vary between runs.)

    Args:
        model: a classifier.
        dataset, extractor, n_crops, batch_size, device, dtype, progress: as for [`crop_features`].

    Returns:
        float32 `(n_scans, n_crops, num_labels)` on the CPU.

    Raises:
        ValueError: for an empty dataset, or a scan that the extractor refuses.
    """

    def logits(output: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return output.logits

    options = {"batch_size": batch_size, "device": device, "dtype": dtype, "progress": progress}
    return _run_crops(model, dataset, extractor, n_crops, logits, description="Predicting", **options)


def _run_crops(
    model: Any, dataset: Any, extractor: ScanProcessor, n_crops: int, pick: Pick, **options: Any
) -> torch.Tensor:
    collator = ScanCollator(extractor, n_windows=n_crops, return_windows=True)
    run = run_windows(model, dataset, collator, pick, **options)
    first = run.starts.reshape(-1, n_crops)
    n_same = int((first == first[:, :1]).all(1).sum())
    if n_crops > 1 and n_same:
        warnings.warn(
            f"{n_same} of {len(first)} scans are not longer than one window of the model, so that their {n_crops} "
            "crops are all the same and averaging over them adds nothing.",
            stacklevel=3,
        )
    return torch.from_numpy(run.values).unflatten(0, (-1, n_crops))
