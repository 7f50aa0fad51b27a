"""Weights by name: fetched from where their authors published them, checked, converted, and kept in a cache.

Nobody may host the converted weights of most of these models, so each user converts them once.
"""

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ..families import MODELS, cache_folder, family_of, fetched, fetched_folder, weights_source
from ..files import FolderInUseError, locked, no_space, to_json, write_file
from ..foreign import read_json
from ..models import licenses
from ..models.family import AuthorsFile, NamedModel
from ..version import __version__
from .conversions import ACCOUNT_FILE, save_converted
from .registry import load_config, name_by_size

_CLIENT: dict[str, Any] = {"library_name": "brain-transformers", "library_version": __version__}


def get(name: str, *, accept_license: bool = False, revision: str | None = None, **given: Any) -> Path:
    """Fetch the published weights of a name, convert them, and keep them; returns their folder.

    What is there already is not fetched or converted again, and what was interrupted goes on. Files of authors who
    keep them on no server that a program may use are taken from you: the error names the line that downloads each.

    Args:
        name: of a published model; see [`list_models`] with `published=True`.
        accept_license: whether you accept the licence of the weights, which is printed; asked once for each licence of
            a source.
        revision: of the authors' repository on the Hub, in place of the pinned or newest one.
        given: the authors' files that you have and flags of the converter, as `brain-transformers convert` takes them:
            `coordinates="A424_Coordinates.dat"`.

    Raises:
        ValueError: if the name is unknown, a file is not the published one, or it cannot be converted.
        FileNotFoundError: if no weights were published, or a file is needed that is not on the Hub, or not there.
        PermissionError: if the licence was not accepted, or the repository wants you to log in.
        ConnectionError: if the download failed; what came is kept, and the same call goes on.
        OSError: if there is no room.
    """
    entry, folder = _published(name), cache_folder() / "models" / name
    if not given and revision is None and fetched(name) is not None:
        print(f"{name} is in {folder}")
        return folder
    from ..conversion.containers import check_torch
    from ..conversion.convert import chosen_options

    check_torch()
    converter = family_of(name).load_converter()
    known = [file.name for file in converter.files]
    if unknown := sorted(given.keys() - {*known, *converter.flags}):
        raise ValueError(
            f"{name} has no use for {', '.join(unknown)}. Expected one of: {', '.join([*known, *converter.flags])}."
        )
    files = {file: Path(given[file]) for file in known if given.get(file) is not None}
    options = chosen_options(converter, given)
    _check_given(name, entry, files)
    _accept(name, entry, accept_license)
    with _alone(folder, name):
        record = _read(folder / ACCOUNT_FILE, ("commits", "files", "options"))
        if record is not None and revision is None and _is_made_of(record, files, options):
            print(f"{name} is in {folder}, made of these files")
            return folder
        _check_not_fitted(folder)
        commits = _download(entry, files, revision, {} if record is None else record["commits"])
        _convert(name, entry, converter, {**files, **options}, folder, commits)
    return folder


def path_of(name: str) -> Path:
    """Folder of the weights that [`get`] has fetched; asks no server.

    Raises:
        ValueError: if the name is unknown; the message lists the known ones.
        FileNotFoundError: if they were not fetched; the message says how to.
    """
    load_config(name)
    return fetched_folder(name)


def load(name: str | Path, *, auto_class: Any = None, accept_license: bool = False, **options: Any) -> tuple[Any, Any]:
    """A model with its weights, ready for features, and its processor.

    Args:
        name: of a published model that [`get`] has fetched, or a folder or Hub name of a model.
        auto_class: what kind of model; `AutoModel` if left out.
        accept_license: accept the licence of the weights, and fetch them first if they are not here. Without it no
            server is asked for the weights of a name.
        options: of `from_pretrained`, such as `dtype=torch.bfloat16`.

    Raises:
        FileNotFoundError: if the weights of a name were not fetched; the message says how to.
        ValueError, PermissionError, ConnectionError, OSError: see [`get`] and `from_pretrained`.
    """
    from transformers import AutoModel

    if accept_license and name in MODELS and not Path(name).exists():
        get(str(name), accept_license=True)
    source = weights_source(name)
    model = (auto_class or AutoModel).from_pretrained(source, **options)
    where = {key: options[key] for key in ("revision", "token", "cache_dir") if key in options}
    return model.eval(), model.config.load_processor().from_pretrained(source, **where)


# --- what is asked for ---


def _published(name: str) -> NamedModel:
    load_config(name)
    entry = MODELS[name]
    if entry.source is None:
        raise FileNotFoundError(
            f"No weights of {name} were published. A model with random weights: brain_transformers.new_model("
            f"{name!r}, dataset), or `brain-transformers pretrain`."
        )
    return entry


def _check_given(name: str, entry: NamedModel, given: Mapping[str, Path]) -> None:
    """Refuse files that are not there or not the published ones, and a call without those that only a person gets."""
    needed = [file for file in entry.files if file.needs_a_person and file.argument not in given]
    if needed:
        lines = "; ".join(f"{file.name}: {file.download}" for file in needed)
        words = " ".join(f"{file.flag} {file.name}" for file in needed)
        raise FileNotFoundError(
            f"The authors of {name} keep {'files' if len(needed) > 1 else 'a file'} where only you can download it "
            f"({lines}). Then: brain-transformers get {name} {words}"
        )
    for file in entry.files:
        if file.argument not in given:
            continue
        path = given[file.argument]
        for part in file.parts or (path.name,):
            one = path / part if file.parts else path
            if not one.is_file():
                raise FileNotFoundError(f"{file.flag} {path}: there is no file {one}. Expected {file.name}.")
            if wanted := file.sha256.get(part if file.parts else file.name):
                _check_hash(
                    one, wanted, "Download it again, or take `brain-transformers convert` if you mean another."
                )


def _check_hash(path: Path, wanted: str, fix: str) -> None:
    """Refuse a file of another hash: SHA-256, or of Git where the hash has its length."""
    with path.open("rb") as file:
        state = hashlib.sha256() if len(wanted) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        while block := file.read(1 << 20):
            state.update(block)
    if (found := state.hexdigest()) != wanted:
        raise ValueError(f"{path} is not the published file: expected the hash {wanted}, got {found}. {fix}")


def _accept(name: str, entry: NamedModel, accepts: bool) -> None:
    """Show the licence of weights, and remember that it was accepted.

    Raises:
        PermissionError: if it was not, now or earlier.
    """
    file = cache_folder() / "accepted_licenses.json"
    key = f"{(entry.source or '').partition(',')[0]}: {entry.license}"
    accepted = _read(file, ()) or {}
    if key in accepted:
        return
    print(f"{name}: {entry.source}\n  {entry.citation}\nlicence: {licenses.in_words(entry.license)}", flush=True)
    if not accepts:
        raise PermissionError(
            f"The licence of {name} ({entry.license}) was not accepted yet. Read it, and call again with "
            "--accept-license (in Python accept_license=True)."
        )
    with _alone(file, "the licence"):
        write_file(file, to_json({**accepted, key: time.strftime("%Y-%m-%d")}))
    print(f"accepted, and kept in {file}")


@contextlib.contextmanager
def _alone(path: Path, what: str) -> Iterator[None]:
    """Hold `path`; other processes wait, since what one of them makes is there for all."""
    told = False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(path, f"get {what}"))
                break
            except FolderInUseError as error:
                if not told:
                    print(f"waiting: {str(error).partition('. Wait')[0]}", flush=True)
                told = True
                time.sleep(0.2)
        yield


def _read(file: Path, parts: Sequence[str]) -> dict[str, Any] | None:
    """What a file of this package says, a JSON object with these objects in it; `None` if it is missing or damaged."""
    try:
        content = read_json(file, "what this package wrote", ValueError)
    except ValueError:
        return None
    return content if all(isinstance(content.get(part), dict) for part in parts) else None


def _is_made_of(record: Mapping[str, Any], files: Mapping[str, Path], options: Mapping[str, Any]) -> bool:
    """Whether a model was converted from the files that are given, with the same options."""
    from ..models.conversion_base import file_sha256

    for name, path in files.items():
        known = record["files"].get(name)
        if known is None or file_sha256(path / known["name"] if path.is_dir() else path) != known["sha256"]:
            return False
    return options == record["options"]


def _check_not_fitted(folder: Path) -> None:
    """Refuse to replace a model whose extractor was fitted since: that took scans which are not here."""
    from transformers import AutoConfig

    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return
    config = AutoConfig.from_pretrained(folder)
    kind = config.load_processor()
    if kind.from_pretrained(folder).is_fitted and not kind.from_model_config(config).is_fitted:
        raise FileExistsError(
            f"The feature extractor in {folder} was fitted to scans since it was fetched, and would be replaced. Move "
            "its settings (preprocessor_config.json or processor_config.json) away, and call again."
        )


# --- from the authors' place ---


def _download(
    entry: NamedModel, given: dict[str, Path], revision: str | None, commits: Mapping[str, str]
) -> dict[str, str]:
    """Add the files that lie on the Hub to those that are given; returns the commits that they are of."""
    wanted = [file for file in entry.files if file.repository is not None and file.argument not in given]
    found: dict[str, str] = {}
    for repository in dict.fromkeys(str(file.repository) for file in wanted):
        files = [file for file in wanted if file.repository == repository]
        asked = revision or files[0].revision or commits.get(repository)
        found[repository], place = _fetch(repository, asked, files)
        given |= {file.argument: place / file.name for file in files}
    return found


def _fetch(repository: str, revision: str | None, files: Sequence[AuthorsFile]) -> tuple[str, Path]:
    """Download files of a repository where they are not here; returns their commit and folder."""
    place = cache_folder() / "downloads" / repository.replace("/", "--")
    paths = [path for file in files for path in file.paths]
    a_commit = revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision)
    if a_commit and all((place / str(revision) / path).is_file() for path in paths):
        return str(revision), place / str(revision)
    try:
        info = HfApi(**_CLIENT).model_info(repository, revision=revision, files_metadata=True)
        commit = str(info.sha)
        known = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        if absent := [path for path in paths if path not in known]:
            raise FileNotFoundError(
                f"{repository} has no {', '.join(absent)} at {commit[:8]}, where the weights were published. It holds "
                f"{', '.join(sorted(known)[:8])}. The authors may have moved them: name a --revision that has them, "
                "or download them yourself and pass them with "
                f"{', '.join(file.flag for file in files if set(file.paths) & set(absent))}."
            )
        left = {path: known[path] for path in paths if not (place / commit / path).is_file()}
        if left:
            size = sum(int(sibling.size or 0) for sibling in left.values())
            _check_room(place, 2 * size - sum(_partial(place / commit / path)[1] for path in left))
            print(f"{repository} at {commit[:8]}: {size / 1e6:,.1f} MB to {place / commit}", flush=True)
        for path, sibling in left.items():
            pinned = [file.sha256.get(path.removeprefix(file.name) or file.name) for file in files]
            hashes = [*filter(None, pinned), sibling.lfs.sha256 if sibling.lfs else sibling.blob_id]
            _fetch_file(repository, commit, path, int(sibling.size or 0), hashes, place / commit / path)
    except Exception as error:
        if (told := download_error(error, repository)) is None:
            raise
        raise told from error
    return commit, place / commit


def _fetch_file(
    repository: str, commit: str, path: str, size: int, hashes: Sequence[str | None], target: Path
) -> None:
    """Download one file, from where an earlier call stopped; it appears when it is whole and has its hashes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, _ = _partial(target)
    cached = try_to_load_from_cache(repository, path, revision=commit)
    if isinstance(cached, str) and not partial.exists():
        shutil.copyfile(cached, partial)
    try:
        with partial.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            http_get(
                hf_hub_url(repository, path, revision=commit),
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(**_CLIENT),
                expected_size=size,
                displayed_filename=path,
            )
    finally:
        if size and not partial.stat().st_size:
            partial.unlink()
    try:
        for wanted in filter(None, hashes):
            _check_hash(partial, wanted, f"It came damaged, or {repository} was changed: it was deleted. Call again.")
    except ValueError as error:
        partial.unlink()
        raise ValueError(str(error).replace(str(partial), f"{path} of {repository}")) from None
    os.replace(partial, target)


def _partial(target: Path) -> tuple[Path, int]:
    """Where a file is downloaded to, and how much of it is there."""
    partial = target.with_name(f"{target.name}.partial")
    return partial, partial.stat().st_size if partial.is_file() else 0


def _check_room(place: Path, needed: int) -> None:
    """Raise OSError where a disk has no room for the authors' files and for the model that comes of them."""
    folder = place
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{place} has {free / 1e6:,.1f} MB of room, and {needed / 1e6:,.1f} MB are needed for the authors' files "
            "and the model. Make room, or set BRAIN_TRANSFORMERS_CACHE to another folder."
        )


_BY_HAND = (
    "The authors may have closed or moved it: download the files yourself and pass them (brain-transformers get NAME "
    "--help)."
)


def download_error(error: Exception, repository: str, otherwise: str = _BY_HAND) -> Exception | None:
    """What a failed download means and what to do; `None` for errors that say it themselves.

    Args:
        error: of the Hub's client, its HTTP library, the network.
        repository: that was asked.
        otherwise: what to do where it has no such file, or does not exist.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return PermissionError(
            f"{repository} is open to those only whom its authors let in. Ask at {HfApi().endpoint}/{repository}, log "
            "in with `hf auth login` (or set HF_TOKEN), and call again."
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{repository} has no such revision. Leave --revision out, or name another.")
    if isinstance(error, (RepositoryNotFoundError, EntryNotFoundError)) or status in (401, 404):
        return FileNotFoundError(f"{repository} gave no file ({' '.join(str(error).split())[:200]}). {otherwise}")
    if isinstance(error, OfflineModeIsEnabled):
        return ConnectionError(f"{repository} was not asked: HF_HUB_OFFLINE is set. Unset it to reach the Hub.")
    if no_space(error) or isinstance(error, (ValueError, FileNotFoundError)) or type(error) is OSError:
        return None
    return ConnectionError(
        f"The download from {repository} stopped ({type(error).__name__}: {' '.join(str(error).split())[:200]}). What "
        "came is kept: call again to go on."
    )


# --- to a model ---


def _convert(
    name: str, entry: NamedModel, converter: Any, given: dict[str, Any], folder: Path, commits: dict[str, str]
) -> None:
    """Convert the files, see that they are the model of this name, and put it into the cache."""
    from ..conversion.convert import convert
    from ..models.conversion_base import ConversionError

    done = convert(converter, **given)
    named = name_by_size(done.model.config)
    if named != name:
        raise ConversionError(
            f"{given['checkpoint']} is not {name}: it has the sizes of {named or 'no published model'}. Pass the file "
            f"that was published ({entry.source}); for others there is `brain-transformers convert`."
        )
    lacking = {
        file.argument: f"{file.without}. To add them: {file.download or file.repository}, then brain-transformers get "
        f"{name} {file.flag} {file.name}"
        for file in entry.files
        if file.without is not None and file.argument not in given
    }
    if not done.extractor.is_fitted:
        lacking["statistics"] = (
            f"{done.extractor.describe()['scale']}. The authors published none: fit them on scans of yours "
            "(extractor.fit, or --fit-on of `brain-transformers embed`)"
        )
    fetched_all = all(file.repository in commits for file in entry.files if file.argument == "checkpoint")
    source = ", ".join([str(entry.source), *(f"revision {commit}" for commit in commits.values())])
    save_converted(done, folder, source, fetched=fetched_all, lacking=lacking, more={"commits": commits})
    print(f"{type(done.model).__name__} written to {folder}")
    for what, words in lacking.items():
        print(f"still missing, {what}: {words}")
