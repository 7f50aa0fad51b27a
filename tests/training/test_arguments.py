"""What the arguments of all trainings share."""

import pytest
from transformers import HfArgumentParser

from brain_transformers.training import (
    FineTuningArguments,
    JEPATrainingArguments,
    MAETrainingArguments,
    ScanTrainingArguments,
    SelfDistillationTrainingArguments,
    SemantoksFineTuningArguments,
)
from brain_transformers.training.run_settings import training_settings

SWITCHES = {
    MAETrainingArguments: ["published_parameter_groups"],
    JEPATrainingArguments: ["published_momentum"],
    SelfDistillationTrainingArguments: ["published_parameter_groups", "published_step_counting"],
    FineTuningArguments: ["published_parameter_groups", "published_step_counting"],
    SemantoksFineTuningArguments: ["published_parameter_groups", "published_step_counting"],
}


@pytest.mark.parametrize("kind", SWITCHES)
def test_published_is_all_switches_of_the_authors_accounting(kind, tmp_path):
    parser = HfArgumentParser(kind)
    assert "--published " in parser.format_help()
    assert "published_" not in parser.format_help()
    where = ["--output_dir", str(tmp_path), "--use_cpu"]
    (preset,) = parser.parse_args_into_dataclasses([*where, "--published"])
    (single,) = parser.parse_args_into_dataclasses([*where, *(f"--{name}" for name in SWITCHES[kind])])
    (plain,) = parser.parse_args_into_dataclasses(where)
    assert all(getattr(preset, name) and not getattr(plain, name) for name in SWITCHES[kind])
    # A run goes on as itself, whichever way it was asked for.
    assert training_settings(preset) == training_settings(single) != training_settings(plain)


def test_published_where_the_authors_do_nothing_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing that published would change"):
        ScanTrainingArguments(str(tmp_path), use_cpu=True, published=True)
