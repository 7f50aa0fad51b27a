"""Prediction heads and the losses that go with them."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

# Bands of the z-scored label and their weights, from BrainLM's fine-tuning code; labels outside contribute nothing.
_WEIGHTED_MSE_BANDS = (
    (-4.40, -3.46, 24.16),
    (-3.35, -2.40, 30.73),
    (-1.25, -0.305, 1.5),
    (-0.199, 0.747, 1.0),
    (0.852, 1.799, 2.11),
)


def initialised_linear(
    in_features: int, out_features: int, std: float | None, bias: bool = True, zero_bias: bool = False
) -> nn.Linear:
    """A linear layer that remembers how it starts, where that is not how the rest of its model does.

    It has to, since transformers does not ask modules without parameters of their own how to initialise those inside
    them; and it is no class of its own, which quantisation would pass over.

    Args:
        in_features, out_features, bias: as for `nn.Linear`.
        std: standard deviation of the weights, see [`initialise`]; `None` for Xavier uniform.
        zero_bias: start the bias at 0 rather than as the model's layers do.
    """
    layer: Any = nn.Linear(in_features, out_features, bias=bias)
    layer.initial_std, layer.starts_at_zero = std, zero_bias
    return layer


def initialise(layer: Any, cut_at: float | None = None) -> None:
    """Give a layer of [`initialised_linear`] the start that it remembers; any other stays as it is.

    Args:
        layer: a linear layer.
        cut_at: bounds of the normal distribution; `None` for none.
    """
    if not hasattr(layer, "initial_std"):
        return
    if layer.initial_std is None:
        init.xavier_uniform_(layer.weight)
    elif cut_at is None:
        init.normal_(layer.weight, std=layer.initial_std)
    else:
        init.trunc_normal_(layer.weight, std=layer.initial_std, a=-cut_at, b=cut_at)
    if layer.starts_at_zero:
        init.zeros_(layer.bias)


class MLPHead(nn.Module):
    """BrainLM's three-layer prediction head: linear, dropout, ReLU, twice, then linear.

    Args:
        hidden_size: width of the pooled vector; the hidden layers have half of it.
        num_labels: number of outputs.
        dropout: probability of both dropouts, which come before the ReLU as in the authors' code.
    """

    def __init__(self, hidden_size: int, num_labels: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, hidden_size // 2)
        self.fc2 = nn.Linear(hidden_size // 2, hidden_size // 2)
        self.fc3 = nn.Linear(hidden_size // 2, num_labels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """`(batch, hidden_size)` -> `(batch, num_labels)`."""
        hidden = torch.relu(self.dropout(self.fc1(pooled)))
        hidden = torch.relu(self.dropout(self.fc2(hidden)))
        return self.fc3(hidden)


def build_classifier(kind: str, hidden_size: int, num_labels: int, dropout: float) -> nn.Module:
    """A `"linear"` or `"mlp"` head from the pooled vector to `num_labels` outputs."""
    if kind == "mlp":
        return MLPHead(hidden_size, num_labels, dropout)
    return nn.Linear(hidden_size, num_labels)


def single_output_loss(
    outputs: torch.Tensor, labels: torch.Tensor, loss: str, pos_weight: list[float] | None = None
) -> torch.Tensor:
    """The losses of BrainLM's fine-tuning code, for a head with one output.

    Args:
        outputs: `(batch, 1)` or `(batch,)`; for `"binary_cross_entropy"` they are logits.
        labels: `(batch,)` numbers.
        loss: `"mse"`, `"mae"`, `"binary_cross_entropy"` or `"weighted_mse"`; the last is `0.01 * sum(w * error**2)`
            with a weight by label band, summed (not averaged) over the samples.
        pos_weight: weight of the positive class for `"binary_cross_entropy"`.
    """
    outputs, labels = outputs.reshape(-1), labels.reshape(-1).to(outputs.dtype)
    if loss == "mse":
        return nn.functional.mse_loss(outputs, labels)
    if loss == "mae":
        return nn.functional.l1_loss(outputs, labels)
    if loss == "binary_cross_entropy":
        weight = None if pos_weight is None else outputs.new_tensor(pos_weight)
        return nn.functional.binary_cross_entropy_with_logits(outputs, labels, pos_weight=weight)
    weights = torch.zeros_like(labels)
    for low, high, weight_of_band in _WEIGHTED_MSE_BANDS:
        weights = torch.where((labels >= low) & (labels <= high), weight_of_band, weights)
    return 0.01 * (weights * (outputs - labels) ** 2).sum()


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of `values` where `mask` is 1 over the number of such entries, pooled over the batch (0 if none)."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
