"""bfloat16 on a processor without it is told, where it is asked for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel

import brain_transformers as bt
from brain_transformers.layers import bfloat16


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(bfloat16, "logger", SimpleNamespace(warning_once=heard.append))
    return heard


def processor(monkeypatch: pytest.MonkeyPatch, **can: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bfloat16.cpu_computes_bfloat16.cache_clear()
    monkeypatch.setattr(bfloat16, "cpu_computes_bfloat16", bfloat16.cpu_computes_bfloat16.__wrapped__)


@pytest.mark.parametrize(
    ("can", "slow"),
    [
        ({"avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"avx512_bf16": False, "amx_bf16": True}, False),
        ({}, False),  # another kind of processor, of which torch says nothing
    ],
)
def test_loading_in_bfloat16_says_where_it_is_slow(
    can: dict[str, bool], slow: bool, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AutoModel.from_config(bt.load_config("brainlm-tiny")).save_pretrained(tmp_path)
    processor(monkeypatch, **can)
    AutoModel.from_pretrained(tmp_path)
    assert not said
    AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert bool(said) == slow
    bfloat16.warn_where_bfloat16_is_slow("cuda")
    assert len(said) == slow
