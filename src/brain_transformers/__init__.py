"""fMRI foundation models for Hugging Face Transformers.

Importing this package registers its models with the Auto classes. Everything else is loaded when it is first used.
"""

from .cli.interrupts import end_at_once_before_the_command, is_command

if is_command():
    end_at_once_before_the_command()

from .families import PUBLIC_CLASSES, register_auto_classes
from .lazy import lazy_attributes
from .version import __version__

_EXPORTS = {
    **PUBLIC_CLASSES,
    "ROISeriesCollator": "data.collators",
    "ScanCollator": "data.collators",
    "dataset_from_arrays": "data.builders",
    "load_coordinates": "data.builders",
    "load_dataset": "data.builders",
    "read_coordinates": "data.readers",
    "read_roi_series": "data.readers",
    "read_volumes": "data.volumes",
    "synthetic_scans": "data.synthetic",
    "FineTuningTrainer": "training.finetuning.trainer",
    "FineTuningArguments": "training.finetuning.arguments",
    "JEPATrainer": "training.latent.trainer",
    "JEPATrainingArguments": "training.latent.arguments",
    "MAETrainer": "training.masked.trainer",
    "ReconstructionPlotCallback": "plotting.reconstruction_callback",
    "MAETrainingArguments": "training.masked.arguments",
    "masked_reconstruction_metrics": "training.masked.metrics",
    "SelfDistillationTrainer": "training.distillation.trainer",
    "SelfDistillationTrainingArguments": "training.distillation.arguments",
    "crop_features": "evaluation.crops",
    "embed": "hub.embed",
    "embed_dataset": "evaluation.embedding",
    "fine_tuning_protocol": "hub.trained_models",
    "linear_probe_protocol": "evaluation.linear_probe",
    "pull": "hub.pulling",
    "push_folder": "hub.sharing",
    "save_model_folder": "hub.sharing",
    "verify": "hub.contract",
    "write_contract": "hub.contract",
    "check": "hub.checking",
    "list_models": "hub.registry",
    "get": "hub.weights",
    "load": "hub.weights",
    "path_of": "hub.weights",
    "new_model": "hub.starting_models",
    "load_config": "hub.registry",
}

__all__ = ["__version__", "register_auto_classes", *_EXPORTS]

__getattr__ = lazy_attributes(__name__, _EXPORTS)


def __dir__() -> list[str]:
    return sorted(__all__)


if not is_command():  # which imports transformers when its flags have been looked at
    register_auto_classes()
