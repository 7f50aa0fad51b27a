"""CIFTI: series of parcels with their names and time step; series of vertices and voxels, and labels of these.

nilearn reads no CIFTI, nibabel does. Vertices are matched by structure and number, and voxels by where they are in mm,
never by row: files of one grid store them in other orders, and mirrored.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ROISeriesReadError
from .nifti import load_image

SUFFIX = ".ptseries.nii"
DENSE_SUFFIX = ".dtseries.nii"
_KINDS = re.compile(r"\.(p|d)[a-z]+\.nii$", re.IGNORECASE)
# A voxel of one file that is further (in voxels) from every voxel of the other's grid lies on another grid.
_OFF_GRID = 0.05
_MOST_VERTICES = 1 << 22


def is_cifti(path: str | Path) -> bool:
    """Whether a name is one of CIFTI, of any kind (`.ptseries.nii`, `.dtseries.nii`, `.dscalar.nii`, ...)."""
    return _KINDS.search(Path(path).name) is not None


def refusal(path: str | Path) -> str:
    """Why a CIFTI file is not read as it is asked for, and the way on."""
    return (
        f"{path}: expected a parcellated CIFTI series ({SUFFIX}), got another kind of CIFTI: of vertices and voxels, "
        f"or without time. Average a dense series over parcels: give a label file (.dlabel.nii) as atlas "
        f"(--atlas), or wb_command -cifti-parcellate IN{DENSE_SUFFIX} ATLAS.dlabel.nii COLUMN OUT{SUFFIX}"
    )


def _opened(path: Path, expected: tuple[str, str]) -> tuple[Any, list[Any]] | None:
    """The image and its axes, those of `expected` kinds in that order; `None` if it has others."""
    image = load_image(path)
    if len(image.shape) != 2:
        return None
    axes = [image.header.get_axis(number) for number in range(2)]
    if sorted(type(axis).__name__ for axis in axes) != sorted(expected):
        return None
    if image.shape != tuple(map(len, axes)):
        raise ROISeriesReadError(
            f"its header describes {len(axes[0])} x {len(axes[1])} values, it holds {tuple(image.shape)}."
        )
    return image, axes


def _series(path: Path, kind: str) -> tuple[Any, Any, float]:
    """The values as (n, n_timepoints), still in the file; the axis beside time; and the time step."""
    opened = _opened(path, (kind, "SeriesAxis"))
    if opened is None:
        raise ROISeriesReadError(refusal(path))
    image, axes = opened
    series, other = axes if type(axes[0]).__name__ == "SeriesAxis" else axes[::-1]
    if str(series.unit).upper() != "SECOND":
        raise ROISeriesReadError(f"expected a series in time, with seconds as its unit, got {series.unit}.")
    data = np.asanyarray(image.dataobj)
    return data.T if series is axes[0] else data, other, float(series.step)


def read_ptseries(path: Path) -> tuple[np.ndarray, tuple[str, ...], float | None]:
    """Read a parcellated series.

    Returns:
        (n_rois, n_timepoints) as stored, the names of the parcels, and the time step in seconds, if its unit is that.

    Raises:
        ROISeriesReadError: if it is another kind of CIFTI.
        Exception: of many kinds, from nibabel, if it is damaged.
    """
    data, parcels, step = _series(path, "ParcelsAxis")
    return np.asarray(data), tuple(str(name) for name in parcels.name), step


def read_dtseries(path: Path) -> tuple[np.ndarray, Any, float]:
    """A dense series.

    Returns:
        (n_greyordinates, n_timepoints), memory-mapped where the file allows it; nibabel's `BrainModelAxis`; and the
        time step in seconds.

    Raises:
        ROISeriesReadError: if it is another kind of CIFTI.
        Exception: of many kinds, from nibabel, if it is damaged.
    """
    return _series(path, "BrainModelAxis")


def read_dlabel(path: Path) -> tuple[np.ndarray, Any, list[tuple[int, str]]]:
    """A label file of CIFTI with one map.

    Returns:
        A number for each vertex and voxel, nibabel's `BrainModelAxis`, and numbers with their names, ascending.

    Raises:
        ROISeriesReadError: if it is another kind of CIFTI, or has several maps.
        Exception: of many kinds, from nibabel, if it is damaged.
    """
    opened = _opened(path, ("LabelAxis", "BrainModelAxis"))
    if opened is None:
        raise ROISeriesReadError(
            f"{path}: expected a dense label file of CIFTI (.dlabel.nii), got another kind of CIFTI as atlas."
        )
    image, axes = opened
    labels, models = axes if type(axes[0]).__name__ == "LabelAxis" else axes[::-1]
    if len(labels) != 1:
        raise ROISeriesReadError(
            f"{path}: expected one map of labels, got {len(labels)} ({', '.join(map(str, labels.name))[:200]}). Keep "
            "one: wb_command -cifti-merge ONE.dlabel.nii -cifti IN.dlabel.nii -column NAME"
        )
    table = [(int(number), str(name)) for number, (name, _) in sorted(labels.label[0].items())]
    return np.asarray(image.dataobj).reshape(-1), models, table


def match_models(atlas: Any, data: Any, wanted: np.ndarray) -> np.ndarray:
    """Where each vertex and voxel of a label file is in a series: its row there, or -1.

    Args:
        atlas, data: nibabel's `BrainModelAxis`.
        wanted: which of those of the atlas are looked for, (n,) bool.

    Raises:
        ROISeriesReadError: if a surface has another mesh, the voxels lie on another grid, or nothing is shared.
    """
    rows = np.full(len(atlas), -1, dtype=np.int64)
    number = np.arange(len(data))
    for structure, size in atlas.nvertices.items():
        mine, theirs = atlas.name == structure, data.name == structure
        if structure not in data.nvertices:
            continue
        if data.nvertices[structure] != size:
            raise ROISeriesReadError(
                f"expected {_short(structure)} with the {size} vertices of the atlas, got "
                f"{data.nvertices[structure]}: another mesh. Use the label file of that mesh, or resample one of them "
                "(wb_command -cifti-resample)."
            )
        if size > _MOST_VERTICES:
            raise ROISeriesReadError(f"{_short(structure)} claims {size:,} vertices.")
        _refuse_copies(atlas.vertex[mine], structure)
        _refuse_copies(data.vertex[theirs], structure)
        of_vertex = np.full(size, -1, dtype=np.int64)
        of_vertex[data.vertex[theirs]] = number[theirs]
        rows[mine] = of_vertex[atlas.vertex[mine]]
    mine, theirs = np.flatnonzero(atlas.volume_mask), np.flatnonzero(data.volume_mask)
    if len(mine) and len(theirs):
        _refuse_copies(atlas.voxel[mine], "the volume")
        _refuse_copies(data.voxel[theirs], "the volume")
        # mm of the one into voxels of the other: left to right or right to left, both say where it is.
        step = np.linalg.inv(data.affine) @ atlas.affine
        voxels = atlas.voxel[mine] @ step[:3, :3].T + step[:3, 3]
        near = np.rint(voxels).astype(np.int64)
        on_grid = (np.abs(voxels - near) < _OFF_GRID).all(axis=1)
        if not on_grid[wanted[mine]].any() and wanted[mine].any():
            raise ROISeriesReadError(
                "expected the voxels of the atlas and of the series on one grid, got two. Resample one of them "
                "(wb_command -cifti-resample)."
            )
        both, place = np.unique(np.vstack([data.voxel[theirs], near]), axis=0, return_inverse=True)
        of_place = np.full(len(both), -1, dtype=np.int64)
        of_place[place.reshape(-1)[: len(theirs)]] = theirs
        rows[mine] = np.where(on_grid, of_place[place.reshape(-1)[len(theirs) :]], -1)
    if not (rows[wanted] >= 0).any():
        raise ROISeriesReadError(
            f"expected structures of the atlas ({_listed(atlas.name[wanted])}), got a series of {_listed(data.name)}: "
            "nothing is in both."
        )
    return rows


def _refuse_copies(places: np.ndarray, structure: Any) -> None:
    if len(np.unique(places, axis=0)) < len(places):
        raise ROISeriesReadError(f"expected every vertex and voxel once, got some of {_short(structure)} twice.")


def _short(structure: Any) -> str:
    return str(structure).removeprefix("CIFTI_STRUCTURE_")


def _listed(structures: Sequence[Any]) -> str:
    names = sorted({_short(name) for name in np.unique(structures)})
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
