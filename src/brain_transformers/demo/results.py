"""What the demo is told, and what its stages find."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DemoSettings:
    """Everything that decides the numbers of a run.

    The defaults were chosen on the five training subjects alone: four to train, the fifth to check.

    Args:
        seed: of weights, windows and masks.
        steps: optimizer steps.
        batch_size: windows a step.
        n_held_out: subjects kept out of training: the last ones by id.
        n_timepoints, patch_size: timepoints of a window and of a token.
        hidden_size, n_layers, n_decoder_layers, n_heads, conv_kernel_size: of the model.
        initializer_range: spread of the initial weights.
        coordinate_init_scale: of the coordinate projections (see BrainLMConfig): at 1 the millimetres drown the
            signal, and a small model with little data does not get past it; the released model had 61,038 recordings.
        mask_ratio: share of tokens to hide.
        learning_rate, warmup, weight_decay: of AdamW and its cosine schedule; `warmup` is a share of the steps.
        n_evaluations: times the held-out loss is measured while training (it decides nothing).
        synthetic: use scans that are made up, see [`synthetic_scans`], in place of real ones.
    """

    seed: int = 0
    steps: int = 1200
    batch_size: int = 8
    n_held_out: int = 2
    n_timepoints: int = 40
    patch_size: int = 20
    hidden_size: int = 64
    n_layers: int = 2
    n_decoder_layers: int = 2
    n_heads: int = 4
    conv_kernel_size: int = 9
    initializer_range: float = 0.1
    coordinate_init_scale: float = 0.02
    mask_ratio: float = 0.3
    learning_rate: float = 2e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    n_evaluations: int = 8
    synthetic: bool = False


@dataclass
class DemoResults:
    """What the stages found, filled as they finish.

    Attributes:
        settings: of the run.
        numbers: what goes to `metrics.json`.
        arrays: for the figures.
        identified: name of features -> result, for the figures.
    """

    settings: DemoSettings
    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    identified: dict[str, Any] = field(default_factory=dict)
