"""Training: Trainers, their arguments, callbacks and schedules.

Everything is loaded when it is first used, since the Trainer of transformers takes seconds to import.
"""

from ..lazy import lazy_attributes

_EXPORTS = {
    "BlockMaskCollator": "jepa_masks",
    "CollapseMonitor": "collapse",
    "EpochSampler": "seeded_rows",
    "FineTuningArguments": "arguments",
    "FineTuningTrainer": "finetuning_trainer",
    "JEPATrainer": "jepa_trainer",
    "JEPATrainingArguments": "jepa_arguments",
    "LARS": "lars",
    "LatentPredictionSchedule": "jepa_schedules",
    "MAETrainer": "mae_trainer",
    "MAETrainingArguments": "arguments",
    "MaskedModelingCollator": "masked_collator",
    "NotFiniteError": "finite",
    "ReconstructionPlotCallback": "reconstruction_callback",
    "ReconstructionScores": "masked_metrics",
    "RowRandomness": "seeded_rows",
    "ScanTrainingArguments": "arguments",
    "SeededRows": "seeded_rows",
    "SeededTrainer": "seeded_trainer",
    "SelfDistillationTrainer": "distillation_trainer",
    "SelfDistillationTrainingArguments": "distillation_arguments",
    "SemantoksFineTuner": "semantoks_finetuning",
    "SemantoksFineTuningArguments": "semantoks_finetuning",
    "TokenCount": "masked_collator",
    "TwoViewCollator": "distillation_views",
    "decay_parameter_names": "parameter_groups",
    "last_complete_checkpoint": "checkpoints",
    "layer_decay_groups": "layer_decay",
    "masked_reconstruction_metrics": "masked_metrics",
    "masked_statistics": "masked_metrics",
    "row_generator": "seeded_rows",
    "run_settings": "run_settings",
    "scale_learning_rates": "layer_decay",
    "scaled_learning_rate": "schedules",
    "semantoks_parameter_groups": "distillation_groups",
    "stack_windows": "masked_collator",
    "target_statistics": "collapse",
    "update_target": "ema",
    "warmup_cosine_lr": "schedules",
    "warmup_half_cosine_lr": "jepa_schedules",
}

__all__ = list(_EXPORTS)

__getattr__ = lazy_attributes(__name__, _EXPORTS)
