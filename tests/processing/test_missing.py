"""Frames and values that were never measured change nothing for those that were, however they are written."""

import warnings

import numpy as np
import pytest

from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.data.errors import ROISeriesReadError
from brain_transformers.data.saved_datasets import load_saved, save_dataset
from brain_transformers.evaluation import ReconstructionStatistics, reconstruction_baselines
from brain_transformers.processing.connectivity import functional_connectivity, mean_connectivity
from brain_transformers.processing.missing import missing_frames, outliers
from brain_transformers.processing.roi_series import ROISeriesFeatureExtractor
from brain_transformers.processing.rows import part_of_row, unpack_row
from brain_transformers.processing.scaling import row_statistics

N_ROIS, N_FRAMES = 24, 200
CENSORED = np.random.default_rng(1).permutation(N_FRAMES - 1)[:80]


def scan(level=0.0, seed=0, n_frames=N_FRAMES):
    return (level + np.random.default_rng(seed).standard_normal((N_ROIS, n_frames))).astype(np.float32)


def extractor(**options):
    values = {"n_rois": N_ROIS, "n_timepoints": N_FRAMES, "patch_size": 20, **options}
    return ROISeriesFeatureExtractor(**values)


def scrubbed(series, how, frames=CENSORED):
    """The scan as pipelines write it when `frames` were taken out."""
    out = series.copy()
    out[:, frames] = np.nan if how == "nan" else 0.0
    if how == "zeros, then centred":
        out -= out.mean(axis=1, keepdims=True)
    if how == "zeros, then z-scored as a whole":
        out = (out - out.mean()) / out.std()
    return out


HOWS = ("zeros", "zeros, then centred", "zeros, then z-scored as a whole")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("level", [0.0, 1000.0])
@pytest.mark.parametrize("mode", ["center", "zscore", "zscore-scan", "zscore-window", "robust-scan"])
def test_zero_frames_scale_as_nan_frames_do(mode, level, how):
    series = scan(level)
    # What was subtracted and divided by is no part of the scan, so modes that take it out agree with each other.
    kept = np.delete(scrubbed(series, how), CENSORED, axis=1)
    got = extractor(normalization=mode)(scrubbed(series, how))["signals"][0]
    alone = extractor(normalization=mode, n_timepoints=120)(kept)["signals"][0]
    np.testing.assert_allclose(np.delete(got, CENSORED, axis=1), alone, rtol=1e-3, atol=2e-3)
    assert not got[:, CENSORED].any()
    if how == "zeros":
        np.testing.assert_array_equal(got, extractor(normalization=mode)(scrubbed(series, "nan"))["signals"][0])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("mode", ["robust", "robust-means"])
def test_fit_leaves_zero_frames_out(mode):
    training = [scan(500 + 3 * number, number) for number in range(5)]
    fitted = [
        extractor(normalization=mode).fit([scrubbed(one, how) for one in training]).statistics
        for how in ("nan", "zeros")
    ]
    assert fitted[0] == fitted[1]
    alone = extractor(normalization=mode).fit([np.delete(one, CENSORED, axis=1) for one in training]).statistics
    np.testing.assert_allclose(fitted[1]["iqr"], alone["iqr"], rtol=1e-3)
    np.testing.assert_allclose(fitted[1]["median"], alone["median"], atol=1e-3)


def test_gaps_keep_their_place_in_time_and_are_masked_and_said_once():
    series = scan(1000.0)
    series[:, 40:85] = 0.0
    made = extractor(normalization="zscore")
    with pytest.warns(UserWarning, match="45 of the 200 frames of scan 0 were not measured") as caught:
        batch = made(series)
    assert len(caught) == 1
    # Tokens are ROI-major; the window of frames 80 to 99 is measured in part.
    assert (batch["attention_mask"].reshape(N_ROIS, 10) == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1]).all()
    assert batch["signals"][0, :, 39].any()
    assert not batch["signals"][0, :, 40:85].any()
    image = extractor(layout="image", n_timepoints=160, patch_size=16, normalization="zscore")
    with pytest.warns(UserWarning, match="were not measured"):
        mask = image(series)["attention_mask"].reshape(27, 27)
    # Patch columns 11 and 12 (frames 40 to 71 behind a border of 136) hold nothing but the gap, and 13 little else.
    assert np.flatnonzero(mask[0] == 0).tolist() == [11, 12, 13]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("resampling", ["filter", "frames"])
def test_gaps_stay_at_their_times_when_the_repetition_time_changes(resampling):
    n_frames, t_r, new_t_r = 600, 0.7, 2.1
    seconds = np.arange(n_frames) * t_r
    series = np.sin(2 * np.pi * 0.02 * seconds[None] + np.arange(N_ROIS)[:, None]).astype(np.float32) + 100
    whole = extractor(t_r=new_t_r, normalization="center", resampling=resampling)
    clean = whole(series, t_r=t_r)["signals"][0]
    gap = (seconds >= 84) & (seconds < 210)  # 40 to 100 frames of the model
    series[:, gap] = 0.0
    got = whole(series, t_r=t_r)
    assert (got["attention_mask"].reshape(N_ROIS, 10) == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]).all()
    kept = np.r_[0:36, 104:190]
    # The gap takes two and a half periods out, so means differ a little and the rest of the wave does not.
    np.testing.assert_allclose(got["signals"][0][:, kept], clean[:, kept], atol=0.1)


def test_one_dead_parcel_is_not_a_missing_frame():
    series = scan(1000.0)
    series[3] = 0.0
    series[5, CENSORED] = 0.0
    assert missing_frames(series) is None
    with pytest.warns(UserWarning, match="1 ROIs of scan 0") as caught:
        batch = extractor(normalization="zscore")(series)
    assert len(caught) == 1
    assert "attention_mask" not in batch


def test_which_frames_are_missing():
    series = scan()
    assert missing_frames(series) is None
    assert missing_frames(np.tile(scan()[:1], (N_ROIS, 1))) is None  # copies of one parcel
    periodic = np.tile(scan(n_frames=20), (1, 10))
    assert missing_frames(periodic) is None
    repeated = series.copy()
    repeated[:, 150:] = series[:, 149:150]
    assert np.flatnonzero(missing_frames(repeated)).tolist() == list(range(149, 200))
    repeated[:, 10:20] = 0.0
    repeated[:4] = np.nan  # parcels that nobody has
    assert np.flatnonzero(missing_frames(repeated)).tolist() == [*range(10, 20), *range(149, 200)]
    joined = np.concatenate([scrubbed(scan(50.0, seed), "zeros, then centred") for seed in (1, 2)], axis=1)
    assert np.flatnonzero(missing_frames(joined)).tolist() == sorted([*CENSORED, *(CENSORED + N_FRAMES)])
    assert missing_frames(np.repeat(scan(), 2, axis=1)) is None  # brought to a faster rate
    filled = series.copy()
    filled[:, 7] = -1.0
    assert np.flatnonzero(missing_frames(filled)).tolist() == [7]
    small = np.array([[1, 2, 2, 3], [5, 4, 4, 0]], dtype=np.float32)  # whole numbers of two regions
    assert missing_frames(small) is None


def test_windows_without_a_measured_frame_are_refused_or_left_out_by_name():
    row = {"signals": scan(10.0).ravel(), "n_rois": N_ROIS, "n_timepoints": N_FRAMES, "t_r": None, "subject": "sub-07"}
    row["signals"].reshape(N_ROIS, N_FRAMES)[:, :70] = 0.0
    made = extractor(n_timepoints=40, normalization="zscore")
    with pytest.warns(UserWarning, match="70 of the 200 frames"), pytest.raises(ValueError, match="sub-07"):
        made({**row, "subject": "sub-06"}, window="all") and made(row, window="first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        every = made(row, window="all", return_windows=True)
        assert every["window_start"].tolist() == [40, 80, 120, 160]
        with pytest.raises(ValueError, match="Expected measured frames in every window of scan sub-07"):
            made(row, start=10)
        # Evenly spaced windows stay as many: the first one moves to where half of a token was measured.
        assert made(row, n_windows=4, return_windows=True)["window_start"].tolist() == [40, 53, 106, 160]
        # A random window is drawn until it holds something.
        starts = [
            made(row, window="random", rng=np.random.default_rng(seed), return_windows=True)["window_start"][0]
            for seed in range(40)
        ]
    assert min(starts) > 30
    assert len(set(starts)) > 20


def test_a_scan_with_hardly_a_measured_frame_is_refused():
    series = scan(10.0)
    series[:, 15:199] = 0.0
    with pytest.raises(ValueError, match="scan 0 with at least one patch of 20 measured timepoints, got 16 among 200"):
        extractor(normalization="zscore")(series)
    with pytest.raises(ValueError, match="only NaN or 0 in every frame"):
        extractor()(np.zeros((N_ROIS, 50)))


def test_half_a_scan_of_padding_is_cut_off_and_said():
    series = np.concatenate([scan(1000.0, n_frames=100), np.zeros((N_ROIS, 100), np.float32)], axis=1)
    with pytest.warns(UserWarning, match="last 100 of the 200 frames"):
        batch = extractor(normalization="zscore")(series)
    assert (batch["attention_mask"].reshape(N_ROIS, 10) == [1] * 5 + [0] * 5).all()
    assert batch["signals"][0, :, :100].std() == pytest.approx(1, abs=1e-3)


def test_one_impossible_value_is_named_and_taken_out():
    series = scan(1000.0)
    expected = extractor(normalization="zscore")(series)["signals"][0]
    series[4, 50] = 1e10
    with pytest.warns(UserWarning, match=r"1 values in 1 parcels of scan 0 .*1e\+10 in row 4, frame 50"):
        got = extractor(normalization="zscore")(series)["signals"][0]
    assert got[4, 50] == 0
    np.testing.assert_allclose(np.delete(got, 50, axis=1), np.delete(expected, 50, axis=1), atol=0.05)
    series[:, 50] = np.linspace(1e38, 3e38, N_ROIS)
    with pytest.warns(UserWarning, match="24 values in 24 parcels"):
        assert np.isfinite(extractor(normalization="zscore")(series)["signals"]).all()


def test_spikes_that_a_scanner_gives_stay():
    series = scan(1000.0)
    series[:, 0] = 5000.0 + np.arange(N_ROIS)  # before the steady state
    series[7] *= 300  # another unit in one row
    assert outliers(series) is None


def test_values_that_scaling_cannot_hold_are_refused_by_name():
    series = scan() * np.float32(1e25)
    with pytest.raises(ValueError, match="Expected finite numbers after scaling scan 0"):
        extractor(normalization="zscore")(series)


def test_missing_parcels_are_said_to_be_masked_when_they_are():
    series = scan(10.0)
    series[[2, 9]] = np.nan
    made = extractor(normalization="zscore", missing_rois="mask")
    with pytest.warns(UserWarning, match="2 of them are masked"):
        mask = made(series)["attention_mask"].reshape(N_ROIS, 10)
    assert np.flatnonzero(~mask.any(axis=1)).tolist() == [2, 9]
    order = [f"roi{number}" for number in range(N_ROIS)]
    made = extractor(normalization="zscore", missing_rois="mask", roi_order=order)
    with pytest.warns(UserWarning, match="The scan lacks 1 of the 24 parcels .* they are masked"):
        made(series[:23] * 0 + scan()[:23], roi_order=order[:23])


@pytest.mark.parametrize("how", ["nan", "zeros", "zeros, then centred"])
def test_connectivity_is_that_of_the_measured_frames(how):
    mixed = np.random.default_rng(5).normal(size=(N_ROIS, N_ROIS)) @ scan()
    kept = np.delete(mixed, CENSORED, axis=1)
    series = scrubbed(mixed, how)
    expected = np.corrcoef(kept)
    np.testing.assert_allclose(mean_connectivity([series]), expected, atol=1e-4)
    np.testing.assert_allclose(functional_connectivity(series, vectorize=False), expected, atol=1e-4)
    batch = functional_connectivity(np.stack([series, mixed]), vectorize=False)
    np.testing.assert_allclose(batch, [expected, np.corrcoef(mixed)], atol=1e-4)


# --- frames that were cut, whatever stands in them ---


def spiked(series, frames, value=1e5):
    out = series.copy()
    out[:, frames] = value * np.arange(1, len(frames) + 1)
    return out


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"normalization": "zscore"},
        {"normalization": "zscore", "band_pass": [0.01, 0.1]},
        {"normalization": "zscore-window", "t_r": 2.0},
        {"normalization": "robust-scan", "t_r": 2.0, "resampling": "frames"},
    ],
    ids=str,
)
def test_what_stands_in_cut_frames_reaches_nothing(options):
    pytest.importorskip("scipy")
    cut = np.sort(CENSORED[:50])
    mask = np.ones(N_FRAMES, dtype=int)
    mask[cut] = 0
    made = extractor(**options)
    expected = made(scrubbed(scan(1000.0), "nan", cut), t_r=1.0)
    for value in (1e5, -7.0):
        got = made(spiked(scan(1000.0), cut, value), t_r=1.0, frame_mask=mask)
        assert got.keys() == expected.keys()
        for name in got:
            np.testing.assert_array_equal(got[name], expected[name])
    # Not one frame moved: what remains is at its time.
    assert got["signals"].shape[-1] == N_FRAMES


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_scan_of_a_call_may_have_a_mask_and_wrong_ones_are_named():
    masks = [np.r_[np.ones(60), np.zeros(40), np.ones(100)], None]
    batch = extractor(normalization="zscore")([scan(10.0), scan(10.0, 1)], frame_mask=masks)
    assert batch["attention_mask"].reshape(2, N_ROIS, 10)[:, 0].tolist() == [[1, 1, 1, 0, 0, 1, 1, 1, 1, 1], [1] * 10]
    with pytest.raises(ValueError, match=r"frame_mask of scan 0 as 200 values.*shape \(160,\)"):
        extractor()(scan(), frame_mask=np.ones(160))
    with pytest.raises(ValueError, match="Expected frames that count in scan 0"):
        extractor()(scan(), frame_mask=np.zeros(N_FRAMES))
    with pytest.raises(ValueError, match="1 for each frame that counts"):
        extractor()(scan(), frame_mask=np.arange(N_FRAMES))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_token_of_which_less_than_half_was_measured_is_masked():
    mask = np.ones(N_FRAMES, dtype=bool)
    mask[20:30] = mask[40:51] = False  # half of the second token, and one frame more of the third
    row = {"signals": scan(5.0).ravel(), "n_rois": N_ROIS, "n_timepoints": N_FRAMES, "frame_mask": mask}
    got = extractor(normalization="zscore")(row)["attention_mask"].reshape(N_ROIS, 10)
    assert (got == [1, 1, 0, 1, 1, 1, 1, 1, 1, 1]).all()


def test_baselines_leave_cut_frames_out():
    mask = np.ones(N_FRAMES, dtype=bool)
    mask[CENSORED] = False
    kept = functional_connectivity(scan()[:, mask])
    np.testing.assert_allclose(functional_connectivity(spiked(scan(), CENSORED), frame_mask=mask), kept, atol=1e-12)
    both = functional_connectivity(np.stack([spiked(scan(), CENSORED)] * 2), frame_mask=[mask, mask])
    np.testing.assert_allclose(both, [kept, kept], atol=1e-12)
    signals = np.stack([np.where(mask, scan(), 0.0)])
    hidden = np.zeros(signals.shape, dtype=bool)
    hidden[:, :, 40:60] = True
    hidden[:, :5] = True
    statistics = ReconstructionStatistics.fit(signals)
    alone = ReconstructionStatistics.fit([scan()[:, mask]])
    np.testing.assert_allclose(statistics.covariance, alone.covariance, atol=1e-12)
    short = reconstruction_baselines(signals[..., mask], hidden[..., mask], alone)
    for name, guess in reconstruction_baselines(signals, hidden, statistics, observed=mask[None]).items():
        if name != "time interpolation":  # which knows how long a gap is
            np.testing.assert_allclose(guess[..., mask], short[name], atol=1e-9, err_msg=name)


def test_datasets_keep_which_frames_were_cut(tmp_path):
    pytest.importorskip("datasets")
    mask = np.ones(N_FRAMES, dtype=bool)
    mask[10:20] = False
    made = dataset_from_arrays([scan(), scan(0.0, 1)], roi_order="own", t_r=2.0, frame_mask=[mask, None])
    save_dataset(made, tmp_path / "saved")
    first, second = load_saved(tmp_path / "saved")
    np.testing.assert_array_equal(first["frame_mask"], mask)
    assert np.isnan(unpack_row(first)[0][:, 10:20]).all()
    assert np.isfinite(unpack_row(second)[0]).all()
    assert made[:]["frame_mask"][0].tolist() == mask.tolist()
    with pytest.raises(ValueError, match="frame_mask of scan 1"):
        dataset_from_arrays([scan(), scan()], roi_order="own", frame_mask=[mask, mask[:-1]])
    wrong = made.remove_columns("frame_mask").add_column("frame_mask", [[True, False], [True]])
    wrong.save_to_disk(str(tmp_path / "wrong"))
    with pytest.raises(ROISeriesReadError, match="frame_mask has not one value a frame"):
        load_saved(tmp_path / "wrong")


def test_a_part_of_a_row_keeps_its_own_cut_frames():
    mask = np.ones(N_FRAMES, dtype=bool)
    mask[90:105] = False
    row = {"signals": scan(5.0).ravel(), "n_rois": N_ROIS, "n_timepoints": N_FRAMES, "frame_mask": mask, "t_r": 2.0}
    second = part_of_row(row, 100, 100, half="second")
    np.testing.assert_array_equal(np.isnan(unpack_row(second)[0][0]), ~mask[100:])
    np.testing.assert_array_equal(unpack_row(second)[0][:, 5:], scan(5.0)[:, 105:])
    assert (second["n_timepoints"], second["half"], second["t_r"]) == (100, "second", 2.0)


@pytest.mark.parametrize("how", ["moving", "still in three frames", "constant", "almost constant", "NaN"])
@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_constant_rows_are_the_same_whichever_way_they_are_found(how, level):
    series = scan(level)
    series[3] = {
        "moving": series[3],
        "still in three frames": np.where(np.isin(np.arange(N_FRAMES), [0, 100, 199]), level, series[3]),
        "constant": np.float32(level + 1),
        "almost constant": np.float32(level + 1) * (1 + 3e-7 * (np.arange(N_FRAMES) % 2)),
        "NaN": np.nan,
    }[how]
    found = row_statistics(series, "zscore-scan")
    assert np.flatnonzero(found.constant).tolist() == ([] if how in ("moving", "still in three frames") else [3])
    assert (found.non_finite is None) == (how != "NaN")


def test_scan_zscore_has_the_bits_of_numpy_and_of_any_order():
    series = scan(1000.0) + 50 * np.arange(N_ROIS, dtype=np.float32)[:, None]
    expected = (series - np.float32(np.nanmean(series, dtype=np.float64))) / np.float32(
        np.nanstd(series, ddof=1, dtype=np.float64)
    )
    labels = [f"parcel {row}" for row in range(N_ROIS)]
    made = extractor(normalization="zscore-scan", roi_order=labels)
    np.testing.assert_array_equal(made(series, roi_order=labels)["signals"][0], expected)
    np.testing.assert_array_equal(made(series[::-1], roi_order=labels[::-1])["signals"][0], expected)


def test_rows_follow_attributes_that_are_set_later():
    labels = [f"parcel {row}" for row in range(N_ROIS)]
    made = extractor(roi_order=labels, coordinates=np.zeros((N_ROIS, 3)))
    made(scan(), roi_order=labels)
    made.coordinates[5][1] = 7.0
    assert made(scan(), roi_order=labels)["coordinates"][0, 5].tolist() == [0, 7, 0]
    made.roi_order = labels[::-1]
    np.testing.assert_array_equal(made(scan(), roi_order=labels)["signals"][0], scan()[::-1])
