"""Runs that have lost their numbers: found without making the device wait, and told with the scans that did it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

_NEVER = 2**62


class NotFiniteError(FloatingPointError, ValueError):
    """A loss, a gradient, a weight or a score became NaN or infinite."""


class FiniteWatch:
    """The first steps at which something was not finite, kept on the device and read when asked.

    Args:
        device: of the losses.
        names: what is watched.
    """

    def __init__(self, device: torch.device, names: Sequence[str] = ("loss", "gradient norm")):
        self.names = tuple(names)
        self._first = torch.full((len(self.names),), _NEVER, dtype=torch.int64, device=device)

    def note(self, name: str, value: Any, step: int) -> None:
        """Look at a value of a step; nothing waits for it."""
        place = self.names.index(name)
        if not isinstance(value, torch.Tensor):
            value = torch.tensor(float(value))
        finite = torch.isfinite(_own_part(value.detach())).all().to(self._first.device)
        self._first[place] = torch.where(finite, self._first[place], self._first[place].clamp(max=step))

    def read(self, gather: Any = None) -> tuple[int, str] | None:
        """The first step and what was not finite at it, on any process; `None` if all was well.

        Args:
            gather: puts a tensor `(1, n)` of each process below those of the others; all processes must call then.
        """
        first = self._first[None] if gather is None else gather(self._first[None])
        steps = first.amin(0).tolist()
        step, place = min((step, place) for place, step in enumerate(steps))
        return None if step == _NEVER else (step, self.names[place])


# Weights above it are finite, but float32 overflows in the first norm that is taken of what they give.
_LARGEST_WEIGHT = 1e18


class WatchedTensor(NamedTuple):
    """A tensor that must be finite, by name, and the largest absolute value that it may have."""

    name: str
    tensor: torch.Tensor
    largest: float = math.inf

    def is_whole(self) -> torch.Tensor:
        """Bool of no axis, on the tensor's device."""
        low, high = torch.aminmax(self.tensor)
        return (low > -self.largest) & (high < self.largest)


def tensors_of(model: nn.Module, optimizer: Optimizer | None = None) -> list[WatchedTensor]:
    """The tensors of a model, moving averages and buffers included, and of an optimizer's state."""
    found = [WatchedTensor(name, value.detach(), _LARGEST_WEIGHT) for name, value in model.named_parameters()]
    found += [WatchedTensor(name, value) for name, value in model.named_buffers()]
    for state in optimizer.state.values() if optimizer is not None else ():
        found += [
            WatchedTensor(f"optimizer state {key}", value)
            for key, value in state.items()
            if isinstance(value, torch.Tensor)
        ]
    found = [watched._replace(tensor=_own_part(watched.tensor)) for watched in found]
    return [watched for watched in found if watched.tensor.is_floating_point() and watched.tensor.numel()]


def _own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor that is sharded over several."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def all_whole(tensors: Iterable[WatchedTensor], device: torch.device) -> torch.Tensor:
    """Bool on `device`: whether all are finite."""
    checks = [watched.is_whole().to(device) for watched in tensors]
    return torch.stack(checks).all() if checks else torch.tensor(True, device=device)


def broken_names(tensors: Iterable[WatchedTensor]) -> list[str]:
    """Names of the tensors that are not."""
    return [watched.name for watched in tensors if not bool(watched.is_whole())]


def is_broken(value: Any) -> bool:
    """Whether a score is a number that is NaN or infinite."""
    return isinstance(value, (float, np.floating)) and not math.isfinite(value)


def describe_scans(dataset: Any, rows: Sequence[int], limit: int = 4) -> str:
    """Which scans a batch was made of, those with the largest values (or with NaN) first."""
    found = []
    for number in rows:
        row = dataset[number]
        arrays = [np.asarray(value) for value in row.values() if not isinstance(value, str)]
        sizes = [
            float(np.abs(array).max()) for array in arrays if array.dtype.kind == "f" and array.ndim and array.size
        ]
        largest = max((math.inf if math.isnan(size) else size for size in sizes), default=0.0)
        found.append((largest, number, _name(row, number)))
    found.sort(key=lambda scan: (-scan[0], scan[1]))
    parts = [
        f"{name} (values up to {'NaN or infinity' if math.isinf(size) else f'{size:.3g}'})" for size, _, name in found
    ]
    more = f" and {len(parts) - limit} more" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more


def _name(row: Mapping[str, Any], number: int) -> str:
    known = [f"{key} {row[key]}" for key in ("subject", "session", "run") if row.get(key) not in (None, "")]
    if row.get("source_file") not in (None, ""):
        known.append(f"from {row['source_file']}")
    return " ".join(known) if known else f"row {number}"
