"""From files of authors to a model that can be saved, by the converter of its family."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files import digest
from ..foreign import reading
from ..models.conversion_base import ConversionError, ConvertedCheckpoint, Converter, GivenFile
from .containers import read_given


@dataclass(frozen=True)
class Conversion:
    """What became of the authors' files.

    Attributes:
        model: to be saved, and loaded again for use: buffers that are made and not saved hold nothing yet.
        extractor: its feature extractor.
        files: of the authors, those that were given.
        options: values of the converter's flags that differ from its own.
        converted: what the converter of the family said of it.
    """

    model: Any
    extractor: Any
    files: dict[str, GivenFile]
    options: dict[str, Any]
    converted: ConvertedCheckpoint

    @property
    def checkpoint(self) -> GivenFile:
        """The authors' file."""
        return self.files["checkpoint"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """See [`fingerprint`]."""
        return fingerprint(self.converted.state_dict)


def fingerprint(tensors: dict[str, torch.Tensor]) -> str:
    """16 hexadecimal digits of all weights and tables of a model by name, equal wherever they are equal bit by bit."""
    return digest(tensors)


def convert(converter: Converter, **given: Any) -> Conversion:
    """Convert files of authors.

    Args:
        converter: of the family; see [`Family.load_converter`].
        given: paths of files and values of flags, as on the command line: `checkpoint="old_13M"`.

    Raises:
        ConversionError: if anything is unknown, missing, or of a shape that the rest does not imply.
    """
    checkpoint = Path(given["checkpoint"])
    files: dict[str, GivenFile | None] = {}
    for file in converter.files:
        path = given.get(file.name)
        if path is None and file.beside is not None and checkpoint.with_name(file.beside).is_file():
            path = checkpoint.with_name(file.beside)
        files[file.name] = None if path is None else read_given(Path(path), file)
    values = {flag: given[flag] for flag in converter.flags if flag in given}
    with reading(checkpoint, converter.files[0].expected, error=ConversionError):
        converted = converter.convert(**files, **values)
    # Copied, so that none shares storage.
    converted.state_dict = {
        name: value.to(torch.float32, copy=True).contiguous() if value.is_floating_point() else value
        for name, value in converted.state_dict.items()
    }
    with torch.device("meta"):
        model = converted.model_class(converted.config)
    model.load_state_dict(converted.state_dict, strict=True, assign=True)
    processor_class = converted.config.load_processor()
    extractor = processor_class.from_model_config(converted.config, **converted.processor_values)
    read = {name: file for name, file in files.items() if file is not None}
    return Conversion(model, extractor, read, chosen_options(converter, values), converted)


def chosen_options(converter: Converter, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of a converter's flags, those that are not its own."""
    own = {name: settings.get("default", False) for name, settings in converter.flags.items()}
    return {name: values[name] for name in own if values.get(name) not in (None, own[name])}


def check_output(output: Path, *sources: Path | None) -> None:
    """Raise ConversionError where the result would come to lie among the authors' files, or over another model's."""
    target = output.resolve()
    for source in sources:
        if source is not None and (source.resolve() == target or target in source.resolve().parents):
            raise ConversionError(
                f"--output {output} is the folder of the authors' files ({source}), whose config.json would be "
                "replaced. Name another folder."
            )
    if target.exists() and not target.is_dir():
        raise ConversionError(f"--output {output} is a file. Name a folder.")
    theirs = [path for path in target.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".tar")]
    if theirs or ((target / "config.json").is_file() and not _is_ours(target / "config.json")):
        raise ConversionError(
            f"--output {output} holds a model that this package did not write, and it would be replaced. Name another "
            "folder."
        )


def _is_ours(config_file: Path) -> bool:
    """Whether a `config.json` is of this package, which always names its shim."""
    return "modeling_shim." in config_file.read_text(encoding="utf-8", errors="replace")
