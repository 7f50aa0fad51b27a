"""`prepare` in shards and by several processes: whatever is killed, the same command again gives the same bytes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("datasets")

from brain_transformers.cli.main import main
from brain_transformers.data.builders import load_dataset

N_FILES = 60


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Sixty scans of thirty people, one of them damaged."""
    root = tmp_path_factory.mktemp("prepared") / "study"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(N_FILES):
        signals = rng.normal(size=(94, 40)).astype(np.float32)
        np.save(root / f"sub-{number // 2:02d}_ses-{number % 2}_bold.npy", signals)
    (root / "sub-11_ses-0_bold.npy").write_bytes(b"x")
    people = [f"sub-{number:02d}\t{20 + number}\t{'FM'[number % 2]}\t{number // 3}" for number in range(N_FILES // 2)]
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage\tsex\tfamily_id", *people, ""]))
    return root


def words(study: Path, output: Path, *more: str) -> list[str]:
    return ["prepare", str(study), "--output", str(output), "--roi-order", "aal2-94", "--t-r", "2", *more]


def in_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(command: list[str]) -> subprocess.Popen:
    code = "import sys; from brain_transformers.cli.main import main; sys.exit(main(sys.argv[1:]))"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", code, *command], start_new_session=True, **quiet)


def in_session(session: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        found += [int(stat.parent.name)] if int(of) == session and state != "Z" else []
    return found


@pytest.fixture(scope="module")
def straight(study: Path, tmp_path_factory) -> dict[str, bytes]:
    """What one process writes."""
    output = tmp_path_factory.mktemp("straight") / "dataset"
    with pytest.warns(UserWarning, match="1 of 60 files were left out"):
        assert main(words(study, output, "--num-proc", "1")) == 0
    return in_folder(output)


@pytest.mark.filterwarnings("ignore:1 of 60 files were left out")
def test_shards_joined_are_what_one_process_writes(study: Path, straight, tmp_path: Path, capsys) -> None:
    output, shards = tmp_path / "dataset", tmp_path / "dataset.shards"
    assert main(words(study, output, "--merge")) == 2
    assert "there are no shards to join" in capsys.readouterr().err
    for number in (3, 1):
        assert main(words(study, output, "--shard", f"{number}/3", "--num-workers", "2")) == 0
    assert "shard 1/3: 20 files, 0 of them cannot be used" in capsys.readouterr().out
    assert main(words(study, output, "--merge")) == 2
    assert "1 of 3 shards are not there yet (2/3)" in capsys.readouterr().err
    for wrong in (["--shard", "2/3", "--key", "x"], ["--shard", "2/4"], ["--merge", "--time-axis", "1"]):
        assert main(words(study, output, *wrong)) == 2
        assert "made with other settings" in capsys.readouterr().err
    assert main(words(study, output, "--shard", "2/3", "--strict")) == 1
    assert "1 of them cannot be used" in capsys.readouterr().out
    before = in_folder(shards)
    assert main(words(study, output, "--shard", "2/3")) == 0
    assert "shard 2/3: 20 files, 1 of them cannot be used" in capsys.readouterr().out
    assert in_folder(shards) == before
    assert main(words(study, output, "--merge")) == 0
    assert in_folder(output) == straight
    assert not shards.exists()
    for again in (["--merge"], ["--shard", "2/3"], []):
        assert main(words(study, output, *again)) == 0
        assert "is in" in capsys.readouterr().out
    assert main(words(study, output, "--key", "x")) == 2
    assert "made in another way or of other files (key: not given then, x now)" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc who is alive")
@pytest.mark.filterwarnings("ignore:1 of 60 files were left out")
@pytest.mark.parametrize("shard", [[], ["--shard", "1/1"]])
def test_a_run_that_is_killed_again_and_again_gives_the_same_bytes(
    study: Path, straight, tmp_path: Path, capsys, shard: list[str]
) -> None:
    output = tmp_path / "dataset"
    place = tmp_path / ("dataset.shards" if shard else ".dataset.signals.shards") / ".shard-00001-of-00001.parts"
    command = words(study, output, "--num-proc", "2", *shard)
    for number in range(3):
        process = start(command)
        while process.poll() is None and len(list(place.glob("*.json"))) < 2 + number:
            time.sleep(0.002)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while in_session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not in_session(process.pid)  # no process that reads is left behind
        assert not output.exists()
    assert main(command) == 0
    if shard:
        assert main(words(study, output, "--merge")) == 0
    assert in_folder(output) == straight
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == ["dataset"]


@pytest.mark.filterwarnings("ignore:1 of 60 files were left out")
def test_what_an_interrupted_run_has_read_is_of_its_options_and_files(study: Path, tmp_path: Path, capsys) -> None:
    import shutil

    root, output = shutil.copytree(study, tmp_path / "study"), tmp_path / "dataset"

    def interrupted() -> None:
        process = start(words(root, output, "--num-proc", "1"))
        while process.poll() is None and not list(tmp_path.glob(".dataset.signals.shards/.shard-*/part-*.json")):
            time.sleep(0.002)
        process.kill()
        process.wait()

    interrupted()
    assert main(words(root, output, "--key", "x")) == 2
    assert "(key: not given then, x now). Repeat its command to go on, or pass --overwrite" in capsys.readouterr().err
    np.save(root / "sub-00_ses-0_bold.npy", np.full((94, 40), 3, np.float32) + np.arange(40, dtype=np.float32))
    assert main(words(root, output)) == 0
    assert "the files have changed" in capsys.readouterr().out
    assert float(load_dataset(output)[0]["signals"][0]) == 3


@pytest.mark.filterwarnings("ignore:1 of 60 files were left out")
def test_splits_keep_people_and_families_together(study: Path, tmp_path: Path, capsys) -> None:
    shares = ["--split", "train=0.6", "validation=0.2", "test=0.2", "--stratify", "sex", "--groups", "family_id"]
    assert main(words(study, tmp_path / "dataset", *shares, "--seed", "7")) == 0
    assert "train: sex F 51 %, sex M 49 %" in capsys.readouterr().out
    splits = load_dataset(tmp_path / "dataset")
    assert [len(rows) for rows in splits.values()] == [35, 12, 12]
    for column in ("subject", "family_id"):
        of_split = [set(rows.with_format(None)[column]) for rows in splits.values()]
        assert sum(map(len, of_split)) == len(set.union(*of_split))
    assert main(words(study, tmp_path / "again", *shares, "--seed", "7")) == 0
    assert in_folder(tmp_path / "dataset") == in_folder(tmp_path / "again")
    assert main(words(study, tmp_path / "other", *shares, "--seed", "8")) == 0
    test = [set(load_dataset(tmp_path / name)["test"]["subject"]) for name in ("dataset", "other")]
    assert test[0] != test[1]
    capsys.readouterr()
    for wrong, said in (
        (["--split", "train=0.9", "test=0.2"], "sum to 1"),
        (["--split", "mine=1"], "--split mine=1"),
        (["--stratify", "sex"], "--stratify and --groups"),
        (["--split", "train=0.5", "test=0.5", "--stratify", "height"], "no column 'height'"),
    ):
        assert main(words(study, tmp_path / "wrong", *wrong)) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()


def test_a_reader_that_is_ended_from_outside_is_told(study: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from brain_transformers.data import builders

    read = builders.read_roi_series

    def killed(path, **options):
        if "sub-20" in path.name:
            os.kill(os.getpid(), 9)
        return read(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builders, "read_roi_series", killed)
        assert main(words(study, tmp_path / "dataset", "--num-proc", "2")) == 2
    assert "ended from outside" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 of 60 files were left out"):
        assert main(words(study, tmp_path / "dataset", "--num-proc", "2")) == 0
