"""Models from the Hub, at one commit, checked, and kept."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from ..families import cache_folder
from ..files import listed, to_json, write_file
from ..foreign import read_json
from ..processing.base import CONTRACT_NAME
from .contract import verify
from .sharing import check_repo_id, is_model_file
from .weights import download_error

_ELSEWHERE = "Check its name; if it is private, log in with `hf auth login` or set HF_TOKEN."


def pull(repo_id: str, revision: str | None = None, *, update: bool = False, token: str | None = None) -> Path:
    """Bring a model that somebody pushed, hold it against its contract and card, and keep it; returns its folder.

    A revision is looked up once, and stands for the same commit from then on: the same call again asks no server.
    Only files of a model are brought, weights as safetensors alone; nothing of them is run.

    Args:
        repo_id: `"organisation/name"`.
        revision: branch, tag or commit; by default the newest one of the first call.
        update: look the revision up anew.
        token: a Hub token; the stored one is used if left out.

    Raises:
        ValueError: if `repo_id` is no name of a repository, or the model is not what its contract or card says.
        FileNotFoundError: if there is no such repository or revision, or it holds no model.
        PermissionError: if the Hub wants another token.
        ConnectionError: if the Hub cannot be reached, or fails; what came is kept, and the same call goes on.
    """
    check_repo_id(repo_id)
    place = cache_folder() / "pulled" / repo_id.replace("/", "--")
    record, asked = place / "revisions.json", revision or "main"
    known = read_json(record, "the commits of revisions", OSError) if record.is_file() else {}
    if not update and (commit := known.get(asked)) is not None and (place / commit).is_dir():
        print(f"{repo_id} at {commit[:8]} is in {place / commit}")
        return place / commit
    try:
        info = HfApi(token=token).model_info(repo_id, revision=asked)
        commit, files = str(info.sha), [each.rfilename for each in info.siblings or ()]
        goes = [name for name in files if is_model_file(name)]
        if not any(name.endswith(".safetensors") for name in goes):
            raise FileNotFoundError(
                f"{repo_id} at {commit[:8]} holds no model: expected config.json and model.safetensors, got "
                f"{listed(sorted(files)) or 'nothing'}."
            )
        snapshot_download(repo_id, revision=commit, local_dir=place / commit, allow_patterns=goes, token=token)
    except Exception as error:
        if (told := download_error(error, repo_id, _ELSEWHERE)) is None:
            raise
        raise told from error
    result = verify(place / commit, needs_contract=False)
    for fact in result.facts:
        print(f"as it should be: {fact}")
    if not result.ok:
        raise ValueError(
            f"{repo_id} at {commit[:8]} is not what it says: {' '.join(result.refused)} It is in {place / commit}, "
            "and was not taken. Ask whoever pushed it, or delete that folder and call again."
        )
    if not (place / commit / CONTRACT_NAME).is_file():
        print(f"{repo_id} has no {CONTRACT_NAME}: nothing says what scans it was trained for")
    write_file(record, to_json({**known, asked: commit, commit: commit}))
    print(f"{repo_id} at {commit} is in {place / commit}")
    return place / commit
