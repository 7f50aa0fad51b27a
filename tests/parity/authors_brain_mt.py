"""What the authors of BrainMT do otherwise than this package: splits, scores, groups of parameters as written."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr


def published_split(n_scans: int, ratios: Sequence[float] = (0.7, 0.15), seed: int = 0) -> list[list[int]]:
    """Training, validation and test as BrainMT's authors draw them: one random split, of scans and not of subjects.

    Args:
        n_scans: number of scans, one a subject.
        ratios: shares of training and validation, rounded down; the rest is for the test.
        seed: of the draw.

    Returns:
        Three lists of scan numbers, in the order in which they were drawn.
    """
    order = torch.randperm(n_scans, generator=torch.Generator().manual_seed(seed)).tolist()
    bounds = [0, *np.cumsum([int(ratio * n_scans) for ratio in ratios]).tolist(), n_scans]
    return [order[start:stop] for start, stop in pairwise(bounds)]


def published_regression_scores(labels: np.ndarray, guesses: np.ndarray) -> dict[str, float]:
    """Scores of `labels` and `guesses` `(n,)` in their dtype, sums included: float16 after mixed precision."""
    error = guesses - labels
    unexplained, total = np.sum(error**2), np.sum((labels - np.mean(labels)) ** 2)
    r, p = pearsonr(guesses, labels)
    values = {"mse": np.mean(error**2), "mae": np.mean(np.abs(error)), "pearson_r": r, "pearson_p": p}
    values["r2"] = 1 - unexplained / total if total else 0.0
    return {name: float(value) for name, value in values.items()}


def written_groups(model: Any, layer_decay: float) -> list[tuple[list[torch.nn.Parameter], float, bool]]:
    """Groups as the authors wrote them, without the prefix of their runs by which no rule matches.

    The rate falls over CLS, spatial positions and the first two convolutions and over the attention layers, while all
    else, Mamba layers too, has the full rate; CLS and positions do not decay.
    """
    body, n_layers = model.base_model, model.config.n_layers
    embeddings = body.embeddings
    first = [embeddings.cls_token, embeddings.position_embeddings]
    convolutions = [embeddings.stem.conv1.weight, embeddings.stem.conv2.weight]
    scales = {id(parameter): layer_decay ** (n_layers + 1) for parameter in [*first, *convolutions]}
    for number, layer in enumerate(body.attention_layers):
        scales |= {id(parameter): layer_decay ** (n_layers - number) for parameter in layer.parameters()}
    free = {id(parameter) for parameter in [*first, embeddings.frame_embeddings]}
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        key = (scales.get(id(parameter), 1.0), parameter.ndim > 1 and id(parameter) not in free)
        groups.setdefault(key, []).append(parameter)
    return [(parameters, *key) for key, parameters in groups.items()]
