"""Every formulation of the selective scan gives the numbers of the definition, forward and backward, both ways."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))

import pytest
import torch
from fresh_process import run_python

from brain_transformers.layers.selective_scan import (
    chosen_scan,
    chunked,
    mamba_ssm_scan,
    selective_scan,
    triton_availability,
)
from brain_transformers.layers.selective_scan import selective_scan_reference as reference

BOTH_WAYS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def inputs(
    batch: int, length: int, channels: int, states: int, dtype: torch.dtype = torch.float64, largest_step: float = 1.0
) -> list[torch.Tensor]:
    """u, delta, A, B, C, D with gradients; A = -1 ... -states, as a new mixer has it."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    tensors = [
        normal(batch, channels, length).transpose(1, 2),  # channels not last in memory
        torch.nn.functional.softplus(normal(batch, length, channels)) * largest_step,
        -torch.arange(1.0, states + 1, dtype=torch.float64).repeat(channels, 1),
        normal(batch, length, states),
        normal(batch, length, 2 * states)[..., states:],  # a part of another tensor
        normal(channels),
    ]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, over the largest value."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def compare(implementation: str, tensors: list[torch.Tensor], reverse: bool, tolerance: float) -> None:
    """Output and gradients against the definition in float64."""
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = reference(*exact, reverse=reverse)
    actual = selective_scan(*tensors, reverse=reverse, implementation=implementation)
    assert relative(actual, expected) < tolerance
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cotangent = cotangent.to(expected.device)
    gradients = torch.autograd.grad(actual, tensors, cotangent.to(actual.dtype))
    for name, ours, theirs in zip(
        ["u", "delta", "A", "B", "C", "D"], gradients, torch.autograd.grad(expected, exact, cotangent)
    ):
        assert ours.dtype == tensors[0].dtype
        assert relative(ours, theirs) < tolerance, name


@BOTH_WAYS
@pytest.mark.parametrize(
    "shape",
    [(2, 75, 6, 3), (1, 1, 4, 2), (3, 64, 5, 16), (1, 33, 1100, 3), (2, 40, 1030, 32), (40, 5, 60, 16)],
    ids=["tail", "one_step", "whole_segments", "channel_blocks", "many_states", "sample_blocks"],
)
def test_chunked_equals_the_definition(shape: tuple[int, int, int, int], reverse: bool) -> None:
    compare("chunked", inputs(*shape), reverse, 1e-12)
    if shape[2] < 1000:
        compare("chunked", inputs(*shape)[:5], reverse, 1e-12)  # without D


def test_the_definition_is_the_recurrence() -> None:
    """One channel and one state in plain numbers: h = e^-0.5 h + 0.5 u B, y = h C + D u."""
    u, B, C = ([1.0, -2.0, 4.0], [1.0, 3.0, 0.5], [2.0, 1.0, -1.0])
    column = [torch.tensor(values, dtype=torch.float64)[None, :, None] for values in (u, B, C)]
    step, A, D = torch.full((1, 3, 1), 0.5).double(), -torch.ones(1, 1).double(), torch.tensor([0.25]).double()
    decay, h, expected = 2.718281828459045**-0.5, 0.0, []
    for t in range(3):
        h = decay * h + 0.5 * u[t] * B[t]
        expected.append(h * C[t] + 0.25 * u[t])
    for implementation in ("reference", "chunked"):
        y = selective_scan(column[0], step, A, *column[1:], D, implementation=implementation)
        assert y.flatten().tolist() == pytest.approx(expected, rel=1e-14)


@BOTH_WAYS
def test_gradients_are_those_of_the_output(reverse: bool) -> None:
    assert torch.autograd.gradcheck(lambda *each: selective_scan(*each, reverse=reverse), inputs(1, 35, 2, 2))


@pytest.mark.parametrize("largest_step", [0.05, 1.0, 30.0])
def test_float32_is_within_a_millionth_of_float64(largest_step: float) -> None:
    """Long sequences and large steps, whose powers overflow or lose all digits in closed forms."""
    tensors = inputs(1, 4000, 4, 16, torch.float32, largest_step)
    with torch.no_grad():
        expected = selective_scan(*[tensor.double() for tensor in tensors])
        assert relative(selective_scan(*tensors), expected) < 1e-6


def test_lower_types_are_computed_in_float32() -> None:
    tensors = inputs(1, 300, 4, 16, torch.bfloat16)
    y = selective_scan(*tensors)
    assert y.dtype == torch.float32
    assert relative(y, reference(*[tensor.double() for tensor in tensors])) < 1e-6
    assert [each.dtype for each in torch.autograd.grad(y.sum(), tensors)] == [torch.bfloat16] * 6


@pytest.mark.parametrize("padding", [[8, 9, 10], [0, 1], [4, 5]], ids=["right", "left", "inside"])
@BOTH_WAYS
def test_steps_outside_of_the_mask_leave_the_state_as_it_is(padding: list[int], reverse: bool) -> None:
    u, delta, A, B, C, D = (tensor.detach() for tensor in inputs(2, 11, 3, 2))
    kept = [step for step in range(11) if step not in padding]
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[0, padding] = 0
    padded = selective_scan(u, delta, A, B, C, D, mask=mask, reverse=reverse)
    alone = reference(u[:, kept], delta[:, kept], A, B[:, kept], C[:, kept], D, reverse)
    torch.testing.assert_close(padded[0, kept], alone[0])
    torch.testing.assert_close(padded[1], reference(u, delta, A, B, C, D, reverse)[1])


def test_what_is_kept_for_the_backward_pass_hardly_grows_with_the_state() -> None:
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[states] += tensor.numel()
        return tensor

    for states in (1, 17):
        tensors, kept[states] = inputs(1, 320, 64, states), 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            selective_scan(*tensors)
    # A state of 64 channels a segment of 32 steps (up to two more), and what A, B and C themselves take.
    assert kept[17] - kept[1] <= 16 * (64 * (320 // 32 + 2) + 64 + 2 * 320)


class BothWays(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.A = torch.nn.Parameter(-torch.rand(3, 2) - 0.5)
        self.D = torch.nn.Parameter(torch.ones(3))

    def forward(
        self, u: torch.Tensor, steps: torch.Tensor, B: torch.Tensor, C: torch.Tensor, mask: torch.Tensor
    ) -> Any:
        rest = (u, torch.nn.functional.softplus(steps), self.A, B, C, self.D)
        return selective_scan(*rest, mask=mask) + selective_scan(*rest, mask=mask, reverse=True)


def both_ways_inputs(length: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(length)
    mask = torch.ones(2, length)
    mask[0, -2:] = 0
    return *(torch.randn(2, length, width) for width in (3, 3, 2, 2)), mask


def test_compiled_in_one_graph() -> None:
    model, tensors = BothWays(), both_ways_inputs(37)
    expected = model(*tensors)
    expected_grad = torch.autograd.grad(expected.square().sum(), model.parameters())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    actual = compiled(*tensors)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual.square().sum(), model.parameters()), expected_grad)


def test_the_operator_is_what_its_description_says() -> None:
    """Strides, shapes and types of what it returns, as compilers rely on them."""
    tensors = inputs(2, 40, 3, 2, torch.float32)
    torch.library.opcheck(torch.ops.brain_transformers.selective_scan, (*tensors, True, "", True))
    torch.library.opcheck(torch.ops.brain_transformers.selective_scan, (*tensors[:5], None, False, "", True))
    detached = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(torch.ops.brain_transformers.selective_scan, (*detached, False, "", False))
    backward = torch.ops.brain_transformers.selective_scan_backward
    grad, states = torch.randn(2, 40, 3), torch.zeros(3, 2, 2, 3)
    torch.library.opcheck(backward, (grad, *detached, True, "", states))
    torch.library.opcheck(backward, (grad, *detached[:5], None, False, "", states))


@pytest.mark.parametrize("with_gradients", [False, True])
def test_exported_for_any_length(with_gradients: bool) -> None:
    model, length = BothWays().eval(), torch.export.Dim("length", min=2)
    with torch.set_grad_enabled(with_gradients):
        program = torch.export.export(model, both_ways_inputs(37), dynamic_shapes=({1: length},) * 5).module()
        for steps in (2, 37, 90):
            torch.testing.assert_close(program(*both_ways_inputs(steps)), model(*both_ways_inputs(steps)))


def test_no_steps_give_no_output() -> None:
    tensors = inputs(2, 0, 3, 2)
    y = selective_scan(*tensors)
    assert y.shape == (2, 0, 3)
    assert torch.autograd.grad(y.sum(), tensors)[2].abs().max() == 0


@pytest.mark.parametrize(("name", "number"), [("delta", 1), ("B", 3), ("D", 5)])
def test_shapes_that_do_not_fit_are_named(name: str, number: int) -> None:
    tensors = inputs(2, 5, 3, 2)
    tensors[number] = tensors[number][..., :-1]
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        selective_scan(*tensors)


def test_what_runs_is_chosen_by_device_and_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_availability, "_installed", lambda: True)
    monkeypatch.setattr(triton_availability, "fails_on", lambda device: None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(mamba_ssm_scan, "_kernel", lambda: (None, "not there"))
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert chosen_scan(cpu) == "chunked"
    assert chosen_scan(cuda) == "triton"
    assert chosen_scan(cuda, torch.float64) == "chunked"
    assert chosen_scan(cuda, implementation="chunked") == "chunked"
    monkeypatch.setattr(mamba_ssm_scan, "_kernel", lambda: (reference, None))
    assert chosen_scan(cuda) == "mamba_ssm"
    assert chosen_scan(cpu) == "chunked"
    assert chosen_scan(cuda, torch.float64) == "chunked"
    assert chosen_scan(cuda, state_size=300) == "triton"
    tensors = inputs(1, 4, 2, 2)
    with pytest.raises(
        RuntimeError, match="'mamba_ssm' cannot run here: it takes tensors on a CUDA device, got one on cpu"
    ):
        selective_scan(*tensors, implementation="mamba_ssm")
    with pytest.raises(RuntimeError, match="'triton' cannot run here"):
        selective_scan(*tensors, implementation="triton")
    with pytest.raises(
        ValueError, match="implementation must be one of reference, chunked, triton, mamba_ssm or None"
    ):
        selective_scan(*tensors, implementation="cuda")


@pytest.fixture
def mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the package's module, in its layout: (batch, channels, length)."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")

    def selective_scan_fn(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any = None) -> torch.Tensor:
        if interface.selective_scan_cuda is None:
            raise RuntimeError("reinstall")
        assert {each.dtype for each in (u, delta, A, B, C)} == {torch.float32}
        return reference(*(x.transpose(1, 2) for x in (u, delta)), A, *(x.transpose(1, 2) for x in (B, C)), D).mT

    interface.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    mamba_ssm_scan._kernel.cache_clear()
    yield interface
    mamba_ssm_scan._kernel.cache_clear()


def test_a_package_without_its_kernel_is_not_used(mamba_ssm: Any) -> None:
    """Since July 2026 mamba-ssm installs so by default: it imports, and fails when it is called."""
    mamba_ssm.selective_scan_cuda = None
    reason = mamba_ssm_scan.reason_against(torch.device("cuda"), torch.float32, 16)
    assert reason is not None
    assert "selective_scan_cuda is missing" in reason
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in reason


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    mamba_ssm_scan._kernel.cache_clear()
    reason = mamba_ssm_scan.reason_against(torch.device("cuda"), torch.float32, 16)
    mamba_ssm_scan._kernel.cache_clear()
    assert reason is not None
    assert "brain-transformers[mamba]" in reason
    assert "MAMBA_KEEP_CUDA_BUILD=TRUE" in reason


@BOTH_WAYS
def test_the_package_gets_its_layout(mamba_ssm: Any, monkeypatch: pytest.MonkeyPatch, reverse: bool) -> None:
    mamba_ssm.selective_scan_cuda = object()
    monkeypatch.setattr(mamba_ssm_scan, "reason_against", lambda *_: None)
    compare("mamba_ssm", inputs(2, 20, 3, 2, torch.float32), reverse, 1e-6)
    compare("mamba_ssm", inputs(2, 20, 3, 2, torch.float32)[:5], reverse, 1e-6)


def test_kernels_are_tried_on_a_device_before_they_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels: Any = types.ModuleType("brain_transformers.layers.selective_scan.triton_scan")
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    cpu, fails_on = torch.device("cpu"), triton_availability.fails_on.__wrapped__
    kernels.triton_scan, kernels.triton_scan_backward = chunked.chunked_scan, chunked.chunked_scan_backward
    assert fails_on(cpu) is None
    kernels.triton_scan = lambda *arguments: chunked.chunked_scan(*arguments) * 1.001
    assert "give other numbers on cpu (off by 0.001 of the largest)" in fails_on(cpu)

    def without_a_compiler(*arguments: Any) -> None:
        raise RuntimeError("Failed to find C compiler")

    kernels.triton_scan = without_a_compiler
    assert "do not run on cpu (RuntimeError: Failed to find C compiler)" in fails_on(cpu)


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton is not installed, or runs on the GPU, see below",
)
def test_triton_kernels_in_their_interpreter() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_selective_scan import compare, inputs, torch
        from brain_transformers.layers.selective_scan import triton_scan

        triton_scan._CHANNELS = 4
        for reverse in (False, True):
            compare("triton", inputs(2, 40, 5, 2, torch.float32), reverse, 1e-6)
            compare("triton", inputs(1, 64, 3, 1, torch.float32)[:5], reverse, 1e-6)
    """
    run_python(code, Path(__file__).parent, environment={"TRITON_INTERPRET": "1"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("implementation", ["chunked", "triton", "mamba_ssm"])
@BOTH_WAYS
def test_on_a_gpu(implementation: str, reverse: bool) -> None:
    tensors = [tensor.detach().cuda().requires_grad_() for tensor in inputs(2, 1000, 70, 16, torch.float32)]
    try:
        chosen_scan(tensors[0].device, implementation=implementation)
    except RuntimeError as error:
        pytest.skip(str(error))
    compare(implementation, tensors, reverse, 2e-6)
