"""A new head on a saved body: what the body learns of its tables is saved with the whole."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.training.finetuning.new_head import load_with_new_head


def test_coordinates_stored_after_the_head_was_made_are_saved(tmp_path: Path) -> None:
    bt.BrainLMForMaskedModeling(bt.load_config("brainlm-tiny")).save_pretrained(tmp_path / "body")
    model = load_with_new_head(tmp_path / "body", {"num_labels": 2}).eval()
    model.base_model.set_table("coordinates", 30 * torch.randn(12, 3), source="a table")
    model.save_pretrained(tmp_path / "tuned")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    signals = torch.randn(2, 12, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded(signals).logits, model(signals).logits, rtol=0, atol=0)


@pytest.mark.parametrize("roi_order", [None, "tian-s3"])
def test_gradients_of_a_body_stay_those_that_were_stored(tmp_path: Path, roi_order: str | None) -> None:
    body = bt.BrainJEPAModel(bt.load_config("brain-jepa-tiny", roi_order=roi_order))
    body.set_table("gradients", torch.randn(50, 6), "mine")
    body.save_pretrained(tmp_path / "body")
    model = load_with_new_head(tmp_path / "body", {"num_labels": 2}).eval()
    model.save_pretrained(tmp_path / "tuned")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    assert loaded.config.gradient_source == "mine"
    signals = torch.randn(2, 50, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded(signals).logits, model(signals).logits, rtol=0, atol=0)
