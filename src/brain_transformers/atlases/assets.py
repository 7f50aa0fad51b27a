"""The arrays that come with the package (see `assets/README.md`), each read once."""

import functools
import json
from importlib import resources
from typing import Any

import numpy as np

_FOLDER = resources.files("brain_transformers") / "assets"
# Schaefer-400 in two editions, which name the same parcels differently and hold them in other rows, and Tian S3.
_LABELS = {"schaefer400-7net": "names7", "schaefer400-17net": "names17", "tian-s3": "tian_s3_names"}
# The names of these are not ours to ship; numbers follow the label values of their atlas volumes.
_NUMBERED = {"buckner7": ("buckner7-{}", 7), "a424": ("a424-{:03d}", 424)}
ATLASES = (*_LABELS, *_NUMBERED, "aal2-94")


@functools.cache
def prior(name: str) -> np.ndarray:
    """An array of `priors_schaefer400.npz`."""
    with (_FOLDER / "priors_schaefer400.npz").open("rb") as file, np.load(file) as archive:
        return archive[name]


@functools.cache
def template_brain() -> np.ndarray:
    """Share of MNI152's brain in each cell of 8 mm of the grid at 2 mm, float32 (28, 23, 23), (y, x, z)."""
    with (_FOLDER / "mni152_brain_8mm.npz").open("rb") as file, np.load(file) as archive:
        return archive["share"].astype(np.float32) / 255


@functools.cache
def _aal2() -> dict[str, Any]:
    return json.loads((_FOLDER / "aal2_94_centroids.json").read_text(encoding="utf-8"))


@functools.cache
def atlas_labels(atlas: str) -> tuple[str, ...]:
    """Labels of one of [`ATLASES`], a row each."""
    if atlas in _LABELS:
        return tuple(str(name) for name in prior(_LABELS[atlas]))
    if atlas in _NUMBERED:
        form, count = _NUMBERED[atlas]
        return tuple(form.format(number) for number in range(1, count + 1))
    return tuple(_aal2()["names"])


def atlas_centres(atlas: str) -> np.ndarray | None:
    """Centres of the parcels of one of [`ATLASES`], (n_rois, 3), mm MNI152; `None` where we ship none."""
    if atlas in ("schaefer400-7net", "schaefer400-17net"):
        return rows_of_edition(prior("centroids_mni"), atlas)
    if atlas == "tian-s3":
        return prior("tian_s3_centroids_mni")
    return np.asarray(_aal2()["centroids_mni"], dtype=np.float32) if atlas == "aal2-94" else None


def rows_of_edition(table: np.ndarray, atlas: str) -> np.ndarray:
    """Rows of a table of Schaefer-400, which is in the order of the 7-network edition, in that of an edition."""
    return table[prior("order17_to_7")] if atlas == "schaefer400-17net" else table
