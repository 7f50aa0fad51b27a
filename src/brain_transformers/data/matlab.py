"""MATLAB files, versions 5 to 7.3, as plain arrays by name; the same matrix gives the same array from each version.

Reading is done here, since scipy's reader hands damaged sparse matrices to code that crashes the interpreter. Fields
of structs and entries of cells get names as one types them in MATLAB: `data.series`, `runs{2}`, `subjects(3).name`.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign import LARGEST_SERIES, check_claim, inflate, read_bytes
from . import hdf5
from .errors import ROISeriesReadError

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
# Arrays, of any kind, that a file may hold; a scan has a few, its labels some hundreds.
_MOST_ARRAYS = 100_000
_DEEPEST = 20
_LONGEST_TEXTS = 1 << 20


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """All numeric arrays and texts of a MATLAB file by name; text as arrays of str, a row of a char array each.

    What is there but cannot be read as either (sparse matrices) has dtype `V1` and no entries.

    Raises:
        ROISeriesReadError: for version 4, and for parts that are links to other files.
        ValueError, struct.error, zlib.error, OSError: if the file is damaged.
    """
    with path.open("rb") as file:
        start = file.read(1024)
    if any(start[place : place + 8] == b"\x89HDF\r\n\x1a\n" for place in (0, 512)):
        with hdf5.open_hdf5(path) as file:
            return _Version73(file).read()
    if len(start) < 128 or start[126:128] not in (b"IM", b"MI"):
        raise ROISeriesReadError(
            "expected a MATLAB file of version 5, 7 or 7.3, got another beginning. The file may be cut off; in "
            "MATLAB, save it with -v7."
        )
    return _Version5(read_bytes(path), "<" if start[126:128] == b"IM" else ">").read()


class _Version5:
    """The format of versions 5 to 7: elements of a tag (type, size) and their data, in one stream."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order = memoryview(data), order
        self.found: dict[str, np.ndarray] = {}
        self.n_arrays = 0

    def read(self) -> dict[str, np.ndarray]:
        at = 128
        while at + 8 <= len(self.data):
            kind, body, at = self._element(self.data, at)
            if kind == _COMPRESSED:
                kind, body, _ = self._element(memoryview(inflate(body, 15, "a variable")), 0)
            if kind == _MATRIX:
                self._matrix(body, None, 0)
        return self.found

    def _element(self, data: memoryview, at: int) -> tuple[int, memoryview, int]:
        """Type and data of the element at a place, and where the next one is."""
        kind, size = struct.unpack_from(f"{self.order}II", data, at)
        if kind >> 16:  # up to four bytes stand in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"an element of {size} bytes claims to have at most 4")
            return kind, data[at + 4 : at + 4 + size], at + 8
        check_claim(size, len(data) - at - 8, "an element")
        end = at + 8 + size
        return kind, data[at + 8 : end], end if kind == _COMPRESSED else end + -size % 8

    def _matrix(self, data: memoryview, name: str | None, depth: int) -> None:
        self.n_arrays += 1
        if self.n_arrays > _MOST_ARRAYS or depth > _DEEPEST:
            raise ValueError(f"expected at most {_MOST_ARRAYS} arrays, nested {_DEEPEST} deep")
        if not len(data):  # an empty field
            return
        _, flags, at = self._element(data, 0)
        _, sizes, at = self._element(data, at)
        _, own_name, at = self._element(data, at)
        flag = struct.unpack_from(f"{self.order}I", flags)[0]
        kind, is_complex = flag & 0xFF, bool(flag & 0x800)
        if kind not in range(_CELL, _CELL + 15):
            return  # functions, objects of classes, tables: no arrays
        shape = tuple(np.frombuffer(sizes, f"{self.order}i4").tolist())
        if len(shape) < 2 or min(shape) < 0:
            raise ValueError(f"expected the sizes of an array, got {shape}")
        if kind in (_CELL, _STRUCT, _OBJECT) and _product(shape) > _MOST_ARRAYS:
            raise ValueError(f"a cell or struct claims {_product(shape):,} entries")
        name = bytes(own_name).decode("latin-1") if name is None else name
        if kind == _CELL:
            for number in range(_product(shape)):
                _, body, at = self._element(data, at)
                self._matrix(body, f"{name}{{{number + 1}}}", depth + 1)
        elif kind in (_STRUCT, _OBJECT):
            if kind == _OBJECT:
                at = self._element(data, at)[2]
            _, width, at = self._element(data, at)
            _, text, at = self._element(data, at)
            length = struct.unpack_from(f"{self.order}i", width)[0]
            fields = [
                bytes(text[i : i + length]).split(b"\0")[0].decode("latin-1") for i in range(0, len(text), length)
            ]
            for number in range(_product(shape)):
                place = name if _product(shape) == 1 else f"{name}({number + 1})"
                for field in fields:
                    _, body, at = self._element(data, at)
                    self._matrix(body, f"{place}.{field}", depth + 1)
        elif kind == _SPARSE:
            # Its indices would have to be checked one by one; nobody keeps a scan so.
            self.found[name] = np.empty(0, dtype="V1")
        else:
            stored, body, at = self._element(data, at)
            if kind == _CHAR:
                self.found[name] = _as_text(bytes(body).decode(self._encoding(stored)), shape)
                return
            values = np.frombuffer(body, self.order + _NUMBERS[stored])
            if values.size != _product(shape):
                raise ValueError(f"{name} claims {shape} values and holds {values.size}")
            values = values.reshape(shape, order="F")
            self.found[name] = values.astype(np.complex64) if is_complex else values

    def _encoding(self, stored: int) -> str:
        encoding = _TEXT[stored]
        return encoding + {"<": "-le", ">": "-be"}[self.order] if encoding in ("utf-16", "utf-32") else encoding


def _as_text(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of a char array, which is stored column by column."""
    n_rows, n_columns = shape[0], _product(shape[1:])
    if len(text) != n_rows * n_columns:
        return np.array([text])  # letters of more than one unit: only a single row can be told
    return np.array(["".join(text[row::n_rows]).rstrip() for row in range(n_rows)] or [""])


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


# --- version 7.3 ---


class _Version73:
    """The format of version 7.3: HDF5, with MATLAB's classes in attributes."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.found: dict[str, np.ndarray] = {}
        self.n_members = 0

    def read(self) -> dict[str, np.ndarray]:
        for name in self.file:
            if not name.startswith("#"):  # what cells refer to
                self._add(name, hdf5.member(self.file, name), 0)
        return self.found

    def _add(self, name: str, item: Any, depth: int) -> None:
        self.n_members += 1
        if self.n_members > _MOST_ARRAYS or depth > _DEEPEST:
            raise ValueError(f"expected at most {_MOST_ARRAYS} arrays, nested {_DEEPEST} deep")
        if hasattr(item, "keys"):
            if "MATLAB_sparse" in item.attrs:
                self.found[name] = np.empty(0, dtype="V1")
                return
            for field in item:
                self._add(f"{name}.{field}", hdf5.member(item, field), depth + 1)
        elif "MATLAB_empty" in item.attrs or not item.size:
            return
        elif item.dtype.kind == "O" and item.dtype.metadata and "vlen" in item.dtype.metadata:
            if (texts := _texts(item)) is not None:
                self.found[name] = texts
        elif item.dtype.kind == "O":
            for number, entry in enumerate(np.asarray(item[()], dtype=object).T.reshape(-1, order="F")):
                if type(entry).__name__ == "Reference" and entry:  # a cell
                    target = self.file[entry].name
                    self._add(f"{name}{{{number + 1}}}", hdf5.member(self.file, target), depth + 1)
        else:
            check_claim(item.size * item.dtype.itemsize, LARGEST_SERIES, name)
            # MATLAB writes its columns one after the other, so HDF5 has the axes the other way round.
            values = np.asarray(item[()]).T
            if item.attrs.get("MATLAB_class") == b"char" and values.ndim == 2:
                values = np.array(["".join(map(chr, row)).rstrip() for row in values.tolist()])
            self.found[name] = values


def _texts(item: Any) -> np.ndarray | None:
    """Texts of any length, as h5py writes lists of labels; `None` for other things of any length."""
    if item.dtype.metadata["vlen"] not in (str, bytes) or item.ndim > 1 or item.size > _MOST_ARRAYS:
        return None
    texts: list[str] = []
    total = 0
    # One by one, since many entries may point at the same long text.
    for number in range(item.size):
        entry = item[number] if item.ndim else item[()]
        texts.append(entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry))
        total += len(texts[-1])
        if total > _LONGEST_TEXTS:
            raise ValueError(f"its texts have more than {_LONGEST_TEXTS:,} letters")
    return np.array(texts)
