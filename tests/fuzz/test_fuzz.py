"""A short run of the fuzzer: damaged files end in a result or in one error, and nothing of theirs runs or leaks."""

import json
import subprocess
import sys
from pathlib import Path


def fuzz(repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", *options],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_damaged_files_are_accepted_or_refused_in_words(repository: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    done = fuzz(repository, "--inputs", "200", "--seed", "1", "--deadline", "60", "--report", str(report))
    verdicts = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(verdicts) >= 190
    assert [line for line in verdicts if line[2] not in ("accepted", "refused")] == [], done.stdout
    assert {"accepted", "refused"} == {line[2] for line in verdicts}


def test_the_fuzzer_sees_every_kind_of_fault(repository: Path, tmp_path: Path) -> None:
    options = ["--targets", "tests.fuzz.faulty_targets", "--inputs", "8", "--deadline", "8"]
    report = tmp_path / "report.jsonl"
    done = fuzz(repository, *options, "--report", str(report))
    assert done.returncode == 1, done.stderr
    verdicts = {name: verdict for name, _, verdict, _ in map(json.loads, report.read_text().splitlines())}
    assert len(verdicts) == 8
    assert all(name == verdict for name, verdict in verdicts.items()), verdicts
