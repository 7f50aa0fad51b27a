"""The converter as its users meet it: good folders, wrong folders, damaged files."""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

import brain_transformers as bt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brainlm

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "brainlm"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "authors"
    shutil.copytree(GOLDEN / "a_pretrain" / "checkpoint", folder)
    return folder


def convert(checkpoint: Path, output: Path, *more: str) -> int:
    return convert_brainlm.main(["--checkpoint", str(checkpoint), "--output", str(output), *more])


def change_weights(checkpoint: Path, change) -> None:
    path = checkpoint / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


def change_config(checkpoint: Path, **values) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def coordinate_table(path: Path, n_rois: int) -> Path:
    rows = [f"{i + 1}\t{10 - i}\t{(i * 7) % 5}\t{i}" for i in range(n_rois)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_script_writes_a_complete_folder(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    (checkpoint / "optimizer.pt").write_bytes(b"left over from training")
    script = Path(convert_brainlm.__file__)
    table = coordinate_table(tmp_path / "centres.dat", 12)
    command = [sys.executable, script, "--checkpoint", checkpoint, "--output", output, "--coordinates", table]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dropped decoder.decoder_pred.weight" in done.stdout
    assert {path.name for path in output.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_shim.py",
        "preprocessor_config.json",
        "input_contract.json",
        "conversion.json",
    }
    card = (output / "README.md").read_text()
    digest = hashlib.sha256((checkpoint / "pytorch_model.bin").read_bytes()).hexdigest()
    assert digest in card
    assert "centres.dat" in card
    assert str(tmp_path) not in card


def test_stored_coordinates_reach_model_and_extractor(checkpoint: Path, tmp_path: Path) -> None:
    table = coordinate_table(tmp_path / "centres.dat", 12)
    assert convert(checkpoint, tmp_path / "converted", "--coordinates", str(table)) == 0
    model = AutoModel.from_pretrained(tmp_path / "converted").eval()
    assert model.coordinates[3].tolist() == [7.0, 1.0, 3.0]
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert type(extractor) is bt.ROISeriesFeatureExtractor
    signals = torch.randn(1, 12, 40)
    with torch.no_grad():
        given = model(signals, model.coordinates[None])
        stored = model(signals)
    assert torch.equal(given.last_hidden_state, stored.last_hidden_state)


def test_a_table_of_another_atlas_is_refused(checkpoint: Path, tmp_path: Path, capsys) -> None:
    table = coordinate_table(tmp_path / "centres.dat", 11)
    assert convert(checkpoint, tmp_path / "converted", "--coordinates", str(table)) == 2
    assert "11" in capsys.readouterr().err
    assert not (tmp_path / "converted").exists()


def test_published_licence_and_limits_are_in_the_card() -> None:
    card = (Path(convert_brainlm.__file__).parents[1] / "model_cards" / "brainlm-650m.md").read_text()
    assert "license: cc-by-nc-nd-4.0" in card
    assert "never" in card


@pytest.mark.parametrize("damage", ["truncated", "pickle", "missing", "text"])
def test_damaged_weights_are_one_clear_error(damage: str, checkpoint: Path, tmp_path: Path, capsys) -> None:
    path = checkpoint / "pytorch_model.bin"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"weights": print}))
    elif damage == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    else:
        path.unlink()
    assert convert(checkpoint, tmp_path / "converted") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "pytorch_model.bin" in error
    assert "Traceback" not in error
    assert not (tmp_path / "converted").exists()


def test_code_in_a_checkpoint_does_not_run(checkpoint: Path, tmp_path: Path, capsys) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it_ran",))

    torch.save({"vit.embeddings.cls_token": Trap()}, checkpoint / "pytorch_model.bin")
    assert convert(checkpoint, tmp_path / "converted") == 2
    assert not (tmp_path / "it_ran").exists()
    assert "refused" in capsys.readouterr().err


def test_unknown_missing_and_misshapen_weights_are_refused(checkpoint: Path, tmp_path: Path, capsys) -> None:
    original = (checkpoint / "pytorch_model.bin").read_bytes()
    changes = {
        "unknown": lambda weights: weights.update({"vit.extra.weight": torch.zeros(2)}),
        "missing": lambda weights: weights.pop("vit.layernorm.bias"),
        "key part": lambda weights: weights.pop("vit.encoder.layer.0.attention.self.key.weight"),
        "another shape": lambda weights: weights.update({"vit.layernorm.bias": torch.zeros(7)}),
    }
    for message, change in changes.items():
        (checkpoint / "pytorch_model.bin").write_bytes(original)
        change_weights(checkpoint, change)
        assert convert(checkpoint, tmp_path / "converted") == 2, message
        assert message in capsys.readouterr().err


def test_a_config_of_another_model_is_refused(checkpoint: Path, tmp_path: Path, capsys) -> None:
    change_config(checkpoint, num_hidden_layers=4)
    assert convert(checkpoint, tmp_path / "converted") == 2
    assert "do not belong together" in capsys.readouterr().err
    shutil.copy(GOLDEN / "b_finetune" / "checkpoint" / "config.json", checkpoint / "config.json")
    assert convert(checkpoint, tmp_path / "converted") == 2
    assert "config.json lacks" in capsys.readouterr().err


def test_the_broken_option_of_the_authors_is_refused(checkpoint: Path, tmp_path: Path, capsys) -> None:
    change_config(checkpoint, inv_coeff_init_option=True)
    assert convert(checkpoint, tmp_path / "converted") == 2
    assert "inv_coeff_init_option" in capsys.readouterr().err


def test_unconverted_folders_say_that_they_must_be_converted(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="Convert it once"):
        bt.BrainLMModel.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="Convert it once"):
        bt.BrainLMViTModel.from_pretrained(GOLDEN / "b_finetune" / "checkpoint")


def test_fine_tuned_files_keep_head_and_options(tmp_path: Path) -> None:
    assert convert(GOLDEN / "b_finetune" / "checkpoint", tmp_path / "converted") == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted")
    config = model.config
    assert (config.classifier_head, config.num_labels, config.classifier_loss) == ("mlp", 1, "mse")
    assert (config.mask_ratio, config.classifier_mask_ratio) == (0.75, 0.75)
    assert config.reconstruction_weight == 0


def test_an_existing_output_is_replaced_not_mixed(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    assert convert(checkpoint, output) == 0
    before = (output / "model.safetensors").read_bytes()
    change_weights(checkpoint, lambda weights: weights["vit.layernorm.bias"].add_(1.0))
    assert convert(checkpoint, output) == 0
    assert (output / "model.safetensors").read_bytes() != before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".converted")]
