"""When the weights of a module may be read in place of calling it."""

import torch
from torch import nn

_PLAIN_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(*modules: nn.Module) -> bool:
    """Whether every module is a linear layer or convolution as torch built it, so that its weights are all of it.

    False for what takes the place of one (an adapter, a quantised layer) and for what changes what a call does: hooks,
    parametrisations, pruning, another `forward`, weights of a type of their own. Then the module must be called.
    """
    for module in modules:
        own = module.__dict__
        if type(module) not in _PLAIN_TYPES or "forward" in own or any(own[name] for name in _HOOKS):
            return False
        if any(type(tensor) is not nn.Parameter for tensor in own["_parameters"].values() if tensor is not None):
            return False
        if "weight" not in own["_parameters"]:  # pruning and weight norm put a derived tensor there
            return False
    return not torch.nn.modules.module._has_any_global_hook()


def input_dtype(module: nn.Module, values: torch.Tensor) -> torch.dtype:
    """The type in which `module` takes its input: that of its weight, or that of `values` where it has no such weight.

    Quantised layers have integer weights, or a method of that name, and take what comes.
    """
    weight = getattr(module, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.is_floating_point():
        return weight.dtype
    return values.dtype
