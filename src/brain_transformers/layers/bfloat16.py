"""Whether bfloat16 is worth asking for on this machine."""

import functools

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)


@functools.cache
def cpu_computes_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX-512 BF16 or AMX); true where torch cannot tell."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    known = {} if ask is None else ask()
    return bool(known.get("avx512_bf16", True) or known.get("amx_bf16", False))


def warn_where_bfloat16_is_slow(device: torch.device | str) -> None:
    """Say once that bfloat16 was asked for on a processor that does not compute it."""
    if torch.device(device).type == "cpu" and not cpu_computes_bfloat16():
        logger.warning_once(
            "bfloat16 was asked for on a processor that does not compute it (no AVX-512 BF16 or AMX): its numbers "
            "are converted for each product, which was measured three times slower than float32. Use float32 or a GPU."
        )
