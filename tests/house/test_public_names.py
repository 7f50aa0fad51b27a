"""Names that the documents promise are there, at the top of the package, and cost nothing until they are used."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fresh_process import run_python

import brain_transformers as bt


def test_every_public_name_can_be_imported() -> None:
    for name in bt.__all__:
        assert getattr(bt, name) is not None, name
        assert name in dir(bt)


def test_what_the_documents_name_is_there(repository: Path) -> None:
    text = "".join((repository / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md"))
    named = set(re.findall(r"`brain_transformers\.(\w+)", text)) - {"data"}
    named |= set(re.findall(r"`(\w+(?:Trainer|TrainingArguments|Collator|FeatureExtractor|_protocol))\b", text))
    named -= {"TrainingArguments", "Trainer", "AutoFeatureExtractor"}
    assert {"JEPATrainer", "MAETrainer", "SelfDistillationTrainer", "linear_probe_protocol"} <= named
    assert not {name for name in named if not hasattr(bt, name)}


def test_looking_at_the_names_imports_no_trainer() -> None:
    run_python(
        """
        import sys
        import brain_transformers as bt
        assert {"FineTuningTrainer", "JEPATrainer", "linear_probe_protocol"} <= set(dir(bt))
        assert not {"transformers.trainer", "sklearn", "datasets"} & set(sys.modules)
        """
    )
