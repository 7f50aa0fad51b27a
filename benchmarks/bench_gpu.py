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
from transformers import AutoModel, AutoModelForPreTraining

import brain_transformers as bt
from brain_transformers.data.row_randomness import EPOCH, ROW_INDEX, BatchNumbers
from brain_transformers.layers.packing import Packing
from brain_transformers.layers.selective_scan import SCANS, chosen_scan, selective_scan

# Model, batch of embedding, batch of pretraining.
MODELS = {
    "brainlm-13m": (32, 16),
    "brainlm-111m": (64, 64),
    "brainlm-650m": (64, 32),
    "brain-jepa-base": (32, 16),
    "brain-semantoks-base": (256, 64),
    "harmonix-f-base": (16, 8),
    "harmonix-s-base": (64, 32),
    "brain-harmony-base": (16, 8),
    "brain-mt-base": (1, 1),
}
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def seconds(function: Callable[[], Any], repeats: int = 5, warm_up: int = 2) -> float:
    """Median seconds of a call, by events on the device."""
    for _ in range(warm_up):
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
    """What the body takes first, at the published sizes."""
    rows: dict[str, Any] = {
        "harmonix_s": lambda: (1, *config.image_size),
        "brain_harmony": lambda: (config.n_tokens, config.input_size),
        "brain_mt": lambda: (config.n_frames, 1, *config.volume_size),
    }
    row = rows.get(config.model_type, lambda: (config.n_rois, config.n_timepoints))()
    return torch.randn(*shape, *row, generator=torch.Generator().manual_seed(1))


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
    model = prepared(name, AutoModel).eval()
    few = scans(model.config, 2)
    if model.main_input_name == "volumes":
        few = few[:1, :20]  # as much as a CPU does in seconds
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
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
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
    if config.model_type == "brain_semantoks":
        mask = torch.zeros(batch, 2, config.n_networks, config.n_windows, dtype=torch.bool)
        mask[:, 0, 2:8], mask[:, 1, :, 1:4] = True, True
        return {"signals": scans(config, batch, 2), "bool_masked_pos": mask, "network_loss_weight": 0.5}
    inputs = {model.main_input_name: scans(config, batch)}
    draws = BatchNumbers(0).draws([{ROW_INDEX: row, EPOCH: 0} for row in range(batch)])
    return {**inputs, **type(model).draw_masks(config, draws, inputs)}


def pretraining(name: str, batch: int, rate: float) -> list[dict[str, Any]]:
    """Loss, gradients, clipping and a fused AdamW update in bfloat16, with and without activation checkpointing."""
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

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
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


def packed_lengths() -> list[dict[str, Any]]:
    """An encoder layer of Harmonix-F over scans of 4,400, 2,800 and 1,600 of 7,200 tokens, forward and backward."""
    model = prepared("harmonix-f-base", AutoModel).cuda().bfloat16()
    layer, lengths = model.layers[0], (4400, 2800, 1600)
    tokens = torch.randn(3, 7200, 768, device="cuda", dtype=torch.bfloat16)
    packing = Packing((torch.arange(7200)[None] < torch.tensor(lengths)[:, None]).cuda())
    mask = packing.keep[:, None, None, :].expand(-1, 1, 7200, -1)
    alone = [tokens[row : row + 1, :length] for row, length in enumerate(lengths)]
    packed = packing.pack(tokens)
    forms: dict[str, Callable[[], Any]] = {
        "padded, with a mask": lambda: layer(tokens, mask, packing.keep),
        "one after the other": lambda: [layer(each) for each in alone],
        "packed, torch's variable-length attention": lambda: layer(packed, lengths=packing.lengths),
    }
    found = []
    with torch.no_grad():
        expected = torch.cat(forms["one after the other"](), dim=1)
        error = difference(expected, layer(packed, lengths=packing.lengths))
        for what, form in forms.items():
            found.append(
                {"what": f"{what}, forward", "ms": round(1e3 * seconds(form), 3), "peak_mb": round(peak_mb(form))}
            )
    found[-1]["relative_difference"] = error
    for what, form in forms.items():

        def step(form: Callable[[], Any] = form) -> None:
            output = form()
            sum(each.float().sum() for each in (output if isinstance(output, list) else [output])).backward()
            model.zero_grad()

        found.append(
            {"what": f"{what}, and backward", "ms": round(1e3 * seconds(step), 3), "peak_mb": round(peak_mb(step))}
        )
    for entry in found:
        print("  " + "  ".join(f"{key} {value}" for key, value in entry.items()), flush=True)
    return found


def selective_scans() -> list[dict[str, Any]]:
    """One direction of one layer of BrainMT at full length: 50,401 steps, 1,024 channels, 16 states."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        u, step, grad = (torch.randn(1, 50_401, 1024, device="cuda") for _ in range(3))
        B, C = (torch.randn(1, 50_401, 16, device="cuda").to(dtype) for _ in range(2))
        A, D = -torch.arange(1.0, 17, device="cuda").repeat(1024, 1), torch.ones(1024, device="cuda")
        inputs = [u.to(dtype), torch.nn.functional.softplus(step - 3).to(dtype), A, B, C, D]
        found += [scan_with(name, [each.requires_grad_() for each in inputs], grad) for name in SCANS[1:]]
    return found


def scan_with(name: str, inputs: list[torch.Tensor], grad: torch.Tensor) -> dict[str, Any]:
    """Time, memory and the difference of 32 channels from float64, of one implementation."""
    what = f"scan {name}, inputs {str(inputs[0].dtype).removeprefix('torch.')}"
    try:
        chosen_scan(grad.device, implementation=name)
    except RuntimeError as error:
        return failed(what, error)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return selective_scan(*inputs, implementation=name)

    def both() -> Any:
        return torch.autograd.grad(selective_scan(*inputs, implementation=name), inputs, grad)

    with torch.no_grad():
        u, step, A, B, C, D = (each.double() for each in inputs)
        exact = selective_scan(u[:, :, :32], step[:, :, :32], A[:32], B, C, D[:32])
    repeats = 1 if name == "chunked" else 5  # seconds each, on a device that it is not made for
    entry = {
        "what": what,
        "forward_ms": round(1e3 * seconds(forward, repeats, warm_up=1), 3),
        "forward_backward_ms": round(1e3 * seconds(both, repeats, warm_up=1), 3),
        "forward_peak_mb": round(peak_mb(forward)),
        "forward_backward_peak_mb": round(peak_mb(both)),
        "relative_difference": difference(exact, forward()[:, :, :32]),
    }
    print("  " + "  ".join(f"{key} {value}" for key, value in entry.items()), flush=True)
    return entry


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "packed-lengths": packed_lengths,
    "selective-scan": selective_scans,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"one or more of: {', '.join([*MODELS, *PARTS])}")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    if unknown := sorted(set(options.models) - {*MODELS, *PARTS}):
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join([*MODELS, *PARTS])}")
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
    for name in options.models or [*MODELS, *PARTS]:
        print(name, flush=True)
        if name in PARTS:
            rows = PARTS[name]()
        else:
            batch, training_batch = MODELS[name]
            rows = [*embedding(name, batch, rate), *pretraining(name, training_batch, rate)]
        content["models"][name] = {"reached_tflops": round(rate / 1e12), "rows": rows}
        torch.cuda.empty_cache()
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
