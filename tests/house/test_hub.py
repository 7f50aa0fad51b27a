"""A model travels: to a repository and back, and with `trust_remote_code` to someone who never imports the package.

Clients run in processes of their own, since that is what they are: another user, on another day.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python
from hub_server import HubServer

import brain_transformers as bt
from brain_transformers.hub.sharing import save_model_folder

NAMES = ("brainlm-tiny", "brainlm-vit-tiny")

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

# Loads folders or repositories, and writes the features and predictions of a scan that every process can make.
LOAD = """
    import sys
    import numpy as np
    import torch
    from safetensors.torch import save_file

    how, output, *sources = sys.argv[1:]
    TRUST = {"trust_remote_code": True} if how == "trust" else {}
    if how == "import":
        import brain_transformers
    from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

    for number, source in enumerate(sources):
        extractor = AutoFeatureExtractor.from_pretrained(source, **TRUST)
        body = AutoModel.from_pretrained(source, **TRUST).eval()
        head = AutoModelForPreTraining.from_pretrained(source, **TRUST).eval()
        for loaded in (extractor, body, head):
            assert type(loaded).__module__.startswith("brain_transformers."), type(loaded)
        scan = np.random.default_rng(1).normal(size=(body.config.n_rois, 50)).astype("float32")
        inputs = extractor(scan, t_r=0.735, return_tensors="pt")
        with torch.no_grad():
            features = body(**inputs)
            noise = torch.arange(1.0, features.last_hidden_state.shape[1]).sin()[None]
            predictions = head(**inputs, noise=noise, mask_ratio=0.5).predictions
        tensors = {"features": features.pooler_output, "predictions": predictions.contiguous(), **inputs}
        save_file(tensors, f"{output}-{number}.safetensors")
        head.save_pretrained(f"{output}-{number}")
        extractor.save_pretrained(f"{output}-{number}")
"""


def save_tiny_model(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Save a random model with a fitted extractor; returns what a loader must compute."""
    torch.manual_seed(0)
    config = bt.load_config(name)
    stem = type(config).__name__.removesuffix("Config")
    head = getattr(bt, f"{stem}ForMaskedModeling")(config).eval()
    rng = np.random.default_rng(0)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(
        config, coordinates=rng.normal(size=(config.n_rois, 3)).round(3).tolist()
    )
    extractor.fit([rng.normal(size=(config.n_rois, 80)).astype("float32") for _ in range(3)])
    save_model_folder(head, folder, extractor=extractor, card=f"# {name}\n")
    scan = np.random.default_rng(1).normal(size=(config.n_rois, 50)).astype("float32")
    inputs = extractor(scan, t_r=0.735, return_tensors="pt")
    body = getattr(head, head.base_model_prefix)
    with torch.no_grad():
        features = body(**inputs)
        noise = torch.arange(1.0, features.last_hidden_state.shape[1]).sin()[None]
        predictions = head(**inputs, noise=noise, mask_ratio=0.5).predictions
    return {"features": features.pooler_output, "predictions": predictions, **inputs}


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
    folders = {name: root / name for name in NAMES}
    expected = {name: save_tiny_model(name, folder) for name, folder in folders.items()}
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


def test_a_pushed_model_comes_back_identical(published: Published, tmp_path: Path) -> None:
    repositories = [f"lab/{name}" for name in NAMES]
    client = published.hub.environment(tmp_path / "home")
    run_python(LOAD, "import", tmp_path / "back", *repositories, environment=client)
    for number, name in enumerate(NAMES):
        assert_same(published.expected[name], tmp_path / f"back-{number}.safetensors")


def test_trust_remote_code_loads_saves_and_loads_again(published: Published, tmp_path: Path) -> None:
    """A user who never imports the package: from the Hub, saved, and from that folder in a new process."""
    name = NAMES[0]
    client = published.hub.environment(tmp_path / "home")
    run_python(LOAD, "trust", tmp_path / "first", f"lab/{name}", environment=client)
    assert_same(published.expected[name], tmp_path / "first-0.safetensors")
    for file in ("config.json", "preprocessor_config.json"):
        assert f"lab/{name}--" not in (tmp_path / "first-0" / file).read_text(), "code must come from the saved folder"
    run_python(
        LOAD, "trust", tmp_path / "second", tmp_path / "first-0", environment={"HF_HOME": str(tmp_path / "new")}
    )
    assert_same(published.expected[name], tmp_path / "second-0.safetensors")


def test_push_to_hub_of_transformers_brings_the_shim_too(published: Published) -> None:
    files = published.hub.repositories["lab/classifier"].files
    assert b"BrainLMForSequenceClassification" in files["modeling_shim.py"]
    assert b"modeling_shim.BrainLMForSequenceClassification" in files["config.json"]


def test_without_import_and_without_trust_the_error_says_what_to_do(published: Published, tmp_path: Path) -> None:
    failed = run_python(LOAD, "neither", tmp_path / "x", published.folders[NAMES[0]], check=False)
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
        published.folders[NAMES[0]],
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
