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


def model() -> Any:
    """A tiny model that holds its encoders."""
    torch.manual_seed(0)
    sizes = {"n_fmri_tokens": 60, "n_t1_tokens": 150, "input_size": 32}
    whole = bt.BrainHarmonyModel(bt.load_config("brain-harmony-tiny", **sizes))
    fmri = bt.HarmonixFModel(bt.load_config("harmonix-f-tiny"))
    whole.set_encoders(fmri, bt.HarmonixSModel(bt.load_config("harmonix-s-tiny")))
    return whole.eval()


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
    whole = model()
    make, order = processor(whole.config), whole.config.fmri_config.roi_order
    inputs = make([scan(), scan(20)], [volume(), volume(1)], t_r=4.41, roi_order=order, return_tensors="pt")
    assert {name: tuple(value.shape) for name, value in inputs.items()} == {
        "signals": (2, 12, 40),
        "attention_mask": (2, 60),
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
    make, order = processor(model().config), bt.load_config("harmonix-f-tiny").roi_order
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


def test_auto_processor_finds_it_beside_the_model(tmp_path: Path) -> None:
    whole = model()
    make, order = processor(whole.config), whole.config.fmri_config.roi_order
    whole.save_pretrained(tmp_path)
    make.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is bt.BrainHarmonyProcessor
    options = {"t_r": 4.41, "roi_order": order}
    for name, value in make(scan(), volume(), **options).items():
        assert np.array_equal(loaded(scan(), volume(), **options)[name], value), name
    assert "BrainHarmonyProcessor" in (tmp_path / "modeling_shim.py").read_text()
    path = tmp_path / "processor_config.json"
    content = json.loads(path.read_text())
    content["t1_feature_extractor"]["feature_extractor_type"] = "HarmonixFFeatureExtractor"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"processor_config\.json is damaged"):
        AutoProcessor.from_pretrained(tmp_path)


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
