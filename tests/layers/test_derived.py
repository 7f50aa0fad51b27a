"""Kept tensors follow their weights."""

import copy
import pickle

import torch
from torch import nn

from brain_transformers.layers.derived import DerivedTensor


def twice(kept: DerivedTensor, weight: torch.Tensor, calls: list[int]) -> torch.Tensor:
    def compute() -> torch.Tensor:
        calls.append(1)
        return weight * 2

    return kept.get([weight], compute)


def test_it_is_computed_once_while_the_weight_stays() -> None:
    kept, weight, calls = DerivedTensor(), torch.ones(3), []
    twice(kept, weight, calls)
    twice(kept, weight, calls)
    assert len(calls) == 2  # gradients are on
    with torch.no_grad():
        for _ in range(3):
            twice(kept, weight, calls)
        assert len(calls) == 3
        weight.add_(1)
        assert twice(kept, weight, calls).tolist() == [4, 4, 4]
        kept.forget()
        twice(kept, weight, calls)
    assert len(calls) == 5


def test_another_weight_is_never_taken_for_the_first() -> None:
    kept = DerivedTensor()
    with torch.no_grad():
        for number in range(50):  # memory of the last one may be used again
            weight = nn.Parameter(torch.full((64,), float(number)))
            assert twice(kept, weight, []).tolist() == [2.0 * number] * 64
            del weight


def test_nothing_is_kept_of_tensors_without_versions() -> None:
    with torch.inference_mode():
        made_here = torch.ones(2)
        assert DerivedTensor().get([made_here], lambda: made_here + 1).tolist() == [2, 2]


def test_copies_and_pickles_leave_the_kept_tensor_behind() -> None:
    kept, weight = DerivedTensor(), torch.ones(3)
    with torch.no_grad():
        twice(kept, weight, [])
        for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            calls: list[int] = []
            twice(other, weight, calls)
            assert calls == [1]
