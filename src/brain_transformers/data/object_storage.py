"""Folders in object storage: their tables and sidecars are copied once, and then read like any others."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import digest, no_space, whole_file, write_file
from ..optional import require
from .errors import ROISeriesReadError
from .readers import series_suffix
from .scan_names import HDF5_SUFFIXES

# A path takes one of two slashes away: s3:/bucket/folder.
_URL = re.compile(r"(s3|s3a|gs|gcs|az|abfs|abfss|hf|memory):/{1,2}(?=[^/])")
_SMALL = (".json", ".tsv", ".csv", ".txt")


def is_url(folder: Any) -> bool:
    """Whether a folder is one of an object storage that fsspec knows."""
    return _URL.match(str(folder)) is not None


def local_copy(folder: Any, cache: Path) -> Path:
    """A local copy of the series, tables and sidecars of a folder in object storage; images stay where they are.

    Files that are there with the same size and mark of the storage are not fetched again.

    Args:
        folder: such as `s3://bucket/derivatives/xcp_d`.
        cache: where copies of folders go.

    Raises:
        ImportError: if fsspec needs a package for this storage.
        ROISeriesReadError: if the storage cannot be read, or holds no such file; the message names it.
    """
    from tqdm.auto import tqdm

    fsspec = require("fsspec", extra="storage", purpose="folders in object storage")
    url = _URL.sub(lambda match: f"{match[1]}://", str(folder), count=1)
    try:
        storage, root = fsspec.core.url_to_fs(url)
        found = storage.find(root, detail=True)
    except ImportError as error:
        raise ImportError(
            f"{url}: this storage needs a package of its own ({error}). For S3: pip install "
            '"brain-transformers[storage]"'
        ) from error
    except Exception as error:  # what a network or a server says comes in many kinds
        raise ROISeriesReadError(f"{url}: cannot be listed ({type(error).__name__}: {str(error)[:300]}).") from error
    chosen: dict[str, tuple[str, Any]] = {}
    for name, told in found.items():
        inside = name[len(root.rstrip("/")) + 1 :]
        wanted = series_suffix(inside) or inside.lower().endswith((*HDF5_SUFFIXES, *_SMALL))
        if wanted and inside and ".." not in PurePosixPath(inside).parts and not inside.startswith("/"):
            mark = [told.get("size"), *(str(told.get(key, "")) for key in ("ETag", "etag", "LastModified", "created"))]
            chosen[inside] = (name, mark)
    if not chosen:
        raise ROISeriesReadError(f"{url}: expected tables or series of scans, got none among {len(found)} files.")
    copy = cache / "object_storage" / digest(url)
    for inside, (name, mark) in tqdm(chosen.items(), desc=f"Copying {url}", unit="file", disable=len(chosen) < 8):
        file = copy / inside
        beside = copy / ".marks" / digest(inside)
        if file.is_file() and beside.is_file() and beside.read_text() == digest(mark):
            continue
        try:
            with whole_file(file) as part:
                storage.get_file(name, str(part))
        except Exception as error:
            if no_space(error):
                raise
            raise ROISeriesReadError(
                f"{url}: {inside} cannot be fetched ({type(error).__name__}: {str(error)[:300]}). The same call goes "
                "on from here."
            ) from error
        write_file(beside, digest(mark))
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        inside = file.relative_to(copy).as_posix()
        if not inside.startswith(".marks/") and inside not in chosen:
            file.unlink()  # of this cache, and gone from the storage
    return copy
