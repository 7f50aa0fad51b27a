"""Slowing scans down by picking frames, and what the Brain-JEPA extractor does by default."""

import warnings

import numpy as np
import pytest

import brain_transformers as bt
from brain_transformers.processing.frame_sampling import regular_starts, sampled_frames

# Scans whose values are frame numbers are not on any model's scale.
pytestmark = pytest.mark.filterwarnings("ignore:The input looks like raw scanner units")


def extractor(**values):
    options = {"n_rois": 5, "n_timepoints": 160, "patch_size": 16, "t_r": 2.2143, "resampling": "frames"}
    return bt.ROISeriesFeatureExtractor(**{**options, **values})


def ramp(n_frames: int) -> np.ndarray:
    """Every value is the number of its frame."""
    return np.broadcast_to(np.arange(n_frames, dtype=np.float32), (5, n_frames)).copy()


def test_uk_biobank_frames_are_picked_not_interpolated() -> None:
    made = extractor()(ramp(490), t_r=0.735, start=3.7)
    expected = np.floor(np.linspace(3.7, 482.7, 160))
    np.testing.assert_array_equal(made["signals"][0, 0], expected)
    assert "attention_mask" not in made


def test_windows_of_a_sampled_scan() -> None:
    made = extractor()
    assert made(ramp(490), t_r=0.735, window="first")["signals"][0, 0, 0] == 0
    assert made(ramp(490), t_r=0.735, window="center")["signals"][0, 0, 0] == 5
    assert made(ramp(1000), t_r=0.735, window="all")["signals"][:, 0, 0].tolist() == [0, 480]
    starts = {
        float(made(ramp(1000), t_r=0.735, window="random", rng=np.random.default_rng(seed))["signals"][0, 0, 0])
        for seed in range(5)
    }
    assert len(starts) == 5
    with pytest.raises(ValueError, match="start"):
        made(ramp(490), t_r=0.735, start=11)


def test_a_scan_that_just_misses_the_window_repeats_its_last_frame() -> None:
    made = extractor()(ramp(478), t_r=0.735, start=0)
    assert made["signals"][0, 0, -2:].tolist() == [475, 477]
    assert "attention_mask" not in made


def test_a_short_scan_is_padded_and_masked_by_whole_patches() -> None:
    made = extractor()(ramp(140), t_r=0.735)
    observed = made["attention_mask"].reshape(5, 10)
    # 140 frames are 47 sampled ones: two whole patches and most of a third, which its last frame fills up.
    assert observed[0].tolist() == [1, 1, 1] + [0] * 7
    assert made["signals"][0, 0, 46:48].tolist() == [138, 139]
    assert not made["signals"][0, :, 48:].any()
    with pytest.raises(ValueError, match="at least one patch"):
        extractor()(ramp(40), t_r=0.735)


def test_slow_scans_stay_as_they_are_and_a_t_r_out_of_reach_is_said() -> None:
    made = extractor()
    np.testing.assert_array_equal(made(ramp(200), t_r=2.0)["signals"][0, 0], np.arange(160))
    with pytest.warns(UserWarning, match="picking frames"):
        extractor()(ramp(200), t_r=3.0)


def test_window_z_score_ignores_padding_and_constant_rows() -> None:
    rng = np.random.default_rng(0)
    scan = 100 + 5 * rng.standard_normal((5, 100)).astype(np.float32)
    scan[2] = 7.0
    with pytest.warns(UserWarning, match="constant"):
        made = extractor(normalization="zscore-window")(scan, t_r=2.2143)
    values = made["signals"][0][[0, 1, 3, 4], :100]
    assert abs(float(values.mean())) < 1e-5
    assert float(values.std(ddof=1)) == pytest.approx(1.0, abs=1e-5)
    assert not made["signals"][0][2].any()
    assert not made["signals"][0][:, 100:].any()


def test_the_preset_takes_scans_in_another_order_and_scales_them_as_a_whole() -> None:
    made = bt.ROISeriesFeatureExtractor.from_model_config(bt.load_config("brain-jepa-base"))
    assert (made.normalization, made.resampling, made.n_rois) == ("zscore-scan", "frames", 450)
    rng = np.random.default_rng(0)
    scan = (1000 + 30 * rng.standard_normal((450, 490))).astype(np.float32)
    order = "schaefer400-7net+tian-s3"
    output = made(scan, t_r=0.735, roi_order=order)
    from brain_transformers.atlases.roi_orders import permutation

    index = permutation(order, "tian-s3+schaefer400-17net").index
    scaled = (scan - scan.mean(dtype=np.float64)) / scan.std(ddof=1, dtype=np.float64)
    expected = scaled[index][:, sampled_frames(490, 0, 160, 3)]
    np.testing.assert_allclose(output["signals"][0], expected, atol=1e-4)
    assert set(output) == {"signals"}
    with pytest.raises(ValueError, match="roi_order"):
        made(scan, t_r=0.735)


def test_frame_sampling_survives_saving(tmp_path) -> None:
    made = extractor(normalization="zscore-scan")
    made.save_pretrained(tmp_path)
    loaded = bt.ROISeriesFeatureExtractor.from_pretrained(tmp_path)
    scan = np.random.default_rng(1).standard_normal((5, 490)).astype(np.float32)
    np.testing.assert_array_equal(loaded(scan, t_r=0.72)["signals"], made(scan, t_r=0.72)["signals"])


def test_unknown_resampling_is_refused() -> None:
    with pytest.raises(ValueError, match="resampling"):
        extractor(resampling="nearest")


def test_regular_starts_are_evenly_spaced():
    assert regular_starts(80, 8).tolist() == [0, 11, 22, 34, 45, 57, 68, 80]


def test_what_picking_frames_folds_or_stretches_is_said() -> None:
    """A sine of 0.40 Hz at 0.735 s keeps its amplitude as one of 0.05 Hz: as in training, and said."""
    seconds = 0.735 * np.arange(490)
    phases = np.arange(5)[:, None]
    slow = np.sin(2 * np.pi * 0.05 * seconds + phases)
    fast = np.sin(2 * np.pi * 0.40 * seconds + phases)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor()(slow, t_r=0.735)
        extractor(resampling="filter")(slow + fast, t_r=0.735)
    with pytest.warns(UserWarning, match=r"50 % of the variance of scan 0 is faster than 0\.226 Hz"):
        made = extractor()(slow + fast, t_r=0.735)
    assert made["signals"].std() == pytest.approx((slow + fast).std(), rel=0.05)
    for t_r in (1.9, 2.5):
        with pytest.warns(UserWarning, match=rf"got {t_r} s of scan 0, which becomes {t_r} s \([+-]1\d %\)"):
            extractor()(slow, t_r=t_r)
