"""Position tables are those that the published formulas give, whatever the number of axes."""

import numpy as np
import pytest
import torch

from brain_transformers.layers.positions import interleaved_sincos_table, sincos_table


def waves(position: int, width: int) -> np.ndarray:
    angle = position * 10000.0 ** (-np.arange(width // 2) / (width // 2))
    return np.concatenate([np.sin(angle), np.cos(angle)])


def test_one_axis_has_sines_then_cosines() -> None:
    table = sincos_table((5,), 8)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table, [waves(position, 8) for position in range(5)], atol=1e-7)


@pytest.mark.parametrize("cls_row", [False, True])
def test_of_two_axes_the_faster_one_comes_first(cls_row: bool) -> None:
    table = sincos_table((3, 5), 16, cls_row=cls_row)
    if cls_row:
        assert not table[0].any()
        table = table[1:]
    expected = [np.concatenate([waves(column, 8), waves(row, 8)]) for row in range(3) for column in range(5)]
    np.testing.assert_allclose(table, expected, atol=1e-7)


def test_of_three_axes_the_last_has_what_is_left() -> None:
    table = sincos_table((2, 3, 4), 20)  # 6 + 6 + 8 channels
    expected = [
        np.concatenate([waves(second, 6), waves(first, 6), waves(third, 8)])
        for first in range(2)
        for second in range(3)
        for third in range(4)
    ]
    np.testing.assert_allclose(table, expected, atol=1e-7)


@pytest.mark.parametrize(("grid", "width"), [((4,), 7), ((4, 4), 6), ((2, 2, 2), 15)])
def test_an_axis_with_an_odd_share_is_refused(grid: tuple[int, ...], width: int) -> None:
    with pytest.raises(ValueError, match=f"got {width}"):
        sincos_table(grid, width)


@pytest.mark.parametrize("width", [8, 7])
def test_brainlm_has_a_sine_and_a_cosine_in_turn(width: int) -> None:
    table = interleaved_sincos_table(6, width)
    assert table.shape == (6, width)
    angle = np.arange(6)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    np.testing.assert_allclose(table[:, 0::2], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(table[:, 1::2], np.cos(angle)[:, : width // 2], atol=1e-6)
