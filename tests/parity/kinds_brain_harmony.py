"""How each kind of BrainHarmony case is computed with the public classes and functions."""

import sys
from pathlib import Path

import numpy as np
import torch
from golden_case import GoldenCase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_harmonix_s
from transformers import AutoModel

import brain_transformers as bt
from brain_transformers.processing.structural import T1FeatureExtractor

# --- Harmonix-S ---


def converted_t1_encoder(checkpoint: Path, num_heads: int, output: Path) -> Path:
    """The authors' T1 encoder after the conversion script."""
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), "--num-attention-heads", str(num_heads)]
    assert convert_harmonix_s.main(arguments) == 0
    return output


def t1_encoder(case: GoldenCase, work: Path) -> None:
    authors = case.json("config.json")
    folder = converted_t1_encoder(case.folder / "checkpoint.pth", authors["num_heads"], work / "converted")
    model = AutoModel.from_pretrained(folder).eval()
    config = model.config
    ours = [config.image_size, config.patch_size, config.hidden_size, config.num_hidden_layers]
    case.check(
        "sizes",
        ours[0] + ours[1:],
        [*authors["img_size"], *(authors[n] for n in ("patch_size", "embed_dim", "depth"))],
    )
    with torch.no_grad():
        output = model(case.take("image"), output_hidden_states=True)
    case.compare("last_hidden_state", output.last_hidden_state[:, 1:])
    for name in case.names("hidden_states."):  # of blocks: ours begin with the input of the first
        case.compare(name, output.hidden_states[int(name.rpartition(".")[2]) + 1])
    case.compare("pos_embed_sincos", bt.HarmonixSModel(config).embeddings.positions)


def t1_normalise(case: GoldenCase, work: Path) -> None:
    facts = case.json("config.json")
    i, j, k = np.indices(facts["input_shape"])
    of_i, of_j, of_k, radius = facts["a"]
    inside = ((i - 83) / 60) ** 2 + ((j - 106) / 80) ** 2 + ((k - 80) / radius) ** 2 < 1
    volume = np.where(inside, (of_i * i + of_j * j + of_k * k) % 97, 0)
    extractor = T1FeatureExtractor(check_brain=False)
    checked = extractor.check(volume, "the volume of the case")
    case.check("mean", checked.mean, facts["mean"], rtol=1e-6)
    case.check("std", checked.deviation, facts["std"], rtol=1e-6)
    (output,) = extractor(volume)["t1_volumes"]
    case.check("out_shape", output.shape, facts["out_shape"])
    case.check("out_sum", output.sum(dtype=np.float64), facts["out_sum"], rtol=1e-6)
    case.check("out_sq_sum", (output.astype(np.float64) ** 2).sum(), facts["out_sq_sum"], rtol=1e-6)
    case.compare("sample_stride8", output[0, ::8, ::8, ::8])
    case.compare("corner_low", output[0, :4, :4, :4])
    case.compare("center_line", output[0, 80, 96])
    case.compare("plane_k148_k149", output[0, ::8, ::8, 148:150])


HARMONIX_S = {"t1_encoder": t1_encoder, "t1_normalise": t1_normalise}

KINDS = {**HARMONIX_S}
