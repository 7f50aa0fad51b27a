"""Scans and T1 volumes together, and the tokens of both encoders, as inputs of BrainHarmony."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoProcessor

import brain_transformers as bt
from brain_transformers.processing.structural import CROPPED_SHAPE
from tests.models.composed_harmony import composed


def processor(config: Any) -> Any:
    made = bt.BrainHarmonyProcessor.from_model_config(config, normalization="zscore")
    made.t1_feature_extractor.check_brain = False
    return made


def scan(n_timepoints: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(12, n_timepoints)).astype(np.float32)


def volume(seed: int = 0) -> np.ndarray:
    values = np.zeros(CROPPED_SHAPE)
    values[30:130, 40:170, 20:120] = np.random.default_rng(seed).uniform(1, 2, size=(100, 130, 100))
    return values


def test_one_call_makes_what_the_model_takes() -> None:
    whole = composed()
    make, order = processor(whole.config), whole.config.fmri_config.roi_order
    inputs = make([scan(), scan(20)], [volume(), volume(1)], t_r=4.41, roi_order=order, return_tensors="pt")
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "signals": (2, 12, 40),
        "attention_mask": (2, 210),
        "patch_size": (2,),
        "t1_volumes": (2, 1, 20, 24, 20),
    }
    with torch.no_grad():
        both = whole(**inputs).pooler_output
        first = whole(**make(scan(), volume(), t_r=4.41, roi_order=order, return_tensors="pt")).pooler_output
        other = make(scan(), t_r=2.2, roi_order=order, return_tensors="pt")  # patches of another length
        alone = whole(**other).pooler_output
        t1 = whole(**make(t1=volume(), return_tensors="pt")).pooler_output
    torch.testing.assert_close(both[:1], first, rtol=1e-4, atol=1e-5)
    assert set(other) == {"signals", "attention_mask", "patch_size"}
    assert int(other["patch_size"]) == 16
    assert not torch.allclose(first, alone, atol=1e-3)
    assert not torch.allclose(first, t1, atol=1e-3)


def test_a_volume_is_repeated_for_each_window_of_its_scan() -> None:
    make, order = processor(composed().config), bt.load_config("harmonix-f-tiny").roi_order
    options = {"t_r": 4.41, "roi_order": order, "n_windows": 2, "return_windows": True}
    inputs = make([scan(80), scan(80, 1)], [volume(), volume(1)], **options)
    assert inputs["scan_index"].tolist() == [0, 0, 1, 1]
    assert np.array_equal(inputs["t1_volumes"][0], inputs["t1_volumes"][1])
    assert not np.array_equal(inputs["t1_volumes"][1], inputs["t1_volumes"][2])
    with pytest.raises(ValueError, match="got 1 for 2"):
        make([scan(), scan()], [volume()], t_r=4.41, roi_order=order)
    with pytest.raises(ValueError, match="got none of them"):
        make()
    with pytest.raises(ValueError, match="t_r is known of scans"):
        make(t1=volume(), t_r=2.0)


def row(subject: str, bold: np.ndarray | None, t1: Any, t_r: float = 4.41) -> dict[str, Any]:
    """A row of a dataset of pairs, whose volume is held and not in a file."""
    order = json.dumps(bt.load_config("harmonix-f-tiny").roi_order)
    sizes = (None, None) if bold is None else bold.shape
    flat = None if bold is None else bold.ravel()
    cells = {"signals": flat, "n_rois": sizes[0], "n_timepoints": sizes[1], "t_r": t_r, "roi_order": order}
    return {"subject": subject, **cells, "t1": t1, "shape": None, "dtype": None, "mean": None, "deviation": None}


def test_rows_of_pairs_mix_and_what_is_missing_is_masked_and_said_once() -> None:
    whole = composed()
    make = processor(whole.config)
    rows = [
        row("01", scan(), volume()),
        row("02", scan(80, 1), None, t_r=2.2),  # patches of another length
        row("03", None, volume(1)),
        row("04", scan(20, 2), volume(2)),
        row("05", scan(40, 3), None),
    ]
    with pytest.warns(UserWarning, match="has no") as said:
        batch = bt.ScanCollator(make)(rows)
    assert [str(one.message).partition(",")[0] for one in said] == ["scan 02 has no T1", "scan 03 has no fMRI"]
    mask = batch["attention_mask"]
    assert mask.shape == (5, 210)
    assert mask[:, :60].any(1).tolist() == [True, True, False, True, True]
    assert mask[:, 60:].all(1).tolist() == mask[:, 60:].any(1).tolist() == [True, False, True, True, False]
    with torch.no_grad():
        together = whole(**batch).pooler_output
        for number, one in enumerate(rows):
            alone = whole(**make(one, return_tensors="pt")).pooler_output
            torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-5)
        order = whole.config.fmri_config.roi_order
        called = whole(**make(scan(80, 1), t_r=2.2, roi_order=order, return_tensors="pt")).pooler_output
    torch.testing.assert_close(together[1:2], called, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="prepare BOLD --t1 T1"):
        make({"subject": "06", "signals": None, "t1": None})


def test_tokens_of_stage_0_pass_through_it() -> None:
    whole = composed()
    make = processor(whole.config)
    both = make(row("01", scan(), volume()), return_tensors="pt")
    with torch.no_grad():
        tokens, _ = whole.stage0(**both)
        batch = bt.ScanCollator(make)([{"inputs_embeds": tokens[0].numpy().ravel(), "attention_mask": [1] * 60}])
        torch.testing.assert_close(whole(**batch).pooler_output, whole(**both).pooler_output, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"Expected the tokens of .* as \(210, 1\)"):
        make({"inputs_embeds": np.zeros(7)})


def test_scale_is_fitted_on_those_who_have_a_scan() -> None:
    config = composed().config
    make = bt.BrainHarmonyProcessor.from_model_config(config, normalization="robust")
    make.fit([row("01", scan(), None), row("02", None, volume()), row("03", scan(seed=1), volume())])
    assert make.fmri_feature_extractor.statistics["n_scans"] == 2


@pytest.mark.parametrize("auto_class", [AutoProcessor, AutoFeatureExtractor])
def test_auto_classes_find_it_beside_the_model(auto_class: Any, tmp_path: Path) -> None:
    whole = composed()
    make, order = processor(whole.config), whole.config.fmri_config.roi_order
    whole.save_pretrained(tmp_path)
    make.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is bt.BrainHarmonyProcessor
    options = {"t_r": 4.41, "roi_order": order}
    for name, value in make(scan(), volume(), **options).items():
        assert np.array_equal(loaded(scan(), volume(), **options)[name], value), name
    assert "BrainHarmonyProcessor" in (tmp_path / "modeling_shim.py").read_text()
    path = tmp_path / "preprocessor_config.json"
    content = json.loads(path.read_text())
    content["t1_feature_extractor"]["feature_extractor_type"] = "HarmonixFFeatureExtractor"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is damaged.*Expected a T1FeatureExtractor"):
        auto_class.from_pretrained(tmp_path)


def test_auto_processor_loads_what_an_earlier_version_saved_and_what_reads_tokens(tmp_path: Path) -> None:
    whole = composed()
    whole.save_pretrained(tmp_path)
    content = processor(whole.config).to_dict()
    del content["feature_extractor_type"], content["n_t1_tokens"]
    (tmp_path / "processor_config.json").write_text(json.dumps(content))
    old = AutoProcessor.from_pretrained(tmp_path)
    assert type(old) is bt.BrainHarmonyProcessor
    assert old.t1_feature_extractor.image_size == [20, 24, 20]
    (tmp_path / "processor_config.json").unlink()
    bt.BrainHarmonyFeatureExtractor(6, 4, 5).save_pretrained(tmp_path)
    for auto_class in (AutoProcessor, AutoFeatureExtractor):
        assert type(auto_class.from_pretrained(tmp_path)) is bt.BrainHarmonyFeatureExtractor


def test_tokens_come_flat_or_not_with_a_mask_over_those_of_fmri(tmp_path: Path) -> None:
    extractor = bt.BrainHarmonyFeatureExtractor(6, 4, 5)
    tokens, mask = np.arange(50, dtype=np.float32).reshape(10, 5), [1, 1, 0, 1, 0, 1]
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    rows = [{"inputs_embeds": tokens.ravel(), "attention_mask": mask}, {"inputs_embeds": tokens + 1}]
    batch = loaded(rows, return_tensors="pt")
    assert batch["inputs_embeds"].shape == (2, 10, 5)
    assert torch.equal(batch["inputs_embeds"][0], torch.from_numpy(tokens))
    assert batch["attention_mask"].tolist() == [mask, [1] * 6]
    assert "attention_mask" not in loaded(tokens)
    assert loaded(tokens, attention_mask=mask)["attention_mask"].tolist() == [mask]
    for wrong, message in ((tokens[:9], r"\(10, 5\)"), (tokens.astype(str), "as numbers")):
        with pytest.raises(ValueError, match=message):
            loaded(wrong)
    for wrong_mask in ([1] * 5, [0] * 6):
        with pytest.raises(ValueError, match="as 6 numbers"):
            loaded(tokens, attention_mask=wrong_mask)
