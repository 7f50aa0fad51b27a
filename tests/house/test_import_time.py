"""`import brain_transformers` is light, and the Auto classes find our models whatever was imported first."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python


def test_import_adds_less_than_two_seconds() -> None:
    measured = []
    for _ in range(5):  # best of several: other work on the machine only ever adds time
        result = run_python(
            """
            import json, sys, time
            import transformers, torch
            begin = time.perf_counter()
            import brain_transformers
            print(json.dumps({"seconds": time.perf_counter() - begin, "modules": sorted(sys.modules)}))
            """
        )
        measured.append(json.loads(result.stdout))
        if measured[-1]["seconds"] < 2:
            break
    assert min(run["seconds"] for run in measured) < 2, [run["seconds"] for run in measured]
    heavy = {"transformers.modeling_utils", "datasets", "matplotlib", "nilearn", "sklearn", "scipy", "pandas"}
    heavy |= {"accelerate", "nibabel", "h5py", "pyarrow", "torch._dynamo"}
    assert not heavy & set(measured[-1]["modules"])
    assert not [name for name in measured[-1]["modules"] if "modeling_brainlm" in name]


ORDERS = {
    "the package first": ["import brain_transformers", "from transformers import AutoModel"],
    "AutoModel first": ["from transformers import AutoModel", "import brain_transformers"],
    "Trainer first": ["from transformers import Trainer, AutoModel", "import brain_transformers"],
    "pipeline first": ["from transformers import pipeline", "import brain_transformers"],
    "layers first": ["import transformers.modeling_layers", "import brain_transformers"],
    "AutoConfig first": ["from transformers import AutoConfig", "import brain_transformers"],
    "the model class first": ["from brain_transformers import BrainLMModel"],
}

# Each order runs in a fork that has only torch, whose import takes longest and plays no part in the order.
FORKS = """
import json, os, sys, traceback
import torch

folder, orders = sys.argv[1], json.loads(sys.argv[2])
failed = []
for name, lines in orders.items():
    child = os.fork()
    if child == 0:
        try:
            for line in lines:
                exec(line)
            from transformers import AutoFeatureExtractor, AutoModel
            from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification
            for auto, kind in (
                (AutoModel, "Model"),
                (AutoModelForPreTraining, "ForMaskedModeling"),
                (AutoModelForSequenceClassification, "ForSequenceClassification"),
            ):
                assert type(auto.from_pretrained(folder)).__name__ == "BrainLM" + kind
            assert type(AutoFeatureExtractor.from_pretrained(folder)).__name__ == "ROISeriesFeatureExtractor"
        except BaseException:
            print(name, file=sys.stderr)
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"failed: {failed}" if failed else 0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import brain_transformers as bt
    from brain_transformers.hub.sharing import save_model_folder

    config = bt.load_config("brainlm-tiny")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config, normalization="zscore")
    return save_model_folder(
        bt.BrainLMForMaskedModeling(config), tmp_path_factory.mktemp("order") / "model", extractor=extractor
    )


def test_auto_classes_resolve_in_any_import_order(folder: Path) -> None:
    run_python(FORKS, folder, json.dumps(ORDERS))


def test_a_configuration_from_another_process_resolves(tmp_path: Path) -> None:
    """Workers receive configurations pickled: none is made there by calling the class."""
    run_python(
        """
        import pickle, sys
        import brain_transformers
        with open(sys.argv[1], "wb") as file:
            pickle.dump(brain_transformers.load_config("brainlm-tiny"), file)
        """,
        tmp_path / "config.pickle",
    )
    run_python(
        """
        import pickle, sys
        with open(sys.argv[1], "rb") as file:
            config = pickle.load(file)
        from transformers import AutoModel
        assert type(AutoModel.from_config(config)).__name__ == "BrainLMModel"
        """,
        tmp_path / "config.pickle",
    )
