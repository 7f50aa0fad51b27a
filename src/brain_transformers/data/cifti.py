"""Parcellated CIFTI (`.ptseries.nii`): a series with the names of its parcels, its time step and the unit of it.

nilearn reads no CIFTI, nibabel does. Dense CIFTI holds vertices and voxels, which have to be averaged over parcels
first.
"""

import re
from pathlib import Path

import numpy as np

from .errors import ROISeriesReadError
from .nifti import load_image

SUFFIX = ".ptseries.nii"
_KINDS = re.compile(r"\.(p|d)[a-z]+\.nii$", re.IGNORECASE)


def is_cifti(path: str | Path) -> bool:
    """Whether a name is one of CIFTI, of any kind (`.ptseries.nii`, `.dtseries.nii`, `.dscalar.nii`, ...)."""
    return _KINDS.search(Path(path).name) is not None


def refusal(path: str | Path) -> str:
    """Why a CIFTI file that is no parcellated series is not read, and the way on."""
    return (
        f"{path}: expected a parcellated CIFTI series ({SUFFIX}), got another kind of CIFTI: of vertices and voxels, "
        "or without time. Average a dense series over parcels first: "
        f"wb_command -cifti-parcellate IN.dtseries.nii ATLAS.dlabel.nii COLUMN OUT{SUFFIX}"
    )


def read_ptseries(path: Path) -> tuple[np.ndarray, tuple[str, ...], float | None]:
    """Read a parcellated series.

    Returns:
        (n_rois, n_timepoints) as stored, the names of the parcels, and the time step in seconds, if its unit is that.

    Raises:
        ROISeriesReadError: if it is another kind of CIFTI.
        Exception: of many kinds, from nibabel, if it is damaged.
    """
    image = load_image(path)
    axes = [image.header.get_axis(number) for number in range(2)] if len(image.shape) == 2 else []
    kinds = [type(axis).__name__ for axis in axes]
    if sorted(kinds) != ["ParcelsAxis", "SeriesAxis"]:
        raise ROISeriesReadError(refusal(path))
    series, parcels = axes if kinds[0] == "SeriesAxis" else axes[::-1]
    data = np.asarray(image.dataobj)
    if data.shape != (len(axes[0]), len(axes[1])):
        raise ROISeriesReadError(
            f"its header describes {len(axes[0])} x {len(axes[1])} values, it holds {data.shape}."
        )
    if str(series.unit).upper() != "SECOND":
        raise ROISeriesReadError(f"expected a series in time, with seconds as its unit, got {series.unit}.")
    names = tuple(str(name) for name in parcels.name)
    return data.T if kinds[0] == "SeriesAxis" else data, names, float(series.step)
