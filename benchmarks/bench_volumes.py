"""An item of 200 frames of a scan of 490 in MNI152, from a row of volumes and in the layout of BrainMT's authors.

    python benchmarks/bench_volumes.py [ENTRY ...] --threads 1

The authors keep a tensor (x, y, z, t), of which every item reads all: neighbours in memory are neighbours in time.
Files lie in the cache of the system on both sides, so what is timed is neither the disk nor the network, which would
add the 885 MB of the whole scan on one side and the 361 MB of the window on the other.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from harness import Result, compare, main

from brain_transformers import VolumeFeatureExtractor
from brain_transformers.atlases.assets import template_brain
from brain_transformers.data.volumes import write_frames
from brain_transformers.processing.volume_frames import ImageFrames, LazyScan, ScaledFrames

_SHAPE, _WINDOW, _START = (91, 109, 91, 490), 200, 130


def _item(dtype: str, brain_only: bool = False) -> Result:
    draw = np.random.default_rng(0)
    values = draw.standard_normal(_SHAPE, np.float32).astype(np.float16).astype(np.float32)
    if brain_only:
        x, y, z, _ = _SHAPE
        values[np.kron(template_brain(), np.ones((4, 4, 4)))[:y, :x, :z].transpose(1, 0, 2) < 0.5] = 0
    with tempfile.TemporaryDirectory() as folder:
        published, frames = Path(folder) / "func_data_MNI_fp16.pt", Path(folder) / "frames.npy"
        torch.save(torch.from_numpy(values.astype(np.float16)), published)
        told = write_frames(frames, ScaledFrames(ImageFrames(LazyScan(values)), "none", "zero", "the scan"), dtype)
        del values
        os.sync()  # pages that are being written out would be waited for
        row = {"volumes": str(frames), **told, "normalization": "none", "background": "zero"}
        extractor = VolumeFeatureExtractor(normalization="none", background="zero")

        def theirs() -> torch.Tensor:
            scan = torch.load(published)
            window = scan[..., _START : _START + _WINDOW]
            return torch.stack([window.permute(3, 1, 0, 2)[:, None]]).float()

        def ours() -> torch.Tensor:
            return extractor(row, start=_START, return_tensors="pt")["volumes"]

        result = compare(
            f"an item of 200 frames, {dtype}{', the brain in zeros' if brain_only else ''}",
            ("the whole tensor (x, y, z, t), then a copy of the window", theirs),
            ("frames of the window from the memory map", ours),
            repeats=5,
            target=3,
            tolerance=1e-6 if dtype == "float16" else 1e-2,
        )
        result.notes["bytes of the scan, theirs and ours"] = [published.stat().st_size, frames.stat().st_size]
        result.notes["rounding, as a share of the deviation over time"] = told["storage_error"]
        return result


ENTRIES = {
    "float16": lambda: _item("float16"),
    "float16-brain": lambda: _item("float16", brain_only=True),
    "int8": lambda: _item("int8"),
    "int8-brain": lambda: _item("int8", brain_only=True),
}

if __name__ == "__main__":
    raise SystemExit(main("volumes", ENTRIES, __doc__))
