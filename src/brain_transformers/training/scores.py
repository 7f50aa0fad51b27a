"""Scores of predictions, for the Trainers and for evaluation.

Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, and the released evaluation code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..optional import require


def protocol_metrics(logits: Any, labels: Any) -> dict[str, float]:
    """Metrics of the protocol.

    Classification, in percent: accuracy, balanced accuracy (primary), F1, precision and recall (of class 1 with two
    classes, else macro and weighted means), AUROC from the softmax (one against the rest). Undefined values count as
    0. Regression: `mae` (primary), `r2`, `pearson_r`. All are NaN where an output is not finite: the model has
    diverged.

    Args:
        logits: `(n, n_outputs)`.
        labels: `(n,)`; whole numbers are classes.

    Raises:
        ImportError: without scikit-learn (extra `eval`).
    """
    scores = require("sklearn.metrics", extra="eval", purpose="probing")
    outputs, targets = torch.as_tensor(np.asarray(logits)), np.asarray(labels)
    if not bool(torch.isfinite(outputs).all()):
        return dict.fromkeys(protocol_metrics(torch.zeros_like(outputs), targets), float("nan"))
    if targets.dtype.kind == "f":
        guesses, targets = outputs.reshape(-1).double().numpy(), targets.reshape(-1).astype(np.float64)
        varied = guesses.std() > 0 and targets.std() > 0
        return {
            "mae": float(np.abs(guesses - targets).mean()),
            "r2": float(scores.r2_score(targets, guesses)),
            "pearson_r": float(np.corrcoef(guesses, targets)[0, 1]) if varied else 0.0,
        }
    shares = torch.softmax(outputs.float(), dim=1).numpy().astype(np.float64)
    guesses = outputs.argmax(1).numpy()
    values = {
        "accuracy": scores.accuracy_score(targets, guesses),
        "balanced_accuracy": _balanced_accuracy(guesses, targets),
    }
    averages = {"": "binary"} if shares.shape[1] == 2 else {"_macro": "macro", "_weighted": "weighted"}
    for suffix, average in averages.items():
        options = {"average": average, "zero_division": 0}
        values[f"f1{suffix}"] = scores.f1_score(targets, guesses, **options)
        values[f"precision{suffix}"] = scores.precision_score(targets, guesses, **options)
        values[f"recall{suffix}"] = scores.recall_score(targets, guesses, **options)
    if len(np.unique(targets)) == shares.shape[1]:
        if shares.shape[1] == 2:
            values["auroc"] = scores.roc_auc_score(targets, shares[:, 1])
        else:
            shares /= shares.sum(1, keepdims=True)  # exactly 1 again after the change of type
            values["auroc"] = scores.roc_auc_score(targets, shares, multi_class="ovr")
    return {name: 100 * float(value) for name, value in values.items()}


def primary_metric(metrics: Mapping[str, float]) -> tuple[str, float]:
    """The metric that heads are chosen by, and its value so that more is better."""
    if "balanced_accuracy" in metrics:
        return "balanced_accuracy", metrics["balanced_accuracy"]
    return "mae", -metrics["mae"]


def primary_score(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The value of [`primary_metric`] alone, without the other metrics: more is better, and -inf is a diverged head.

    Args:
        logits: `(n, n_outputs)`.
        labels: `(n,)`; whole numbers are classes.
    """
    if not bool(torch.isfinite(logits).all()):
        return -float("inf")
    if labels.is_floating_point():
        return -float((logits[:, 0].double() - labels.double()).abs().mean())
    return 100 * _balanced_accuracy(logits.argmax(1).numpy(), labels.numpy())


def _balanced_accuracy(guesses: np.ndarray, labels: np.ndarray) -> float:
    """Share of right guesses in each class that occurs, averaged over classes."""
    right = guesses == labels
    return float(np.mean([right[labels == number].mean() for number in np.unique(labels)]))
