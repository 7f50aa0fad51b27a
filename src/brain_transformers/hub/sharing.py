"""Folders and repositories that others can load: weights, extractor and card, all at once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi


@contextmanager
def written_at_once(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends without an error.

    Files of an earlier `folder` with the same name are replaced, others stay.

    Raises:
        NotADirectoryError: if `folder` exists and is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; give the name of a folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if not target.exists():
            temporary.rename(target)
            return
        for item in sorted(temporary.iterdir()):
            os.replace(item, target / item.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def save_model_folder(model: Any, folder: str | Path, *, extractor: Any = None, card: str | None = None) -> Path:
    """Write everything that a user of the model needs, all at once.

    Args:
        model: any model of this package; every weight and buffer is saved as safetensors, and beside it the shim for
            `trust_remote_code`.
        folder: where to; appears complete or not at all.
        extractor: its feature extractor, saved as `preprocessor_config.json`.
        card: text of `README.md`.
    """
    with written_at_once(folder) as temporary:
        model.save_pretrained(temporary)
        if extractor is not None:
            extractor.save_pretrained(temporary)
        if card is not None:
            _write_text(temporary / "README.md", card)
    return Path(folder)


def push_folder(folder: str | Path, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
    """Upload a saved folder to the Hub and return its address.

    Args:
        folder: as written by [`save_model_folder`].
        repo_id: `"organisation/name"`.
        private: create a private repository, which is the safe choice for weights whose licence forbids sharing.
        token: a Hub token; the stored one is used if left out.
    """
    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message="Add model")
    return str(url)
