"""What a run is bound to: the same when everything is the same, and named where it is not."""

import numpy as np
from tiny_pretraining import make_arguments, make_model, make_scans

from brain_transformers import ROISeriesFeatureExtractor, files
from brain_transformers.training.run_settings import run_settings


def _extractor(scale=1.0):
    return ROISeriesFeatureExtractor(
        n_rois=12, n_timepoints=40, patch_size=10, normalization="zscore", coordinates=np.full((12, 3), scale)
    )


def _settings(tmp_path, *, rows=None, extractor=None, model=None, **arguments):
    return run_settings(
        make_arguments(tmp_path, **arguments),
        model=make_model() if model is None else model,
        processor=_extractor() if extractor is None else extractor,
        rows=make_scans(8) if rows is None else rows,
    )


def test_the_same_run_has_the_same_settings_after_saving_and_on_another_place(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    _extractor().save_pretrained(tmp_path / "model")
    before = _settings(tmp_path / "here", logging_steps=1)
    after = _settings(
        tmp_path / "there",
        model=type(model).from_pretrained(tmp_path / "model"),
        extractor=ROISeriesFeatureExtractor.from_pretrained(tmp_path / "model"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=5,
    )
    assert files.difference(before, after) == []


def test_what_differs_is_named(tmp_path):
    before = _settings(tmp_path)
    other_rows = make_scans(8)
    other_rows[0]["signals"] = other_rows[0]["signals"] * 2
    cases = {
        "processor.coordinates": {"extractor": _extractor(2.0)},
        "training scans": {"rows": other_rows},
        "training arguments.learning_rate": {"learning_rate": 1.0},
        "training arguments.samples an update": {"per_device_train_batch_size": 8},
    }
    changed = make_model()
    changed.brainlm.layernorm.weight.data += 1
    cases["initial weights"] = {"model": changed}
    for name, case in cases.items():
        assert [line.split(":")[0] for line in files.difference(before, _settings(tmp_path, **case))] == [name]
