"""The target network of latent prediction, for training loops of one's own."""

from typing import Any

from ...models.moving_average import check_moving_average


def update_target(model: Any, momentum: float) -> None:
    """Move the target network towards the context encoder: `target = m * target + (1 - m) * context`.

    Call it after each optimizer step.

    Args:
        model: a model with a moving average, such as [`BrainJEPAForMaskedModeling`].
        momentum: between 0 (copy) and 1 (keep).

    Raises:
        TypeError: if the model has none.
    """
    check_moving_average(model)
    model.update_moving_average(momentum)
