"""Checks that every registered model must pass; a family brings its tiny configuration and inputs, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import brain_transformers as bt


@dataclass(frozen=True)
class ModelCase:
    """One architecture under test.

    Attributes:
        name: named tiny configuration.
        make_inputs: batch size -> keyword arguments of the body.
        attention_mask: batch size -> a mask with padding in some samples, or `None` if the family has none.
        classes: stems of the classes.
    """

    name: str
    stem: str
    make_inputs: Callable[[int], dict[str, torch.Tensor]]
    attention_mask: Callable[[int], torch.Tensor] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def config(self, **overrides: Any) -> Any:
        return bt.load_config(self.name, **{**self.overrides, **overrides})

    def build(self, kind: str, **overrides: Any) -> Any:
        """A model with seeded random weights, none of them at its initial zero or one."""
        torch.manual_seed(0)
        if kind == "ForSequenceClassification":
            overrides.setdefault("num_labels", 3)
        model = getattr(bt, f"{self.stem}{kind}")(self.config(**overrides))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return model.eval()

    def __str__(self) -> str:
        return self.name


KINDS = ("Model", "ForMaskedModeling", "ForSequenceClassification")


def _brainlm_inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "signals": torch.randn(batch, 12, 40, generator=generator),
        "coordinates": (30 * torch.randn(batch, 12, 3, generator=generator)).round(),
    }


def _brainlm_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 12, 4)
    mask[0, :, 2:] = 0
    mask[1:, :, 3:] = 0
    return mask.flatten(1)


def _vit_inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"signals": torch.randn(batch, 24, 40, generator=torch.Generator().manual_seed(2))}


def _vit_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 27, 27)
    mask[0, :, 13:15] = 0  # the last patch columns of a 40-timepoint window
    return mask.flatten(1)


CASES = (
    ModelCase("brainlm-tiny", "BrainLM", _brainlm_inputs, _brainlm_padding),
    ModelCase("brainlm-vit-tiny", "BrainLMViT", _vit_inputs, _vit_padding),
)


def primary_output(output: Any) -> torch.Tensor:
    """The tensor that a user of each kind of model reads first."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(output, name, None)
        if value is not None:
            return value
    raise AssertionError(f"{type(output).__name__} has neither logits nor last_hidden_state")
