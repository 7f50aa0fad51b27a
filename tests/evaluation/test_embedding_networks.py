"""Embeddings of a model whose tokens are networks while the mask of its extractor is over parcels."""

import json

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.evaluation import embed_dataset, embedding_columns


@pytest.mark.parametrize("pooling", ["model", "cls", "mean", "max", "roi"])
def test_missing_tokens_are_left_out_of_means(pooling: str) -> None:
    torch.manual_seed(0)
    model = bt.BrainSemantoksModel(bt.load_config("brain-semantoks-tiny")).eval()
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(model.config)
    rng = np.random.default_rng(0)
    rows = []
    for n_timepoints in (40, 20):
        signals = rng.standard_normal((20, n_timepoints)).astype(np.float32)
        rows.append({"signals": signals.reshape(-1), "n_rois": 20, "n_timepoints": n_timepoints, "t_r": 2.0})
    table = embed_dataset(model, rows, extractor, pooling=pooling, batch_size=2, progress=False)
    features = table[embedding_columns(table)].to_numpy()
    scaled = [extractor(row["signals"].reshape(20, -1), t_r=2.0, return_tensors="pt") for row in rows]
    with torch.no_grad():
        outputs = [model(**inputs) for inputs in scaled]
    for row, (output, n_windows) in enumerate(zip(outputs, (4, 2), strict=True)):
        tokens = model.network_tokens(output.last_hidden_state)[:, :, :n_windows]
        expected = {
            "model": lambda o=output: o.pooler_output,
            "cls": lambda o=output: o.last_hidden_state[:, 0],
            "mean": lambda t=tokens: t.mean((1, 2)),
            "max": lambda t=tokens: t.amax((1, 2)),
            "roi": lambda t=tokens: t.mean(2)[:, model.config.networks].flatten(1),
        }[pooling]()
        np.testing.assert_allclose(features[row], expected[0], rtol=1e-4, atol=1e-5)


def test_parcels_that_an_atlas_lacks_are_zeros_and_said() -> None:
    torch.manual_seed(0)
    labels = [f"parcel-{number}" for number in range(20)]
    config = bt.load_config("brain-semantoks-tiny")
    config.roi_order = labels
    model = bt.BrainSemantoksModel(config).eval()
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    networks = np.asarray(config.networks)
    kept = np.flatnonzero(networks != networks[0])
    signals = np.random.default_rng(0).standard_normal((len(kept), 40)).astype(np.float32)
    row = {"signals": signals, "t_r": 2.0, "roi_order": json.dumps([labels[number] for number in kept])}
    with pytest.warns(UserWarning, match=f"{20 - len(kept)} of 20 parcels have no measured tokens"):
        table = embed_dataset(model, [row], extractor, pooling="roi", progress=False)
    features = table[embedding_columns(table)].to_numpy().reshape(20, -1)
    assert np.flatnonzero((features != 0).all(1)).tolist() == kept.tolist()


def test_windows_of_one_length_go_together_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = bt.BrainSemantoksModel(bt.load_config("brain-semantoks-tiny")).eval()
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(model.config)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(9):  # whole windows, and windows that end before the model's do
        signals = rng.standard_normal((20, 20 if number % 3 == 1 else 80)).astype(np.float32)
        rows.append({"signals": signals, "t_r": 2.0, "subject": str(number)})
    masks, forward = [], bt.BrainSemantoksModel.forward

    def told(self, *args, **inputs):
        masks.append((len(inputs["signals"]), inputs.get("attention_mask")))
        return forward(self, *args, **inputs)

    monkeypatch.setattr(bt.BrainSemantoksModel, "forward", told)
    together = embed_dataset(model, rows, extractor, level="window", batch_size=4, progress=False)
    assert [size for size, mask in masks if mask is None] == [4, 4, 4]  # without the masks of the short ones
    assert [size for size, mask in masks if mask is not None] == [3]
    assert "".join(together["subject"]) == "001223345566788"
    alone = embed_dataset(model, rows, extractor, level="window", batch_size=1, progress=False)
    names = embedding_columns(alone)
    np.testing.assert_allclose(together[names], alone[names], rtol=1e-4, atol=1e-5)
    assert together["window_start"].tolist() == alone["window_start"].tolist()
