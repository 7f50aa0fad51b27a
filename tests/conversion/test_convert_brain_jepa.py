"""The Brain-JEPA converter as its users meet it: pretraining and downstream files, wrong tables, damaged files."""

import argparse
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_jepa

from brain_transformers.models.brain_jepa.conversion_brain_jepa import convert_checkpoint

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "brain_jepa"


class Source:
    """A copy of a golden checkpoint that a test may change, and the gradient table that belongs to it."""

    def __init__(self, case: str, work: Path, heads: int):
        (path,) = (GOLDEN / case).glob("checkpoint.*")
        self.content: dict[str, Any] = torch.load(path, weights_only=True)
        self.path, self.table, self.heads = work / path.name, work / "gradient.csv", heads
        gradients = load_file(GOLDEN / case / "tensors.safetensors")["gradient"][0].numpy()
        np.savetxt(self.table, gradients, delimiter=",", fmt="%.9g")

    def arguments(self, output: Path) -> list[str]:
        torch.save(self.content, self.path)
        options = {
            "--checkpoint": self.path,
            "--output": output,
            "--gradient": self.table,
            "--num-attention-heads": self.heads,
        }
        return [str(part) for pair in options.items() for part in pair]

    def convert(self, output: Path, *more: str) -> int:
        return convert_brain_jepa.main([*self.arguments(output), *more])


@pytest.fixture
def pretraining(tmp_path: Path) -> Source:
    return Source("pretrain_step_multi_mask", tmp_path, heads=3)


@pytest.fixture
def downstream(tmp_path: Path) -> Source:
    return Source("downstream_regression", tmp_path, heads=3)


def test_the_script_writes_a_complete_folder(pretraining: Source, tmp_path: Path) -> None:
    output = tmp_path / "converted"
    command = [sys.executable, convert_brain_jepa.__file__, *pretraining.arguments(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 dropped" in done.stdout
    model = AutoModelForPreTraining.from_pretrained(output)
    body = AutoModel.from_pretrained(output)
    assert torch.equal(body.layers[0].mlp.fc1.weight, model.brain_jepa.layers[0].mlp.fc1.weight)
    assert not torch.equal(body.layers[0].mlp.fc1.weight, model.context_encoder.layers[0].mlp.fc1.weight)
    table = np.loadtxt(pretraining.table, delimiter=",").astype(np.float32)
    assert torch.equal(body.gradients, torch.from_numpy(table))
    config = body.config
    assert (config.n_rois, config.n_timepoints, config.patch_size) == (14, 80, 8)
    assert (config.num_hidden_layers, config.predictor_num_hidden_layers) == (2, 1)
    assert "gradient.csv" in config.gradient_source
    card = (output / "README.md").read_text()
    assert "gradient.csv" in card
    extractor = AutoFeatureExtractor.from_pretrained(output)
    scan = np.random.default_rng(0).standard_normal((14, 200)).astype(np.float32)
    with torch.no_grad():
        assert body(**extractor(scan, return_tensors="pt")).pooler_output.shape == (1, 24)


def test_the_released_layout_is_recognised_from_names_and_shapes() -> None:
    published = bt.load_config("brain-jepa-base")
    width, narrow = published.hidden_size, published.predictor_hidden_size

    def blocks(prefix: str, depth: int, size: int) -> dict[str, torch.Tensor]:
        shapes = {
            "norm1.weight": (size,),
            "norm1.bias": (size,),
            "attn.qkv.weight": (3 * size, size),
            "attn.qkv.bias": (3 * size,),
            "attn.proj.weight": (size, size),
            "attn.proj.bias": (size,),
            "norm2.weight": (size,),
            "norm2.bias": (size,),
            "mlp.fc1.weight": (4 * size, size),
            "mlp.fc1.bias": (4 * size,),
            "mlp.fc2.weight": (size, 4 * size),
            "mlp.fc2.bias": (size,),
        }
        return {f"{prefix}{i}.{name}": torch.empty(shape) for i in range(depth) for name, shape in shapes.items()}

    def positions(prefix: str, size: int) -> dict[str, torch.Tensor]:
        return {
            f"{prefix}.emb_h": torch.empty(4500, size // 2),
            f"{prefix}.predictor_pos_embed_proj.weight": torch.empty(size // 2, 30),
            f"{prefix}.predictor_pos_embed_proj.bias": torch.empty(size // 2),
        }

    with torch.device("meta"):
        encoder = {
            "module.patch_embed.proj.weight": torch.empty(width, 1, 1, 16),
            "module.patch_embed.proj.bias": torch.empty(width),
            **positions("module.pos_embed_proj", width),
            **blocks("module.blocks.", 12, width),
            "module.norm.weight": torch.empty(width),
            "module.norm.bias": torch.empty(width),
        }
        predictor = {
            "module.mask_token": torch.empty(1, 1, narrow),
            "module.predictor_embed.weight": torch.empty(narrow, width),
            "module.predictor_embed.bias": torch.empty(narrow),
            **positions("module.predictor_2dpe_proj", narrow),
            **blocks("module.predictor_blocks.", 6, narrow),
            "module.predictor_norm.weight": torch.empty(narrow),
            "module.predictor_norm.bias": torch.empty(narrow),
            "module.predictor_proj.weight": torch.empty(width, narrow),
            "module.predictor_proj.bias": torch.empty(width),
        }
    # As counted from the released file: 151 + 151 + 82 tensors, 185,726,784 numbers.
    assert (len(encoder), len(predictor)) == (151, 82)
    numbers = sum(tensor.numel() for part in (encoder, encoder, predictor) for tensor in part.values())
    assert numbers == 185_726_784
    content = {"encoder": encoder, "target_encoder": encoder, "predictor": predictor, "epoch": 299}
    converted = convert_checkpoint(content, np.zeros((450, 30), dtype=np.float32))
    expected = {**published.to_dict(), "gradient_source": None, "mask_rule": "published"}
    assert converted.config.to_dict() == expected


def test_fine_tuned_and_probed_files(downstream: Source, tmp_path: Path) -> None:
    # Real runs store their arguments in the file.
    downstream.content["args"] = argparse.Namespace(lr=1e-3, epochs=50)
    assert downstream.convert(tmp_path / "tuned") == 0
    tuned = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    assert (tuned.config.pooling, tuned.config.classifier_head, tuned.config.num_labels) == ("mean", "linear", 1)
    assert tuned.config.problem_type == "regression"

    weights = downstream.content["model"]
    head = {name: weights.pop(f"head.{name}") for name in ("weight", "bias")}
    running = {"running_mean": torch.randn(24), "running_var": torch.rand(24) + 0.5}
    weights |= {f"head.1.{name}": value for name, value in head.items()}
    weights |= {f"head.0.{name}": value for name, value in running.items()}
    weights["head.0.num_batches_tracked"] = torch.tensor(7)
    assert downstream.convert(tmp_path / "probed") == 0
    probed = AutoModelForSequenceClassification.from_pretrained(tmp_path / "probed").eval()
    signals = torch.randn(2, 10, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = tuned(signals).pooler_output
        logits = probed(signals).logits
    scaled = (pooled - running["running_mean"]) / (running["running_var"] + 1e-6).sqrt()
    torch.testing.assert_close(logits, scaled @ head["weight"].T + head["bias"], rtol=1e-4, atol=1e-5)


def test_a_fine_tuned_file_without_pooling_reads_the_first_token(downstream: Source, tmp_path: Path) -> None:
    weights = downstream.content["model"]
    for name in ("fc_norm.weight", "fc_norm.bias"):
        del weights[name]
    assert downstream.convert(tmp_path / "converted") == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted").eval()
    signals = torch.randn(2, 10, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model(signals)
    expected = output.last_hidden_state[:, 0] @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(output.logits, expected)


def test_networks_that_share_storage_in_the_file_become_separate(pretraining: Source, tmp_path: Path) -> None:
    pretraining.content["target_encoder"] = pretraining.content["encoder"]
    assert pretraining.convert(tmp_path / "converted") == 0
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "converted")
    assert torch.equal(model.brain_jepa.layernorm.weight, model.context_encoder.layernorm.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["encoder"].pop("module.norm.bias"), "missing"),
        (lambda c: c["predictor"].update({"module.extra": torch.zeros(2)}), "unknown"),
        (lambda c: c["target_encoder"].pop("module.norm.weight"), "lacks brain_jepa.norm.weight"),
        (lambda c: c.pop("predictor"), "no Brain-JEPA checkpoint"),
        (lambda c: c["encoder"].update({"module.norm.bias": torch.zeros(5)}), "another shape"),
    ],
)
def test_files_that_do_not_fit_are_one_clear_error(
    pretraining: Source, tmp_path: Path, capsys: pytest.CaptureFixture, change: Any, message: str
) -> None:
    change(pretraining.content)
    assert pretraining.convert(tmp_path / "converted") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "converted").exists()


def test_wrong_tables_and_unknown_heads_are_refused(
    pretraining: Source, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "converted"
    full = pretraining.arguments(output)
    assert convert_brain_jepa.main(full[:4]) == 2
    assert "--num-attention-heads" in capsys.readouterr().err
    assert convert_brain_jepa.main([*full[:4], *full[6:]]) == 2
    assert "--gradient" in capsys.readouterr().err
    for rows, columns, message in ((13, 6, "windows"), (14, 5, "columns")):
        np.savetxt(pretraining.table, np.zeros((rows, columns)), delimiter=",")
        assert convert_brain_jepa.main(full) == 2
        assert message in capsys.readouterr().err
    pretraining.table.write_text("roi,g1\nA,1\n")
    assert convert_brain_jepa.main(full) == 2
    assert "gradient table" in capsys.readouterr().err


def test_damaged_and_dangerous_files_are_refused(
    pretraining: Source, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = pretraining.arguments(tmp_path / "converted")
    whole = pretraining.path.read_bytes()
    pretraining.path.write_bytes(whole[: len(whole) // 2])
    assert convert_brain_jepa.main(arguments) == 2
    assert "truncated" in capsys.readouterr().err

    class Harmful:
        def __reduce__(self) -> Any:
            return (print, ("this must not run",))

    pretraining.path.write_bytes(pickle.dumps({"encoder": Harmful()}))
    assert convert_brain_jepa.main(arguments) == 2
    captured = capsys.readouterr()
    assert "this must not run" not in captured.out
    assert "could run code" in captured.err
