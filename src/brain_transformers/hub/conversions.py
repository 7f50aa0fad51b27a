"""Converted models in folders of their own, with one account of what became of the authors' files.

It is printed, stands on the card, and lies beside the weights in `conversion.json`.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import RepoCard

from ..conversion.convert import Conversion
from ..files import to_json
from ..models.licenses import license_on
from ..version import __version__
from .model_card import converted_model_card
from .registry import MODELS, name_by_size
from .sharing import save_model_folder

ACCOUNT_FILE = "conversion.json"


def account_of(conversion: Conversion, source: str | None, lacking: Mapping[str, str]) -> dict[str, Any]:
    """What became of the authors' files, as plain data; see [`save_converted`]."""
    report, model = conversion.converted.report, conversion.model
    named = name_by_size(model.config)
    return {
        "model": {"class": type(model).__name__, "type": model.config.model_type, "sizes_of": named},
        "source": source,
        "files": {
            name: {"name": file.path.name, "bytes": file.path.stat().st_size, "sha256": file.sha256}
            for name, file in conversion.files.items()
        },
        "options": conversion.options,
        "used": report.renamed,
        "dropped": report.dropped,
        "n_dropped": report.n_dropped,
        "refused": {},  # of what is refused, no folder comes
        "parameters": {
            "released": model.base_model.num_parameters(),
            "published": MODELS[named].parameters if named else None,
        },
        "fingerprint": conversion.fingerprint,
        "lacking": dict(lacking),
        "converted_with": {
            "brain-transformers": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def parameters_in_words(account: Mapping[str, Any]) -> str:
    """The parameters of a converted model, held against those of the published model of its sizes."""
    released, published = (account["parameters"][name] for name in ("released", "published"))
    named = account["model"]["sizes_of"]
    if published is None:
        return f"{released:,} that AutoModel loads; no published model has these sizes"
    if released < published:
        return f"{released:,} that AutoModel loads, where {named} was published with {published:,}"
    more = f", and {released - published:,} of what it holds besides" if released > published else ""
    return f"{published:,} that AutoModel loads, as published for {named}{more}"


def save_converted(
    conversion: Conversion,
    folder: Path,
    source: str | None,
    *,
    fetched: bool = False,
    lacking: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a converted model with extractor, card and account, and print the account.

    Args:
        conversion: what to write.
        folder: appears complete or not at all.
        source: where the files come from; `None` if whoever converts does not say.
        fetched: whether this package brought them from there itself.
        lacking: what the model still lacks, by name, and where it comes from.
        more: what else the account should say.
    """
    account = {**account_of(conversion, source, lacking or {}), **(more or {})}
    report, parameters = conversion.converted.report, parameters_in_words(account)
    words = (
        f"{len(report.renamed)} tensors of the file became the model, {report.n_dropped} were left out, none was "
        f"refused. Parameters: {parameters}."
    )
    card = converted_model_card(folder.resolve().name, conversion, source, fetched, words)
    # So that whoever loads the model knows it without the card, and what is trained from it too.
    conversion.model.config.weights_license = license_on(RepoCard(card).data.to_dict())[0]
    save_model_folder(
        conversion.model, folder, extractor=conversion.extractor, card=card, more={ACCOUNT_FILE: to_json(account)}
    )
    print(report.summary())
    print(f"parameters: {parameters}")
    print(f"fingerprint {conversion.fingerprint}, the same wherever all weights and tables are the same")
