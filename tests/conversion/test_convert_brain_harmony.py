"""The authors' files of BrainHarmony: both stages, what no key tells, and what is refused."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModelForPreTraining, AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_harmony

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "brain_harmony"
HEADS = ("--num-attention-heads", "4", "--n-t1-tokens", "12")
STAGE1 = (*HEADS, "--decoder-num-attention-heads", "4")


def stage(number: int) -> dict[str, Any]:
    case = {1: "stage1_harmonizer_normpix", 2: "stage2_finetune_global_pool"}[number]
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(GOLDEN / case / "checkpoint.pth", weights_only=True)


def convert(content: Any, folder: Path, *more: str) -> int:
    torch.save(content, folder / "model.pth")
    return convert_brain_harmony.main(
        ["--checkpoint", str(folder / "model.pth"), "--output", str(folder / "converted"), *more]
    )


def test_stage_1_becomes_a_complete_folder(tmp_path: Path, capsys) -> None:
    content = stage(1)
    assert convert(content, tmp_path, *STAGE1) == 0
    assert f"{len(content['model'])} tensors converted, 0 dropped" in capsys.readouterr().out
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "converted")
    assert model.config.num_hub_tokens == 5
    assert torch.equal(model.decoder.position_embeddings, content["model"]["decoder_pos_embed"][0])
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert (extractor.n_fmri_tokens, extractor.n_t1_tokens, extractor.input_size) == (30, 12, 32)
    assert "never published" in (tmp_path / "converted" / "README.md").read_text()


def test_an_mlp_head_of_another_width_and_an_input_of_another_width(tmp_path: Path) -> None:
    content = stage(2)
    weights = content["model"]
    for name in ("head.weight", "head.bias"):
        del weights[name]
    generator = torch.Generator().manual_seed(0)
    for number, shape in ((1, (6, 32)), (2, (6, 6)), (3, (1, 6))):
        weights[f"head.lin{number}.weight"] = torch.randn(shape, generator=generator)
        weights[f"head.lin{number}.bias"] = torch.randn(shape[0], generator=generator)
    weights["pre_map.weight"], weights["pre_map.bias"] = torch.randn(32, 20, generator=generator), torch.zeros(32)
    assert convert(content, tmp_path, "--component", "finetuned", *HEADS) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted").eval()
    assert (model.config.problem_type, model.config.classifier_hidden_size) == ("regression", 6)
    tokens = torch.randn(2, 42, 20, generator=generator)
    with torch.no_grad():
        output = model(tokens)
    hidden = output.pooler_output
    for number in (1, 2, 3):
        hidden = hidden.relu() if number > 1 else hidden
        hidden = hidden @ weights[f"head.lin{number}.weight"].T + weights[f"head.lin{number}.bias"]
    torch.testing.assert_close(output.logits, hidden)


@pytest.mark.parametrize(
    ("number", "change", "options", "message"),
    [
        (1, {}, HEADS, "Pass --decoder-num-attention-heads"),
        (1, {}, ("--n-t1-tokens", "12"), "Pass --num-attention-heads"),
        (1, {}, STAGE1[:2] + STAGE1[4:], "42 tokens, of which 1200 cannot be of T1"),
        (1, {}, ("--component", "finetuned", *HEADS), "this one has a decoder"),
        (2, {}, STAGE1, "this one has a head"),
        (1, {}, ("--component", "all", *STAGE1), "takes both encoders, got no --fmri-checkpoint"),
        (1, {"other.weight": torch.zeros(2)}, STAGE1, "1 keys of the checkpoint are unknown"),
        (1, {"latent_tokens": torch.zeros(4, 32)}, STAGE1, "of another shape"),
        (1, {"norm.weight": "x"}, STAGE1, "norm.weight holds a str"),
    ],
)
def test_what_does_not_fit_is_refused(
    number: int, change: dict, options: tuple[str, ...], message: str, tmp_path: Path, capsys
) -> None:
    content = stage(number)
    content["model"] |= change
    assert convert(content, tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "converted").exists()
