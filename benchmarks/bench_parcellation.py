"""400 parcels of a 4-D scan on the grid of MNI152 at 2 mm, cleaned, against nilearn's masker.

    python benchmarks/bench_parcellation.py [ENTRY ...] --threads 1

Both read the same file, which lies in the cache of the system, and clean by the same function of nilearn (confounds,
filter, scrubbing). A packed file has to be inflated by both, which takes most of the time that is left.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nibabel as nib
import numpy as np
import torch
from harness import Result, compare, main
from nilearn.maskers import NiftiLabelsMasker
from scipy.spatial import cKDTree

from brain_transformers.atlases.roi_orders import roi_coordinates
from brain_transformers.data import load_atlas, parcellate

_SHAPE = (91, 109, 91)
_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
_CLEANING = {"low_pass": 0.1, "high_pass": 0.01, "standardize": "zscore_sample"}


def _scan(n_frames: int, suffix: str, cleaned: bool) -> Result:
    draw = np.random.default_rng(0)
    grid = np.indices(_SHAPE).reshape(3, -1).T
    distance, nearest = cKDTree(roi_coordinates("schaefer400-7net")).query(nib.affines.apply_affine(_AFFINE, grid))
    labels = np.where(distance < 9, nearest + 1, 0).reshape(_SHAPE).astype(np.int16)
    brain = (distance < 14).reshape(_SHAPE)
    data = np.zeros((*_SHAPE, n_frames), np.int16, order="F")
    level = 8000 + 2000 * draw.random(_SHAPE)
    for frame in range(n_frames):
        data[..., frame] = (level + 100 * draw.standard_normal(_SHAPE, np.float32)) * brain
    confounds = draw.normal(size=(n_frames, 24)).cumsum(axis=0)
    kept = np.setdiff1d(np.arange(n_frames), [3, 4, 20])
    with tempfile.TemporaryDirectory() as folder:
        path, atlas = Path(folder) / f"bold{suffix}", Path(folder) / "atlas.nii.gz"
        nib.save(nib.Nifti1Image(data, _AFFINE), path)
        nib.save(nib.Nifti1Image(labels, _AFFINE), atlas)
        loaded = load_atlas(atlas)
        options = _CLEANING if cleaned else {}
        extra = {"confounds": confounds, "sample_mask": kept} if cleaned else {}
        masker = NiftiLabelsMasker(atlas, reports=False, t_r=0.72, **{"standardize": None, **options})

        def theirs() -> torch.Tensor:
            return torch.from_numpy(masker.fit_transform(path, **extra).T.astype(np.float32))

        def ours() -> torch.Tensor:
            signals = parcellate(path, loaded, t_r=0.72, **extra, **options).signals
            return torch.from_numpy(signals[:, kept] if cleaned else signals)

        return compare(
            f"{n_frames} frames, {suffix}{', confounds, filter and scrubbing' if cleaned else ''}",
            ("nilearn's NiftiLabelsMasker", theirs),
            ("a sparse product a frame, then nilearn's cleaning", ours),
            repeats=2,
            target=10 if suffix == ".nii" else 1,
            tolerance=1e-6,
        )


ENTRIES = {
    "plain": lambda: _scan(300, ".nii", cleaned=False),
    "cleaned": lambda: _scan(300, ".nii", cleaned=True),
    "packed": lambda: _scan(100, ".nii.gz", cleaned=True),
}

if __name__ == "__main__":
    raise SystemExit(main("parcellation", ENTRIES, __doc__))
