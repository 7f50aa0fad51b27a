"""Folders and repositories that others can load: weights, extractor, card, and a shim for `trust_remote_code`."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ..registration import FAMILIES

SHIM_NAME = "modeling_shim.py"


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


def write_shim(folder: str | Path) -> None:
    """Make a saved model loadable with `trust_remote_code=True` where this package is installed but not imported.

    Writes `modeling_shim.py`, one import line, and the `auto_map` entries that point to it, into `config.json` and, if
    there is one, `preprocessor_config.json`. Without the package, transformers then says which package to install.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stem = next(
        (family.stem for family in FAMILIES if family.model_type == config.get("model_type")),
        None,
    )
    if stem is None:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise ValueError(f"{folder} holds model_type {config.get('model_type')!r}; expected one of {known}.")
    names = {
        "AutoConfig": f"{stem}Config",
        "AutoModel": f"{stem}Model",
        "AutoModelForPreTraining": f"{stem}ForMaskedModeling",
        "AutoModelForSequenceClassification": f"{stem}ForSequenceClassification",
    }
    extractor = "ROISeriesFeatureExtractor"
    imports = ", ".join([*names.values(), extractor])
    _write_text(folder / SHIM_NAME, f"from brain_transformers import {imports}  # noqa: F401\n")
    module = SHIM_NAME.removesuffix(".py")
    config["auto_map"] = {auto: f"{module}.{name}" for auto, name in names.items()}
    _write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        content = json.loads(preprocessor.read_text(encoding="utf-8"))
        content["auto_map"] = {"AutoFeatureExtractor": f"{module}.{extractor}"}
        _write_text(preprocessor, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def save_model_folder(model: Any, folder: str | Path, *, extractor: Any = None, card: str | None = None) -> Path:
    """Write everything that a user of the model needs, all at once.

    Args:
        model: any model of this package; every weight and buffer is saved as safetensors.
        folder: where to; appears complete or not at all.
        extractor: its feature extractor, saved as `preprocessor_config.json`.
        card: text of `README.md`.
    """
    with written_at_once(folder) as temporary:
        model.save_pretrained(temporary)
        if extractor is not None:
            extractor.save_pretrained(temporary)
        write_shim(temporary)
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
