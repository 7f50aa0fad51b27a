"""Training: Trainers, their arguments, callbacks and schedules.

Everything is loaded when it is first used, since the Trainer of transformers takes seconds to import.
"""

import importlib
from typing import Any

_EXPORTS = {
    "EpochSampler": "seeded_rows",
    "FineTuningArguments": "arguments",
    "MAETrainer": "mae_trainer",
    "MAETrainingArguments": "arguments",
    "MaskedModelingCollator": "masked_collator",
    "ReconstructionPlotCallback": "reconstruction_callback",
    "ReconstructionScores": "masked_metrics",
    "RowRandomness": "seeded_rows",
    "SeededRows": "seeded_rows",
    "SeededTrainer": "seeded_trainer",
    "TokenCount": "masked_collator",
    "decay_parameter_names": "parameter_groups",
    "last_complete_checkpoint": "checkpoints",
    "masked_reconstruction_metrics": "masked_metrics",
    "masked_statistics": "masked_metrics",
    "row_generator": "seeded_rows",
    "scaled_learning_rate": "schedules",
    "stack_windows": "masked_collator",
    "warmup_cosine_lr": "schedules",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value
