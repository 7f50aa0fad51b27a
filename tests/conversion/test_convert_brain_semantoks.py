"""The converter on every variant of the authors' model, against their formulation written out; and what it refuses."""

import hashlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import convert_brain_semantoks
from plain_brain_semantoks import PlainEncoder, PlainPretraining

import brain_transformers as bt
from brain_transformers.hub.registry import name_by_size
from brain_transformers.models.brain_semantoks.conversion_brain_semantoks import convert_state_dict, key_map

_MAPS = {
    "network_map_schaefer400_3n": np.array([0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 1, 0, 2, 2]),
    "network_map_tian3": np.full(4, 19.0),
    "network_map_buckner7": np.full(2, 33.0),
}
_NETWORKS = [0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 1, 0, 2, 2, 3, 3, 3, 3, 4, 4]
_LONG = {"type": "sgconv", "kernel_size": 4, "num_scales": 3, "decay_min": 1.5, "decay_max": 2.5, "out_channels": 16}
_DENSE = {"type": "dense", "kernel_size": 3, "depthwise": False, "out_channels": 16}


def constructor(**changes: Any) -> dict[str, Any]:
    return {
        "atlas_names": ["schaefer400", "tian3", "buckner7"],
        "atlas_network_counts": [3, 1, 1],
        "total_rois": 20,
        "patch_size": 20,
        "target_time_length": 60,
        "embedding_dim": 32,
        "depth": 2,
        "heads": 4,
        "mlp_dim": 48,
        "do_masking": True,
        "layer_scale_init_value": 0.1,
        "tokenizer_final_norm": "layer",
        "tokenizer_config": [_DENSE, _LONG],
        "projection_hidden_dim": 24,
        "projection_bottleneck_dim": 12,
        "projection_nlayers": 2,
        "dead_tokenizers": True,
        **changes,
    }


def randomised(model: torch.nn.Module) -> Any:
    """Every parameter non-trivial, and frozen norms that are not those of the kernels."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and not name.endswith(("multiplier", "temporal_pos_embedding")):
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
            if name.endswith("kernel_norm"):
                value.abs_().add_(1.0)
            elif name.endswith("kernel_norm_initialized"):
                value.fill_(True)
    return model.eval()


def write_case(
    folder: Path, model: torch.nn.Module, values: dict[str, Any], bare: bool = True, prefix: str = ""
) -> list[str]:
    """Checkpoint, map and constructor arguments as files; returns the arguments of the converter."""
    folder.mkdir(exist_ok=True)
    weights = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 99, "model_state_dict": weights}, folder / "checkpoint.pth")
    np.savez(folder / "network_mapping.npz", **_MAPS)
    (folder / "constructor.json").write_text(json.dumps(values))
    arguments = ["--checkpoint", str(folder / "checkpoint.pth"), "--output", str(folder / "converted")]
    return [*arguments, *(["--config", str(folder / "constructor.json")] if bare else [])]


VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "dilated": {"tokenizer_config": [{**_DENSE, "type": "dilated", "dilation": 2}, _LONG]},
    "even kernel": {"tokenizer_config": [{**_DENSE, "kernel_size": 4}, _LONG]},
    "depthwise": {"tokenizer_config": [{**_DENSE, "depthwise": True, "kernel_size": 5}, _LONG]},
    "three branches": {
        "tokenizer_config": [
            {**_DENSE, "out_channels": 8},
            {**_DENSE, "type": "dilated", "dilation": 3, "depthwise": True, "out_channels": 8},
            {**_LONG, "num_scales": 2},
        ]
    },
    "long convolution alone": {"tokenizer_config": [{**_LONG, "out_channels": 32, "kernel_size": 5}]},
    "max pooling": {"tokenizer_pooling_type": "max"},
    "attention pooling": {"tokenizer_pooling_type": "attention"},
    "no tokenizer norm": {"tokenizer_final_norm": "none"},
    "no layer scale": {"layer_scale_init_value": None},
    "no masking": {"do_masking": False},
    "one-layer head": {"projection_nlayers": 1},
    "three-layer head": {"projection_nlayers": 3},
    "separate mask head": {"use_separate_mask_predictor": True},
    "every parcel a network": {"max_spatial": True, "tokenizer_config": None},
    "one network": {"min_spatial": True},
    "one atlas": {"atlas_names": ["schaefer400"], "atlas_network_counts": [3], "total_rois": 14},
    "longer target": {"target_time_length": 75},
}


def networks_of(values: dict[str, Any]) -> list[int]:
    if values.get("max_spatial"):
        return list(range(values["total_rois"]))
    return [0] * values["total_rois"] if values.get("min_spatial") else _NETWORKS[: values["total_rois"]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_the_authors_numbers(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = constructor(**VARIANTS[variant])
    networks = networks_of(values)
    plain = randomised(PlainPretraining(values, networks))
    arguments = write_case(tmp_path, plain, values)
    assert convert_brain_semantoks.main([*arguments, "--pretraining"]) == 0
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "converted").eval()
    n_rois, n_timepoints = values["total_rois"], values["target_time_length"]
    views = [torch.randn(3, n_rois, n_timepoints) for _ in range(2)]
    masks = [torch.rand(3, max(networks) + 1, 3) < 0.5 for _ in range(2)]
    masks[1][0] = False  # a sample without hidden tokens
    used = masks if values["do_masking"] else None
    expected = plain(views, used, 0.5, 0.5)
    output = model(torch.stack(views, 1), torch.stack(masks, 1), 0.5)
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-5)
    expected.backward()
    output.loss.backward()
    mapping = key_map(
        values["atlas_names"][0],
        model.config.tokenizer_pooling,
        not model.config.separate_mask_head,
        tokenizers=not values.get("max_spatial"),
    )
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    compared = 0
    for key, parameter in plain.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 0:
            target = mapping.target_of(key)
            assert target is not None, key
            scale = float(parameter.grad.abs().max())
            torch.testing.assert_close(gradients[target[0]], parameter.grad, rtol=0, atol=2e-4 * scale + 1e-7)
            compared += 1
    assert compared > 20
    body = AutoModel.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        for mask in (None, masks[0] if values["do_masking"] else None):
            torch.testing.assert_close(
                body(views[0], bool_masked_pos=mask).last_hidden_state,
                plain.teacher_encoder(views[0], mask),
                rtol=1e-4,
                atol=2e-5,
            )


def test_norms_that_were_never_measured_are_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = constructor()
    plain = randomised(PlainPretraining(values, _NETWORKS))
    for name, value in plain.named_buffers():
        if name.endswith("kernel_norm_initialized"):
            value.fill_(False)
    assert convert_brain_semantoks.main(write_case(tmp_path, plain, values)) == 0
    body = AutoModel.from_pretrained(tmp_path / "converted").eval()
    signals = torch.randn(2, 20, 60)
    with torch.no_grad():
        expected = plain.teacher_encoder(signals)  # measures them
        torch.testing.assert_close(body(signals).last_hidden_state, expected, rtol=1e-4, atol=2e-5)
    branch = plain.teacher_encoder.network_tokenizers["schaefer400"][2].branches[1]
    torch.testing.assert_close(body.embeddings.tokenizers[2].branches[1].kernel_norm, branch.slconv.kernel_norm)


@pytest.mark.parametrize("variant", ["every parcel a network", "one network"])
def test_the_number_of_parcels_is_read_from_weights_without_a_map(variant: str, tmp_path: Path) -> None:
    values = constructor(**VARIANTS[variant])
    holder = torch.nn.Module()
    holder.teacher_encoder = randomised(PlainEncoder(values, networks_of(values)))
    values.pop("total_rois")
    arguments = write_case(tmp_path, holder, values)
    (tmp_path / "network_mapping.npz").unlink()
    assert convert_brain_semantoks.main(arguments) == 0
    body = AutoModel.from_pretrained(tmp_path / "converted").eval()
    signals = torch.randn(2, 20, 60)
    with torch.no_grad():
        expected = holder.teacher_encoder(signals)
        torch.testing.assert_close(body(signals).last_hidden_state, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_encoder_alone_with_its_head(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = constructor(num_classes=3)
    holder = torch.nn.Module()
    holder.teacher_encoder = randomised(PlainEncoder(values, _NETWORKS))
    values.pop("total_rois")
    assert convert_brain_semantoks.main(write_case(tmp_path, holder, values, prefix=prefix)) == 0
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert not info["missing_keys"]
    signals = torch.randn(2, 20, 60)
    with torch.no_grad():
        expected = holder.teacher_encoder.head(holder.teacher_encoder(signals)[:, 0])
        torch.testing.assert_close(model.eval()(signals).logits, expected, rtol=1e-4, atol=2e-5)


def test_what_the_weights_tell_need_not_be_told(tmp_path: Path) -> None:
    """The atlas of the live tokenizers in a spatial mode, and whether tokens are normed."""
    values = constructor(
        min_spatial=True, atlas_names=["other"], atlas_network_counts=[1], tokenizer_final_norm="none"
    )
    holder = torch.nn.Module()
    holder.teacher_encoder = randomised(PlainEncoder(values, networks_of(values)))
    told = {name: value for name, value in values.items() if name != "tokenizer_final_norm"}
    arguments = write_case(tmp_path, holder, {**told, "atlas_names": None, "atlas_network_counts": None})
    assert convert_brain_semantoks.main(arguments) == 0
    body = AutoModel.from_pretrained(tmp_path / "converted").eval()
    signals = torch.randn(2, 20, 60)
    with torch.no_grad():
        expected = holder.teacher_encoder(signals)
        torch.testing.assert_close(body(signals).last_hidden_state, expected, rtol=1e-4, atol=2e-5)


def training_config(**changes: Any) -> dict[str, Any]:
    """The YAML dictionary of a model with 64 columns, so that the authors' rule gives one head."""
    return {
        "data": {
            "target_signal_length": 60,
            "patch_size": 20,
            "schaefer_atlas": "schaefer400",
            "schaefer_rois": 14,
            "schaefer_networks": 3,
            "tian_atlas": "tian3",
            "tian_rois": 4,
            "tian_networks": 1,
            "buckner_atlas": "buckner7",
            "buckner_rois": 2,
            "buckner_networks": 1,
        },
        "model": {
            "embedding_dim": 64,
            "depth": 2,
            "heads": 0,
            "mlp_dim": 0,
            "layer_scale_init_value": 0.1,
            "projection_hidden_dim": 24,
            "projection_bottleneck_dim": 12,
            "projection_nlayers": 2,
            "tokenizer": {
                "config": [{**_DENSE, "out_channels": 32}, {**_LONG, "out_channels": 32}],
                "final_norm": "layer",
            },
        },
        "masking": {"masking_ratio": [0.6, 0.8], "masking_type": "temporal", "masking_frequency": 0.25},
        **changes,
    }


def test_a_container_of_the_training_program_needs_nothing_else(tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    values = constructor(
        embedding_dim=64, heads=1, mlp_dim=256, tokenizer_config=training_config()["model"]["tokenizer"]["config"]
    )
    plain = randomised(PlainPretraining(values, _NETWORKS))
    arguments = write_case(tmp_path, plain, values, bare=False)
    container = {"epoch": 99, "config": training_config(), "model_state_dict": plain.state_dict(), "loss": 1.0}
    torch.save(container, tmp_path / "checkpoint.pth")
    assert convert_brain_semantoks.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "teacher_encoder.network_tokenizers.tian3 (60 tensors)" in printed
    config = AutoModel.from_pretrained(tmp_path / "converted").config
    assert config.num_attention_heads == 1
    assert config.intermediate_size == 256
    assert (config.mask_kind, config.mask_range, config.masking_frequency) == ("temporal", (0.6, 0.8), 0.25)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert extractor.normalization == "zscore"
    card = (tmp_path / "converted" / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "checkpoint.pth").read_bytes()).hexdigest() in card
    assert str(tmp_path) not in card


def test_the_published_model_converts_and_is_recognised() -> None:
    values = constructor(
        atlas_network_counts=[7, 1, 1],
        total_rois=457,
        target_time_length=100,
        embedding_dim=768,
        depth=8,
        heads=12,
        mlp_dim=3072,
        projection_hidden_dim=1024,
        projection_bottleneck_dim=128,
        tokenizer_config=[
            {**_DENSE, "out_channels": 384},
            {**_LONG, "out_channels": 384, "decay_min": 2.0, "decay_max": 2.0},
        ],
    )
    published = bt.load_config("brain-semantoks-base")
    with torch.device("meta"):
        weights = PlainPretraining(values, published.networks).state_dict()
    assert len(weights) == 942
    converted = convert_state_dict(weights, values, pretraining=True)
    actual, expected = converted.config.to_dict(), published.to_dict()
    assert actual == expected, {key: (actual[key], expected[key]) for key in expected if actual[key] != expected[key]}
    parameters = [value for name, value in converted.state_dict.items() if name.startswith("brain_semantoks.")]
    assert (
        sum(value.numel() for value in parameters)
        - sum(
            value.numel()
            for name, value in converted.state_dict.items()
            if name.startswith("brain_semantoks.") and name.endswith(("decay", "kernel_norm", "time_positions"))
        )
        == 58_720_931
    )
    assert name_by_size(converted.config) == "brain-semantoks-base"


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, dict[str, Any], list[str]]:
    torch.manual_seed(0)
    values = constructor()
    return tmp_path, values, write_case(tmp_path, randomised(PlainPretraining(values, _NETWORKS)), values)


def refused(arguments: list[str], capsys: Any) -> str:
    capsys.readouterr()
    assert convert_brain_semantoks.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert not Path(arguments[arguments.index("--output") + 1]).exists()
    return error


def rewrite(folder: Path, change: Any) -> None:
    container = torch.load(folder / "checkpoint.pth", weights_only=True)
    change(container)
    torch.save(container, folder / "checkpoint.pth")


def test_what_does_not_fit_is_one_clear_error(case: Any, capsys: Any) -> None:
    folder, values, arguments = case
    without_config = arguments[: arguments.index("--config")]
    assert "--config" in refused(without_config, capsys)
    assert "divide" in refused([*arguments, "--num-attention-heads", "5"], capsys)
    (folder / "constructor.json").write_text(json.dumps({**values, "heads": 0}))
    assert "--num-attention-heads" in refused(arguments, capsys)
    (folder / "constructor.json").write_text(json.dumps({**values, "depth": 3}))
    assert "missing" in refused(arguments, capsys)
    (folder / "constructor.json").write_text(json.dumps({**values, "atlas_network_counts": [4, 1, 1]}))
    assert "network_map_schaefer400_4n" in refused(arguments, capsys)
    (folder / "constructor.json").write_text("[1, 2")
    assert "constructor.json" in refused(arguments, capsys)
    (folder / "constructor.json").write_text(json.dumps(values))
    (folder / "network_mapping.npz").unlink()
    assert "--network-map" in refused(arguments, capsys)


def test_foreign_or_damaged_weights_are_refused(case: Any, capsys: Any) -> None:
    folder, _, arguments = case
    original = (folder / "checkpoint.pth").read_bytes()
    for change, message in (
        (lambda c: c["model_state_dict"].update({"teacher_encoder.surprise": torch.zeros(1)}), "surprise"),
        (lambda c: c["model_state_dict"].pop("teacher_encoder.norm.weight"), "layernorm.weight"),
        (lambda c: c["model_state_dict"].update({"student_mask_predictor.mlp.0.bias": torch.ones(24)}), "differs"),
        (lambda c: c.update(model_state_dict={"layer.weight": torch.zeros(2)}), "not weights of Brain-Semantoks"),
    ):
        (folder / "checkpoint.pth").write_bytes(original)
        rewrite(folder, change)
        assert message in refused(arguments, capsys)
    (folder / "checkpoint.pth").write_bytes(original[:5000])
    assert "truncated" in refused(arguments, capsys)
    (folder / "checkpoint.pth").write_bytes(pickle.dumps({"model_state_dict": print}))
    assert "refused" in refused(arguments, capsys)
