"""Tokens of Harmonix-F and Harmonix-S, stage 0 of BrainHarmony, as the inputs of its fusion model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import CheckedScan, ScanProcessor, as_array, check_choice, check_size
from .rows import check_columns
from .trials import Look


@dataclass
class CheckedTokens(CheckedScan):
    """Tokens `values` (n_tokens, input_size), and which of the fMRI tokens were measured.

    Attributes:
        observed: bool (n_fmri_tokens,) or (n_tokens,), or `None` for all.
    """

    observed: np.ndarray | None = None


class BrainHarmonyFeatureExtractor(ScanProcessor):
    """Tokens of one scan and T1 volume become `inputs_embeds` `(n_scans, n_tokens, input_size)` float32.

    A row of a dataset holds them as `inputs_embeds`, flat or in two axes, with `attention_mask` over its fMRI tokens,
    or over all of them where T1 may be missing. With `dtype` bfloat16 they are its bits, as uint16.

    Args:
        n_fmri_tokens, n_t1_tokens: tokens of the two encoders, in this order.
        input_size: width of a token.
    """

    model_input_names = ["inputs_embeds", "attention_mask"]
    reads = ("inputs_embeds",)
    scan_ndim = 2
    made_by = "Write its tokens with a model that holds its encoders (brain-transformers embed --tokens)"
    modality = "encoder-tokens"
    takes_from_config = ("n_fmri_tokens", "n_t1_tokens", "input_size")

    def __init__(
        self,
        n_fmri_tokens: int = 7200,
        n_t1_tokens: int = 1200,
        input_size: int = 768,
        window: str = "first",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("window", window, ("first",))
        for name, value in (("n_fmri_tokens", n_fmri_tokens), ("n_t1_tokens", n_t1_tokens)):
            if value != 0:
                check_size(name, value, 10**6)
        self.n_fmri_tokens, self.n_t1_tokens = n_fmri_tokens, n_t1_tokens
        self.input_size, self.window = check_size("input_size", input_size, 65_536), window

    def per_scan(self, name: str, value: Any, n_scans: int) -> list[Any]:
        """As [`ScanProcessor.per_scan`]; one mask is a list of numbers of its own."""
        if name == "attention_mask" and value is not None and np.ndim(value) == 1:
            return [value] * n_scans
        return super().per_scan(name, value, n_scans)

    def unpack(self, row: Mapping[str, Any], name: str, **known: Any) -> tuple[Any, dict[str, Any]]:
        """See [`ScanProcessor.unpack`]."""
        check_columns(row, self.reads, name)
        values = row["inputs_embeds"]
        if str(row.get("dtype")) == "bfloat16":
            values = (np.asarray(values, np.uint16).astype(np.uint32) << 16).view(np.float32)
        mask = row.get("attention_mask")
        return values, {"attention_mask": mask if mask is not None and np.size(mask) else None, **known}

    def check(self, scan: Any, name: str, attention_mask: Any = None, **known: Any) -> CheckedTokens:
        """See [`ScanProcessor.check`]."""
        if known:
            raise TypeError(f"Tokens take an attention_mask and nothing else, got {', '.join(known)}.")
        values = as_array(scan)
        shape = (self.n_fmri_tokens + self.n_t1_tokens, self.input_size)
        if values.shape != shape and values.shape != (shape[0] * shape[1],):
            raise ValueError(
                f"Expected the tokens of {name} as {shape}: {self.n_fmri_tokens} of fMRI and {self.n_t1_tokens} of "
                f"T1; got {values.shape}. Make them with the encoders that this model was trained with."
            )
        if values.dtype.kind not in "fiu":
            raise ValueError(f"Expected the tokens of {name} as numbers, got {values.dtype}.")
        observed = None
        if attention_mask is not None:
            observed = as_array(attention_mask).astype(bool)
            if observed.shape not in ((self.n_fmri_tokens,), shape[:1]) or not observed.any():
                raise ValueError(
                    f"Expected attention_mask of {name} as {self.n_fmri_tokens} numbers, one a token of fMRI, or "
                    f"{shape[0]} with those of T1, some of them 1; got shape {observed.shape} with "
                    f"{int(observed.sum())}."
                )
        return CheckedTokens(name, values.reshape(shape).astype(np.float32), observed)

    def cut(self, scan: CheckedTokens, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """The tokens, once for each of `starts`."""
        return {"inputs_embeds": np.repeat(scan.values[None], len(starts), axis=0)}

    def mask(self, scan: CheckedTokens, starts: Sequence[float]) -> np.ndarray | None:
        """See [`ScanProcessor.mask`]; over the fMRI tokens, or all."""
        return None if scan.observed is None else np.repeat(scan.observed[None].astype(np.int64), len(starts), axis=0)

    def look(self, row: Mapping[str, Any], name: str) -> Look:
        """See [`ScanProcessor.look`]."""
        n_tokens = row.get("n_tokens", len(row["inputs_embeds"]))
        return Look({"n_tokens": int(n_tokens), "width": int(np.size(row["inputs_embeds"]) // max(n_tokens, 1))})

    def describe(self) -> dict[str, str]:
        """See [`ScanProcessor.describe`]."""
        return {
            "scans": "tokens of Harmonix-F and Harmonix-S (stage 0)",
            "inputs": f"inputs_embeds, {self.n_fmri_tokens} tokens of fMRI and {self.n_t1_tokens} of T1, "
            f"{self.input_size} numbers each",
            "scale": "as the encoders give them",
        }

    def refuse(self, config: Any) -> None:
        """Refuse a model of other tokens."""
        own = {name: getattr(self, name) for name in self.takes_from_config}
        wanted = {name: getattr(config, name, value) for name, value in own.items()}
        if wanted != own:
            raise ValueError(f"Expected tokens as {wanted} for this model, this extractor gives {own}.")

    def example(self, config: Any) -> tuple[str, str, str]:
        """See [`ScanProcessor.example`]."""
        return "tokens", "", "an array (n_tokens, input_size)"
