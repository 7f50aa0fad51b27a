"""Brain-Semantoks against the published formulation, at the size of the released model, on random weights.

    python benchmarks/bench_brain_semantoks.py [ENTRY ...]

Speed does not depend on the values of the weights, so none are needed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from harness import Result, compare, main
from plain_brain_semantoks import PlainPretraining
from torch import nn

import brain_transformers as bt
from brain_transformers.models.brain_semantoks.conversion_brain_semantoks import convert_state_dict

_BRANCHES = [
    {"type": "dense", "kernel_size": 3, "depthwise": False, "out_channels": 384},
    {"type": "sgconv", "kernel_size": 4, "num_scales": 3, "decay_min": 2.0, "decay_max": 2.0, "out_channels": 384},
]
_CONSTRUCTOR = {
    "atlas_names": ["schaefer400", "tian3", "buckner7"],
    "atlas_network_counts": [7, 1, 1],
    "total_rois": 457,
    "patch_size": 20,
    "target_time_length": 100,
    "embedding_dim": 768,
    "depth": 8,
    "heads": 12,
    "mlp_dim": 3072,
    "layer_scale_init_value": 0.1,
    "tokenizer_config": _BRANCHES,
    "projection_hidden_dim": 1024,
    "projection_bottleneck_dim": 128,
    "projection_nlayers": 2,
    "dead_tokenizers": True,
}


@lru_cache(maxsize=1)
def build() -> tuple[Any, Any]:
    """The published formulation, and ours with the same weights."""
    torch.manual_seed(0)
    networks = bt.load_config("brain-semantoks-base").networks
    plain = PlainPretraining(_CONSTRUCTOR, networks)
    with torch.no_grad():
        signals = torch.randn(1, 457, 100)
        plain.student_encoder(signals)  # freezes the kernel norms
        plain.teacher_encoder(signals)
    converted = convert_state_dict(plain.state_dict(), _CONSTRUCTOR, pretraining=True)
    ours = bt.BrainSemantoksForMaskedModeling(converted.config)
    ours.load_state_dict(converted.state_dict)
    return plain, ours


@lru_cache(maxsize=1)
def encoders() -> tuple[Any, Any]:
    """The published teacher, and our encoder with its weights."""
    plain, whole = build()
    body = bt.BrainSemantoksModel(whole.config)
    body.load_state_dict(whole.brain_semantoks.state_dict())
    return plain.teacher_encoder.eval(), body.eval()


def encode(batch: int) -> Result:
    """Features of scans of 100 timepoints."""
    plain, ours = encoders()
    signals = torch.randn(batch, 457, 100, generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def published() -> torch.Tensor:
        return plain(signals)

    @torch.no_grad()
    def here() -> torch.Tensor:
        return ours(signals).last_hidden_state

    return compare(
        f"encode, batch {batch}",
        ("eager encoder", published),
        ("fused, banded", here),
        repeats=9,
        target=1.05 if batch > 1 else None,
    )


def encode_1() -> Result:
    """Features of one scan."""
    return encode(1)


def encode_8() -> Result:
    """Features of eight scans."""
    return encode(8)


def encode_without_subcortex() -> Result:
    """Features of a scan without subcortex and cerebellum: their tokenizers are not run."""
    plain, ours = encoders()
    signals = torch.randn(4, 457, 100, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(4, 9, 5, dtype=torch.bool)
    mask[:, 7:] = True

    @torch.no_grad()
    def published() -> torch.Tensor:
        return plain(signals, mask)

    @torch.no_grad()
    def here() -> torch.Tensor:
        return ours(signals, bool_masked_pos=mask).last_hidden_state

    return compare("encode cortex only, batch 4", ("all tokenizers", published), ("those needed", here), repeats=7)


def pretrain_step() -> Result:
    """Loss, gradients, clipping, AdamW and moving average of a batch of 2."""
    plain, ours = build()
    plain.train()
    ours.train()
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, 2, 457, 100, generator=generator)
    mask = torch.zeros(2, 2, 9, 5, dtype=torch.bool)
    mask[:, 0, 2:8], mask[:, 1, :, 1:4] = True, True
    pairs = [
        (plain.student_encoder, plain.teacher_encoder),
        (plain.student_predictor, plain.teacher_predictor),
    ]
    for _, teacher in pairs:
        teacher.requires_grad_(False)
    plain_optimizer = torch.optim.AdamW(plain.parameters(), lr=0.0, weight_decay=0.0, fused=False, foreach=False)
    trained = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    our_optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True)

    def published() -> torch.Tensor:
        loss = plain([views[:, 0], views[:, 1]], [mask[:, 0], mask[:, 1]], 0.5, 0.5)
        plain_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        plain_optimizer.step()
        with torch.no_grad():
            for student, teacher in pairs:
                for one, other in zip(student.parameters(), teacher.parameters(), strict=True):
                    other.mul_(0.99).add_(one, alpha=0.01)
        return loss.detach()[None]

    def here() -> torch.Tensor:
        loss = ours(views, mask, 0.5).loss
        our_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        our_optimizer.step()
        ours.update_moving_average(0.99)
        return loss.detach()[None]

    return compare(
        "pretraining step, batch 2",
        ("one pass a view, loops over parameters", published),
        ("one pass, fused AdamW", here),
        repeats=5,
        target=1.25,
        tolerance=1e-3,
    )


def data_access() -> Result:
    """One scan of 457 x 180: the compressed HDF5 file of the authors' layout against rows of our dataset."""
    import h5py

    from brain_transformers.data.semantoks_hdf5 import SemantoksHDF5Builder

    folder = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    sizes = {"schaefer400": 400, "tian3": 50, "buckner7": 7}
    with h5py.File(folder / "scans.h5", "w") as file:
        for name, size in sizes.items():
            values = rng.standard_normal((32, size, 180)).astype(np.float16)
            file.create_dataset(f"timeseries/{name}", data=values, compression="gzip")
        file["long_subject_id"] = np.array([f"sub-{number:03d}".encode() for number in range(32)])
    builder = SemantoksHDF5Builder(folder / "scans.h5", cache_dir=folder / "cache")
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train").with_format("numpy")
    numbers = rng.permutation(32)
    file = h5py.File(folder / "scans.h5", "r")

    def published() -> torch.Tensor:
        scans = [np.concatenate([file[f"timeseries/{name}"][n].astype(np.float32) for name in sizes]) for n in numbers]
        return torch.from_numpy(np.stack(scans))

    def here() -> torch.Tensor:
        return torch.from_numpy(np.stack([rows[int(n)]["signals"].reshape(457, 180) for n in numbers]))

    return compare("32 scans of 457 x 180", ("gzip HDF5", published), ("Arrow", here), repeats=5, target=10.0)


def probe_grid() -> Result:
    """6 learning rates x 10 splits on 1,000 subjects x 8 crops x 1,536 features: one epoch of heads one by one, as
    torch modules, and of the grid; then the whole grid of 50 epochs."""
    from brain_transformers.evaluation.linear_probe import LEARNING_RATES, ProbeHeads, train_probe_heads

    rng = torch.Generator().manual_seed(0)
    features = torch.randn(8000, 1536, generator=rng)
    labels = torch.randint(0, 2, (8000,), generator=rng)
    # 600 training subjects a split. Rows in the order of the batches, so that both sides see the same ones.
    rows = torch.stack([torch.randperm(8000, generator=rng)[:4800] for _ in range(10)])
    options: dict[str, Any] = {"batch_size": 256, "rows": rows}

    def fresh() -> ProbeHeads:
        return ProbeHeads.create(10, 6, 1536, 2)

    def one_by_one() -> torch.Tensor:
        start, weights = fresh(), torch.empty(10, 6, 2, 1536)
        order = torch.randperm(4800, generator=torch.Generator().manual_seed(0))
        for split in range(10):
            for number, rate in enumerate(LEARNING_RATES):
                head = nn.Sequential(nn.BatchNorm1d(1536), nn.Linear(1536, 2))
                with torch.no_grad():
                    head[1].weight.copy_(start.weight[split, number])
                    head[1].bias.copy_(start.bias[split, number])
                optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
                for batch in rows[split][order].split(256):
                    loss = nn.functional.cross_entropy(head(features[batch]), labels[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                weights[split, number] = head[1].weight.detach()
        return weights

    def grid() -> torch.Tensor:
        return train_probe_heads(features, labels, epochs=1, heads=fresh(), **options).weight

    result = compare(
        "probe grid, 60 heads, one epoch", ("one by one", one_by_one), ("grid", grid), repeats=3, tolerance=1e-3
    )
    begin = time.perf_counter()
    train_probe_heads(features, labels, epochs=50, heads=fresh(), **options)
    result.notes["seconds for the whole grid, 50 epochs"] = time.perf_counter() - begin
    return result


def scans_an_hour() -> Result:
    """Scans of 100 timepoints that one process embeds in an hour, from the raw array to the features."""
    _, ours = encoders()
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(ours.config)
    order = ours.config.roi_order
    scans = list(np.random.default_rng(0).standard_normal((8, 457, 100), dtype=np.float32))

    @torch.no_grad()
    def alone() -> torch.Tensor:
        inputs = [extractor(scan, t_r=2.0, roi_order=order, return_tensors="pt") for scan in scans]
        return torch.cat([ours(**one).pooler_output for one in inputs])

    @torch.no_grad()
    def together() -> torch.Tensor:
        return ours(**extractor(scans, t_r=2.0, roi_order=order, return_tensors="pt")).pooler_output

    result = compare("embed 8 scans, raw to features", ("one by one", alone), ("one batch", together), repeats=5)
    result.notes["seconds a scan, one by one"] = result.baseline_s / 8
    result.notes["scans an hour, in batches"] = round(8 * 3600 / result.ours_s)
    result.notes["measured at"] = time.strftime("%Y-%m-%d")
    return result


ENTRIES: dict[str, Callable[[], Result]] = {
    function.__name__: function
    for function in (
        encode_1,
        encode_8,
        encode_without_subcortex,
        pretrain_step,
        data_access,
        probe_grid,
        scans_an_hour,
    )
}

if __name__ == "__main__":
    raise SystemExit(main("brain_semantoks", ENTRIES, __doc__))
