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
    h5py = _h5py()
    if tuple(h5py.version.hdf5_version_tuple[:3]) < (1, 14, 4):
        raise ImportError(
            f"HDF5 {h5py.version.hdf5_version} overflows its memory on damaged files (CVE-2026-26200). "
            "Update it: pip install -U h5py"
        )
    return h5py.File(path, "r")


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
