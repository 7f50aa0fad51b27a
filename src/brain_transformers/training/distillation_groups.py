"""Optimizer groups of Brain-Semantoks: which parameters decay, and a learning rate that falls towards the input."""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

SCHEDULED_DECAY = "scheduled_decay"
"""Key of the groups whose weight decay follows the schedule of pretraining."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(?!weight$|bias$)")
# Parts of the encoder in the order in which the authors' model lists them, which is the order of its groups.
_PARTS = (
    re.compile(r"embeddings\.(?:tokenizers|shared_projection)\."),
    re.compile(r"embeddings\.mask_embedding$"),
    re.compile(r"embeddings\.cls_token$"),
    re.compile(r"embeddings\.network_positions$"),
    _LAYER,
    re.compile(r"(?:^|\.)layernorm\."),
)


def _part(name: str) -> int:
    return next((number for number, pattern in enumerate(_PARTS) if pattern.search(name)), len(_PARTS))


def _is_free_of_decay(name: str, published: bool) -> bool:
    """Biases, norms and layer scales; by our own rule also learned vectors."""
    if name.endswith(".bias") or "norm" in name or "layer_scale" in name:
        return True
    return not published and name.endswith(("cls_token", "mask_embedding", "network_positions"))


def semantoks_parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    published: bool = False,
    head: Iterable[nn.Parameter] | None = None,
) -> list[dict[str, Any]]:
    """Groups of trainable parameters for AdamW, one for each pair of learning rate and weight decay.

    The rate of transformer layer i of L is `layer_decay ** (L - 1 - i)` times the learning rate, that of learned
    vectors `layer_decay ** (L + 1)`, that of everything above the layers the learning rate itself. Tokenizers have
    `layer_decay ** L`. (In the authors' code they have the full rate, since the name that it looks for no longer
    exists.) Biases, norms, layer scales and learned vectors do not decay.

    Args:
        model: an encoder, classifier, or pretraining model; frozen parameters are left out.
        learning_rate: of the top of the network.
        weight_decay: of the parameters that decay.
        layer_decay: in (0, 1].
        published: the authors' groups: tokenizers with the full learning rate, learned vectors decay, everything
            decays when `layer_decay` is 1.
        head: parameters of a downstream head; they form the last group, with the full rate and (published) decay.

    Returns:
        Dicts with `params`, `lr`, `weight_decay`, and `scheduled_decay`, true where the decay is not 0 by rule.

    Raises:
        ValueError: for a decay outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"Expected layer_decay above 0 and at most 1, got {layer_decay}. Use 1 for no decay.")
    head_parameters = list(head or ())
    in_head = {id(parameter) for parameter in head_parameters}
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in in_head
    ]
    named.sort(key=lambda item: _part(item[0]))
    depth = max((int(match[1]) + 1 for name, _ in named if (match := _LAYER.search(name))), default=0)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in named:
        match, part = _LAYER.search(name), _part(name)
        layer = depth + 1
        if part in (1, 2, 3):
            layer = 0
        elif match:
            layer = int(match[1]) + 2
        elif part == 0 and not published:
            layer = 1
        scale = layer_decay ** (depth + 1 - layer)
        decays = (published and layer_decay == 1) or not _is_free_of_decay(name, published)
        empty: dict[str, Any] = {
            "params": [],
            "lr": learning_rate * scale,
            "weight_decay": weight_decay if decays else 0.0,
            SCHEDULED_DECAY: decays,
        }
        groups.setdefault((scale, decays), empty)["params"].append(parameter)
    result = list(groups.values())
    if head_parameters and published:
        parts = [(head_parameters, True)]
    else:
        parts = [
            ([p for p in head_parameters if p.ndim > 1], True),
            ([p for p in head_parameters if p.ndim <= 1], False),
        ]
    for parameters, decays in parts:
        if parameters:
            decay = weight_decay if decays else 0.0
            result.append({"params": parameters, "lr": learning_rate, "weight_decay": decay, SCHEDULED_DECAY: decays})
    return result
