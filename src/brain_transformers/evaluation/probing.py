"""Linear probe on frozen features, with a split that keeps a subject's scans together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.labels import Labels
from ..data.participants import is_gap
from ..optional import require
from ..training.scores import classification_scores, regression_scores

_REGULARIZATION = tuple(np.logspace(-4, 4, 9).tolist())


@dataclass(frozen=True)
class ProbeResult:
    """What [`probe`] found.

    Args:
        task: `"classification"` or `"regression"`.
        scores: metric (see `training.scores`) -> value on the out-of-fold predictions of all samples together.
        fold_scores: metric -> one value a fold, NaN where it is not defined there.
        baseline: metric -> value of the guess that ignores the features (most frequent class, or mean), same folds;
            NaN for the correlation of the mean, which is none.
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


def _fit_classifier(features: np.ndarray, labels: np.ndarray, owners: np.ndarray, seed: int) -> Any:
    """Logistic regression on standardised features, its regularisation chosen where every class has two groups."""
    linear = require("sklearn.linear_model", extra="eval", purpose="probing")
    pipeline = require("sklearn.pipeline", extra="eval", purpose="probing")
    preprocessing = require("sklearn.preprocessing", extra="eval", purpose="probing")
    selection = require("sklearn.model_selection", extra="eval", purpose="probing")
    classifier = linear.LogisticRegression(class_weight="balanced", max_iter=1000)
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), classifier)
    n_splits = min(5, *(len(np.unique(owners[labels == number])) for number in np.unique(labels)))
    if n_splits < 2:
        return model.fit(features, labels)
    search = selection.GridSearchCV(
        model,
        {"logisticregression__C": _REGULARIZATION},
        scoring="balanced_accuracy",
        cv=selection.StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed),
    )
    return search.fit(features, labels, groups=owners)


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
    classes = np.unique(targets) if task == "classification" else np.array([], dtype=int)
    rarest = min((len(np.unique(owners[targets == number])) for number in classes), default=n_groups)
    n_splits = min(n_splits, n_groups, rarest)
    if n_splits < 2:
        raise ValueError(
            f"too few independent samples for cross-validation: {n_groups} groups"
            + (f", and a class that only {n_splits} of them have" if task == "classification" else "")
            + ". At least two are needed."
            + (f" The labels are taken as {known.describe()}." if task == "classification" else "")
        )
    selection = require("sklearn.model_selection", extra="eval", purpose="probing")
    dummy = require("sklearn.dummy", extra="eval", purpose="probing")
    splitter = selection.StratifiedGroupKFold if task == "classification" else selection.GroupKFold
    folds = list(splitter(n_splits, shuffle=True, random_state=seed).split(values, targets, owners))
    if task == "classification":
        shares = np.zeros((len(targets), len(classes)))
        for train, test in folds:
            model = _fit_classifier(values[train], targets[train], owners[train], seed)
            shares[np.ix_(test, model.classes_)] = model.predict_proba(values[test])
        found: tuple[np.ndarray, ...] = (shares.argmax(1), shares)
        most_frequent = dummy.DummyClassifier(strategy="most_frequent")
        blind: tuple[np.ndarray, ...] = (
            selection.cross_val_predict(most_frequent, values, targets, cv=folds),
            np.ones_like(shares),
        )
        score: Callable[..., dict[str, float]] = classification_scores
    else:
        linear = require("sklearn.linear_model", extra="eval", purpose="probing")
        pipeline = require("sklearn.pipeline", extra="eval", purpose="probing")
        preprocessing = require("sklearn.preprocessing", extra="eval", purpose="probing")
        ridge = pipeline.make_pipeline(preprocessing.StandardScaler(), linear.RidgeCV(alphas=_REGULARIZATION))
        found = (selection.cross_val_predict(ridge, values, targets, cv=folds),)
        blind = (selection.cross_val_predict(dummy.DummyRegressor(), values, targets, cv=folds),)
        score = regression_scores
    scores = score(targets, *found)
    of_folds = [score(targets[test], *(part[test] for part in found)) for _, test in folds]
    baseline = score(targets, *blind)
    if "pearson_r" in baseline:
        # Means of the other folds are low where the labels left out are high, which is no guess at them.
        baseline["pearson_r"] = float("nan")
    given = np.asarray(labels)[[int(np.flatnonzero(targets == number)[0]) for number in classes]]
    return ProbeResult(
        task=task,
        scores=scores,
        fold_scores={name: [fold.get(name, float("nan")) for fold in of_folds] for name in scores},
        baseline=baseline,
        predictions=given[found[0]] if task == "classification" else found[0],
        classes=tuple(given.tolist()),
        n_splits=n_splits,
        n_groups=n_groups,
    )
