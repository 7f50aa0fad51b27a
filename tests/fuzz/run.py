"""Damaged files through everything that reads files of others, in child processes with little memory and a deadline.

    python -m tests.fuzz.run                                  # 10,000 inputs over all targets
    python -m tests.fuzz.run --inputs 500 --target readers    # targets whose name starts so
    python -m tests.fuzz.run --target readers.npy --only 17 --keep kept_input     # one input, with its traceback

Input `n` of a target is the same in every run with the same `--seed`. Verdicts: `accepted`; `refused` (one of our own
errors that names the file or folder); `refused without the name`; and the faults: `raw` (a traceback of something
below, or of a kind that is no refusal), `memory` (over the limit, or hundreds of megabytes for a small file), `hang`,
`crash` (of the interpreter), `leak` (bytes of a foreign file came back, or it was opened), `code` (something in the
input ran). A child that dies or hangs costs one input; the rest goes on in another child.
"""

import argparse
import collections
import contextlib
import importlib
import io
import json
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .mutations import CANARY, mutate

REPOSITORY = Path(__file__).resolve().parents[2]
FAULTS = ("raw", "memory", "hang", "crash", "leak", "code")
VERDICTS = ("accepted", "refused", "refused without the name", *FAULTS)
# Memory that an input may take on top of the loaded libraries, and what is suspicious for files of a few kilobytes.
MEMORY, SUSPICIOUS = 2 << 30, 400 << 20
# Errors that say that the package's own code met something it did not expect, wherever they are raised.
_BUGS = (
    KeyError, IndexError, AttributeError, AssertionError, ArithmeticError, UnicodeError, RecursionError, MemoryError,
    NameError, StopIteration, EOFError,
)  # fmt: skip


# --- the child ---


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the last frame is ours (or transformers') and stands on a `raise`, not on a call that failed below."""
    import dis

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = trace.tb_frame.f_code.co_filename
    ours = any(part in file for part in ("brain_transformers", f"{REPOSITORY / 'conversion'}", "/transformers/"))
    opcode = dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]]
    return ours and opcode == "RAISE_VARARGS"


def _holds_canary(value: Any, depth: int = 0) -> bool:
    if depth > 6:
        return False
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return any(_holds_canary(item, depth + 1) for item in value.reshape(-1)[:1000])
        plain = np.ascontiguousarray(value)
        if CANARY[:12] in plain.tobytes():
            return True
        if plain.dtype.kind not in "fiu":
            return False
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return CANARY[:12] in np.nan_to_num(plain).clip(0, 255).astype(np.uint8).tobytes()
    if isinstance(value, bytes):
        return CANARY[:12] in value
    if isinstance(value, dict):
        return any(_holds_canary(item, depth + 1) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_canary(item, depth + 1) for item in value[:1000])
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return _holds_canary(vars(value), depth + 1)
    return CANARY[:12].decode() in str(value) if isinstance(value, str) else False


def _peak(reset: bool = False) -> int:
    """The highest resident memory of this process since the last reset, bytes; 0 where the system does not tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(match.group(1)) << 10 if match else 0


class Child:
    """Works off inputs one by one and writes a line before and after each."""

    def __init__(self, work: Path, seed: int, targets: str) -> None:
        self.targets, self.seed, self.work = importlib.import_module(targets).TARGETS, seed, work
        self.canary = work / "canary.bin"
        self.canary.write_bytes(CANARY * 4096)
        self.marker = work / "code_ran"
        self.seeds: dict[str, list[Path]] = {}
        self.refused_good: dict[str, str] = {}
        self.events: list[str] = []
        self.watching = False
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching:
            return
        if event == "open" and str(arguments[0]).endswith("canary.bin"):
            self.events.append("leak")
        started = event in ("os.system", "socket.connect", "os.exec", "os.posix_spawn")
        if started or (event == "exec" and str(self.work) in getattr(arguments[0], "co_filename", "")):
            self.events.append("code")

    def seed_of(self, name: str) -> tuple[Path, list[Path]]:
        """The undamaged folder of a target, made once, and its files that may be damaged (relative)."""
        folder = self.work / "seeds" / name
        if name not in self.seeds:
            folder.mkdir(parents=True)
            self.seeds[name] = [path.relative_to(folder) for path in self.targets[name].make(folder)]
            try:
                self.targets[name].call(self._copy(folder))  # loads the libraries before memory is limited
            except (Exception, SystemExit) as error:
                self.refused_good[name] = f"{type(error).__name__}: {error}"
        return folder, self.seeds[name]

    def _copy(self, folder: Path) -> Path:
        place = self.work / "input"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
        return place

    def make_input(self, name: str, number: int) -> tuple[Path, Path]:
        """The folder of input `number` of a target, and the file in it that is damaged."""
        folder, files = self.seed_of(name)
        place = self._copy(folder)
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), number])
        file = files[number % len(files)]
        damaged = (folder / file).read_bytes()
        for _ in range(1 + int(rng.random() < 0.2)):
            try:
                damaged = mutate(file.name, damaged, rng)
            except Exception:
                break  # damage to what is damaged already can fail; the first is enough
        damaged = damaged.replace(b"CANARY_PATH", str(self.canary).encode())
        (place / file).write_bytes(damaged)
        return place, place / file

    def try_input(self, name: str, number: int) -> tuple[str, str]:
        """Verdict and, for a refusal or fault, the kind and the message."""
        place, file = self.make_input(name, number)
        self.events.clear()
        before = _peak(reset=True)
        result: Any = None
        error: BaseException | None = None
        self.watching = True
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = self.targets[name].call(place)
        except (Exception, SystemExit) as problem:
            error = problem
        finally:
            self.watching = False
        grown = _peak() - before
        told = f"{type(error).__name__}: {error}" if error is not None else ""
        if self.marker.exists() or "code" in self.events:
            self.marker.unlink(missing_ok=True)
            return "code", told
        if "leak" in self.events or _holds_canary(result) or CANARY[:12].decode() in told:
            return "leak", told
        del caught
        if isinstance(error, MemoryError) or grown > SUSPICIOUS:
            return "memory", f"{grown >> 20} MiB for {file.stat().st_size if file.exists() else 0} bytes; {told}"
        if error is None:
            return "accepted", ""
        failed = type(error).__name__ == "CommandFailed"
        if isinstance(error, _BUGS) or not (failed or _raised_on_purpose(error)):
            where = traceback.extract_tb(error.__traceback__)
            ours = [
                frame for frame in where if "brain_transformers" in frame.filename or "/conversion/" in frame.filename
            ]
            at = f" [{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}]" if ours else ""
            return "raw", f"{told}{at}"
        if not self.targets[name].named:
            return "refused", told
        names = {file.name, *(part.name for part in (place, *place.rglob("*")) if part.name != "input"), str(place)}
        return ("refused" if any(part in str(error) for part in names) else "refused without the name"), told


def _child(arguments: argparse.Namespace) -> int:
    """Read jobs (`target number` a line) from stdin, write JSON lines to the real stdout."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    # What targets print is theirs.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path.insert(0, str(REPOSITORY / "conversion"))
    child = Child(Path(arguments.work), arguments.seed, arguments.targets)
    limited = False
    for line in sys.stdin:
        name, number = line.split()
        lines.write(json.dumps({"make": name}) + "\n")
        child.seed_of(name)
        lines.write(json.dumps({"start": [name, int(number)]}) + "\n")
        if not limited:
            limited = True
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        verdict, message = child.try_input(name, int(number))
        if name in child.refused_good:
            lines.write(json.dumps({"good": [name, child.refused_good.pop(name)[:300]]}) + "\n")
        lines.write(json.dumps({"done": [name, int(number), verdict, message[:600]]}) + "\n")
    return 0


# --- the parent ---


def run(jobs: list[tuple[str, int]], seed: int, deadline: float, targets: str) -> Iterator[tuple[str, int, str, str]]:
    """(target, number, verdict, message) of every job; a child that dies or hangs costs the job it was at."""
    waiting = collections.deque(jobs)
    while waiting:
        with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as work:
            yield from _one_child(waiting, seed, deadline, work, targets)


def _one_child(
    waiting: collections.deque[tuple[str, int]], seed: int, deadline: float, work: str, targets: str
) -> Iterator[tuple[str, int, str, str]]:
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": f"{work}/hub", "TMPDIR": work,
        "HF_DATASETS_CACHE": f"{work}/datasets", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        "--child",
        "--seed",
        str(seed),
        "--work",
        work,
        "--targets",
        targets,
    ]
    Path(work, "jobs").write_text("".join(f"{name} {number}\n" for name, number in waiting))
    with open(f"{work}/jobs") as jobs, open(f"{work}/stderr", "w") as errors:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=jobs, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdout is not None
    buffer, last = b"", time.monotonic()
    started = False
    try:
        while True:
            # Before its first input a target loads libraries and makes files.
            ready, _, _ = select.select([process.stdout], [], [], 0.5)
            if ready:
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                buffer += piece
                *complete, buffer = buffer.split(b"\n")
                for line in complete:
                    report = json.loads(line)
                    last, started = time.monotonic(), "start" in report
                    if "good" in report:
                        print("not damaged, yet refused: {}: {}".format(*report["good"]), file=sys.stderr)
                    if "done" in report:
                        waiting.popleft()
                        yield tuple(report["done"])
            elif time.monotonic() - last > (deadline if started else 120):
                process.kill()
                process.wait()
                name, number = waiting.popleft()
                yield name, number, "hang", f"no answer within {deadline:g} s"
                return
        if process.wait() != 0:
            tail = Path(work, "stderr").read_text(errors="replace")[-1500:]
            name, number = waiting.popleft()
            if process.returncode > 0:
                raise RuntimeError(f"the fuzzer itself failed at {name} {number}:\n{tail}")
            yield name, number, "crash", f"signal {-process.returncode}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def main(argv: list[str] | None = None) -> int:
    """Run the fuzzer; returns 1 if an input ended in a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs in all (default 10000)")
    parser.add_argument("--target", action="append", help="only targets whose name starts so; may be repeated")
    parser.add_argument("--targets", default="tests.fuzz.targets", help="module with the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--deadline", type=float, default=20, help="seconds for one input (default 20)")
    parser.add_argument("--only", type=int, help="run this one input of --target here, and show its traceback")
    parser.add_argument("--keep", type=Path, help="with --only: copy the input there")
    parser.add_argument("--report", type=Path, help="write all verdicts there, a JSON line each")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        return _child(options)
    targets = importlib.import_module(options.targets).TARGETS
    chosen = [name for name in targets if not options.target or name.startswith(tuple(options.target))]
    if options.list or not chosen:
        print("\n".join(targets))
        return 0 if chosen else 2
    if options.only is not None:
        return _show(chosen[0], options)
    total = sum(targets[name].weight for name in chosen)
    jobs = [
        (name, options.first + number)
        for name in chosen
        for number in range(max(1, round(options.inputs * targets[name].weight / total)))
    ]
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in chosen}
    faults: dict[str, list[str]] = {}
    begin = time.monotonic()
    report = options.report.open("w") if options.report else None
    for name, number, verdict, message in run(jobs, options.seed, options.deadline, options.targets):
        counts[name][verdict] += 1
        if report is not None:
            report.write(json.dumps([name, number, verdict, message]) + "\n")
        if verdict in FAULTS or verdict == "refused without the name":
            # Numbers and paths differ from input to input; the fault is the same.
            short = re.sub(r"\d+", "#", re.sub(r"/\S+", "PATH", message.splitlines()[0] if message else ""))[:150]
            faults.setdefault(f"{verdict}: {name}: {short}", []).append(str(number))
    if report is not None:
        report.close()
    for key in sorted(faults, key=lambda key: -len(faults[key])):
        print(f"{len(faults[key]):5d}  {key}  (inputs {', '.join(faults[key][:3])})")
    print("\n" + "  ".join(f"{verdict:>9.9}" for verdict in VERDICTS))
    for name, counter in counts.items():
        print("  ".join(f"{counter[verdict]:9d}" for verdict in VERDICTS), "", name)
    total_counts = collections.Counter(verdict for counter in counts.values() for verdict in counter.elements())
    print(
        "  ".join(f"{total_counts[verdict]:9d}" for verdict in VERDICTS),
        f" {len(jobs)} inputs, {time.monotonic() - begin:.0f} s",
    )
    return int(any(total_counts[verdict] for verdict in FAULTS))


def _show(name: str, options: argparse.Namespace) -> int:
    sys.path.insert(0, str(REPOSITORY / "conversion"))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        child = Child(Path(work), options.seed, options.targets)
        place, file = child.make_input(name, options.only)
        print(f"damaged: {file.relative_to(place)}, {file.stat().st_size} bytes, starts {file.read_bytes()[:120]!r}")
        if options.keep is not None:
            shutil.copytree(place, options.keep, dirs_exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                result = str(child.targets[name].call(place))[:500]
            except (Exception, SystemExit):
                result = traceback.format_exc()
        print(printed.getvalue() + result)
        print(child.try_input(name, options.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
