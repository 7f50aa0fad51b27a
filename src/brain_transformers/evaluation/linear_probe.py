"""The linear-probe protocol of Brain-Semantoks: batch norm and a linear map on frozen features, by SGD.

A grid of learning rates, on several splits of the subjects, is trained as one batched head: the heads share what they
see and differ in their weights. Source: Gijsen et al., "Brain-Semantoks", ICLR 2026, and the released evaluation code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.labels import Labels
from ..training.scores import choosing_score, prediction_scores
from .splits import ProtocolResult, scan_splits, warn_of_absent_classes

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

    def to(self, device: str | torch.device) -> "ProbeHeads":
        """The heads on a device."""
        values = vars(self).items()
        tensors: Any = {name: value.to(device) for name, value in values if isinstance(value, torch.Tensor)}
        return replace(self, **tensors)

    def parameters(self) -> list[torch.Tensor]:
        """The trained tensors."""
        return [self.scale, self.shift, self.weight, self.bias]

    def logits(self, features: torch.Tensor, split: int) -> torch.Tensor:
        """Outputs of one split's heads by the running statistics: `(n, n_features)` -> `(n_rates, n, n_outputs)`."""
        normed = (features - self.running_mean[split]) / (self.running_var[split] + _BATCH_NORM_EPS).sqrt()
        weight = self.weight[split] * self.scale[split, :, None]
        bias = self.bias[split] + (self.weight[split] @ self.shift[split, :, :, None])[..., 0]
        return (normed @ weight.flatten(0, 1).T + bias.flatten()).unflatten(1, bias.shape).transpose(0, 1)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Outputs of all heads: `(n, n_features)` -> `(n_splits, n_rates, n, n_outputs)`."""
        return torch.stack([self.logits(features, split) for split in range(len(self.weight))])


class _GridStep:
    """One update of all heads of a grid by SGD with momentum, with the gradients written out.

    The heads of a split see the same normalised rows, and the norm, its scale and the linear map are linear in them.
    So the rows stay as they are and everything else is folded into the weights of one matrix product a split, forward
    and back: what a step reads is its rows, twice, and not one copy of them for each head.

    Args:
        heads: changed in place.
        features: `(n, n_features)`.
        labels: `(n,)`, classes or numbers.
        rates: learning rates.
        momentum: of SGD.
        batch_size: rows of the largest batch of a split.
    """

    def __init__(
        self,
        heads: ProbeHeads,
        features: torch.Tensor,
        labels: torch.Tensor,
        rates: Sequence[float],
        momentum: float,
        batch_size: int,
    ):
        self.heads, self.labels, self.momentum = heads, labels, momentum
        variance, self.center = torch.var_mean(features, dim=0, correction=0)
        self.spread = torch.where(variance > 0, variance, 1.0).sqrt()
        # Centered, so that mean and variance of a batch can be taken from sums without losing digits.
        self.rows = (features - self.center) / self.spread
        self.squares = self.rows.square()
        self.rates = torch.tensor(rates, dtype=torch.float32, device=features.device)[:, None]
        self.batch = features.new_empty(len(heads.weight) * batch_size, features.shape[1])
        self.velocities = [torch.zeros_like(parameter) for parameter in heads.parameters()]

    @torch.no_grad()
    def __call__(self, index: torch.Tensor) -> None:
        """Train on rows `(n_splits, n)`, the batch of each split."""
        heads = self.heads
        n_splits, n_rates, n_outputs, n_features = heads.weight.shape
        n = index.shape[1]
        # Into the same memory at every step, since fresh memory costs more than the copy.
        rows = self.batch.narrow(0, 0, n_splits * n)
        torch.index_select(self.rows, 0, index.flatten(), out=rows)
        rows = rows.view(n_splits, n, n_features)
        mean = nn.functional.embedding_bag(index, self.rows, mode="mean")
        variance = (nn.functional.embedding_bag(index, self.squares, mode="mean") - mean.square()).clamp_(min=0)
        variance *= self.spread.square()
        heads.running_mean.lerp_(self.center + self.spread * mean, _BATCH_NORM_MOMENTUM)
        heads.running_var.lerp_(variance * (n / (n - 1)), _BATCH_NORM_MOMENTUM)
        heads.n_batches += 1

        # Normalised rows are (rows - mean) * factor.
        factor = (self.spread / (variance + _BATCH_NORM_EPS).sqrt())[:, None, None]
        mean = mean[:, None, None]
        scale, shift = heads.scale[:, :, None], heads.shift[:, :, None]
        weight = heads.weight * scale * factor
        bias = heads.bias + (heads.weight * shift).sum(3) - (weight * mean).sum(3)
        outputs = torch.baddbmm(bias.reshape(n_splits, -1, 1), weight.flatten(1, 2), rows.transpose(1, 2))
        errors = self._loss_gradient(outputs.view(n_splits, n_rates, n_outputs, n), index)

        sums = errors.sum(3)[..., None]
        products = torch.bmm(errors.flatten(1, 2), rows).view_as(heads.weight)
        of_normed = products.sub_(sums * mean).mul_(factor)
        gradients = [
            (heads.weight * of_normed).sum(2),
            (heads.weight * sums).sum(2),
            of_normed * scale + sums * shift,
            sums[..., 0],
        ]
        # Rates are constant, so that they can be part of the velocities.
        for parameter, velocity, gradient in zip(heads.parameters(), self.velocities, gradients):
            rates = self.rates.reshape(-1, *([1] * (parameter.dim() - 2)))
            velocity.mul_(self.momentum).addcmul_(gradient, rates)
            parameter.sub_(velocity)

    def _loss_gradient(self, outputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Gradient of the mean loss of each head for its outputs, `(n_splits, n_rates, n_outputs, n)`."""
        labels = self.labels[index][:, None, None]
        if self.labels.is_floating_point():
            return (outputs - labels).sign_().div_(index.shape[1])
        shares = torch.softmax(outputs, dim=2)
        classes = torch.arange(outputs.shape[2], device=outputs.device)[:, None]
        return shares.sub_((labels == classes).float()).div_(index.shape[1])


def train_probe_heads(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
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
        features: `(n, n_features)`; the heads are made and trained on their device.
        labels: `(n,)`: int64 classes (cross-entropy) or floats (mean absolute error, as they are).
        rows: int64 `(n_splits, n_train)`: the rows of `features` that each split trains on; by default one split of
            all rows.
        learning_rates: the grid.
        epochs: passes over the rows.
        batch_size: rows a step; by default `min(256, max(1, n_train // 8))` as the authors do; `n_train` for full
            batches. A last batch of a single row is left out, since a batch norm has no spread over it.
        momentum: of SGD.
        heads: heads to start from, changed in place; by default [`ProbeHeads.create`].
        n_outputs: number of classes; by default one more than the largest.
        seed: of weights and order of rows.
        progress: show a progress bar.

    Raises:
        ValueError: for shapes that do not fit, classes below 0, or features that are not finite.
    """
    if features.dim() != 2 or tuple(labels.shape) != (len(features),):
        raise ValueError(
            f"Expected features (n, n_features) and labels (n,), one a row, got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}."
        )
    rows = torch.arange(len(features))[None] if rows is None else rows
    if rows.dim() != 2 or rows.shape[1] < 2:
        raise ValueError(
            f"Expected rows (n_splits, n_train) with at least two rows a split, since the batch norm of the head "
            f"needs a spread, got {tuple(rows.shape)}."
        )
    features = features.float()
    if not bool(torch.isfinite(features).all()):
        raise ValueError("Expected finite features, got NaN or infinity. Look for scans that could not be embedded.")
    n_splits, n = rows.shape
    regression = labels.is_floating_point()
    labels = (labels.float() if regression else labels).to(features.device)
    rows = rows.to(features.device)
    if not regression and int(labels.min()) < 0:
        raise ValueError(f"Expected classes from 0, got {int(labels.min())}. Number them, or pass floats to regress.")
    if heads is None:
        n_outputs = n_outputs or (1 if regression else int(labels.max()) + 1)
        heads = ProbeHeads.create(n_splits, len(learning_rates), features.shape[1], n_outputs, seed)
        heads = heads.to(features.device)
    batch_size = min(256, max(1, n // 8)) if batch_size is None else min(batch_size, n)
    batch_size = max(batch_size, 2)
    step = _GridStep(heads, features, labels, learning_rates, momentum, batch_size)
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(epochs), desc="Training probes", unit="epoch", disable=not progress):
        order = torch.arange(n) if batch_size == n else torch.randperm(n, generator=generator)
        for start in range(0, n, batch_size):
            batch = order[start : start + batch_size].to(rows.device)
            if len(batch) > 1:
                step(rows[:, batch])
    return heads


def average_crops(logits: torch.Tensor, n_crops: int) -> torch.Tensor:
    """Mean over the crops of each subject: `(..., n_subjects * n_crops, n_outputs)`, subject-major."""
    return logits.unflatten(-2, (-1, n_crops)).mean(-2)


def balanced_rows(labels: torch.Tensor, candidates: list[torch.Tensor], limit: int, seed: int) -> torch.Tensor:
    """The same number of rows of each class for every split, drawn at random.

    Args:
        labels: int64 `(n,)`.
        candidates: rows that each split may train on.
        limit: rows of each class at most; the rarest class of any split lowers it.
        seed: of the draw.

    Returns:
        int64 `(n_splits, n_classes * n_rows)`.

    Raises:
        ValueError: if a class is missing from a split.
    """
    classes = torch.unique(labels)
    counts = torch.stack([(labels[rows][:, None] == classes).sum(0) for rows in candidates])
    size = min(limit, int(counts.min()))
    if size < 1:
        split, place = divmod(int(counts.flatten().argmin()), len(classes))
        raise ValueError(
            f"Expected every class among the training subjects, but split {split} has none of class "
            f"{int(classes[place])}. Use stratify=True, or more subjects of that class."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for rows in candidates:
        rows = rows[torch.randperm(len(rows), generator=generator)]
        drawn.append(torch.cat([rows[labels[rows] == number][:size] for number in classes]))
    return torch.stack(drawn)


def linear_probe_protocol(
    features: Any,
    labels: Any,
    *,
    subjects: Sequence[Any] | None = None,
    ratios: Sequence[float] = (0.6, 0.2, 0.2),
    n_repetitions: int = 10,
    stratify: bool = False,
    max_train_crops_per_label: int | None = None,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: int = 50,
    seed: int = 0,
    progress: bool = False,
    task: str | None = None,
) -> ProtocolResult:
    """Linear probe as the authors run it, with all repetitions and learning rates trained at once.

    Every crop of a training scan is a sample; the rate with the best balanced accuracy (or absolute error) on single
    crops of the validation scans is tested without training again. Says what the labels are taken as, and warns where
    chance left a class out of a part of a split.

    Args:
        features: `(n_scans, n_crops, n_features)`, such as [`crop_features`] gives.
        labels: `(n_scans,)`, words or numbers; [`brain_transformers.data.labels.choose_task`] says whether they are
            classes, which are numbered in sorted order.
        subjects: `(n_scans,)`, whose scan it is, so that no subject is on both sides of a split; `None`: every scan is
            of another subject. Where subjects have different numbers of scans, the training sets are cut at random to
            the size of the smallest.
        ratios, n_repetitions, stratify: see [`scan_splits`].
        max_train_crops_per_label: train on this many crops of each class at most, and on the same number of each;
            for curves over the size of the training set.
        learning_rates, epochs: see [`train_probe_heads`].
        seed: of splits, weights and order.
        progress: show a progress bar.
        task: `"classification"` or `"regression"` to decide it.

    Raises:
        ValueError: for shapes, labels, subjects or ratios that do not fit, labels that are missing, an empty grid, or
            a limit a class for numbers that are no classes.
        ImportError: without scikit-learn (extra `eval`).
    """
    known = Labels.from_values(labels, task=task)
    if missing := len(labels) - len(known.rows):
        raise ValueError(
            f"Expected a label for each scan, got {missing} that are missing. Leave these scans out: rows "
            f"{sorted(set(range(len(labels))) - set(known.rows))[:10]}."
        )
    values, targets = torch.as_tensor(np.asarray(features)).float(), torch.from_numpy(known.targets)
    if not len(learning_rates):
        raise ValueError("Expected at least one learning rate, got none.")
    if values.dim() != 3 or tuple(targets.shape) != (len(values),):
        raise ValueError(
            f"Expected features (n_scans, n_crops, n_features) and one label a scan, got {tuple(values.shape)} and "
            f"{tuple(targets.shape)}."
        )
    n_crops = values.shape[1]
    if not bool(torch.isfinite(values).all()):
        bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"Expected finite features, got NaN or infinity in {len(bad)} scans (rows {bad[:10]}).")
    regression = targets.is_floating_point()
    drawn = list(scan_splits(targets.tolist(), subjects, ratios, n_repetitions, seed, stratify))
    print(f"labels: {known.describe()}, {len(values)} scans, {n_repetitions} random splits")
    warn_of_absent_classes(known, drawn)
    splits = [tuple(torch.as_tensor(scans) for scans in split) for split in drawn]
    crops, of_crops = values.flatten(0, 1), targets.repeat_interleave(n_crops)

    def crops_of(scans: torch.Tensor) -> torch.Tensor:
        return (scans[:, None] * n_crops + torch.arange(n_crops)).flatten()

    if max_train_crops_per_label is None:
        generator = torch.Generator().manual_seed(seed)
        size = min(len(train) for train, _, _ in splits)
        kept = [
            train if len(train) == size else train[torch.randperm(len(train), generator=generator)[:size]]
            for train, _, _ in splits
        ]
        train_rows = torch.stack([crops_of(train) for train in kept])
    elif regression:
        raise ValueError("max_train_crops_per_label is for classes; these labels are floats. Pass whole numbers.")
    else:
        candidates = [crops_of(train) for train, _, _ in splits]
        train_rows = balanced_rows(of_crops, candidates, max_train_crops_per_label, seed)
    heads = train_probe_heads(
        crops,
        of_crops,
        rows=train_rows,
        learning_rates=learning_rates,
        epochs=epochs,
        seed=seed,
        progress=progress,
    )
    result = ProtocolResult([], [], [])
    for number, (_, validation, test) in enumerate(splits):
        rows = crops_of(validation)
        quality = [choosing_score(logits, of_crops[rows]) for logits in heads.logits(crops[rows], number)]
        best = int(np.argmax(quality))  # the first of the best
        logits = heads.logits(crops[crops_of(test)], number)[best]
        of_crop = logits.unflatten(0, (-1, n_crops))
        single = [prediction_scores(of_crop[:, crop], targets[test]) for crop in range(n_crops)]
        result.learning_rates.append(float(learning_rates[best]))
        result.ensembled.append(prediction_scores(average_crops(logits, n_crops), targets[test]))
        result.single_crop.append({name: float(np.mean([entry[name] for entry in single])) for name in single[0]})
    return result
