"""Choices, ranges and checks that configurations and training arguments share; light, since free of torch."""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

POOLINGS = ("cls", "mean", "mean_with_cls", "max")
CHOICES: dict[str, tuple[str | None, ...]] = {
    "problem_type": (None, "regression", "single_label_classification", "multi_label_classification")
}
"""Field -> the words that it can be."""


@dataclass(frozen=True)
class Range:
    """What a number, or each number of a list, can be: from `low` to `high`, or between them where one is excluded.

    Upper ends of sizes are far above any model that exists. They are there so that a damaged or hostile file cannot
    take memory or time by what it claims.
    """

    low: float
    high: float
    without_low: bool = False
    without_high: bool = False

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number in the range; NaN and truth values are not."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        above = value > self.low if self.without_low else value >= self.low
        return above and (value < self.high if self.without_high else value <= self.high)

    def __str__(self) -> str:
        words = (("above", "at least", self.without_low, self.low), ("below", "at most", self.without_high, self.high))
        ends = [
            f"{word if without else other} {f'{end:,.0f}' if end == int(end) else f'{end:g}'}"
            for word, other, without, end in words
            if math.isfinite(end)
        ]
        return " and ".join(ends) or "a finite number"


class CheckedFields:
    """Fields with names that say what they can be: numbers by `ranges`, words by `choices`."""

    # Pattern of a field's name -> what its numbers can be; a class adds those of fields that only it has.
    ranges: ClassVar[Mapping[str, Range]] = {}
    # Field -> the words that it can be.
    choices: ClassVar[Mapping[str, tuple[str | None, ...]]] = {}

    @classmethod
    def check_field(cls, name: str, value: Any) -> None:
        """Raise ValueError for a value that a field cannot have."""
        check_range(name, value, cls.range_of(name))
        if name in cls.choices:
            check_choice(name, value, cls.choices[name])

    @classmethod
    @functools.cache
    def range_of(cls, name: str) -> Range | None:
        """What the numbers of a field can be, or `None` if it holds none."""
        return next((span for pattern, span in cls.ranges.items() if re.fullmatch(pattern, name)), None)


WIDTH, SHARE, SHARE_BELOW_1, WEIGHT = Range(1, 65_536), Range(0, 1), Range(0, 1, without_high=True), Range(0, 1e6)

# Names are one vocabulary, so the ranges are too; a family adds those of fields that only it has.
RANGES: dict[str, Range] = {
    "n_rois": Range(1, 100_000),
    "n_timepoints": Range(1, 1_000_000),
    "t_r": Range(0.05, 30),
    "patch_size": Range(1, 512),
    "image_size": Range(1, 8_192),
    "num_channels": Range(1, 64),
    r"(\w+_)?hidden_size|classifier_hidden_sizes": WIDTH,
    r"(\w+_)?intermediate_size": Range(1, 1_048_576),
    r"(\w+_)?num_(attention_heads|hidden_layers)": Range(1, 1_024),
    "num_labels": Range(0, 100_000),
    r"\w+_dropout(_prob)?|drop_path_rate|classifier_mask_ratio": SHARE_BELOW_1,
    "layer_norm_eps": Range(1e-30, 1),
    "initializer_range": Range(0, 10),
    "layer_scale_init_value": Range(0, 1_000),
    "mask_ratio": SHARE,
    r"\w+_loss_weight|reconstruction_weight": WEIGHT,
    "pos_weight": Range(0, 1e6, without_low=True),
}
"""Pattern of a field's name -> its range."""


def check_range(name: str, value: Any, span: Range | None) -> None:
    """Raise ValueError for a number out of its range, alone or in a list; `None` is not looked at."""
    if span is None or value is None:
        return
    values = value if isinstance(value, (list, tuple)) else [value]
    wrong = next((number for number in values if not span.holds(number)), None)
    if wrong is not None:
        each = "each number in " if isinstance(value, (list, tuple)) else ""
        raise ValueError(f"{each}{name} must be {span}, got {_short(wrong)}.")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_heads(name: str, hidden_size: int, num_heads: int) -> None:
    """Raise ValueError unless the width is a multiple of the number of heads."""
    if hidden_size % num_heads:
        raise ValueError(f"{name} ({hidden_size}) must be a multiple of its number of attention heads ({num_heads}).")


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {_short(value)}.")
