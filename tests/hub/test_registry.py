"""Names of models: what they mean, how to get weights of that name, and near misses."""

import argparse
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

import brain_transformers as bt
from brain_transformers.cli import convert
from brain_transformers.cli.main import main
from brain_transformers.hub.registry import MODELS, conversion_command

LOADERS: dict[str, Callable] = {
    "AutoConfig": AutoConfig.from_pretrained,
    "AutoFeatureExtractor": AutoFeatureExtractor.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForPreTraining": AutoModelForPreTraining.from_pretrained,
    "configuration": bt.BrainLMConfig.from_pretrained,
    "extractor": bt.ROISeriesFeatureExtractor.from_pretrained,
    "model": bt.BrainLMModel.from_pretrained,
}


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and no way to any server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("a server was asked"))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("name", ["brainlm-13m", "brain-jepa-base", "brain-semantoks-base"])
def test_a_known_name_without_a_folder_says_how_to_get_the_weights(name: str, load: str, no_server: None) -> None:
    begin = time.perf_counter()
    with pytest.raises(OSError, match=f"brain-transformers get {name}") as caught:
        LOADERS[load](name)
    assert time.perf_counter() - begin < 2
    assert str(MODELS[name].source) in str(caught.value)
    assert f"brain_transformers.new_model({name!r}, dataset)" in str(caught.value)


@pytest.mark.parametrize("load", LOADERS)
def test_near_names_are_proposed_and_folders_come_first(load: str, no_server: None) -> None:
    with pytest.raises(OSError, match="'brainlm-13m' is one"):
        LOADERS[load]("brainlm-13")
    with pytest.raises(OSError, match="None were published"):
        LOADERS[load]("brainlm-tiny")
    config = bt.load_config("brainlm-tiny")
    bt.BrainLMForMaskedModeling(config).save_pretrained("brainlm-13m")
    bt.ROISeriesFeatureExtractor.from_model_config(config).save_pretrained("brainlm-13m")
    LOADERS[load]("brainlm-13m")
    shutil.rmtree("brainlm-13m")


def test_unknown_configurations_and_fields_propose_near_names() -> None:
    with pytest.raises(ValueError, match="Did you mean 'brain-jepa-base'"):
        bt.load_config("brain_jepa-base")
    with pytest.raises(ValueError, match=r"no field hiden_size\. Did you mean hidden_size"):
        bt.load_config("brainlm-13m", hiden_size=128)
    with pytest.raises(ValueError, match=r"hidden_size.*in the configuration of brainlm-13m"):
        bt.load_config("brainlm-13m", hidden_size=-1)
    config = bt.load_config("brainlm-13m", num_labels=3, attn_implementation="eager", dtype="bfloat16")
    assert config.num_labels == 3


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, command) for name in ("brainlm-13m", "brainlm-13", "typo/name") for command in ("embed", "finetune")],
)
def test_commands_say_it_in_one_line(name: str, command: str, tiny_dataset: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tiny_dataset.parent)
    words = {
        "embed": ["embed", "dataset", "--model", name, "--output", "table.csv"],
        "finetune": ["finetune", "--dataset", "dataset", "--model", name, "--label", "sex", "--output", "run"],
    }[command]
    try:
        code = main(words)
    except SystemExit as left:  # as argparse does
        code = int(left.code or 0)
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert name in line
    if name == "brainlm-13m":
        assert "`brain-transformers get brainlm-13m` fetches them" in line
    if name == "brainlm-13":
        assert "Did you mean brainlm-13m?" in line


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(12, 60)).astype(np.float32) for _ in range(4)]
    labels = [f"p{number}" for number in range(12)]
    dataset = bt.dataset_from_arrays(arrays, t_r=0.735, roi_order=labels, subject=[*"abcd"], sex=[*"FMFM"])
    dataset.save_to_disk(tmp_path / "dataset")
    return tmp_path / "dataset"


@pytest.mark.parametrize("name", bt.list_models(published=True))
def test_the_command_of_a_published_model_is_one_that_its_converter_takes(name: str, monkeypatch) -> None:
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(convert, "_convert", lambda family, args: seen.append(args) or 0)
    program, *words = conversion_command(name).split()
    assert program == "brain-transformers"
    assert main(words) == 0
    (options,) = seen
    assert str(options.output) == name
    assert str(options.checkpoint) in f"{MODELS[name].source}"
    assert MODELS[name].source.startswith(options.source)
