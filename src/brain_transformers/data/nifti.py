"""NIfTI and CIFTI images, whose headers are believed only as far as their files reach."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..foreign import reading
from ..optional import require
from .errors import ROISeriesReadError

# Scans pack to about half, and with much background to a tenth; small images of one value may pack further.
_LARGEST_RATIO, _ALWAYS_ALLOWED = 200, 1 << 28
# The axes of 91,282 grayordinates take 3 MB.
_LARGEST_EXTENSION, _CIFTI = 1 << 27, 32
# Values that are held at once while an image is read: a few frames, which stay in the processor's cache.
_BLOCK_VALUES = 1 << 22
NATIVE_SPACES = frozenset(
    {"T1w", "T2w", "anat", "bold", "boldref", "epi", "func", "fsnative", "individual", "native", "orig", "scanner"}
    | {"subject", "T1", "T2", "run", "session"}
)
"""Values of BIDS's `space-` that are a person's own space, and no template."""


def load_image(path: str | Path, **options: Any) -> Any:
    """Open an image; its data are read later, and are as large as its header says, which is checked here.

    Raises:
        ValueError: if the header claims more data than the file can hold.
        Exception: of many kinds, from nibabel, if the file is damaged.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    path = Path(path)
    if not path.is_file():  # a pipe would block for ever
        raise FileNotFoundError("there is no such file")
    _check_header(path)
    image = nib.load(path, **options)
    size = path.stat().st_size
    packed = path.name.lower().endswith((".gz", ".bz2", ".zst"))
    most = max(_ALWAYS_ALLOWED, size * _LARGEST_RATIO) if packed else size
    claimed = math.prod(int(length) for length in image.shape) * int(image.get_data_dtype().itemsize)
    if claimed > most or min(image.shape, default=1) < 1:
        raise ValueError(f"its header claims shape {image.shape}, {claimed:,} bytes; the file has {size:,}")
    return image


class _BoundedStream:
    """The beginning of a file, of which no large piece is read at once."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_EXTENSION:
            raise ValueError(f"its header claims an extension of {size:,} bytes")
        return self._stream.read(size)


def _check_header(path: Path) -> None:
    """Refuse what nibabel would take memory for while it opens a file: extensions, and the axes of CIFTI."""
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    with nib.openers.ImageOpener(path) as stream:
        kind = nib.Nifti2Header if stream.read(4) in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nib.Nifti1Header
        stream.seek(0)
        header = kind.from_fileobj(_BoundedStream(stream), check=False)  # which nibabel does below
    for extension in header.extensions:
        if extension.get_code() == _CIFTI:
            held = max(header.get_data_shape(), default=0)
            for axis in extension.get_content().matrix:
                described = sum(model.index_count for model in axis.brain_models)
                if described > held:
                    raise ValueError(f"its header describes {described:,} vertices and voxels, it holds {held:,}")


def read_to_end(image: Any) -> None:
    """Read a packed file to its end, where its checksum is compared; nibabel stops where the data end.

    Args:
        image: loaded with `keep_file_open=True`, and read.

    Raises:
        OSError, EOFError: if the data are not those that were packed.
        ValueError: if much more follows than the header says.
    """
    opened, beyond = getattr(image.dataobj, "_opener", None), 0
    while opened is not None and (rest := opened.read(1 << 20)):
        beyond += len(rest)
        if beyond > _ALWAYS_ALLOWED:
            raise ValueError(f"more than {_ALWAYS_ALLOWED:,} bytes follow the data that its header describes")


def frame_blocks(image: Any, name: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of a 4-D image from front to back, a few at a time, in memory that does not grow with their number.

    Args:
        image: loaded with `keep_file_open=True`, so that a packed file is read once, and to its end.
        name: what errors call it.

    Yields:
        The number of the first frame, and `(x, y, z, n)`, x fastest, as nibabel gives them: numbers that the file
        scales are float64, others stay what they are.

    Raises:
        ROISeriesReadError: if the file is damaged, which may show in the middle of it only.
    """
    step = max(1, _BLOCK_VALUES // max(1, math.prod(image.shape[:3])))
    for first in range(0, image.shape[3], step):
        with reading(name, "a NIfTI image; it may be truncated", error=ROISeriesReadError):
            block = np.asarray(image.dataobj[..., first : first + step])
        yield first, block
    with reading(name, "a NIfTI image", error=ROISeriesReadError):
        read_to_end(image)


def check_space(image: Any, name: Any) -> None:
    """Refuse an image whose header does not say where it lies in space.

    Raises:
        ROISeriesReadError: the message names it.
    """
    header = image.header
    codes = [int(header[code]) for code in ("sform_code", "qform_code") if code in header]
    if codes and not any(codes):
        raise ROISeriesReadError(
            f"{name}: the header declares no space (sform and qform codes are 0), so left and right cannot be told. "
            "Set the affine in the file from its source; do not guess it."
        )
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        raise ROISeriesReadError(
            f"{name}: the affine is not a valid one: {image.affine.tolist()}. Write that image again with its sform."
        )


def in_scanner_space(image: Any) -> bool:
    """Whether a header says that its image lies as the scanner saw it, and no template is mentioned."""
    return {int(image.header[code]) for code in ("sform_code", "qform_code") if code in image.header} - {0} == {1}


def space_of(path: Path) -> str | None:
    """The space that a file's name says (`space-`, `tpl-`, or a template within it), `None` if it says none."""
    said = re.search(r"(?:^|_)(?:space|tpl)-([A-Za-z0-9]+)", path.name) or re.search(r"(MNI[A-Za-z0-9]*)", path.name)
    return said[1] if said is not None else None


def refuse_scanner_space(image: Any, path: Path) -> None:
    """Refuse to resample an image whose header says that it lies as the scanner saw it: no grid makes that MNI152.

    Raises:
        ROISeriesReadError: the message names it.
    """
    if in_scanner_space(image) and "space-mni" not in path.name.lower():
        raise ROISeriesReadError(
            f"{path}: expected an image in MNI152, got one whose header says the scanner's own space (sform and qform "
            "codes 1). Register it to MNI152 first. If it is registered, set its sform code to 4, or name it "
            "..._space-MNI152NLin6Asym_..."
        )


def header_t_r(image: Any) -> float | None:
    """Seconds between frames as the header has them; 0 or `None` where it says nothing."""
    zooms = image.header.get_zooms()
    if len(zooms) < 4:
        return None
    unit = image.header.get_xyzt_units()[1] if hasattr(image.header, "get_xyzt_units") else "unknown"
    seconds = float(zooms[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    # Headers hold float32: 0.735 comes back as 0.7350000143.
    return float(np.format_float_positional(np.float32(seconds), unique=True))
