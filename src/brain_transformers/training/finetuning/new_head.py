"""Where a head for labels begins: a body with a new head, and the first output of one for regression."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification


def load_with_new_head(source: Any, options: Mapping[str, Any]) -> Any:
    """The body of a saved model with a head that starts from random weights, whatever head was saved with it.

    Args:
        source: folder or Hub name.
        options: fields of the configuration that the head is made by, such as
            [`brain_transformers.data.labels.Labels.head_options`].
    """
    body: Any = AutoModel.from_pretrained(source)
    config = copy.deepcopy(body.config)
    for name, value in options.items():
        setattr(config, name, value)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=body.dtype)
    setattr(model, model.base_model_prefix, body)
    model.share_config()
    return model


@torch.no_grad()
def start_head_at(model: Any, value: float) -> None:
    """Let a new head for regression begin with this output, from where labels such as ages are reached in few steps.

    Args:
        model: a `...ForSequenceClassification` model.
        value: in units of the label: the mean, which is best for squared errors, or the median, for absolute ones.
    """
    last = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)][-1]
    last.bias.fill_(value)
