"""NIfTI and CIFTI images, whose headers are believed only as far as their files reach."""

import math
from pathlib import Path
from typing import Any

from ..optional import require

# Scans pack to about half, and with much background to a tenth; small images of one value may pack further.
_LARGEST_RATIO, _ALWAYS_ALLOWED = 200, 1 << 28


def load_image(path: str | Path, **options: Any) -> Any:
    """Open an image; its data are read later, and are as large as its header says, which is checked here.

    Args:
        path: the image.
        options: for `nibabel.load`.

    Raises:
        ValueError: if the header claims more data than the file can hold.
        Exception: of many kinds, from nibabel, if the file is damaged.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    path = Path(path)
    if not path.is_file():  # a pipe would block for ever
        raise FileNotFoundError("there is no such file")
    image = nib.load(path, **options)
    size = path.stat().st_size
    packed = path.name.lower().endswith((".gz", ".bz2", ".zst"))
    most = max(_ALWAYS_ALLOWED, size * _LARGEST_RATIO) if packed else size
    claimed = math.prod(int(length) for length in image.shape) * int(image.get_data_dtype().itemsize)
    if claimed > most or min(image.shape, default=1) < 1:
        raise ValueError(f"its header claims shape {image.shape}, {claimed:,} bytes; the file has {size:,}")
    return image


def read_to_end(image: Any) -> None:
    """Read a packed file to its end, where its checksum is compared; nibabel stops where the data end.

    Args:
        image: loaded with `keep_file_open=True`, and read.

    Raises:
        OSError, EOFError: if the data are not those that were packed.
    """
    opened = getattr(image.dataobj, "_opener", None)
    while opened is not None and opened.read(1 << 20):
        pass
