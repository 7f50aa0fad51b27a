"""Files of others: one boundary a loader, and sizes that are believed only after a look at the file's own.

A leaf: standard library only, so that every room can use it.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A parcellated scan takes a few megabytes; all 91,282 grayordinates of an hour at 0.72 s take less than this.
LARGEST_SERIES = 1 << 31
# Text and signals pack to a tenth, and what is packed to less than a hundredth holds nothing. Short files may.
_LARGEST_RATIO, _ALWAYS_ALLOWED = 100, 1 << 26
_LARGEST_JSON = 1 << 26


class ForeignFileError(ValueError):
    """A file that cannot be used as what it was said to be; the message names the file."""


@contextlib.contextmanager
def reading(
    source: Any, expected: str, fix: str = "Copy or download it again.", error: type[Exception] = ForeignFileError
) -> Iterator[None]:
    """The boundary of a loader: whatever fails inside of the block is one error that names the file.

    Errors of the kind `error` were raised on purpose: they pass, with the file's name in front if they lack it. A
    missing optional package passes too.

    Args:
        source: the file or folder, as the user knows it.
        expected: what it should be, such as `"a table of numbers"`.
        fix: what the user can do, as a sentence.
        error: the exception that everything becomes, a class of this package.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as problem:  # libraries below raise every kind for damaged files
        told = str(problem)
        if isinstance(problem, error):
            if str(source) in told:
                raise
            raise error(f"{source}: {told}") from problem
        raise error(f"{source}: expected {expected}, got what cannot be read ({short_reason(problem)}). {fix}") from (
            problem
        )


def short_reason(problem: BaseException) -> str:
    """The first line of an exception (two where it ends in a colon), with its kind where the words would not tell."""
    if isinstance(problem, MemoryError):
        return "it claims more memory than there is"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    lines = str(problem).strip().splitlines()
    text = " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")]) if lines else ""
    text = text if len(text) <= 200 else text[:200] + "..."
    plain = isinstance(problem, (OSError, ValueError)) and not isinstance(problem, UnicodeError)
    return text if text and plain else f"{type(problem).__name__}{': ' + text if text else ''}"


def check_claim(claimed: int, at_hand: int, what: str = "it", packed: bool = False) -> None:
    """Raise unless `claimed` bytes can come out of `at_hand`, before memory is taken for them.

    Args:
        claimed: bytes that a header promises.
        at_hand: bytes that the file has for them.

    Raises:
        ValueError: if there are not as many, or more than a scan can have.
    """
    most = max(_ALWAYS_ALLOWED, at_hand * _LARGEST_RATIO) if packed else at_hand
    if claimed < 0 or claimed > most:
        raise ValueError(f"{what} claims {claimed:,} bytes, and the file has {at_hand:,} for them")
    if claimed > LARGEST_SERIES:
        raise ValueError(f"{what} claims {claimed:,} bytes, and a series has at most {LARGEST_SERIES:,}")


def inflate(data: bytes | memoryview, window: int = 31, what: str = "it") -> bytes:
    """Decompress gzip (`window=31`, all members) or zlib (15) data, and stop where it becomes implausibly large.

    Raises:
        ValueError: if it grows beyond what a file of this size can hold, or ends too early.
        zlib.error: if it is damaged.
    """
    most = min(max(_ALWAYS_ALLOWED, len(data) * _LARGEST_RATIO), LARGEST_SERIES)
    too_large = f"{what} grows to more than {most:,} bytes from {len(data):,}"
    # A whole file says its size in its last four bytes, and nothing packs further than 1032 to 1.
    if window == 31 and most < int.from_bytes(data[-4:], "little") <= 1032 * len(data):
        raise ValueError(f"{too_large}, or is cut off")
    pieces, total = [], 0
    while data:
        stream, rest = zlib.decompressobj(window), data
        while not stream.eof:
            piece = stream.decompress(rest, min(most - total + 1, 1 << 24))
            total += len(piece)
            if total > most:
                raise ValueError(too_large)
            pieces.append(piece)
            rest = stream.unconsumed_tail
            if not piece and not rest:
                break
        if not stream.eof:
            raise ValueError(f"{what} ends too early")
        # Members may follow each other, with zeros behind them.
        data = stream.unused_data.lstrip(b"\x00")
        if window != 31:
            break
    return b"".join(pieces)


def read_bytes(path: str | os.PathLike[str], most: int = LARGEST_SERIES) -> bytes:
    """A whole regular file of at most `most` bytes.

    Raises:
        ValueError: if it is larger, or no regular file.
        OSError: if it cannot be read.
    """
    file = Path(path)
    if not file.is_file():  # a pipe would block for ever
        raise FileNotFoundError(f"{path} is missing, or no file.")
    size = file.stat().st_size
    if size > most:
        raise ValueError(f"it has {size:,} bytes, and at most {most:,} are read")
    return file.read_bytes()


def read_json(
    path: str | os.PathLike[str],
    expected: str,
    error: type[Exception] = ForeignFileError,
    fix: str = "Repair it, or copy it again.",
) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file; UTF-8, with or without a byte order mark.
        expected: what it should be, for the error, such as `"a BIDS sidecar"`.
        error: the exception that every failure becomes.
        fix: what the user can do, as a sentence.
    """
    with reading(path, expected, fix, error):
        content = json.loads(read_bytes(path, _LARGEST_JSON).decode("utf-8-sig"))
        if not isinstance(content, dict):
            raise error(
                f"{path}: expected {expected}, got a {type(content).__name__} where a JSON object belongs. {fix}"
            )
    return content
