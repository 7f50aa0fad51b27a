"""Optimizer groups of Brain-Semantoks: which parameters decay, and a learning rate that falls towards the input."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..layer_decay import encoder_depths
from ..parameter_groups import norm_parameters, own_name

SCHEDULED_DECAY = "scheduled_decay"
"""Key of the groups whose weight decay follows the schedule of pretraining."""

# Learned vectors of the embeddings, in the order in which the authors' model lists them.
_VECTORS = ("mask_embedding", "cls_token", "network_positions")


def _parts(model: Any) -> dict[int, int]:
    """Place of each parameter of the encoders by its id, in the order of the authors' groups.

    Tokenizers, learned vectors, layers, final norm; heads are in none.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts: dict[int, int] = {}
    for body in (module for module in inner.modules() if type(module) is type(inner.base_model)):
        parts |= {id(parameter): 0 for parameter in body.embeddings.parameters()}
        vectors = (getattr(body.embeddings, name) for name in _VECTORS)
        parts |= {id(vector): place for place, vector in enumerate(vectors, 1) if vector is not None}
        parts |= {id(parameter): 4 for parameter in body.layers.parameters()}
        parts |= {id(parameter): 5 for parameter in body.layernorm.parameters()}
    return parts


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
    parts, norms = _parts(model), norm_parameters(model)
    depths, n_layers = encoder_depths(model)
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in in_head
    ]
    named.sort(key=lambda item: parts.get(id(item[1]), 6))
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in named:
        part = parts.get(id(parameter), 6)
        layer = n_layers + 1
        if part in (1, 2, 3):
            layer = 0
        elif part == 4:
            layer = depths[id(parameter)] + 1
        elif part == 0 and not published:
            layer = 1
        scale = layer_decay ** (n_layers + 1 - layer)
        free = id(parameter) in norms or own_name(name) in ("bias", "layer_scale1", "layer_scale2")
        free = free or (not published and part in (1, 2, 3))
        decays = (published and layer_decay == 1) or not free
        empty: dict[str, Any] = {
            "params": [],
            "lr": learning_rate * scale,
            "weight_decay": weight_decay if decays else 0.0,
            SCHEDULED_DECAY: decays,
        }
        groups.setdefault((scale, decays), empty)["params"].append(parameter)
    result = list(groups.values())
    if head_parameters and published:
        of_head = [(head_parameters, True)]
    else:
        of_head = [
            ([p for p in head_parameters if p.ndim > 1], True),
            ([p for p in head_parameters if p.ndim <= 1], False),
        ]
    for parameters, decays in of_head:
        if parameters:
            decay = weight_decay if decays else 0.0
            result.append({"params": parameters, "lr": learning_rate, "weight_decay": decay, SCHEDULED_DECAY: decays})
    return result
