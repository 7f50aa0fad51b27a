"""Files and folders that are whole or not there, folders that one run holds, and settings that a folder is bound to.

A leaf: standard library only, so that every room can use it.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import math
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

StrPath = str | os.PathLike[str]


class FolderInUseError(ValueError):
    """Another process writes to the same place; the message says which."""


class OtherSettingsError(ValueError):
    """A folder holds what was made with other settings; the message names each difference."""


# --- whole or not at all ---


def write_file(path: StrPath, content: bytes | str) -> Path:
    """Write a file that is whole or as it was before; text is UTF-8.

    Raises:
        IsADirectoryError: if `path` is a folder.
        OSError: if it cannot be written; nothing is left behind then.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def to_json(content: Any) -> str:
    """JSON text that every reader takes: NaN and infinity, for which JSON has no word, are `null`."""
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # a number of numpy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def whole_file(path: StrPath) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    It keeps the suffix, for libraries that look at it. A symbolic link at `path` stays, and its target is written.

    Raises:
        IsADirectoryError: if `path` is a folder.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target), suffix="".join(target.suffixes[-2:]))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are only for their owner
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: StrPath, *, is_ours: Callable[[str], bool] | None = None) -> Iterator[Path]:
    """An empty temporary folder beside `path` that takes its place in one step when the block ends without an error.

    Whenever the process is killed, `path` is the old folder or the new one. Files of the old folder that the new one
    lacks are kept in it, except those that an earlier call wrote. A symbolic link at `path` stays, and its target is
    replaced. What killed calls left behind is removed.

    Args:
        path: the folder.
        is_ours: whether a file of the old folder, named by its path in it, was written by an earlier call and may go;
            by default none.

    Raises:
        NotADirectoryError: if `path` is a file.
        FileExistsError: if a file of the new folder is a folder in the old one, or the other way round.
        ValueError: if `path` is the root of a file system, which cannot be replaced in one step.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{path} is a file; give the name of a folder.")
    if os.path.ismount(target):
        raise ValueError(
            f"{path} is the root of a file system and cannot be replaced in one step; name a folder in it."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if target.exists():
            # Linked before the exchange and deleted after it, so that at no moment anything is missing.
            _keep(target, temporary, is_ours or (lambda name: False), "")
            _exchange(temporary, target)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _keep(old: Path, new: Path, is_ours: Callable[[str], bool], inside: str) -> None:
    """Give `new` the files of `old` that it lacks and that are not ours."""
    for item in sorted(old.iterdir()):
        name, other = f"{inside}{item.name}", new / item.name
        if os.path.lexists(other) and other.is_dir() != item.is_dir():
            raise FileExistsError(
                f"{item} is a {'folder' if item.is_dir() else 'file'}, and a {'file' if item.is_dir() else 'folder'} "
                "is to be written in its place. Move it away, or choose another folder."
            )
        if item.is_symlink():
            if not os.path.lexists(other):
                other.symlink_to(os.readlink(item), target_is_directory=item.is_dir())
        elif item.is_dir():
            _keep(item, other, is_ours, f"{name}/")
        elif not os.path.lexists(other) and not is_ours(name):
            other.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(item, other)
            except OSError:  # a file system without hard links
                shutil.copy2(item, other)


def _exchange(new: Path, old: Path) -> None:
    """Let two folders change their names; afterwards `old` is the new one."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):
            renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
            at_working_directory, exchange = -100, 2
            if not renameat2(at_working_directory, os.fsencode(new), at_working_directory, os.fsencode(old), exchange):
                return
    # Two steps; a kill in between is mended by the next call, see `_remove_leftovers`.
    aside = old.with_name(f"{_prefix(old)}replaced")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _prefix(target: Path) -> str:
    """How temporary names beside `target` begin in this process; `_remove_leftovers` reads it."""
    return f".{target.name[:80]}.partial-{_host()}-{os.getpid()}-"


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes of this machine left beside `target`; bring back what one was about to replace."""
    start = f".{target.name[:80]}.partial-{_host()}-"
    for item in sorted(target.parent.glob(f"{_escaped(start)}*")):
        pid, _, rest = item.name[len(start) :].partition("-")
        if not pid.isdigit() or int(pid) == os.getpid() or _alive(int(pid)):
            continue
        if rest == "replaced" and not target.exists():
            item.rename(target)
        elif item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _host() -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())[:40]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def no_space(error: BaseException) -> bool:
    """Whether an exception, of whatever library, means that a disk or a quota is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        # safetensors and torch put the reason into words only.
        text = str(seen)
        if any(words in text for words in _NO_SPACE):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


_NO_SPACE = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed writing",
    "unexpected pos",  # torch again, in other words, at another place of a file
    "iostream error",  # and where the end of a file did not fit
)


# --- one at a time ---


@contextlib.contextmanager
def locked(path: StrPath, what: str = "writing") -> Iterator[None]:
    """Hold `path` (a file or folder, which need not exist) for this process while the block runs.

    The lock goes with the process, so a killed one holds nothing. Where the file system knows no locks, a warning says
    so and the block runs.

    Args:
        path: what is to be written.
        what: what this process does, told to another that asks for the same.

    Raises:
        FolderInUseError: if another process holds it; the message says which, where and since when.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_name(f".{target.name[:80]}.lock")
    handle = _lock(file, path)
    try:
        if handle is not None:
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "what": what, "command": " ".join(sys.argv)}
            owner["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield
    finally:
        if handle is not None:
            file.unlink(missing_ok=True)  # while it is held: `_lock` notices a file that is gone
            os.close(handle)


def _lock(file: Path, path: StrPath) -> int | None:
    try:
        import fcntl
    except ImportError:
        return None  # a system without such locks
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(handle, 1 << 16, 0)
            os.close(handle)
            try:
                owner = json.loads(text)
                who = "process {pid} on {host} ({what} since {since}: {command})".format(**owner)
            except (ValueError, KeyError, TypeError):
                who = "another process"
            raise FolderInUseError(
                f"{path} is in use by {who}. Wait until it ends, stop it, or choose another output."
            ) from None
        except OSError as error:
            os.close(handle)
            warnings.warn(
                f"{file} cannot be locked ({error.strerror}), so a second run that writes to {path} would not be "
                "noticed.",
                stacklevel=4,
            )
            return None
        try:
            if os.fstat(handle).st_ino == file.stat().st_ino:
                return handle
        except FileNotFoundError:
            pass  # its owner has just let it go; take a new one
        os.close(handle)


# --- settings ---


def bind(file: StrPath, settings: Mapping[str, Any], *, what: str, fix: str) -> bool:
    """Write settings to `file`, or see that those in it are the same; returns whether it was there.

    Args:
        file: a JSON file beside the results.
        settings: names and values; what JSON has no form for is kept as text.
        what: what the folder holds, such as `"embeddings"`, for the error.
        fix: what the user can do, as a sentence.

    Raises:
        OtherSettingsError: if `file` holds other settings; the message names the first differences.
        ValueError: if `file` is damaged.
    """
    path = Path(file)
    now = json.loads(json.dumps(settings, default=str))
    if not path.is_file():
        write_file(path, json.dumps(now, indent=2, sort_keys=True) + "\n")
        return False
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("it is no table of names and values")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the settings of {what}, and cannot read them ({error}). {fix}") from error
    check_same(before, now, f"{path.parent} holds {what} made with other settings", fix)
    return True


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], said: str, fix: str, may_change: Sequence[str] = ()
) -> list[str]:
    """See that settings are the same; returns what differs in those that may.

    Args:
        said, fix: what the error says before and behind the first differences.
        may_change: names, of whatever depth.

    Raises:
        OtherSettingsError: if others differ.
    """
    changed = difference(before, now)
    longer = [line for line in changed if set(line.partition(":")[0].split(".")) & set(may_change)]
    if other := [line for line in changed if line not in longer]:
        raise OtherSettingsError(f"{said} ({listed(other)}). {fix}")
    return longer


def difference(before: Mapping[str, Any], now: Mapping[str, Any], inside: str = "") -> list[str]:
    """What differs between two settings, as `"name: old then, new now"`; nested names are dotted."""
    found = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += difference(old, new, f"{inside}{name}.")
        elif old != new and not (old != old and new != new):
            found.append(f"{inside}{name}: {_short(old)} then, {_short(new)} now")
    return found


def listed(changed: Sequence[str], most: int = 3) -> str:
    """Differences as part of a sentence: the first `most` of them and how many there are besides."""
    rest = len(changed) - most
    return "; ".join(changed[:most]) + (f"; and {rest} more" if rest > 0 else "")


def _short(value: Any) -> str:
    text = "not given" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 120 else f"{text[:80]}... ({digest(value)})"


def compact(value: Any) -> Any:
    """A JSON value as it is if it is short, else its [`digest`] in words, so that two can be compared by eye."""
    return value if len(json.dumps(value, default=str)) <= 200 else f"digest {digest(value)}"


def digest(value: Any) -> str:
    """A fingerprint of 16 hexadecimal digits: nested mappings (in any order), sequences, text, numbers, bytes, arrays
    and tensors (values, shape and type)."""
    state = hashlib.sha256()
    _update(state, value)
    return state.hexdigest()[:16]


def _update(state: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        state.update(b"{%d" % len(value))
        for name in sorted(value, key=str):
            _update(state, str(name))
            _update(state, value[name])
    elif isinstance(value, (bytes, bytearray, memoryview)):
        state.update(b"b%d:" % len(value))
        state.update(value)
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        state.update(b"s%d:" % len(data))
        state.update(data)
    elif hasattr(value, "detach") and hasattr(value, "element_size"):  # a tensor, without importing torch
        tensor = value.detach().cpu().contiguous()
        state.update(f"t{tensor.dtype}{tuple(tensor.shape)}".encode())
        import torch

        state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    elif hasattr(value, "tobytes") and hasattr(value, "dtype"):
        state.update(f"a{value.dtype}{value.shape}".encode())
        if value.dtype.hasobject:
            _update(state, value.tolist())
        else:
            state.update(value.ravel().view("uint8"))  # tobytes would copy
    elif isinstance(value, Set):
        _update(state, sorted(digest(item) for item in value))
    elif isinstance(value, Sequence):
        state.update(b"[%d" % len(value))
        for item in value:
            _update(state, item)
    elif isinstance(value, float):
        state.update(b"f" + struct.pack("<d", value))
    else:
        state.update(f"o{type(value).__name__}:{value}".encode())
