"""`embed` and `probe` on a small model: resumable, and honest about what changed."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch

import brain_transformers as bt
from brain_transformers import BrainLMConfig, BrainLMForMaskedModeling, ROISeriesFeatureExtractor
from brain_transformers.cli.main import main
from brain_transformers.data.builders import dataset_from_arrays
from brain_transformers.evaluation.embedding_parts import read_table
from brain_transformers.parts import Shard

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
    model.brainlm.set_table("coordinates", torch.randn(4, 3), source="test")
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


def test_scans_of_another_kind_and_files_that_are_none_are_told_first(folder: Path, tmp_path: Path, capsys) -> None:
    config = bt.load_config("harmonix-s-tiny")
    bt.HarmonixSModel(config).save_pretrained(tmp_path / "t1")
    bt.T1FeatureExtractor.from_model_config(config).save_pretrained(tmp_path / "t1")
    table = tmp_path / "table.parquet"
    embed(folder, table)
    before = table.read_bytes()
    capsys.readouterr()
    for more in ([], ["--tokens"]):
        output = tmp_path / "tokens" if more else table
        command = ["embed", str(folder / "dataset"), "--model", str(tmp_path / "t1"), "--output", str(output)]
        assert main([*command, "--device", "cpu", *more]) == 2
        said = capsys.readouterr()
        assert "expected rows with t1, as the model reads them, got series of ROIs" in said.err
        assert not said.out
        assert "scan/s" not in said.err
    command = ["embed", str(table), "--model", str(folder / "model"), "--output", str(tmp_path / "q.csv")]
    assert main([*command, "--device", "cpu"]) == 2
    assert f"{table} is no scan: expected a file ending in .npy" in capsys.readouterr().err
    assert table.read_bytes() == before


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
        calls.append([row["subject"] for row in dataset])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(model, dataset, *args, **kwargs)

    monkeypatch.setattr(embedding, "embed_dataset", stop_at_second)
    assert embed(folder, tmp_path / "table.parquet") == 130
    assert "Go on with: brain-transformers embed" in capsys.readouterr().err
    assert not (tmp_path / "table.parquet").exists()
    calls.append([])
    assert embed(folder, tmp_path / "table.parquet") == 0
    assert "1 of 3 parts are there already" in capsys.readouterr().out
    assert calls[3:] == [["d", "e", "f"], ["g", "h"]]
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "table.parquet"), pd.read_parquet(tmp_path / "straight.parquet")
    )


def stop_after(monkeypatch, n_parts: int) -> None:
    """Let `embed` be interrupted when so many parts are finished."""
    from brain_transformers.evaluation import embedding

    whole, calls = embedding.embed_dataset, []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) > n_parts:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(embedding, "embed_dataset", stop)


def test_parts_of_other_settings_are_not_joined(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert embed(folder, tmp_path / "table.parquet") == 130
    assert embed(folder, tmp_path / "table.parquet", "--pooling", "mean") == 2
    said = capsys.readouterr().err
    assert "pooling: model then, mean now" in said
    assert "--overwrite" in said
    assert embed(folder, tmp_path / "table.parquet", "--pooling", "mean", "--overwrite") == 0
    assert embed(folder, tmp_path / "table.parquet") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_processor_fitted_anew_is_another_run(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    model = shutil.copytree(folder / "model", tmp_path / "model")
    extractor = ROISeriesFeatureExtractor.from_pretrained(model)
    statistics = {"median": [0.0] * 4, "iqr": [1.0] * 4, "n_scans": 1}
    ROISeriesFeatureExtractor.from_dict(
        {**extractor.to_dict(), "normalization": "robust", "statistics": statistics}
    ).save_pretrained(model)
    command = ["embed", str(folder / "dataset"), "--model", str(model), "--output", str(tmp_path / "table.parquet")]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main([*command, "--part-size", "3"]) == 130
    statistics["iqr"][2] = 2.0
    ROISeriesFeatureExtractor.from_dict(
        {**extractor.to_dict(), "normalization": "robust", "statistics": statistics}
    ).save_pretrained(model)
    assert main([*command, "--part-size", "3"]) == 2
    assert "processor.statistics" in capsys.readouterr().err
    assert not (tmp_path / "table.parquet").exists()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "pooling": "mean"}))
    assert main([*command, "--part-size", "3"]) == 2
    assert "model.pooling: cls then, mean now" in capsys.readouterr().err
    # Nothing that took time is in the way of another run.
    assert main([*command, "--part-size", "3", "--overwrite"]) == 0


def test_nothing_is_lost_before_the_new_table_is_whole(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    output = tmp_path / "table.parquet"
    assert embed(folder, output) == 0
    before = output.read_bytes()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert embed(folder, output, "--pooling", "mean", "--overwrite") == 130
    assert output.read_bytes() == before
    part = tmp_path / ".table.parquet.parts" / "part-00000.parquet"
    values = pd.read_parquet(part)
    values.assign(e000=values["e000"] + 1).to_parquet(part, index=False)  # readable, and not what was written
    capsys.readouterr()
    assert embed(folder, output, "--pooling", "mean", "--overwrite") == 0
    said = capsys.readouterr().out
    assert "part-00000.parquet is damaged and made again" in said
    assert "1 of 3 parts are there already" in said
    assert embed(folder, tmp_path / "straight.parquet", "--pooling", "mean") == 0
    assert output.read_bytes() == (tmp_path / "straight.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["straight.parquet", "table.parquet"]


def test_a_second_process_waits_outside(folder: Path, tmp_path: Path, capsys) -> None:
    holder = "import sys, time; from brain_transformers.files import locked\nwith locked(sys.argv[1], 'embedding'):\n"
    holder += "    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "table.csv")], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            assert embed(folder, tmp_path / "table.csv") == 2
            assert f"process {process.pid}" in capsys.readouterr().err
        finally:
            process.kill()
    assert embed(folder, tmp_path / "table.csv") == 0


def shard_command(folder: Path, output: Path, *more: str) -> list[str]:
    model = ["--model", str(folder / "model"), "--device", "cpu", "--part-size", "1"]
    return ["embed", str(folder / "dataset"), *model, "--output", str(output), *more]


def test_shards_joined_are_the_table_of_one_run_whatever_was_killed(folder: Path, tmp_path: Path, capsys) -> None:
    straight, output = tmp_path / "straight.parquet", tmp_path / "table.parquet"
    shards = tmp_path / "table.parquet.shards"
    assert main(shard_command(folder, straight)) == 0
    assert main(shard_command(folder, output, "--merge")) == 2
    assert "there are no shards to join" in capsys.readouterr().err
    for number in (3, 1):
        assert main(shard_command(folder, output, "--shard", f"{number}/3")) == 0
    assert main(shard_command(folder, output, "--merge")) == 2
    assert "1 of 3 shards are not there yet (2/3)" in capsys.readouterr().err
    # As a cluster does it: without a word, at any moment.
    code = "import sys; from brain_transformers.cli.main import main; sys.exit(main(sys.argv[1:]))"
    killed = 0
    for wait in (0.05, 0.1, 0.0):
        command = shard_command(folder, output, "--shard", "2/3")
        with subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not any(shards.glob(".shard-00002-of-00003.parts/part-*")):
                time.sleep(0.002)
            time.sleep(wait)
            process.kill()
        killed += process.returncode != 0
    assert killed
    assert main(shard_command(folder, output, "--shard", "2/3")) == 0
    kept = {path.name: path.read_bytes() for path in shards.iterdir()}
    assert sorted(kept) == sorted(
        ["settings.json", *(f"shard-0000{i}-of-00003.{end}" for i in (1, 2, 3) for end in ("json", "parquet"))]
    )
    capsys.readouterr()
    assert main(shard_command(folder, output, "--shard", "2/3")) == 0
    assert "shard 2/3 is in" in capsys.readouterr().out
    assert main(shard_command(folder, output, "--shard", "2/3", "--pooling", "mean")) == 2
    assert "pooling: model then, mean now" in capsys.readouterr().err
    assert main(shard_command(folder, output, "--shard", "2/4")) == 2
    assert "shards: 3 then, 4 now" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == kept
    assert main(shard_command(folder, output, "--merge")) == 0
    assert output.read_bytes() == straight.read_bytes()
    assert not shards.exists()
    capsys.readouterr()
    for again in (["--merge"], ["--shard", "2/3"]):
        assert main(shard_command(folder, output, *again)) == 0
        assert "all 8 scans are in" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "1", "a/b", "slurm"])
def test_shards_that_are_none_are_refused(folder: Path, tmp_path: Path, capsys, monkeypatch, wrong: str) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert main(shard_command(folder, tmp_path / "t.parquet", "--shard", wrong)) == 2
    assert f"--shard {wrong}" in capsys.readouterr().err


def test_a_job_array_of_slurm_is_a_set_of_shards(monkeypatch) -> None:
    for place, expected in ((7, 1), (9, 2), (11, 3)):  # sbatch --array=7-11:2
        for name, value in {"ID": place, "MIN": 7, "COUNT": 3, "STEP": 2}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert Shard.parse("slurm") == Shard(expected, 3)
    shares = [list(Shard(number, 3).share(8)) for number in (1, 2, 3)]
    assert sorted(place for share in shares for place in share) == list(range(8))
    assert {len(share) for share in shares} == {2, 3}


@pytest.mark.parametrize("name", ["table.parquet", "table.csv", "table.npz"])
def test_a_table_gets_the_scans_that_it_lacks_and_never_those_of_other_settings(
    folder: Path, tmp_path: Path, capsys, monkeypatch, name: str
) -> None:
    rows, output = datasets.load_from_disk(str(folder / "dataset")).with_format("numpy"), tmp_path / name
    rows.select([0, 1, 2, 5]).save_to_disk(str(tmp_path / "few"))
    command = ["--model", str(folder / "model"), "--output", str(output), "--device", "cpu"]
    assert main(["embed", str(tmp_path / "few"), *command]) == 0
    before = read_table(output)
    assert main(["embed", str(folder / "dataset"), *command, "--pooling", "mean"]) == 2
    said = capsys.readouterr().err
    assert "made with other settings (pooling: model then, mean now)" in said
    from brain_transformers.evaluation import embedding

    seen, whole = [], embedding.embed_dataset
    monkeypatch.setattr(
        embedding,
        "embed_dataset",
        lambda model, rows, *more, **options: (
            seen.extend(row["subject"] for row in rows) or whole(model, rows, *more, **options)
        ),
    )
    assert main(["embed", str(folder / "dataset"), *command]) == 0
    assert seen == ["d", "e", "g", "h"]
    table = read_table(output)
    assert list(table["subject"]) == ["a", "b", "c", "f", "d", "e", "g", "h"]
    assert set(table["model"]) == {str(folder / "model")}
    assert table["revision"].nunique() == table["preprocessing"].nunique() == 1
    pd.testing.assert_frame_equal(table[:4].reset_index(drop=True), before, check_dtype=False)
    alone = tmp_path / f"alone-{name}"
    assert main(["embed", str(folder / "dataset"), *command[:3], str(alone), "--device", "cpu"]) == 0
    expected = read_table(alone).set_index("subject").loc[list(table["subject"])]
    columns = embedding.embedding_columns(table)
    np.testing.assert_allclose(table[columns].to_numpy(), expected[columns].to_numpy(), rtol=1e-5)  # other batches
    written = output.read_bytes()
    assert main(["embed", str(folder / "dataset"), *command]) == 0
    assert "all 8 scans are in" in capsys.readouterr().out
    assert output.read_bytes() == written
    assert main(["probe", str(output), "--label", "sex", "--folds", "2"]) == 0


def save_rows(folder: Path, signals: list, **columns) -> Path:
    dataset_from_arrays(signals, roi_order=LABELS, t_r=2.0, **columns).save_to_disk(str(folder))
    return folder


def test_scans_that_cannot_be_used(folder: Path, tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(1)
    scans = [rng.normal(size=(4, 40)).astype(np.float32) for _ in range(5)]
    scans[2] = np.zeros_like(scans[2])
    scans[4] = np.full_like(scans[4], np.nan)
    data = save_rows(tmp_path / "data", scans, subject=list("abcde"))
    common = ["embed", str(data), "--model", str(folder / "model"), "--part-size", "2"]
    output = tmp_path / "table.parquet"
    assert main([*common, "--output", str(output), "--on-error", "raise"]) == 2
    said = capsys.readouterr().err
    assert "scan c" in said
    assert "pass --on-error skip" in said
    assert not output.exists()
    assert main([*common, "--output", str(output), "--strict"]) == 1  # written nevertheless
    said = capsys.readouterr().out
    assert "3 scans x 8 features" in said
    assert "2 of 5 scans were left out" in said
    table = pd.read_parquet(output)
    assert list(table["subject"]) == ["a", "b", "d"]
    report = pd.read_csv(tmp_path / "table.skipped.tsv", sep="\t")
    assert list(report["scan"]) == ["scan c", "scan e"]
    assert list(report["row"]) == [2, 4]
    assert "1 of 3 parts are there already" in said  # the first two scans were finished before
    assert main(["embed", str(folder / "dataset"), *common[2:], "--output", str(output), "--overwrite"]) == 0
    assert not (tmp_path / "table.skipped.tsv").exists()  # it was of the earlier table
    (tmp_path / "mine.skipped.tsv").write_text("a file of the user")
    assert main([*common, "--output", str(tmp_path / "mine.csv"), "--on-error", "skip"]) == 2
    assert (tmp_path / "mine.skipped.tsv").read_text() == "a file of the user"
    capsys.readouterr()
    nothing = save_rows(tmp_path / "nothing", [scans[2]] * 2)
    common[1] = str(nothing)
    assert main([*common, "--output", str(tmp_path / "none.csv"), "--on-error", "skip"]) == 2
    assert "None of 2 scans" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()


def test_embeddings_that_are_not_finite_are_not_written(folder: Path, tmp_path: Path, capsys) -> None:
    model = BrainLMForMaskedModeling.from_pretrained(folder / "model")
    with torch.no_grad():
        model.brainlm.layernorm.weight[0] = torch.inf
    broken = shutil.copytree(folder / "model", tmp_path / "broken")
    model.save_pretrained(broken)
    command = ["embed", str(folder / "dataset"), "--model", str(broken), "--output", str(tmp_path / "t.parquet")]
    assert main(command) == 2
    assert "scan a: 1 of 8 values are not finite" in capsys.readouterr().err
    assert not (tmp_path / "t.parquet").exists()


def test_a_name_without_weights_says_where_they_are(folder: Path, tmp_path: Path, capsys) -> None:
    command = ["embed", str(folder / "dataset"), "--output", str(tmp_path / "t.csv"), "--model"]
    assert main([*command, "brainlm-13m"]) == 2
    assert "brain-transformers get brainlm-13m" in capsys.readouterr().err
    broken = shutil.copytree(folder / "model", tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": 1.5}}))
    assert main([*command, str(broken)]) == 2
    assert str(broken) in capsys.readouterr().err


def test_columns_of_other_meaning(folder: Path, tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(2)
    data = save_rows(
        tmp_path / "data",
        [rng.normal(size=(4, 20)) for _ in range(6)],
        subject=["=1+1", "+a", "-b", "@c", "01", "001"],
        split=["x", "y"] * 3,
        n_windows=[7] * 6,
        e008=[0, 1] * 3,
        window=["w"] * 6,
    )
    common = ["embed", str(data), "--model", str(folder / "model"), "--output"]
    assert main([*common, str(tmp_path / "t.parquet")]) == 0
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert list(table["participant_split"]) == ["x", "y"] * 3
    assert list(table["participant_n_windows"]) == [7] * 6
    assert list(table["n_windows"]) == [1] * 6
    assert list(table["window"]) == ["w"] * 6
    assert list(table["subject"]) == ["=1+1", "+a", "-b", "@c", "01", "001"]
    assert main([*common, str(tmp_path / "t.csv")]) == 0
    assert main(["probe", str(tmp_path / "t.csv"), "--label", "n_windows"]) == 2
    assert "participant_n_windows" in capsys.readouterr().out
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert any("'=1+1" in line for line in lines)
    assert not any(cell[:1] in ("=", "+", "@") for line in lines for cell in line.split(","))
    for name in ("t.parquet", "t.csv"):
        scores = tmp_path / f"{name}.json"
        arguments = ["probe", str(tmp_path / name), "--label", "e008", "--folds", "3", "--output", str(scores)]
        assert main(arguments) == 0
        assert json.loads(scores.read_text())["n_groups"] == 6
        assert "classification of e008: 2 classes, 6 rows, 6 groups" in capsys.readouterr().out


def test_several_splits_beside_a_column_split(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = dataset_from_arrays([rng.normal(size=(4, 20))] * 2, roi_order=LABELS, t_r=2.0, split=["x", "y"])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "data"))
    command = ["embed", str(tmp_path / "data"), "--model", str(folder / "model"), "--output", str(tmp_path / "t.csv")]
    assert main(command) == 0
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table["split"]) == ["train", "train", "test", "test"]
    assert list(table["participant_split"]) == ["x", "y", "x", "y"]


def test_scale_is_fitted_where_the_model_has_none(folder: Path, tmp_path: Path, capsys) -> None:
    model = shutil.copytree(folder / "model", tmp_path / "model")
    extractor = ROISeriesFeatureExtractor.from_pretrained(model)
    unfitted = ROISeriesFeatureExtractor.from_dict({**extractor.to_dict(), "normalization": "robust"})
    unfitted.save_pretrained(model)
    kept = (model / "preprocessor_config.json").read_bytes()
    data = str(folder / "dataset")
    common = ["embed", data, "--model", str(model), "--output", str(tmp_path / "t.parquet")]
    assert main(common) == 2
    assert "--fit-on" in capsys.readouterr().err
    assert main([*common, "--fit-on", f"{data}:train"]) == 2
    assert "no splits" in capsys.readouterr().err
    assert main([*common, "--fit-on", data]) == 0
    assert "scale fitted on 8 scans" in capsys.readouterr().out
    assert (model / "preprocessor_config.json").read_bytes() == kept
    assert main([*common, "--fit-on", data, "--save-processor", str(model), "--overwrite"]) == 0
    saved = ROISeriesFeatureExtractor.from_pretrained(model)
    expected = unfitted.fit(datasets.load_from_disk(data).with_format("numpy")).statistics
    assert saved.statistics == expected
    first = pd.read_parquet(tmp_path / "t.parquet")
    assert main([*common[:-1], str(tmp_path / "again.parquet")]) == 0
    pd.testing.assert_frame_equal(first, pd.read_parquet(tmp_path / "again.parquet"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"subject,e000\na,1\nb"),
        ("t.csv", b"\xff\xfe\x00"),
        ("t.csv", b""),
        ("t.parquet", b"PAR1PAR1"),
        ("t.csv", b"subject,sex,e000\na,f,x\nb,m,1\n"),
        ("t.csv", b"subject,sex,e000\na,f,inf\nb,m,1\n"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, capsys, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["probe", str(tmp_path / name), "--label", "sex"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / name) in said
    assert "--debug" not in said


def test_probe_reads_the_table(folder: Path, tmp_path: Path, capsys) -> None:
    assert embed(folder, tmp_path / "table.csv") == 0
    scores = tmp_path / "scores.json"
    assert main(["probe", str(tmp_path / "table.csv"), "--label", "sex", "--folds", "2", "--output", str(scores)]) == 0
    content = json.loads(scores.read_text())
    assert content["task"] == "classification"
    assert content["n_groups"] == 8
    assert 0 <= content["scores"]["accuracy"] <= 1
    assert main(["probe", str(tmp_path / "table.csv"), "--label", "age"]) == 2
    assert "table.csv: there is no column 'age'" in capsys.readouterr().err


def test_a_guess_without_features_has_no_correlation(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"subject": list("abcde"), "age": [20.0, 30.5, 41, 52, 67], "e000": rng.normal(size=5)})
    table.to_csv(tmp_path / "table.csv", index=False)
    words = ["probe", str(tmp_path / "table.csv"), "--label", "age", "--output", str(tmp_path / "scores.json")]
    assert main([*words, "--task", "regression"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("pearson_r "))
    assert line.endswith("(n/a)")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["baseline"]["pearson_r"] is None
    assert scores["scores"]["pearson_r"] is not None


def test_a_folder_of_scans_is_read_first(folder: Path, tmp_path: Path, capsys) -> None:
    root, output = tmp_path / "lab", tmp_path / "t.parquet"
    root.mkdir()
    rng = np.random.default_rng(3)
    for number in range(12):
        header = "\t".join(LABELS)
        values = rng.normal(size=(40, 4))
        np.savetxt(root / f"sub-{number:02d}_timeseries.tsv", values, delimiter="\t", header=header, comments="")
    (root / "participants.tsv").write_text(
        "participant_id\tsex\n" + "".join(f"sub-{number:02d}\t{'fm'[number % 2]}\n" for number in range(12))
    )
    (root / "sub-05_timeseries.tsv").write_text("x")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    told = ["--t-r", "2", "--roi-order", str(tmp_path / "labels.txt")]
    command = ["embed", str(root), "--model", str(folder / "model"), "--output", str(output), *told]
    with pytest.warns(UserWarning, match="1 of 12 files were left out"):
        assert main([*command, "--strict"]) == 1
    said = capsys.readouterr().out
    assert "11 scans x 8 features" in said
    assert "1 of 12 scans were left out" in said
    table = pd.read_parquet(output)
    assert table["subject"].tolist() == [f"{number:02d}" for number in range(12) if number != 5]
    assert table["sex"].tolist()[:4] == ["f", "m", "f", "m"]
    assert "sub-05_timeseries.tsv" in (tmp_path / "t.skipped.tsv").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "labels.txt", "t.parquet", "t.skipped.tsv"]
    # The same in two steps, in Python, and file by file.
    with pytest.warns(UserWarning, match="1 of 12 files were left out"):
        assert main(["prepare", str(root), "--output", str(tmp_path / "dataset"), *told]) == 0
    with pytest.warns(UserWarning, match="1 of 12 files were left out"):
        in_python = bt.embed(root, folder / "model", t_r=2.0, roi_order=LABELS, progress=False)
    prepared = bt.embed(tmp_path / "dataset", str(folder / "model"), progress=False)
    files = [root / "sub-03_timeseries.tsv", root / "sub-00_timeseries.tsv"]
    single = bt.embed(files, str(folder / "model"), t_r=2.0, roi_order=LABELS, progress=False)
    for other in (in_python, prepared):
        pd.testing.assert_frame_equal(other, table, check_dtype=False, rtol=1e-5)
    assert single["subject"].tolist() == ["03", "00"]
    assert [entry["scan"] for entry in in_python.attrs["left_out"]] == ["sub-05_timeseries.tsv"]
    capsys.readouterr()
    for wrong, said in (
        ([str(tmp_path / "none")], "there is no such folder or file"),
        ([str(root), "--shard", "1/2"], "holds files. Run `brain-transformers prepare"),
        ([str(tmp_path / "dataset"), "--t-r", "2"], "t_r would change nothing"),
    ):
        assert main(["embed", *wrong, *command[2:4], "--output", str(tmp_path / "other.csv")]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["embed", str(tmp_path / "empty"), *command[2:4], "--output", str(tmp_path / "other.csv")]) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err


def test_model_that_is_not_there(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "no-model").mkdir()
    arguments = ["--model", str(tmp_path / "no-model"), "--output", str(tmp_path / "t.csv")]
    assert main(["embed", str(folder / "dataset"), *arguments]) == 2
    message = capsys.readouterr().err
    assert "preprocessor_config.json" in message
    assert "Traceback" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["no-model"]


def test_probe_says_where_each_file_counts_as_a_person(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "subject": [f"scan{number}" for number in range(12)],
            "source_file": [f"scan{number}.npy" for number in range(12)],
            "age": [*range(20, 31), None],
            **{f"e{number:03d}": rng.normal(size=12) for number in range(3)},
        }
    )
    table.to_parquet(tmp_path / "old.parquet")
    table.assign(subject_known=[True] * 11 + [False]).to_csv(tmp_path / "new.csv", index=False)
    scores = tmp_path / "scores.json"
    assert main(["probe", str(tmp_path / "old.parquet"), "--label", "age", "--output", str(scores)]) == 0
    said = capsys.readouterr().out
    assert "each of 11 files counts as a person of its own" in said
    assert "regression of age: regression of 11 distinct numbers" in said
    assert json.loads(scores.read_text(), parse_constant=pytest.fail)["baseline"]["r2"] < 0
    assert main(["probe", str(tmp_path / "new.csv"), "--label", "age", "--groups", "e000"]) == 2
    assert "new.csv: there is no column 'e000' beside the embedding" in capsys.readouterr().err
    assert main(["probe", str(tmp_path / "new.csv"), "--label", "age"]) == 0
    assert "as a person" not in capsys.readouterr().out  # the one of unknown subject has no age


def test_scores_that_are_not_defined_are_null(tmp_path: Path, capsys) -> None:
    features = {"e000": np.arange(4.0), "e001": np.ones(4)}
    pd.DataFrame({"subject": list("abab"), "age": [20.5, 20.5, 30.5, 20.5], **features}).to_csv(
        tmp_path / "t.csv", index=False
    )
    scores = tmp_path / "scores.json"
    assert main(["probe", str(tmp_path / "t.csv"), "--label", "age", "--output", str(scores)]) == 0
    content = json.loads(scores.read_text(), parse_constant=pytest.fail)
    assert None in content["fold_scores"]["r2"]
    assert "r2 is not defined in 1 of 2 folds" in capsys.readouterr().out
