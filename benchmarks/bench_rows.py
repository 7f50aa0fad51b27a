"""Batches of random windows from a saved dataset of scans of 400 x 490, against plain numpy on the rows of `datasets`.

    python benchmarks/bench_rows.py [ENTRY ...] --threads 1

The file lies in the cache of the system. The plain side scales and cuts as ours does and checks nothing; ours looks
for frames that were not measured, outliers and constant parcels, draws each window by seed, epoch and row, and gives
the centres of the parcels too. `cpu_ms_a_scan` in the results is our time for one scan, from Arrow to the batch, of
the processor and not of the clock.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from harness import Result, compare, main

from brain_transformers import ROISeriesFeatureExtractor
from brain_transformers.data import ScanCollator, dataset_from_arrays, load_dataset
from brain_transformers.training import SeededRows

_N_SCANS, _BATCH, _ORDER = 200, 10, "schaefer400-7net"
_STATISTICS = {"median": [0.1] * 400, "iqr": [13.0] * 400, "n_scans": 1}


def _scan_zscore(signals: np.ndarray) -> tuple[Any, Any]:
    return np.float32(signals.mean(dtype=np.float64)), np.float32(signals.std(ddof=1, dtype=np.float64))


def _robust(signals: np.ndarray) -> tuple[Any, Any]:
    return signals.mean(axis=1, keepdims=True) + np.float32(0.1), np.float32(13)


def _windows(normalization: str, plain: Callable[[np.ndarray], tuple[Any, Any]]) -> Result:
    draw = np.random.default_rng(0)
    levels = 1000 + 200 * draw.standard_normal((400, 1))
    scans = [(levels + 10 * draw.standard_normal((400, 490))).astype(np.float32) for _ in range(_N_SCANS)]
    statistics = _STATISTICS if normalization == "robust" else None
    extractor = ROISeriesFeatureExtractor(
        400, 160, 16, roi_order=_ORDER, t_r=0.72, normalization=normalization, statistics=statistics
    )
    collator = ScanCollator(extractor, window="random", seed=0, return_windows=True)
    with tempfile.TemporaryDirectory() as folder:
        dataset_from_arrays(scans, roi_order=_ORDER, t_r=0.72).save_to_disk(folder)
        del scans
        dataset = load_dataset(folder)
        rows = SeededRows(dataset)
        batches = [range(low, low + _BATCH) for low in range(0, _N_SCANS, _BATCH)]
        starts = [collator([rows[row] for row in batch])["window_start"].tolist() for batch in batches]

        def theirs() -> torch.Tensor:
            first = None
            for batch, places in zip(batches, starts):
                windows = []
                for row, start in zip([dataset[row] for row in batch], places):  # as a DataLoader fetches them
                    signals = row["signals"].reshape(400, 490)
                    shift, scale = plain(signals)
                    windows.append((signals[:, start : start + 160] - shift) / scale)
                joined = torch.from_numpy(np.stack(windows))
                first = joined if first is None else first
            return first

        def ours() -> torch.Tensor:
            first = None
            for batch in batches:
                joined = collator([rows[row] for row in batch])["signals"]
                first = joined if first is None else first
            return first

        result = compare(
            f"{_N_SCANS} scans, {normalization}",
            ("rows of datasets, numpy, no checks", theirs),
            ("SeededRows and ScanCollator", ours),
            repeats=9,
            target=0.8,  # all checks cost a quarter of the time at most
            tolerance=1e-5,
        )
        start = time.process_time()
        ours()
        result.notes["cpu_ms_a_scan"] = round(1e3 * (time.process_time() - start) / _N_SCANS, 3)
    return result


ENTRIES = {
    "zscore-scan": lambda: _windows("zscore-scan", _scan_zscore),
    "robust": lambda: _windows("robust", _robust),
}

if __name__ == "__main__":
    raise SystemExit(main("rows", ENTRIES, __doc__))
