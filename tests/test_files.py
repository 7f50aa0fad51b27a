"""Files and folders are whole or as they were, held by one process, and bound to their settings."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from brain_transformers import files
from brain_transformers.files import (
    FolderInUseError,
    OtherSettingsError,
    bind,
    difference,
    digest,
    locked,
    no_space,
    whole_file,
    whole_folder,
    write_file,
)


def names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.csv.gz"
    write_file(target, "one")

    def interrupted() -> None:
        with whole_file(target) as temporary:
            assert temporary.name.endswith(".csv.gz")
            assert temporary.parent == target.parent
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert target.read_text() == "one"
    assert names(tmp_path) == ["new/table.csv.gz"]
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "new", "text")
    assert target.stat().st_mode & 0o044  # readable as an ordinary new file is


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "real" / "a").read_text() == "new"
    write_file(tmp_path / "file", "old")
    (tmp_path / "to-file").symlink_to(tmp_path / "file")
    write_file(tmp_path / "to-file", "new")
    assert (tmp_path / "to-file").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def old_folder(tmp_path: Path) -> Path:
    target = tmp_path / "dataset"
    for name in ("state.json", "data-0.arrow", "data-1.arrow", "notes.txt", "train/mine.txt", "figures/a.png"):
        write_file(target / name, f"old {name}")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "scan").write_text("scan")
    (target / "scans").symlink_to(tmp_path / "scans")
    return target


def ours(name: str) -> bool:
    return name.endswith((".arrow", "state.json"))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_and_what_is_not_ours_is_kept(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(sys, "platform", "another")
    target = old_folder(tmp_path)
    with whole_folder(target, is_ours=ours) as folder:
        write_file(folder / "state.json", "new")
        write_file(folder / "train" / "data-0.arrow", "new")
    assert names(target) == sorted(
        ["state.json", "train/data-0.arrow", "notes.txt", "train/mine.txt", "figures/a.png", "scans"]
    )
    assert (target / "state.json").read_text() == "new"
    assert (target / "scans" / "scan").read_text() == "scan"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "scans"]


@pytest.mark.parametrize("folder_before", [True, False])
def test_a_folder_in_place_of_a_file_is_refused_and_nothing_changes(tmp_path: Path, folder_before: bool) -> None:
    write_file(tmp_path / "model" / ("config.json/notes.txt" if folder_before else "config.json"), "mine")
    write_file(tmp_path / "model" / "weights", "old")
    before = names(tmp_path)

    def replace() -> None:
        with whole_folder(tmp_path / "model", is_ours=lambda name: True) as folder:
            write_file(folder / ("config.json" if folder_before else "config.json/part"), "new")
            write_file(folder / "weights", "new")

    with pytest.raises(FileExistsError, match=r"config\.json is a f.*Move it away"):
        replace()
    assert names(tmp_path) == before
    assert (tmp_path / "model" / "weights").read_text() == "old"


KILLED = """
import importlib.util, os, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("files", sys.argv[4])  # alone: the package imports torch
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
target, where, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if where == "two-steps":
    sys.platform = "another"
count = 0
def dies(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count > step:
            os._exit(9)
        return function(*args, **kwargs)
    return call
with files.whole_folder(target, is_ours=lambda name: name.endswith((".arrow", "state.json"))) as folder:
    files.write_file(folder / "state.json", "new")
    for module, name in ((os, "link"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (os, "chmod"), (os, "symlink"),
                         (files, "_exchange"), (Path, "rename"), (files.shutil, "rmtree")):
        setattr(module, name, dies(getattr(module, name)))
print("done")
"""


@pytest.mark.parametrize("where", ["one-step", "two-steps"])
def test_a_kill_at_any_place_leaves_the_old_folder_or_the_new_one(tmp_path: Path, where: str) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    for step in range(40):
        place = tmp_path / str(step)
        place.mkdir()
        target = old_folder(place)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "killed.py"), str(target), where, str(step), files.__file__],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 9), done.stderr
        if where == "one-step":
            assert (target / "state.json").exists(), step
        with whole_folder(target, is_ours=ours) as folder:  # the next run finds the old one again, and tidies up
            assert (target / "state.json").read_text() in ("new", "old state.json"), step
            write_file(folder / "state.json", "newer")
        assert names(target) == ["figures/a.png", "notes.txt", "scans", "state.json", "train/mine.txt"], step
        assert sorted(path.name for path in place.iterdir()) == ["dataset", "scans"], step
        if done.returncode == 0:
            return
    raise AssertionError("the last step was never reached")


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = old_folder(tmp_path)
    before = names(target)

    def full() -> None:
        with whole_folder(target) as folder:
            (folder / "half").write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        full()
    assert names(target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "scans"]
    with pytest.raises(NotADirectoryError), whole_folder(target / "notes.txt"):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "run"
    code = (
        "import sys\nfrom brain_transformers.files import locked\n"
        "try:\n    with locked(sys.argv[1]):\n        print('taken')\nexcept ValueError as error:\n    print(error)\n"
    )

    def another() -> str:
        command = [sys.executable, "-c", code, str(target)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with locked(target, what="training"):
        said = another()
        assert f"in use by process {os.getpid()} on" in said
        assert "training since" in said
        with pytest.raises(FolderInUseError), locked(target):
            pass
    assert another() == "taken\n"
    assert not list(tmp_path.iterdir())


def test_a_folder_is_bound_to_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "run" / "settings.json"
    settings = {"model": "a", "rate": 20, "flags": {"seed": 1, "bf16": None}}
    assert not bind(file, settings, what="embeddings", fix="Choose another output.")
    assert bind(file, {**settings, "rate": 20.0}, what="embeddings", fix="Choose another output.")
    with pytest.raises(OtherSettingsError, match=r"flags\.seed: 1 then, 2 now.*new: not given then, x now.*Choose"):
        bind(
            file,
            {**settings, "flags": {"seed": 2, "bf16": None}, "new": "x"},
            what="embeddings",
            fix="Choose another.",
        )
    with pytest.raises(OtherSettingsError, match=r"\(b0: .* now; b1: .* now; b2: .* now; and 17 more\)") as caught:
        bind(file, {**settings, **{f"b{number}": 1 for number in range(20)}}, what="embeddings", fix="Choose another.")
    assert "b3" not in str(caught.value)
    file.write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"settings\.json: expected the settings of embeddings"):
        bind(file, settings, what="embeddings", fix="Delete it.")
    assert difference({"a": float("nan")}, {"a": float("nan")}) == []


def test_digests_tell_values_shapes_and_types_apart() -> None:
    array = np.arange(6, dtype=np.float32)
    same = [{"a": 1, "b": [array, "x"]}, {"b": [array.copy(), "x"], "a": 1}]
    assert digest(same[0]) == digest(same[1])
    others = [
        array,
        array.reshape(2, 3),
        array.astype(np.float64),
        array + 1,
        torch.from_numpy(array),
        torch.from_numpy(array).to(torch.bfloat16),
        ["ab", "c"],
        ["a", "bc"],
        "abc",
        b"abc",
        {"a": "bc"},
        1,
        1.0,
        True,
        None,
        [],
        {},
        [[], []],
        torch.tensor(1.0),
    ]
    assert len({digest(value) for value in others}) == len(others)
    # Strided views count by their values.
    assert digest(np.arange(12)[::2]) == digest(np.arange(12)[::2].copy())
    assert len(digest(array)) == 16


def test_a_full_disk_is_known_by_every_librarys_words() -> None:
    assert no_space(OSError(errno.ENOSPC, "x"))
    assert no_space(OSError(errno.EDQUOT, "x"))
    assert no_space(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert no_space(RuntimeError("basic_ios::clear: iostream error"))  # torch, at the end of a file
    assert not no_space(OSError(errno.EACCES, "x"))
    assert not no_space(ValueError("anything"))
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x")
    assert no_space(wrapped)
