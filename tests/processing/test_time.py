"""Repetition times that can be, and the one that a set of scans has."""

import math
import warnings

import numpy as np
import pytest

from brain_transformers.processing.time import check_t_r, common_t_r, known_t_r


@pytest.mark.parametrize("t_r", [0.1, 0.72, np.float32(2.0), np.array(2), 12])
def test_repetition_times_of_scanners_pass(t_r) -> None:
    assert check_t_r(t_r) == float(t_r)


@pytest.mark.parametrize(
    "t_r", [0, -1, 720, 72, 0.00072, math.nan, math.inf, 10**400, "2.0", "n/a", [2.0, 2.0], True, {}]
)
def test_what_cannot_be_one_is_refused_by_name(t_r) -> None:
    with pytest.raises(ValueError, match=r"Expected t_r of sub-01\.tsv"):
        check_t_r(t_r, "t_r of sub-01.tsv")


def test_unknown_is_not_wrong() -> None:
    assert known_t_r(None) is None
    assert known_t_r(np.float64("nan")) is None
    with pytest.raises(ValueError, match="milliseconds"):
        known_t_r(735)


def test_mixed_repetition_times_are_said_and_most_decide() -> None:
    with pytest.warns(UserWarning, match="3 have 2 s, 1 have 0.72 s, 1 have none"):
        assert common_t_r([0.72, 2.0, 2.0, 2.0, math.nan]) == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert common_t_r([0.72, 0.735, 0.72]) == 0.72
        assert common_t_r([None, math.nan]) is None
