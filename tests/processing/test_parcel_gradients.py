"""Functional gradients of any atlas."""

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.processing.parcel_gradients import compute_gradients, mean_connectivity


def line_of_parcels(n_rois: int = 60, width: float = 15.0) -> np.ndarray:
    """Connectivity that falls with the distance on a line."""
    place = np.arange(n_rois)
    return np.exp(-((place[:, None] - place[None, :]) ** 2) / (2 * width**2))


def test_the_first_gradient_follows_the_line() -> None:
    gradients = compute_gradients(line_of_parcels(), n_components=5, sparsity=0.0)
    assert gradients.shape == (60, 5)
    assert gradients.dtype == np.float32
    assert abs(np.corrcoef(gradients[:, 0], np.arange(60))[0, 1]) > 0.95
    # Further components are finer and smaller.
    assert (np.diff(gradients.std(axis=0)) < 0).all()
    largest = gradients[np.abs(gradients).argmax(axis=0), np.arange(5)]
    assert (largest > 0).all()


def test_rows_move_with_the_parcels() -> None:
    rng = np.random.default_rng(0)
    scans = [np.cumsum(rng.standard_normal((30, 80)), axis=0) + rng.standard_normal((30, 80)) for _ in range(3)]
    order = rng.permutation(30)
    first = compute_gradients(scans=scans, n_components=4, sparsity=0.5)
    second = compute_gradients(scans=[scan[order] for scan in scans], n_components=4, sparsity=0.5)
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
    model.set_gradients(torch.from_numpy(compute_gradients(scans=scans, n_components=6, sparsity=0.5)), "my scans")
    assert model(torch.randn(1, 20, 40)).pooler_output.shape == (1, 32)


def test_what_cannot_be_embedded_is_said() -> None:
    with pytest.raises(ValueError, match="either"):
        compute_gradients()
    with pytest.raises(ValueError, match="square"):
        compute_gradients(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="n_components"):
        compute_gradients(line_of_parcels(10), n_components=10)
    with pytest.raises(ValueError, match="constant"):
        mean_connectivity([np.ones((3, 10))])
    with pytest.raises(ValueError, match="at least one scan"):
        compute_gradients(scans=[])
