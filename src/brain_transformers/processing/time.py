"""Repetition times: what one can be, and which one a set of scans has."""

import math
import numbers
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

# The fastest whole-brain sequences (MREG) take 0.1 s, the slowest that are used (sparse sampling) some 20 s. What lies
# outside of that is another unit: 720 are milliseconds, 72 hundredths.
SHORTEST_T_R, LONGEST_T_R = 0.05, 30.0


def check_t_r(t_r: Any, name: str = "t_r") -> float:
    """`t_r` as a float, if it can be a repetition time in seconds.

    Args:
        t_r: a number, or an array or tensor of one.
        name: what the error calls it, such as `"t_r of sub-01.tsv"`.

    Raises:
        ValueError: for what is no number, not finite, or outside 0.05 s to 30 s.
    """
    value = t_r.item() if getattr(t_r, "size", None) == 1 and hasattr(t_r, "item") else t_r
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"Expected {name} to be a number of seconds, got {_short(t_r)}. Give it as in t_r=0.72.")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not SHORTEST_T_R <= seconds <= LONGEST_T_R:
        hint = "Divide by 1000 if it is in milliseconds." if seconds > LONGEST_T_R else "It is in seconds."
        raise ValueError(
            f"Expected {name} in seconds, between {SHORTEST_T_R:g} and {LONGEST_T_R:g}, got {seconds:g}. {hint}"
        )
    return seconds


def known_t_r(t_r: Any, name: str = "t_r") -> float | None:
    """`t_r` as [`check_t_r`] gives it, or `None` where it is not known (`None` or NaN, as in rows of a dataset)."""
    if t_r is None or (isinstance(t_r, numbers.Real) and t_r != t_r):
        return None
    return check_t_r(t_r, name)


def common_t_r(t_rs: Iterable[Any], tolerance: float = 0.025, what: str = "scans") -> float | None:
    """The repetition time of most of the scans, with a warning where they differ or some are not known.

    Args:
        t_rs: of each scan, seconds; `None` or NaN where it is not known.
        tolerance: relative difference that counts as equal.
        what: how the warning calls them.

    Returns:
        The most frequent one (the shorter of equally frequent ones), or `None` if none is known.

    Raises:
        ValueError: for a value that cannot be a repetition time.
    """
    values = [known_t_r(value, f"t_r of the {what}") for value in t_rs]
    counts = Counter(value for value in values if value is not None)
    if not counts:
        return None
    common = min(counts, key=lambda value: (-counts[value], value))
    unknown = sum(value is None for value in values)
    others = {value: count for value, count in counts.items() if abs(value - common) > tolerance * common}
    if others or unknown:
        listed = [
            f"{counts[value]} have {value:g} s" for value in sorted(counts, key=lambda value: -counts[value])[:5]
        ]
        listed += [f"{len(counts) - 5} other values"] if len(counts) > 5 else []
        listed += [f"{unknown} have none"] if unknown else []
        warnings.warn(
            f"The {what} differ in t_r: {', '.join(listed)}. {common:g} s, that of most of them, is taken as the "
            "model's.",
            UserWarning,
            stacklevel=2,
        )
    return common


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
