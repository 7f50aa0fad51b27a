"""Tensors that follow from weights alone, kept between passes that do not train."""

from collections.abc import Callable
from typing import Any

import torch


class DerivedTensor:
    """Keeps a tensor that follows from weights alone, for as long as the weights stay as they are.

    Only for passes without gradients: it is computed anew in each pass with gradients, when a weight was written to,
    replaced or moved, and after `forget` (which `train()` and `eval()` of the owners call). Writing through `.data`
    leaves no trace that could be seen here: call `eval()` after doing so.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._value: torch.Tensor | None = None
        self._weights: list[torch.Tensor] = []  # held, so that no other tensor can take the place of one in memory

    def forget(self) -> None:
        """Compute it anew next time."""
        self._key = self._value = None
        self._weights = []

    def __getstate__(self) -> dict[str, Any]:
        return {"_key": None, "_value": None, "_weights": []}  # copies and pickles of a model start without it

    def get(self, weights: list[torch.Tensor], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The tensor that `compute` makes of `weights`."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(w.is_inference() for w in weights):
            return compute()
        key = tuple((weight.data_ptr(), weight._version, weight.dtype, weight.device) for weight in weights)
        same = len(weights) == len(self._weights) and all(a is b for a, b in zip(weights, self._weights, strict=True))
        if self._value is None or not same or key != self._key:
            self._key, self._value, self._weights = key, compute(), list(weights)
        return self._value
