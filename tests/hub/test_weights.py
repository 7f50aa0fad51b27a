"""Weights by name, from stand-ins of their authors' places: what a user gets, and every way in which it can fail."""

import dataclasses
import functools
import json
import multiprocessing
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file
from torch.torch_version import TorchVersion
from transformers import AutoFeatureExtractor, AutoModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from authors_layouts import LAYOUTS, LICENSE, Published, publish, stand_in
from fresh_process import run_python
from hub_server import HubServer

import brain_transformers as bt
from brain_transformers import families
from brain_transformers.cli.main import main
from brain_transformers.conversion.convert import fingerprint
from brain_transformers.files import locked
from brain_transformers.hub import weights
from brain_transformers.models.conversion_base import ConversionError

get = functools.partial(bt.get, accept_license=True)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's cache, with nothing in it."""
    monkeypatch.setenv("BRAIN_TRANSFORMERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Iterator[HubServer]:
    with stand_in(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def brainlm(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Published:
    """A tiny BrainLM on the Hub, whose coordinates lie elsewhere."""
    (tmp_path / "authors").mkdir()
    return publish(LAYOUTS["brainlm"](tmp_path / "authors"), hub, monkeypatch)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_nothing_came(cache: Path) -> None:
    """No model, no part of one, and no file of the authors."""
    assert [name for name in files_in(cache) if name != "accepted_licenses.json"] == []


# --- what one gets ---


@pytest.mark.parametrize("family", LAYOUTS)
def test_convert_takes_every_family_in_one_line_and_gives_the_same_account(
    family: str, hub: HubServer, cache: Path, monkeypatch, tmp_path: Path, capsys
) -> None:
    published = publish(LAYOUTS[family](tmp_path), hub, monkeypatch)
    folder = get("made-up", **published.given)
    by_name = capsys.readouterr().out
    layout, words = published.layout, []
    for name, value in {**layout.files, **layout.options}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    output = tmp_path / "converted"
    assert main(["convert", layout.family.converter, *words, "--output", str(output), "--source", "a friend"]) == 0
    accounts = [json.loads((path / "conversion.json").read_text()) for path in (folder, output)]
    for part in ("model", "used", "dropped", "n_dropped", "refused", "parameters", "fingerprint", "options", "files"):
        assert accounts[0][part] == accounts[1][part], part
    said = capsys.readouterr().out
    for line in by_name.splitlines():
        if line.startswith(("parameters: ", "  dropped ", "fingerprint ")) or " tensors converted" in line:
            assert line in said
    card = (output / "README.md").read_text()
    assert "as published for made-up" in card
    assert f"`{accounts[1]['fingerprint']}`" in card
    assert "a friend, as stated by whoever converted it" in card


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_family_is_fetched_converted_and_known_by_its_name(
    family: str, hub: HubServer, cache: Path, monkeypatch, tmp_path: Path, capsys
) -> None:
    published = publish(LAYOUTS[family](tmp_path), hub, monkeypatch)
    folder = get("made-up", **published.given)
    said = capsys.readouterr().out
    assert folder == bt.path_of("made-up") == cache / "models" / "made-up"
    expected = published.conversion
    assert fingerprint(load_file(folder / "model.safetensors")) == expected.fingerprint
    for words in (LICENSE, "non-commercial", str(folder), expected.fingerprint, "as published for made-up"):
        assert words in said
    assert ("still missing, statistics" in said) == (not expected.extractor.is_fitted)
    account = json.loads((folder / "conversion.json").read_text())
    assert account["parameters"]["released"] == account["parameters"]["published"]
    assert account["used"] == expected.converted.report.renamed
    assert account["files"].keys() == published.layout.files.keys()
    card = (folder / "README.md").read_text()
    assert expected.fingerprint in card
    assert f"license: {LICENSE}" in card
    origin = "brought from there" if published.repository else "as stated by whoever converted it"
    assert "authors/made-up" in card
    assert origin in card
    if published.repository:
        assert f"revision {published.repository.sha}" in card

    before = len(hub.requests)
    assert get("made-up") == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, processor = bt.load("made-up")
    assert not model.training
    assert type(processor) is type(expected.extractor)
    assert type(AutoModel.from_pretrained("made-up")) is type(model)
    assert type(AutoFeatureExtractor.from_pretrained("made-up")) is type(processor)
    assert len(hub.requests) == before, "what is here is not asked for"
    assert bt.hub.contract.verify(folder).ok


def test_the_converted_folders_load_in_a_fresh_process_without_network(
    hub: HubServer, monkeypatch, tmp_path: Path
) -> None:
    folders, prints = [], []
    for family, make in LAYOUTS.items():
        (tmp_path / family).mkdir()
        published = publish(make(tmp_path / family), hub, monkeypatch, name=f"made-up-{family.replace('_', '-')}")
        folders.append(get(published.name, **published.given))
        prints.append(published.conversion.fingerprint)
    code = """
        import sys
        import brain_transformers as bt
        from brain_transformers.files import digest
        for folder in sys.argv[1:]:
            model, processor = bt.load(folder)
            assert type(model).__module__.startswith("brain_transformers.") and processor is not None
            whole = getattr(bt, model.config.architectures[0])
            print(digest(dict(whole.from_pretrained(folder).state_dict())))
    """
    result = run_python(code, *folders, environment={"HF_HOME": str(tmp_path / "home")})
    assert result.stdout.split() == prints


def test_what_a_name_means_to_the_commands(brainlm: Published, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    scans = [rng.normal(size=(12, 90)).astype(np.float32) for _ in range(6)]
    labels = [f"p{number}" for number in range(12)]
    rows = bt.dataset_from_arrays(scans, t_r=0.735, roi_order=labels, subject=[*"abcdef"], sex=[*"FMFMFM"])
    rows.save_to_disk("dataset")
    capsys.readouterr()
    embed = ["embed", "dataset", "--model", "made-up", "--fit-on", "dataset", "--output", "table.csv"]
    train = ["--dataset", "dataset", "--max-steps", "1", "--use-cpu", "--report-to", "none"]
    tune = ["finetune", "--model", "made-up", "--label", "sex", "--output", "tuned", *train]
    for words in (embed, tune):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "`brain-transformers get made-up` fetches them from their authors" in line
    assert main(["get", "made-up"]) == 2
    captured = capsys.readouterr()
    assert LICENSE in captured.out
    assert "--accept-license" in captured.err.splitlines()[-1]
    words = ["get", "made-up", "--accept-license", "--coordinates", str(brainlm.layout.files["coordinates"])]
    assert main(words) == 0
    assert main(["get", "made-up"]) == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(embed) == 0
    assert main(["verify", "made-up"]) == 0
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    listed = {row["name"]: row["fetched"] for row in json.loads(capsys.readouterr().out)}
    assert {name for name, folder in listed.items() if folder} == {"made-up"}
    capsys.readouterr()
    assert main(tune) == 0
    assert f"the published weights, in {bt.path_of('made-up')}" in capsys.readouterr().out
    card = Path("tuned/README.md").read_text()
    assert f"license: {LICENSE}" in card, "a child says what its parent says"
    assert "random" not in card
    assert main(["pretrain", "--model", "made-up", "--output", "new", *train, "--coordinates", words[-1]]) == 0
    said = capsys.readouterr().out
    assert "made-up: a new model of that name, with random weights" in said
    assert str(bt.path_of("made-up")) in said
    anew = [*tune[:5], "--output", "new-tuned", *train, "--config", "num_hidden_layers=1", "--coordinates", words[-1]]
    assert main(anew) == 0
    said = capsys.readouterr().out
    assert "the published weights" not in said
    assert "random weights" in said


# --- the licence ---


def test_a_licence_is_accepted_once_and_before_anything_is_fetched(
    brainlm: Published, hub: HubServer, cache: Path, capsys
) -> None:
    with pytest.raises(PermissionError, match="accept_license=True"):
        bt.get("made-up")
    said = capsys.readouterr().out
    assert LICENSE in said
    assert "may not be shared in changed form" in said
    assert hub.requests == []
    assert_nothing_came(cache)
    with pytest.raises(FileNotFoundError, match="get made-up"):
        bt.load("made-up")
    model, _ = bt.load("made-up", accept_license=True)
    assert type(model).__name__ == "BrainLMModel"
    shutil.rmtree(cache / "models")
    capsys.readouterr()
    bt.get("made-up")
    assert "licence:" not in capsys.readouterr().out, "it was accepted"


def test_another_licence_is_asked_for_again(brainlm: Published, hub: HubServer, cache: Path, monkeypatch) -> None:
    get("made-up")
    shutil.rmtree(cache / "models")
    publish(brainlm.layout, hub, monkeypatch, license="cc-by-nc-sa-4.0")
    with pytest.raises(PermissionError, match="cc-by-nc-sa"):
        bt.get("made-up")


# --- what can go wrong on the way ---


def repository_gone(published: Published, hub: HubServer) -> None:
    hub.repositories.clear()


def file_moved(published: Published, hub: HubServer) -> None:
    assert published.repository is not None
    published.repository.files["elsewhere.bin"] = published.repository.files.pop(published.large)


def gated(published: Published, hub: HubServer) -> None:
    assert published.repository is not None
    published.repository.gated = True


def private(published: Published, hub: HubServer) -> None:
    assert published.repository is not None
    published.repository.private = True


def of_another_model(published: Published, hub: HubServer) -> None:
    assert published.repository is not None
    config = "release/release/config.json"
    changed = {**json.loads(published.repository.files[config]), "mask_ratio": 0.5, "timepoint_patching_size": 7}
    published.repository.files[config] = json.dumps(changed).encode()


FAULTS: dict[Callable[[Published, HubServer], None], tuple[type[Exception], str]] = {
    repository_gone: (FileNotFoundError, "authors/made-up gave no file"),
    file_moved: (FileNotFoundError, r"has no release/release/pytorch_model\.bin at .* It holds elsewhere\.bin"),
    gated: (PermissionError, "hf auth login"),
    private: (FileNotFoundError, "authors/made-up gave no file"),
    of_another_model: (ConversionError, "do"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_of_a_repository_are_told_and_leave_no_model(
    fault: Callable, brainlm: Published, hub: HubServer, cache: Path
) -> None:
    fault(brainlm, hub)
    kind, words = FAULTS[fault]
    with pytest.raises(kind, match=words):
        get("made-up")
    assert not (cache / "models" / "made-up").exists()
    assert not [name for name in files_in(cache) if name.endswith(".partial")]


def test_a_damaged_file_is_refused_and_nothing_of_it_stays(brainlm: Published, cache: Path) -> None:
    assert brainlm.repository is not None
    good = brainlm.repository.files[brainlm.large]
    brainlm.repository.damaged[brainlm.large] = good[:-100] + bytes(100)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin of authors/made-up is not the published file: expected"):
        get("made-up")
    assert not [name for name in files_in(cache) if "pytorch_model" in name]
    assert not (cache / "models" / "made-up").exists()
    brainlm.repository.damaged.clear()
    assert (
        fingerprint(load_file(get("made-up") / "model.safetensors"))
        == brainlm.layout.convert("coordinates").fingerprint
    )


def test_a_file_that_is_not_the_pinned_one_is_refused(
    brainlm: Published, hub: HubServer, cache: Path, monkeypatch
) -> None:
    publish(brainlm.layout, hub, monkeypatch, pinned={"pytorch_model.bin": "0" * 64})
    with pytest.raises(ValueError, match="expected the hash 0000"):
        get("made-up")
    assert not [name for name in files_in(cache) if "pytorch_model" in name]


def test_an_interrupted_download_goes_on_where_it_stopped(
    brainlm: Published, hub: HubServer, cache: Path, monkeypatch
) -> None:
    assert brainlm.repository is not None
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    size = len(brainlm.repository.files[brainlm.large])
    brainlm.repository.cut[brainlm.large] = [5000, 0]
    with pytest.raises(ConnectionError, match="What came is kept: call again"):
        get("made-up")
    (partial,) = [cache / name for name in files_in(cache) if name.endswith(".partial")]
    assert partial.stat().st_size == 5000 < size
    assert not (cache / "models" / "made-up").exists()
    hub.ranges.clear()
    folder = get("made-up")
    assert hub.ranges == ["bytes=5000-"]
    assert fingerprint(load_file(folder / "model.safetensors")) == brainlm.layout.convert("coordinates").fingerprint
    assert not partial.exists()


def test_a_full_disk_keeps_what_came_and_the_same_call_goes_on(
    brainlm: Published, hub: HubServer, cache: Path, capsys
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code = main(["get", "made-up", "--accept-license"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the disk is full" in line
    assert "Go on with: brain-transformers get made-up" in line
    assert not (cache / "models" / "made-up").exists()
    hub.ranges.clear()
    get("made-up")
    assert len(hub.ranges) == 1, "the second call takes the rest"


def test_a_disk_without_room_is_told_before_the_download(brainlm: Published, hub: HubServer, monkeypatch) -> None:
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"0\.0 MB of room.*BRAIN_TRANSFORMERS_CACHE"):
        get("made-up")
    assert not [request for request in hub.requests if "resolve" in request]


def test_two_processes_fetch_once_and_both_have_it(brainlm: Published, hub: HubServer, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    with locked(cache / "models" / "made-up", "a test"):
        both = [context.Process(target=get, args=("made-up",)) for _ in range(2)]
        for process in both:
            process.start()
        both[0].join(1)
        assert all(process.is_alive() for process in both), "they wait for who holds it"
        assert hub.requests == []
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert hub.requests.count(f"GET /authors/made-up/resolve/{brainlm.repository.sha}/{brainlm.large}") == 1  # type: ignore[union-attr]
    bt.load("made-up")


def test_an_old_pytorch_is_named_before_anything_is_fetched(brainlm: Published, hub: HubServer, monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1"))
    with pytest.raises(ConversionError, match=r"PyTorch 2\.9\.1.*CVE-2026-24747.*2\.10 or newer"):
        get("made-up")
    assert hub.requests == []


def test_without_network_it_is_said(brainlm: Published, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        get("made-up")


# --- revisions, and what is added later ---


def test_a_revision_is_asked_for_by_name_and_kept(brainlm: Published, hub: HubServer, cache: Path) -> None:
    assert brainlm.repository is not None
    first = brainlm.repository.sha
    before = brainlm.repository.files["release/release/config.json"]
    brainlm.repository.files["release/release/config.json"] = before + b"\n"
    brainlm.repository.commits += 1
    second = brainlm.repository.sha
    with pytest.raises(FileNotFoundError, match="no such revision"):
        get("made-up", revision="0" * 40)
    for asked, commit in ((None, second), (first, first)):
        folder = get("made-up", revision=asked)
        assert json.loads((folder / "conversion.json").read_text())["commits"] == {"authors/made-up": commit}
    # What is added later belongs to the files that were taken, which are not fetched again.
    n_requests = len(hub.requests)
    get("made-up", coordinates=brainlm.layout.files["coordinates"])
    assert json.loads((folder / "conversion.json").read_text())["commits"] == {"authors/made-up": first}
    assert len(hub.requests) == n_requests


def test_a_pinned_revision_and_files_in_the_cache_of_the_hub_are_used(
    brainlm: Published, hub: HubServer, cache: Path, monkeypatch
) -> None:
    assert brainlm.repository is not None
    pinned = brainlm.repository.sha
    hf_hub_download("authors/made-up", brainlm.large, revision=pinned)
    brainlm.repository.files["release/release/config.json"] += b" "
    brainlm.repository.commits += 1
    entry = families.MODELS["made-up"]
    files = tuple(dataclasses.replace(file, revision=pinned if file.repository else None) for file in entry.files)
    monkeypatch.setitem(families.MODELS, "made-up", dataclasses.replace(entry, files=files))
    hub.requests.clear()
    folder = get("made-up")
    assert json.loads((folder / "conversion.json").read_text())["commits"] == {"authors/made-up": pinned}
    assert [request.rpartition("/")[2] for request in hub.requests if "resolve" in request] == ["config.json"]


def test_damaged_notes_of_the_cache_are_made_anew(brainlm: Published, cache: Path) -> None:
    folder = get("made-up")
    for damage in ("[]", '{"commits": 3}', "{", ""):
        (folder / "conversion.json").write_text(damage)
        (cache / "accepted_licenses.json").write_text(damage)
        get("made-up", coordinates=brainlm.layout.files["coordinates"])
        account = json.loads((folder / "conversion.json").read_text())
        assert account["files"].keys() == {"checkpoint", "coordinates"}
        assert f"authors/made-up: {LICENSE}" in json.loads((cache / "accepted_licenses.json").read_text())


def test_coordinates_are_missed_taken_later_and_held_to_their_hash(
    brainlm: Published, hub: HubServer, tmp_path: Path, capsys
) -> None:
    folder = get("made-up")
    said = capsys.readouterr().out
    assert "still missing, coordinates: the centres of parcels" in said
    assert "get made-up --coordinates" in said
    wrong = tmp_path / "wrong.dat"
    wrong.write_text(brainlm.layout.files["coordinates"].read_text().replace("10", "11"))
    with pytest.raises(ValueError, match=r"wrong\.dat is not the published file.*brain-transformers convert"):
        get("made-up", coordinates=wrong)
    with pytest.raises(FileNotFoundError, match="absent"):
        get("made-up", coordinates=tmp_path / "absent")
    with pytest.raises(ValueError, match=r"no use for centres\. Expected one of: checkpoint, coordinates"):
        get("made-up", centres=wrong)
    get("made-up", coordinates=brainlm.layout.files["coordinates"])
    assert "still missing, coordinates" not in capsys.readouterr().out
    assert fingerprint(load_file(folder / "model.safetensors")) == brainlm.conversion.fingerprint
    written = (folder / "model.safetensors").stat().st_mtime_ns
    get("made-up", coordinates=brainlm.layout.files["coordinates"])
    assert (folder / "model.safetensors").stat().st_mtime_ns == written, "it was made of them already"


def test_a_fitted_scale_is_not_lost(brainlm: Published) -> None:
    folder = get("made-up")
    _, extractor = bt.load("made-up")
    scans = [np.random.default_rng(n).normal(size=(12, 60)).astype(np.float32) for n in range(3)]
    extractor.fit(scans).save_pretrained(folder)
    with pytest.raises(FileExistsError, match="was fitted to scans since"):
        get("made-up", coordinates=brainlm.layout.files["coordinates"])
    assert bt.load("made-up")[1].is_fitted


def test_files_that_only_a_person_can_download(
    hub: HubServer, cache: Path, monkeypatch, tmp_path: Path, capsys
) -> None:
    published = publish(LAYOUTS["brain_jepa"](tmp_path), hub, monkeypatch)
    with pytest.raises(
        FileNotFoundError, match=r"curl -O https://authors\.example/gradient\.csv.*--checkpoint .*--gradient"
    ):
        get("made-up")
    with pytest.raises(FileNotFoundError, match="get made-up --checkpoint FILE --gradient FILE"):
        AutoModel.from_pretrained("made-up")
    swapped = {**published.given, "gradient": tmp_path / "other.csv"}
    swapped["gradient"].write_text(published.given["gradient"].read_text() + "\n")
    with pytest.raises(ValueError, match=r"other\.csv is not the published file"):
        get("made-up", **swapped)
    assert_nothing_came(cache)
    assert get("made-up", **published.given).is_dir()
    assert hub.requests == []


def test_a_file_of_another_model_is_not_kept_under_the_name(
    brainlm: Published, hub: HubServer, cache: Path, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "vit").mkdir()
    other = publish(LAYOUTS["brainlm_vit"](tmp_path / "vit"), hub, monkeypatch, name="made-up-image")
    with pytest.raises(ConversionError, match="is not made-up: it has the sizes of made-up-image"):
        get("made-up", checkpoint=other.layout.files["checkpoint"])
    assert not (cache / "models" / "made-up").exists()


@pytest.mark.parametrize("name", ["brain-mt-base", "brainlm-tiny"])
def test_what_was_never_published_cannot_be_fetched(name: str, cache: Path, capsys) -> None:
    with pytest.raises(FileNotFoundError, match=f"No weights of {name} were published"):
        get(name)
    assert main(["get", name]) == 2
    assert "never published" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Did you mean 'brainlm-13m'"):
        get("brainlm-13")
    with pytest.raises(ValueError, match="Did you mean 'brainlm-13m'"):
        bt.path_of("brainlm-13")
