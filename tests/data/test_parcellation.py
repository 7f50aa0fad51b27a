"""BOLD images become ROI series on the right side of the brain."""

import gzip

import numpy as np
import pytest

nib = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

from brain_transformers.data.parcellation import load_atlas, parcellate  # noqa: E402
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
