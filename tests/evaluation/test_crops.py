"""Evenly spaced crops: features for a probe and logits of several scans at once."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, set_seed

import brain_transformers as bt
from brain_transformers.evaluation import crop_features, linear_probe_protocol, predict_crops


def make_rows(lengths: list[int], n_rois: int = 20, t_r: float = 2.0) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "signals": rng.standard_normal(n_rois * length).astype(np.float32),
            "n_rois": n_rois,
            "n_timepoints": length,
            "t_r": t_r,
            "subject": str(number),
        }
        for number, length in enumerate(lengths)
    ]


def make_body(name: str = "brain-semantoks-tiny", **overrides):
    set_seed(0)
    model = AutoModel.from_config(bt.load_config(name, **overrides))
    return model.eval(), bt.ROISeriesFeatureExtractor.from_model_config(model.config)


def test_crops_run_from_the_start_to_the_end_of_each_scan():
    model, extractor = make_body()
    size = extractor.n_timepoints
    rows = make_rows([size + 21, size, size + 7])
    features = crop_features(model, rows, extractor, n_crops=4, progress=False)
    assert features.shape == (3, 4, 2 * model.config.hidden_size)  # cls_avg
    series = rows[0]["signals"].reshape(20, -1)
    for crop, start in enumerate((0, 7, 14, 21)):
        by_hand = model(**extractor(series, t_r=2.0, start=start, return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(features[0, crop], by_hand)
    assert torch.equal(features[1, 0], features[1, 3])  # nowhere else to cut


def test_batches_over_scans_change_nothing():
    """Also with scans that are padded beside scans that are not."""
    model, extractor = make_body()
    size = extractor.n_timepoints
    rows = make_rows([size + 30, size - extractor.patch_size, size + 11])
    together = crop_features(model, rows, extractor, n_crops=3, batch_size=7, progress=False)
    alone = [crop_features(model, [row], extractor, n_crops=3, batch_size=1, progress=False) for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_resampled_scans_are_cut_over_their_whole_length():
    model, extractor = make_body()
    (row,) = make_rows([2 * (extractor.n_timepoints + 10)], t_r=1.0)
    series = row["signals"].reshape(20, -1)
    starts = extractor(series, t_r=1.0, n_windows=3, return_windows=True)["window_start"]
    n_after = (series.shape[1] - 1) // 2 + 1
    assert starts.tolist() == [0, (n_after - extractor.n_timepoints) // 2, n_after - extractor.n_timepoints]
    last = model(**extractor(series, t_r=1.0, start=int(starts[-1]), return_tensors="pt")).pooler_output[0]
    torch.testing.assert_close(crop_features(model, [row], extractor, 3, progress=False)[0, 2], last)
    with pytest.raises(ValueError, match="n_windows"):
        extractor(series, t_r=1.0, n_windows=0)


@pytest.mark.parametrize("name", ["brainlm-tiny", "brain-jepa-tiny"])
def test_other_families(name):
    config = bt.load_config(name)
    model, extractor = make_body(name)
    extractor.roi_order, extractor.normalization = None, "zscore"
    n_rois = config.n_rois
    if extractor.return_coordinates:
        extractor.coordinates = np.random.default_rng(1).uniform(-60, 60, (n_rois, 3)).tolist()
    rows = make_rows([extractor.n_timepoints + 5, extractor.n_timepoints + 9], n_rois, config.t_r)
    features = crop_features(model, rows, extractor, n_crops=3, progress=False)
    assert features.shape[:2] == (2, 3)
    assert not torch.equal(features[:, 0], features[:, 2])
    averaged = crop_features(model, rows, extractor, n_crops=3, pooling="mean", progress=False)
    assert averaged.shape == (2, 3, config.hidden_size)
    with pytest.raises(ValueError, match="pooling"):
        crop_features(model, rows, extractor, pooling="median")


def test_predictions_leave_the_model_in_its_mode():
    set_seed(0)
    config = bt.load_config("brain-semantoks-tiny", num_labels=3, classifier_head="batch_norm_linear")
    model = AutoModelForSequenceClassification.from_config(config)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    rows = make_rows([extractor.n_timepoints + 20] * 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    logits = predict_crops(model, rows, extractor, n_crops=2)
    assert model.training
    assert logits.shape == (2, 2, 3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    torch.testing.assert_close(predict_crops(model, rows, extractor, n_crops=2, batch_size=1), logits)
    assert not model.training


def test_features_go_straight_into_the_probe():
    pytest.importorskip("sklearn")
    model, extractor = make_body()
    rows = make_rows([extractor.n_timepoints + 20] * 20)
    features = crop_features(model, rows, extractor, n_crops=2, progress=False)
    result = linear_probe_protocol(features, [0, 1] * 10, n_repetitions=2, learning_rates=[0.01], epochs=2)
    assert len(result.ensembled) == 2


def test_crops_of_short_scans_are_said_to_be_the_same():
    model, extractor = make_body()
    rows = make_rows([extractor.n_timepoints - 10, extractor.n_timepoints + 20])
    with pytest.warns(UserWarning, match="1 of 2 scans are not longer than one window"):
        features = crop_features(model, rows, extractor, n_crops=3, progress=False)
    assert torch.equal(features[0, 0], features[0, 2])
    with pytest.raises(ValueError, match="splits train, test"):
        crop_features(model, {"train": rows, "test": rows}, extractor)


def test_the_extractor_of_another_model_is_refused():
    labels = [f"parcel {number}" for number in range(20)]
    model, extractor = make_body(roi_order=labels)
    rows = [{**row, "roi_order": None} for row in make_rows([extractor.n_timepoints + 5])]
    other = bt.ROISeriesFeatureExtractor.from_model_config(model.config, roi_order=labels[::-1])
    with pytest.raises(ValueError, match="belongs to another model"):
        crop_features(model, rows, other, n_crops=2)
    slower = bt.ROISeriesFeatureExtractor.from_model_config(model.config, roi_order=None, t_r=1.0)
    with pytest.warns(UserWarning, match=r"resamples to 1 s, but the model was made for 2 s"):
        crop_features(model, rows, slower, n_crops=2, progress=False)
