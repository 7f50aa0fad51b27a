"""Which parameters weight decay applies to."""

from torch import nn
from transformers.trainer_pt_utils import get_parameter_names


def decay_parameter_names(model: nn.Module, published: bool = False) -> list[str]:
    """Names of the trainable parameters that weight decay pulls towards 0.

    Biases, norms and single learned vectors (CLS, mask and hub tokens, learned positions) do not decay.

    Args:
        model: any model.
        published: the grouping of BrainLM's released training code instead: only names with "bias" in them and the
            weights of LayerNorms are left out, so CLS and mask tokens decay.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    outside_norms = set(get_parameter_names(model, [nn.LayerNorm], ["bias"]))
    if published:
        return [name for name in trainable if name in outside_norms]
    learned_vectors = ("_token", "_tokens", "position_embeddings", "positions")
    return [
        name
        for name, parameter in trainable.items()
        if name in outside_norms
        # Norms other than LayerNorm, and tokens stored as (1, 1, width), have one axis that is longer than 1.
        and sum(size > 1 for size in parameter.shape) > 1
        and not name.endswith(learned_vectors)
    ]
