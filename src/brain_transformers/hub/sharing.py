"""Folders and repositories that others can load: weights, extractor and card, all at once."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig

from ..families import shared_base, weights_source
from ..files import whole_folder, write_file
from ..foreign import read_json
from ..models.licenses import LIBRARY, card_of, license_on, licenses_in
from ..models.uploads import check_may_be_shared, licenses_of, rename_base
from .contract import write_contract

# What the folder of a model holds: weights, configurations, card, shim, and nothing of the run that made it.
_MODEL_FILES = re.compile(
    r"config\.json|input_contract\.json|generation_config\.json|(?:pre)?processor_config\.json|modeling_shim\.py"
    r"|(?:adapter_)?model(?:-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|adapter_config\.json"
    r"|README\.md|conversion\.json|LICENSE(?:\.\w+)?|CITATION\.cff|\.gitattributes"
)
# Of these, the ones that may be the user's own.
_MAY_BE_THEIRS = re.compile(r"adapter_.*|generation_config\.json|LICENSE(?:\.\w+)?|CITATION\.cff|\.gitattributes")
_OUR_CARD = f"library_name: {LIBRARY}"


def save_model_folder(
    model: Any,
    folder: str | Path,
    *,
    extractor: Any = None,
    card: str | None = None,
    more: Mapping[str, str] | None = None,
) -> Path:
    """Write everything that a user of the model needs, all at once.

    An earlier model in the folder is replaced with all its files, the card that was written for it included; other
    files stay where they are.

    Args:
        model: any model of this package; every weight and buffer is saved as safetensors, and beside it the shim for
            `trust_remote_code`.
        folder: where to; appears complete or not at all.
        extractor: its feature extractor, saved as `preprocessor_config.json`. What it wants of a scan stands in
            `input_contract.json` too, see [`verify`].
        card: text of `README.md`.
        more: further files that belong to the model: name -> text.

    Raises:
        NotADirectoryError: if `folder` is a file.
        FileExistsError: if a folder stands where a file is to be written.
        OSError: if it cannot be written; an earlier model is then as it was.
    """

    def is_ours(name: str) -> bool:
        if name == "README.md":
            return _OUR_CARD in (Path(folder) / name).read_text(encoding="utf-8", errors="replace")
        return _MODEL_FILES.fullmatch(name) is not None and _MAY_BE_THEIRS.fullmatch(name) is None

    with whole_folder(folder, is_ours=is_ours) as temporary:
        model.save_pretrained(temporary)
        if extractor is not None:
            extractor.save_pretrained(temporary)
        if card is not None:
            write_file(temporary / "README.md", card)
        for name, text in (more or {}).items():
            write_file(temporary / name, text)
        write_contract(temporary, extractor, type(model.config))
        for file in temporary.glob("*.safetensors"):  # which safetensors lets only their owner read
            file.chmod((temporary / "config.json").stat().st_mode)
    return Path(folder)


def is_model_file(name: str) -> bool:
    """Whether a name is one of those that the files of a model have."""
    return _MODEL_FILES.fullmatch(name) is not None


def files_to_push(folder: str | Path) -> tuple[list[str], list[str]]:
    """Names of the files of a model folder that go to the Hub, and what else lies there and stays at home.

    What stays: checkpoints with the states of optimizer and random generators, settings, metrics, figures and tables
    of the run, whatever else is not part of a model, and links, whose targets lie elsewhere.

    Raises:
        FileNotFoundError: if `folder` is none, or holds no model.
    """
    folder = Path(folder)
    found = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []
    goes = [entry.name for entry in found if entry.is_file(follow_symlinks=False) and is_model_file(entry.name)]
    weights = [name for name in goes if name.endswith(".safetensors")]
    if not weights or not {"config.json", "adapter_config.json"} & set(goes):
        raise FileNotFoundError(
            f"{folder} holds no saved model: expected config.json and model.safetensors as files (not as links), got "
            f"{', '.join(entry.name for entry in found[:6]) or 'nothing'}. Name a folder that conversion, pretrain, "
            "finetune or save_pretrained wrote."
        )
    stays = [
        f"{entry.name}{' (a link)' if entry.is_symlink() else '/' * entry.is_dir()}"
        for entry in found
        if entry.name not in goes
    ]
    return goes, stays


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    allow_restricted: bool = False,
    base_model: str | None = None,
    token: str | None = None,
) -> str:
    """Upload the model in a folder to the Hub and return its address; says what of the folder stays at home.

    Args:
        folder: as written by [`save_model_folder`], or the folder of a run; see [`files_to_push`] for what goes.
        repo_id: `"organisation/name"`.
        private: create a private repository, which is the safe choice for weights whose licence forbids sharing.
        allow_restricted: whether weights may be uploaded that must not be shared without their authors' word (no
            changed forms, or no licence stated), and what was trained from them; to a private repository as well.
        base_model: of an adapter whose base is a folder of this machine: its name on the Hub.
        token: a Hub token; the stored one is used if left out.

    Raises:
        FileNotFoundError: if there is no model in `folder`.
        ValueError: if `repo_id` is no name of a repository, or the base of an adapter is a folder of this machine.
        PermissionError: for restricted weights that were not allowed, if there is no token, or the Hub does not accept
            it for this repository.
        ConnectionError: if the Hub cannot be reached, or fails.
    """
    goes, stays = files_to_push(folder)
    check_repo_id(repo_id)
    check_may_be_shared(str(folder), _licenses_of_folder(Path(folder)), allow_restricted)
    api = HfApi(token=token)
    with contextlib.ExitStack() as stack:
        if "adapter_config.json" in goes:
            adapter = read_json(Path(folder) / "adapter_config.json", "the settings of an adapter", OSError)
            base = shared_base(str(adapter.get("base_model_name_or_path")), base_model, "base_model")
            copied = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name in goes:
                shutil.copy(Path(folder) / name, copied)
            rename_base(copied, base)
            folder = copied
        if stays:
            print(f"not uploaded, since it is no part of the model: {', '.join(stays)}")
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=str(folder), allow_patterns=goes, commit_message="Add model"
            )
        except Exception as error:  # of the Hub's client, its HTTP library, the network
            raise _upload_error(error, repo_id) from error
    return str(url)


def _licenses_of_folder(folder: Path) -> set[str | None]:
    """Licences of the weights that a saved model or adapter comes from: of its configuration, its card, its base."""
    found: set[str | None] = set()
    card = card_of(folder) or {}
    if (folder / "config.json").is_file():
        found |= {*licenses_in(read_json(folder / "config.json", "the settings of a model", OSError))}
    if (folder / "adapter_config.json").is_file():
        adapter = read_json(folder / "adapter_config.json", "the settings of an adapter", OSError)
        base = str(adapter.get("base_model_name_or_path"))
        source = weights_source(base)
        if Path(source).is_dir():
            return found | _licenses_of_folder(Path(source))
        found |= licenses_of(AutoConfig.from_pretrained(source))
    elif card.get("license") is not None:
        license, name = license_on(card)
        found.add(name or license)
    return found


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError for what is no name of a repository; asks no server."""
    try:
        validate_repo_id(repo_id)
        complete = "/" in repo_id
    except (ValueError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise ValueError(
            f"{repo_id!r} is no name of a repository. Expected organisation/name, of letters, digits, "
            "'-', '_' and '.'."
        )


def _upload_error(error: Exception, repo_id: str) -> OSError:
    """What a failed upload means and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{repo_id} was not uploaded: HF_HUB_OFFLINE is set. Unset it to reach the Hub.")
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return PermissionError(
            f"{repo_id} was not uploaded: the Hub wants a token that may write there. Log in with `hf auth login` or "
            "set HF_TOKEN, and name a repository of your own or of your organisation."
        )
    return ConnectionError(
        f"The upload to {repo_id} failed ({type(error).__name__}: {' '.join(str(error).split())[:300]}). The folder "
        "is as it was: call again when the Hub can be reached."
    )
