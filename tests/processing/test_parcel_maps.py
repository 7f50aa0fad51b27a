"""Scans of another atlas: off unless asked for, exact where parcels are the same, and kept with the processor."""

import numpy as np
import pytest

from brain_transformers import ROISeriesFeatureExtractor
from brain_transformers.atlases.roi_orders import permutation
from brain_transformers.processing.parcel_maps import map_scans, map_weights, mixed, parcel_map

TARGET = ["a", "b", "c", "d"]


def extractor(**options):
    return ROISeriesFeatureExtractor(n_rois=4, n_timepoints=20, patch_size=5, roi_order=TARGET, t_r=2.0, **options)


def test_nearest_centres_of_the_same_parcels_give_the_same_parcels():
    held = parcel_map("schaefer400-17net", "schaefer400-7net")
    expected = permutation("schaefer400-17net", "schaefer400-7net").index
    assert [rows[0] for rows in held["rows"]] == expected.tolist()
    with pytest.raises(ValueError, match=r"centres of 2 parcels of a list of 2 labels .* are not known"):
        parcel_map(["x", "y"], "schaefer400-7net")


def test_what_lies_too_far_away_is_not_rebuilt():
    centres = np.array([[0, 0, 0], [10, 0, 0], [20, 0, 0], [80, 0, 0]])
    held = parcel_map(["x", "y"], TARGET, source_centres=[[1, 0, 0], [18, 0, 0]], target_centres=centres)
    assert held["rows"] == [[0], [1], [1], []]
    with pytest.raises(ValueError, match="1 of 4 parcels can be rebuilt"):
        parcel_map(["x", "y"], TARGET, source_centres=[[-20, 0, 0], [-90, 0, 0]], target_centres=centres)


def test_overlap_weighs_by_shared_voxels_and_needs_half_of_them():
    counts = np.array([[8, 0, 0], [3, 3, 2], [0, 1, 9], [1, 3, 0]])  # the last column lies in no parcel
    held = parcel_map(["x", "y"], TARGET, "overlap", overlap=counts)
    np.testing.assert_allclose(map_weights(held), [[1, 0], [0.5, 0.5], [0, 0], [0.25, 0.75]])
    signals = np.array([[1, 2, np.nan], [3, 4, 5]], dtype=np.float32)
    np.testing.assert_allclose(
        mixed(map_weights(held), signals), [[1, 2, np.nan], [2, 3, 5], [np.nan] * 3, [2.5, 3.5, 5]]
    )


def test_an_extractor_maps_only_what_it_was_told_and_keeps_it(tmp_path):
    rng = np.random.default_rng(0)
    scan, names = rng.normal(size=(3, 20)).astype(np.float32), ["x", "y", "z"]
    with pytest.raises(ValueError, match="no label in common"):
        extractor()(scan, roi_order=names, t_r=2.0)
    held = parcel_map(names, TARGET, "overlap", overlap=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]))
    own = extractor(parcel_map=held)
    with pytest.warns(UserWarning, match=r"mapped to the parcels of the model \(overlap.*median r of 0\.86"):
        mapped = own(scan, roi_order=names, t_r=2.0)["signals"][0]
    np.testing.assert_allclose(mapped, [*scan, (scan[0] + scan[1]) / 2], rtol=1e-6)
    plain = rng.normal(size=(4, 20)).astype(np.float32)
    np.testing.assert_array_equal(own(plain, roi_order=TARGET, t_r=2.0)["signals"][0], plain)
    own.save_pretrained(tmp_path)
    again = ROISeriesFeatureExtractor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(scan, roi_order=names, t_r=2.0)["signals"][0], mapped)
    with pytest.raises(ValueError, match="parcel_map to lead to"):
        ROISeriesFeatureExtractor(n_rois=4, n_timepoints=20, patch_size=5, roi_order=[*names, "w"], parcel_map=held)
    with pytest.raises(ValueError, match="Expected parcel_map as"):
        extractor(parcel_map={**held, "rows": [[9], [0], [0], [0]]})


def test_statistics_are_fitted_on_what_is_rebuilt():
    held = parcel_map(["x"], TARGET, "overlap", overlap=np.ones((4, 1)))
    own = extractor(parcel_map=held, normalization="robust")
    scans = [np.random.default_rng(seed).normal(size=(1, 20)).astype(np.float32) for seed in range(3)]
    own.fit(scans, roi_order=["x"])
    same = extractor(normalization="robust").fit([np.repeat(scan, 4, axis=0) for scan in scans], roi_order=TARGET)
    np.testing.assert_allclose(own.statistics["iqr"], same.statistics["iqr"], rtol=1e-6)


def test_which_scans_are_mapped_is_never_guessed():
    own = ROISeriesFeatureExtractor(n_rois=400, n_timepoints=20, patch_size=5, roi_order="schaefer400-7net")
    with pytest.raises(ValueError, match="got none"):
        map_scans(own, ["schaefer400-17net"], "nearest")
    with pytest.raises(ValueError, match="got 2:"):
        map_scans(own, ["aal2-94", "a424"], "nearest")
    with pytest.raises(ValueError, match="label images of both atlases"):
        map_scans(own, ["aal2-94"], "overlap")
    held = map_scans(own, ["aal2-94", "schaefer400-17net"], "nearest")
    assert own.parcel_map == held
    assert sum(bool(rows) for rows in held["rows"]) > 390
