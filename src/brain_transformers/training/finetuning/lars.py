"""LARS, the optimizer of linear probes."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling, without it for one-dimensional parameters, as linear probes of MAE use it.

    For parameters with more than one axis the gradient plus weight decay is scaled to `trust_coefficient` times the
    norm of the parameter; biases take the plain gradient. Then momentum.

    Args:
        params: parameters or groups.
        lr: learning rate; Brain-JEPA's scripts use 2.5e-4, MAE's linear probes 0.1 * batch / 256.
        weight_decay: for parameters with more than one axis.
        momentum: of the update.
        trust_coefficient: see above.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ):
        if lr < 0:
            raise ValueError(f"Expected a learning rate of at least 0, got {lr}.")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad
                if parameter.ndim > 1:
                    update = update.add(parameter, alpha=group["weight_decay"])
                    parameter_norm, update_norm = torch.norm(parameter), torch.norm(update)
                    scale = torch.where(
                        (parameter_norm > 0) & (update_norm > 0),
                        group["trust_coefficient"] * parameter_norm / update_norm,
                        torch.ones_like(parameter_norm),
                    )
                    update = update * scale
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"].mul_(group["momentum"]).add_(update)
                parameter.add_(velocity, alpha=-group["lr"])
        return loss
