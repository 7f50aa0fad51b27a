"""What comes from weights that must not be shared is uploaded by nobody's mistake, whichever way it goes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from fresh_process import run_python
from hub_server import HubServer
from tiny_pretraining import make_arguments, make_model, make_windows

import brain_transformers as bt
from brain_transformers.hub.trained_models import save_trained_model
from brain_transformers.models.uploads import licenses_of
from brain_transformers.training import MAETrainer

CARD = "---\nlibrary_name: brain-transformers\nlicense: {}\n---\n# card\n"


def restricted(folder: Path, license: str = "cc-by-nc-nd-4.0") -> Path:
    """A folder as converted before configurations knew a licence: only its card does."""
    model = bt.BrainLMModel(bt.load_config("brainlm-tiny"))
    return bt.save_model_folder(model, folder, card=CARD.format(license))


def test_a_folder_without_a_card_is_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bt.BrainLMModel(bt.load_config("brainlm-tiny")).save_pretrained(tmp_path)
    assert licenses_of(bt.BrainLMModel.from_pretrained(tmp_path).config) == set()
    assert "card" not in caplog.text


@pytest.mark.parametrize(
    ("license", "may"),
    [("cc-by-nc-nd-4.0", False), ("unknown", False), ("other", False), ("cc-by-nc-sa-4.0", True), ("mit", True)],
)
def test_a_licence_says_whether_weights_may_be_shared(license: str, may: bool, tmp_path: Path) -> None:
    folder = restricted(tmp_path / "model", license)
    # Offline: what may be shared fails only where it would reach the Hub.
    with pytest.raises(
        ConnectionError if may else PermissionError, match="OFFLINE" if may else "allow_restricted=True"
    ):
        bt.push_folder(folder, "lab/model")
    with pytest.raises(ConnectionError, match="OFFLINE"):
        bt.push_folder(folder, "lab/model", allow_restricted=True)


def test_children_adapters_and_copies_inherit_it(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    parent = restricted(tmp_path / "parent")
    model: Any = AutoModelForSequenceClassification.from_pretrained(parent, num_labels=2)
    model.save_pretrained(tmp_path / "copy")  # without a card
    child = save_trained_model(model, None, tmp_path / "child", tmp_path / "copy")
    adapter = get_peft_model(bt.BrainLMModel.from_pretrained(tmp_path / "copy"), LoraConfig(target_modules=["qkv"]))
    adapter.save_pretrained(tmp_path / "adapter")
    for folder in (tmp_path / "copy", child, tmp_path / "adapter"):
        with pytest.raises(PermissionError, match="forbids to share changed forms"):
            bt.push_folder(folder, "lab/model")
    assert ModelCard.load(child / "README.md").data.license == "cc-by-nc-nd-4.0"
    again = bt.BrainLMForSequenceClassification.from_pretrained(child)
    for push in (
        lambda: again.push_to_hub("lab/model"),
        lambda: again.save_pretrained(tmp_path / "x", push_to_hub=True),
    ):
        with pytest.raises(PermissionError, match="--allow-restricted"):
            push()


def test_a_trainer_refuses_before_it_trains_and_before_it_uploads(tmp_path: Path) -> None:
    model = make_model()
    model.config.weights_license = "unknown"
    sharing = {"push_to_hub": True, "hub_model_id": "lab/model"}
    with pytest.raises(PermissionError, match=r"nobody states.*allow_restricted"):
        MAETrainer(model, make_arguments(tmp_path, **sharing), train_dataset=make_windows(4))
    trainer = MAETrainer(model, make_arguments(tmp_path), train_dataset=make_windows(4))
    with pytest.raises(PermissionError, match="allow_restricted"):
        trainer.push_to_hub()


def test_weights_of_nobodys_are_free_and_stay_so(tmp_path: Path) -> None:
    model = bt.BrainLMForMaskedModeling(bt.load_config("brainlm-tiny"))
    save_trained_model(model, None, tmp_path / "mine", None)
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mine")
    save_trained_model(loaded, None, tmp_path / "tuned", tmp_path / "mine")
    for folder in (tmp_path / "mine", tmp_path / "tuned"):
        assert "weights_license" not in json.loads((folder / "config.json").read_text())
        with pytest.raises(ConnectionError, match="OFFLINE"):
            bt.push_folder(folder, "lab/model")
    assert "set by whoever publishes them" in (tmp_path / "tuned" / "README.md").read_text()
    assert licenses_of(loaded.config) == set()


PUSH = """
    import sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[1])
    from peft import LoraConfig, get_peft_model
    from tiny_pretraining import make_arguments, make_model, make_windows
    import brain_transformers as bt
    from brain_transformers.training import MAETrainer

    root = Path(sys.argv[2])
    model = make_model()
    model.config.weights_license = "cc-by-nc-nd-4.0"
    model.push_to_hub("lab/plain", allow_restricted=True)
    trainer = MAETrainer(model, make_arguments(root / "run", max_steps=1), train_dataset=make_windows(8))
    trainer.train()
    trainer.args.hub_model_id = "lab/trained"
    trainer.push_to_hub(private=True, allow_restricted=True)
    model.save_pretrained(root / "base")
    base = bt.BrainLMForMaskedModeling.from_pretrained(root / "base")
    adapted = get_peft_model(base, LoraConfig(target_modules=["qkv"], r=2, init_lora_weights=False))
    adapted.save_pretrained(root / "adapter")
    (root / "adapter" / "LICENSE").symlink_to(__import__("os").devnull)
    for push in (
        lambda **more: bt.push_folder(root / "adapter", "lab/adapter", allow_restricted=True, **more),
        lambda **more: trainer.push_to_hub(allow_restricted=True, **more),
    ):
        try:
            push()
        except ValueError as error:
            print(error)
        trainer = MAETrainer(adapted, make_arguments(root / "run2", max_steps=1), train_dataset=make_windows(8))
        trainer.args.hub_model_id = "lab/trained-adapter"
    bt.push_folder(root / "adapter", "lab/adapter", allow_restricted=True, base_model="lab/plain")
    trainer.push_to_hub(allow_restricted=True, finetuned_from="lab/plain", private=True)
"""
LOAD = """
    import sys
    import torch
    import brain_transformers
    from peft import PeftModel
    from transformers import AutoModelForPreTraining

    for name in ("lab/plain", "lab/trained"):
        model = AutoModelForPreTraining.from_pretrained(name)
        try:
            model.push_to_hub("lab/again")
        except PermissionError as error:
            print(error)
    for name in ("lab/adapter", "lab/trained-adapter"):
        adapted = PeftModel.from_pretrained(AutoModelForPreTraining.from_pretrained("lab/plain"), name)
        assert any(value.abs().sum() > 0 for name, value in adapted.named_parameters() if "lora_B" in name)
"""


def test_what_was_allowed_arrives_with_its_licence_and_names_no_folder(tmp_path: Path) -> None:
    tests = Path(__file__).resolve().parents[1] / "training"
    with HubServer() as hub:
        said = run_python(PUSH, tests, tmp_path, environment=hub.environment(tmp_path / "home")).stdout
        assert said.count("a folder that nobody else has") == 2
        assert {name.partition("/")[2] for name in hub.repositories} == {
            *("plain", "trained", "adapter", "trained-adapter")
        }
        for name, repository in hub.repositories.items():
            assert not [file for file, content in repository.files.items() if str(tmp_path).encode() in content], name
            assert "LICENSE" not in repository.files
            card = ModelCard(repository.files["README.md"].decode())
            if "adapter" in name:
                assert json.loads(repository.files["adapter_config.json"])["base_model_name_or_path"] == "lab/plain"
                assert card.data.base_model == "lab/plain"
            else:
                assert json.loads(repository.files["config.json"])["weights_license"] == "cc-by-nc-nd-4.0"
                assert (card.data.license, card.data.library_name) == ("cc-by-nc-nd-4.0", "brain-transformers")
        loaded = run_python(LOAD, environment=hub.environment(tmp_path / "elsewhere")).stdout
        assert loaded.count("lab/again was not uploaded") == 2
        assert "lab/again" not in hub.repositories
