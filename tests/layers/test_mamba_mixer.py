"""The mixer: its formula, both directions, padding, initialisation, what replaces its layers."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from brain_transformers.layers.mamba_mixer import DepthwiseConvolution, MambaMixer, depthwise_convolution
from brain_transformers.layers.selective_scan import selective_scan_reference

MIXERS = pytest.mark.parametrize("mixer_type", ["causal", "bidirectional_v2"])


def mixer(mixer_type: str = "bidirectional_v2", **options: Any) -> MambaMixer:
    """A small one whose weights are large enough to see every part."""
    torch.manual_seed(0)
    model = MambaMixer(8, mixer_type=mixer_type, **{"state_size": 3, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def one_direction(model: MambaMixer, u: torch.Tensor, z: torch.Tensor, suffix: str) -> torch.Tensor:
    """A stock Mamba's middle part: grouped convolution, projections, scan, gate."""
    weights = dict(model.named_parameters())
    kernel, bias = weights[f"conv1d{suffix}.weight"], weights.get(f"conv1d{suffix}.bias")
    channels, _, size = kernel.shape
    x = functional.conv1d(u.mT, kernel, bias, padding=size - 1, groups=channels)[..., : u.shape[1]].mT
    x = functional.silu(x)
    rank = model.time_step_rank
    steps, B, C = (x @ weights[f"x_proj{suffix}.weight"].T).split([rank, *[model.state_size] * 2], dim=-1)
    delta = functional.softplus(steps @ weights[f"dt_proj{suffix}.weight"].T + weights[f"dt_proj{suffix}.bias"])
    A = -weights["A_b_log" if suffix else "A_log"].exp()
    return selective_scan_reference(x, delta, A, B, C, weights[f"D{suffix}"]) * functional.silu(z)


def plain(model: MambaMixer, hidden_states: torch.Tensor) -> torch.Tensor:
    """The published form: the backward direction is the forward one on reversed tensors."""
    u, z = functional.linear(hidden_states, model.in_proj.weight, model.in_proj.bias).chunk(2, dim=-1)
    y = one_direction(model, u, z, "")
    if model.mixer_type == "bidirectional_v2":
        y = y + one_direction(model, u.flip(1), z.flip(1), "_b").flip(1)
    return functional.linear(y / (2 if model.if_divide_out else 1), model.out_proj.weight, model.out_proj.bias)


@MIXERS
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"if_divide_out": True, "use_bias": True},
        {"use_conv_bias": False, "conv_kernel": 2},
        {"expand": 3, "time_step_rank": 5},
    ],
    ids=["plain", "divided", "no_conv_bias", "widths"],
)
def test_equals_the_published_form(mixer_type: str, options: dict[str, Any]) -> None:
    if mixer_type == "causal":
        options = {**options, "if_divide_out": False}
    model = mixer(mixer_type, **options).double()
    hidden_states = torch.randn(2, 37, 8, dtype=torch.float64)
    output, expected = model(hidden_states), plain(model, hidden_states)
    torch.testing.assert_close(output, expected)
    cotangent = torch.randn_like(output)
    gradients = (torch.autograd.grad(each, list(model.parameters()), cotangent) for each in (output, expected))
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(model(hidden_states), expected)


@MIXERS
@pytest.mark.parametrize("length", [1, 2, 3])
def test_sequences_shorter_than_the_kernel(mixer_type: str, length: int) -> None:
    model, hidden_states = mixer(mixer_type), torch.randn(2, length, 8)
    output = model(hidden_states)
    torch.testing.assert_close(output, plain(model, hidden_states))
    output.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


def test_only_the_bidirectional_one_sees_what_comes_later() -> None:
    hidden_states = torch.randn(1, 20, 8)
    changed = hidden_states.clone()
    changed[:, 10:] += 1
    for mixer_type, sees in (("causal", False), ("bidirectional_v2", True)):
        model = mixer(mixer_type)
        assert torch.equal(model(hidden_states)[:, :10], model(changed)[:, :10]) != sees


@MIXERS
@pytest.mark.parametrize("observed", [slice(0, 9), slice(4, 13)], ids=["right", "left"])
def test_padded_steps_change_nothing(mixer_type: str, observed: slice) -> None:
    """Whatever stands in them, NaN included."""
    model, hidden_states = mixer(mixer_type), torch.randn(2, 13, 8)
    mask = torch.zeros(2, 13, dtype=torch.long)
    mask[0, observed], mask[1] = 1, 1
    padded = hidden_states.masked_fill(mask[..., None] == 0, torch.nan)
    output = model(padded, attention_mask=mask)
    torch.testing.assert_close(output[0, observed], model(hidden_states[:1, observed])[0])
    torch.testing.assert_close(output[1], model(hidden_states[1:])[0])


def test_names_and_shapes_are_those_of_the_state_dicts_around() -> None:
    causal = {
        "A_log": (16, 3), "D": (16,), "in_proj.weight": (32, 8), "conv1d.weight": (16, 1, 4), "conv1d.bias": (16,),
        "x_proj.weight": (7, 16), "dt_proj.weight": (16, 1), "dt_proj.bias": (16,), "out_proj.weight": (8, 16),
    }  # fmt: skip
    backward = {
        "A_b_log": (16, 3), "D_b": (16,), "conv1d_b.weight": (16, 1, 4), "conv1d_b.bias": (16,),
        "x_proj_b.weight": (7, 16), "dt_proj_b.weight": (16, 1), "dt_proj_b.bias": (16,),
    }  # fmt: skip
    for mixer_type, expected in (("causal", causal), ("bidirectional_v2", {**causal, **backward})):
        assert {name: tuple(each.shape) for name, each in mixer(mixer_type).state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in MambaMixer(512, mixer_type="causal").parameters()) == 1_694_720
    assert sum(parameter.numel() for parameter in MambaMixer(512).parameters()) == 1_816_576


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="mixer_type must be one of bidirectional_v2, causal, got 'v1'"):
        MambaMixer(8, mixer_type="v1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step_init must be one of normal, mamba, got 'vim'"):
        MambaMixer(8).initialise(step_init="vim")  # type: ignore[arg-type]


def test_how_weights_start() -> None:
    torch.manual_seed(0)
    model = MambaMixer(128)
    model.initialise(depth=20)
    for name in ("in_proj", "x_proj", "dt_proj", "x_proj_b", "dt_proj_b"):
        assert float(model.get_submodule(name).weight.detach().std()) == pytest.approx(0.02, rel=0.1), name  # type: ignore
    assert float(model.dt_proj.bias.abs().max()) == 0
    bound = 1 / math.sqrt(256 * 20)
    assert 0.95 * bound < float(model.out_proj.weight.abs().max()) <= bound
    for name in ("conv1d.weight", "conv1d_b.bias"):
        assert 0.45 < float(model.get_parameter(name).abs().max()) <= 0.5, name
    torch.testing.assert_close(model.A_b_log.exp()[5], torch.arange(1.0, 17))
    assert float(model.D_b.min()) == float(model.D.max()) == 1

    model.initialise(step_init="mamba")
    steps = functional.softplus(model.dt_proj_b.bias)
    assert 1e-3 * 0.99 < float(steps.min()) < 2e-3
    assert 5e-2 < float(steps.max()) < 0.1 * 1.01
    assert float(model.dt_proj_b.weight.abs().max()) > 0.2  # up to 1/sqrt(8)


def test_loaded_weights_are_not_drawn_again() -> None:
    """transformers marks what a checkpoint gave."""
    model = MambaMixer(8)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
    model.initialise(step_init="mamba")
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


def test_shapes_can_be_worked_out_without_numbers() -> None:
    """On the meta device, where transformers builds models before it loads them."""
    with torch.device("meta"):
        model = MambaMixer(8)
        model.initialise(step_init="mamba")
        assert model(torch.empty(2, 5, 8)).shape == (2, 5, 8)


class Doubled(nn.Module):
    """Such as an adapter around a layer."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *values: Any, **options: Any) -> torch.Tensor:
        return 2 * self.inner(*values, **options)


@pytest.mark.parametrize("name", ["in_proj", "conv1d_b", "x_proj", "dt_proj", "dt_proj_b", "out_proj"])
def test_what_replaces_a_layer_is_called(name: str) -> None:
    model, hidden_states = mixer(), torch.randn(1, 9, 8)
    doubled = mixer()
    for parameter in doubled.get_submodule(name).parameters():
        parameter.data *= 2
    setattr(model, name, Doubled(getattr(model, name)))
    torch.testing.assert_close(model(hidden_states), doubled(hidden_states))


@MIXERS
def test_lower_types_round_the_ends_only(mixer_type: str) -> None:
    """Against float64 on the same rounded weights: what remains is that each linear layer rounds its output."""
    model, hidden_states = mixer(mixer_type).bfloat16(), torch.randn(1, 300, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        output = model(hidden_states)
        exact = mixer(mixer_type).double()
        exact.load_state_dict({name: each.double() for name, each in model.state_dict().items()})
        expected = exact(hidden_states.double())
    assert output.dtype == torch.bfloat16
    assert float((output - expected).norm() / expected.norm()) < 5e-3


def test_automatic_mixed_precision() -> None:
    model, hidden_states = mixer(), torch.randn(1, 30, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(hidden_states)
    assert float((output - model(hidden_states)).norm() / output.norm()) < 2e-2
    output.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())  # type: ignore[union-attr]


def test_step_sizes_are_not_rounded_by_automatic_mixed_precision() -> None:
    layer, steps = nn.Linear(2, 50), torch.randn(1, 20, 2)
    expected = functional.softplus(layer(steps))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(MambaMixer._step_sizes(layer, steps, torch.float32), expected)


def test_the_scan_can_be_forced() -> None:
    hidden_states = torch.randn(1, 9, 8)
    torch.testing.assert_close(mixer(scan="reference")(hidden_states), mixer()(hidden_states))
    with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run here"):
        mixer(scan="mamba_ssm")(hidden_states)


@MIXERS
def test_compiled_and_exported(mixer_type: str) -> None:
    model = mixer(mixer_type)
    mask = torch.ones(2, 40)
    mask[0, 30:] = 0
    hidden_states = torch.randn(2, 40, 8)
    expected = model(hidden_states, mask)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(hidden_states, mask)
    torch.testing.assert_close(compiled, expected)
    gradients = (torch.autograd.grad(each.square().sum(), list(model.parameters())) for each in (compiled, expected))
    torch.testing.assert_close(*gradients)
    length = torch.export.Dim("length", min=5)
    with torch.no_grad():
        program = torch.export.export(model, (hidden_states,), dynamic_shapes=({1: length},)).module()
        for steps in (5, 90):
            other = torch.randn(2, steps, 8)
            torch.testing.assert_close(program(other), model(other))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [2, 6])
def test_convolution_and_its_gradients(length: int, reverse: bool) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, length, 3), (3, 1, 4), 3)]
    values, weight, bias = tensors
    turned = values.flip(1) if reverse else values
    expected = functional.conv1d(turned.mT, weight, bias, padding=3, groups=3)[..., :length].mT
    actual = depthwise_convolution(*tensors, reverse)
    torch.testing.assert_close(actual, expected.flip(1) if reverse else expected)
    assert torch.autograd.gradcheck(lambda *each: depthwise_convolution(*each, reverse), tensors)
    assert torch.autograd.gradcheck(lambda *each: depthwise_convolution(*each, None, reverse), tensors[:2])


def test_convolution_of_lower_types_adds_up_in_float32() -> None:
    layer = DepthwiseConvolution(4, 4)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    layer.bfloat16()
    values = torch.randn(1, 50, 4, dtype=torch.bfloat16)
    exact = depthwise_convolution(values.double(), layer.weight.double(), layer.bias.double())  # type: ignore[union-attr]
    torch.testing.assert_close(layer(values).double(), exact, rtol=1e-6, atol=1e-6)
