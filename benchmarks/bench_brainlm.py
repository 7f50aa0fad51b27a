"""BrainLM against the published formulation, at the size of the released models, on random weights.

    python benchmarks/bench_brainlm.py [ENTRY ...]

Speed does not depend on the values of the weights, so none are needed.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from harness import Result, compare, main
from plain_brainlm import PlainAdamW, plain_image_forward, plain_token_embeddings, plain_tokens_forward

import brain_transformers as bt
from brain_transformers.layers.masking import select_tokens
from brain_transformers.layers.token_convolution import token_convolution

_CLASSES = {"brainlm_mae": "BrainLMForMaskedModeling", "brainlm_vit_mae": "BrainLMViTForMaskedModeling"}


@lru_cache(maxsize=1)
def build(name: str) -> Any:
    torch.manual_seed(0)
    config = bt.load_config(name, **({"embedding_dropout": 0.0} if name == "brainlm-13m" else {}))
    model = getattr(bt, _CLASSES[config.model_type])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def tokens_inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    coordinates = torch.randint(-60, 60, (1, 424, 3)).float().expand(batch, -1, -1)
    return torch.randn(batch, 424, 200), coordinates, torch.arange(4240.0).expand(batch, -1)


def image_inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return 0.15 * torch.randn(batch, 424, 200), torch.rand(batch, 729)


def encode_13m() -> Result:
    """Features of one window: the eager encoder against ours, without any decoder."""
    model = build("brainlm-13m")
    signals, coordinates, order = tokens_inputs(1)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_tokens_forward(model, signals, coordinates, order, 0.0, decode=False)[0]

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return model.brainlm(signals, coordinates).last_hidden_state

    return compare(
        "13M encode, one 424 x 200 window", ("eager encoder", plain), ("fused", ours), repeats=5, target=1.6
    )


def encode_13m_with_decoder() -> Result:
    """Features of one window as the published class gives them: its decoder always runs."""
    model = build("brainlm-13m")
    signals, coordinates, order = tokens_inputs(1)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_tokens_forward(model, signals, coordinates, order, 0.0, decode=True)[0]

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return model.brainlm(signals, coordinates).last_hidden_state

    return compare(
        "13M encode, published class", ("eager encoder and decoder", plain), ("fused encoder", ours), repeats=3
    )


def encode_111m() -> Result:
    """Features of one window without masking: eager encoder against ours."""
    model = build("brainlm-111m")
    signals, _ = image_inputs(1)
    order = torch.arange(729.0)[None]

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_image_forward(model, signals, order, 0.0, decode=False)[0]

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return model.brainlm_vit(signals).last_hidden_state

    return compare("111M encode, encoder alone", ("eager encoder", plain), ("fused", ours), repeats=7)


def encode_111m_with_decoder() -> Result:
    """Features of one window as the published class gives them: its decoder always runs."""
    model = build("brainlm-111m")
    signals, _ = image_inputs(1)
    order = torch.arange(729.0)[None]

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_image_forward(model, signals, order, 0.0, decode=True)[0]

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return model.brainlm_vit(signals).last_hidden_state

    return compare(
        "111M encode, published class",
        ("eager encoder and decoder", plain),
        ("fused encoder", ours),
        repeats=7,
        target=1.25,
    )


def _step(parameters: list[torch.Tensor], loss: torch.Tensor) -> list[torch.Tensor]:
    gradients = torch.autograd.grad(loss, parameters)
    return [loss.detach()[None], *gradients]


def pretrain_111m() -> Result:
    """A whole step on two windows at mask ratio 0.75: loss, gradients, clipping, update (at learning rate 0)."""
    model = build("brainlm-111m")
    signals, noise = image_inputs(2)
    parameters = list(model.parameters())
    old = PlainAdamW(parameters, lr=0.0, weight_decay=0.05)
    fused = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.05, fused=True)

    def step(loss: torch.Tensor | None, optimizer: Any) -> list[torch.Tensor]:
        assert loss is not None
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return [loss.detach()[None], *(parameter.grad for parameter in parameters if parameter.grad is not None)]

    def plain() -> list[torch.Tensor]:
        return step(plain_image_forward(model, signals, noise, 0.75, decode=True)[1], old)

    def ours() -> list[torch.Tensor]:
        return step(model(signals, noise=noise).loss, fused)

    ours()  # the state of an optimizer is made in its first step
    return compare(
        "111M pretraining step, two windows",
        ("eager, AdamW tensor by tensor", plain),
        ("fused attention and AdamW", ours),
        repeats=5,
        target=1.35,
        tolerance=1e-3,
    )


def pretrain_13m() -> Result:
    """Loss and all gradients of one window at the published mask ratio of 0.2."""
    model = build("brainlm-13m")
    signals, coordinates, _ = tokens_inputs(1)
    noise = torch.rand(1, 4240)
    parameters = list(model.parameters())

    def plain() -> list[torch.Tensor]:
        loss = plain_tokens_forward(model, signals, coordinates, noise, 0.2, decode=True)[1]
        assert loss is not None
        # torch's conv2d returns wrong float32 gradients of long kernels on some CPUs; those are left out of the check.
        gradients = _step(parameters, loss)
        return [g for g, keep in zip(gradients, compared, strict=True) if keep]

    def ours() -> list[torch.Tensor]:
        gradients = _step(parameters, model(signals, coordinates, noise=noise).loss)
        return [g for g, keep in zip(gradients, compared, strict=True) if keep]

    compared = [True, *("token_convolution" not in name for name, _ in model.named_parameters())]
    return compare("13M pretraining step, one window", ("eager", plain), ("fused", ours), repeats=3, tolerance=2e-3)


def _embed_and_mask(mask_ratio: float, target: float | None) -> Result:
    model = build("brainlm-13m")
    signals, coordinates, _ = tokens_inputs(8)
    noise = torch.rand(8, 4240)
    embeddings = model.brainlm.embeddings

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return plain_token_embeddings(embeddings, signals, coordinates, mask_ratio, noise)[0]

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return embeddings(signals, coordinates, select_tokens(noise, mask_ratio).ids_keep)

    return compare(
        f"embedding and masking, 8 x 4,240 tokens, {mask_ratio:.0%} hidden",
        ("project all, then gather", plain),
        ("gather, one product", ours),
        repeats=15,
        target=target,
    )


def embed_and_mask_75() -> Result:
    """Embedding and masking of 8 x 4,240 tokens at the mask ratio that the paper stresses."""
    return _embed_and_mask(0.75, 5.0)


def embed_and_mask_20() -> Result:
    """The same at the ratio of the released 13M configuration, where writing the result is most of the work."""
    return _embed_and_mask(0.2, None)


def convolution() -> Result:
    """The convolution along 4,241 tokens."""
    torch.manual_seed(0)
    values, weight = torch.randn(1, 4, 4241, 128), torch.randn(4, 65)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        return torch.nn.functional.conv2d(values, weight[:, None, :, None], padding=(32, 0), groups=4)

    @torch.no_grad()
    def ours() -> torch.Tensor:
        return token_convolution(values, weight)

    return compare("token convolution, 4,241 tokens", ("grouped conv2d", plain), ("banded product", ours), repeats=9)


def _bfloat16(name: str, call: Callable[[Any], torch.Tensor], label: str) -> Result:
    model = build(name)
    half = type(model)(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())

    @torch.no_grad()
    def single() -> torch.Tensor:
        return call(model)

    @torch.no_grad()
    def halved() -> torch.Tensor:
        return call(half)

    return compare(label, ("float32", single), ("bfloat16", halved), repeats=3, tolerance=0.5)


def bfloat16_13m() -> Result:
    """Features of one window in bfloat16 against float32; the difference is the error to expect."""
    signals, coordinates, _ = tokens_inputs(1)
    return _bfloat16(
        "brainlm-13m", lambda model: model.brainlm(signals, coordinates).pooler_output, "13M encode in bfloat16"
    )


def bfloat16_111m() -> Result:
    """Features of one window in bfloat16 against float32; the difference is the error to expect."""
    signals, _ = image_inputs(1)
    return _bfloat16("brainlm-111m", lambda model: model.brainlm_vit(signals).pooler_output, "111M encode in bfloat16")


def dataset_item() -> Result:
    """One training item, 490 timepoints cut to 200, with its coordinates: lists against our rows and collator."""
    import datasets
    import numpy as np

    from brain_transformers.data.builders import dataset_from_arrays
    from brain_transformers.data.collators import ScanCollator

    rng = np.random.default_rng(0)
    scans = [rng.standard_normal((424, 490), dtype=np.float32) for _ in range(8)]
    centres = rng.integers(-60, 60, (424, 3)).astype(np.float32)
    column = "Voxelwise_RobustScaler_Normalized_Recording"
    published = datasets.Dataset.from_dict({column: [scan.T.tolist() for scan in scans]})
    table = datasets.Dataset.from_dict({name: centres[:, i].tolist() for i, name in enumerate("XYZ")})

    def plain() -> list[torch.Tensor]:
        recording = published[0][column]
        window = torch.tensor(recording, dtype=torch.float32)[:200].transpose(0, 1)
        xyz = torch.zeros(424, 3)
        for index in range(424):
            row = table[index]
            xyz[index] = torch.tensor([row["X"], row["Y"], row["Z"]])
        return [window[None], xyz[None]]

    # The columns that a batch is made of, as the published reader takes only its own.
    needed = ["signals", "n_rois", "n_timepoints", "t_r", "roi_order"]
    ours_rows = dataset_from_arrays(scans, roi_order="a424", t_r=0.735).select_columns(needed)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(
        bt.load_config("brainlm-13m"), normalization="none", coordinates=centres.tolist()
    )
    collator = ScanCollator(extractor, window="first")

    def ours() -> list[torch.Tensor]:
        batch = collator([ours_rows[0]])
        return [batch["signals"], batch["coordinates"]]

    return compare(
        "dataset item, 424 x 490 cut to 200",
        ("lists, loop over coordinates", plain),
        ("flat float32 rows, collator", ours),
        repeats=9,
        target=30.0,
        inner=5,
    )


ENTRIES = {
    function.__name__: function
    for function in (
        encode_13m,
        encode_13m_with_decoder,
        pretrain_13m,
        embed_and_mask_75,
        embed_and_mask_20,
        convolution,
        dataset_item,
        bfloat16_13m,
        encode_111m,
        encode_111m_with_decoder,
        pretrain_111m,
        bfloat16_111m,
    )
}

if __name__ == "__main__":
    raise SystemExit(main("brainlm", ENTRIES, __doc__))
