"""The authors' files of Harmonix-S: what is taken, what is left out, and what is refused."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_harmonix_s

CHECKPOINT = Path(__file__).resolve().parents[1] / "golden" / "brain_harmony" / "t1_encoder" / "checkpoint.pth"


def convert(content: Any, folder: Path, *more: str, heads: int | None = 3) -> int:
    torch.save(content, folder / "model.pth")
    arguments = ["--checkpoint", str(folder / "model.pth"), "--output", str(folder / "converted"), *more]
    return convert_harmonix_s.main([*arguments, *(["--num-attention-heads", str(heads)] if heads else [])])


@pytest.fixture
def content() -> dict[str, Any]:
    return torch.load(CHECKPOINT, weights_only=True)


def test_a_training_file_becomes_a_complete_folder(content: dict[str, Any], tmp_path: Path, capsys) -> None:
    """With the arguments of the run, which the authors' training code saves beside the weights."""
    content |= {"args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {}, "param_groups": []}}
    content["model"]["decoder_blocks.0.norm1.weight"] = torch.ones(8)
    content["model"]["decoder_pos_embed"] = torch.ones(1, 1201, 8)
    assert convert(content, tmp_path) == 0
    said = capsys.readouterr().out
    assert "30 tensors converted, 9 dropped" in said
    assert "dropped decoder_embed (2 tensors)" in said
    assert "did not publish" in said
    model = AutoModel.from_pretrained(tmp_path / "converted")
    assert type(model).__name__ == "HarmonixSModel"
    assert torch.equal(model.embeddings.positions, content["model"]["pos_embed"])
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert extractor.image_size == [40, 48, 40]
    card = (tmp_path / "converted" / "README.md").read_text()
    assert "position table" in card
    assert json.loads((tmp_path / "converted" / "config.json").read_text())["architectures"] == ["HarmonixSModel"]


@pytest.mark.parametrize(
    ("change", "heads", "message"),
    [
        ({}, None, "Pass --num-attention-heads"),
        ({"pos_embed": torch.zeros(1, 513, 24)}, 3, "10 x 12 x 10 patches"),
        ({"patch_embed.proj.weight": torch.zeros(24, 1, 4, 4, 2)}, 3, "one channel and cubes"),
        ({"fc_norm.weight": torch.ones(24)}, 3, "1 keys of the checkpoint are unknown"),
        ({"module.cls_token": torch.zeros(1, 1, 24)}, 3, "both cls_token and module.cls_token"),
        ({"norm.weight": None}, 3, "norm.weight holds a NoneType"),
    ],
)
def test_what_is_not_harmonix_s_is_refused(
    content: dict[str, Any], tmp_path: Path, capsys, change: dict, heads: int | None, message: str
) -> None:
    content["model"] |= change
    assert convert(content, tmp_path, heads=heads) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "converted").exists()
