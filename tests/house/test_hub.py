"""A model travels: to a repository and back, and with `trust_remote_code` to someone who never imports the package.

Clients run in processes of their own, since that is what they are: another user, on another day.
"""

import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python
from hub_server import HubServer
from model_checks import CASES, ModelCase

from brain_transformers.hub.sharing import save_model_folder

PUSH = """
    import sys
    from pathlib import Path
    import brain_transformers as bt
    from brain_transformers.hub.sharing import push_folder

    for folder in map(Path, sys.argv[1:]):
        print(push_folder(folder, f"lab/{folder.name}"))
    # The way of transformers itself: a model alone, without this package's helper.
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
        scan, inputs = pickle.loads(Path(given, f"{name}.pickle").read_bytes())
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
    repositories = [f"lab/{name}" for name in published.folders]
    client = published.hub.environment(tmp_path / "home")
    (tmp_path / "back").mkdir()
    run_python(LOAD, how, root, tmp_path / "back", *repositories, environment=client)
    for name, expected in published.expected.items():
        assert_same(expected, tmp_path / "back" / f"{name}.safetensors")
        for file in ("config.json", "preprocessor_config.json"):
            content = (tmp_path / "back" / name / file).read_text()
            assert f"lab/{name}--" not in content, "code must come from the saved folder"
    if how == "trust":
        saved = [tmp_path / "back" / name for name in published.folders]
        (tmp_path / "again").mkdir()
        run_python(LOAD, how, root, tmp_path / "again", *saved, environment={"HF_HOME": str(tmp_path / "new")})
        for name, expected in published.expected.items():
            assert_same(expected, tmp_path / "again" / f"{name}.safetensors")


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
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "brain_transformers":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Absent())
        from transformers import AutoConfig
        AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
        """,
        next(iter(published.folders.values())),
        environment={"HF_HOME": str(tmp_path / "home")},
        check=False,
    )
    assert failed.returncode
    assert "ImportError" in failed.stderr
    assert "brain_transformers" in failed.stderr.splitlines()[-1]


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
