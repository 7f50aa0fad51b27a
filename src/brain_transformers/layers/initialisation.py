"""Linear layers that start in a way of their own."""

from typing import Any

from torch import nn
from transformers import initialization as init


def initialised_linear(
    in_features: int, out_features: int, std: float | None, bias: bool = True, zero_bias: bool = False
) -> nn.Linear:
    """A linear layer that remembers how it starts, where that is not how the rest of its model does.

    It has to, since transformers does not ask modules without parameters of their own how to initialise those inside
    them; and it is no class of its own, which quantisation would pass over.

    Args:
        in_features, out_features, bias: as for `nn.Linear`.
        std: standard deviation of the weights, see [`initialise`]; `None` for Xavier uniform.
        zero_bias: start the bias at 0 rather than as the model's layers do.
    """
    layer: Any = nn.Linear(in_features, out_features, bias=bias)
    layer.initial_std, layer.starts_at_zero = std, zero_bias
    return layer


def initialise(layer: Any, cut_at: float | None = None) -> None:
    """Give a layer of [`initialised_linear`] the start that it remembers; any other stays as it is."""
    if not hasattr(layer, "initial_std"):
        return
    if layer.initial_std is None:
        init.xavier_uniform_(layer.weight)
    elif cut_at is None:
        init.normal_(layer.weight, std=layer.initial_std)
    else:
        init.trunc_normal_(layer.weight, std=layer.initial_std, a=-cut_at, b=cut_at)
    if layer.starts_at_zero:
        init.zeros_(layer.bias)
