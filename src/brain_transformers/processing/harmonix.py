"""Series for Harmonix-F: nothing is resampled in time; a scan says how many frames its patches have."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..models.configuration_base import ScanFacts
from .base import check_number
from .roi_scan import ROIScan
from .roi_series import ROISeriesFeatureExtractor
from .rows import series_facts


class HarmonixFFeatureExtractor(ROISeriesFeatureExtractor):
    """As [`ROISeriesFeatureExtractor`], with patches of as many seconds for scans of any repetition time.

    A window has as many patches as one of `n_timepoints` frames in patches of `patch_size` has; each patch of a scan
    has `patch_seconds / t_r` frames, rounded half to even, which comes out as `patch_size` `(batch,)` int64. Windows
    of one call that differ in length have zeros behind them.

    Args:
        patch_seconds: seconds of a token.
        kwargs: arguments of [`ROISeriesFeatureExtractor`]; scans are never brought to its `t_r`.
    """

    model_input_names = ["signals", "attention_mask", "patch_size"]
    takes_from_config = ("n_rois", "n_timepoints", "patch_size", "roi_order", "patch_seconds")
    own_tables = frozenset()

    def __init__(
        self,
        n_rois: int = 400,
        n_timepoints: int = 864,
        patch_size: int = 48,
        patch_seconds: float = 35.28,
        return_coordinates: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_rois, n_timepoints, patch_size, return_coordinates=return_coordinates, **kwargs)
        self.patch_seconds = check_number("patch_seconds", patch_seconds, 0.1, 10_000)
        if self.t_r is not None or self.layout != "roi_time":
            raise ValueError("Harmonix-F takes scans of any t_r as they are: leave t_r and layout out.")

    def window_for(self, t_r: float | None, name: str) -> tuple[int, int]:
        """See [`ROISeriesFeatureExtractor.window_for`].

        Raises:
            ValueError: without a repetition time, which decides what a token is.
        """
        if t_r is None:
            raise ValueError(
                f"Expected t_r of {name}, got none: a patch lasts {self.patch_seconds:g} s, whatever number of frames "
                "that is. Pass t_r in seconds (prepare --t-r)."
            )
        patch_size = max(round(self.patch_seconds / t_r), 1)
        return self.n_timepoints // self.patch_size * patch_size, patch_size

    @classmethod
    def facts(cls, rows: Any, chosen: Mapping[str, Any], what: str) -> ScanFacts:
        """Their parcels; they may differ in repetition time."""
        return series_facts(rows, what, with_t_r=False)

    def remarks(self, facts: ScanFacts) -> list[str]:
        """What becomes of the time of the scans."""
        return [f"t_r: any, a patch lasts {self.patch_seconds:g} s"]

    def cut(self, scan: ROIScan, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """`signals`, and the frames of their patches."""
        return {**super().cut(scan, starts), "patch_size": np.full(len(starts), scan.timing.patch_size, np.int64)}

    def contract(self) -> dict[str, Any]:
        """See [`ScanProcessor.contract`]."""
        return {**super().contract(), "t_r": {"seconds": None, "patch_seconds": self.patch_seconds}}

    def describe(self) -> dict[str, str]:
        """What it does to a scan, in words."""
        n_patches = self.n_timepoints // self.patch_size
        return {
            **super().describe(),
            "inputs": f"signals (batch, {self.n_rois}, {n_patches} x patch_size), patch_size (batch,)",
            "time": f"any t_r, as it is: patches of {self.patch_seconds:g} s",
            "windows": f"{n_patches} patches ({n_patches * self.patch_seconds:.0f} s), {self.window}",
        }
