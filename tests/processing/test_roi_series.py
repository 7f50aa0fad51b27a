"""The ROI series extractor: what comes out for scans as people have them, and what it refuses."""

import json
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from brain_transformers.atlases.roi_orders import permutation, roi_coordinates, stable_y_order
from brain_transformers.models.brainlm_vit.family import DIVISOR, FAMILY
from brain_transformers.processing.roi_series import ROISeriesFeatureExtractor


def scans(n=3, n_rois=12, n_timepoints=70, seed=0, level=500.0, scale=20.0):
    rng = np.random.default_rng(seed)
    return [(level + scale * rng.normal(size=(n_rois, n_timepoints))).astype(np.float32) for _ in range(n)]


def extractor(**options):
    values = {"n_rois": 12, "n_timepoints": 40, "patch_size": 10, **options}
    return ROISeriesFeatureExtractor(**values)


# --- parcel order ---


def test_17_network_scan_reaches_a_7_network_model_parcel_by_parcel():
    model = ROISeriesFeatureExtractor(n_rois=400, n_timepoints=20, roi_order="schaefer400-7net")
    seven = scans(1, 400, 20, level=0)[0]
    seventeen = seven[permutation("schaefer400-7net", "schaefer400-17net").index]
    direct = model(seven, roi_order="schaefer400-7net")
    moved = model(seventeen, roi_order="schaefer400-17net")
    np.testing.assert_array_equal(direct["signals"], moved["signals"])
    np.testing.assert_array_equal(moved["signals"][0], seven)
    np.testing.assert_allclose(moved["coordinates"][0], roi_coordinates("schaefer400-7net"))


def test_missing_roi_order_is_refused_for_names_and_lists():
    for order in ("aal2-94", [f"roi{number}" for number in range(94)]):
        model = ROISeriesFeatureExtractor(n_rois=94, n_timepoints=20, roi_order=order)
        with pytest.raises(ValueError, match="Expected roi_order of the scan, got none"):
            model(scans(1, 94, 20)[0])


def test_unmatched_order_is_refused():
    model = ROISeriesFeatureExtractor(n_rois=94, n_timepoints=20, roi_order="aal2-94")
    with pytest.raises(ValueError, match="no label in common"):
        model(scans(1, 424, 20)[0], roi_order="a424")
    with pytest.raises(ValueError, match="labels of one of them are not known"):
        model(scans(1, 94, 20)[0], roi_order="my-atlas")


def test_missing_cerebellum_is_refused_filled_or_masked():
    options = {"n_rois": 457, "n_timepoints": 40, "patch_size": 20, "roi_order": "schaefer400-7net+tian-s3+buckner7"}
    scan = scans(1, 450, 40, level=0, scale=1)[0]
    with pytest.raises(ValueError, match="Expected 7 of the 457 parcels"):
        ROISeriesFeatureExtractor(**options)(scan, roi_order="schaefer400-7net+tian-s3")
    with pytest.warns(UserWarning, match="lacks 7 of the 457 parcels"):
        filled = ROISeriesFeatureExtractor(missing_rois="fill", **options)(scan, roi_order="schaefer400-7net+tian-s3")
    assert "attention_mask" not in filled
    np.testing.assert_array_equal(filled["signals"][0, :450], scan)
    assert not filled["signals"][0, 450:].any()
    with pytest.warns(UserWarning, match="lacks 7"):
        masked = ROISeriesFeatureExtractor(missing_rois="mask", **options)(scan, roi_order="schaefer400-7net+tian-s3")
    mask = masked["attention_mask"].reshape(457, 2)
    assert mask[:450].all()
    assert not mask[450:].any()


def test_extractor_without_order_says_so_once():
    model = extractor()
    with pytest.warns(UserWarning, match="has no roi_order"):
        model(scans(1, level=0)[0], roi_order="mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(scans(1, level=0)[0], roi_order="mine")


# --- rows sorted by Y ---


def image_extractor(coordinates, **options):
    labels = [f"roi{number}" for number in range(12)]
    values = {"roi_order": labels, "sort_rows": "y", "layout": "image", "patch_size": 16, "coordinates": coordinates}
    return extractor(**{**values, **options}), labels


def test_rows_are_sorted_by_y_with_ties_in_label_order():
    coordinates = np.zeros((12, 3))
    coordinates[:, 1] = [5, 5, 1, 1, 5, 9, 9, 1, 5, 0, 5, 1]
    model, labels = image_extractor(coordinates)
    scan = scans(1, level=0)[0]
    output = model(scan, roi_order=labels)
    order = [9, 2, 3, 7, 11, 0, 1, 4, 8, 10, 5, 6]
    np.testing.assert_array_equal(output["signals"][0], scan[order, :40])
    np.testing.assert_array_equal(output["coordinates"][0], coordinates[order])


def test_rows_follow_the_coordinates_of_the_moment():
    model, labels = image_extractor(np.zeros((12, 3)))
    scan, rng = scans(1, level=0)[0], np.random.default_rng(0)
    for _ in range(20):  # a new table may lie where the last one did
        table = rng.normal(size=(12, 3))
        model.coordinates = table.tolist()
        order = np.argsort(np.float32(table[:, 1]), kind="stable")
        np.testing.assert_array_equal(model(scan, roi_order=labels)["signals"][0], scan[order, :40])
    model.coordinates = table
    model(scan, roi_order=labels)
    table[:, 1] = np.arange(12)[::-1]  # changed in place
    np.testing.assert_array_equal(model(scan, roi_order=labels)["signals"][0], scan[::-1, :40])


def test_rows_declared_sorted_are_not_sorted_again_and_are_checked():
    table = np.random.default_rng(1).integers(-90, 60, (424, 3)).astype(np.float32)
    order = stable_y_order(table)
    model = ROISeriesFeatureExtractor(patch_size=16, layout="image", roi_order="a424@y", coordinates=table)
    assert model.output_roi_order == "a424@y"
    scan = scans(1, 424, 200, level=0)[0]
    from_labels = model(scan, roi_order="a424")
    from_sorted = model(scan[order], roi_order="a424@y", coordinates=table[order])
    np.testing.assert_array_equal(from_labels["signals"], from_sorted["signals"])
    np.testing.assert_array_equal(from_labels["coordinates"], from_sorted["coordinates"])
    with pytest.raises(ValueError, match=r"sorted by ascending Y.*the extractor sorts them"):
        model(scan, roi_order="a424@y", coordinates=table)


def test_sorted_rows_are_put_back_for_a_model_in_label_order():
    table = np.random.default_rng(1).integers(-90, 60, (424, 3))
    model = ROISeriesFeatureExtractor(roi_order="a424", coordinates=table)
    scan = scans(1, 424, 200, level=0)[0]
    np.testing.assert_array_equal(model(scan[stable_y_order(table)], roi_order="a424@y")["signals"][0], scan)


def test_sorting_without_coordinates_names_the_fix():
    model, labels = image_extractor(None)
    with pytest.raises(ValueError, match="Pass coordinates="):
        model(scans(1)[0], roi_order=labels)


def test_fitted_statistics_follow_the_sorted_rows():
    coordinates = np.zeros((12, 3))
    coordinates[:, 1] = np.arange(12)[::-1]
    training = scans(4)
    for scan in training:
        scan *= np.arange(1, 13, dtype=np.float32)[:, None]
    model, labels = image_extractor(coordinates, normalization="robust")
    model.fit(training, roi_order=labels)
    output = model(training[0], roi_order=labels)["signals"][0]
    # Each row is scaled with its own IQR, so all spread alike although their units differ twelvefold.
    assert output.std(axis=1).max() / output.std(axis=1).min() < 2


# --- windows ---


def test_windows():
    scan = scans(1, n_timepoints=95, level=0)[0]
    model = extractor()
    np.testing.assert_array_equal(model(scan)["signals"][0], scan[:, :40])
    np.testing.assert_array_equal(model(scan, window="center")["signals"][0], scan[:, 27:67])
    np.testing.assert_array_equal(model(scan, start=55)["signals"][0], scan[:, 55:95])
    every = model([scan, scan[:, :45]], window="all", return_windows=True)
    assert list(every["scan_index"]) == [0, 0, 1]
    assert list(every["window_start"]) == [0, 40, 0]
    np.testing.assert_array_equal(every["signals"][1], scan[:, 40:80])
    with pytest.raises(ValueError, match="Expected start between 0 and 55"):
        model(scan, start=56)


def test_random_windows_reach_both_ends_and_repeat_with_the_seed():
    scan = scans(1, n_timepoints=43, level=0)[0]
    model = extractor(window="random")
    rng = np.random.default_rng(0)
    starts = [int(model(scan, rng=rng, return_windows=True)["window_start"][0]) for _ in range(200)]
    assert set(starts) == {0, 1, 2, 3}
    first, second = (model(scan, rng=np.random.default_rng(7))["signals"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="rng="):
        model(scan)


# --- repetition time ---


@pytest.mark.parametrize(("t_r", "new_t_r"), [(0.72, 2.0), (2.0, 0.72), (1.4, 0.735)])
def test_resampling_keeps_a_slow_wave(t_r, new_t_r):
    frequency, n_timepoints = 0.05, int(300 / t_r)
    time = np.arange(n_timepoints) * t_r
    scan = np.tile(1000 + 3 * np.sin(2 * np.pi * frequency * time), (12, 1))
    model = extractor(t_r=new_t_r, normalization="center", n_timepoints=100)
    output = model(scan, t_r=t_r)["signals"][0]
    expected = 3 * np.sin(2 * np.pi * frequency * np.arange(100) * new_t_r)
    # Away from the mirrored edge.
    np.testing.assert_allclose(output[0, 15:], expected[15:] - (scan[0].mean() - 1000), atol=0.06)


def test_slowing_down_does_not_fold_fast_signals():
    t_r = 0.5
    time = np.arange(800) * t_r
    # 0.45 Hz is above the 0.25 Hz limit of 2 s and would fold to 0.05 Hz.
    scan = np.tile(np.sin(2 * np.pi * 0.45 * time), (12, 1))
    output = extractor(t_r=2.0, n_timepoints=100)(scan, t_r=t_r)["signals"]
    assert np.abs(output[:, :, 15:85]).max() < 0.02


def test_constant_level_survives_resampling_at_the_edges():
    scan = np.full((12, 200), 500.0) + np.arange(12)[:, None]
    scan[:, 100] += 1e-2
    # The warning about raw units is right and beside the point.
    with pytest.warns(UserWarning, match="raw scanner units"):
        output = extractor(t_r=2.0, n_timepoints=20)(scan, t_r=0.72)["signals"][0]
    np.testing.assert_allclose(output[:, 0], scan[:, 0], rtol=1e-5)


def test_close_repetition_times_are_left_alone_and_unknown_ones_warn():
    scan = scans(1, level=0)[0]
    model = extractor(t_r=0.735)
    np.testing.assert_array_equal(model(scan, t_r=0.72)["signals"][0], scan[:, :40])
    with pytest.warns(UserWarning, match="No t_r was given"):
        output = model(scan)
    np.testing.assert_array_equal(output["signals"][0], scan[:, :40])
    with pytest.raises(ValueError, match="milliseconds"):
        model(scan, t_r=735.0)


# --- scale ---


def test_zscore_center_and_scan_modes():
    scan = scans(1)[0]
    whole = scan.astype(np.float64)
    kinds = {
        "center": whole - whole.mean(1, keepdims=True),
        "zscore": (whole - whole.mean(1, keepdims=True)) / whole.std(1, keepdims=True),
        "zscore-scan": (whole - whole.mean()) / whole.std(ddof=1),
    }
    for mode, expected in kinds.items():
        output = extractor(normalization=mode)(scan)["signals"][0]
        # Statistics are those of the whole scan, not of the window.
        np.testing.assert_allclose(output, expected[:, :40], rtol=1e-3, atol=1e-4)


def test_robust_fit_matches_its_definition_and_survives_saving(tmp_path):
    training = scans(5)
    model = extractor(normalization="robust", divisor=DIVISOR, window="center", expected_std=0.15)
    model.fit(training)
    centred = np.concatenate([scan - scan.mean(1, keepdims=True) for scan in training], axis=1)
    low, median, high = np.percentile(centred, [25, 50, 75], axis=1)
    scan = scans(1, seed=9)[0]
    expected = (scan - scan.mean(1, keepdims=True) - median[:, None]) / (high - low)[:, None] / DIVISOR
    before = model(scan)["signals"]
    np.testing.assert_allclose(before[0], expected[:, 15:55], atol=1e-5)

    model.save_pretrained(tmp_path)
    loaded = ROISeriesFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == model.to_dict()
    assert loaded.window == "center"
    np.testing.assert_array_equal(loaded(scan)["signals"], before)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ROISeriesFeatureExtractor


def test_robust_means_uses_statistics_of_subject_means():
    training = [scan + offset for scan, offset in zip(scans(5), (0, 30, -20, 60, 10))]
    model = extractor(normalization="robust-means").fit(training)
    means = np.stack([scan.astype(np.float64).mean(1) for scan in training])
    low, median, high = np.percentile(means, [25, 50, 75], axis=0)
    expected = (training[0].astype(np.float64) - median[:, None]) / (high - low)[:, None]
    np.testing.assert_allclose(model(training[0])["signals"][0], expected[:, :40], rtol=1e-6)


def test_fit_ignores_constant_and_missing_rois_of_single_scans():
    training = scans(4)
    clean = extractor(normalization="robust").fit([scan.copy() for scan in training[1:]])
    training[0][3] = 500.0
    training[0][5] = np.nan
    model = extractor(normalization="robust").fit(training)
    for row in (3, 5):
        assert model.statistics["iqr"][row] == clean.statistics["iqr"][row]
    assert model.statistics["iqr"][4] != clean.statistics["iqr"][4]


def test_unfitted_robust_scaling_is_refused_with_two_ways_out():
    with pytest.raises(ValueError, match=r"extractor.fit.*robust-scan"):
        extractor(normalization="robust")(scans(1)[0])
    output = extractor(normalization="robust-scan", n_timepoints=70)(scans(1)[0])["signals"][0]
    low, middle, high = np.percentile(output, [25, 50, 75], axis=1)
    np.testing.assert_allclose(high - low, 1, rtol=1e-4)
    np.testing.assert_allclose(middle, 0, atol=1e-5)
    with pytest.raises(ValueError, match="nothing to fit"):
        extractor(normalization="zscore").fit(scans(2))


def test_wrong_scale_warns_once_and_says_what_it_looks_like():
    model = extractor(normalization="robust", expected_std=0.83).fit(scans(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(scans(1, seed=3)[0])
    already = scans(1, level=0, scale=1)[0]
    with pytest.warns(UserWarning, match="trained on std 0.83.*already normalised"):
        model(already)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(already)
    with pytest.warns(UserWarning, match="raw scanner units"):
        extractor()(scans(1, level=9600, scale=100)[0])


# --- short scans ---


def test_short_scan_is_padded_with_a_mask_over_tokens():
    scan = scans(1, n_timepoints=25, level=0)[0]
    output = extractor()([scan, scans(1, level=0)[0]])
    np.testing.assert_array_equal(output["signals"][0, :, :25], scan)
    assert not output["signals"][0, :, 25:].any()
    mask = output["attention_mask"].reshape(2, 12, 4)
    # Tokens are ROI-major; the third window is measured in part and counts.
    assert (mask[0] == [1, 1, 1, 0]).all()
    assert mask[1].all()
    assert "attention_mask" not in extractor()(scans(1, level=0)[0])
    with pytest.raises(ValueError, match="at least 40 timepoints, got 25"):
        extractor(short_scans="error")(scan)


@pytest.mark.parametrize(("patch", "side", "left"), [(16, 432, 116), (14, 434, 117)])
def test_short_scan_masks_patch_columns_of_the_image(patch, side, left):
    model = ROISeriesFeatureExtractor(patch_size=patch, layout="image")
    output = model(scans(1, 424, 90, level=0)[0])
    grid = side // patch
    mask = output["attention_mask"].reshape(grid, grid)
    assert (mask == mask[0]).all()
    for column in range(grid):
        times = np.arange(column * patch, (column + 1) * patch) - left
        times = times[(times >= 0) & (times < 200)]
        only_padding = times.size > 0 and (times >= 90).all()
        assert mask[0, column] == (0 if only_padding else 1)
    assert mask[0, 0] == mask[0, -1] == 1


@pytest.mark.parametrize("options", [{}, {"layout": "image", "patch_size": 16}])
def test_three_timepoints_are_refused(options):
    with pytest.raises(ValueError, match=r"at least one patch of 1[06] timepoints, got 3"):
        extractor(**options)(scans(1, n_timepoints=3)[0])


# --- bad input ---


def test_nan_and_constant_rois_become_zero_with_one_warning():
    scan = scans(1)[0]
    clean = extractor(normalization="zscore")(scan)["signals"][0].copy()
    scan[2] = 7.0
    scan[5] = np.nan
    scan[8, 10] = np.inf
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output = extractor(normalization="zscore")(scan)["signals"][0]
    assert [str(item.message)[:17] for item in caught] == ["3 ROIs of scan 0 "]
    assert "[2, 5, 8]" in str(caught[0].message)
    assert np.isfinite(output).all()
    assert not output[2].any()
    assert not output[5].any()
    assert output[8, 10] == 0
    assert output[8].std() > 0.5
    np.testing.assert_array_equal(output[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


def test_scan_of_nothing_is_refused():
    with pytest.raises(ValueError, match="only NaN"):
        extractor()(np.full((12, 70), np.nan))
    scan = scans(1)[0]
    scan[:7] = 0
    with pytest.raises(ValueError, match="7 of 12 ROIs"):
        extractor(normalization="zscore")(scan)


def test_timepoints_never_measured_count_as_short():
    scan = scans(1, level=0)[0]
    scan[:, 25:] = np.nan
    output = extractor()(scan)
    assert (output["attention_mask"].reshape(12, 4) == [1, 1, 1, 0]).all()


def test_transposed_wrong_count_and_wrong_kind_of_input():
    model = extractor()
    with pytest.raises(ValueError, match="transposed"):
        model(scans(1)[0].T)
    with pytest.raises(ValueError, match="Expected scan 0 with 12 ROIs"):
        model(scans(1, n_rois=13)[0])
    with pytest.raises(ValueError, match="real numbers"):
        model(scans(1)[0].astype(np.complex64))
    with pytest.raises(ValueError, match="shape"):
        model(np.zeros(70))


def test_input_is_not_changed():
    scan = scans(1)[0]
    scan[1] = np.nan
    before = scan.copy()
    model = extractor(normalization="robust-scan", t_r=2.0)
    with pytest.warns(UserWarning, match="1 ROIs"):
        model(scan, t_r=1.0)
    np.testing.assert_array_equal(scan, before)


# --- around the models ---


def test_from_model_config_takes_sizes_order_and_scale():
    vit = SimpleNamespace(
        processor_defaults=FAMILY.processor_defaults,
        n_rois=None,
        n_timepoints=200,
        patch_size=16,
        image_size=432,
        roi_order="a424@y",
        t_r=0.735,
    )
    model = ROISeriesFeatureExtractor.from_model_config(vit, t_r=0.72)
    assert (model.n_rois, model.layout, model.sort_rows, model.roi_order) == (424, "image", "y", "a424")
    assert (model.normalization, model.divisor, model.t_r) == ("robust", DIVISOR, 0.72)
    other = SimpleNamespace(n_rois=94, n_timepoints=40, patch_size=20, roi_order="aal2-94")
    output = ROISeriesFeatureExtractor.from_model_config(other)(scans(1, 94, 40, level=0)[0], roi_order="aal2-94")
    # A family that does not read coordinates is not given any.
    assert set(output) == {"signals"}
    with pytest.raises(ValueError, match="94 parcels but n_rois is 10"):
        ROISeriesFeatureExtractor.from_model_config(other, n_rois=10)


def test_batches_of_tensors_and_arrays():
    batch = scans(3, level=0)
    as_torch = extractor()(batch, return_tensors="pt")["signals"]
    assert as_torch.dtype == torch.float32
    assert as_torch.shape == (3, 12, 40)
    stacked = extractor()(np.stack(batch))["signals"]
    np.testing.assert_array_equal(as_torch.numpy(), stacked)
    np.testing.assert_array_equal(extractor()(torch.from_numpy(batch[0]))["signals"][0], stacked[0])


def test_registering_for_an_auto_class_copies_no_module(tmp_path):
    ROISeriesFeatureExtractor.register_for_auto_class()
    extractor().save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    assert not list(tmp_path.glob("*feature_extraction*.py"))


def test_module_needs_no_optional_package():
    code = (
        "import sys; import brain_transformers.processing.roi_series; "
        "print([name for name in ('datasets', 'scipy', 'pandas', 'nilearn') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- what a file or a caller may hold ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t_r": 0}, "the model's t_r"),
        ({"t_r": -1.0}, "the model's t_r"),
        ({"t_r": float("nan")}, "the model's t_r"),
        ({"t_r": 720}, "milliseconds"),
        ({"t_r": "2"}, "the model's t_r"),
        ({"t_r_tolerance": float("nan")}, "t_r_tolerance"),
        ({"t_r_tolerance": -0.1}, "t_r_tolerance"),
        ({"divisor": 1e-300}, "divisor"),
        ({"divisor": float("nan")}, "divisor"),
        ({"divisor": 0}, "divisor"),
        ({"divisor": -1.0}, "divisor"),
        ({"image_size": "x"}, "image_size"),
        ({"divisor": 10**400}, "divisor"),
        ({"expected_std": float("inf")}, "expected_std"),
        ({"expected_std": 0.0}, "expected_std"),
        ({"n_rois": 0}, "n_rois"),
        ({"n_rois": True}, "n_rois"),
        ({"n_rois": 2**31}, "n_rois"),
        ({"n_timepoints": 10**9}, "n_timepoints"),
        ({"n_rois": 90_000, "n_timepoints": 900_000}, "window of at most"),
        ({"patch_size": 0}, "patch_size"),
        ({"patch_size": 2.5}, "patch_size"),
        ({"layout": "image", "patch_size": 16, "image_size": 16 * 10**6}, "image_size"),
        ({"layout": ["image"]}, "layout"),
        ({"band_pass": [0.1]}, "band_pass"),
        ({"band_pass": "ab"}, "band_pass"),
        ({"band_pass": [0.1, float("inf")]}, "band_pass"),
        ({"statistics": {"median": [0.0] * 12}}, "statistics"),
        ({"statistics": {"median": [0.0] * 12, "iqr": [1.0] * 11}}, "statistics"),
        ({"statistics": {"median": [0.0] * 12, "iqr": [float("nan")] * 12}}, "statistics"),
        ({"statistics": {"median": [0.0] * 12, "iqr": [1e-300] * 12}}, "statistics"),
        ({"statistics": {"median": [0.0] * 12, "iqr": [0.0] * 12}}, "statistics"),
        ({"statistics": {"median": [1e300] * 12, "iqr": [1.0] * 12}}, "statistics"),
        ({"statistics": [1, 2]}, "statistics"),
        ({"coordinates": [[0, 0, "x"]] * 12}, "coordinates"),
        ({"coordinates": {}}, "coordinates"),
        ({"roi_order": {"a": 1}}, "roi_order"),
        ({"return_coordinates": "no"}, "return_coordinates"),
    ],
)
def test_values_that_cannot_be_are_refused_by_name_in_python_and_in_files(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        extractor(**options)
    extractor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))
    for loader in (ROISeriesFeatureExtractor, AutoFeatureExtractor):
        with pytest.raises(ValueError, match=message) as caught:
            loader.from_pretrained(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "preprocessor_config.json" in str(caught.value)


def test_a_file_with_foreign_fields_or_of_another_kind_is_refused(tmp_path):
    extractor().save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    good = json.loads(file.read_text())
    for content, message in (
        ({**good, "n_roi": 12}, "Did you mean n_rois"),
        ({**good, "fit": 1}, "no argument 'fit'"),
        ({**good, "_warned": []}, "no argument '_warned'"),
        ([good], "preprocessor_config.json"),
        ("text", "preprocessor_config.json"),
        (None, "Can't load feature extractor|preprocessor_config.json"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises((ValueError, OSError), match=message):
            ROISeriesFeatureExtractor.from_pretrained(tmp_path)
    file.write_text(json.dumps(good)[:100])
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        ROISeriesFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="Did you mean n_rois"):
        ROISeriesFeatureExtractor(n_roi=12)


@pytest.mark.parametrize("t_r", [0, -1, 720, "0.72", float("inf")])
def test_repetition_times_of_scans_have_a_range(t_r):
    with pytest.raises(ValueError, match="t_r of scan 0"):
        extractor(t_r=2.0)(scans(1)[0], t_r=t_r)


def test_rest_of_a_scan_is_said_once_and_can_be_covered():
    model = extractor(window="all")
    scan = scans(1, n_timepoints=76, level=0)[0]
    with pytest.warns(UserWarning, match=r"36 of the 76 timepoints of scan 0 \(47 %\).*window=\"cover\""):
        model(scan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(scan)
        covered = model(scan, window="cover", return_windows=True)
        assert model(scan[:, :40], window="cover")["signals"].shape[0] == 1
    assert covered["window_start"].tolist() == [0, 36]
    np.testing.assert_array_equal(covered["signals"][1], scan[:, 36:])


def test_a_model_without_an_order_says_how_to_get_one_for_other_parcels():
    with pytest.raises(ValueError, match=r"names no parcels.*load_config\(name, n_rois=400"):
        extractor()(scans(1, n_rois=400)[0])


def test_tensors_of_any_kind_and_lists_are_scans_and_other_things_are_refused():
    scan = scans(1, level=0)[0]
    expected = extractor()(scan)["signals"]
    parameter = torch.from_numpy(scan).requires_grad_()
    for given in (parameter, [parameter], scan.tolist(), [scan.tolist()], parameter[None], tuple(parameter)):
        np.testing.assert_array_equal(extractor()(given)["signals"], expected)
    assert extractor()(parameter.to(torch.bfloat16))["signals"].shape == (1, 12, 40)
    for given in ([[1.0, 2.0], [3.0]], "scan.npy", 3, None, [scan[0], scan[0, :3]]):
        with pytest.raises(ValueError, match="Expected"):
            extractor()(given)


def test_a_large_dataset_does_not_warn_of_every_scan():
    model = extractor()
    rows = []
    for number in range(30):
        scan = scans(1, seed=number, level=0)[0]
        scan[3] = scan[:, 5] = np.nan
        rows.append({"signals": scan, "n_rois": 12, "n_timepoints": 70, "subject": f"sub-{number:02d}"})
    with pytest.warns(UserWarning, match="not measured") as caught:
        [model(row) for row in rows]
    cut, constant = ([str(one.message) for one in caught if text in str(one.message)] for text in ("cut", "constant"))
    assert len(cut) == 1
    assert "sub-00" in cut[0]
    assert "So it is for other scans" in cut[0]
    assert len(constant) == 10
    assert "Other scans like it are not named" in constant[-1]


def test_another_table_of_centres_counts_at_once():
    """Also where it comes to lie at the address of the one before, or is changed in place."""
    rng = np.random.default_rng(0)
    model, labels = image_extractor(rng.uniform(-60, 60, (12, 3)))
    scan = scans(1, level=0)[0]
    for _ in range(50):
        table = rng.uniform(-60, 60, (12, 3)).astype(np.float32)
        model.coordinates = table.tolist()
        output = model(scan, roi_order=labels)
        np.testing.assert_array_equal(output["coordinates"][0], table[stable_y_order(table)])
    model.coordinates[0][1] = 99.0
    np.testing.assert_array_equal(model(scan, roi_order=labels)["signals"][0, -1], scan[0, :40])
