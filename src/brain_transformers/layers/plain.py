"""When the weights of a module may be read in place of calling it."""

from typing import Any

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


def product(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """`layer(values)` for tokens `(batch, n_tokens, width)`; without gradients on a CPU as a convolution of width 1.

    torch leaves matrix products to MKL and convolutions to oneDNN, which takes half the time on processors that are
    not Intel's (measured on an AMD EPYC). Tokens have their channels last in memory, so that nothing is copied.
    """
    suits = values.device.type == "cpu" and values.dtype == torch.float32 and values.dim() == 3
    suits = suits and values.is_contiguous() and values.numel() > 0
    if not suits or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return layer(values)
    if torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available() or not is_plain(layer):
        return layer(values)
    weight: Any = layer.weight
    bias: Any = layer.bias
    # The stride is along an axis of one place, where it does nothing, but torch takes small inputs without to MKL.
    image, kernel = values.mT[:, :, None], weight[:, :, None, None]
    return nn.functional.conv2d(image, kernel, bias, stride=(2, 1))[:, :, 0].mT
