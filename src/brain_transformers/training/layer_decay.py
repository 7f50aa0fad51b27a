"""Optimizer groups for fine-tuning, with a learning rate that falls towards the input.

    groups = scale_learning_rates(layer_decay_groups(model, layer_decay=0.75), learning_rate=1e-4)
    trainer = SeededTrainer(model, arguments, ..., optimizers=(torch.optim.AdamW(groups), None))

The Trainer's schedule then multiplies every group's own rate.
"""

from typing import Any


def encoder_depths(model: Any) -> tuple[dict[int, int], int]:
    """Depth of each parameter of the encoder by its id (embeddings 0, layer i is i + 1), and the number of layers.

    Args:
        model: any model of this package, also with adapters around it.
    """
    groups = (model.get_base_model() if hasattr(model, "get_base_model") else model).layer_groups()
    depths = {id(parameter): depth for depth, group in enumerate(groups) for parameter in group}
    return depths, len(groups) - 1


def layer_decay_groups(model: Any, *, weight_decay: float = 0.05, layer_decay: float = 0.75) -> list[dict[str, Any]]:
    """Groups of trainable parameters for AdamW, each with the factor of its learning rate as `lr_scale`.

    Embeddings are layer 0, transformer layer i is i + 1, everything else (final norm, head, decoder) is L = depth + 1,
    and the factor is `layer_decay ** (L - layer)` (the rule of BEiT). The released code of Brain-JEPA asks for 0.75,
    but its names do not match, so that every factor is 1 there: `layer_decay=1` is what it does. One-dimensional
    parameters do not decay.

    Args:
        model: a `...ForSequenceClassification` model or a body.
        weight_decay: of parameters with more than one axis.
        layer_decay: in (0, 1]; 1 for one learning rate.

    Returns:
        Dicts with `params`, `weight_decay` and `lr_scale`; [`scale_learning_rates`] multiplies the learning rate of a
        group by its factor.

    Raises:
        ValueError: for a decay outside (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"Expected layer_decay above 0 and at most 1, got {layer_decay}. Use 1 for no decay.")
    depths, n_layers = encoder_depths(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        scale = layer_decay ** (n_layers + 1 - depths.get(id(parameter), n_layers + 1))
        decay = weight_decay if parameter.ndim > 1 else 0.0
        empty: dict[str, Any] = {"params": [], "weight_decay": decay, "lr_scale": scale}
        groups.setdefault((scale, decay), empty)["params"].append(parameter)
    return list(groups.values())


def scale_learning_rates(groups: list[dict[str, Any]], learning_rate: float) -> list[dict[str, Any]]:
    """The groups with `lr` set to `learning_rate * lr_scale`, ready for an optimizer."""
    return [{**group, "lr": learning_rate * group["lr_scale"]} for group in groups]
