"""`embed` and `probe` on a small model: resumable, and honest about what changed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from brain_transformers import BrainLMConfig, BrainLMForMaskedModeling, ROISeriesFeatureExtractor
from brain_transformers.cli.main import main
from brain_transformers.data.builders import dataset_from_arrays

LABELS = [f"roi{number}" for number in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A saved model with its extractor, and a saved dataset of five scans."""
    folder = tmp_path_factory.mktemp("embed")
    config = BrainLMConfig(
        n_rois=4,
        n_timepoints=20,
        patch_size=5,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        conv_kernel_size=None,
        num_positions=4,
        roi_order=LABELS,
        t_r=2.0,
    )
    torch.manual_seed(0)
    model = BrainLMForMaskedModeling(config)
    model.brainlm.set_coordinates(torch.randn(4, 3), source="test")
    model.save_pretrained(folder / "model")
    ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore").save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    dataset_from_arrays(
        [rng.normal(size=(4, 45)) for _ in range(8)],
        roi_order=LABELS,
        t_r=2.0,
        subject=list("abcdefgh"),
        sex=["f", "m"] * 4,
    ).save_to_disk(str(folder / "dataset"))
    return folder


def embed(folder: Path, output: Path, *more: str) -> int:
    arguments = [
        "--model",
        str(folder / "model"),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--part-size",
        "3",
        *more,
    ]
    return main(["embed", str(folder / "dataset"), *arguments])


def test_table_is_whole_and_parts_are_gone(folder: Path, tmp_path: Path, capsys) -> None:
    assert embed(folder, tmp_path / "table.parquet") == 0
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert list(table["subject"]) == list("abcdefgh")
    assert list(table["n_windows"]) == [2] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]
    assert "8 scans x 8 features" in capsys.readouterr().out
    assert embed(folder, tmp_path / "table.csv") == 0
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "table.csv").filter(regex="^e\\d+$"), table.filter(regex="^e\\d+$"), check_dtype=False
    )


def test_interrupted_run_goes_on_where_it_stopped(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    from brain_transformers.evaluation import embedding

    assert embed(folder, tmp_path / "straight.parquet") == 0
    whole = embedding.embed_dataset
    calls = []

    def stop_at_second(model, dataset, *args, **kwargs):
        calls.append(list(dataset["subject"]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(model, dataset, *args, **kwargs)

    monkeypatch.setattr(embedding, "embed_dataset", stop_at_second)
    assert embed(folder, tmp_path / "table.parquet") == 130
    assert not (tmp_path / "table.parquet").exists()
    calls.append([])
    assert embed(folder, tmp_path / "table.parquet") == 0
    assert "1 of 3 parts are there already" in capsys.readouterr().out
    assert calls[3:] == [["d", "e", "f"], ["g", "h"]]
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "table.parquet"), pd.read_parquet(tmp_path / "straight.parquet")
    )


def test_parts_of_other_settings_are_not_joined(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    from brain_transformers.evaluation import embedding

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "embed_dataset", stop)
        assert embed(folder, tmp_path / "table.parquet") == 130
    assert embed(folder, tmp_path / "table.parquet", "--pooling", "mean") == 2
    assert "pooling" in capsys.readouterr().err
    assert embed(folder, tmp_path / "table.parquet", "--pooling", "mean", "--overwrite") == 0
    assert embed(folder, tmp_path / "table.parquet") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_probe_reads_the_table(folder: Path, tmp_path: Path, capsys) -> None:
    assert embed(folder, tmp_path / "table.csv") == 0
    scores = tmp_path / "scores.json"
    assert main(["probe", str(tmp_path / "table.csv"), "--label", "sex", "--folds", "2", "--output", str(scores)]) == 0
    content = json.loads(scores.read_text())
    assert content["task"] == "classification"
    assert content["n_groups"] == 8
    assert 0 <= content["scores"]["accuracy"] <= 1
    assert main(["probe", str(tmp_path / "table.csv"), "--label", "age"]) == 2
    assert "no column 'age'" in capsys.readouterr().err


def test_folder_that_is_no_dataset(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [
        "embed",
        str(tmp_path / "empty"),
        "--model",
        str(folder / "model"),
        "--output",
        str(tmp_path / "t.csv"),
    ]
    assert main(arguments) == 2
    assert "does not hold a saved dataset" in capsys.readouterr().err


def test_model_that_is_not_there(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "no-model").mkdir()
    arguments = ["--model", str(tmp_path / "no-model"), "--output", str(tmp_path / "t.csv")]
    assert main(["embed", str(folder / "dataset"), *arguments]) == 2
    message = capsys.readouterr().err
    assert "preprocessor_config.json" in message
    assert "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["no-model"]
