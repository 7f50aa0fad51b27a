"""Reading the authors' files safely: nothing in them runs, and an error names the file and what is wrong with it."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.torch_version import TorchVersion

from ..data.arrays import read_npz
from ..data.model_tables import read_numbers
from ..data.readers import read_coordinates
from ..data.tables import read_table
from ..foreign import read_bytes, read_json, reading
from ..models.conversion_base import ConversionError, GivenFile, InputFile

_FIX = "If it is truncated or corrupt, compare its size with the source and download it again."
_LARGEST_SETTINGS = 1 << 24


class _NumberType:
    """Type of a number as numpy saves it: stands in for numpy.dtype, so that no file reaches numpy."""

    def __init__(self, code: str, *others: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def value_of(self, data: bytes) -> Any:
        """The plain number that these bytes are."""
        if not (re.fullmatch(r"[biuf]\d", str(self.code)) and str(self.order) in "<>=|" and isinstance(data, bytes)):
            raise pickle.UnpicklingError("Unsupported type: numpy.dtype")
        return np.frombuffer(data, f"{self.order}{self.code}", count=1)[0].item()


# Plain data that files of real runs hold beside tensors: their command-line arguments, and scores as numpy numbers.
_PLAIN: list[Any] = [
    argparse.Namespace,
    (_NumberType, "numpy.dtype"),
    *((_NumberType.value_of, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]

# Before it, a file that `weights_only=True` accepts could corrupt memory.
_SAFE_TORCH = "2.10"


def read_torch_checkpoint(
    path: Path, expected: str = "the weights of the authors, saved with torch.save"
) -> dict[str, Any]:
    """Load a `torch.save` file with `weights_only=True`, so that no code in it can run; there is no other way.

    Args:
        path: the file.
        expected: what it should hold, as words that fit after "expected".

    Raises:
        ConversionError: if it is missing, truncated, or holds anything but tensors and plain containers; or if this
            PyTorch is too old to read files of others safely.
    """
    check_torch()
    with reading(path, expected, _FIX, ConversionError):
        with path.open("rb") as file:
            first = file.read(2)
        if not first:
            raise ConversionError(f"{path} is empty. Download it again.")
        if first == b"PK":
            _check_claims(path)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_PLAIN):
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            # The words of torch end in the advice to switch the protection off.
            if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
                raise
            named = re.search(r"(?:GLOBAL|Unsupported (?:global|class|type)):? ?([\w.]+)", str(error))
            what = f"it names {named[1]}" if named else "it is no such file, or damaged"
            raise ConversionError(
                f"{path} is not a plain file of tensors ({what}). It is refused, since loading it could run code. "
                "Expected a state dict saved with torch.save: ask the source for one, or download it again."
            ) from None
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            found = "keys that are no text" if isinstance(content, dict) else f"a {type(content).__name__}"
            raise ConversionError(f"{path} holds {found}, expected a dictionary of tensors.")
    return content


def check_torch() -> None:
    """Raise ConversionError if this PyTorch is too old to read files of others safely."""
    if TorchVersion(torch.__version__) < _SAFE_TORCH:
        raise ConversionError(
            f"PyTorch {torch.__version__} cannot read files of others safely (CVE-2026-24747: a prepared file "
            "corrupts memory, weights_only or not). Expected PyTorch 2.10 or newer: pip install 'torch>=2.10'. "
            "Converted models load with older ones too."
        )


def _check_claims(path: Path) -> None:
    """Raise ConversionError if members of a zip file are said to be larger than the file; torch does not compress."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > path.stat().st_size:
        raise ConversionError(
            f"{path} claims to hold {claimed:,} bytes and has {path.stat().st_size:,}. Expected a file that "
            "torch.save wrote: download it again."
        )


def read_model_folder(path: Path, expected: str) -> GivenFile:
    """`config.json` and `pytorch_model.bin` of a folder, as `"config"` and `"weights"`.

    Raises:
        ConversionError: if it is none, or one of them cannot be read.
    """
    if not path.is_dir():
        raise ConversionError(f"{path} is not a folder. Expected {expected}.")
    config = read_json(path / "config.json", "the JSON object of the authors' folder", ConversionError)
    weights = path / "pytorch_model.bin"
    return GivenFile(weights, {"config": config, "weights": read_torch_checkpoint(weights)})


def read_number_table(path: Path, expected: str) -> np.ndarray:
    """A finite table `(rows, columns)` float32, from text without a header or `.npy`.

    Raises:
        ConversionError: if it cannot be read, or is none.
    """
    with reading(path, expected, _FIX, ConversionError):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a table without numbers
            table = np.asarray(read_numbers(path), dtype=np.float32)
        if table.ndim != 2 or not table.size or not np.isfinite(table).all():
            raise ConversionError(f"{path} holds shape {table.shape}, expected finite numbers in rows and columns.")
    return table


def read_settings(path: Path, expected: str) -> dict[str, Any]:
    """A mapping from YAML, of which JSON is a part.

    Raises:
        ConversionError: if it cannot be read, or is none.
    """
    with reading(path, expected, _FIX, ConversionError):
        try:
            content = yaml.safe_load(read_bytes(path, _LARGEST_SETTINGS).decode("utf-8-sig"))
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
        if not isinstance(content, dict):
            raise ConversionError(f"{path} holds a {type(content).__name__}, expected {expected}.")
    return content


def _plain(read: Callable[[Path], Any]) -> Callable[[Path, str], Any]:
    """A reader of the data room, within the boundary of conversion."""

    def reader(path: Path, expected: str) -> Any:
        with reading(path, expected, _FIX, ConversionError):
            return read(path)

    return reader


READERS: dict[str, Callable[[Path, str], Any]] = {
    "checkpoint": read_torch_checkpoint,
    "model folder": read_model_folder,
    "coordinates": _plain(lambda path: read_coordinates(path, n_rois=None)),
    "table": read_number_table,
    "named table": _plain(lambda path: read_table(path).values.astype(np.float32)),
    "arrays": _plain(read_npz),
    "settings": read_settings,
}
"""Kind of an [`InputFile`] -> its reader, which takes the path and what it should hold."""


def read_given(path: Path, file: InputFile) -> GivenFile:
    """A file that was given to a converter.

    Raises:
        ConversionError: if it cannot be read as what it should be; the message names it.
    """
    content = READERS[file.kind](path, file.expected)
    return content if isinstance(content, GivenFile) else GivenFile(path, content)
