"""Kept tensors follow their weights; the packed linear layer is a linear layer."""

import copy
import pickle

import pytest
import torch
from torch import nn

from brain_transformers.layers.derived import DerivedTensor, PackedLinear, pack_linear_layers


def layer(bias: bool = True, size: int = 160) -> PackedLinear:
    torch.manual_seed(0)
    return PackedLinear(size, size, bias).eval()


def plain(packed: PackedLinear, values: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(values, packed.weight, packed.bias)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_layer_gives_the_same_for_any_number_of_rows(bias: bool, packs: bool) -> None:
    packed = layer(bias)
    packed.packs = packs
    with torch.no_grad():
        for shape in ((1, 160), (46, 160), (3, 46, 160), (2, 3, 4, 160), (7, 160), (0, 160)):
            values = torch.randn(shape)
            torch.testing.assert_close(packed(values), plain(packed, values), rtol=1e-4, atol=1e-5)
        strided = torch.randn(160, 9).T
        torch.testing.assert_close(packed(strided), plain(packed, strided), rtol=1e-4, atol=1e-5)


def test_packed_layer_follows_its_weight() -> None:
    packed, values = layer(), torch.randn(5, 160)
    with torch.no_grad():
        packed(values)
        packed.weight.mul_(2.0)
        torch.testing.assert_close(packed(values), plain(packed, values), rtol=1e-4, atol=1e-5)
        packed.load_state_dict({name: value + 1 for name, value in packed.state_dict().items()})
        torch.testing.assert_close(packed(values), plain(packed, values), rtol=1e-4, atol=1e-4)
        packed.weight = nn.Parameter(torch.randn(160, 160))
        torch.testing.assert_close(packed(values), plain(packed, values), rtol=1e-4, atol=1e-4)
        packed.weight.data.mul_(3.0)  # leaves no trace in the version
        packed.train().eval()
        torch.testing.assert_close(packed(values), plain(packed, values), rtol=1e-4, atol=1e-4)


def test_packed_layer_trains_and_runs_in_half_precision() -> None:
    packed, values = layer(), torch.randn(5, 160)
    packed(values).square().sum().backward()
    assert packed.weight.grad is not None
    with torch.no_grad():
        packed(values)
        half = copy.deepcopy(packed).to(torch.bfloat16)
        assert half(values.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert packed(values).dtype == torch.bfloat16
    compiled = torch.compile(packed, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(values), plain(packed, values), rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_leave_the_kept_tensor_behind() -> None:
    packed, values = layer(), torch.randn(5, 160)
    with torch.no_grad():
        expected = packed(values)
        for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            assert other._packed._value is None
            torch.testing.assert_close(other(values), expected, rtol=0, atol=0)
    assert set(packed.state_dict()) == {"weight", "bias"}


def test_nothing_is_kept_where_it_could_go_stale() -> None:
    kept, weight, calls = DerivedTensor(), torch.ones(3), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return weight * 2

    kept.get([weight], compute)
    kept.get([weight], compute)
    assert len(calls) == 2  # gradients are on
    with torch.no_grad():
        for _ in range(3):
            kept.get([weight], compute)
        assert len(calls) == 3
        weight.add_(1)
        assert kept.get([weight], compute).tolist() == [4, 4, 4]
        kept.forget()
        kept.get([weight], compute)
    assert len(calls) == 5
    with torch.inference_mode():
        made_here = torch.ones(2)
        assert kept.get([made_here], lambda: made_here + 1).tolist() == [2, 2]


def test_linear_children_are_replaced_with_their_parameters() -> None:
    module = nn.Module()
    module.first, module.other = nn.Linear(4, 3), nn.LayerNorm(3)
    weight = module.first.weight
    pack_linear_layers(module)
    assert isinstance(module.first, PackedLinear)
    assert module.first.weight is weight
    assert module.first.weight.device.type == "cpu"
    assert type(module.other) is nn.LayerNorm
