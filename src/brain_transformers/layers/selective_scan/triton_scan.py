"""The selective scan as Triton kernels: compiled when first called, by what torch's CUDA builds bring.

All segments run side by side, in three passes: (1) the state that each segment alone would leave behind, (2) a walk
over the segments that turns these into the states that really enter them, (3) the steps within each segment, by an
associative scan. The backward pass does the same with the adjoint, and computes the states within a segment again.
Decays over several steps are powers of sums of step sizes, whose exponents are never positive.

Steps are counted in the order of the recurrence, so that the reverse direction differs by one line.
"""

import contextlib
import math
from typing import Any

import torch
import triton
import triton.language as tl

from .chunked import SEGMENT, exponents_of
from .reference import Gradients, ScanInputs

_CHANNELS = 32  # a program's share of the channels: more would fill all registers of a GPU


@triton.jit
def _time(position, length, REVERSE: tl.constexpr):
    return length - 1 - position if REVERSE else position


@triton.jit
def _tile(ptr, batch, time, channel, stride_batch, stride_time, stride_channel, mask):
    """Numbers at `time` x `channel` of one sample, as float32; 0 outside of the mask."""
    at = ptr + batch.to(tl.int64) * stride_batch + time.to(tl.int64)[:, None] * stride_time
    return tl.load(at + channel[None, :] * stride_channel, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _column(ptr, batch, time, state, stride_batch, stride_time, stride_state, mask):
    """Numbers at `time` for one state of one sample, as float32 `(time, 1)`."""
    at = ptr + batch.to(tl.int64) * stride_batch + time.to(tl.int64) * stride_time + state * stride_state
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)[:, None]


@triton.jit
def _compose(decay_before, value_before, decay, value):
    """Two steps of h -> decay h + value as one."""
    return decay_before * decay, decay * value_before + value


@triton.jit
def _row_of(segment, batch, n_batch, state, n_states, channel, n_channels):
    """Where `(segment, batch, state, channel)` is in a contiguous tensor."""
    return ((segment.to(tl.int64) * n_batch + batch) * n_states + state) * n_channels + channel


@triton.jit
def _ends(
    values, delta, rows, exponents, ends, sums, length, n_batch, n_channels, n_states,
    values_b, values_t, values_c, delta_b, delta_t, delta_c, rows_b, rows_t, rows_s,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a segment alone hands on: its last state, or (ADJOINT) the adjoint that leaves it at its first step."""
    segment, batch = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    step = tl.arange(0, STEPS)
    position = segment * STEPS + step
    inside, known = position < length, channel < n_channels
    time = _time(position, length, REVERSE)
    mask = inside[:, None] & known[None, :]
    sizes = _tile(delta, batch, time, channel, delta_b, delta_t, delta_c, mask)
    value = _tile(values, batch, time, channel, values_b, values_t, values_c, mask)
    if ADJOINT:
        passed = tl.cumsum(sizes, axis=0)
    else:
        value = value * sizes
        # The steps after each one: loaded anew, since a difference of sums would lose digits.
        later = (step + 1 < STEPS) & (position + 1 < length)
        after = _tile(
            delta, batch, _time(position + 1, length, REVERSE), channel, delta_b, delta_t, delta_c,
            later[:, None] & known[None, :],
        )  # fmt: skip
        passed = tl.cumsum(after, axis=0, reverse=True)
    total = tl.sum(sizes, axis=0)
    tl.store(sums + (segment.to(tl.int64) * n_batch + batch) * n_channels + channel, total, mask=known)
    for state in range(n_states):
        exponent = tl.load(exponents + state * n_channels + channel, mask=known, other=0.0)
        row = _column(rows, batch, time, state, rows_b, rows_t, rows_s, inside)
        end = tl.sum(tl.exp2(passed * exponent[None, :]) * value * row, axis=0)
        tl.store(ends + _row_of(segment, batch, n_batch, state, n_states, channel, n_channels), end, mask=known)


@triton.jit
def _walk(
    ends, sums, exponents, n_segments, n_batch, n_channels, n_states, BACKWARDS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Turn what each segment alone hands on into what enters each, in place."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    state, batch = tl.program_id(1), tl.program_id(2)
    known = channel < n_channels
    exponent = tl.load(exponents + state * n_channels + channel, mask=known, other=0.0)
    entering = tl.zeros((CHANNELS,), dtype=tl.float32)
    for number in range(n_segments):
        segment = n_segments - 1 - number if BACKWARDS else number
        at = ends + _row_of(tl.cast(segment, tl.int64), batch, n_batch, state, n_states, channel, n_channels)
        end = tl.load(at, mask=known, other=0.0)
        tl.store(at, entering, mask=known)
        total = tl.load(
            sums + (tl.cast(segment, tl.int64) * n_batch + batch) * n_channels + channel, mask=known, other=0.0
        )
        entering = tl.exp2(total * exponent) * entering + end


@triton.jit
def _outputs(
    u, delta, B, C, D, exponents, states, y, length, n_batch, n_channels, n_states,
    u_b, u_t, u_c, delta_b, delta_t, delta_c, B_b, B_t, B_s, C_b, C_t, C_s,
    HAS_D: tl.constexpr, REVERSE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y of a segment, from the state that enters it."""
    segment, batch = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    step = tl.arange(0, STEPS)
    position = segment * STEPS + step
    inside, known = position < length, channel < n_channels
    time = _time(position, length, REVERSE)
    mask = inside[:, None] & known[None, :]
    sizes = _tile(delta, batch, time, channel, delta_b, delta_t, delta_c, mask)
    value = _tile(u, batch, time, channel, u_b, u_t, u_c, mask)
    out = tl.zeros((STEPS, CHANNELS), dtype=tl.float32)
    if HAS_D:
        out += value * tl.load(D + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    value = value * sizes
    for state in range(n_states):
        exponent = tl.load(exponents + state * n_channels + channel, mask=known, other=0.0)
        decay = tl.exp2(sizes * exponent[None, :])
        entering = tl.load(
            states + _row_of(segment, batch, n_batch, state, n_states, channel, n_channels), mask=known, other=0.0
        )
        change = value * _column(B, batch, time, state, B_b, B_t, B_s, inside)
        change = tl.where(step[:, None] == 0, change + decay * entering[None, :], change)
        _, h = tl.associative_scan((decay, change), 0, _compose)
        out += h * _column(C, batch, time, state, C_b, C_t, C_s, inside)
    at = y + (batch.to(tl.int64) * length + time.to(tl.int64)[:, None]) * n_channels + channel[None, :]
    tl.store(at, out, mask=mask)


@triton.jit
def _gradients(
    grad, u, delta, B, C, D, exponents, states, carries, grad_u, grad_delta, grad_B, grad_C, grad_D,
    length, n_batch, n_channels, n_states,
    grad_b, grad_t, grad_c, u_b, u_t, u_c, delta_b, delta_t, delta_c, B_b, B_t, B_s, C_b, C_t, C_s,
    LN2: tl.constexpr, HAS_D: tl.constexpr, REVERSE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All gradients of a segment; see `chunked._backward_block` for the formulas.

    That of A is written over `carries`, one share a segment; those of B and C have one share a block of channels.
    """
    segment, block, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    step = tl.arange(0, STEPS)
    position = segment * STEPS + step
    inside, known = position < length, channel < n_channels
    time = _time(position, length, REVERSE)
    mask = inside[:, None] & known[None, :]
    sizes = _tile(delta, batch, time, channel, delta_b, delta_t, delta_c, mask)
    value = _tile(u, batch, time, channel, u_b, u_t, u_c, mask)
    g_out = _tile(grad, batch, time, channel, grad_b, grad_t, grad_c, mask)
    # The steps before and after, within the segment.
    is_first, is_last = step[:, None] == 0, step[:, None] == STEPS - 1
    has_before = inside & (step > 0)
    before = _time(position - 1, length, REVERSE)
    before_mask = has_before[:, None] & known[None, :]
    sizes_before = _tile(delta, batch, before, channel, delta_b, delta_t, delta_c, before_mask)
    change_before = sizes_before * _tile(u, batch, before, channel, u_b, u_t, u_c, before_mask)
    has_after = (step + 1 < STEPS) & (position + 1 < length)
    sizes_after = _tile(
        delta, batch, _time(position + 1, length, REVERSE), channel, delta_b, delta_t, delta_c,
        has_after[:, None] & known[None, :],
    )  # fmt: skip
    grad_x = tl.zeros((STEPS, CHANNELS), dtype=tl.float32)
    through_decay = tl.zeros((STEPS, CHANNELS), dtype=tl.float32)
    share = (block.to(tl.int64) * n_batch + batch) * length
    for state in range(n_states):
        at = _row_of(segment, batch, n_batch, state, n_states, channel, n_channels)
        exponent = tl.load(exponents + state * n_channels + channel, mask=known, other=0.0)
        entering = tl.load(states + at, mask=known, other=0.0)
        carry = tl.load(carries + at, mask=known, other=0.0)
        row = _column(B, batch, time, state, B_b, B_t, B_s, inside)
        decay = tl.exp2(sizes * exponent[None, :])

        changes = change_before * _column(B, batch, before, state, B_b, B_t, B_s, has_before)
        changes = tl.where(is_first, entering[None, :], changes)
        _, h_before = tl.associative_scan((tl.exp2(sizes_before * exponent[None, :]), changes), 0, _compose)
        h = decay * h_before + sizes * value * row

        changes = g_out * _column(C, batch, time, state, C_b, C_t, C_s, inside)
        changes = tl.where(is_last, changes + carry[None, :], changes)
        _, g = tl.associative_scan((tl.exp2(sizes_after * exponent[None, :]), changes), 0, _compose, reverse=True)

        q = g * decay * h_before
        grad_x += g * row
        through_decay += q * exponent[None, :]
        tl.store(carries + at, tl.sum(q * sizes, axis=0), mask=known)
        row_at = (share + time) * n_states + state
        tl.store(grad_B + row_at, tl.sum(g * sizes * value, axis=1), mask=inside)
        tl.store(grad_C + row_at, tl.sum(h * g_out, axis=1), mask=inside)
    at = (batch.to(tl.int64) * length + time.to(tl.int64)[:, None]) * n_channels + channel[None, :]
    tl.store(grad_delta + at, (through_decay * LN2 + value * grad_x).to(grad_delta.dtype.element_ty), mask=mask)
    out = sizes * grad_x
    if HAS_D:
        out += g_out * tl.load(D + channel, mask=known, other=0.0).to(tl.float32)[None, :]
        at_D = grad_D + (segment.to(tl.int64) * n_batch + batch) * n_channels + channel
        tl.store(at_D, tl.sum(g_out * value, axis=0), mask=known)
    tl.store(grad_u + at, out.to(grad_u.dtype.element_ty), mask=mask)


def triton_scan(scan: ScanInputs, states: torch.Tensor | None) -> torch.Tensor:
    """As [`chunked_scan`]; states are kept in the order of the recurrence."""
    u, delta, A, B, C, D, reverse = scan
    (batch, length, channels), state_size = u.shape, A.shape[1]
    y = torch.empty(u.shape, dtype=torch.float32, device=u.device)
    exponents = exponents_of(A, torch.float32).contiguous()
    n_segments = triton.cdiv(length, SEGMENT)
    if states is None:
        states = torch.empty(n_segments, batch, state_size, channels, dtype=torch.float32, device=u.device)
    sizes = (length, batch, channels, state_size)
    settings = {"REVERSE": reverse, "STEPS": SEGMENT, "CHANNELS": _CHANNELS}
    grid = (n_segments, triton.cdiv(channels, _CHANNELS), batch)
    if y.numel() == 0:
        return y
    with _on_device_of(u):
        _enter(u, delta, B, exponents, states, sizes, settings, adjoint=False)
        _outputs[grid](
            u, delta, B, C, A if D is None else D, exponents, states, y, *sizes,
            *u.stride(), *delta.stride(), *B.stride(), *C.stride(), HAS_D=D is not None, num_warps=4, **settings,
        )  # fmt: skip
    return y


def triton_scan_backward(grad: torch.Tensor, scan: ScanInputs, states: torch.Tensor) -> Gradients:
    """As [`chunked_scan_backward`]."""
    u, delta, A, B, C, D, reverse = scan
    (batch, length, channels), state_size = u.shape, A.shape[1]
    grad_u, grad_delta = (torch.empty(each.shape, dtype=each.dtype, device=u.device) for each in (u, delta))
    n_segments, n_blocks = triton.cdiv(length, SEGMENT), triton.cdiv(channels, _CHANNELS)
    exponents = exponents_of(A, torch.float32).contiguous()
    carries = torch.zeros(n_segments, batch, state_size, channels, dtype=torch.float32, device=u.device)
    grad_B, grad_C = (grad.new_zeros(n_blocks, batch, length, state_size, dtype=torch.float32) for _ in range(2))
    grad_D = grad.new_zeros(n_segments, batch, 0 if D is None else channels, dtype=torch.float32)
    sizes = (length, batch, channels, state_size)
    settings = {"REVERSE": reverse, "STEPS": SEGMENT, "CHANNELS": _CHANNELS}
    if u.numel():
        with _on_device_of(u):
            _enter(grad, delta, C, exponents, carries, sizes, settings, adjoint=True)
            _gradients[n_segments, n_blocks, batch](
                grad, u, delta, B, C, A if D is None else D, exponents, states, carries,
                grad_u, grad_delta, grad_B, grad_C, grad_D, *sizes,
                *grad.stride(), *u.stride(), *delta.stride(), *B.stride(), *C.stride(),
                LN2=math.log(2), HAS_D=D is not None, num_warps=8, **settings,
            )  # fmt: skip
    return (
        grad_u,
        grad_delta,
        carries.sum((0, 1)).t().contiguous().to(A.dtype),
        grad_B.sum(0).to(B.dtype),
        grad_C.sum(0).to(C.dtype),
        grad_D.sum((0, 1)).to((A if D is None else D).dtype),
    )


def _enter(
    values: torch.Tensor,
    delta: torch.Tensor,
    rows: torch.Tensor,
    exponents: torch.Tensor,
    entering: torch.Tensor,
    sizes: tuple[int, int, int, int],
    settings: dict[str, Any],
    adjoint: bool,
) -> None:
    """Write the states that enter the segments, or (adjoint) the adjoints that enter them from behind."""
    length, batch, channels, state_size = sizes
    n_segments, n_blocks = triton.cdiv(length, SEGMENT), triton.cdiv(channels, _CHANNELS)
    sums = torch.empty(n_segments, batch, channels, dtype=torch.float32, device=values.device)
    _ends[n_segments, n_blocks, batch](
        values, delta, rows, exponents, entering, sums, *sizes, *values.stride(), *delta.stride(), *rows.stride(),
        ADJOINT=adjoint, num_warps=4, **settings,
    )  # fmt: skip
    _walk[n_blocks, state_size, batch](
        entering, sums, exponents, n_segments, batch, channels, state_size,
        BACKWARDS=adjoint, CHANNELS=_CHANNELS, num_warps=1,
    )  # fmt: skip


def _on_device_of(tensor: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Kernels start on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
