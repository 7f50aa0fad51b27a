"""From 4-D BOLD images to ROI series, never on the wrong grid and never mirrored."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..files import no_space
from ..foreign import reading
from ..optional import require
from .cifti import is_cifti, refusal
from .errors import ROISeriesReadError
from .nifti import load_image
from .readers import ROISeries
from .sidecars import scan_t_r

# Atlases that nilearn can fetch (over the network, once) in exactly the order of their name.
_FETCHABLE = {"schaefer400-7net": 7, "schaefer400-17net": 17}
# A parcel that loses more than this share of its volume on the image's grid is cut off, not just resampled.
_LOST_SHARE = 0.5


def load_atlas(atlas: str | Path) -> Any:
    """Load a label image from a NIfTI file, or fetch one by the name of its parcel order.

    Args:
        atlas: path of a label image, or `"schaefer400-7net"` / `"schaefer400-17net"`, which nilearn downloads.

    Returns:
        The nibabel image; label k is row k-1 of the parcel order.

    Raises:
        ROISeriesReadError: if the file is missing, damaged, not 3-D, or its labels are not whole numbers from 1 up.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    if str(atlas) in _FETCHABLE and not Path(atlas).exists():
        nilearn_datasets = require("nilearn.datasets", extra="data", purpose="fetching an atlas")
        try:
            fetched = nilearn_datasets.fetch_atlas_schaefer_2018(
                n_rois=400, yeo_networks=_FETCHABLE[str(atlas)], resolution_mm=2
            )
        except Exception as error:  # what a network, a server or a proxy does wrong comes in many kinds
            if no_space(error):
                raise
            raise ROISeriesReadError(
                f"The atlas {atlas} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). Try again "
                "with a network, or give the path of its label image as atlas (--atlas), with its roi_order."
            ) from error
        atlas = Path(fetched["maps"])
    path = Path(atlas)
    if not path.is_file():
        raise ROISeriesReadError(
            f"{path}: there is no such label image. Give the path of a NIfTI file, or one of {sorted(_FETCHABLE)}."
        )
    with reading(path, "a label image", error=ROISeriesReadError):
        image = load_image(path)
        labels = np.asarray(image.dataobj)
    labels = labels[..., 0] if labels.ndim == 4 and labels.shape[3] == 1 else labels
    if labels.ndim != 3:
        raise ROISeriesReadError(f"{path}: expected a 3-D label image, got shape {labels.shape}.")
    whole = np.rint(labels)
    if not np.isfinite(labels).all() or np.abs(labels - whole).max() > 1e-3 or whole.min() < 0 or whole.max() < 1:
        raise ROISeriesReadError(f"{path}: expected whole-number labels from 1 up on a background of 0.")
    _check_space(image, path)
    return nib.Nifti1Image(whole.astype(np.int32), image.affine)


def parcellate(
    bold: Any,
    labels_img: Any,
    *,
    n_rois: int | None = None,
    t_r: float | None = None,
    confounds: Any = None,
    **masker_options: Any,
) -> ROISeries:
    """Average a 4-D BOLD image over the parcels of a label image.

    The label image is brought onto the grid of the BOLD image through both affines (nearest neighbour), so images that
    store the same space with a flipped axis give the same series. Signals are means over voxels; nothing is detrended,
    filtered or standardised unless `masker_options` say so.

    Args:
        bold: path or nibabel image, (x, y, z, n_timepoints), in the atlas's space (MNI).
        labels_img: path, known name or image; see `load_atlas`. Label k gives row k-1.
        n_rois: rows of the result; by default the largest label.
        t_r: repetition time, seconds; by default from the sidecar or the header; see `sidecars.scan_t_r`.
        confounds: passed to nilearn's masker.
        masker_options: further options of `nilearn.maskers.NiftiLabelsMasker`, such as `detrend=True`.

    Returns:
        The series, (n_rois, n_timepoints) float32; parcels without a voxel in the image are NaN, with one warning.

    Raises:
        ROISeriesReadError: if an image cannot be read, has no declared space, or most parcels lie outside of it.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    image_module = require("nilearn.image", extra="data", purpose="resampling an atlas")
    maskers = require("nilearn.maskers", extra="data", purpose="averaging over parcels")
    path = Path(bold) if isinstance(bold, (str, os.PathLike)) else None
    name = "the BOLD image" if path is None else str(path)
    if path is not None and is_cifti(path):
        raise ROISeriesReadError(refusal(path))
    with reading(name, "a NIfTI image; it may be truncated", error=ROISeriesReadError):
        image = bold if path is None else load_image(path)
        shape = image.shape
        # Reading the data here turns a cut-off file into one clear error.
        data = np.asarray(image.dataobj, dtype=np.float32)
        header_t_r = _header_t_r(image)
    if len(shape) != 4 or shape[3] < 2:
        raise ROISeriesReadError(f"{name}: expected a 4-D BOLD image (x, y, z, n_timepoints), got shape {shape}.")
    _check_space(image, name)
    atlas = load_atlas(labels_img) if isinstance(labels_img, (str, Path)) else labels_img
    counts = np.bincount(np.asarray(atlas.dataobj).astype(np.int64).ravel())
    n_rois = n_rois or len(counts) - 1
    if len(counts) - 1 > n_rois:
        raise ROISeriesReadError(
            f"{name}: the label image goes up to label {len(counts) - 1}, but the parcel order has {n_rois} parcels. "
            "Use the label image that belongs to the roi_order."
        )
    if atlas.shape != shape[:3] or not np.allclose(atlas.affine, image.affine, atol=1e-3):
        reference = nib.Nifti1Image(np.zeros(shape[:3], dtype=np.uint8), image.affine)
        try:
            resampled = image_module.resample_to_img(
                atlas, reference, interpolation="nearest", force_resample=True, copy_header=True
            )
        except ValueError as error:  # nilearn's word for images that do not touch at all
            raise ROISeriesReadError(
                f"{name}: image and atlas do not overlap. The image must be in the atlas's space (MNI): normalise it "
                f"first ({error})."
            ) from error
    else:
        resampled = atlas
    labels = np.rint(np.asarray(resampled.dataobj)).astype(np.int32)
    _check_cover(name, counts, labels, atlas.affine, image.affine, n_rois)

    masker = maskers.NiftiLabelsMasker(
        nib.Nifti1Image(labels, image.affine),
        resampling_target=None,
        standardize=masker_options.pop("standardize", None),
        reports=False,
        **masker_options,
    )
    series = masker.fit_transform(nib.Nifti1Image(data, image.affine), confounds=confounds)
    present = [int(label) for label in np.unique(labels) if label > 0]
    if series.shape[1] != len(present):
        raise ROISeriesReadError(f"{name}: expected {len(present)} parcels from the masker, got {series.shape[1]}.")
    signals = np.full((n_rois, series.shape[0]), np.nan, dtype=np.float32)
    signals[np.asarray(present) - 1] = series.T
    if len(present) < n_rois:
        absent = sorted(set(range(1, n_rois + 1)) - set(present))
        warnings.warn(
            f"{name}: {len(absent)} of {n_rois} parcels have no voxel in the image and are NaN (first labels: "
            f"{absent[:5]}).",
            UserWarning,
            stacklevel=2,
        )
    return ROISeries(signals, None, scan_t_r(path or name, given=t_r, header=header_t_r))


def _check_space(image: Any, name: Any) -> None:
    header = image.header
    codes = [int(header[code]) for code in ("sform_code", "qform_code") if code in header]
    if codes and not any(codes):
        raise ROISeriesReadError(
            f"{name}: the header declares no space (sform and qform codes are 0), so left and right cannot be told. "
            "Set the affine in the file from its source; do not guess it."
        )
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        raise ROISeriesReadError(f"{name}: the affine is not a valid one: {image.affine.tolist()}.")


def _check_cover(
    name: str, counts: np.ndarray, labels: np.ndarray, atlas_affine: np.ndarray, affine: np.ndarray, n_rois: int
) -> None:
    ratio = abs(np.linalg.det(affine[:3, :3])) / abs(np.linalg.det(atlas_affine[:3, :3]))
    found = np.bincount(labels.ravel(), minlength=n_rois + 1)[1 : n_rois + 1] * ratio
    expected = np.zeros(n_rois)
    expected[: len(counts) - 1] = counts[1:]
    lost = (found < (1 - _LOST_SHARE) * expected) & (expected > 0)
    # Small parcels vanish on coarse grids, which is resampling; half of the atlas vanishing is another space.
    if lost.sum() * 2 > (expected > 0).sum():
        raise ROISeriesReadError(
            f"{name}: {int(lost.sum())} of {int((expected > 0).sum())} parcels lie mostly outside of the image. "
            "The image must be in the atlas's space (MNI): normalise it first."
        )


def _header_t_r(image: Any) -> float | None:
    zooms = image.header.get_zooms()
    if len(zooms) < 4:
        return None
    unit = image.header.get_xyzt_units()[1] if hasattr(image.header, "get_xyzt_units") else "unknown"
    seconds = float(zooms[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    # Headers hold float32: 0.735 comes back as 0.7350000143.
    return float(np.format_float_positional(np.float32(seconds), unique=True))
