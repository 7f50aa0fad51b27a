"""Weights are read around a module only where nothing else happens in its call."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from brain_transformers.layers.plain import input_dtype, is_plain, product


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
    module = CHANGED[kind]()
    assert not is_plain(module)
    assert not is_plain(layer(), module)


def test_a_hook_on_all_modules_counts_too() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    try:
        assert not is_plain(layer())
    finally:
        handle.remove()
    assert is_plain(layer(), nn.Conv1d(2, 3, 1), nn.Conv2d(2, 3, 1, bias=False))


def test_input_is_cast_to_weights_that_are_floats_only() -> None:
    values = torch.randn(2, 160)
    assert input_dtype(layer().to(torch.bfloat16), values) == torch.bfloat16
    assert input_dtype(CHANGED["quantised"](), values) == torch.float32
    whole_numbers = nn.Module()
    whole_numbers.weight = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    assert input_dtype(whole_numbers, values) == torch.float32


@pytest.mark.parametrize("shape", [(2, 7), (1, 300), (3, 0)])
def test_the_product_by_a_convolution_is_that_of_the_layer(shape: tuple[int, int]) -> None:
    plain, values = nn.Linear(160, 96), torch.randn(*shape, 160)
    with torch.no_grad():
        torch.testing.assert_close(product(plain, values), plain(values))
        torch.testing.assert_close(product(plain, values.mT.contiguous().mT), plain(values))
        torch.testing.assert_close(product(hooked(), values), 2 * layer()(values))
        assert product(plain.to(torch.bfloat16), values.to(torch.bfloat16)).dtype == torch.bfloat16
    assert product(layer(), values).requires_grad
