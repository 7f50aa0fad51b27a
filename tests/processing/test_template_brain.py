"""A brain that lies or stands otherwise than its affine says is refused, and what may be right is not."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest

from brain_transformers import VolumeFeatureExtractor
from brain_transformers.atlases.assets import template_brain
from brain_transformers.processing.template_brain import check_brain
from brain_transformers.processing.volumes import MNI_AFFINE

BRAIN = np.kron(template_brain(), np.ones((4, 4, 4)))[:109, :91, :91] > 0.5
"""The template's brain, `(y, x, z)` on the grid of 2 mm."""


def moved(mask: np.ndarray, *mm: int) -> np.ndarray:
    return np.roll(mask, [step // 2 for step in mm], axis=(0, 1, 2))


def covering(**kept: slice) -> np.ndarray:
    """The part of the brain inside of a slab."""
    part = np.zeros_like(BRAIN)
    at = tuple(kept.get(axis, slice(None)) for axis in "yxz")
    part[at] = BRAIN[at]
    return part


def check(mask: np.ndarray) -> None:
    check_brain(np.where(mask, 1000.0, 0), mask, "it")


@pytest.mark.parametrize(
    "mask",
    [
        BRAIN,
        moved(BRAIN, 8, 0, -8),
        covering(z=slice(0, 62)),
        covering(z=slice(28, None)),
        covering(z=slice(45, 66)),
        covering(z=slice(66, None)),
        covering(z=slice(0, 30)),
        covering(y=slice(0, 55)),
        covering(y=slice(55, None)),
        covering(x=slice(0, 46)),
        moved(covering(z=slice(40, 60)), 0, 0, 16),
    ],
)
def test_whole_and_partial_coverage_is_taken(mask: np.ndarray) -> None:
    check(mask)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (BRAIN[:, :, ::-1], "upside down"),
        (BRAIN[::-1], "front to back"),
        (BRAIN[::-1, :, ::-1], "front to back and upside down"),
        (covering(z=slice(0, 62))[:, :, ::-1], "upside down"),
        (moved(BRAIN, 0, 0, 48), "48 mm too far up"),
        (moved(BRAIN, 0, 0, -32), "too far down"),
        (moved(BRAIN, 48, 0, 0), "48 mm too far to the front"),
        (moved(BRAIN, 0, 48, 0), "48 mm too far left"),
    ],
)
def test_turned_and_moved_brains_are_refused(mask: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(mask)


def test_images_that_keep_what_lies_around_the_brain() -> None:
    draw = np.random.default_rng(0)
    mean = np.abs(draw.normal(0, 30, BRAIN.shape)) + np.where(BRAIN, draw.normal(1000, 150, BRAIN.shape), 0)
    everywhere = np.ones_like(BRAIN)
    check_brain(mean, everywhere, "it")
    with pytest.raises(ValueError, match="upside down"):
        check_brain(mean[:, :, ::-1], everywhere, "it")
    # Signal change has no brightness that would tell a brain.
    check_brain(draw.normal(0, 1, BRAIN.shape), everywhere, "it")


def test_the_extractor_asks_for_images_on_the_grid_of_mni152() -> None:
    def image(mask: np.ndarray, affine: Any = MNI_AFFINE) -> Any:
        values = np.where(mask, 1000.0, 0)[..., None] + mask[..., None] * [0.0, 3.0]
        return nib.Nifti1Image(values.transpose(1, 0, 2, 3).astype(np.float32), affine)

    extractor = VolumeFeatureExtractor(n_frames=2)
    extractor(image(BRAIN))
    with pytest.raises(ValueError, match=r"upside down .*--no-check-brain"):
        extractor(image(BRAIN[:, :, ::-1]))
    # The same numbers, with the affine that they have.
    turned = MNI_AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 90], [0, 0, 0, 1]])
    extractor(image(BRAIN[:, :, ::-1], turned))
    VolumeFeatureExtractor(n_frames=2, check_brain=False)(image(BRAIN[:, :, ::-1]))
