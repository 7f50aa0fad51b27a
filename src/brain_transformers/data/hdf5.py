"""HDF5 files that reach nowhere else: no links, no external storage, no virtual datasets.

The format can point at any file of the machine, whose bytes then come back as signals (CVE-2026-1669 in Keras).
"""

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..foreign import check_claim
from ..optional import require
from .errors import ROISeriesReadError


def open_hdf5(path: str | Path) -> Any:
    """The file (a context manager), opened for reading; its members are to be taken with [`member`].

    Raises:
        ImportError: without h5py, or with an HDF5 library whose heap overflow is known.
        OSError: if it cannot be read.
    """
    h5py = _h5py()
    if tuple(h5py.version.hdf5_version_tuple[:3]) < (1, 14, 4):
        raise ImportError(
            f"HDF5 {h5py.version.hdf5_version} overflows its memory on damaged files (CVE-2026-26200). "
            "Update it: pip install -U h5py"
        )
    _try_in_a_child(Path(path))
    return h5py.File(path, "r")


# Opens every dataset, as reading would, and reads nothing; links are not followed.
_TRIAL = """
import sys, h5py
seen = set()
def look(group):
    for name in group:
        if len(seen) < 5000 and isinstance(group.get(name, getlink=True), h5py.HardLink):
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place not in seen:
                seen.add(place)
                look(item) if isinstance(item, h5py.Group) else item.external
with h5py.File(sys.argv[1], "r") as file:
    look(file)
"""
_TRIAL_SECONDS = 8
_SEARCHED = 1 << 28


def _try_in_a_child(path: Path) -> None:
    """Open everything once in a process that can be stopped: on some damaged files HDF5's own code has no end.

    Those seen are virtual datasets, whose table is in a global heap; without one there is nothing to try.

    Raises:
        ValueError: if the library does not come to an end, or crashes.
    """
    size = path.stat().st_size
    if 0 < size <= _SEARCHED:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"GCOL") < 0:
                return
    command = [sys.executable, "-I", "-c", _TRIAL, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"HDF5's own library comes to no end with it in {_TRIAL_SECONDS} s") from error
    if done.returncode < 0:
        raise ValueError(f"HDF5's own library crashes on it (signal {-done.returncode})")


def _h5py() -> Any:
    return require("h5py", extra="data", purpose="reading HDF5 files")


def member(group: Any, name: str) -> Any:
    """The group or dataset `name` (a path of several parts is one), or `None` if there is none.

    Raises:
        ROISeriesReadError: if it lies, or its data lie, in another place than this file, or it claims more data than
            the file has.
    """
    for part in name.strip("/").split("/"):
        # Asked of the link and not of the group, which would open the file that the link points at.
        key = part.encode("utf-8", "surrogateescape")
        if not hasattr(group, "keys") or not group.id.links.exists(key):
            return None
        if group.id.links.get_info(key).type != _h5py().h5l.TYPE_HARD:
            raise ROISeriesReadError(
                f"{name} is a link to another place, which is not followed. Copy the data into the file itself."
            )
        group = group[part]
    if hasattr(group, "is_virtual"):
        _check_dataset(group, name)
    return group


def _check_dataset(dataset: Any, name: str) -> None:
    if dataset.external or dataset.is_virtual:
        raise ROISeriesReadError(
            f"{name} keeps its data in other files ({'external storage' if dataset.external else 'a virtual dataset'})"
            ", which are not read. Copy the data into the file itself."
        )
    if dataset.shape is None:
        raise ROISeriesReadError(f"{name} is empty.")
    stored = dataset.id.get_storage_size()
    claimed = dataset.size * dataset.dtype.itemsize
    # A large file may well hold more than one scan; the rows that are read are checked on their own.
    if claimed > (1 << 26):
        check_claim(min(claimed, 1 << 31), stored, name, packed=dataset.chunks is not None)
