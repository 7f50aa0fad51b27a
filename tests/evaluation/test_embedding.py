"""Embedding tables: the same every time, one row a scan or a window, with where they come from."""

import numpy as np
import pandas as pd
import pytest
import torch

from brain_transformers import (
    BrainLMConfig,
    BrainLMForMaskedModeling,
    BrainLMViTConfig,
    BrainLMViTModel,
    ROISeriesFeatureExtractor,
)
from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.evaluation import crop_features, embed_dataset, embedding_columns

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
    model.brainlm.set_table("coordinates", torch.randn(6, 3), source="test")
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
    with pytest.raises(TypeError, match=r"Expected a model, got 'brainlm-650m'.*AutoModel.from_pretrained"):
        embed_dataset("brainlm-650m", dataset, extractor)
    with pytest.raises(TypeError, match="Expected a feature extractor, got NoneType"):
        crop_features(model, dataset, None)


def test_rois_of_a_padded_image_are_pooled_over_what_was_measured() -> None:
    """Against a plain loop: patches are rows x columns of the image, and only measured columns count."""
    config = BrainLMViTConfig(
        n_rois=24,
        n_timepoints=40,
        patch_size=8,
        image_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        roi_order=None,
        t_r=None,
    )
    torch.manual_seed(0)
    model = BrainLMViTModel(config).eval()
    extractor = ROISeriesFeatureExtractor.from_model_config(
        config, normalization="none", expected_std=None, sort_rows=None, divisor=1.0
    )
    scan = np.random.default_rng(0).normal(size=(24, 21)).astype(np.float32)
    table = embed_dataset(model, [{"signals": scan}], extractor, pooling="roi", progress=False)
    inputs = extractor(scan, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state[0, 1:].reshape(8, 8, 16)
    observed = inputs["attention_mask"][0].reshape(8, 8).bool()
    top, left = 20, 12  # (64 - 24) / 2 rows above, (64 - 40) / 2 columns before
    expected = []
    for roi in range(24):
        patches = [
            states[(top + roi) // 8, column]
            for column in range(8)
            if observed[(top + roi) // 8, column] and left - 8 < column * 8 < left + 40
        ]
        assert len(patches) == 4  # pixels 12 to 32 of the image, in patches of 8
        expected.append(torch.stack(patches).mean(0))
    found = table[embedding_columns(table)].to_numpy()[0].reshape(24, 16)
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-5)


def test_rows_in_whatever_form(model, extractor, dataset, scans) -> None:
    expected = embed_dataset(model, dataset, extractor, progress=False)
    plain = [{"signals": scan, "t_r": 2.0, "roi_order": str(dataset[0]["roi_order"])} for scan in scans]
    columns = embedding_columns(expected)
    for rows in (
        dataset.with_format(None),
        dataset.with_format("torch"),
        dataset.to_iterable_dataset(),
        plain,
        (row for row in plain),
        torch.utils.data.Subset(dataset, [0, 1, 2]),
    ):
        table = embed_dataset(model, rows, extractor, progress=False)
        np.testing.assert_array_equal(table[columns].to_numpy(), expected[columns].to_numpy())
    table = embed_dataset(model, dataset.to_iterable_dataset(), extractor, progress=False)
    assert list(table.columns) == list(expected.columns)
    for wrong, message in (
        ([scans[0]], "array of shape \\(6, 60\\).*dataset_from_arrays"),
        ([{"n_rois": 6}], "Expected signals in scan 0"),
        ([{"signals": scans[0].reshape(-1)}], "Expected signals \\(n_rois, n_timepoints\\)"),
        (plain[0], "Pass \\[scan\\]"),
        ({"train": dataset}, "dataset\\['train'\\]"),
        (7, "got int"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_dataset(model, wrong, extractor, progress=False)


def test_what_is_left_out_is_told(model, extractor, scans) -> None:
    rows = dataset_from_arrays([scans[0], np.zeros((6, 40)), scans[1]], roi_order=LABELS, t_r=2.0, subject=list("abc"))
    with pytest.raises(ValueError, match="scan b"):
        embed_dataset(model, rows, extractor, progress=False)
    with pytest.warns(UserWarning, match="1 of 3 scans were left out:\n.*scan b"):
        table = embed_dataset(model, rows, extractor, progress=False, on_error="skip", batch_size=2)
    assert list(table["subject"]) == ["a", "c"]
    assert list(table.attrs["left_out"]) == [1]
    alone = embed_dataset(model, rows.select([2]), extractor, progress=False)
    columns = embedding_columns(table)
    np.testing.assert_allclose(table.loc[1, columns].astype(float), alone.loc[0, columns].astype(float), atol=1e-6)


def test_a_scan_that_overflows_is_named(config, scans) -> None:
    torch.manual_seed(0)
    broken = BrainLMForMaskedModeling(config)
    broken.brainlm.set_table("coordinates", torch.randn(6, 3), source="test")
    extractor = ROISeriesFeatureExtractor.from_model_config(config, normalization="none", expected_std=None)
    rows = dataset_from_arrays([scans[0], scans[1] * 1e25], roi_order=LABELS, t_r=2.0, subject=["a", "b"])
    with pytest.raises(ValueError, match=r"b: .* not finite.*overflowed"):
        embed_dataset(broken, rows, extractor, progress=False)
    with pytest.raises(ValueError, match=r"b: .* not finite"):
        crop_features(broken, rows, extractor, 2, progress=False)
    with pytest.warns(UserWarning, match="1 of 2 scans"):
        table = embed_dataset(broken, rows, extractor, progress=False, on_error="skip")
    assert list(table["subject"]) == ["a"]


def test_only_its_own_columns_are_the_embedding() -> None:
    features = {f"e{number:03d}": [0.0] for number in range(101)}
    table = pd.DataFrame({"e101": [1], "e5": [2], "age": [3], **features, "e102": [4]})
    assert embedding_columns(table) == list(features)
    with pytest.raises(ValueError, match="Expected embedding columns"):
        embedding_columns(pd.DataFrame({"e101": [1], "sex": [2]}))
