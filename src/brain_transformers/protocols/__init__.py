"""Whole published evaluations that train and score: from a dataset of scans to numbers over repeated splits.

Everything is loaded when it is first used, since the Trainer of transformers takes seconds to import.
"""

from ..lazy import lazy_attributes

_EXPORTS = {"FINETUNING_LEARNING_RATES": "fine_tuning", "fine_tuning_protocol": "fine_tuning"}

__all__ = list(_EXPORTS)

__getattr__ = lazy_attributes(__name__, _EXPORTS)
