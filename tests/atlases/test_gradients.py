"""Functional gradients of any atlas."""

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.atlases.gradients import compute_gradients
from brain_transformers.processing.connectivity import mean_connectivity


def ring_of_parcels(n_rois: int = 60, width: float = 6.0) -> np.ndarray:
    """Connectivity that falls with the distance on a circle."""
    steps = np.abs(np.arange(n_rois)[:, None] - np.arange(n_rois)[None, :])
    return np.exp(-(np.minimum(steps, n_rois - steps) ** 2) / (2 * width**2))


@pytest.mark.parametrize("sparsity", [0.0, 0.75])
def test_a_ring_of_parcels_becomes_a_circle(sparsity: float) -> None:
    gradients = compute_gradients(ring_of_parcels(), n_components=5, sparsity=sparsity)
    assert gradients.shape == (60, 5)
    assert gradients.dtype == np.float32
    radius = np.linalg.norm(gradients[:, :2], axis=1)
    assert radius.std() < 0.02 * radius.mean()
    turns = np.diff(np.unwrap(np.arctan2(gradients[:, 1], gradients[:, 0])))
    np.testing.assert_allclose(np.abs(turns), 2 * np.pi / 60, rtol=0.1)
    # Further components are finer and smaller.
    assert gradients[:, 2:].std() < gradients[:, :2].std()
    assert (gradients.max(axis=0) >= -gradients.min(axis=0) - 1e-5).all()


def test_rows_move_with_the_parcels() -> None:
    rng = np.random.default_rng(0)
    scans = [np.cumsum(rng.standard_normal((30, 80)), axis=0) + rng.standard_normal((30, 80)) for _ in range(3)]
    order = rng.permutation(30)
    first = compute_gradients(mean_connectivity(scans), n_components=4, sparsity=0.5)
    second = compute_gradients(mean_connectivity(scan[order] for scan in scans), n_components=4, sparsity=0.5)
    np.testing.assert_allclose(second, first[order], atol=1e-4)


def test_connectivity_is_averaged_over_scans() -> None:
    rng = np.random.default_rng(1)
    scans = [rng.standard_normal((4, 50)), rng.standard_normal((4, 90))]
    expected = np.tanh(np.mean([np.arctanh(np.corrcoef(scan)[0, 1]) for scan in scans]))
    assert mean_connectivity(scans)[0, 1] == pytest.approx(expected)


def test_a_model_of_another_atlas_runs_with_them() -> None:
    rng = np.random.default_rng(2)
    scans = [np.cumsum(rng.standard_normal((20, 80)), axis=0) for _ in range(2)]
    model = bt.BrainJEPAModel(bt.load_config("brain-jepa-tiny", n_rois=20, roi_order=None)).eval()
    gradients = compute_gradients(mean_connectivity(scans), n_components=6, sparsity=0.5)
    model.set_table("gradients", gradients, "my scans")
    assert model(torch.randn(1, 20, 40)).pooler_output.shape == (1, 32)


def test_what_cannot_be_embedded_is_said() -> None:
    with pytest.raises(ValueError, match="square"):
        compute_gradients(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="n_components"):
        compute_gradients(ring_of_parcels(10), n_components=10)
    with pytest.raises(ValueError, match="constant"):
        mean_connectivity([np.ones((3, 10))])
    with pytest.raises(ValueError, match="at least one scan"):
        mean_connectivity([])
