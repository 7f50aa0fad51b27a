"""Which parameters weight decay applies to: by what they are in the model, not by what their names contain."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

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
