"""Work in parts: what is whole is kept, what is damaged or of other settings is made again, the rest is left alone."""

from pathlib import Path

import pytest

from brain_transformers.files import OtherSettingsError, write_file
from brain_transformers.parts import Parts, Shard, shards_beside

FIX = {"what": "parts", "fix": "Start anew."}


def test_parts_that_are_whole_are_kept_and_others_made_again(tmp_path: Path, capsys) -> None:
    parts = Parts(tmp_path / "parts", 3, ".txt")
    parts.bind({"t_r": 2.0}, **FIX)
    for number in range(3):
        parts.write(number, lambda path: write_file(path, "scan"), left_out=[number])
    parts.path(1).write_text("scam")
    (parts.folder / "part-00002.json").unlink()  # killed before its marker was there
    again = Parts(tmp_path / "parts", 3, ".txt")
    again.bind({"t_r": 2.0}, **FIX)
    said = [again.read(number) for number in range(3)]
    assert said[0] is not None
    assert said[0]["left_out"] == [0]
    assert said[1:] == [None, None]
    assert "part-00001.txt is damaged and made again" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"2 of 3 parts are not there yet \(2/3; 3/3\)"):
        again.all_of()


def test_other_settings_are_refused_or_replaced_whole(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", 1, ".txt")
    parts.bind({"t_r": 2.0}, **FIX)
    (parts.folder / "mine.txt").write_text("of the user")
    other = Parts(tmp_path / "parts", 1, ".txt")
    other.bind({"t_r": 0.72}, **FIX)  # nothing took time yet
    other.write(0, lambda path: write_file(path, "scan"))
    with pytest.raises(OtherSettingsError, match=r"t_r: 0\.72 then, 2\.0 now"):
        parts.bind({"t_r": 2.0}, **FIX)
    # One that was bound before the other took the folder does not take the other's parts for its own.
    assert parts.read(0) is None
    assert other.read(0) is not None
    parts.bind({"t_r": 2.0}, overwrite=True, **FIX)
    assert sorted(path.name for path in parts.folder.iterdir()) == ["mine.txt", "settings.json"]
    parts.remove()
    assert [path.name for path in parts.folder.iterdir()] == ["mine.txt"]


def test_shards_are_told_by_their_number_and_keep_parts_of_their_own(tmp_path: Path) -> None:
    shards = shards_beside(tmp_path / "table", ".txt", 2)
    shards.bind({"shards": 2}, **FIX)
    inside = shards.parts_of(0, 5)
    inside.bind({"shards": 2}, **FIX)
    inside.write(4, lambda path: write_file(path, "scan"))
    with pytest.raises(OtherSettingsError, match="shards: 2 then, 3 now"):  # a part of a shard took time too
        shards_beside(tmp_path / "table", ".txt", 3).bind({"shards": 3}, **FIX)
    shards.write(0, lambda path: write_file(path, "scan"))
    inside.remove()
    assert sorted(path.name for path in shards.folder.iterdir()) == [
        "settings.json",
        "shard-00001-of-00002.json",
        "shard-00001-of-00002.txt",
    ]
    found = shards_beside(tmp_path / "table", ".txt")
    assert found.count == 2
    with pytest.raises(ValueError, match="there are no shards to join"):
        shards_beside(tmp_path / "other", ".txt")


def test_shards_share_everything_once_and_in_order() -> None:
    for total in (0, 1, 7, 100):
        for count in (1, 3, 8):
            shares = [Shard(number, count).share(total) for number in range(1, count + 1)]
            assert [place for share in shares for place in share] == list(range(total))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
