"""HDF5 files that reach nowhere else: no links, no external storage, no virtual datasets.

The format can point at any file of the machine, whose bytes then come back as signals (CVE-2026-1669 in Keras).
"""

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
    h5py = require("h5py", extra="data", purpose="reading HDF5 files")
    if tuple(h5py.version.hdf5_version_tuple[:3]) < (1, 14, 4):
        raise ImportError(
            f"HDF5 {h5py.version.hdf5_version} overflows its memory on damaged files (CVE-2026-26200). "
            "Update it: pip install -U h5py"
        )
    return h5py.File(path, "r")


def names(group: Any) -> list[str]:
    """Names of the members of a group that are in the file itself."""
    return [name for name in group if _is_hard(group, name)]


def member(group: Any, name: str) -> Any:
    """The group or dataset `name` (a path of several parts is one), or `None` if there is none.

    Raises:
        ROISeriesReadError: if it lies, or its data lie, in another place than this file, or it claims more data than
            the file has.
    """
    for part in name.strip("/").split("/"):
        if part not in group or not hasattr(group, "keys"):
            return None
        if not _is_hard(group, part):
            raise ROISeriesReadError(
                f"{name} is a link to another place, which is not followed. Copy the data into the file itself."
            )
        group = group[part]
    if hasattr(group, "shape"):
        _check_dataset(group, name)
    return group


def _is_hard(group: Any, name: str) -> bool:
    return type(group.get(name, getlink=True)).__name__ == "HardLink"


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
