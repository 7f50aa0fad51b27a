"""Brain-JEPA against the published formulation, at base size, on random weights.

    python benchmarks/bench_brain_jepa.py [ENTRY ...]

Speed does not depend on the values of the weights, so none are needed.
"""

import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from harness import Result, compare, main
from plain_brain_jepa import plain_encoder, plain_item, plain_loss, plain_masks

import brain_transformers as bt
from brain_transformers.models.block_masks import balanced_masks, published_masks


@lru_cache(maxsize=1)
def build() -> Any:
    torch.manual_seed(0)
    model = bt.BrainJEPAForMaskedModeling(bt.load_config("brain-jepa-base"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model.eval()


def signals(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 450, 160, generator=torch.Generator().manual_seed(1))


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    # 724 context and 1,649 target tokens, as in a typical batch of one.
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(4500, generator=generator)
    return order[:724].sort().values[None], order[724 : 724 + 1649][None]


def encode() -> Result:
    """Features of one window."""
    encoder, window = build().brain_jepa, signals()

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_encoder(encoder, window).mean(1)

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return encoder(window).pooler_output

    return compare("base encoder, one 450 x 160 window", ("eager", plain), ("fused", ours), repeats=3, target=2.3)


def pretrain() -> Result:
    """Loss and all gradients of one window."""
    model, window = build(), signals()
    context, target = masks()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(loss: torch.Tensor) -> list[torch.Tensor]:
        return [loss.detach()[None], *torch.autograd.grad(loss, parameters)]

    def plain() -> list[torch.Tensor]:
        return step(plain_loss(model, window, [context], [target]))

    def ours() -> list[torch.Tensor]:
        return step(model(window, context_indices=context, target_indices=target).loss)

    return compare(
        "base pretraining step, one window", ("eager", plain), ("fused", ours), repeats=3, target=2.3, tolerance=2e-3
    )


def published_mask_collation() -> Result:
    """Masks of 16 samples by the published rule, the same numbers."""
    calls = {"plain": 0, "ours": 0}

    def draw(name: str) -> list[torch.Tensor]:
        calls[name] += 1
        generator = torch.Generator().manual_seed(calls[name])
        if name == "plain":
            return list(plain_masks(16, 450, 10, calls[name], generator))
        made = published_masks(16, 450, 10, call_index=calls[name], generator=generator)
        return [made.context_indices, made.target_indices]

    return compare(
        "published masks, batch of 16",
        ("image a block", lambda: draw("plain")),
        ("index grids", lambda: draw("ours")),
        repeats=9,
        inner=20,
    )


def balanced_mask_collation() -> Result:
    """Masks of 16 samples: the published rule step by step against our default rule, which draws other numbers."""
    calls = [0]

    def plain() -> torch.Tensor:
        calls[0] += 1
        plain_masks(16, 450, 10, calls[0], torch.Generator().manual_seed(calls[0]))
        return torch.zeros(1)

    def ours() -> torch.Tensor:
        calls[0] += 1
        balanced_masks(16, 450, 10, rng=np.random.default_rng(calls[0]))
        return torch.zeros(1)

    return compare(
        "default masks, batch of 16 (other draws)",
        ("published, image a block", plain),
        ("balanced, all samples at once", ours),
        repeats=9,
        inner=20,
        target=2.5,
    )


def moving_average() -> Result:
    """The update of the target, 151 tensors."""
    model = build()
    targets = [*model.brain_jepa.parameters(), model.brain_jepa.embeddings.positions.time_positions]
    sources = [*model.context_encoder.parameters(), model.context_encoder.embeddings.positions.time_positions]
    kept = [tensor.detach().clone() for tensor in targets]

    @torch.no_grad()
    def restore() -> None:
        torch._foreach_copy_(targets, kept)

    def plain() -> torch.Tensor:
        restore()
        with torch.no_grad():
            for target, source in zip(targets, sources):
                target.mul_(0.99).add_((1.0 - 0.99) * source)
        return targets[0].detach().clone()

    def ours() -> torch.Tensor:
        restore()
        model.update_moving_average(0.99)
        return targets[0].detach().clone()

    return compare("moving average of the target", ("tensor by tensor", plain), ("foreach", ours), repeats=9)


def dataset_item() -> Result:
    """One pretraining window from storage: two gzipped CSV files (float64 text, as pandas writes it) against a row."""
    from brain_transformers.data.builders import dataset_from_arrays
    from brain_transformers.data.collators import ScanCollator

    rng = np.random.default_rng(0)
    series = 8000 + 200 * rng.standard_normal((450, 490))
    folder = Path(tempfile.mkdtemp())
    import pandas

    for name, rows in (("subcortical.csv.gz", series[:50]), ("cortical.csv.gz", series[50:])):
        table = pandas.DataFrame(rows)
        table.insert(0, "label", [f"ROI {row}" for row in range(len(rows))])
        table.to_csv(folder / name, header=False, index=False)
    medians, iqrs = series.mean(axis=1), np.full(450, 300.0)
    config = bt.load_config("brain-jepa-base")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(
        config,
        normalization="robust-means",
        statistics={"median": medians.tolist(), "iqr": iqrs.tolist(), "n_scans": 9},
    )
    rows = dataset_from_arrays([series.astype(np.float32)], roi_order=config.roi_order, t_r=0.735)
    collator = ScanCollator(extractor, window="first")
    return compare(
        "dataset item, 450 x 490 cut to 160",
        ("two csv.gz", lambda: plain_item(folder, medians, iqrs, 0.0)[None]),
        ("flat float32 rows, collator", lambda: collator([rows[0]])["signals"]),
        repeats=5,
        inner=10,
        target=50.0,
    )


ENTRIES = {
    function.__name__: function
    for function in (
        published_mask_collation,
        balanced_mask_collation,
        dataset_item,
        moving_average,
        encode,
        pretrain,
    )
}

if __name__ == "__main__":
    raise SystemExit(main("brain_jepa", ENTRIES, __doc__))
