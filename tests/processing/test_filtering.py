"""Band-pass filter: what passes, what does not, gaps, and its way through the extractor."""

import numpy as np
import pytest

import brain_transformers as bt
from brain_transformers.processing.filtering import band_pass_filter

T_R = 2.0
TIME = np.arange(300) * T_R


def wave(frequency: float) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * TIME)


def test_the_band_passes_in_phase_and_the_rest_does_not() -> None:
    signals = np.stack([wave(0.04), wave(0.04) + 2 * wave(0.2) + 50, wave(0.2), wave(0.002)])
    filtered = band_pass_filter(signals, T_R, (0.01, 0.1))
    inside = slice(90, -90)
    assert filtered.dtype == np.float32
    np.testing.assert_allclose(filtered[0, inside], signals[0, inside], atol=0.05)
    np.testing.assert_allclose(filtered[1, inside], signals[0, inside], atol=0.05)
    assert np.abs(filtered[2:, inside]).max() < 0.05


def test_gaps_stay_gaps_and_reach_nothing_else() -> None:
    signals = np.stack([wave(0.04), wave(0.05), np.full(300, np.nan)])
    whole = band_pass_filter(signals, T_R, (0.01, 0.1))
    signals[0, 100:103] = np.nan
    filtered = band_pass_filter(signals, T_R, (0.01, 0.1))
    assert np.isnan(filtered[0, 100:103]).all()
    assert np.isfinite(filtered[0, 103:]).all()
    assert np.isnan(filtered[2]).all()
    np.testing.assert_array_equal(filtered[1], whole[1])


def test_bands_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="half the sampling rate"):
        band_pass_filter(np.ones((2, 100)), T_R, (0.01, 0.3))
    for band in ((0.1, 0.01), (0.0, 0.1), (0.01,)):
        with pytest.raises(ValueError, match="low, high"):
            bt.ROISeriesFeatureExtractor(2, 100, 20, band_pass=band)
    extractor = bt.ROISeriesFeatureExtractor(2, 100, 20, band_pass=(0.01, 0.1))
    with pytest.raises(ValueError, match="t_r"):
        extractor(np.random.default_rng(0).standard_normal((2, 100)))


def test_the_extractor_filters_before_it_scales(tmp_path) -> None:
    signals = np.stack([wave(0.04) + wave(0.2), 3 * wave(0.05) + 100]).astype(np.float32)
    extractor = bt.ROISeriesFeatureExtractor(2, 300, 20, t_r=T_R, normalization="zscore", band_pass=(0.01, 0.1))
    extractor.save_pretrained(tmp_path)
    extractor = bt.ROISeriesFeatureExtractor.from_pretrained(tmp_path)
    output = extractor(signals, t_r=T_R)["signals"][0]
    filtered = band_pass_filter(signals, T_R, (0.01, 0.1))
    expected = (filtered - filtered.mean(1, keepdims=True)) / filtered.std(1, keepdims=True)
    np.testing.assert_allclose(output, expected, atol=1e-4)
