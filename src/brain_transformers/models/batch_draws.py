"""What a model draws the masks of a batch from, so that they are the same however the batch comes about."""

from typing import Protocol

import numpy as np
import torch


class BatchDraws(Protocol):
    """Generators that belong to the rows of a batch and to the batch, whoever computes it and whenever.

    Attributes:
        size: rows that all processes together see in this forward pass.
        slots: int `(n_rows,)`, places of the rows of this process among them: what is drawn for the whole batch, such
            as blocks of one size, is made on every process, which takes its rows of it.
        call_index: batches before this one, over all epochs.
    """

    @property
    def size(self) -> int: ...
    @property
    def slots(self) -> np.ndarray: ...
    @property
    def call_index(self) -> int: ...

    def of_rows(self, purpose: str) -> list[np.random.Generator]:
        """A generator for each row of this process; `purpose` is `"noise"` or `"mask"`."""

    def of_batch(self, purpose: str) -> np.random.Generator:
        """A generator for the batch, the same on all processes; `purpose` is `"mask"` or `"order"`."""


def draw_noise(draws: BatchDraws, n_tokens: int) -> dict[str, torch.Tensor]:
    """`noise` float32 `(batch, n_tokens)` in [0, 1), of which each row belongs to a row: the most are hidden."""
    rows = [rng.random(n_tokens, dtype=np.float32) for rng in draws.of_rows("noise")]
    return {"noise": torch.from_numpy(np.stack(rows))}
