"""Weights are read around a module only where nothing else happens in its call."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from brain_transformers.layers.plain import input_dtype, is_plain, linear


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(160, 160)


class Doubled(nn.Linear):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(values)


def hooked() -> nn.Module:
    module = layer()
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def hooked_before() -> nn.Module:
    module = layer()
    module.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return module


def hooked_backward() -> nn.Module:
    module = layer()
    module.register_full_backward_hook(lambda module, gradients, outputs: None)
    return module


def wrapped() -> nn.Module:
    module = layer()
    call = module.forward
    module.forward = lambda values: 2 * call(values)  # as accelerate does
    return module


def pruned() -> nn.Module:
    return prune.random_unstructured(layer(), "weight", 0.5)


def without_its_pruning_hook() -> nn.Module:
    module = layer()
    weight = module.weight.detach() * 3
    del module.weight
    module.weight = weight
    return module


CHANGED = {
    "subclass": lambda: Doubled(160, 160),
    "forward hook": hooked,
    "hook before": hooked_before,
    "backward hook": hooked_backward,
    "another forward": wrapped,
    "pruned": pruned,
    "weight norm": lambda: parametrizations.weight_norm(layer()),
    "weight that is no parameter": without_its_pruning_hook,
    "quantised": lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(layer()), {nn.Linear})[0],
    "another kind": lambda: nn.Embedding(3, 4),
}


@pytest.mark.parametrize("kind", CHANGED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_call_does_is_never_left_out(kind: str) -> None:
    module, values = CHANGED[kind](), torch.randn(5, 160)
    assert not is_plain(module)
    assert not is_plain(layer(), module)
    if kind != "another kind":
        with torch.no_grad():
            torch.testing.assert_close(linear(module, values), module(values), rtol=0, atol=0)


def test_a_hook_on_all_modules_counts_too() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert not is_plain(layer())
    finally:
        handle.remove()
    assert is_plain(layer(), nn.Conv1d(2, 3, 1), nn.Conv2d(2, 3, 1, bias=False))


@pytest.mark.parametrize("bias", [True, False])
def test_the_faster_product_is_the_same(bias: bool) -> None:
    torch.manual_seed(0)
    module = nn.Linear(160, 320, bias=bias)
    for shape in ((1, 160), (46, 160), (3, 46, 160), (2, 3, 4, 160), (7, 160), (0, 160)):
        values = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(linear(module, values), module(values), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        strided = torch.randn(160, 9).T
        torch.testing.assert_close(linear(module, strided), module(strided), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(module, torch.randn(5, 160)).dtype == torch.bfloat16
        assert linear(module.to(torch.bfloat16), torch.randn(5, 160).bfloat16()).dtype == torch.bfloat16
        compiled = torch.compile(lambda x: linear(module, x), fullgraph=True, backend="eager")
        compiled(torch.randn(5, 160).bfloat16())
    module.float()
    linear(module, torch.randn(5, 160)).square().sum().backward()
    assert bool(module.weight.grad.abs().sum() > 0)


def test_input_is_cast_to_weights_that_are_floats_only() -> None:
    values = torch.randn(2, 160)
    assert input_dtype(layer().to(torch.bfloat16), values) == torch.bfloat16
    assert input_dtype(CHANGED["quantised"](), values) == torch.float32
    whole_numbers = nn.Module()
    whole_numbers.weight = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    assert input_dtype(whole_numbers, values) == torch.float32
