"""Trained models in folders of their own, with the notices of the weights that they started from."""

from functools import wraps
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard

from ..evaluation import fine_tuning
from ..models.licenses import LIBRARY, license_on, licenses_in
from .model_card import trained_model_card
from .sharing import save_model_folder


def save_trained_model(
    model: Any,
    extractor: Any,
    folder: Path,
    parent: str | Path | None,
    *,
    title: str | None = None,
    keep: Path | None = None,
    **known: Any,
) -> Path:
    """Write a trained model with its extractor and card; see [`save_model_folder`] and [`trained_model_card`].

    Args:
        model, extractor, folder: of [`save_model_folder`].
        parent, known: of [`trained_model_card`].
        title: of the card; the name of the folder if left out.
        keep: a card that stays, if somebody else wrote it; otherwise the one here replaces it.
    """
    card = trained_model_card(title or folder.name, model, extractor, parent, **known)
    if not [*licenses_in(model.config.to_dict())]:
        license, name = license_on(RepoCard(card).data.to_dict())
        model.config.weights_license = name or license
    theirs = keep is not None and keep.is_file() and not _is_ours(keep)
    return save_model_folder(model, folder, extractor=extractor, card=None if theirs else card)


def _is_ours(card: Path) -> bool:
    return f"library_name: {LIBRARY}" in card.read_text(encoding="utf-8", errors="replace")


@wraps(fine_tuning.fine_tuning_protocol)
def fine_tuning_protocol(*args: Any, save_models: Any = False, **kwargs: Any) -> Any:
    # Evaluation stands below the hub and knows no cards, which saved models must not go without.
    save = save_trained_model if save_models is True else save_models
    return fine_tuning.fine_tuning_protocol(*args, save_models=save, **kwargs)
