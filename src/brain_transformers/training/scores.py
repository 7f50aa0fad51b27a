"""Scores of predictions, for the Trainers, probes and protocols: shares of 1, percent only where one is printed.

What the labels leave undefined is left out: AUROC where a class is missing, R2 and Pearson r where all are the same.
"""

from typing import Any

import numpy as np
import torch

from ..optional import require


def classification_scores(labels: np.ndarray, guesses: np.ndarray, shares: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, F1, precision, recall and AUROC.

    F1, precision and recall are of class 1 with two classes (beside `f1_macro`), else macro and weighted means, and 0
    where a class is never guessed. Balanced accuracy is over the classes that occur, AUROC one class against the rest.

    Args:
        labels, guesses: `(n,)`, whole numbers from 0.
        shares: `(n, n_classes)`, what each class is given.

    Raises:
        ImportError: without scikit-learn (extra `eval`).
    """
    metrics = require("sklearn.metrics", extra="eval", purpose="scores of classes")
    n_classes = shares.shape[1]
    values = {"accuracy": (guesses == labels).mean(), "balanced_accuracy": balanced_accuracy(labels, guesses)}
    averages = {"": "binary"} if n_classes == 2 else {"_macro": "macro", "_weighted": "weighted"}
    for suffix, average in averages.items():
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            labels, guesses, average=average, zero_division=0
        )
        values |= {f"f1{suffix}": f1, f"precision{suffix}": precision, f"recall{suffix}": recall}
    values.setdefault("f1_macro", metrics.f1_score(labels, guesses, average="macro", zero_division=0))
    if len(np.unique(labels)) == n_classes:
        against_rest = range(1, 2) if n_classes == 2 else range(n_classes)
        values["auroc"] = np.mean([metrics.roc_auc_score(labels == n, shares[:, n]) for n in against_rest])
    return {name: float(value) for name, value in values.items()}


def regression_scores(labels: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
    """`mse`, `mae`, `r2` and `pearson_r`, which is 0 for a guess that is always the same.

    Args:
        labels, guesses: float64 `(n,)`.
    """
    error = guesses - labels
    values = {"mse": float(np.square(error).mean()), "mae": float(np.abs(error).mean())}
    if labels.std() > 0:
        values["r2"] = 1 - float(np.square(error).sum() / np.square(labels - labels.mean()).sum())
        varied = guesses.std() > 1e-12 * max(1.0, float(np.abs(guesses).max()))
        values["pearson_r"] = float(np.corrcoef(labels, guesses)[0, 1]) if varied else 0.0
    return values


def prediction_scores(logits: Any, labels: Any) -> dict[str, float]:
    """Scores of a head's outputs; all are NaN where one is not finite: the model has diverged.

    Args:
        logits: `(n, n_outputs)`; a single one of two classes is of class 1, whose share is its sigmoid.
        labels: `(n,)`; whole numbers are classes, floats are numbers to predict.

    Raises:
        ImportError: for classes without scikit-learn (extra `eval`).
    """
    outputs, targets = torch.as_tensor(np.asarray(logits)), np.asarray(labels)
    if not bool(torch.isfinite(outputs).all()):
        return dict.fromkeys(prediction_scores(torch.zeros_like(outputs), targets), float("nan"))
    if targets.dtype.kind == "f":
        return regression_scores(targets.reshape(-1).astype(np.float64), outputs.reshape(-1).double().numpy())
    if outputs.shape[1] == 1:
        outputs, targets = torch.cat([torch.zeros_like(outputs), outputs], dim=1), targets.reshape(-1)
    shares = torch.softmax(outputs.float(), dim=1).numpy()
    return classification_scores(targets, outputs.argmax(1).numpy(), shares)


def choosing_score(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """What heads and rates are chosen by: balanced accuracy, or minus the absolute error; -inf for a diverged head.

    Args:
        logits: `(n, n_outputs)`.
        labels: `(n,)`; whole numbers are classes.
    """
    if not bool(torch.isfinite(logits).all()):
        return -float("inf")
    if labels.is_floating_point():
        return -float((logits[:, 0].double() - labels.double()).abs().mean())
    return balanced_accuracy(labels.numpy(), logits.argmax(1).numpy())


def balanced_accuracy(labels: np.ndarray, guesses: np.ndarray) -> float:
    """Share of right guesses in each class that occurs, averaged over classes."""
    right = guesses == labels
    return float(np.mean([right[labels == number].mean() for number in np.unique(labels)]))
