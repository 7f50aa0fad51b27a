"""Linear probe on frozen features, with a split that keeps a subject's scans together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.labels import Labels
from ..data.participants import is_gap
from ..optional import require

CLASSIFICATION_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc")
REGRESSION_METRICS = ("mse", "mae", "r2", "pearson_r")
_REGULARIZATION = tuple(np.logspace(-4, 4, 9).tolist())


@dataclass(frozen=True)
class ProbeResult:
    """What [`probe`] found.

    Args:
        task: `"classification"` or `"regression"`.
        scores: metric -> value on the out-of-fold predictions of all samples together.
        fold_scores: metric -> one value a fold.
        baseline: metric -> value of the guess that ignores the features (most frequent class, or mean), same folds.
        predictions: out-of-fold prediction of each sample, classes as given.
        classes: the classes, sorted; empty for regression. AUROC takes the second as positive when there are two, and
            is the mean over one class against the rest otherwise.
        n_splits, n_groups: folds, and independent groups (subjects).
    """

    task: str
    scores: dict[str, float]
    fold_scores: dict[str, list[float]]
    baseline: dict[str, float]
    predictions: np.ndarray
    classes: tuple[Any, ...]
    n_splits: int
    n_groups: int


def _classification_scores(
    labels: np.ndarray, guesses: np.ndarray, shares: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    metrics = require("sklearn.metrics", extra="eval", purpose="probing")
    scores = {
        "accuracy": float((labels == guesses).mean()),
        # Recall over the classes that occur here; a fold may lack one.
        "balanced_accuracy": float(
            np.mean([(guesses[labels == c] == c).mean() for c in classes if (labels == c).any()])
        ),
        "macro_f1": float(metrics.f1_score(labels, guesses, average="macro", zero_division=0)),
        "auroc": float("nan"),
    }
    present = np.array([c for c in classes if (labels == c).any()])
    if len(present) == len(classes):
        if len(classes) == 2:
            scores["auroc"] = float(metrics.roc_auc_score(labels == classes[1], shares[:, 1]))
        else:
            per_class = [metrics.roc_auc_score(labels == c, shares[:, i]) for i, c in enumerate(classes)]
            scores["auroc"] = float(np.mean(per_class))
    return scores


def _regression_scores(labels: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
    error = guesses - labels
    spread = float(np.square(labels - labels.mean()).sum())
    varied = labels.size > 1 and labels.std() > 0 and guesses.std() > 1e-12 * max(1.0, float(np.abs(guesses).max()))
    return {
        "mse": float(np.square(error).mean()),
        "mae": float(np.abs(error).mean()),
        "r2": 1 - float(np.square(error).sum()) / spread if spread > 0 else float("nan"),
        "pearson_r": float(np.corrcoef(labels, guesses)[0, 1]) if varied else float("nan"),
    }


def probe(
    features: Any,
    labels: Sequence[Any],
    *,
    groups: Sequence[Any] | None = None,
    task: str | None = None,
    n_splits: int = 5,
    seed: int = 0,
) -> ProbeResult:
    """Predict a label from frozen features with a regularised linear model, cross-validated.

    Features are standardised, and the regularisation is chosen, inside each training fold (logistic regression with
    balanced class weights, or ridge). Scans of one group never stand on both sides of a split.

    Args:
        features: `(n_samples, n_features)`.
        labels: one a sample; [`brain_transformers.data.labels.choose_task`] says whether they are classes or numbers.
        groups: the subject of each sample; without it every sample counts as its own.
        task: `"classification"` or `"regression"` to decide it.
        n_splits: folds; lowered to what groups and classes allow.
        seed: of the folds.

    Raises:
        ValueError: for shapes that do not fit, missing values, or too few groups.
        ImportError: without scikit-learn (extra `eval`).
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or np.shape(labels) != (len(values),):
        raise ValueError(
            f"Expected features (n_samples, n_features) and one label a sample, got {values.shape} and "
            f"{np.shape(labels)}."
        )
    if not np.isfinite(values).all():
        raise ValueError("features hold NaN or infinite values; drop those rows first.")
    known = Labels.from_values(labels, task=task)
    if missing := len(values) - len(known.rows):
        raise ValueError(f"{missing} labels are missing; drop those rows first.")
    task, targets = known.task, known.targets
    owners = np.arange(len(values))
    if groups is not None:
        if len(groups) != len(values) or any(map(is_gap, groups)):
            raise ValueError(
                f"Expected a group for each of {len(values)} samples, got {len(groups)}, "
                f"{sum(map(is_gap, groups))} of them missing. A sample without one could be on both sides of a split."
            )
        owners = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]
    n_groups = len(np.unique(owners))
    selection = require("sklearn.model_selection", extra="eval", purpose="probing")
    preprocessing = require("sklearn.preprocessing", extra="eval", purpose="probing")
    pipeline = require("sklearn.pipeline", extra="eval", purpose="probing")
    linear = require("sklearn.linear_model", extra="eval", purpose="probing")
    classes: np.ndarray = np.array([])
    if task == "classification":
        classes = np.unique(targets)
        smallest = min(len(np.unique(owners[targets == c])) for c in classes)
        n_splits = min(n_splits, smallest)
    n_splits = min(n_splits, n_groups)
    if n_splits < 2:
        raise ValueError(
            f"too few independent samples for cross-validation: {n_groups} groups"
            + (f", and a class that only {n_splits} of them have" if task == "classification" else "")
            + ". At least two are needed."
            + (f" The labels are taken as {known.describe()}." if task == "classification" else "")
        )
    if task == "classification":
        splitter = selection.StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
        folds = list(splitter.split(values, targets, owners))
    else:
        splitter = selection.GroupKFold(n_splits, shuffle=True, random_state=seed)
        folds = list(splitter.split(values, targets, owners))
    guesses, base = np.empty_like(targets), np.empty_like(targets)
    shares = np.zeros((len(targets), max(1, len(classes))))
    fold_scores: dict[str, list[float]] = {}
    for train, test in folds:
        scaler = preprocessing.StandardScaler()
        if task == "regression":
            model = pipeline.make_pipeline(scaler, linear.RidgeCV(alphas=_REGULARIZATION))
            model.fit(values[train], targets[train])
            guesses[test], base[test] = model.predict(values[test]), targets[train].mean()
            scores = _regression_scores(targets[test], guesses[test])
        else:
            classifier = linear.LogisticRegression(class_weight="balanced", max_iter=1000)
            model = pipeline.make_pipeline(scaler, classifier)
            inner_groups = [len(np.unique(owners[train][targets[train] == c])) for c in np.unique(targets[train])]
            inner = min(5, *inner_groups) if inner_groups else 1
            if inner >= 2:
                search = selection.GridSearchCV(
                    model,
                    {"logisticregression__C": _REGULARIZATION},
                    scoring="balanced_accuracy",
                    cv=selection.StratifiedGroupKFold(inner, shuffle=True, random_state=seed),
                )
                search.fit(values[train], targets[train], groups=owners[train])
                model = search.best_estimator_
            else:
                model.fit(values[train], targets[train])
            guesses[test] = model.predict(values[test])
            known = model.classes_
            for column, name in enumerate(known):
                shares[test, int(np.flatnonzero(classes == name)[0])] = model.predict_proba(values[test])[:, column]
            names, counts = np.unique(targets[train], return_counts=True)
            base[test] = names[counts.argmax()]
            scores = _classification_scores(targets[test], guesses[test], shares[test], classes)
        for metric, value in scores.items():
            fold_scores.setdefault(metric, []).append(value)
    if task == "regression":
        pooled = _regression_scores(targets, guesses)
        baseline = _regression_scores(targets, base)
    else:
        pooled = _classification_scores(targets, guesses, shares, classes)
        baseline = _classification_scores(targets, base, np.full_like(shares, 1 / len(classes)), classes)
    given = np.asarray(labels)[[int(np.flatnonzero(targets == number)[0]) for number in classes]]
    return ProbeResult(
        task=task,
        scores=pooled,
        fold_scores=fold_scores,
        baseline=baseline,
        predictions=guesses if task == "regression" else given[guesses],
        classes=tuple(given.tolist()) if task == "classification" else (),
        n_splits=n_splits,
        n_groups=n_groups,
    )
