"""Stage-0 files of the BrainHarmony authors: both forms, what is refused, and training from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.data import Stage0FolderBuilder, read_stage0, save_dataset
from brain_transformers.data.errors import ROISeriesReadError
from brain_transformers.training import MAETrainer, MAETrainingArguments


def tokens(seed: int, n_tokens: int = 42) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_tokens, 24)).astype(np.float32)


def mask(n_observed: int) -> np.ndarray:
    return (np.arange(30) < n_observed).astype(np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    np.savez(tmp_path / "files" / "1000.npz", data=tokens(0), attn_mask=mask(18))
    np.savez(
        tmp_path / "files" / "NYU~x-50642.npz", data=tokens(1)[None], attn_mask=mask(30)[None], label=np.array([1])
    )
    return tmp_path / "files"


def built(folder: Path) -> Any:
    builder = Stage0FolderBuilder(folder, cache_dir=folder.parent / "cache")
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def test_both_forms_of_file_become_the_same_rows(folder: Path) -> None:
    rows = built(folder)
    first, second = rows[0], rows[1]
    assert first["source_file"] == "1000.npz"
    assert np.isnan(first["label"])
    assert second["label"] == 1
    for row, seed, n_observed in ((first, 0, 18), (second, 1, 30)):
        assert np.array_equal(np.reshape(row["inputs_embeds"], (42, 24)), tokens(seed))
        assert np.array_equal(row["attention_mask"], mask(n_observed))
    config = bt.load_config("brain-harmony-tiny")
    inputs = bt.BrainHarmonyFeatureExtractor.from_model_config(config)([first, second], return_tensors="pt")
    assert torch.equal(inputs["inputs_embeds"][1], torch.from_numpy(tokens(1)))
    assert inputs["attention_mask"].sum(1).tolist() == [18, 30]
    save_dataset(rows, folder.parent / "saved")
    again = bt.load_dataset(folder.parent / "saved")
    assert np.array_equal(again[0]["inputs_embeds"], first["inputs_embeds"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": tokens(0)}, "attn_mask"),
        ({"data": tokens(0).ravel(), "attn_mask": mask(3)}, r"\(1008,\)"),
        ({"data": tokens(0), "attn_mask": mask(0)}, "some of them 1"),
        ({"data": tokens(0) * np.nan, "attn_mask": mask(3)}, "finite tokens"),
        ({"data": tokens(0), "attn_mask": np.ones(50)}, r"\(50,\)"),
        ({"data": np.array([{}]), "attn_mask": mask(3)}, "Python objects"),
    ],
)
def test_other_files_are_refused_by_name(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ROISeriesReadError, match=message) as error:
        read_stage0(tmp_path / "x.npz")
    assert "x.npz" in str(error.value)


def test_stage_1_trains_straight_from_the_files(folder: Path) -> None:
    rows = built(folder)
    torch.manual_seed(0)
    model = bt.BrainHarmonyForMaskedModeling(bt.load_config("brain-harmony-tiny"))
    extractor = bt.BrainHarmonyFeatureExtractor.from_model_config(model.config)
    arguments = MAETrainingArguments(
        output_dir=str(folder.parent / "run"),
        max_steps=30,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        warmup_steps=0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = MAETrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, processing_class=extractor
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.7 * before["eval_loss"]
    assert after["eval_r2"] > before["eval_r2"]
