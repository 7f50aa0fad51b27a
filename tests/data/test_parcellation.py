"""BOLD images become ROI series on the right side of the brain."""

import gzip
import hashlib
import json
import tracemalloc
import warnings

import numpy as np
import pytest

nib = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pd = pytest.importorskip("pandas")
pytest.importorskip("datasets")

from nilearn.maskers import NiftiLabelsMasker  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from brain_transformers.atlases.roi_orders import roi_coordinates, roi_labels  # noqa: E402
from brain_transformers.data import nifti  # noqa: E402
from brain_transformers.data.builders import load_dataset  # noqa: E402
from brain_transformers.data.parcellation import check_atlas_order, load_atlas, parcellate  # noqa: E402
from brain_transformers.data.readers import ROISeriesReadError  # noqa: E402

# Right-handed 4 mm grid around the origin; and the same grid with x stored from right to left, as FSL does.
AFFINE = np.array([[4.0, 0, 0, -32], [0, 4, 0, -32], [0, 0, 4, -32], [0, 0, 0, 1]])
FLIPPED = np.array([[-4.0, 0, 0, 28], [0, 4, 0, -32], [0, 0, 4, -32], [0, 0, 0, 1]])


@pytest.fixture
def brain():
    """Parcel 1 left, 2 right, 3 in front of both; a signal of its own in each."""
    rng = np.random.default_rng(0)
    labels = np.zeros((16, 16, 16), dtype=np.int32)
    labels[2:7, 2:9, 3:12] = 1
    labels[9:14, 2:9, 3:12] = 2
    labels[3:13, 10:14, 3:12] = 3
    series = rng.normal(size=(3, 12)).astype(np.float32)
    bold = np.zeros((16, 16, 16, 12), dtype=np.float32)
    for label in (1, 2, 3):
        bold[labels == label] = series[label - 1]
    image = nib.Nifti1Image(bold, AFFINE)
    image.header.set_zooms((4, 4, 4, 0.735))
    image.header.set_xyzt_units("mm", "sec")
    return labels, bold, series, image


def test_series_are_the_means_of_parcels(brain):
    labels, _, series, image = brain
    result = parcellate(image, nib.Nifti1Image(labels, AFFINE))
    np.testing.assert_allclose(result.signals, series, rtol=1e-5)
    assert result.t_r == 0.735
    assert parcellate(image, nib.Nifti1Image(labels, AFFINE), t_r=2.0).t_r == 2.0


def test_an_image_stored_right_to_left_gives_the_same_sides(brain):
    labels, bold, series, _ = brain
    flipped = nib.Nifti1Image(np.ascontiguousarray(bold[::-1]), FLIPPED)
    np.testing.assert_allclose(parcellate(flipped, nib.Nifti1Image(labels, AFFINE)).signals, series, rtol=1e-5)
    # Taken without the affine, left and right would be exchanged.
    assert not np.allclose(series[0], series[1])


def test_an_atlas_on_a_finer_grid_is_brought_onto_the_image(brain):
    labels, _, series, image = brain
    fine = np.repeat(np.repeat(np.repeat(labels, 2, 0), 2, 1), 2, 2)
    affine = AFFINE.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] -= 1
    np.testing.assert_allclose(parcellate(image, nib.Nifti1Image(fine, affine)).signals, series, rtol=1e-5)


def test_parcels_outside_of_the_image_are_nan_and_named(brain):
    labels, bold, series, _ = brain
    cut = nib.Nifti1Image(bold[:, :9], AFFINE)
    with pytest.warns(UserWarning, match=r"1 of 3 parcels have no voxel .*\[3\]"):
        signals = parcellate(cut, nib.Nifti1Image(labels, AFFINE)).signals
    np.testing.assert_allclose(signals[:2], series[:2], rtol=1e-5)
    assert np.isnan(signals[2]).all()


def test_coverage_is_what_the_field_of_view_and_the_data_leave(brain):
    labels, bold, series, _ = brain
    labels[labels == 3], labels[3:13, :2, 3:12] = 0, 3
    bold[labels == 3] = series[2]
    cut = bold[:, :6].copy()  # 4 of 7 planes of parcels 1 and 2, all of parcel 3
    cut[2] = 0  # 1 of 5 planes of parcel 1 has no data
    atlas = nib.Nifti1Image(labels, AFFINE)
    with pytest.warns(UserWarning, match=r"1 parcels with data in less than half of their voxels are NaN .*\[1\]"):
        result = parcellate(nib.Nifti1Image(cut, AFFINE), atlas, min_coverage=0.5)
    np.testing.assert_allclose(result.coverage, [4 / 7 * 4 / 5, 4 / 7, 1], rtol=1e-6)
    assert np.isnan(result.signals[0]).all()
    with pytest.warns(UserWarning, match="1 parcels are means over the others"):
        low = parcellate(nib.Nifti1Image(cut, AFFINE), atlas, min_coverage=0.4).signals
    np.testing.assert_allclose(low, series, rtol=1e-5)
    with pytest.raises(ROISeriesReadError, match="min_coverage from 0 to 1, got 50"):
        parcellate(nib.Nifti1Image(cut, AFFINE), atlas, min_coverage=50)


def test_another_space_is_refused(brain):
    labels, bold, _, _ = brain
    for shift, message in ((40, "3 of 3 parcels lie mostly outside"), (300, "do not overlap")):
        shifted = AFFINE.copy()
        shifted[2, 3] += shift
        with pytest.raises(ROISeriesReadError, match=message):
            parcellate(nib.Nifti1Image(bold, shifted), nib.Nifti1Image(labels, AFFINE))


def test_an_image_without_a_declared_space_is_refused(brain):
    labels, bold, _, _ = brain
    image = nib.Nifti1Image(bold, AFFINE)
    image.header["sform_code"] = image.header["qform_code"] = 0
    with pytest.raises(ROISeriesReadError, match="left and right cannot be told"):
        parcellate(image, nib.Nifti1Image(labels, AFFINE))


def test_broken_files_are_one_error_that_names_them(brain, tmp_path):
    labels, _, _, image = brain
    atlas = nib.Nifti1Image(labels, AFFINE)
    path = tmp_path / "sub-01_bold.nii.gz"
    nib.save(image, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ROISeriesReadError, match=r"sub-01_bold\.nii\.gz.*truncated"):
        parcellate(path, atlas)
    path.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(ROISeriesReadError, match=r"sub-01_bold\.nii\.gz"):
        parcellate(path, atlas)
    with pytest.raises(ROISeriesReadError, match="expected a 4-D BOLD image"):
        parcellate(atlas, atlas)
    with pytest.raises(ROISeriesReadError, match="goes up to label 3, but the parcel order has 2"):
        parcellate(image, atlas, n_rois=2)
    with pytest.raises(ROISeriesReadError, match="no such label image"):
        load_atlas(tmp_path / "none.nii.gz")


def test_repetition_time_in_milliseconds_is_read_by_its_unit(brain):
    labels, bold, _, _ = brain
    image = nib.Nifti1Image(bold, AFFINE)
    image.header.set_zooms((4, 4, 4, 735))
    image.header.set_xyzt_units("mm", "msec")
    assert parcellate(image, nib.Nifti1Image(labels, AFFINE)).t_r == pytest.approx(0.735)
    image.header.set_xyzt_units("mm", "sec")
    with pytest.raises(ROISeriesReadError, match="735 s"):
        parcellate(image, nib.Nifti1Image(labels, AFFINE))


def test_voxels_without_data_do_not_count(brain):
    labels, bold, _, _ = brain
    rng = np.random.default_rng(1)
    bold = bold + rng.normal(size=bold.shape).astype(np.float32)
    expected = NiftiLabelsMasker(nib.Nifti1Image(labels, AFFINE), standardize=None, reports=False).fit_transform(
        nib.Nifti1Image(bold, AFFINE)
    )
    atlas = nib.Nifti1Image(labels, AFFINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = parcellate(nib.Nifti1Image(bold, AFFINE), atlas).signals
    np.testing.assert_array_equal(whole, expected.T.astype(np.float32))

    inside = np.argwhere(labels == 1)
    holed = bold.copy()
    for kind, part in ((0.0, inside[:20]), (7.5, inside[20:30]), (np.nan, inside[30:40])):
        holed[tuple(part.T)] = kind
    holed[(*inside[40], 3)] = np.inf  # one frame of one voxel
    holed[tuple(np.argwhere(labels == 3)[: (labels == 3).sum() // 2 + 1].T)] = 0.0
    with pytest.warns(
        UserWarning, match=r"222 of 990 voxels .*1 parcels are means.*NaN .first labels: \[3\]"
    ) as caught:
        signals = parcellate(nib.Nifti1Image(holed, AFFINE), atlas).signals
    assert len(caught) == 1
    np.testing.assert_allclose(signals[0], bold[tuple(inside[41:].T)].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(signals[1], whole[1])
    assert np.isnan(signals[2]).all()
    holed[labels == 2] = 0.0
    with pytest.raises(ROISeriesReadError, match="2 of 3 parcels hold no data"):
        parcellate(nib.Nifti1Image(holed, AFFINE), atlas)


@pytest.mark.parametrize("outside", [np.nan, 0.0])
def test_frames_that_were_scrubbed_to_nan_cost_no_voxel(brain, outside):
    labels, bold, series, _ = brain
    scrubbed = bold.copy()
    scrubbed[..., 4:6] = outside
    scrubbed[labels > 0, 4:6] = np.nan
    scrubbed[2, 2, 3, 4:6] = outside  # a voxel of the parcel that the mask leaves out
    result = parcellate(nib.Nifti1Image(scrubbed, AFFINE), nib.Nifti1Image(labels, AFFINE)).signals
    assert np.isnan(result[:, 4:6]).all()
    kept = [0, 1, 2, 3, *range(6, 12)]
    np.testing.assert_allclose(result[:, kept], series[:, kept], rtol=1e-5)


def test_a_packed_image_with_a_changed_byte_is_refused(brain, tmp_path):
    labels, bold, _, _ = brain
    path = tmp_path / "sub-01_bold.nii.gz"
    noise = bold + np.random.default_rng(1).normal(size=bold.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, AFFINE), path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # of the checksum: what lies before it is whatever it is
    path.write_bytes(content)
    with pytest.raises(ROISeriesReadError, match=r"sub-01_bold\.nii\.gz: .*CRC"):
        parcellate(path, nib.Nifti1Image(labels, AFFINE))


@pytest.mark.parametrize("change", [lambda x: np.stack([x, x], -1), lambda x: x * 1.3, lambda x: -x, lambda x: x * 0])
def test_an_atlas_that_is_none_is_refused_in_memory_too(brain, change):
    labels, _, _, image = brain
    with pytest.raises(
        ROISeriesReadError, match=r"the atlas: expected a 3-D label image|expected whole-number labels"
    ):
        parcellate(image, nib.Nifti1Image(change(labels.astype(np.float32)), AFFINE))


def test_large_images_are_read_in_blocks_with_the_same_result(brain, tmp_path, monkeypatch):
    labels, bold, series, image = brain
    nib.save(image, tmp_path / "bold.nii.gz")
    monkeypatch.setattr(nifti, "_BLOCK_VALUES", 5 * 16**3)
    atlas = nib.Nifti1Image(labels, AFFINE)
    bold[3, 3, 4] = 5.0  # has the image read twice
    nib.save(image, tmp_path / "bold.nii.gz")
    with pytest.warns(UserWarning, match="1 of 990 voxels"):
        np.testing.assert_allclose(parcellate(tmp_path / "bold.nii.gz", atlas).signals, series, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_memory_does_not_grow_with_the_scan(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(nifti, "_BLOCK_VALUES", 1 << 17)
    labels = np.ones((24, 24, 24), np.int16)
    labels[12:] = 2
    atlas, peaks = load_atlas(nib.Nifti1Image(labels, AFFINE)), []
    draw = np.random.default_rng(0)
    for n_frames in (20, 20, 200):  # first for what is imported
        data = draw.integers(0, 200, (24, 24, 24, n_frames)).astype(np.int16)
        nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / f"bold{suffix}")
        del data
        tracemalloc.start()
        parcellate(tmp_path / f"bold{suffix}", atlas)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1] < 4e6


def test_a_header_that_claims_more_than_the_file_holds_is_refused_at_once(brain, tmp_path):
    labels, _, _, image = brain
    path = tmp_path / "sub-01_bold.nii.gz"
    nib.save(image, path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[48:50] = (30000).to_bytes(2, "little")  # dim[4]
    path.write_bytes(gzip.compress(bytes(content[:5000])))
    with pytest.raises(ROISeriesReadError, match=r"sub-01_bold\.nii\.gz.*its header claims .*491,520,000 bytes"):
        parcellate(path, nib.Nifti1Image(labels, AFFINE))


@pytest.fixture
def noisy():
    """Two parcels of 200 frames at 2 s, with motion in them."""
    rng = np.random.default_rng(0)
    labels = np.zeros((8, 8, 8), dtype=np.int32)
    labels[1:4, 1:7, 1:7], labels[4:7, 1:7, 1:7] = 1, 2
    motion = rng.normal(size=200).cumsum()
    bold = (1000 + 10 * rng.normal(size=(8, 8, 8, 200)) + 5 * motion).astype(np.float32)
    image = nib.Nifti1Image(bold, AFFINE)
    image.header.set_zooms((4, 4, 4, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    return image, nib.Nifti1Image(labels, AFFINE), motion


def by_nilearn(image, atlas, confounds=None, sample_mask=None, **options):
    masker = NiftiLabelsMasker(atlas, reports=False, t_r=2.0, **{"standardize": None, **options})
    return masker.fit_transform(image, confounds=confounds, sample_mask=sample_mask).T


@pytest.mark.parametrize("stored", ["int16", "scaled", "float32", ">f4", "float64", "int16.gz"])
def test_the_numbers_are_those_of_nilearn(noisy, tmp_path, stored):
    image, atlas, motion = noisy
    data, path = np.asarray(image.dataobj), tmp_path / ("bold.nii" + ".gz" * stored.endswith(".gz"))
    saved = nib.Nifti1Image(data, AFFINE, dtype=stored.removesuffix(".gz") if stored != "scaled" else "int16")
    if stored == "scaled":
        saved.header.set_slope_inter(0.37, 3.1)
    elif stored[0] == ">":
        saved = nib.Nifti1Image(data.astype(stored), AFFINE, header=nib.Nifti1Header(endianness=">"))
    elif stored.startswith("int16"):
        saved = nib.Nifti1Image(np.rint(data).astype(np.int16), AFFINE)
    nib.save(saved, path)
    kept = np.setdiff1d(np.arange(200), [7, 8, 120])
    how = {"low_pass": 0.1, "high_pass": 0.01, "detrend": True, "standardize": "zscore_sample"}
    for options, confounds, sample_mask in (({}, None, None), (how, motion[:, None], kept)):
        ours = parcellate(path, atlas, t_r=2.0, confounds=confounds, sample_mask=sample_mask, **options).signals
        expected = by_nilearn(path, atlas, confounds, sample_mask, **options).astype(np.float32)
        np.testing.assert_array_equal(ours if sample_mask is None else ours[:, kept], expected)


def test_confounds_of_fmriprep_are_regressed_out(noisy, tmp_path):
    image, atlas, motion = noisy
    table = pd.DataFrame({"trans_x": motion, "trans_x_derivative1": np.r_[np.nan, np.diff(motion)]})
    filled = table.bfill()
    expected = by_nilearn(image, atlas, filled)
    table.to_csv(tmp_path / "confounds.tsv", sep="\t", index=False, na_rep="n/a")
    as_text = table.astype(object).where(table.notna(), "n/a")
    for confounds in (
        table,
        tmp_path / "confounds.tsv",
        as_text,
        [filled[["trans_x"]], table.iloc[:, 1:]],
        filled.to_numpy(),
    ):
        np.testing.assert_allclose(parcellate(image, atlas, confounds=confounds).signals, expected, rtol=1e-6)
    assert abs(np.corrcoef(expected[0], motion)[0, 1]) < 0.05


def test_frames_that_are_not_kept_are_gaps_at_their_times(noisy):
    image, atlas, motion = noisy
    kept = np.setdiff1d(np.arange(200), [0, 1, 50, 51, 52, 199])
    options = {"low_pass": 0.1, "high_pass": 0.01, "detrend": True, "standardize": "zscore_sample"}
    expected = by_nilearn(image, atlas, motion[:, None], kept, **options)
    as_bool = np.isin(np.arange(200), kept)
    for sample_mask in (kept, as_bool, [kept]):
        signals = parcellate(image, atlas, confounds=motion, sample_mask=sample_mask, **options).signals
        np.testing.assert_allclose(signals[:, kept], expected, atol=1e-6)
        assert np.isnan(np.delete(signals, kept, axis=1)).all()
    plain = parcellate(image, atlas).signals
    np.testing.assert_array_equal(parcellate(image, atlas, sample_mask=kept).signals[:, kept], plain[:, kept])


def test_zero_frames_take_no_part_in_cleaning(noisy):
    image, atlas, _ = noisy
    data = np.asarray(image.dataobj).copy()
    gaps = np.arange(20, 60)
    data[..., gaps] = 0.0
    kept = np.setdiff1d(np.arange(200), gaps)
    signals = parcellate(nib.Nifti1Image(data, AFFINE), atlas, standardize="zscore_sample").signals
    assert np.isnan(signals[:, gaps]).all()
    np.testing.assert_allclose(signals[:, kept].std(axis=1, ddof=1), 1, rtol=1e-4)


def test_the_filter_runs_at_the_scans_own_repetition_time(noisy):
    _, atlas, _ = noisy
    time = 0.5 * np.arange(200)
    data = 1000 + np.zeros((8, 8, 8, 200)) + np.sin(2 * np.pi * 0.05 * time) + np.sin(2 * np.pi * 0.4 * time)
    signals = parcellate(nib.Nifti1Image(data, AFFINE), atlas, t_r=0.5, low_pass=0.2).signals[0]
    np.testing.assert_allclose(signals[20:-20], 1000 + np.sin(2 * np.pi * 0.05 * time)[20:-20], atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confounds": np.zeros((199, 1))}, "confounds with one row for each of the 200 frames, got 199"),
        ({"confounds": np.r_[np.zeros(5), np.nan, np.zeros(194)]}, "1 gaps in 'column 0' .first in row 5"),
        ({"confounds": pd.DataFrame({"who": ["a"] * 200})}, "text in 'who'"),
        ({"confounds": "nowhere.tsv"}, "cannot be read as a table"),
        ({"confounds": (np.zeros((200, 1)), None)}, "Pass them one by one"),
        ({"confounds": np.eye(200)}, "fewer confounds than frames"),
        ({"sample_mask": [1, 200]}, "sample_mask .* from 1 to 200"),
        ({"sample_mask": np.ones(150, dtype=bool)}, "sample_mask"),
        ({"sample_mask": []}, "sample_mask"),
        ({"low_pass": 0.3}, "low_pass above 0 and below 0.25 Hz"),
        ({"low_pass": float("nan")}, "low_pass"),
        ({"low_pass": 0.05, "high_pass": 0.1}, "high_pass below low_pass"),
        ({"standardize": "max"}, "standardize"),
        ({"smoothing_fwhm": 6}, "no option 'smoothing_fwhm'"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(noisy, options, message):
    image, atlas, _ = noisy
    with pytest.raises(ROISeriesReadError, match=message):
        parcellate(image, atlas, **options)


def test_a_filter_without_a_repetition_time_is_refused(noisy):
    image, atlas, _ = noisy
    image.header.set_zooms((4, 4, 4, 0))
    with pytest.raises(ROISeriesReadError, match="needs the repetition time"):
        parcellate(image, atlas, high_pass=0.01)


def test_an_atlas_of_the_other_edition_is_refused():
    grid = np.indices((48, 56, 48)).reshape(3, -1).T * 4.0 + (-96, -130, -74)
    affine = np.array([[4.0, 0, 0, -96], [0, 4, 0, -130], [0, 0, 4, -74], [0, 0, 0, 1]])
    distance, label = cKDTree(roi_coordinates("schaefer400-17net")).query(grid + 1.5)
    picture = np.where(distance < 9, label + 1, 0).reshape(48, 56, 48).astype(np.int16)
    atlas = nib.Nifti1Image(picture, affine)
    check_atlas_order(atlas, "schaefer400-17net")
    check_atlas_order(atlas, list(roi_labels("schaefer400-17net")))
    check_atlas_order(atlas, "a424")  # whose centres nobody ships
    for wrong in ("schaefer400-7net", list(roi_labels("schaefer400-7net"))):
        with pytest.raises(ROISeriesReadError, match="parcels are in the order 'schaefer400-17net'"):
            check_atlas_order(atlas, wrong, "atlas.nii.gz")
    with pytest.raises(ROISeriesReadError, match=r"do not lie where .* not mirrored"):
        check_atlas_order(nib.Nifti1Image(picture[::-1], affine), "schaefer400-17net")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_of_fmriprep_is_cleaned_on_the_way_in(noisy, tmp_path):
    image, atlas, motion = noisy
    func = tmp_path / "fmriprep" / "sub-01" / "func"
    func.mkdir(parents=True)
    stem = "sub-01_task-rest"
    nib.save(image, func / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
    nib.save(atlas, tmp_path / "atlas.nii.gz")
    rng = np.random.default_rng(2)
    table = {axis: rng.normal(size=200) for axis in ("trans_y", "trans_z", "rot_x", "rot_y", "rot_z")}
    table = pd.DataFrame({"trans_x": motion, **table})
    table.to_csv(func / f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
    (func / f"{stem}_desc-confounds_timeseries.json").write_text("{}")
    row = load_dataset(
        tmp_path / "fmriprep",
        roi_order=["left", "right"],
        atlas=tmp_path / "atlas.nii.gz",
        cleaning={"confounds": {"strategy": ["motion"], "motion": "basic"}, "high_pass": 0.01},
        cache_dir=tmp_path / "cache",
    )[0]
    signals = row["signals"].reshape(2, 200)
    made = json.loads(row["provenance"])
    for key, path in (
        ("image", func / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"),
        ("atlas", "atlas"),
    ):
        expected = hashlib.sha256((tmp_path / "atlas.nii.gz" if path == "atlas" else path).read_bytes()).hexdigest()
        assert made[key]["sha256"] == expected
    assert made["coverage"] == [1, 1]
    assert made["cleaning"]["high_pass"] == 0.01
    assert made["versions"]["nilearn"]
    np.testing.assert_allclose(signals, by_nilearn(image, atlas, table, high_pass=0.01), rtol=1e-6)
    with pytest.raises(ROISeriesReadError, match="load_confounds gives no confounds"):
        load_dataset(
            tmp_path / "fmriprep",
            roi_order=["left", "right"],
            atlas=tmp_path / "atlas.nii.gz",
            cleaning={"confounds": {"strategy": ["moton"]}},
            cache_dir=tmp_path / "cache",
        )
