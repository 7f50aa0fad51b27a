"""Training: Trainers, their arguments, callbacks and schedules.

Everything is loaded when it is first used, since the Trainer of transformers takes seconds to import.
"""

from ..lazy import lazy_attributes

_EXPORTS = {
    "CollapseMonitor": "monitors",
    "EpochSampler": "seeded_rows",
    "FineTuningArguments": "finetuning.arguments",
    "FineTuningTrainer": "finetuning.trainer",
    "JEPATrainer": "latent.trainer",
    "JEPATrainingArguments": "latent.arguments",
    "LARS": "finetuning.lars",
    "LatentPredictionSchedule": "latent.schedule",
    "MAETrainer": "masked.trainer",
    "MAETrainingArguments": "masked.arguments",
    "NotFiniteError": "finite",
    "ReconstructionScores": "masked.metrics",
    "RowRandomness": ".data.row_randomness",
    "ScanTrainingArguments": "arguments",
    "SeededRows": "seeded_rows",
    "SeededTrainer": "seeded_trainer",
    "SelfDistillationTrainer": "distillation.trainer",
    "SelfDistillationTrainingArguments": "distillation.arguments",
    "SemantoksFineTuner": "finetuning.semantoks",
    "SemantoksFineTuningArguments": "finetuning.semantoks",
    "decay_parameter_names": "parameter_groups",
    "fine_tuning_groups": "parameter_groups",
    "last_complete_checkpoint": "checkpoints",
    "layer_decay_groups": "parameter_groups",
    "masked_reconstruction_metrics": "masked.metrics",
    "masked_statistics": "masked.metrics",
    "row_generator": ".data.row_randomness",
    "run_settings": "run_settings",
    "scale_learning_rates": "parameter_groups",
    "scaled_learning_rate": "schedules",
    "target_statistics": "monitors",
    "update_target": "moving_average",
    "warmup_cosine_lr": "schedules",
    "warmup_half_cosine_lr": "schedules",
}

__all__ = list(_EXPORTS)

__getattr__ = lazy_attributes(__name__, _EXPORTS)
