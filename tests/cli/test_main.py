"""The command line as a user meets it: through a process."""

import argparse
import ast
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import brain_transformers as bt
import brain_transformers.cli
from brain_transformers.cli import main as command_line
from brain_transformers.cli.interrupts import signals_raise
from brain_transformers.files import write_file
from brain_transformers.hub.sharing import save_model_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))

from fresh_process import run_python

pytestmark = pytest.mark.usefixtures("_any_table")
HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "matplotlib", "nilearn", "scipy", "accelerate")


@pytest.fixture
def _any_table(monkeypatch) -> None:
    """The command that stands for all in this file takes any table."""
    from brain_transformers.cli import probe

    monkeypatch.setattr(probe, "check", lambda args: None)


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "brain_transformers.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        check=False,
    )


def test_help_lists_every_command() -> None:
    result = call("--help")
    assert result.returncode == 0
    for name in ("demo", "models", "prepare", "embed", "probe"):
        assert f"\n    {name} " in result.stdout


def test_version() -> None:
    from brain_transformers import __version__

    assert call("--version").stdout.strip() == f"brain-transformers {__version__}"


@pytest.mark.parametrize("path", sorted(Path(brain_transformers.cli.__path__[0]).glob("*.py")), ids=lambda p: p.name)
def test_command_files_import_nothing_heavy_until_they_run(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 2:
            imported.add(f"..{(node.module or '').split('.')[0]}")
    assert not imported & {*HEAVY, "..models", "..training", "..evaluation", "..plotting", "..data"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("embed", "nowhere", "--model", "x", "--output", "out.parquet"), ("nowhere", "prepare")),
        (("embed", "nowhere", "--model", "x", "--output", "out.xlsx"), (".parquet", "out.xlsx")),
        (("probe", "nowhere.csv", "--label", "sex"), ("nowhere.csv", "embed")),
        (("demo", "--steps", "0"), ("--steps", "0")),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(arguments, words, tmp_path: Path) -> None:
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"brain-transformers {arguments[0]}: error: ")
    assert all(word in lines[0] for word in words)
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = call("probe", "nowhere.csv", "--label", "sex", "--debug", cwd=tmp_path)
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "FileNotFoundError" in result.stderr


# The command as its console script starts it, with a signal sent when `module` is first looked for.
STARTED = """
    import os, signal, sys

    number, module, *words = sys.argv[1:]

    class Sender:
        def find_spec(self, name, path=None, target=None):
            if name == module:
                sys.meta_path.remove(self)
                os.kill(os.getpid(), int(number))

    sys.meta_path.insert(0, Sender())
    sys.argv = ["/somewhere/bin/brain-transformers", *words]
    from brain_transformers.cli.main import main
    sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "number", "code"),
    [
        ("brain_transformers.lazy", signal.SIGINT, 130),
        ("torch", signal.SIGTERM, 143),
        ("brain_transformers.cli.probe", signal.SIGINT, 130),
        ("numpy", signal.SIGTERM, 143),
    ],
)
def test_a_signal_in_the_first_seconds_is_one_line(number: int, code: int, module: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("subject,e0\na,1\n")
    words = ("probe", table, "--label", "subject")
    result = run_python(STARTED, str(int(number)), module, *words, check=False)
    assert result.returncode == code, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("brain-transformers")
    assert line.endswith(f"Begin again with: brain-transformers probe {table} --label subject")
    assert ("interrupted" if number == signal.SIGINT else "terminated") in line


@pytest.mark.parametrize(
    ("go_on", "words"),
    [
        (None, "Begin again with: brain-transformers probe 'my table.csv' --label x"),
        ("", "Go on with: brain-transformers probe 'my table.csv' --label x"),
        ("--resume", "Go on with: brain-transformers probe 'my table.csv' --label x --resume"),
    ],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_names_the_command_that_goes_on(
    number: int, code: int, go_on: str | None, words: str, monkeypatch, capsys
) -> None:
    from brain_transformers.cli import probe

    cleaned = []

    def run(args: argparse.Namespace) -> int:
        args.go_on = go_on
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            cleaned.append(True)
        return 0

    monkeypatch.setattr(probe, "run", run)
    before = signal.getsignal(number)
    assert command_line.main(["probe", "my table.csv", "--label", "x"]) == code
    assert capsys.readouterr().err.strip().endswith(words)
    assert cleaned
    assert signal.getsignal(number) is before


def test_a_signal_in_an_import_that_swallows_it_is_answered_after_it(monkeypatch, capsys, tmp_path: Path) -> None:
    from brain_transformers.cli import probe

    (tmp_path / "swallows.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    sum(range(100_000))\n"
        "except BaseException as error:\n"
        "    raise ImportError('initialization failed')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def run(args: argparse.Namespace) -> int:
        importlib.import_module("swallows")
        time.sleep(60)
        return 0

    monkeypatch.setattr(probe, "run", run)
    begin = time.perf_counter()
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 143
    assert time.perf_counter() - begin < 20
    assert "terminated" in capsys.readouterr().err
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_signal_that_comes_out_as_another_error_is_a_signal(monkeypatch, capsys) -> None:
    from brain_transformers.cli import probe

    def run(args: argparse.Namespace) -> int:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt as error:
            raise RuntimeError("a worker failed") from error
        return 0

    monkeypatch.setattr(probe, "run", run)
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_errors_from_below_point_to_debug(monkeypatch, capsys) -> None:
    from brain_transformers.cli import probe

    monkeypatch.setattr(probe, "run", lambda args: int("not a number"))
    # The lambda is this test's, so the error does not come from the package.
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 2
    assert "--debug" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "/data/scan.npy"), "/data/scan.npy"),
        (IsADirectoryError(21, "Is a directory", "/data/scans"), "/data/scans"),
        (OSError("We couldn't connect\nand looked\nin the cache"), "couldn't connect and looked in the cache"),
        (MemoryError("Unable to allocate 9 TiB"), "out of memory (Unable to allocate 9 TiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 TiB"), "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error: Exception, words: str, monkeypatch, capsys) -> None:
    from brain_transformers.cli import probe

    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(probe, "run", fail)
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    from brain_transformers.cli import probe

    monkeypatch.setattr(probe, "run", lambda args: {}["absent"])
    with pytest.raises(KeyError):
        command_line.main(["probe", "table.csv", "--label", "x"])


def write_text(file: Path) -> None:
    write_file(file, b"x" * 100_000)


def write_safetensors(file: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(50_000)}, file)


def write_torch(file: Path) -> None:
    torch.save({"weight": torch.zeros(50_000)}, file)


def write_model(file: Path) -> None:
    save_model_folder(bt.BrainLMModel(bt.load_config("brainlm-tiny", num_positions=2000)), file.parent / "model")


@pytest.mark.parametrize("write", [write_text, write_safetensors, write_torch, write_model])
def test_a_full_disk_is_one_line_that_names_the_file(write: Callable, monkeypatch, capsys, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit on the size of files stands in for a full disk")
    from brain_transformers.cli import probe

    def run(args: argparse.Namespace) -> int:
        args.go_on = "--resume"
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            write(tmp_path / "weights.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return 0

    monkeypatch.setattr(probe, "run", run)
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "disk is full" in line
    assert str(tmp_path / ("model" if write is write_model else "weights.safetensors")) in line
    assert ".partial-" not in line
    assert f"{tmp_path} has " in line
    assert line.endswith("Go on with: brain-transformers probe table.csv --label x --resume")


def test_python_m_is_the_command() -> None:
    result = run_python("import runpy; runpy.run_module('brain_transformers', run_name='__main__')", "--version")
    assert result.stdout.startswith("brain-transformers ")


def test_no_command_prints_help(capsys) -> None:
    assert command_line.main([]) == 0
    assert "brain-transformers demo" in capsys.readouterr().out


def test_models_lists_the_registry_as_table_and_json(capsys) -> None:
    from brain_transformers.hub.registry import MODELS

    assert command_line.main(["models"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("model ")
    assert [row.split()[0] for row in rows] == list(MODELS)
    assert command_line.main(["models", "--json"]) == 0
    table = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {name: entry["parameters"] for name, entry in table.items()} == {
        name: entry.parameters for name, entry in MODELS.items()
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("probe", "t.csv", "--label", "x", "--fols", "3"), "did you mean --folds?"),
        (("prob",), "invalid choice: 'prob'"),
        (("pretrain", "--model", "brainlm13m", "--dataset", "data", "--output", "o"), "Did you mean brainlm-13m?"),
        (("pretrain", "--model", "brainlm-13m", "--dataset", "nowhere", "--output", "o"), "nowhere"),
        (("finetune", "--model", "m", "--dataset", "data", "--output", "o"), "--label"),
        (("embed", "nowhere", "--model", "x", "--output", "o.csv"), "nowhere"),
        (("models",), ""),
    ],
)
def test_mistakes_are_answered_before_torch_is_imported(arguments, words, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "state.json").touch()
    code = """
        import os, sys
        os.chdir(sys.argv[1])
        sys.argv = ["/somewhere/bin/brain-transformers", *sys.argv[2:]]
        from brain_transformers.cli.main import main
        try:
            main()
        except SystemExit:
            pass
        heavy = {"torch", "transformers", "datasets", "pandas"} & set(sys.modules)
        assert not heavy, heavy
    """
    result = run_python(code, tmp_path, *arguments)
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == (1 if words else 0)


def test_flags_are_accepted_in_both_spellings(capsys, monkeypatch) -> None:
    from brain_transformers.cli import embed

    given = []
    monkeypatch.setattr(embed, "check", lambda args: None)
    monkeypatch.setattr(embed, "run", lambda args: given.append((args.batch_size, args.on_error)) or 0)
    for sign in "-_":
        flags = [f"--batch{sign}size=3", f"--on{sign}error", "skip"]
        assert command_line.main(["embed", "d", "--model", "m", "--output", "o.csv", *flags]) == 0
    assert given == [(3, "skip")] * 2


def test_without_a_terminal_a_bar_is_a_line_now_and_then() -> None:
    code = """
        import sys, time
        sys.argv = ["/somewhere/bin/brain-transformers"]
        from brain_transformers.cli.progress import by_the_line
        by_the_line()
        from tqdm.auto import tqdm
        for _ in tqdm(range(400), desc="Counting"):
            time.sleep(0.001)
    """
    lines = [line for line in run_python(code).stderr.splitlines() if line]
    assert [line.split("|")[0] for line in lines] == ["Counting:   0%", "Counting: 100%"]


def test_a_worker_that_is_ended_asks_python_nothing():
    """A handler in Python would wait for a worker that waits for a lock."""
    if not hasattr(os, "fork"):
        pytest.skip("no processes are forked here")
    with signals_raise():
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert callable(signal.getsignal(signal.SIGTERM))
