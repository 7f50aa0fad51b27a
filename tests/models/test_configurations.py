"""Every field of a configuration has a range, and a file can claim nothing that is not true of its weights."""

import dataclasses
import json
import math
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedConfig

import brain_transformers as bt
from brain_transformers.models.validation import check_range

TINY = ("brainlm-tiny", "brainlm-vit-tiny", "brain-jepa-tiny", "brain-semantoks-tiny")
every_family = pytest.mark.parametrize("name", TINY)


def _holds_numbers(hint: Any) -> bool:
    return hint in (int, float) or any(_holds_numbers(part) for part in typing.get_args(hint))


@every_family
def test_every_number_of_every_family_has_a_range_that_its_default_keeps(name: str) -> None:
    config = bt.load_config(name)
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    own = [field for field in dataclasses.fields(config) if field.name not in inherited]
    numbers = [field.name for field in own if _holds_numbers(field.type)]
    assert len(numbers) > 15
    assert not [field for field in numbers if config.range_of(field) is None and field != "n_cortical_networks"]
    for field in numbers:
        check_range(field, getattr(config, field), config.range_of(field))


@every_family
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("t_r", 0),
        ("t_r", math.nan),
        ("t_r", 720.0),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 0),
        ("hidden_size", 10**9),
        ("patch_size", 0),
        ("patch_size", -16),
        ("n_timepoints", 0),
        ("layer_norm_eps", math.nan),
        ("layer_norm_eps", 0.0),
        ("layer_norm_eps", 1e-300),
        ("attention_probs_dropout_prob", 2),
        ("classifier_dropout", 1.0),
        ("initializer_range", math.inf),
        ("num_labels", 10**9),
        ("problem_type", "guess"),
    ],
)
def test_nonsense_is_refused_when_made_and_when_set(name: str, field: str, value: Any) -> None:
    if field not in bt.load_config(name).to_dict() and field not in ("num_labels", "problem_type"):
        pytest.skip("not a field of this family")
    with pytest.raises(ValueError, match=field):
        bt.load_config(name, **{field: value})
    if field != "problem_type":
        config = bt.load_config(name)
        with pytest.raises(StrictDataclassError, match=field):
            setattr(config, field, value)


@pytest.mark.parametrize(
    "values",
    [
        {"networks": [2**31] * 20},
        {"networks": [0, -1] * 10},
        {"networks": [0] * 19 + [2]},
        {"tokenizer_branches": [{"type": []}]},
        {"tokenizer_branches": [{"type": "convolution", "out_channels": 32, "kernel_size": 0}]},
        {"tokenizer_branches": [{"type": "long_convolution", "out_channels": 32, "num_scales": 10**6}]},
        {"tokenizer_branches": [{"type": "long_convolution", "out_channels": 32, "decay_min": math.nan}]},
        {"classifier_hidden_sizes": [32, 0]},
        {"mask_ratio": [math.nan, 0.5]},
    ],
)
def test_lists_of_brain_semantoks_are_checked_item_by_item(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"networks|branch|mask_ratio|classifier_hidden_sizes"):
        bt.load_config("brain-semantoks-tiny", **values)


def saved(name: str, folder: Path, **changes: Any) -> Path:
    """A saved body, whose `config.json` says something else afterwards."""
    AutoModel.from_config(bt.load_config(name)).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@every_family
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "32"},
        {"hidden_size": 10**400},
        {"t_r": math.nan},
        {"id2label": 5},
        {"dtype": "manual_seed"},
        {"hidden_act": "nonsense"},
        {"to_dict": 5},
        {"attribute_map": {"hidden_size": "patch_size"}},
        {"base_model_tp_plan": "x"},
        {"intermediate_size": 65_536},
        {"layer_types": 5},
    ],
)
def test_a_damaged_configuration_is_one_error_that_names_its_folder(
    name: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = saved(name, tmp_path, **changes)
    for load in (AutoModel.from_pretrained, type(AutoModel.from_config(bt.load_config(name))).from_pretrained):
        with pytest.raises(ValueError, match="Expected ") as caught:
            load(folder)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "true",
        "[" * 100_000,
        '{"n_rois": ' + "9" * 5000 + "}",
        '{"model_type": ["brainlm_mae"]}',
        '{"model_type": "brainlm_mae", "auto_map": {"AutoConfig": true}}',
    ],
    ids=["empty", "true", "nested", "digits", "list", "map"],
)
def test_what_transformers_reads_itself_is_looked_at_first(content: str, tmp_path: Path) -> None:
    folder = saved("brainlm-tiny", tmp_path)
    bt.ROISeriesFeatureExtractor().save_pretrained(folder)
    for name, load in (
        ("preprocessor_config.json", AutoFeatureExtractor.from_pretrained),
        ("config.json", AutoModel.from_pretrained),
        ("config.json", AutoConfig.from_pretrained),
    ):
        (folder / name).write_text(content)
        with pytest.raises(OSError, match=re.escape(str(folder / name))):
            load(folder)


@every_family
def test_keys_that_choose_code_are_not_taken_from_a_file(name: str, tmp_path: Path) -> None:
    folder = saved(
        name,
        tmp_path,
        attn_implementation="someone/kernel",
        _attn_implementation_internal="someone/kernel",
        trust_remote_code=True,
        auto_map={"AutoConfig": "someone/code--module.Class", "AutoModel": "someone/code--module.Class"},
    )
    model = AutoModel.from_pretrained(folder)
    assert model.config._attn_implementation == "sdpa"
    assert "someone" not in json.dumps(model.config.to_dict())
    assert AutoModel.from_pretrained(folder, attn_implementation="eager").config._attn_implementation == "eager"


@every_family
def test_sizes_are_held_against_the_weights_before_memory_is_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bt.load_config(name)
    width = {"hidden_size": 32_768, "decoder_hidden_size": 32_768}
    folder = saved(name, tmp_path, **{field: value for field, value in width.items() if hasattr(config, field)})
    if name == "brain-semantoks-tiny":
        saved(name, folder, tokenizer_branches=[{"type": "convolution", "out_channels": 32_768}], hidden_size=32_768)
    taken: list[int] = []
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, *a, **k: taken.append(t.numel()) or empty_like(t, *a, **k))
    with pytest.raises(ValueError, match="and should have"):
        AutoModel.from_pretrained(folder)
    assert not taken


def test_weights_that_a_file_does_not_hold_are_not_allocated(tmp_path: Path) -> None:
    folder = saved("brainlm-vit-tiny", tmp_path, decoder_hidden_size=32_768, decoder_intermediate_size=65_536)
    with pytest.raises(ValueError, match="do not hold"):
        bt.BrainLMViTForMaskedModeling.from_pretrained(folder, strict=False)


def test_a_pickle_beside_the_configuration_is_not_read(tmp_path: Path) -> None:
    folder = saved("brainlm-tiny", tmp_path)
    torch.save(bt.BrainLMModel(bt.load_config("brainlm-tiny")).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        bt.BrainLMModel.from_pretrained(folder)


def test_a_configuration_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = saved("brainlm-tiny", tmp_path)
    with pytest.raises(ValueError, match="brainlm_mae"):
        bt.BrainJEPAConfig.from_pretrained(folder)


@every_family
def test_what_a_caller_sets_on_loading_is_checked_too(name: str, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    with pytest.raises(ValueError, match="pooling must be one of"):
        AutoModel.from_pretrained(folder, pooling="attention")
    assert AutoModel.from_pretrained(folder, pooling="max").config.pooling == "max"
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(StrictDataclassError, match="pooling must be one of"):
        model.config.pooling = "attention"
    assert model.config.pooling != "attention"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no "):
        bt.BrainLMModel.from_pretrained(tmp_path / "absent")


def test_poolings_by_their_old_names_load(tmp_path: Path) -> None:
    folder = saved("brain-semantoks-tiny", tmp_path, pooling="cls_avg")
    assert AutoModel.from_pretrained(folder).config.pooling == "cls_mean"
    assert AutoModel.from_pretrained(folder, pooling="avg").config.pooling == "mean"
