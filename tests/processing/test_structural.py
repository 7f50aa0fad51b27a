"""T1 volumes: orientation and grid follow the affine, and what is no registered brain is refused."""

import nibabel as nib
import numpy as np
import pytest
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from brain_transformers.processing.structural import (
    CROPPED_SHAPE,
    MNI_AFFINE,
    MNI_SHAPE,
    T1FeatureExtractor,
    inside_mni152_brain,
)


@pytest.fixture(scope="module")
def template() -> nib.Nifti1Image:
    return load_mni152_template(resolution=1)


@pytest.fixture(scope="module")
def on_grid(template: nib.Nifti1Image) -> np.ndarray:
    """The template as an array on FSL's grid, made by index: from left to right becomes from right to left."""
    values = np.asarray(template.dataobj)
    first = np.rint(np.linalg.inv(template.affine) @ MNI_AFFINE @ [0, 0, 0, 1]).astype(int)[:3]
    x = first[0] - np.arange(MNI_SHAPE[0])
    return values[np.ix_(x, first[1] + np.arange(MNI_SHAPE[1]), first[2] + np.arange(MNI_SHAPE[2]))]


def test_grid_and_orientation_follow_the_affine(template: nib.Nifti1Image, on_grid: np.ndarray) -> None:
    extractor = T1FeatureExtractor()
    expected = extractor(on_grid)["t1_volumes"]
    assert expected.shape == (1, 1, 160, 192, 160)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(extractor(template)["t1_volumes"], expected)
    other = template.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "R")))
    assert other.shape != template.shape
    np.testing.assert_array_equal(extractor([other, on_grid])["t1_volumes"], np.concatenate([expected] * 2))
    cropped = on_grid[6:173, 2:214, :160]
    assert cropped.shape == CROPPED_SHAPE
    np.testing.assert_array_equal(extractor(cropped)["t1_volumes"], expected)


def test_values_are_scaled_over_the_padded_volume(on_grid: np.ndarray) -> None:
    kept = np.zeros(MNI_SHAPE)
    kept[6:173, 2:214, :160] = on_grid[6:173, 2:214, :160]
    expected = ((kept - kept.mean()) / (kept.std() + 1e-9))[11:171, 13:205, 11:171]
    np.testing.assert_allclose(T1FeatureExtractor()(on_grid)["t1_volumes"][0, 0], expected, atol=1e-6)
    small = T1FeatureExtractor(image_size=(40, 48, 40))(on_grid)["t1_volumes"][0, 0]
    np.testing.assert_allclose(small[20, 24, 20], expected[80:84, 96:100, 80:84].mean(), atol=1e-6)


def test_what_is_no_registered_brain_is_refused(template: nib.Nifti1Image, on_grid: np.ndarray) -> None:
    extractor = T1FeatureExtractor()
    with pytest.raises(ValueError, match="zeros only"):
        extractor(np.zeros(CROPPED_SHAPE))
    with pytest.raises(ValueError, match="with an affine"):
        extractor(on_grid[:100])
    with pytest.raises(ValueError, match="says no direction"):
        extractor(on_grid, affine=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="functional image"):
        extractor(on_grid, affine=np.diag([4, 4, 4, 1]))
    moved = template.affine.copy()
    moved[2, 3] += 40
    with pytest.raises(ValueError, match="registered to MNI152"):
        extractor(nib.Nifti1Image(np.asarray(template.dataobj), moved))
    with pytest.raises(ValueError, match="NaN"):
        extractor(np.where(on_grid > 0, on_grid, np.nan))
    with pytest.raises(ValueError, match="image_size"):
        T1FeatureExtractor(image_size=(50, 60, 50))


def test_a_head_with_its_skull_is_refused_and_can_be_mended(template: nib.Nifti1Image) -> None:
    head = np.asarray(template.dataobj) + 0.3 * (np.indices(template.shape)[2] > 20)
    image = nib.Nifti1Image(head.astype(np.float32), template.affine)
    extractor = T1FeatureExtractor()
    with pytest.raises(ValueError, match="inside_mni152_brain"):
        extractor(image)
    mended = inside_mni152_brain(image)
    brain = np.asarray(load_mni152_brain_mask(resolution=1).dataobj) > 0
    np.testing.assert_array_equal(np.asarray(mended.dataobj) != 0, brain & (head != 0))
    assert extractor(mended)["t1_volumes"].std() > 0.5


def test_saved_and_loaded(tmp_path, on_grid: np.ndarray) -> None:
    T1FeatureExtractor(image_size=(20, 24, 20)).save_pretrained(tmp_path)
    loaded = T1FeatureExtractor.from_pretrained(tmp_path)
    assert loaded.image_size == [20, 24, 20]
    assert loaded(on_grid)["t1_volumes"].shape == (1, 1, 20, 24, 20)


def test_axes_that_lie_are_seen(template: nib.Nifti1Image) -> None:
    values, extractor = np.asarray(template.dataobj), T1FeatureExtractor()
    with pytest.raises(ValueError, match="from below to above"):
        extractor(nib.Nifti1Image(values[:, :, ::-1], template.affine))
    # The first two axes swapped, and moved so that the centre is where it should be.
    affine = template.affine.copy()
    affine[:2, 3] = -116, -116
    with pytest.raises(ValueError, match="mm wide and"):
        extractor(nib.Nifti1Image(values.transpose(1, 0, 2), affine))
