"""The cards in the repository say what the registry says, and their example runs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import brain_transformers as bt
from brain_transformers.hub.model_card import build_model_card
from brain_transformers.hub.registry import MODELS
from brain_transformers.hub.sharing import save_model_folder


def test_cards_are_current(repository: Path) -> None:
    result = subprocess.run(
        [sys.executable, "model_cards/generate.py", "--check"],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", bt.list_models(published=True))
def test_metadata_of_a_card_can_be_read(name: str, repository: Path) -> None:
    card = ModelCard.load(repository / "model_cards" / f"{name}.md")
    entry = MODELS[name]
    assert card.data.license == entry.license
    assert card.data.library_name == "brain-transformers"
    for script in re.findall(r"python (conversion/\S+)", card.content):
        assert (repository / script).is_file(), script
    for text in (f"{entry.parameters:,}", *entry.limits, entry.citation, entry.source):
        assert text in card.content


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("brainlm-tiny", {"roi_order": None, "t_r": None}),
        ("brainlm-tiny", {"roi_order": [f"area {number}" for number in range(12)]}),
        ("brainlm-vit-tiny", {"n_rois": 50, "roi_order": "tian-s3@y"}),
    ],
)
def test_the_example_of_a_card_runs(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    config = bt.load_config(name, **options)
    stem = type(config).__name__.removesuffix("Config")
    model = getattr(bt, f"{stem}ForMaskedModeling")(config)
    rng = np.random.default_rng(0)
    coordinates = rng.normal(size=(config.n_rois, 3)).astype(np.float32)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, coordinates=coordinates)
    card = build_model_card(name, MODELS[name], config)
    save_model_folder(model, tmp_path / "model", extractor=extractor, card=card)

    example = re.search(r"```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(), re.DOTALL)
    assert example is not None
    code = example[1].replace("path/or/org/name", str(tmp_path / "model"))
    scans = [rng.normal(size=(config.n_rois, 60)).astype(np.float32) for _ in range(3)]
    namespace: dict[str, Any] = {"bold": scans[0], "scans": scans, "t_r": 0.72}
    with torch.no_grad():
        exec(code, namespace)
    assert namespace["features"].shape[1] == config.hidden_size
    assert bool(torch.isfinite(namespace["features"]).all())
