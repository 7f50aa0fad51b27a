"""Moving averages of a network, for targets and teachers."""

import torch
from torch import nn

from ..parameter_groups import own_name


def target_pairs(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Tensors of the target network and of the network that it follows, in the same order.

    Parameters, and the fixed position tables, which take part in the released code. Tables that come from data (the
    gradients of the parcels) do not.

    Args:
        model: a model whose `base_model_prefix` names the target, and with a `context_encoder`.

    Raises:
        TypeError: if the model has no such pair.
    """
    target = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    source = getattr(model, "context_encoder", None)
    if not isinstance(target, nn.Module) or not isinstance(source, nn.Module):
        raise TypeError(
            f"Expected a model with a target network and a context_encoder, got {type(model).__name__}. Use the "
            "...ForMaskedModeling class of a family that predicts latent states."
        )

    def tensors(network: nn.Module) -> list[torch.Tensor]:
        tables = [buffer for name, buffer in network.named_buffers() if own_name(name) == "time_positions"]
        return [*network.parameters(), *tables]

    return tensors(target), tensors(source)


@torch.no_grad()
def update_target(model: nn.Module, momentum: float) -> None:
    """Move the target network towards the context encoder: `target = m * target + (1 - m) * context`.

    Call it after each optimizer step. The product `(1 - m) * context` is rounded on its own, as in the released code,
    which differs from an interpolation by about 1e-7 a step.

    Args:
        model: see [`target_pairs`].
        momentum: between 0 (copy) and 1 (keep).
    """
    targets, sources = target_pairs(model)
    if targets[0].device.type == "cpu":
        # Joint operations save launches on an accelerator; here they would only hold all products at once.
        for target, source in zip(targets, sources, strict=True):
            target.mul_(momentum).add_(source * (1.0 - momentum))
        return
    moved = torch._foreach_mul(sources, 1.0 - momentum)
    torch._foreach_mul_(targets, momentum)
    torch._foreach_add_(targets, moved)
