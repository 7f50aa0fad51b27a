"""Synthetic scans: what they say of themselves, and that their labels have the effect that was asked for."""

import math
import warnings
from statistics import NormalDist

import numpy as np
import pytest

from brain_transformers import new_model, synthetic_scans
from brain_transformers.atlases.networks import networks_of_parcels
from brain_transformers.data.saved_datasets import load_saved, save_dataset
from brain_transformers.data.synthetic import is_synthetic
from brain_transformers.evaluation.probing import probe
from brain_transformers.processing.connectivity import functional_connectivity


@pytest.fixture(scope="module")
def networks() -> np.ndarray:
    return np.asarray(networks_of_parcels("schaefer400-7net")[0])


def _features(scans, networks: np.ndarray) -> np.ndarray:
    """Fisher's z between the mean series of the networks: 21 numbers a scan."""
    series = np.stack(scans["signals"][:]).reshape(len(scans), len(networks), -1).astype(np.float64)
    means = np.stack([series[:, networks == number].mean(axis=1) for number in range(networks.max() + 1)], axis=1)
    return functional_connectivity(means, fisher_z=True)


@pytest.mark.parametrize("effect", [0.0, 1.2, 2.4])
def test_a_linear_probe_finds_the_effect_at_its_size(effect: float, networks: np.ndarray) -> None:
    scans = synthetic_scans(200, effect_size=effect, n_timepoints=120, seed=5)
    features = _features(scans, networks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = probe(features, np.array(scans["group"]), groups=scans["subject"], seed=0).scores["auroc"]
    expected = NormalDist().cdf(effect / math.sqrt(2))
    assert abs(found - expected) < 0.1  # 200 people and 21 features
    assert (found > 0.65) == (effect > 0)
    # The coupling itself tells of both labels as much as was said.
    of_b = np.array(scans["group"]) == "B"
    coupling = features[:, 0]
    spread = math.sqrt((coupling[of_b].var() + coupling[~of_b].var()) / 2)
    assert (coupling[of_b].mean() - coupling[~of_b].mean()) / spread == pytest.approx(effect, abs=0.15)
    r = np.corrcoef(coupling, scans["score"])[0, 1]
    assert r == pytest.approx(effect / math.hypot(effect, 2), abs=0.15)


def test_scans_are_like_a_scanners_and_come_again_with_their_seed() -> None:
    scans = synthetic_scans(4, n_runs=2, n_timepoints=200, t_r=0.72, roi_order="a424", seed=1)
    series = np.stack(scans["signals"][:]).reshape(8, 424, 200).astype(np.float64)
    assert np.isfinite(series).all()
    assert 8000 < series.mean() < 12000
    assert np.median(series.std(axis=2) / series.mean(axis=2)) == pytest.approx(0.004, abs=0.001)
    unit = series - series.mean(axis=2, keepdims=True)
    smooth = (unit[..., 1:] * unit[..., :-1]).sum() / (unit**2).sum()
    assert 0.6 < smooth < 0.95  # white noise: 0
    # People are told apart by their connectivity.
    matrix = np.corrcoef(np.stack([functional_connectivity(scan) for scan in series]))
    np.fill_diagonal(matrix, -1)
    assert matrix.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    again = synthetic_scans(4, n_runs=2, n_timepoints=200, t_r=0.72, roi_order="a424", seed=1)
    assert np.array_equal(again["signals"][:], scans["signals"][:])
    other = synthetic_scans(4, n_runs=2, n_timepoints=200, t_r=0.72, roi_order="a424", seed=2)
    assert not np.array_equal(other["signals"][:], scans["signals"][:])


def test_they_say_that_they_were_made_up(tmp_path) -> None:
    scans = synthetic_scans(4, n_timepoints=40, roi_order="tian-s3")
    assert "Nothing in them was measured" in scans.info.description
    save_dataset(scans, tmp_path / "saved")
    saved = load_saved(tmp_path / "saved")
    assert is_synthetic(saved)
    assert "synthetic" in saved.info.description
    assert all(name.startswith("synthetic") for name in [*saved["subject"], *saved["source_file"]])
    assert is_synthetic(saved.select([3]))
    assert not is_synthetic(saved.remove_columns("synthetic"))


def test_a_model_that_was_trained_on_them_says_so(tmp_path) -> None:
    from brain_transformers.cli.main import main

    save_dataset(synthetic_scans(4, n_timepoints=40, roi_order="tian-s3"), tmp_path / "scans")
    folder = tmp_path / "model"
    options = ["--max-steps", "1", "--output", str(folder), "--use-cpu"]
    assert main(["pretrain", "--dataset", str(tmp_path / "scans"), "--model", "brainlm-tiny", *options]) == 0
    card = (folder / "README.md").read_text()
    assert "trained on synthetic scans" in card
    assert "Nothing was reported yet" not in card


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"n_subjects": 1}, "n_subjects"),
        ({"n_timepoints": 20}, "n_timepoints"),
        ({"roi_order": "mine"}, "n_rois"),
        ({"effect_size": float("nan")}, "effect_size"),
        ({"t_r": 720}, "milliseconds"),
        ({"n_runs": True}, "n_runs"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        synthetic_scans(**wrong)


def test_a_new_model_fits_them() -> None:
    model, extractor = new_model("brainlm-tiny", synthetic_scans(4, n_timepoints=80, roi_order="tian-s3"))
    assert model.config.n_rois == 50
    assert extractor.is_fitted
