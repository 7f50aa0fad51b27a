"""A model folder is what its contract, its configuration and its card say, or it is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.cli.main import main
from brain_transformers.families import MODELS
from brain_transformers.hub.model_card import trained_model_card

TINY = [name for name in MODELS if name.endswith("-tiny")]


def saved(folder: Path, name: str = "brain-jepa-tiny", auto: Any = AutoModel, **overrides: Any) -> Path:
    torch.manual_seed(0)
    config = bt.load_config(name, **overrides)
    model, extractor = auto.from_config(config), config.load_processor().from_model_config(config)
    card = trained_model_card("model", model, extractor, None)
    return bt.save_model_folder(model, folder / "model", extractor=extractor, card=card)


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", TINY)
def test_what_was_saved_is_what_the_contract_says(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, name, AutoModelForSequenceClassification)
    result = bt.verify(folder)
    assert result.ok, result.refused
    assert len(result.facts) == 5  # shapes, processor, both sections, card
    contract = json.loads((folder / "input_contract.json").read_text())
    assert contract["model"]["model_type"] == MODELS[name].values.get("model_type", contract["model"]["model_type"])
    assert contract["input"]["modality"] in ("fmri-series", "fmri-volumes", "t1", "encoder-tokens")


def test_a_program_reads_order_time_length_and_scale(tmp_path: Path) -> None:
    folder = saved(tmp_path, "brainlm-tiny", roi_order=[f"parcel {n}" for n in range(12)], t_r=0.735)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    scans = [np.random.default_rng(0).normal(size=(12, 80)) for _ in range(3)]
    extractor.fit(scans, roi_order=extractor.roi_order).save_pretrained(folder)
    told = json.loads((folder / "input_contract.json").read_text())["input"]
    assert told["labels"]["number"] == 12
    assert told["t_r"]["seconds"] == 0.735
    assert told["n_timepoints"] == 40
    assert told["scale"]["normalization"] == "robust"
    assert told["scale"]["statistics"]["scans"] == 3
    assert bt.verify(folder).ok  # a processor that is fitted and saved keeps the contract true


def test_swapped_labels_are_refused(tmp_path: Path) -> None:
    labels = [f"parcel {n}" for n in range(12)]
    folder = saved(tmp_path, "brainlm-tiny", roi_order=labels)
    swapped = [labels[1], labels[0], *labels[2:]]
    change(folder, "preprocessor_config.json", roi_order=swapped)
    assert any("labels.digest" in reason for reason in bt.verify(folder).refused)
    change(folder, "config.json", roi_order=swapped)  # in both files, so that they agree with each other
    refused = bt.verify(folder).refused
    assert any("labels.digest" in reason for reason in refused)
    assert any("config.roi_order" in reason for reason in refused)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("preprocessor_config.json", {"t_r": 0.8}, "t_r.seconds: expected null, got 0.8"),
        ("preprocessor_config.json", {"normalization": "zscore"}, "scale.normalization"),
        ("config.json", {"layer_norm_eps": 1e-3}, "config.layer_norm_eps"),
        ("input_contract.json", {"contract": 2}, "expected version 1, got 2"),
        ("input_contract.json", {"model": None}, "expected a section 'model'"),
        ("input_contract.json", {"model": {}}, "fingerprint: the contract does not say it"),
        ("input_contract.json", {"input": {}}, "modality: the contract does not say it"),
        ("config.json", {"architectures": ["os.system"]}, "expected architectures to name a class"),
    ],
)
def test_a_changed_setting_is_named(tmp_path: Path, file: str, values: dict[str, Any], named: str) -> None:
    folder = saved(tmp_path, "brainlm-tiny", t_r=None)
    change(folder, file, **values)
    assert any(named in reason for reason in bt.verify(folder).refused), bt.verify(folder).refused


def test_a_changed_weight_is_refused_until_the_contract_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[0] += 1e-6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert main(["verify", str(folder)]) == 1
    assert "model.fingerprint" not in (told := capsys.readouterr().out)
    assert "refused: model: not what the contract says: fingerprint: expected" in told
    assert main(["verify", str(folder), "--write"]) == 0
    assert main(["verify", str(folder)]) == 0


def test_weights_that_do_not_fit_the_configuration_are_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    change(folder, "config.json", hidden_size=64)
    (reason, *_) = bt.verify(folder).refused
    assert "The weights do not fit config.json" in reason
    assert "expected [" in reason


def test_a_card_that_lies_about_shapes_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    card = folder / "README.md"
    text = card.read_text()
    assert "signals (batch, 50, 40)" in text
    card.write_text(text.replace("signals (batch, 50, 40)", "signals (batch, 450, 160)"))
    (reason,) = bt.verify(folder).refused
    assert "README.md does not describe this model" in reason
    assert "450, 160" in reason


def test_a_folder_without_contract_or_model_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path)
    (folder / "input_contract.json").unlink()
    assert any("--write" in reason for reason in bt.verify(folder).refused)
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no weights" in capsys.readouterr().err


def test_adapters_have_a_contract_too(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModel.from_pretrained(saved(tmp_path)), LoraConfig(target_modules=["qkv"]))
    model.save_pretrained(tmp_path / "adapter")
    contract = json.loads(bt.write_contract(tmp_path / "adapter").read_text())
    assert contract["model"]["base_model"] == str(tmp_path / "model")
    assert bt.verify(tmp_path / "adapter").ok
