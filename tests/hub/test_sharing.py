"""Model folders are replaced whole, and only what belongs to a model leaves the machine."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))

from fresh_process import run_python

import brain_transformers as bt
from brain_transformers.hub.sharing import files_to_push, push_folder, save_model_folder


def tiny(**values: int) -> bt.BrainLMModel:
    torch.manual_seed(0)
    return bt.BrainLMModel(bt.load_config("brainlm-tiny", **values))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_model_goes_with_all_its_files_and_the_rest_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = bt.load_config("brainlm-tiny")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore")
    card = "---\nlibrary_name: brain-transformers\n---\n# old weights\n"
    # In pieces, as transformers writes large models.
    bt.BrainLMModel(config).save_pretrained(folder, max_shard_size="20KB")
    save_model_folder(tiny(), folder, extractor=extractor, card=card)
    bt.BrainLMModel(config).save_pretrained(folder / "checkpoint-5", max_shard_size="20KB")
    (folder / "notes.txt").write_text("mine")
    assert len(list(folder.glob("model*.safetensors"))) == 1, (
        "pieces of the earlier model would lie beside the new one"
    )
    checkpoint = contents(folder / "checkpoint-5")

    save_model_folder(tiny(num_positions=70), folder)
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "input_contract.json", "model.safetensors", "modeling_shim.py", "checkpoint-5", "notes.txt")
    }
    assert bt.BrainLMModel.from_pretrained(folder).config.num_positions == 70
    assert contents(folder / "checkpoint-5") == checkpoint
    assert {path.stat().st_mode for path in folder.glob("*[.]*s*")} == {(folder / "notes.txt").stat().st_mode}
    (folder / "README.md").write_text("# my own words\n")
    save_model_folder(tiny(), folder)
    assert (folder / "README.md").read_text() == "# my own words\n"


# Saves a model once for every step; the process dies before that change of a name in the file system.
KILLED = """
    import os, sys
    import brain_transformers as bt
    from safetensors.torch import load_file
    from brain_transformers.hub.sharing import save_model_folder

    folder, steps = sys.argv[1], map(int, sys.argv[2:])
    model = bt.BrainLMModel(bt.load_config("brainlm-tiny", num_positions=70))
    for step in steps:
        child = os.fork()
        if child == 0:
            left = step
            def dies(event, arguments):
                global left
                if event in ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "ctypes.dlopen"):
                    left -= 1
                    if left < 0:
                        os._exit(9)
            sys.addaudithook(dies)
            save_model_folder(model, folder)
            os._exit(0)
        os.waitpid(child, 0)
        config = bt.BrainLMConfig.from_pretrained(folder)
        positions = load_file(os.path.join(folder, "model.safetensors"))["embeddings.time_positions"]
        print(config.num_positions, len(positions))
"""


def test_a_killed_save_leaves_the_old_model_or_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model_folder(tiny(), folder)
    lines = run_python(KILLED, folder, *map(str, range(9)), "99").stdout.split("\n")[:-1]
    assert lines[0] == "64 64"
    assert lines[-1] == "70 70"
    assert set(lines) == {"64 64", "70 70"}
    save_model_folder(tiny(), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "what killed runs left is removed"


def test_a_model_saved_into_its_own_folder_keeps_every_number(tmp_path: Path) -> None:
    """safetensors before 0.8 wrote zeros where a file was read and written at once."""
    save_model_folder(tiny(), tmp_path / "model")
    before = load_file(tmp_path / "model" / "model.safetensors")
    before = {name: value.clone() for name, value in before.items()}
    assert sum(bool(value.any()) for value in before.values()) > 15
    model = bt.BrainLMModel.from_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    after = load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a training run, with what only its owner should have."""
    folder = tmp_path / "run"
    save_model_folder(tiny(), folder, card="# card\n")
    for name in ("optimizer.pt", "rng_state.pth", "model.safetensors", "config.json"):
        path = folder / "checkpoint-5" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("state")
    (folder / "reconstructions").mkdir()
    (folder / "reconstructions" / "step-5.png").write_text("a person's trace")
    for name in ("trainer_state.json", "training_args.bin", "predictions.csv", "metrics.json", ".env"):
        (folder / name).write_text("run")
    (tmp_path / "secret").write_text("secret")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    return folder


def test_only_the_model_is_pushed_and_the_rest_is_named(run_folder: Path, monkeypatch, capsys) -> None:
    sent: dict[str, bytes] = {}

    class Hub:
        def __init__(self, token: str | None = None):
            pass

        def create_repo(self, repo_id: str, **options: bool) -> str:
            assert options["private"]
            return f"https://hub/{repo_id}"

        def upload_folder(self, folder_path: str, **options: list[str]) -> None:
            from huggingface_hub.utils import filter_repo_objects

            names = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
            for name in filter_repo_objects(names, allow_patterns=options["allow_patterns"]):
                sent[name] = (Path(folder_path) / name).read_bytes()

    monkeypatch.setattr("brain_transformers.hub.sharing.HfApi", Hub)
    assert push_folder(run_folder, "lab/model") == "https://hub/lab/model"
    assert sent.keys() == {
        *("config.json", "input_contract.json", "model.safetensors", "modeling_shim.py", "README.md")
    }
    said = capsys.readouterr().out
    for name in ("checkpoint-5/", "reconstructions/", "training_args.bin", "predictions.csv", "LICENSE (a link)"):
        assert name in said
    assert files_to_push(run_folder)[0] == sorted(sent)


def test_a_folder_without_a_model_is_not_pushed(run_folder: Path) -> None:
    weights = run_folder / "model.safetensors"
    weights.rename(run_folder.parent / "elsewhere")
    weights.symlink_to(run_folder.parent / "elsewhere")
    for folder in (run_folder, run_folder / "absent", run_folder / "reconstructions"):
        with pytest.raises(FileNotFoundError, match=r"expected config\.json and model\.safetensors"):
            push_folder(folder, "lab/model")


@pytest.mark.parametrize("name", ["", "model", "a/b/c", "../model", "lab/my model", "lab/model.git", None, "/x"])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(run_folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="Expected organisation/name"):
        push_folder(run_folder, name)


def test_pushing_offline_or_without_a_token_says_what_to_do(run_folder: Path) -> None:
    code = """
        import sys
        from brain_transformers.hub.sharing import push_folder
        try:
            push_folder(sys.argv[1], "lab/model")
        except OSError as error:
            print(type(error).__name__, error)
    """
    home = {"HF_HOME": str(run_folder.parent / "home"), "HF_TOKEN": ""}
    for more, words in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "lab/model"),
    ):
        printed = run_python(code, run_folder, environment={**home, **more}).stdout
        (line,) = [line for line in printed.splitlines() if "Error" in line]
        assert words in line
        assert line.startswith(("ConnectionError", "PermissionError"))


def test_code_named_in_a_configuration_is_not_followed(tmp_path: Path) -> None:
    """Keys that made other libraries run code from files: CVE-2026-4372, CVE-2026-5241, and a foreign `auto_map`."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

    folder = tmp_path / "model"
    config = bt.load_config("brainlm-tiny")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore")
    save_model_folder(tiny(), folder, extractor=extractor)
    mark = tmp_path / "code-has-run"
    (folder / "modeling_shim.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    hostile = {
        "trust_remote_code": True,
        "_attn_implementation_internal": "evil/kernels",
        "_experts_implementation_internal": "evil/kernels",
        "custom_pipelines": {"x": {"impl": "evil.Evil", "pt": ["AutoModel"]}},
        "auto_map": dict.fromkeys(("AutoConfig", "AutoModel", "AutoFeatureExtractor"), "evil.Evil"),
    }
    for name in ("config.json", "preprocessor_config.json"):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **hostile}))
    for load in (
        AutoConfig.from_pretrained,
        AutoModel.from_pretrained,
        AutoFeatureExtractor.from_pretrained,
        bt.BrainLMConfig.from_pretrained,
        bt.BrainLMModel.from_pretrained,
        bt.ROISeriesFeatureExtractor.from_pretrained,
    ):
        try:
            loaded = load(folder)
        except (ValueError, OSError, ImportError) as error:  # refusing is fine, running is not
            print(type(error).__name__, error)
        else:
            assert type(loaded).__module__.startswith("brain_transformers."), load
        assert not mark.exists(), load
