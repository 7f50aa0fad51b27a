"""Choices and checks that the configurations share; free of torch, so that configurations stay light."""

POOLINGS = ("cls", "mean", "mean_with_cls", "max")
CLASSIFIER_HEADS = ("linear", "mlp")
CLASSIFIER_LOSSES = ("mse", "mae", "binary_cross_entropy", "weighted_mse")
TRAIN_MODES = ("auto_encode", "predict_last", "predict_last_pixel")


def check_heads(name: str, hidden_size: int, num_heads: int) -> None:
    """Raise ValueError unless the width is a multiple of the number of heads."""
    if hidden_size % num_heads:
        raise ValueError(f"{name} ({hidden_size}) must be a multiple of its number of attention heads ({num_heads}).")


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
