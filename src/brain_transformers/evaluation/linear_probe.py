"""The linear-probe protocol of Brain-Semantoks: batch norm and a linear map on frozen features, by SGD.

A grid of learning rates, on several splits of the subjects, is trained as one batched head: the heads share what they
see and differ in their weights. Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, and the released evaluation code.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..optional import require

LEARNING_RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
_BATCH_NORM_EPS = 1e-5
_BATCH_NORM_MOMENTUM = 0.1


@dataclass
class ProbeHeads:
    """Heads of a grid: one for each of `n_splits` splits and `n_rates` learning rates.

    Attributes:
        scale, shift: `(n_splits, n_rates, n_features)`, weights of the batch norm.
        weight, bias: `(n_splits, n_rates, n_outputs, n_features)` and `(n_splits, n_rates, n_outputs)`.
        running_mean, running_var: `(n_splits, n_features)`, the same for all rates.
        n_batches: batches that the running statistics have seen.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    n_batches: int = 0

    @classmethod
    def create(cls, n_splits: int, n_rates: int, n_features: int, n_outputs: int, seed: int = 0) -> "ProbeHeads":
        """Fresh heads: output weights N(0, 2e-5), biases as torch makes them."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(n_splits, n_rates, n_outputs, n_features, generator=generator) * 2e-5
        bias = (2 * torch.rand(n_splits, n_rates, n_outputs, generator=generator) - 1) * n_features**-0.5
        return cls(
            torch.ones(n_splits, n_rates, n_features),
            torch.zeros(n_splits, n_rates, n_features),
            weight,
            bias,
            torch.zeros(n_splits, n_features),
            torch.ones(n_splits, n_features),
        )

    def parameters(self) -> list[torch.Tensor]:
        """The trained tensors."""
        return [self.scale, self.shift, self.weight, self.bias]

    def apply(self, normed: torch.Tensor) -> torch.Tensor:
        """Normalised features `(n_splits, n, n_features)` -> `(n_splits, n_rates, n, n_outputs)`.

        Scale and shift of the norm are folded into the linear map, so that all rates are one matrix product.
        """
        n_splits, n_rates, n_outputs, n_features = self.weight.shape
        weight = (self.weight * self.scale[:, :, None]).reshape(n_splits, n_rates * n_outputs, n_features)
        bias = self.bias + (self.weight @ self.shift[..., None])[..., 0]
        logits = torch.baddbmm(bias.reshape(n_splits, 1, -1), normed, weight.transpose(1, 2))
        return logits.unflatten(2, (n_rates, n_outputs)).transpose(1, 2)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(n_splits, n_rates, n, n_outputs)` of `(n, n_features)` or `(n_splits, n, n_features)`, by the
        running statistics."""
        features = features if features.dim() == 3 else features.expand(len(self.running_mean), -1, -1)
        deviation = (self.running_var + _BATCH_NORM_EPS).sqrt()[:, None]
        return self.apply((features - self.running_mean[:, None]) / deviation)


def _normalise(heads: ProbeHeads, features: torch.Tensor) -> torch.Tensor:
    """Batch norm over the rows of a batch, without scale and shift; updates the running statistics."""
    variance, mean = torch.var_mean(features, dim=1, correction=0)
    n = features.shape[1]
    heads.running_mean.lerp_(mean, _BATCH_NORM_MOMENTUM)
    heads.running_var.lerp_(variance * (n / max(n - 1, 1)), _BATCH_NORM_MOMENTUM)
    heads.n_batches += 1
    return (features - mean[:, None]) / (variance + _BATCH_NORM_EPS).sqrt()[:, None]


def train_probe_heads(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 50,
    batch_size: int | None = None,
    momentum: float = 0.9,
    heads: ProbeHeads | None = None,
    n_outputs: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ProbeHeads:
    """Train one head for each split and learning rate: SGD with momentum and a constant rate, no weight decay.

    Args:
        features: `(n_splits, n, n_features)`, or `(n, n_features)` for one split.
        labels: `(n_splits, n)` or `(n,)`: int64 classes (cross-entropy) or floats (mean absolute error, as they are).
        learning_rates: the grid.
        epochs: passes over the features.
        batch_size: rows a step; by default `min(256, max(1, n // 8))` as the authors do; `n` for full batches.
        momentum: of SGD.
        heads: heads to start from; by default [`ProbeHeads.create`].
        n_outputs: number of classes; by default one more than the largest.
        seed: of weights and order of rows.
        progress: show a progress bar.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if features.dim() == 2:
        features, labels = features[None], labels[None]
    n_splits, n, n_features = features.shape
    if tuple(labels.shape) != (n_splits, n):
        raise ValueError(f"Expected labels ({n_splits}, {n}), one a row of features, got {tuple(labels.shape)}.")
    regression = labels.is_floating_point()
    if heads is None:
        n_outputs = n_outputs or (1 if regression else int(labels.max()) + 1)
        heads = ProbeHeads.create(n_splits, len(learning_rates), n_features, n_outputs, seed)
    features = features.float()
    batch_size = min(256, max(1, n // 8)) if batch_size is None else min(batch_size, n)
    parameters = [parameter.requires_grad_(True) for parameter in heads.parameters()]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    rates = torch.tensor(learning_rates, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(epochs), desc="Training probes", unit="epoch", disable=not progress):
        order = torch.arange(n) if batch_size == n else torch.randperm(n, generator=generator)
        for start in range(0, n, batch_size):
            rows = order[start : start + batch_size]
            if len(rows) < 2:
                continue  # a batch norm has no spread over one row
            with torch.no_grad():
                normed = _normalise(heads, features[:, rows])
            logits = heads.apply(normed)
            loss = _grid_loss(logits, labels[:, rows], regression)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, velocity, gradient in zip(parameters, velocities, gradients):
                    velocity.mul_(momentum).add_(gradient)
                    step = rates.reshape(1, -1, *([1] * (parameter.dim() - 2)))
                    parameter.sub_(step * velocity)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return heads


def _grid_loss(logits: torch.Tensor, labels: torch.Tensor, regression: bool) -> torch.Tensor:
    """Sum over splits and rates of the mean loss of each head, so that heads do not touch each other."""
    n_splits, n_rates, n, _ = logits.shape
    targets = labels[:, None].expand(n_splits, n_rates, n)
    if regression:
        return (logits[..., 0] - targets).abs().mean(2).sum()
    return nn.functional.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="sum") / n


def average_crops(logits: torch.Tensor, n_crops: int) -> torch.Tensor:
    """Mean over the crops of each subject: `(..., n_subjects * n_crops, n_outputs)`, subject-major."""
    return logits.unflatten(-2, (-1, n_crops)).mean(-2)


def protocol_metrics(logits: Any, labels: Any) -> dict[str, float]:
    """Metrics of the protocol.

    Classification, in percent: accuracy, balanced accuracy (primary), F1, precision and recall (of class 1 with two
    classes, else macro and weighted means), AUROC from the softmax (one against the rest). Undefined values count as
    0. Regression: `mae` (primary), `r2`, `pearson_r`.

    Args:
        logits: `(n, n_outputs)`.
        labels: `(n,)`; whole numbers are classes.

    Raises:
        ImportError: without scikit-learn (extra `eval`).
    """
    scores = require("sklearn.metrics", extra="eval", purpose="probing")
    outputs, targets = torch.as_tensor(np.asarray(logits)), np.asarray(labels)
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
        "balanced_accuracy": scores.balanced_accuracy_score(targets, guesses),
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


def subject_splits(
    labels: Sequence[Any],
    ratios: Sequence[float] = (0.6, 0.2, 0.2),
    n_repetitions: int = 10,
    seed: int = 0,
    stratify: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random splits of subjects into training, validation and test, as the authors draw them (in two steps).

    Args:
        labels: one a subject.
        ratios: shares of the three sets.
        n_repetitions: number of splits; repetition i uses `seed + i`.
        seed: of the first repetition.
        stratify: keep the shares of the labels.

    Yields:
        Three int64 arrays of subject numbers.
    """
    selection = require("sklearn.model_selection", extra="eval", purpose="probing")
    everyone = np.arange(len(labels))
    groups = np.asarray([str(label) for label in labels])
    if stratify:
        everyone = everyone[groups != "nan"]
    train, validation, test = ratios
    for repetition in range(n_repetitions):
        first, held = selection.train_test_split(
            everyone,
            test_size=(validation + test) / (train + validation + test),
            random_state=seed + repetition,
            stratify=groups[everyone] if stratify else None,
        )
        second, third = selection.train_test_split(
            held,
            test_size=test / (validation + test),
            random_state=seed + repetition,
            stratify=groups[held] if stratify else None,
        )
        yield first, second, third


@dataclass(frozen=True)
class ProtocolResult:
    """What [`linear_probe_protocol`] found: one entry a repetition.

    Attributes:
        learning_rates: the rate that was chosen on the validation subjects.
        ensembled: metrics of the test subjects, logits averaged over crops.
        single_crop: metrics of single crops of the test subjects, averaged over the crops.
    """

    learning_rates: list[float]
    ensembled: list[dict[str, float]]
    single_crop: list[dict[str, float]]

    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the repetitions of each ensembled metric."""
        names = self.ensembled[0]
        values = {name: [entry[name] for entry in self.ensembled if name in entry] for name in names}
        return {name: (float(np.mean(v)), float(np.std(v))) for name, v in values.items()}


def linear_probe_protocol(
    features: Any,
    labels: Any,
    *,
    ratios: Sequence[float] = (0.6, 0.2, 0.2),
    n_repetitions: int = 10,
    stratify: bool = False,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> ProtocolResult:
    """Linear probe as the authors run it, with all repetitions and learning rates trained at once.

    Every crop of a training subject is a sample; the rate with the best primary metric on single crops of the
    validation subjects is tested without training again.

    Args:
        features: `(n_subjects, n_crops, n_features)`, such as `cls_avg` features of 8 evenly spaced crops.
        labels: `(n_subjects,)`, whole numbers for classes, floats for regression.
        ratios, n_repetitions, stratify: see [`subject_splits`].
        learning_rates, epochs: see [`train_probe_heads`].
        seed: of splits, weights and order.
        progress: show a progress bar.

    Raises:
        ValueError: for shapes that do not fit.
        ImportError: without scikit-learn (extra `eval`).
    """
    values, targets = torch.as_tensor(np.asarray(features)).float(), torch.as_tensor(np.asarray(labels))
    if values.dim() != 3 or tuple(targets.shape) != (len(values),):
        raise ValueError(
            f"Expected features (n_subjects, n_crops, n_features) and one label a subject, got {tuple(values.shape)} "
            f"and {tuple(targets.shape)}."
        )
    n_crops = values.shape[1]
    regression = targets.is_floating_point()
    n_outputs = 1 if regression else int(targets.max()) + 1
    splits = list(subject_splits(targets.tolist(), ratios, n_repetitions, seed, stratify))
    size = min(len(train) for train, _, _ in splits)
    rows = torch.stack([values[train[:size]].flatten(0, 1) for train, _, _ in splits])
    classes = torch.stack([targets[train[:size]].repeat_interleave(n_crops) for train, _, _ in splits])
    heads = train_probe_heads(
        rows,
        classes,
        learning_rates=learning_rates,
        epochs=epochs,
        n_outputs=n_outputs,
        seed=seed,
        progress=progress,
    )
    result = ProtocolResult([], [], [])
    for number, (_, validation, test) in enumerate(splits):
        on_validation = heads(values[validation].flatten(0, 1))[number]
        crops = targets[validation].repeat_interleave(n_crops).numpy()
        quality = [primary_metric(protocol_metrics(logits, crops))[1] for logits in on_validation]
        best = int(np.argmax(quality))  # the first of the best
        logits = heads(values[test].flatten(0, 1))[number, best]
        of_crop = logits.unflatten(0, (-1, n_crops))
        single = [protocol_metrics(of_crop[:, crop], targets[test].numpy()) for crop in range(n_crops)]
        result.learning_rates.append(float(learning_rates[best]))
        result.ensembled.append(protocol_metrics(average_crops(logits, n_crops), targets[test].numpy()))
        result.single_crop.append({name: float(np.mean([entry[name] for entry in single])) for name in single[0]})
    return result
