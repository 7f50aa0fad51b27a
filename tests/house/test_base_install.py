"""Without the extras the package loads and runs models, and what needs an extra says which."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pytest
from fresh_process import run_python

from brain_transformers.optional import require

EXTRAS = ("accelerate", "datasets", "flash_attn", "h5py", "mamba_ssm", "matplotlib", "nibabel", "nilearn", "pandas")
EXTRAS += ("peft", "pyarrow", "scipy", "sklearn")

# Every finder of modules overlooks the extras, as if they were not installed.
WITHOUT_EXTRAS = f"""
import sys

class Overlooks:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Overlooks(finder) for finder in sys.meta_path]
"""


def test_the_base_install_loads_runs_and_saves_models(tmp_path: Path) -> None:
    result = run_python(
        WITHOUT_EXTRAS
        + """
import numpy as np
import torch
import brain_transformers as bt
from brain_transformers.hub.sharing import save_model_folder
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

assert "brainlm-13m" in bt.list_models()
for name in ("brainlm-tiny", "brainlm-vit-tiny"):
    config = bt.load_config(name)
    model = AutoModelForPreTraining.from_config(config).eval()
    rng = np.random.default_rng(0)
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(
        config, normalization="robust-scan", coordinates=rng.normal(size=(config.n_rois, 3)).tolist()
    )
    scan = rng.normal(size=(config.n_rois, 90)).astype("float32")
    inputs = extractor(scan, t_r=0.735, return_tensors="pt")
    folder = f"{sys.argv[1]}/{name}"
    save_model_folder(model, folder, extractor=extractor, card="# A model\\n")
    again = AutoFeatureExtractor.from_pretrained(folder)(scan, t_r=0.735, return_tensors="pt")
    assert inputs.keys() == again.keys() and all(torch.equal(inputs[key], again[key]) for key in inputs)
    body = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = getattr(model, model.base_model_prefix)(**inputs).pooler_output
        assert torch.equal(body(**inputs).pooler_output, expected)
    print(name, tuple(expected.shape))
""",
        tmp_path,
    )
    assert result.stdout.split("\n")[:2] == ["brainlm-tiny (1, 32)", "brainlm-vit-tiny (1, 32)"]


NEEDS_EXTRA = {
    "train": "from brain_transformers.training import MAETrainingArguments as F; F(output_dir=sys.argv[1])",
    "data": "from brain_transformers.data import load_dataset as F; F(sys.argv[1], roi_order='aal2-94')",
    "plot": "from brain_transformers.plotting import plot_loss_curve as F; F([{'loss': 1.0, 'step': 1}])",
    "eval": "from brain_transformers.evaluation import probe as F; import numpy as np; "
    "F(np.zeros((4, 2)), np.array([0, 1, 0, 1]), groups=np.arange(4))",
}


def test_what_needs_an_extra_names_it(tmp_path: Path) -> None:
    code = WITHOUT_EXTRAS + "import brain_transformers\n"
    for extra, use in NEEDS_EXTRA.items():
        code += f"""
try:
    {use}
except ImportError as error:
    print("{extra}:", str(error).replace(chr(10), " "))
"""
    output = run_python(code, tmp_path).stdout.splitlines()
    assert [line.partition(":")[0] for line in output] == list(NEEDS_EXTRA)
    for line in output:
        extra = line.partition(":")[0]
        assert f'pip install "brain-transformers[{extra}]"' in line, line


def test_commands_without_their_extra_say_so_in_one_line(tmp_path: Path) -> None:
    result = run_python(
        WITHOUT_EXTRAS
        + """
from brain_transformers.cli.main import main
sys.exit(main(["prepare", sys.argv[1], "--output", sys.argv[1] + "/out", "--roi-order", "aal2-94"]))
""",
        tmp_path,
        check=False,
    )
    assert result.returncode
    assert 'pip install "brain-transformers[data]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_an_absent_module_is_named_with_its_extra() -> None:
    with pytest.raises(ImportError, match=r'pip install "brain-transformers\[plot\]"') as caught:
        require("no_such_module.pyplot", extra="plot", purpose="drawing figures")
    assert "`no_such_module` is needed for drawing figures" in str(caught.value)


def test_a_present_module_is_returned() -> None:
    assert require("json.decoder", extra="data", purpose="a test").JSONDecoder
