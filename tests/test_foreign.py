"""Files of others: one error a loader, claims that are checked, streams that are stopped."""

import gzip
import json
import tracemalloc
import zlib

import pytest

from brain_transformers.foreign import ForeignFileError, check_claim, inflate, read_json, reading


@pytest.mark.parametrize(
    "problem",
    [KeyError("x"), zlib.error("bad"), MemoryError(), RecursionError(), ValueError("words"), OSError(5, "io")],
)
def test_whatever_fails_is_one_error_with_name_expectation_and_fix(problem):
    words = r"scan\.npy: expected a scan, got .*Copy it\."
    with pytest.raises(ForeignFileError, match=words) as caught, reading("scan.npy", "a scan", "Copy it."):
        raise problem
    assert caught.value.__cause__ is problem


def test_our_own_words_and_missing_packages_pass():
    with pytest.raises(ForeignFileError, match=r"^a/scan\.npy: no time axis$"), reading("a/scan.npy", "a scan"):
        raise ForeignFileError("no time axis")
    with pytest.raises(ForeignFileError, match=r"^a/scan\.npy: no time axis$"), reading("a/scan.npy", "a scan"):
        raise ForeignFileError("a/scan.npy: no time axis")
    with pytest.raises(ImportError, match="h5py"), reading("scan.h5", "a scan"):
        raise ImportError("h5py")


def test_streams_are_stopped_where_they_grow_implausibly():
    table = b"1.5\t2.5\n" * 1000
    assert inflate(gzip.compress(table) + gzip.compress(b"end") + b"\0" * 512) == table + b"end"
    assert inflate(zlib.compress(table), 15) == table
    bomb = gzip.compress(bytes(1 << 28))
    tracemalloc.start()
    with pytest.raises(ValueError, match="grows to more than"):
        inflate(bomb)
    assert tracemalloc.get_traced_memory()[1] < 1 << 27
    tracemalloc.stop()
    with pytest.raises(ValueError, match="too early"):
        inflate(gzip.compress(table)[:-9])


def test_claims_are_held_against_the_file():
    check_claim(4800, 4800)
    for claimed, at_hand, packed in ((4801, 4800, False), (-1, 4800, False), (1 << 40, 1 << 20, True)):
        with pytest.raises(ValueError, match="claims"):
            check_claim(claimed, at_hand, packed=packed)


@pytest.mark.parametrize(
    "content", [b"", b"[" * 200_000, b"[1]", b"{", b'{"a": 1}\xff', b"null"], ids=lambda content: str(content[:4])
)
def test_json_that_is_no_object_is_refused_by_name(tmp_path, content):
    path = tmp_path / "scan.json"
    path.write_bytes(content)
    with pytest.raises(ForeignFileError, match=r"scan\.json: expected a sidecar"):
        read_json(path, "a sidecar")
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(path, "a sidecar") == {"a": 1}
