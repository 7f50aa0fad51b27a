"""When the weights of a module may be read in place of calling it, and a linear map that does so."""

from typing import Any

import torch
from torch import nn

_PLAIN_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d)
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


# Below this number of weights, another way to multiply gains nothing.
_SMALLEST_PRODUCT = 128 * 128


def linear(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """`module(values)`, for a plain linear layer in float32 on a CPU and without gradients by oneDNN.

    torch multiplies such matrices by MKL. oneDNN's product is equal up to rounding and was measured twice as fast on
    an AMD EPYC with AVX-512 (768 x 3072, 46 to 4,240 rows, one core).

    Args:
        module: whatever takes the place of a linear layer.
        values: `(..., in_features)`.
    """
    if not is_plain(module) or not _can_use_onednn(module, values):
        return module(values)
    operators: Any = torch.ops.mkldnn
    rows = values.reshape(-1, values.shape[-1])
    output = operators._linear_pointwise(rows, module.weight, module.bias, "none", [], "")
    return output.view(*values.shape[:-1], output.shape[-1])


def _can_use_onednn(module: nn.Module, values: torch.Tensor) -> bool:
    weight: Any = module.weight
    return bool(
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and values.device.type == weight.device.type == "cpu"
        and values.dtype == weight.dtype == torch.float32
        and weight.numel() >= _SMALLEST_PRODUCT
        and values.numel() > 0
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
