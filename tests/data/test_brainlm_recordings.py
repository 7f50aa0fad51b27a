"""The BrainLM authors' preprocessing: their scripts' numbers are a kind of tests/parity, here are its definitions."""

import numpy as np
import pytest

from brain_transformers.data import brainlm_recordings as brainlm


def test_columns_refuse_negative_values_and_leave_constant_parcels_raw():
    rng = np.random.default_rng(0)
    raw = {f"{number}.dat": rng.uniform(1, 900, (30, 4)).astype(np.float32) for number in range(10)}
    raw["0.dat"][:, 1] = 777
    column = brainlm.ukbiobank_columns(raw)["0.dat"][brainlm.PER_PATIENT_PER_VOXEL]
    assert (column[:, 1] == 777).all()
    assert column[:, 0].min() == 0
    assert column[:, 0].max() == 1
    raw["3.dat"][0, 0] = -1
    with pytest.raises(ValueError, match=r"-1 in 3\.dat"):
        brainlm.ukbiobank_columns(raw)


def test_robust_scaling_done_right_has_unit_iqr_and_the_quirk_does_not():
    rng = np.random.default_rng(0)
    raw = {str(number): rng.normal(500, 40, (200, 6)).astype(np.float32) for number in range(4)}
    spread = {}
    for quirks in (False, True):
        stacked = np.concatenate(list(brainlm.toolkit_robust_scale(raw, upstream_quirks=quirks).values()))
        low, high = np.percentile(stacked, [25, 75], axis=0)
        spread[quirks] = high - low
    np.testing.assert_allclose(spread[False], 1, rtol=1e-4)
    assert (spread[True] > 20).all()
    assert np.isfinite(brainlm.toolkit_robust_scale({"flat": np.ones((50, 3))})["flat"]).all()


def test_labels_keep_missing_values_missing():
    values = np.array([0.0, 5.0, np.nan, 10.0])
    for transform in (brainlm.log_scaled_label, brainlm.max_scaled_label, brainlm.standardised_label):
        assert list(np.isnan(transform(values))) == [False, False, True, False]
    np.testing.assert_array_equal(brainlm.depression_label(values), [0, 1, np.nan, 1])


def test_window_outside_the_recording_is_refused():
    with pytest.raises(ValueError, match="got start 4"):
        brainlm.vit_image(np.zeros((3, 203)), None, start=4)
