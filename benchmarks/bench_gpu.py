"""Every family on one CUDA card: numbers against the CPU, attention kernels, bfloat16, torch.compile, memory.

    python benchmarks/bench_gpu.py [MODEL ...] [--output benchmarks/results/gpu.json]

Random weights at the published sizes; speed does not depend on their values. Utilisation is the floating-point
operations of the matrix products (counted by torch) over the time and the rate that the card reaches on one large
bfloat16 product in the same run.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from harness import RESULTS, machine
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import brain_transformers as bt

# Model, batch of embedding, batch of pretraining.
MODELS = {
    "brainlm-13m": (32, 16),
    "brainlm-111m": (64, 64),
    "brainlm-650m": (64, 32),
    "brain-jepa-base": (32, 16),
    "brain-semantoks-base": (256, 64),
}
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of a call, by events on the device, after two calls to warm up."""
    for _ in range(2):
        function()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def peak_mb(function: Callable[[], Any]) -> float:
    """Memory on the device above what was held before, in MB (10^6 bytes)."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def reached_rate() -> float:
    """Operations a second of a large bfloat16 matrix product."""
    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: one @ other, repeats=20)


def prepared(name: str, auto: Any) -> Any:
    torch.manual_seed(0)
    config = bt.load_config(name)
    config.num_labels = 2
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    body = model.base_model
    if "coordinates" in dict(body.named_buffers()):
        body.set_table("coordinates", 30 * torch.randn(config.n_rois, 3), source="benchmark")
    return model


def scans(config: Any, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, config.n_rois, config.n_timepoints, generator=torch.Generator().manual_seed(1))


def difference(expected: torch.Tensor, actual: torch.Tensor) -> float:
    expected, actual = expected.double().cpu(), actual.double().cpu()
    return float((expected - actual).norm() / expected.norm())


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """float32 without TF32, TF32, or bfloat16 by autocast."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "float32"
    with torch.autocast("cuda", torch.bfloat16, enabled=name == "bfloat16"):
        yield


def row(
    what: str, batch: int, took: float, memory: float, operations: float, rate: float, **more: Any
) -> dict[str, Any]:
    found = {
        "what": what,
        "batch": batch,
        "ms": round(1e3 * took, 3),
        "scans_per_s": round(batch / took, 1),
        "peak_mb": round(memory),
        "utilisation": round(operations / took / rate, 3),
        **more,
    }
    print("  " + "  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def failed(what: str, error: Exception) -> dict[str, Any]:
    text = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    print(f"  {what}  {text}", flush=True)
    torch.cuda.empty_cache()
    return {"what": what, "error": text}


def embedding(name: str, batch: int, rate: float) -> list[dict[str, Any]]:
    """Features without masking: numbers against the CPU, then kernels and precisions."""
    from transformers import AutoModel

    model = prepared(name, AutoModel).eval()
    few = scans(model.config, 2)
    with torch.no_grad():
        expected = model(few).pooler_output
    model = model.cuda()
    few, many = few.cuda(), scans(model.config, batch).cuda()
    eighth = many[: max(1, batch // 8)]  # where the attention weights are laid out
    found = []
    with torch.no_grad():
        for kind in ("float32", "tf32", "bfloat16"):
            with precision(kind):
                error = difference(expected, model(few).pooler_output)
            found.append({"what": f"features against the CPU's float32, {kind}", "relative_difference": error})
            print(f"  {found[-1]['what']}: {error:.1e}", flush=True)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(many[:1])
        operations = counter.get_total_flops() * batch

        def run(inputs: torch.Tensor = many) -> torch.Tensor:
            return model(inputs).pooler_output

        for kind in ("float32", "tf32", "bfloat16"):
            with precision(kind):
                found.append(row(f"embed, {kind}, sdpa", batch, seconds(run), peak_mb(run), operations, rate))
        with precision("bfloat16"):
            for kernel, backend in KERNELS.items():
                what = f"embed, bfloat16, sdpa's {kernel} kernel"
                part = many if kernel != "math" else eighth
                try:
                    with sdpa_kernel(backend):
                        taken, memory = seconds(partial(run, part)), peak_mb(partial(run, part))
                    found.append(row(what, len(part), taken, memory, operations * len(part) / batch, rate))
                except RuntimeError as error:
                    found.append(failed(what, error))
            model.set_attn_implementation("eager")
            try:
                taken, memory = seconds(partial(run, eighth)), peak_mb(partial(run, eighth))
                found.append(
                    row("embed, bfloat16, eager", len(eighth), taken, memory, operations * len(eighth) / batch, rate)
                )
            except RuntimeError as error:
                found.append(failed("embed, bfloat16, eager", error))
            model.set_attn_implementation("sdpa")
            found.append(
                row(
                    "embed, bfloat16, one scan",
                    1,
                    seconds(lambda: run(few[:1])),
                    peak_mb(lambda: run(few[:1])),
                    operations / batch,
                    rate,
                )
            )
            begin = time.perf_counter()
            try:
                compiled = torch.compile(model)
                compiled(many)
                torch.cuda.synchronize()
                warm = time.perf_counter() - begin
                error = difference(run(many), compiled(many).pooler_output)
                taken = seconds(lambda: compiled(many).pooler_output)
                found.append(
                    row(
                        "embed, bfloat16, torch.compile",
                        batch,
                        taken,
                        peak_mb(lambda: compiled(many)),
                        operations,
                        rate,
                        compile_s=round(warm, 1),
                        relative_difference=error,
                    )
                )
            except Exception as error:  # the compiler raises errors of many kinds: they cost one entry, not the run
                found.append(failed("embed, bfloat16, torch.compile", error))
            torch._dynamo.reset()
    return found


def pretraining_inputs(model: Any, batch: int) -> dict[str, Any]:
    config = model.config
    family = type(model).__name__
    if family == "BrainSemantoksForMaskedModeling":
        mask = torch.zeros(batch, 2, config.n_networks, config.n_windows, dtype=torch.bool)
        mask[:, 0, 2:8], mask[:, 1, :, 1:4] = True, True
        return {"signals": scans(config, batch, 2), "bool_masked_pos": mask, "network_loss_weight": 0.5}
    if family == "BrainJEPAForMaskedModeling":
        order = torch.randperm(4500, generator=torch.Generator().manual_seed(2))
        return {
            "signals": scans(config, batch),
            "context_indices": order[:724].sort().values.expand(batch, -1),
            "target_indices": order[724 : 724 + 1649].expand(batch, -1),
        }
    return {"signals": scans(config, batch)}


def pretraining(name: str, batch: int, rate: float) -> list[dict[str, Any]]:
    """Loss, gradients, clipping and a fused AdamW update in bfloat16, with and without activation checkpointing."""
    from transformers import AutoModelForPreTraining

    model = prepared(name, AutoModelForPreTraining).cuda().train()
    inputs = {
        key: value.cuda() if isinstance(value, torch.Tensor) else value
        for key, value in pretraining_inputs(model, batch).items()
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def forward(network: Any = model) -> torch.Tensor:
        return network(**inputs).loss

    def step(network: Any = model) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(network)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        few = {
            key: value[:2] if isinstance(value, torch.Tensor) and value.shape[:1] == (batch,) else value
            for key, value in inputs.items()
        }
        model(**few).loss.backward()
    optimizer.zero_grad()
    operations = counter.get_total_flops() * batch / 2
    found = []
    with precision("tf32"):
        try:
            found.append(row("pretraining step, bfloat16", batch, seconds(step), peak_mb(step), operations, rate))
        except RuntimeError as error:
            found.append(failed("pretraining step, bfloat16", error))
        try:
            model.gradient_checkpointing_enable()
            what = "pretraining step, bfloat16, activation checkpointing"
            found.append(row(what, batch, seconds(step, 3), peak_mb(step), operations, rate))
        except (RuntimeError, ValueError) as error:
            found.append(failed("pretraining step, activation checkpointing", error))
        model.gradient_checkpointing_disable()
        begin = time.perf_counter()
        try:
            compiled = torch.compile(model)
            step(compiled)
            torch.cuda.synchronize()
            warm = time.perf_counter() - begin
            taken, memory = seconds(lambda: step(compiled)), peak_mb(lambda: step(compiled))
            what = "pretraining step, bfloat16, torch.compile"
            found.append(row(what, batch, taken, memory, operations, rate, compile_s=round(warm, 1)))
        except Exception as error:  # as above
            found.append(failed("pretraining step, bfloat16, torch.compile", error))
        torch._dynamo.reset()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one or more of: {', '.join(MODELS)}")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    if unknown := sorted(set(options.models) - set(MODELS)):
        parser.error(f"unknown models {', '.join(unknown)}; known: {', '.join(MODELS)}")
    if not torch.cuda.is_available():
        print("no CUDA card here: nothing was measured")
        return 0
    rate = reached_rate()
    print(f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} TFLOP/s on a large bfloat16 product", flush=True)
    content: dict[str, Any] = {"machine": machine(), "models": {}}
    if options.models and options.output.is_file():  # the rest stands if it was measured on such a card
        before = json.loads(options.output.read_text(encoding="utf-8"))
        if before["machine"] == content["machine"]:
            content = before
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.models or MODELS:
        print(name, flush=True)
        batch, training_batch = MODELS[name]
        rows = [*embedding(name, batch, rate), *pretraining(name, training_batch, rate)]
        content["models"][name] = {"reached_tflops": round(rate / 1e12), "rows": rows}
        torch.cuda.empty_cache()
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
