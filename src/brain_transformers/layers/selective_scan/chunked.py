"""The selective scan in plain torch: a few operations for many steps, and one in-place multiply-add a step.

Measured on a CPU (`benchmarks/bench_selective_scan.py`): powers of two are taken, since torch's `exp2` is four times
faster there than its `exp` (an AMD EPYC), and no operation touches more numbers than torch gives to one thread. Larger
ones are spread over threads that wait for each other several times a step: somewhat faster where every core is free,
and up to a hundred times slower where one is not.
"""

import math
from collections.abc import Iterator

import torch

from .reference import Gradients, ScanInputs

SEGMENT = 32
"""Steps between two states that are kept for the backward pass."""

# Numbers in one operation that torch leaves to one thread (its grain size).
_GRAIN = 32768


def chunked_scan(scan: ScanInputs, states: torch.Tensor | None) -> torch.Tensor:
    """The output.

    The state that enters each segment is written into `states`, `(n_segments or more, batch, state_size, channels)`.
    Beyond the output it needs a few blocks of at most 128 KiB on a CPU.
    """
    (u, delta, A, B, C, D, reverse), dtype = scan, scan.dtype
    y = torch.empty(u.shape, dtype=dtype, device=u.device)
    exponents = exponents_of(A, dtype)
    for samples, channels, steps in _blocks(u, A.shape[1]):
        _scan_block(
            u[samples, :, channels].transpose(0, 1),
            delta[samples, :, channels].transpose(0, 1),
            y[samples, :, channels].transpose(0, 1),
            exponents[:, channels].contiguous(),
            B[samples].transpose(0, 1),
            C[samples].transpose(0, 1),
            None if D is None else D[channels].to(dtype),
            reverse,
            None if states is None else states[:, samples, :, channels],
            steps,
        )
    return y


def chunked_scan_backward(grad: torch.Tensor, scan: ScanInputs, states: torch.Tensor) -> Gradients:
    """The gradients; states of a segment are computed again from the one kept at its start."""
    (u, delta, A, B, C, D, reverse), dtype = scan, scan.dtype
    (batch, length, _), state_size = u.shape, A.shape[1]
    grad_u, grad_delta = (torch.empty(each.shape, dtype=each.dtype, device=u.device) for each in (u, delta))
    grad_B, grad_C = (torch.zeros(batch, length, state_size, dtype=dtype, device=u.device) for _ in range(2))
    grad_A = torch.zeros(state_size, A.shape[0], dtype=dtype, device=u.device)
    grad_D = torch.zeros(0 if D is None else A.shape[0], dtype=dtype, device=u.device)
    exponents, decay = exponents_of(A, dtype), A.to(dtype).t()
    for samples, channels, steps in _blocks(u, state_size):
        _backward_block(
            grad[samples, :, channels].transpose(0, 1),
            u[samples, :, channels].transpose(0, 1),
            delta[samples, :, channels].transpose(0, 1),
            grad_u[samples, :, channels].transpose(0, 1),
            grad_delta[samples, :, channels].transpose(0, 1),
            exponents[:, channels].contiguous(),
            decay[:, channels].contiguous(),
            B[samples].transpose(0, 1),
            C[samples].transpose(0, 1),
            grad_B[samples].transpose(0, 1),
            grad_C[samples].transpose(0, 1),
            None if D is None else D[channels].to(dtype),
            grad_A[:, channels],
            grad_D[channels],
            reverse,
            states[:, samples, :, channels],
            steps,
        )
    return (
        grad_u,
        grad_delta,
        grad_A.t().contiguous().to(A.dtype),
        grad_B.to(B.dtype),
        grad_C.to(C.dtype),
        grad_D if D is None else grad_D.to(D.dtype),
    )


def exponents_of(A: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """exp(delta A) = 2^(delta x this), `(state_size, channels)`."""
    exact = A if A.device.type == "mps" else A.double()  # that device has no float64
    return (exact * math.log2(math.e)).to(dtype).t()


def _blocks(u: torch.Tensor, state_size: int) -> Iterator[tuple[slice, slice, int]]:
    """Samples, channels and steps an operation, such that no operation of a CPU is spread over threads."""
    batch, _, channels = u.shape
    if u.device.type != "cpu":  # elsewhere an operation costs the same whatever its size
        yield slice(None), slice(None), SEGMENT
        return
    n_channels = min(channels, max(_GRAIN // max(state_size, SEGMENT), 1))
    n_samples = max(_GRAIN // (n_channels * max(state_size, SEGMENT)), 1)
    steps = max(min(_GRAIN // (min(n_samples, batch) * n_channels * state_size), SEGMENT), 1)
    for sample in range(0, batch, n_samples):
        for channel in range(0, channels, n_channels):
            yield slice(sample, sample + n_samples), slice(channel, channel + n_channels), steps


def _segments(length: int, reverse: bool) -> Iterator[tuple[int, slice]]:
    """Number and steps of each segment, in the order of the recurrence."""
    numbers = range(-(-length // SEGMENT))
    for number in reversed(numbers) if reverse else numbers:
        yield number, slice(number * SEGMENT, min((number + 1) * SEGMENT, length))


def _ordered(n: int, steps: int, reverse: bool) -> Iterator[tuple[slice, range]]:
    """Groups of steps and, within each, the steps counted from the group's first, in the order of the recurrence."""
    starts = range(0, n, steps)
    for start in reversed(starts) if reverse else starts:
        size = min(steps, n - start)
        yield slice(start, start + size), range(size - 1, -1, -1) if reverse else range(size)


def _scan_block(
    u: torch.Tensor,
    delta: torch.Tensor,
    y: torch.Tensor,
    exponents: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    reverse: bool,
    states: torch.Tensor | None,
    steps: int,
) -> None:
    """Write `y`, `(length, batch, channels)`, and `states`; time comes first in every argument that has it."""
    length, batch, channels = y.shape
    state_shape = (batch, *exponents.shape)
    decay = y.new_empty(steps, *state_shape)
    # Two buffers take turns, so that the last state of one group is at hand while the next group is filled.
    buffers = [y.new_empty(steps, *state_shape) for _ in range(2)]
    decay_at, buffers_at = decay.unbind(0), [buffer.unbind(0) for buffer in buffers]
    state, turn = y.new_zeros(state_shape), 0
    for number, segment in _segments(length, reverse):
        if states is not None:
            states[number] = state
        u_seg, delta_seg = u[segment].to(y.dtype), delta[segment].to(y.dtype)
        inputs, B_seg = (delta_seg * u_seg)[:, :, None, :], B[segment].to(y.dtype)[:, :, :, None]
        rows = delta_seg[:, :, None, :]
        C_at = C[segment].to(y.dtype)[:, :, None, :].unbind(0)
        out = torch.empty(len(rows), batch, 1, channels, dtype=y.dtype, device=y.device)
        out_at = out.unbind(0)
        for group, order in _ordered(len(rows), steps, reverse):
            buffer, size = buffers[turn], len(order)
            torch.mul(rows[group], exponents, out=decay[:size]).exp2_()
            torch.mul(inputs[group], B_seg[group], out=buffer[:size])
            for step in order:
                state = buffers_at[turn][step].addcmul_(decay_at[step], state)
                torch.bmm(C_at[group.start + step], state, out=out_at[group.start + step])
            turn = 1 - turn
        if D is None:
            y[segment] = out[:, :, 0]
        else:
            torch.addcmul(out[:, :, 0], u_seg, D, out=y[segment])


def _backward_block(
    grad: torch.Tensor,
    u: torch.Tensor,
    delta: torch.Tensor,
    grad_u: torch.Tensor,
    grad_delta: torch.Tensor,
    exponents: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    grad_B: torch.Tensor,
    grad_C: torch.Tensor,
    D: torch.Tensor | None,
    grad_A: torch.Tensor,
    grad_D: torch.Tensor,
    reverse: bool,
    states: torch.Tensor,
    steps: int,
) -> None:
    """Write the gradients of a block; those of A, B, C and D are added to what other blocks gave.

    With x = delta u and the adjoint g_t = C_t grad_t + a_{t+1} g_{t+1}, run against the recurrence:
    dC_t = sum over channels of h_t grad_t, dB_t = sum over channels of g_t x_t, dx_t = sum over states of g_t B_t, and
    with q_t = a_t g_t h_{t-1}: dA = sum over t of q_t delta_t, ddelta_t = u_t dx_t + sum over states of q_t A.
    """
    dtype, length = states.dtype, len(u)
    (batch, state_size, channels) = state_shape = states.shape[1:]
    segment_size = min(SEGMENT, length)
    decay = states.new_empty(segment_size, *state_shape)
    # One more than steps: the state from which the segment is entered comes before them (in time: after, if reverse).
    trail = states.new_empty(segment_size + 1, *state_shape)
    adjoint, product = (states.new_empty(steps, *state_shape) for _ in range(2))
    decay_at, trail_at, adjoint_at, product_at = (each.unbind(0) for each in (decay, trail, adjoint, product))
    carry, total_D = states.new_zeros(state_shape), states.new_zeros(batch, 1, channels)
    partial_A, total_A = states.new_empty(state_shape), states.new_zeros(state_shape)
    ones = states.new_ones(
        batch, 1, max(state_size, segment_size)
    )  # torch spreads sums over threads, not this product
    after = 0 if reverse else 1  # where in the trail the state after step 0 is; the state before it is at 1 - after
    for number, segment in _segments(length, not reverse):
        n = segment.stop - segment.start
        grad_seg, u_seg, delta_seg, B_seg, C_seg = (each[segment].to(dtype) for each in (grad, u, delta, B, C))
        inputs = delta_seg * u_seg
        trail_at[n if reverse else 0].copy_(states[number])
        for group, order in _ordered(n, steps, reverse):
            torch.mul(delta_seg[group][:, :, None, :], exponents, out=decay[group]).exp2_()
            entered = trail[group.start + after : group.stop + after]
            torch.mul(inputs[group][:, :, None, :], B_seg[group][:, :, :, None], out=entered)
            for step in order:
                step += group.start
                trail_at[step + after].addcmul_(decay_at[step], trail_at[step + 1 - after])
        grad_at, inputs_at = grad_seg[:, :, :, None].unbind(0), inputs[:, :, :, None].unbind(0)
        B_at, delta_at = B_seg[:, :, None, :].unbind(0), delta_seg[:, :, None, :].unbind(0)
        grad_inputs, through_decay = (states.new_empty(n, batch, 1, channels) for _ in range(2))
        B_out, C_out = (states.new_empty(n, batch, state_size, 1) for _ in range(2))
        outs = [each.unbind(0) for each in (grad_inputs, through_decay, B_out, C_out)]
        partial_A.zero_()
        for group, order in _ordered(n, steps, not reverse):
            size = len(order)
            torch.mul(grad_seg[group][:, :, None, :], C_seg[group][:, :, :, None], out=adjoint[:size])
            for step in order:
                now = group.start + step
                g = adjoint_at[step].add_(carry)
                carry = decay_at[now].mul_(g)  # a_t g_t, which the step before takes over
                torch.bmm(trail_at[now + after], grad_at[now], out=outs[3][now])
                torch.bmm(g, inputs_at[now], out=outs[2][now])
                torch.bmm(B_at[now], g, out=outs[0][now])
                torch.mul(carry, trail_at[now + 1 - after], out=product_at[step])
                partial_A.addcmul_(product_at[step], delta_at[now])
            product[:size].mul_(A)
            for step in order:
                torch.bmm(ones[:, :, :state_size], product_at[step], out=outs[1][group.start + step])
        carry = carry.clone()  # the next segment's decay is written over this one's
        grad_x = grad_inputs[:, :, 0]
        grad_delta[segment] = through_decay[:, :, 0].addcmul_(u_seg, grad_x)
        grad_x = grad_x * delta_seg
        if D is not None:
            grad_x.addcmul_(grad_seg, D)
            total_D.baddbmm_(ones[:, :, :n], (grad_seg * u_seg).transpose(0, 1))
        grad_u[segment] = grad_x
        grad_B[segment] += B_out[..., 0]
        grad_C[segment] += C_out[..., 0]
        total_A += partial_A
    grad_A += total_A.sum(0)
    if D is not None:
        grad_D += total_D.sum((0, 1))
