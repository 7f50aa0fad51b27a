"""Checks that every registered model must pass; a family brings its tiny configuration and inputs, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import brain_transformers as bt

Pooling = Callable[[torch.Tensor], torch.Tensor]
CLS_POOLINGS: dict[str, Pooling] = {
    "cls": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens[:, 1:].mean(1),
    "mean_with_cls": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens[:, 1:].amax(1),
}
TOKEN_POOLINGS: dict[str, Pooling] = {
    "first": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens.mean(1),
    "max": lambda tokens: tokens.amax(1),
}


@dataclass(frozen=True)
class ModelCase:
    """One architecture under test.

    Attributes:
        name: named tiny configuration.
        make_inputs: batch size -> keyword arguments of the body.
        attention_mask: batch size -> a mask with padding in some samples, or `None` if the family has none.
        reconstructs: whether the pretraining head is a masked autoencoder (with noise, mask ratio and a signal to
            predict); others predict states and have tests of their own for that.
        has_cls: whether a CLS token stands in front of the sequence.
        changed: a field with another value than its default, and `wrong`: one with a value that must be refused.
        poolings: choices of `config.pooling`, and what each makes of `last_hidden_state`.
    """

    name: str
    stem: str
    make_inputs: Callable[[int], dict[str, torch.Tensor]]
    attention_mask: Callable[[int], torch.Tensor] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    reconstructs: bool = True
    has_cls: bool = True
    changed: tuple[str, Any] = ("mask_ratio", 0.4)
    wrong: tuple[str, Any] = ("mask_ratio", 1.5)
    poolings: dict[str, Pooling] = field(default_factory=lambda: dict(CLS_POOLINGS))

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

    def tokens(self, last_hidden_state: torch.Tensor) -> torch.Tensor:
        """The sequence without CLS."""
        return last_hidden_state[:, 1:] if self.has_cls else last_hidden_state

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


def _jepa_inputs(batch: int) -> dict[str, torch.Tensor]:
    return {"signals": torch.randn(batch, 50, 40, generator=torch.Generator().manual_seed(2))}


def _jepa_padding(batch: int) -> torch.Tensor:
    mask = torch.ones(batch, 50, 10)
    mask[0, :, 6:] = 0
    mask[1:, :, 8:] = 0
    return mask.flatten(1)


CASES = (
    ModelCase("brainlm-tiny", "BrainLM", _brainlm_inputs, _brainlm_padding),
    ModelCase("brainlm-vit-tiny", "BrainLMViT", _vit_inputs, _vit_padding),
    ModelCase(
        "brain-jepa-tiny",
        "BrainJEPA",
        _jepa_inputs,
        _jepa_padding,
        reconstructs=False,
        has_cls=False,
        changed=("mask_rule", "published"),
        wrong=("mask_observation", [0.9, 0.2]),
        poolings=dict(TOKEN_POOLINGS),
    ),
)


def primary_output(output: Any) -> torch.Tensor:
    """The tensor that a user of each kind of model reads first."""
    for name in ("logits", "predictions", "last_hidden_state"):
        value = getattr(output, name, None)
        if value is not None:
            return value
    raise AssertionError(f"{type(output).__name__} has neither logits, predictions nor last_hidden_state")
