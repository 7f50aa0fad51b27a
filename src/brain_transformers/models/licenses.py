"""What licences of weights ask for, in words, and which weights must not be shared without their authors' word."""

import functools
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id

LIBRARY = "brain-transformers"
UNKNOWN = "unknown"
UNREADABLE: dict[str, Any] = {"license": UNKNOWN}
"""Metadata of a card that cannot be read."""
_LOG = logging.getLogger(__name__)
_ADDRESS = "https://creativecommons.org/licenses"


def terms_of(*names: str | None) -> list[str]:
    """What a licence does not allow, a sentence each; `names` are its identifier and, if it has one, its name."""
    words = _words(*names)
    terms = []
    if words & {"nc", "noncommercial"}:
        terms.append("The weights may be used for non-commercial purposes only.")
    if "nd" in words:
        terms.append(
            "They may not be shared in changed form. Converted and fine-tuned weights are changed forms: keep them to "
            "yourself, or ask the authors before you publish them."
        )
    return terms


def in_words(license: str | None) -> str:
    """A licence of published weights in a few lines."""
    if license in (None, UNKNOWN):
        return "none is stated: ask the authors before you share converted or fine-tuned weights"
    match = re.fullmatch(r"cc-(by[a-z-]*)-(\d\.\d)", str(license))
    address = f" ({_ADDRESS}/{match[1]}/{match[2]}/)" if match else ""
    return "\n  ".join([f"{license}{address}", *terms_of(license)])


def restriction(license: str | None) -> str | None:
    """Why weights must not be shared without their authors' word, or `None`; so for weights of nobody's (`None`)."""
    if license in (UNKNOWN, "other"):
        return "nobody states their licence"
    return f"their licence ({license}) forbids to share changed forms" if "nd" in _words(license) else None


def _words(*names: str | None) -> set[str]:
    return set(re.split(r"[\W_]+", " ".join(map(str, names)).lower().replace("non-c", "nonc")))


def licenses_in(settings: Mapping[str, Any]) -> Iterator[str]:
    """What the content of a `config.json` says of weights that the model, or an encoder inside it, started from."""
    for name, value in settings.items():
        if name == "weights_license" and value is not None:
            yield str(value)
        elif isinstance(value, Mapping):
            yield from licenses_in(value)


# --- of cards ---


def hub_name(source: str | None) -> str | None:
    """The source of weights as a name of a Hub repository, if it is one."""
    name = re.sub(r"^https?://huggingface\.co/", "", source or "").split(",")[0].strip().rstrip("/")
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name if name.count("/") == 1 else None


def card_of(model: str | Path) -> dict[str, Any] | None:
    """Metadata of the card of a model; [`UNREADABLE`] if it cannot be read, `None` if there is none.

    Args:
        model: folder, or name on the Hub, which is asked.
    """
    folder, name = Path(model), hub_name(str(model))
    try:
        if folder.is_dir() or name is None:
            file = folder / "README.md"
            if not file.is_file():
                return None
        else:
            file = _hub_card(name)
        return RepoCard.load(file, ignore_metadata_errors=True).data.to_dict()
    except EntryNotFoundError:
        return None
    except Exception as error:  # what a foreign card makes of the libraries is not to be listed
        _LOG.warning("The card of %s cannot be read (%s), so its licence counts as unknown.", model, error)
        return UNREADABLE


@functools.lru_cache
def _hub_card(name: str) -> Path:
    return Path(hf_hub_download(name, "README.md"))


def license_on(card: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Licence that a card states, and its name where the Hub has no id for it.

    A card of this package says none if the weights were trained from nobody's; where others say none, it is unknown.
    """
    license, name = card.get("license"), card.get("license_name")
    if isinstance(license, list):  # of several, each binds
        license, name = "other", "-and-".join(map(str, license))
    if not isinstance(license, str):
        return (None if card.get("library_name") == LIBRARY else UNKNOWN), None
    return license, name if license == "other" and isinstance(name, str) else None
