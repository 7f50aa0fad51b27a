"""What a gap is, and what a table of participants says of each scan."""

import numpy as np
import pytest

from brain_transformers.data.participants import is_gap


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.float32("nan"), "", " ", "NA", "n/a", "N/A", "NaN", "null", "."]
)
def test_gaps_are_known_in_every_spelling(value):
    assert is_gap(value)


@pytest.mark.parametrize("value", ["None", "none", "-", "?"])
def test_words_are_gaps_only_among_numbers(value):
    assert is_gap(value, among_numbers=True)
    assert not is_gap(value)


@pytest.mark.parametrize("value", [0, 0.0, "0", False, "-9", "999", "no", "nano", "+", b"F"])
def test_values_are_no_gaps(value):
    assert not is_gap(value, among_numbers=True)
