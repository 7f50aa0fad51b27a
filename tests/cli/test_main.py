"""The command line as a user meets it: through a process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import brain_transformers.cli
from brain_transformers.cli import main as command_line

HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "matplotlib", "nilearn", "scipy", "accelerate")


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
    for name in ("demo", "prepare", "embed", "probe"):
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


def test_interrupt_is_not_an_error_message(monkeypatch, capsys) -> None:
    from brain_transformers.cli import probe

    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "run", interrupt)
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_errors_from_below_point_to_debug(monkeypatch, capsys) -> None:
    from brain_transformers.cli import probe

    monkeypatch.setattr(probe, "run", lambda args: int("not a number"))
    # The lambda is this test's, so the error does not come from the package.
    assert command_line.main(["probe", "table.csv", "--label", "x"]) == 2
    assert "--debug" in capsys.readouterr().err


def test_no_command_prints_help(capsys) -> None:
    assert command_line.main([]) == 0
    assert "brain-transformers demo" in capsys.readouterr().out
