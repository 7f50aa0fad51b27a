"""Signs that a latent-prediction run collapses: targets that no longer differ between tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Tokens that the statistics are made of; more would only cost time.
_MAX_TOKENS = 2048


@torch.no_grad()
def target_statistics(targets: torch.Tensor) -> dict[str, float]:
    """Spread and effective rank of target states over tokens.

    Args:
        targets: `(..., n_tokens, hidden_size)`.

    Returns:
        `target_std`: standard deviation over tokens, mean over channels (0 if all tokens are the same; targets are
        normalised over channels, so about 1 is the most); `target_rank`: exponential of the entropy of the normalised
        eigenvalues of their covariance, between 1 and `hidden_size`.
    """
    states = targets.detach().flatten(0, -2).float()
    states = states[:: max(1, len(states) // _MAX_TOKENS)]
    centred = states - states.mean(0)
    spread = centred.square().mean(0).sqrt().mean()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum().clamp(min=1e-12)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return {"target_std": float(spread), "target_rank": float(entropy.exp())}


class CollapseMonitor:
    """Warns once when the statistics of the targets fall far below their highest values.

    Args:
        fraction: a value below this share of the highest so far brings the warning.
    """

    def __init__(self, fraction: float = 0.2):
        self.fraction = fraction
        self.highest: dict[str, float] = {}
        self.warned: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What it has seen, as JSON values."""
        return {"highest": self.highest, "warned": sorted(self.warned)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` gave."""
        self.highest, self.warned = dict(state["highest"]), set(state["warned"])

    def update(self, statistics: dict[str, float], step: int) -> None:
        """Compare with the highest values so far."""
        for name, value in statistics.items():
            highest = self.highest[name] = max(self.highest.get(name, value), value)
            if value < self.fraction * highest and name not in self.warned:
                self.warned.add(name)
                logger.warning(
                    f"{name} fell to {value:.3g} at step {step}, from {highest:.3g}: the representation may be "
                    "collapsing (a loss that goes to 0 would be the same sign). Lower the learning rate, lengthen the "
                    "warmup, or raise the momentum of the target, and check the scale of the input."
                )
