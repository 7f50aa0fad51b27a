"""Files of numpy, without Python objects in them, and with no more values than the file can hold."""

import io
import math
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..foreign import check_claim, read_bytes
from .errors import ROISeriesReadError


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        ROISeriesReadError: if it holds Python objects.
        Exception: of many kinds, if it is damaged, or claims more than it holds.
    """
    data = read_bytes(path)
    return _array(io.BytesIO(data), len(data))


def _array(stream: BinaryIO, size: int) -> np.ndarray:
    """An array in numpy's format, whose header must not claim more than `size` bytes."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise ROISeriesReadError(
            "it holds Python objects, which are not read, since that could run code. Save numbers, and labels as "
            "np.array(labels, dtype=str)."
        )
    check_claim(math.prod(shape) * dtype.itemsize, size, "its header")
    values = np.frombuffer(stream.read(math.prod(shape) * dtype.itemsize), dtype=dtype)
    return values.reshape(shape, order="F" if fortran_order else "C")


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name.

    Raises:
        ROISeriesReadError: if one holds Python objects, or two have one name.
        Exception: of many kinds, if it is damaged, or claims more than it holds.
    """
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        items = [item for item in archive.infolist() if item.filename.endswith(".npy")]
        check_claim(sum(item.file_size for item in items), Path(path).stat().st_size, "the archive", packed=True)
        for item in items:
            name = item.filename.removesuffix(".npy")
            if name in found:
                raise ROISeriesReadError(f"it holds two arrays named {name!r}.")
            with archive.open(item) as member:
                data = member.read(item.file_size)
            try:
                found[name] = _array(io.BytesIO(data), len(data))
            except ROISeriesReadError as error:
                raise ROISeriesReadError(f"{name}: {error}") from error
    return found
