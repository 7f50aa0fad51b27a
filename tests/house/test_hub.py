"""A model travels: to a repository and back, and with `trust_remote_code` to someone who never imports the package.

Clients run in processes of their own, since that is what they are: another user, on another day.
"""

import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from transformers import AutoModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python
from hub_server import HubServer, Repository
from model_checks import CASES, ModelCase

from brain_transformers.files import digest
from brain_transformers.hub.sharing import save_model_folder

PUSH = """
    import sys
    from pathlib import Path
    import brain_transformers as bt
    from brain_transformers.hub.sharing import push_folder
    from transformers import AutoFeatureExtractor, AutoModelForPreTraining

    for folder in map(Path, sys.argv[1:]):
        print(push_folder(folder, f"lab/{folder.name}"))
        # The way of transformers itself: model and processor alone, without this package's helper.
        AutoModelForPreTraining.from_pretrained(folder).push_to_hub(f"lab/own-{folder.name}", private=True)
        AutoFeatureExtractor.from_pretrained(folder).push_to_hub(f"lab/own-{folder.name}")
    model = bt.BrainLMForSequenceClassification(bt.load_config("brainlm-tiny", num_labels=2))
    model.push_to_hub("lab/classifier", private=True)
"""

# Loads folders or repositories, and writes the features and predictions of scans and inputs that are given.
LOAD = """
    import pickle
    import sys
    from pathlib import Path
    import torch
    from safetensors.torch import save_file

    how, given, output, *sources = sys.argv[1:]
    TRUST = {"trust_remote_code": True} if how == "trust" else {}
    if how == "import":
        import brain_transformers
    from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

    for source in sources:
        name = source.rpartition("/")[2]
        scan, inputs = pickle.loads(Path(given, f"{name.removeprefix('own-')}.pickle").read_bytes())
        extractor = AutoFeatureExtractor.from_pretrained(source, **TRUST)
        body = AutoModel.from_pretrained(source, **TRUST).eval()
        head = AutoModelForPreTraining.from_pretrained(source, **TRUST).eval()
        for loaded in (extractor, body, head):
            assert type(loaded).__module__.startswith("brain_transformers."), type(loaded)
        batch = dict(extractor(scan, window="first", return_tensors="pt"))
        with torch.no_grad():
            batch["features"] = body(**batch).pooler_output
            torch.manual_seed(3)
            batch["loss"] = head(**inputs).loss
        save_file(batch, f"{output}/{name}.safetensors")
        head.save_pretrained(f"{output}/{name}")
        extractor.save_pretrained(f"{output}/{name}")
"""


def save_model(case: ModelCase, root: Path) -> dict[str, torch.Tensor]:
    """Save a random model with its processor, and beside it a scan and inputs; returns what a loader must compute."""
    head, processor, rows = case.with_scans("ForMaskedModeling", root)
    save_model_folder(head, root / case.name, extractor=processor, card=f"# {case.name}\n")
    inputs = case.inputs_of(head, 2)
    (root / f"{case.name}.pickle").write_bytes(pickle.dumps((rows[0], inputs)))
    batch = dict(processor(rows[0], window="first", return_tensors="pt"))
    with torch.no_grad():
        features = getattr(head, head.base_model_prefix)(**batch).pooler_output
        torch.manual_seed(3)
        return {**batch, "features": features, "loss": head(**inputs).loss}


def assert_same(expected: dict[str, torch.Tensor], path: Path) -> None:
    actual = load_file(path)
    assert expected.keys() == actual.keys()
    for key, value in expected.items():
        assert torch.equal(value, actual[key]), key


@dataclass
class Published:
    """Folders of two models, the stand-in that they were pushed to, and what they compute."""

    hub: HubServer
    folders: dict[str, Path]
    expected: dict[str, dict[str, torch.Tensor]]
    output: str


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    root = tmp_path_factory.mktemp("published")
    folders = {case.name: root / case.name for case in CASES}
    expected = {case.name: save_model(case, root) for case in CASES}
    with HubServer() as hub:
        pushed = run_python(PUSH, *folders.values(), environment=hub.environment(root / "home"))
        yield Published(hub, folders, expected, pushed.stdout)


def test_a_pushed_folder_is_private_and_complete(published: Published) -> None:
    for name, folder in published.folders.items():
        repository = published.hub.repositories[f"lab/{name}"]
        assert f"lab/{name}" in published.output
        assert repository.private, "weights whose licence forbids sharing must not become public by default"
        assert repository.lfs == {"model.safetensors"}
        assert repository.files.keys() == {path.name for path in folder.iterdir()}
        assert repository.files.keys() >= {"README.md", "config.json", "preprocessor_config.json", "modeling_shim.py"}
        for file, content in repository.files.items():
            assert (folder / file).read_bytes() == content, file


@pytest.mark.parametrize("how", ["import", "trust"])
def test_a_pushed_model_comes_back_identical(how: str, published: Published, tmp_path: Path) -> None:
    """By its name, whether or not the user imports the package; and again from the folder that it is saved to."""
    root = next(iter(published.folders.values())).parent
    repositories = [f"lab/{way}{name}" for way in ("", "own-") for name in published.folders]
    client = published.hub.environment(tmp_path / "home")
    (tmp_path / "back").mkdir()
    run_python(LOAD, how, root, tmp_path / "back", *repositories, environment=client)
    for name, expected in published.expected.items():
        assert_same(expected, tmp_path / "back" / f"{name}.safetensors")
        assert_same(expected, tmp_path / "back" / f"own-{name}.safetensors")
        for file in ("config.json", "preprocessor_config.json"):
            content = (tmp_path / "back" / name / file).read_text()
            assert f"lab/{name}--" not in content, "code must come from the saved folder"
    if how == "trust":
        saved = [tmp_path / "back" / name for name in published.folders]
        (tmp_path / "again").mkdir()
        run_python(LOAD, how, root, tmp_path / "again", *saved, environment={"HF_HOME": str(tmp_path / "new")})
        for name, expected in published.expected.items():
            assert_same(expected, tmp_path / "again" / f"{name}.safetensors")


# Loads the models of repositories, as often and in as many ways as it is told, and prints a digest of each.
PULL = """
    import sys
    import time
    import urllib.error
    import urllib.request
    from huggingface_hub import constants, snapshot_download
    import brain_transformers as bt
    from brain_transformers.files import digest
    from brain_transformers.hub.contract import verify

    time.sleep = lambda seconds: None  # before another try
    constants.DOWNLOAD_CHUNK_SIZE = 1000  # as much as is lost when a connection ends
    how, *sources = sys.argv[1:]
    for turn in how.split(","):
        if turn != "offline":
            try:
                urllib.request.urlopen(f"{constants.ENDPOINT}/turn/{turn}")
            except urllib.error.HTTPError:
                pass  # it is only to be seen in the list of requests
        for source in sources:
            name, _, revision = source.partition("@")
            options = {"revision": revision} if revision and turn != "newest" else {}
            try:
                if turn == "verify":
                    print(turn, source, *verify(snapshot_download(name)).refused)
                    continue
                model, processor = bt.load(name, **options)
                print(turn, source, digest(dict(model.state_dict())), type(processor).__name__)
            except (OSError, ValueError) as error:
                print(turn, source, type(error).__name__, *str(error).split())
"""


def pulled(printed: str) -> dict[tuple[str, str], str]:
    """(turn, source) -> what was printed of it."""
    lines = [line.split(" ", 2) for line in printed.splitlines() if line.count(" ") > 0]
    return {(turn, source): rest[0] if rest else "" for turn, source, *rest in lines if "/" in source}


def digest_of(folder: Path) -> str:
    model = AutoModel.from_pretrained(folder)
    return f"{digest(dict(model.state_dict()))} {model.config.load_processor().__name__}"


def copied(published: Published, owner: str, **state: Any) -> list[str]:
    """Every family once more, in repositories of another owner that tests may spoil; their names."""
    for name in published.folders:
        known = published.hub.repositories[f"lab/{name}"]
        fresh = Repository(True, files=dict(known.files), lfs=set(known.lfs), **state)
        published.hub.repositories[f"{owner}/{name}"] = fresh
    return [f"{owner}/{name}" for name in published.folders]


def turns(requests: list[str]) -> dict[str, set[str]]:
    """Requests of each turn of `PULL`."""
    found: dict[str, set[str]] = {}
    for request in requests:
        if "/turn/" in request:
            found[request.rpartition("/")[2]] = set()
        elif found and "agent-harnesses" not in request:
            found[next(reversed(found))].add(request)
    return found


def test_a_pull_is_kept_at_its_revision_and_without_network(published: Published, tmp_path: Path) -> None:
    """Cold, warm, an older commit by its hash beside the newest, and from the cache when there is no network."""
    sources, old, new = [], {}, {}
    for repository in copied(published, "versions"):
        name = repository.rpartition("/")[2]
        known = published.hub.repositories[repository]
        sources.append(f"{repository}@{known.sha}")
        old[sources[-1]] = digest_of(published.folders[name])
        tensors = load_file(published.folders[name] / "model.safetensors")
        shifted = {key: value + 1 if value.is_floating_point() else value for key, value in tensors.items()}
        known.files["model.safetensors"] = save(shifted, metadata={"format": "pt"})
        known.commits += 1
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.copytree(published.folders[name], tmp_path / "new" / name)
        (tmp_path / "new" / name / "model.safetensors").write_bytes(known.files["model.safetensors"])
        new[sources[-1]] = digest_of(tmp_path / "new" / name)
    client = published.hub.environment(tmp_path / "home")
    published.hub.requests.clear()
    result = pulled(run_python(PULL, "cold,warm,newest", *sources, environment=client).stdout)
    for source in sources:
        assert old[source] != new[source]
        assert result["cold", source] == result["warm", source] == old[source]
        assert result["newest", source] == new[source]
    asked = turns(published.hub.requests)
    assert {f"GET /{s.replace('@', '/resolve/')}/model.safetensors" for s in sources} <= asked["cold"]
    assert not [request for request in asked["warm"] if "/resolve/" in request], "what is here is not fetched again"
    published.hub.requests.clear()
    offline = {**client, "HF_HUB_OFFLINE": "1"}
    result = pulled(run_python(PULL, "offline", *sources, "versions/nothing", environment=offline).stdout)
    assert [result["offline", source] for source in sources] == [old[source] for source in sources]
    assert (
        "versions/nothing" in result["offline", "versions/nothing"]
        or "cached" in result["offline", "versions/nothing"]
    )
    assert published.hub.requests == []


def test_faults_on_the_way_are_told_for_every_family(published: Published, tmp_path: Path) -> None:
    groups = {owner: copied(published, owner) for owner in ("cut", "short", "wrong", "gated", "gone")}
    weights = "model.safetensors"
    for owner, names in groups.items():
        for name in names:
            repository = published.hub.repositories[name]
            content = repository.files[weights]
            if owner == "cut":
                repository.cut[weights] = [len(content) // 2]
            elif owner == "short":
                repository.damaged[weights] = content[: len(content) // 2]
            elif owner == "wrong":
                repository.damaged[weights] = content[:-64] + bytes(64)
            elif owner == "gated":
                repository.gated = True
            else:
                del published.hub.repositories[name]
    client = published.hub.environment(tmp_path / "home")
    everything = [name for names in groups.values() for name in names]
    published.hub.ranges.clear()
    result = pulled(run_python(PULL, "cold", *everything, environment=client).stdout)
    for name in published.folders:
        assert result["cold", f"cut/{name}"] == digest_of(published.folders[name]), "it goes on where it was cut"
        for owner, words in (("short", "truncated or corrupt"), ("gated", "gated"), ("gone", f"gone/{name}")):
            told = result["cold", f"{owner}/{name}"]
            assert told.startswith("OSError "), told
            assert words in told
    assert len(published.hub.ranges) == len(groups["cut"])
    blobs = [path.name for path in (tmp_path / "home" / "hub").rglob("*") if "incomplete" in path.name]
    assert blobs == []
    # Weights of the right size and wrong bits look like any others: that is what the contract is for.
    result = pulled(run_python(PULL, "verify", *groups["wrong"], *groups["cut"], environment=client).stdout)
    for name in published.folders:
        assert "fingerprint" in result["verify", f"wrong/{name}"]
        assert result["verify", f"cut/{name}"] == ""


def test_push_to_hub_of_transformers_brings_the_shim_too(published: Published) -> None:
    files = published.hub.repositories["lab/classifier"].files
    assert b"BrainLMForSequenceClassification" in files["modeling_shim.py"]
    assert b"modeling_shim.BrainLMForSequenceClassification" in files["config.json"]


def test_without_import_and_without_trust_the_error_says_what_to_do(published: Published, tmp_path: Path) -> None:
    folder = next(iter(published.folders.values()))
    failed = run_python(LOAD, "neither", folder.parent, tmp_path, folder, check=False)
    assert failed.returncode
    assert "trust_remote_code=True" in failed.stderr.splitlines()[-1]


def test_where_the_package_is_absent_the_error_names_it(published: Published, tmp_path: Path) -> None:
    failed = run_python(
        """
        import importlib.util
        import os
        import sys

        sys.path = [path for path in sys.path if not os.path.isdir(os.path.join(path, "brain_transformers"))]
        sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
        assert importlib.util.find_spec("brain_transformers") is None
        from transformers import AutoConfig
        AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
        """,
        next(iter(published.folders.values())),
        environment={"HF_HOME": str(tmp_path / "home")},
        check=False,
    )
    assert failed.returncode
    assert "ImportError" in failed.stderr
    assert "pip install brain_transformers" in failed.stderr.splitlines()[-1]


def test_unknown_and_private_repositories_are_errors(published: Published, tmp_path: Path) -> None:
    stranger = {**published.hub.environment(tmp_path / "home"), "HF_TOKEN": "hf_someone_else"}
    result = run_python(
        """
        import brain_transformers
        from transformers import AutoModel
        for repository in ("lab/nothing", "lab/brainlm-tiny"):
            try:
                AutoModel.from_pretrained(repository)
            except OSError as error:
                print(error)
        """,
        environment=stranger,
    )
    for repository in ("lab/nothing", "lab/brainlm-tiny"):
        assert repository in result.stdout
