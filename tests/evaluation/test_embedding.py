"""Embedding tables: the same every time, one row a scan or a window, with where they come from."""

import numpy as np
import pytest
import torch

from brain_transformers import BrainLMConfig, BrainLMForMaskedModeling, ROISeriesFeatureExtractor
from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.evaluation import embed_dataset, embedding_columns

LABELS = [f"roi{number}" for number in range(6)]


@pytest.fixture(scope="module")
def config() -> BrainLMConfig:
    return BrainLMConfig(
        n_rois=6,
        n_timepoints=20,
        patch_size=5,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        conv_kernel_size=5,
        num_positions=8,
        roi_order=LABELS,
        t_r=2.0,
    )


@pytest.fixture(scope="module")
def model(config: BrainLMConfig) -> BrainLMForMaskedModeling:
    torch.manual_seed(0)
    model = BrainLMForMaskedModeling(config)
    model.brainlm.set_coordinates(torch.randn(6, 3), source="test")
    return model


@pytest.fixture(scope="module")
def extractor(config: BrainLMConfig) -> ROISeriesFeatureExtractor:
    return ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore", expected_std=None)


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(6, length)).astype(np.float32) for length in (60, 47, 20)]


@pytest.fixture(scope="module")
def dataset(scans: list[np.ndarray]):
    return dataset_from_arrays(scans, roi_order=LABELS, t_r=2.0, subject=["a", "b", "c"], age=[20.5, 30.5, 40.5])


def test_rows_columns_and_values(model, extractor, dataset, scans) -> None:
    table = embed_dataset(model, dataset, extractor, pooling="mean", progress=False)
    assert list(table["subject"]) == ["a", "b", "c"]
    assert list(table["age"]) == [20.5, 30.5, 40.5]
    assert list(table["n_windows"]) == [3, 2, 1]
    assert "signals" not in table
    columns = embedding_columns(table)
    assert columns == [f"e{number:03d}" for number in range(16)]
    inputs = extractor(scans[0], t_r=2.0, roi_order=LABELS, window="all", return_tensors="pt")
    with torch.no_grad():
        states = model.brainlm.eval()(**inputs).last_hidden_state
    expected = states[:, 1:].mean((0, 1)).numpy()
    np.testing.assert_allclose(table.loc[0, columns].to_numpy(dtype=np.float32), expected, atol=1e-6)


def test_same_numbers_every_time_and_in_training_mode(model, extractor, dataset) -> None:
    model.train()
    first = embed_dataset(model, dataset, extractor, progress=False)
    second = embed_dataset(model, dataset, extractor, progress=False)
    assert first.equals(second)
    assert model.training
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_batch_size_changes_only_rounding(model, extractor, dataset) -> None:
    one = embed_dataset(model, dataset, extractor, batch_size=1, progress=False)
    many = embed_dataset(model, dataset, extractor, batch_size=64, progress=False)
    columns = embedding_columns(one)
    np.testing.assert_allclose(one[columns], many[columns], atol=1e-5)


def test_window_level_averages_to_scan_level(model, extractor, dataset) -> None:
    windows = embed_dataset(model, dataset, extractor, level="window", pooling="cls", progress=False)
    assert list(windows["window_start"]) == [0, 20, 40, 0, 20, 0]
    scans = embed_dataset(model, dataset, extractor, pooling="cls", progress=False)
    columns = embedding_columns(windows)
    np.testing.assert_allclose(windows.groupby("subject")[columns].mean(), scans[columns], atol=1e-6)


def test_roi_pooling_keeps_rois_apart(model, extractor, dataset, scans) -> None:
    table = embed_dataset(model, dataset, extractor, pooling="roi", progress=False)
    columns = embedding_columns(table)
    assert len(columns) == 6 * 16
    per_roi = table.loc[0, columns].to_numpy(dtype=np.float32).reshape(6, 16)
    mean = embed_dataset(model, dataset, extractor, pooling="mean", progress=False)
    np.testing.assert_allclose(per_roi.mean(0), mean.loc[0, embedding_columns(mean)].to_numpy(np.float32), atol=1e-5)


def test_padding_does_not_count(model, extractor, scans) -> None:
    short = dataset_from_arrays([scans[0][:, :10], scans[0][:, :20]], roi_order=LABELS, t_r=2.0)
    together = embed_dataset(model, short, extractor, pooling="mean", progress=False)
    alone = embed_dataset(model, short.select([0]), extractor, pooling="mean", progress=False)
    columns = embedding_columns(together)
    np.testing.assert_allclose(together.loc[:0, columns], alone[columns], atol=1e-5)
    inputs = extractor(scans[0][:, :10], t_r=2.0, roi_order=LABELS, return_tensors="pt")
    with torch.no_grad():
        states = model.brainlm.eval()(**inputs).last_hidden_state[0, 1:]
    observed = inputs["attention_mask"][0].bool()
    assert 0 < observed.sum() < observed.numel()
    np.testing.assert_allclose(alone.loc[0, columns].to_numpy(np.float32), states[observed].mean(0).numpy(), atol=1e-5)


def test_bfloat16_is_close(model, extractor, dataset) -> None:
    exact = embed_dataset(model, dataset, extractor, progress=False)
    rough = embed_dataset(model, dataset, extractor, dtype="bfloat16", progress=False)
    columns = embedding_columns(exact)
    difference = np.abs(exact[columns].to_numpy() - rough[columns].to_numpy()).max()
    assert 0 < difference < 0.2


def test_wrong_option_and_wrong_order_are_refused(model, extractor, dataset, scans) -> None:
    with pytest.raises(ValueError, match="pooling"):
        embed_dataset(model, dataset, extractor, pooling="sum")
    with pytest.raises(ValueError, match="no scans"):
        embed_dataset(model, [], extractor)
    other = dataset_from_arrays([scans[0]], roi_order=[f"other{i}" for i in range(6)], t_r=2.0)
    with pytest.raises(ValueError, match=r"order|parcels|ROIs"):
        embed_dataset(model, other, extractor, progress=False)
