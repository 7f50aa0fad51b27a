"""The BrainLM authors' preprocessing, against the numbers their scripts gave and against its definitions."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from brain_transformers.data import brainlm_recordings as brainlm
from brain_transformers.processing.roi_orders import stable_y_order


@pytest.fixture(scope="module")
def golden(repository):
    folder = repository.parent / "shared" / "golden" / "brainlm" / "data_pipeline"
    if not folder.is_dir():
        pytest.skip("the golden case brainlm/data_pipeline is not beside this checkout")
    return load_file(folder / "tensors.safetensors"), json.loads((folder / "facts.json").read_text())


def test_splits_and_columns_equal_the_released_converter(golden):
    tensors, facts = golden
    raw = {
        name.removeprefix("convert.raw."): value for name, value in tensors.items() if name.startswith("convert.raw.")
    }
    splits = brainlm.ukbiobank_splits(list(raw))
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert splits[split] == facts[f"convert.{name}_ukbiobank1000"]["files"]
        stored = facts[f"convert.{name}_ukbiobank1000"]["patient_id"]
        assert [brainlm.patient_id(file, upstream_quirks=True) for file in splits[split]] == stored
    compared = 0
    for file, columns in brainlm.ukbiobank_columns(raw).items():
        for column, values in columns.items():
            expected = tensors[f"convert.{column}.{file}"]
            assert values.dtype == expected.dtype
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=2e-5)
            compared += 1
    assert compared == 7 * len(raw)


def test_toolkit_columns_equal_the_released_converter(golden):
    tensors, _ = golden
    # The files it read were written with three decimals.
    raw = {f"sub{number}": np.round(tensors[f"toolkit.raw.sub{number}"], 3).astype(np.float32) for number in range(3)}
    np.testing.assert_array_equal(raw["sub1"].T, tensors["toolkit.Raw_Recording.sub1"])
    scaled = brainlm.toolkit_robust_scale(raw, upstream_quirks=True)["sub1"]
    expected = tensors["toolkit.Voxelwise_RobustScaler_Normalized_Recording.sub1"]
    assert scaled.shape == expected.shape
    np.testing.assert_allclose(scaled, expected, atol=1e-4)


def test_order_image_and_labels_equal_the_released_code(golden):
    tensors, _ = golden
    np.testing.assert_array_equal(stable_y_order(tensors["coords_index_xyz"][:, 1:]), tensors["voxel_order"])
    image = brainlm.vit_image(tensors["image.stored_rows"], None, start=int(tensors["image.start"][0]))
    np.testing.assert_allclose(image, tensors["image.out_rows"], rtol=1e-6)
    np.testing.assert_allclose(
        brainlm.log_scaled_label(tensors["labels.raw"]), tensors["labels.log1p_divmax"], rtol=1e-6
    )
    np.testing.assert_allclose(brainlm.max_scaled_label(tensors["labels.raw"]), tensors["labels.divmax"], rtol=1e-6)
    np.testing.assert_array_equal(brainlm.depression_label(tensors["labels.raw"]), tensors["labels.phq9_bin"])
    np.testing.assert_allclose(
        brainlm.standardised_label(tensors["labels.age_raw"]), tensors["labels.age_z"], rtol=1e-6
    )


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
