"""Trained models in folders of their own, with the notices of the weights that they started from."""

from functools import wraps
from pathlib import Path
from typing import Any

from ..evaluation import fine_tuning
from .model_card import trained_model_card
from .sharing import save_model_folder


def save_trained_model(
    model: Any, extractor: Any, folder: Path, parent: str | Path | None, *, synthetic: bool = False
) -> Path:
    """Write a trained model with its extractor and card; see [`save_model_folder`] and [`trained_model_card`]."""
    card = trained_model_card(folder.name, model, extractor, parent, synthetic=synthetic)
    return save_model_folder(model, folder, extractor=extractor, card=card)


@wraps(fine_tuning.fine_tuning_protocol)
def fine_tuning_protocol(*args: Any, save_models: Any = False, **kwargs: Any) -> Any:
    # Evaluation stands below the hub and knows no cards, which saved models must not go without.
    save = save_trained_model if save_models is True else save_models
    return fine_tuning.fine_tuning_protocol(*args, save_models=save, **kwargs)
