"""Groups of parameters for the optimizer: which of them decay, and learning rates that fall towards the input.

Both go by what a parameter is in the model, not by what its name contains. For a Trainer of one's own:

    groups = scale_learning_rates(layer_decay_groups(model, layer_decay=0.75), learning_rate=1e-4)
    trainer = SeededTrainer(model, arguments, ..., optimizers=(torch.optim.AdamW(groups), None))

The Trainer's schedule then multiplies every group's own rate.
"""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

SCHEDULED_DECAY = "scheduled_decay"
"""Key of the groups that decay, and so follow the schedule of pretraining, whatever their decay is now."""

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
NEVER_DECAY = {
    *("cls_token", "mask_token", "hub_tokens", "mask_embedding"),
    *("position_embeddings", "frame_embeddings", "hub_positions", "positions", "network_positions"),
    *("A_log", "A_b_log"),
}
"""Names, without that of their module, of learned vectors, and of what is no weight though it has two axes.

Weight decay would pull the logarithms of a state space's rates to 0, and so its rates to 1 (Mamba's code does not
decay them).
"""


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

    Biases, norms, learned vectors (CLS, mask and hub tokens, positions) and rates of a state space do not decay.

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
        and (published or (sum(size > 1 for size in parameter.shape) > 1 and own_name(name) not in NEVER_DECAY))
    ]


def without_adapters(model: Any) -> Any:
    """The model itself, without what peft has put around it."""
    unwrap = getattr(model, "get_base_model", None)
    return model if unwrap is None else unwrap()


def layer_decay_groups(
    model: Any, *, weight_decay: float = 0.05, layer_decay: float = 0.75, published: bool = False
) -> list[dict[str, Any]]:
    """Groups of trainable parameters for AdamW, each with the factor of its learning rate as `lr_scale`.

    The last of the model's `layer_groups` has the factor `layer_decay`, each one before it that much less, and
    everything else (final norm, head, decoder, what all layers share) 1 (the rule of BEiT). The released code of
    Brain-JEPA asks for 0.75, but its names do not match, so that every factor is 1 there: `layer_decay=1` is what it
    does. One-dimensional parameters and [`NEVER_DECAY`] do not decay.

    Args:
        model: a `...ForSequenceClassification` model, a body or a pretraining model, also with adapters around it;
            frozen parameters are left out.
        weight_decay: of the parameters that decay.
        layer_decay: in (0, 1]; 1 for one learning rate.
        published: the groups of the authors' code, see `published_groups` of the model.

    Returns:
        Dicts with `params`, `weight_decay`, `lr_scale`, and `scheduled_decay`, true where the decay is not 0 by rule;
        [`scale_learning_rates`] multiplies the learning rate of a group by its factor.

    Raises:
        ValueError: for a decay outside (0, 1], or `published` with a model whose authors have no groups of their own.
    """
    bare = without_adapters(model)
    scales = bare.learning_rate_scales(layer_decay)
    if published:
        groups = bare.published_groups(layer_decay)
        if groups is None:
            raise ValueError(
                f"Expected a model whose authors group parameters in their own way, got {type(bare).__name__}. Leave "
                "published_parameter_groups (--published) out."
            )
    else:
        never = {id(parameter) for name, parameter in model.named_parameters() if own_name(name) in NEVER_DECAY}
        groups = bare.grouped(model.parameters(), scales, lambda each: each.ndim > 1 and id(each) not in never)
    trainable = (([each for each in parameters if each.requires_grad], *key) for parameters, *key in groups)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": scale,
            SCHEDULED_DECAY: decays,
        }
        for parameters, scale, decays in trainable
        if parameters
    ]


def scale_learning_rates(groups: list[dict[str, Any]], learning_rate: float) -> list[dict[str, Any]]:
    """The groups with `lr` set to `learning_rate * lr_scale`, ready for an optimizer."""
    return [{**group, "lr": learning_rate * group["lr_scale"]} for group in groups]


def fine_tuning_groups(model: Any, *, learning_rate: float, **options: Any) -> list[dict[str, Any]]:
    """[`layer_decay_groups`] with `options`, and learning rates of which `learning_rate` is that of the head."""
    return scale_learning_rates(layer_decay_groups(model, **options), learning_rate)


def head_parameters(model: Any) -> list[nn.Parameter]:
    """Parameters of the head of a classifier; a body has none."""
    head: Any = getattr(model, "classifier", None)
    return [] if head is None else list(head.parameters())
