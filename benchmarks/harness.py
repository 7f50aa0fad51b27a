"""Times two formulations of the same numbers against each other, in one process, and writes what it found.

Each entry runs both alternately (A B A B ...), so that a drift of the machine's speed hits both; the figure to quote
is the median of the pairwise ratios. Memory is the peak of the resident set above what was resident before the call.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass
class Result:
    """Figures of one comparison.

    Attributes:
        name: what was compared.
        baseline, ours: what each side is, in words.
        baseline_s, ours_s: median seconds of a call.
        speedup: median of the pairwise ratios baseline / ours.
        speedup_range: smallest and largest pairwise ratio.
        baseline_mb, ours_mb: peak of memory added by one call, in MB (10^6 bytes).
        largest_difference: largest absolute difference of the outputs, over the largest absolute value.
        target: smallest speedup that the project promises, if any.
        repeats: number of pairs.
        most_mb: largest memory that the project promises, if any.
    """

    name: str
    baseline: str
    ours: str
    baseline_s: float | None
    ours_s: float
    speedup: float | None
    speedup_range: tuple[float, float] | None
    baseline_mb: float | None
    ours_mb: float
    largest_difference: float | None
    target: float | None
    repeats: int
    notes: dict[str, Any] = field(default_factory=dict)
    most_mb: float | None = None


class PeakMemory:
    """Peak resident memory above the level at entry, sampled every millisecond."""

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        _return_free_memory()
        self._start = self._peak = _resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.is_set():
            self._peak = max(self._peak, _resident_bytes())
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def added_mb(self) -> float:
        return (self._peak - self._start) / 1e6


def _return_free_memory() -> None:
    """Give freed blocks back to the system, so that one call's leftovers do not hide what the next one needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _difference(expected: Any, actual: Any) -> float:
    """Largest relative difference over tensors or sequences of them."""
    pairs = zip(expected, actual, strict=True) if isinstance(expected, (list, tuple)) else [(expected, actual)]
    worst = 0.0
    for one, other in pairs:
        scale = float(one.detach().float().abs().max()) or 1.0
        worst = max(worst, float((one.detach().float() - other.detach().float()).abs().max()) / scale)
    return worst


def compare(
    name: str,
    baseline: tuple[str, Callable[[], Any]],
    ours: tuple[str, Callable[[], Any]],
    *,
    repeats: int = 5,
    target: float | None = None,
    tolerance: float = 1e-4,
    inner: int = 1,
) -> Result:
    """Check that both give the same numbers, then time and weigh them.

    Args:
        name: what is compared.
        baseline, ours: description and function; what they return is compared.
        repeats: number of pairs of timed calls, after one warm-up each.
        target: promised speedup.
        tolerance: largest allowed difference, relative to the largest value.
        inner: calls a timing, for short functions.

    Raises:
        AssertionError: if the numbers differ by more than `tolerance`.
    """
    # Ours first, on clean memory: whatever is kept for reuse then lowers the figure of the baseline, not ours.
    with PeakMemory() as memory_ours:
        actual = ours[1]()
    with PeakMemory() as memory_baseline:
        expected = baseline[1]()
    difference = _difference(expected, actual)
    assert difference <= tolerance, f"{name}: the two formulations differ by {difference:.3g} > {tolerance:g}"
    del expected, actual

    def timed(function: Callable[[], Any]) -> float:
        return _seconds(lambda: [function() for _ in range(inner)]) / inner

    times = [(timed(baseline[1]), timed(ours[1])) for _ in range(repeats)]
    ratios = [a / b for a, b in times]
    return Result(
        name,
        baseline[0],
        ours[0],
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        memory_baseline.added_mb,
        memory_ours.added_mb,
        difference,
        target,
        repeats,
    )


def measure(name: str, ours: str, function: Callable[[], Any], most_mb: float | None = None) -> Result:
    """Time and weigh one call of something whose plain form would not run here.

    Args:
        name: what it is.
        ours: in words.
        function: what is called, once.
        most_mb: promised memory.
    """
    with PeakMemory() as memory:
        seconds = _seconds(function)
    added = memory.added_mb
    return Result(name, "not run", ours, None, seconds, None, None, None, added, None, None, 1, most_mb=most_mb)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    import transformers

    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def table(results: Iterable[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| what | plain | here | faster | promised | memory plain | memory here | largest difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        promised = f"{result.target:g}x" if result.target else f"{result.most_mb:g} MB" if result.most_mb else ""
        cells = [
            result.name,
            _time(result.baseline_s),
            _time(result.ours_s),
            _cell(result.speedup, "**{:.2f}x**"),
            promised,
            _cell(result.baseline_mb, "{:.0f} MB"),
            f"{result.ours_mb:.0f} MB",
            _cell(result.largest_difference, "{:.1e}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def main(family: str, entries: dict[str, Callable[[], Result]], description: str | None = None) -> int:
    """Command line of a benchmark file: run all entries or those named, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help=f"one or more of: {', '.join(entries)}")
    parser.add_argument("--threads", type=int, default=None, help="threads for torch")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{family}.json")
    options = parser.parse_args()
    unknown = sorted(set(options.entries) - set(entries))
    if unknown:
        parser.error(f"unknown entries {', '.join(unknown)}; known: {', '.join(entries)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    results = []
    for name in options.entries or entries:
        print(f"{name} ...", flush=True)
        results.append(entries[name]())
        print(table(results[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(results)}\n")
    content = {"family": family, "machine": machine(), "results": [asdict(result) for result in results]}
    if options.entries and options.output.is_file():  # the rest stands if it was measured on the same machine
        before = json.loads(options.output.read_text(encoding="utf-8"))
        if before["machine"] == content["machine"]:
            new = {result.name for result in results}
            content["results"] = [entry for entry in before["results"] if entry["name"] not in new] + content[
                "results"
            ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, options.output)
    print(f"written to {options.output}")
    missed = [
        result.name
        for result in results
        if (result.target and result.speedup is not None and result.speedup < result.target)
        or (result.most_mb and result.ours_mb > result.most_mb)
    ]
    if missed:
        print(f"below the promise: {', '.join(missed)}")
    return 1 if missed else 0
