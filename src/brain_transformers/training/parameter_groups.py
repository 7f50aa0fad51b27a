"""Groups of parameters for the optimizer: which of them decay, and learning rates that fall towards the input.

Both go by what a parameter is in the model, not by what its name contains. For a Trainer of one's own:

    groups = scale_learning_rates(layer_decay_groups(model, layer_decay=0.75), learning_rate=1e-4)
    trainer = SeededTrainer(model, arguments, ..., optimizers=(torch.optim.AdamW(groups), None))

The Trainer's schedule then multiplies every group's own rate.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

SCHEDULED_DECAY = "scheduled_decay"
"""Key of the groups whose weight decay follows the schedule of pretraining."""

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
LEARNED_VECTORS = {
    *("cls_token", "mask_token", "hub_tokens", "mask_embedding"),
    *("position_embeddings", "positions", "network_positions"),
}
"""Names of parameters that are single learned vectors, without that of their module."""


def own_name(name: str) -> str:
    """The last part of a parameter's name: what its module calls it."""
    return name.rpartition(".")[2]


def norm_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters of normalisation layers."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }


def decay_parameter_names(model: nn.Module, published: bool = False) -> list[str]:
    """Names of the trainable parameters that weight decay pulls towards 0.

    Biases, norms and single learned vectors (CLS, mask and hub tokens, learned positions) do not decay.

    Args:
        model: any model.
        published: the grouping of BrainLM's released training code instead: only biases and norms are left out, so CLS
            and mask tokens decay.
    """
    norms = norm_parameters(model)
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and own_name(name) != "bias"
        and id(parameter) not in norms
        # Norms of other libraries, and tokens stored as (1, 1, width), have one axis that is longer than 1.
        and (published or (sum(size > 1 for size in parameter.shape) > 1 and own_name(name) not in LEARNED_VECTORS))
    ]


def without_adapters(model: Any) -> Any:
    """The model itself, without what peft has put around it."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def _rates(levels: list[list[nn.Parameter]], layer_decay: float) -> dict[int, float]:
    """Factor of the learning rate of the parameters in `model.layer_groups()` by their ids; that of others is 1.

    Raises:
        ValueError: for a decay outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"Expected layer_decay above 0 and at most 1, got {layer_decay}. Use 1 for no decay.")
    above = zip(range(len(levels), 0, -1), levels, strict=True)
    return {id(parameter): layer_decay**number for number, level in above for parameter in level}


def layer_decay_groups(model: Any, *, weight_decay: float = 0.05, layer_decay: float = 0.75) -> list[dict[str, Any]]:
    """Groups of trainable parameters for AdamW, each with the factor of its learning rate as `lr_scale`.

    The last of the model's `layer_groups` has the factor `layer_decay`, each one before it that much less, and
    everything else (final norm, head, decoder) 1 (the rule of BEiT). The released code of Brain-JEPA asks for 0.75,
    but its names do not match, so that every factor is 1 there: `layer_decay=1` is what it does. One-dimensional
    parameters do not decay.

    Args:
        model: a `...ForSequenceClassification` model or a body, also with adapters around it.
        weight_decay: of parameters with more than one axis.
        layer_decay: in (0, 1]; 1 for one learning rate.

    Returns:
        Dicts with `params`, `weight_decay` and `lr_scale`; [`scale_learning_rates`] multiplies the learning rate of a
        group by its factor.

    Raises:
        ValueError: for a decay outside (0, 1].
    """
    rates = _rates(without_adapters(model).layer_groups(), layer_decay)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        scale = rates.get(id(parameter), 1.0)
        decay = weight_decay if parameter.ndim > 1 else 0.0
        empty: dict[str, Any] = {"params": [], "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((scale, decay), empty)["params"].append(parameter)
    return list(groups.values())


def scale_learning_rates(groups: list[dict[str, Any]], learning_rate: float) -> list[dict[str, Any]]:
    """The groups with `lr` set to `learning_rate * lr_scale`, ready for an optimizer."""
    return [{**group, "lr": learning_rate * group["lr_scale"]} for group in groups]


def semantoks_parameter_groups(
    model: Any,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    published: bool = False,
    head: Iterable[nn.Parameter] | None = None,
) -> list[dict[str, Any]]:
    """Groups of trainable parameters for AdamW, one for each pair of learning rate and weight decay.

    For models whose `layer_groups` begin with learned vectors and tokenizers. The rate of transformer layer i of L is
    `layer_decay ** (L - 1 - i)` times the learning rate, that of learned vectors `layer_decay ** (L + 1)`, that of
    everything above the layers the learning rate itself. Tokenizers have `layer_decay ** L`. (In the authors' code
    they have the full rate, since the name that it looks for no longer exists.) Biases, norms, layer scales and
    learned vectors do not decay.

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
    of_the_head = [parameter for parameter in head or () if parameter.requires_grad]
    in_head = {id(parameter) for parameter in of_the_head}
    levels = without_adapters(model).layer_groups()
    rates, norms = _rates(levels, layer_decay), norm_parameters(model)
    vectors, tokenizers = ({id(parameter): place for place, parameter in enumerate(level)} for level in levels[:2])
    if published:
        rates.update(dict.fromkeys(tokenizers, 1.0))
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in in_head
    ]
    # In the order of the authors' groups: tokenizers, learned vectors, the rest.
    named.sort(key=lambda item: (id(item[1]) not in tokenizers, vectors.get(id(item[1]), len(vectors))))
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in named:
        scale = rates.get(id(parameter), 1.0)
        free = id(parameter) in norms or own_name(name) in ("bias", "layer_scale1", "layer_scale2")
        free = free or (not published and id(parameter) in vectors)
        decays = (published and layer_decay == 1) or not free
        empty: dict[str, Any] = {
            "params": [],
            "lr": learning_rate * scale,
            "weight_decay": weight_decay if decays else 0.0,
            SCHEDULED_DECAY: decays,
        }
        groups.setdefault((scale, decays), empty)["params"].append(parameter)
    result = list(groups.values())
    if of_the_head and published:
        parts = [(of_the_head, True)]
    else:
        parts = [
            ([p for p in of_the_head if p.ndim > 1], True),
            ([p for p in of_the_head if p.ndim <= 1], False),
        ]
    for parameters, decays in parts:
        if parameters:
            decay = weight_decay if decays else 0.0
            result.append({"params": parameters, "lr": learning_rate, "weight_decay": decay, SCHEDULED_DECAY: decays})
    return result


def fine_tuning_groups(
    model: Any, *, learning_rate: float, weight_decay: float, layer_decay: float, published: bool = False
) -> list[dict[str, Any]]:
    """Groups of a classifier's parameters for AdamW, with a learning rate that falls towards the input.

    They are those of [`semantoks_parameter_groups`] for a model whose authors have groups of their own
    (`has_published_groups`), and of [`layer_decay_groups`] for every other (the rule of BEiT, which the fine-tuning
    scripts of Brain-JEPA name).

    Args:
        model: a `...ForSequenceClassification` model or a body.
        learning_rate: of the head.
        weight_decay: of the parameters that decay.
        layer_decay: in (0, 1]; 1 for one learning rate.
        published: the groups of the authors' code.

    Raises:
        ValueError: for a layer decay outside (0, 1], or `published` with a model whose authors have no such groups.
    """
    if without_adapters(model).has_published_groups:
        return semantoks_parameter_groups(
            model,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            published=published,
            head=head_parameters(model),
        )
    if published:
        raise ValueError(
            f"Expected published groups for Brain-Semantoks, got {type(model).__name__}. Leave "
            "published_parameter_groups out."
        )
    groups = layer_decay_groups(model, weight_decay=weight_decay, layer_decay=layer_decay)
    return scale_learning_rates(groups, learning_rate)


def head_parameters(model: Any) -> list[nn.Parameter]:
    """Parameters of the head of a classifier; a body has none."""
    head: Any = getattr(model, "classifier", None)
    return [] if head is None else list(head.parameters())
