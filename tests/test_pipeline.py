"""`transformers.pipeline("fmri-feature-extraction")`: arrays, rows and files to vectors, the same as `embed` gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, pipeline

import brain_transformers as bt
from tests.house.fresh_process import run_python

TASK = "fmri-feature-extraction"
LABELS = ["LH_Vis", "LH_SomMot", "RH_Vis", "RH_SomMot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model of four parcels, and files of a scan."""
    folder = tmp_path_factory.mktemp("pipeline")
    scan = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    rows = bt.dataset_from_arrays([scan], roi_order=LABELS, t_r=2.0)
    torch.manual_seed(0)
    sizes = {"n_timepoints": 20, "patch_size": 5, "coordinate_init_scale": 0.02}
    model, processor = bt.new_model("brainlm-tiny", rows, tables={"coordinates": np.eye(4)[:, :3]}, **sizes)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    np.save(folder / "scan.npy", scan)
    np.savetxt(folder / "sub-01_timeseries.tsv", scan.T, delimiter="\t", header="\t".join(LABELS), comments="")
    return folder


def test_a_scan_in_any_form_is_one_vector(folder: Path) -> None:
    pytest.importorskip("datasets")
    features = pipeline(TASK, model=str(folder / "model"))
    scan, known = np.load(folder / "scan.npy"), {"t_r": 2.0, "roi_order": LABELS}
    vector = features(scan, **known)
    assert vector.shape == (features.model.config.hidden_size,)
    assert vector.dtype == np.float32
    rows = bt.dataset_from_arrays([scan, scan[:, :30]], roi_order=LABELS, t_r=2.0)
    forms = [features(rows[0]), features(str(folder / "sub-01_timeseries.tsv"), t_r=2.0), features(rows)[0]]
    forms += [*features([scan, scan], **known), features(folder / "scan.npy", **known)]
    forms += [features(scan, **known, batch_size=1), pipeline(TASK, model=str(folder / "model"), **known)(scan)]
    for other in forms:
        np.testing.assert_allclose(other, vector, rtol=1e-5, atol=1e-6)
    assert features(scan, **known, level="window").shape == (2, len(vector))
    np.testing.assert_allclose(features(scan, **known, level="window").mean(0), vector, rtol=1e-5, atol=1e-6)
    listed = bt.embed([rows[0], rows[1]], str(folder / "model"), progress=False)
    table = bt.embed(rows, str(folder / "model"), progress=False)
    assert listed.equals(table)
    with pytest.raises(ValueError, match="embed_dataset takes streams"):
        bt.embed(rows.to_iterable_dataset(), str(folder / "model"))
    np.testing.assert_allclose(table.filter(regex=r"^e\d+$").to_numpy()[0], vector, rtol=1e-5, atol=1e-6)
    model = AutoModel.from_pretrained(folder / "model")
    loaded = pipeline(TASK, model=model, feature_extractor=AutoFeatureExtractor.from_pretrained(folder / "model"))
    np.testing.assert_array_equal(loaded(scan, **known), vector)
    half = pipeline(TASK, model=str(folder / "model"), dtype="bfloat16")(scan, **known)
    assert 0 < np.abs(half - vector).max() < 0.1


def test_what_is_wrong_is_said(folder: Path) -> None:
    features = pipeline(TASK, model=str(folder / "model"))
    scan = np.load(folder / "scan.npy")
    for given, said in (
        ({"pool": "mean"}, "got pool"),
        ({"window": "some"}, "window to be one of"),
        ({"pooling": "some"}, "pooling to be one of"),
    ):
        with pytest.raises(ValueError, match=said):
            features(scan, roi_order=LABELS, **given)
    with pytest.raises(ValueError, match="4"):
        features(scan[:3], t_r=2.0, roi_order=LABELS)
    with pytest.raises(ValueError, match="Expected roi_order of the scan, got none"):
        features(scan, t_r=2.0)
    with pytest.raises(ValueError, match=r"is a folder. Make a table of it with brain_transformers\.embed"):
        features(str(folder))
    with pytest.raises(FileNotFoundError, match="there is no such folder or file"):
        features("nothing.tsv")


def test_it_is_known_whichever_is_imported_first(folder: Path) -> None:
    for first in ("import transformers.pipelines", ""):
        run_python(
            f"""
            import sys
            {first}
            import brain_transformers
            assert {bool(first)} == ("transformers.pipelines" in sys.modules)  # which the package does not need
            from transformers import pipeline
            pipeline("{TASK}", model=sys.argv[1])
            """,
            folder / "model",
        )
