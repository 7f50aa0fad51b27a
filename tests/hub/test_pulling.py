"""Models from the Hub: at one commit, checked, and without a network afterwards."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "house"))

from fresh_process import run_python
from hub_server import HubServer

PULL = """
    import sys
    from pathlib import Path
    import brain_transformers as bt
    from brain_transformers.cli.main import main

    root = Path(sys.argv[1])
    config = bt.load_config("brainlm-tiny")
    def push(name, **more):
        extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore")
        bt.save_model_folder(bt.BrainLMModel(config), root / name, extractor=extractor, **more)
        bt.push_folder(root / name, f"lab/{name}")

    push("model")
    first = bt.pull("lab/model")
    assert (first / "model.safetensors").read_bytes() == (root / "model" / "model.safetensors").read_bytes()
    assert not (first / "model.safetensors").is_symlink()
    push("model")  # other weights
    print("again")
    assert bt.pull("lab/model") == first == bt.pull("lab/model", first.name)
    print("updated")
    second = bt.pull("lab/model", update=True)
    assert second != first and bt.pull("lab/model") == second
    bt.BrainLMModel(config).push_to_hub("lab/plain")
    bt.pull("lab/plain")

    push("swapped")
    weights = root / "swapped" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    bt.push_folder(root / "swapped", "lab/swapped")
    for call in (["lab/swapped"], ["lab/nothing"], ["lab/model", "--revision", "v9"], ["nothing"]):
        assert main(["pull", *call]) == 2
    print(first)
"""
OFFLINE = """
    import brain_transformers as bt
    from transformers import AutoModel
    AutoModel.from_pretrained(bt.pull("lab/model"))
    try:
        bt.pull("lab/other")
    except ConnectionError as error:
        print(error)
"""


def test_a_model_is_pulled_once_at_one_commit_and_checked(tmp_path: Path) -> None:
    with HubServer() as hub:
        done = run_python(PULL, tmp_path, environment=hub.environment(tmp_path / "home"))
        before, after = done.stdout.partition("again\n")[::2]
        assert "as the contract says" in before
        assert after.partition("updated\n")[0].count(" is in ") == 2
        assert "lab/plain has no input_contract.json" in after
        for words in (
            "is not what it says: model:",
            "lab/nothing gave no file",
            "no such revision",
            "organisation/name",
        ):
            assert words in done.stderr, done.stderr
        assert not [name for name in hub.requests if name.endswith("nothing/resolve/main/config.json")]
    said = run_python(OFFLINE, environment={"HF_HOME": str(tmp_path / "home")}).stdout
    assert "lab/other was not asked: HF_HUB_OFFLINE is set" in said
