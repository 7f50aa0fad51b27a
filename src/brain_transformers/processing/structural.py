"""T1-weighted volumes: a brain without skull on the 1 mm grid of MNI152, scaled and cropped for Harmonix-S.

The numbers are those of `specs/brain_harmony.md`, section 2.4: the authors cut volumes of 182 x 218 x 182 voxels (the
grid of FSL's MNI152 at 1 mm) to 167 x 212 x 160, pad these with zeros again, scale by mean and deviation of the padded
volume, background included, and take its centre.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..optional import require
from .base import CheckedScan, ScanProcessor, as_array, check_choice
from .rows import check_columns, open_stored
from .trials import Look

MNI_SHAPE = (182, 218, 182)
# From voxel indices to mm of FSL's MNI152 at 1 mm: the first axis runs from right to left.
MNI_AFFINE = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
# What the authors keep of that grid: the rest of it is taken as zero.
CROPPED_SHAPE = (167, 212, 160)
_CROPPED_FROM = (6, 2, 0)
FIELD_OF_VIEW = (160, 192, 160)
T1_DTYPES = ("uint8", "int16", "float32")

# Litres of a brain on the MNI152 grid (the template's is 1.8). A head with its skull fills more than twice that.
_SMALLEST_BRAIN, _LARGEST_BRAIN = 0.6, 2.6
# The template's centre of mass in mm, and how far that of a registered brain may be from it.
_BRAIN_CENTRE, _FARTHEST_CENTRE = np.array([0.0, -20.0, 13.0]), 20.0
_LARGEST_VOXEL = 3.0
# mm2 of the template's brain in every eighth slice of the cropped grid, from below (ours, of nilearn's template), and
# the least correlation with it. That of the template upside down is 0.61, 15 mm too high 0.82, 8 % too small 0.96.
# fmt: off
_AREAS = np.array([
    187, 2329, 4165, 7648, 9824, 13374, 17101, 19743, 20380, 20533,
    20212, 19424, 18385, 16936, 14970, 12557, 9487, 6243, 2481, 0,
])
# fmt: on
_LEAST_LIKE_IT = 0.75


@dataclass
class CheckedVolume(CheckedScan):
    """A volume on the cropped grid, `values` (167, 212, 160), with what scales it.

    Attributes:
        mean, deviation: of the padded volume; both are what the values are scaled by.
    """

    mean: float = 0.0
    deviation: float = 1.0


class T1FeatureExtractor(ScanProcessor):
    """T1 volumes become `t1_volumes` `(n_scans, 1, *image_size)` float32.

    A volume is a brain without skull, registered to MNI152. It comes as an image with an `affine` (nibabel's, or an
    array and `affine=`), which decides its orientation and grid: on another grid than MNI152 at 1 mm it is resampled
    linearly. Without an affine it must have the shape of that grid, (182, 218, 182), or of the authors' crop of it,
    (167, 212, 160), and be in its orientation. Or it comes as a row of a dataset that `prepare --kind t1` wrote: a
    file of that crop, and what scales it.

    Args:
        image_size: voxels of the output; (160, 192, 160) are 1 mm voxels. Smaller ones must divide it by one whole
            number: then blocks of so many voxels a side are averaged (for small models; ours).
        check_brain: refuse what does not look like a brain on the MNI152 grid: more volume or another centre than any
            brain has. `False` for lesions or phantoms that one knows.
    """

    model_input_names = ["t1_volumes"]
    reads = ("t1",)
    tells = ("shape", "dtype", "mean", "deviation")
    scan_ndim = 3
    modality = "t1"
    takes_from_config = ("image_size",)

    def __init__(
        self, image_size: Sequence[int] = FIELD_OF_VIEW, check_brain: bool = True, window: str = "first", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_choice("window", window, ("first",))
        self.image_size, self.check_brain, self.window = [int(size) for size in image_size], bool(check_brain), window
        _block(self.image_size)

    def scans_of(self, scans: Any) -> list[Any]:
        """As [`ScanProcessor.scans_of`]; images are scans as they are, one or several."""
        if isinstance(scans, Mapping) and np.ndim(scans.get("t1", "")) == 1:  # a slice of a dataset
            return [dict(zip(scans, values)) for values in zip(*scans.values(), strict=True)]
        images = list(scans) if isinstance(scans, (list, tuple)) else [scans]
        return images if any(hasattr(image, "dataobj") for image in images) else super().scans_of(scans)

    def per_scan(self, name: str, value: Any, n_scans: int) -> list[Any]:
        """As [`ScanProcessor.per_scan`]; one affine is a matrix of its own."""
        if name == "affine" and value is not None and np.ndim(value) == 2:
            return [value] * n_scans
        return super().per_scan(name, value, n_scans)

    def unpack(self, row: Mapping[str, Any], name: str, **known: Any) -> tuple[Any, dict[str, Any]]:
        """The file of a row, of which nothing is read yet; or the image or array that it holds itself."""
        if not isinstance(row.get("t1"), (str, Path)):
            return super().unpack(row, name, **{"affine": row.get("affine"), **known})
        check_columns(row, (*self.reads, *self.tells), name)
        return row["t1"], {**known, "stored": row}

    def check(
        self, scan: Any, name: str, affine: Any = None, stored: Mapping[str, Any] | None = None, **known: Any
    ) -> CheckedVolume:
        """The volume on the cropped MNI152 grid; see the class for what is accepted."""
        if known:
            raise TypeError(f"A T1 volume takes an affine and nothing else, got {', '.join(known)}.")
        if stored is not None:
            mean, deviation = float(stored["mean"]), float(stored["deviation"])
            return CheckedVolume(name, open_t1(stored, name), mean=mean, deviation=deviation)
        if affine is None:
            affine = getattr(scan, "affine", None)
        values = as_array(getattr(scan, "dataobj", scan))
        if values.ndim == 4 and values.shape[3] == 1:
            values = values[..., 0]
        if values.ndim != 3 or 0 in values.shape:
            raise ValueError(f"Expected {name} as one volume (x, y, z), got shape {values.shape}.")
        if values.dtype.kind not in "biuf":
            raise ValueError(f"Expected {name} as numbers, got {values.dtype}.")
        if not np.isfinite(values).all():
            raise ValueError(
                f"Expected finite numbers in {name}, got NaN or infinity. Set the background of that image to 0."
            )
        cropped = self._on_cropped_grid(values, affine, name)
        if not cropped.any():
            raise ValueError(f"Expected a brain in {name}, got zeros only where MNI152 lies. Check its affine.")
        if self.check_brain:
            _check_brain(cropped, name)
        # In float64, as the authors: float32 would be off by 5e-7 of the scale.
        n_voxels = int(np.prod(MNI_SHAPE))
        mean = float(cropped.sum()) / n_voxels
        squares = float(((cropped - mean) ** 2).sum()) + (n_voxels - cropped.size) * mean**2
        return CheckedVolume(name, cropped, mean=mean, deviation=float(np.sqrt(squares / n_voxels)))

    def _on_cropped_grid(self, values: np.ndarray, affine: Any, name: str) -> np.ndarray:
        """float64 (167, 212, 160) of any volume; zeros where it does not reach."""
        if affine is None:
            if values.shape == CROPPED_SHAPE:
                return values.astype(np.float64)
            if values.shape == MNI_SHAPE:
                return values[_CROPPED].astype(np.float64)
            raise ValueError(
                f"Expected {name} with an affine, or on the 1 mm grid of MNI152 as {MNI_SHAPE} or {CROPPED_SHAPE}, "
                f"got {values.shape}. Pass the image itself, or affine=."
            )
        matrix = _checked_affine(affine, name)
        if values.shape == MNI_SHAPE and np.allclose(matrix, MNI_AFFINE, atol=1e-3):
            return values[_CROPPED].astype(np.float64)
        ndimage = require("scipy.ndimage", extra="data", purpose="resampling T1 volumes")
        target = MNI_AFFINE.copy()
        target[:3, 3] = (MNI_AFFINE @ [*_CROPPED_FROM, 1])[:3]
        to_source = np.linalg.solve(matrix, target)
        # Turns and mirrors by whole voxels are exact this way too: linear weights there are 0 and 1.
        return ndimage.affine_transform(
            values.astype(np.float64), _rounded(to_source[:3, :3]), _rounded(to_source[:3, 3]), CROPPED_SHAPE, order=1
        )

    def cut(self, scan: CheckedVolume, starts: Sequence[float]) -> dict[str, np.ndarray]:
        """The centre of the padded, scaled volume, once for each of `starts`."""
        volume = np.zeros(FIELD_OF_VIEW, scan.values.dtype)
        source, target = [], []
        for full, size, first, wanted in zip(MNI_SHAPE, CROPPED_SHAPE, _CROPPED_FROM, FIELD_OF_VIEW):
            margin = (full - wanted) // 2 - first  # first kept voxel, counted from that of the source
            stop = min(size, margin + wanted)
            source.append(slice(max(margin, 0), stop))
            target.append(slice(max(-margin, 0), stop - margin))
        volume[tuple(target)] = scan.values[tuple(source)]
        block = _block(self.image_size)
        if block > 1:
            x, y, z = self.image_size
            volume = volume.reshape(x, block, y, block, z, block).mean(axis=(1, 3, 5), dtype=np.float64)
        volume = (volume - scan.mean) / (scan.deviation + 1e-9)
        return {"t1_volumes": np.repeat(volume.astype(np.float32)[None, None], len(starts), axis=0)}

    def contract(self) -> dict[str, Any]:
        """See [`ScanProcessor.contract`]."""
        return {**super().contract(), "space": "MNI152", "volume_size": list(self.image_size)}

    def look(self, row: Mapping[str, Any], name: str) -> Look:
        """See [`ScanProcessor.look`]; nothing but sizes."""
        shape = row["shape"] if isinstance(row["t1"], (str, Path)) else np.shape(row["t1"])
        return Look({"voxels": " x ".join(map(str, shape))})

    def describe(self) -> dict[str, str]:
        """See [`ScanProcessor.describe`]."""
        size = " x ".join(map(str, self.image_size))
        return {
            "scans": "T1-weighted volumes without skull, registered to MNI152, as nibabel images",
            "inputs": f"t1_volumes, {size} voxels of {_block(self.image_size)} mm",
            "scale": "mean 0 and deviation 1 over the volume and its background",
        }

    def refuse(self, config: Any) -> None:
        """Refuse a model of other volumes."""
        wanted = list(getattr(config, "image_size", self.image_size))
        if wanted != self.image_size:
            raise ValueError(
                f"Expected volumes of {wanted} voxels for this model, this extractor gives {self.image_size}."
            )

    def example(self, config: Any) -> tuple[str, str, str]:
        """See [`ScanProcessor.example`]."""
        return "t1_image", "", "a nibabel image"


_CROPPED = tuple(slice(first, first + size) for first, size in zip(_CROPPED_FROM, CROPPED_SHAPE))


def _block(image_size: Sequence[int]) -> int:
    """Voxels of 1 mm in one of `image_size`, along each axis."""
    factors = {view / size if size > 0 else 0 for view, size in zip(FIELD_OF_VIEW, image_size)}
    if len(image_size) != 3 or len(factors) != 1 or not (factor := factors.pop()) or factor != int(factor):
        raise ValueError(
            f"Expected image_size as {list(FIELD_OF_VIEW)} or that divided by one whole number, got {image_size}."
        )
    return int(factor)


def open_t1(row: Mapping[str, Any], name: str) -> np.ndarray:
    """The file of a volume that a row names, memory-mapped.

    Raises:
        ValueError: if it is not there, damaged, or not of that shape; the message calls the scan `name`.
    """
    if tuple(row["shape"]) != CROPPED_SHAPE:
        raise ValueError(f"Expected {CROPPED_SHAPE} voxels in {name}, got {tuple(row['shape'])}. Prepare it again.")
    return open_stored(row, "t1", T1_DTYPES, f"voxels of {name}")


def _rounded(values: np.ndarray) -> np.ndarray:
    """Whole numbers where float noise has made them nearly so, so that no plane at the edge falls outside."""
    return np.where(np.abs(values - np.rint(values)) < 1e-5, np.rint(values), values)


def _checked_affine(affine: Any, name: str) -> np.ndarray:
    """`affine` as a float64 matrix, if it can be that of an image in mm."""
    matrix = as_array(affine).astype(np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-6:
        raise ValueError(
            f"Expected the affine of {name} as an invertible 4 x 4 matrix in mm, got {np.array2string(matrix)}. The "
            "header of that image says no direction: write it again with its sform."
        )
    voxel = np.sqrt((matrix[:3, :3] ** 2).sum(axis=0))
    if voxel.max() > _LARGEST_VOXEL:
        raise ValueError(
            f"Expected a T1 volume with voxels of 1 mm in {name} (up to {_LARGEST_VOXEL:g} are resampled), got "
            f"{' x '.join(f'{size:g}' for size in voxel)} mm. Is it a functional image?"
        )
    return matrix


def _check_brain(cropped: np.ndarray, name: str) -> None:
    """Refuse what cannot be a brain without skull on the grid of MNI152."""
    background = np.median(cropped[[0, -1]])  # the outer planes, left and right of any brain
    distance = np.abs(cropped - background)
    brightest = np.quantile(distance, 0.995)
    inside = distance > 0.05 * brightest
    litres = inside.sum() * 1e-6
    on_zero = abs(background) <= 1e-3 * brightest  # resampling leaves noise
    if litres > _LARGEST_BRAIN or not on_zero:
        raise ValueError(
            f"Expected a brain without skull, on a background of 0, in {name}; got {litres:.1f} l that are not "
            f"background{'' if on_zero else f', which is {background:g}'} (a brain has 1.2 to 2). Strip the skull "
            "first, for example with FreeSurfer's mri_synthstrip, or for a volume that is in MNI152 already with "
            "brain_transformers.processing.structural.inside_mni152_brain (prepare --brain-mask template)."
        )
    centre = (MNI_AFFINE @ [*(np.array(np.nonzero(inside)).mean(axis=1) + _CROPPED_FROM), 1])[:3]
    if litres < _SMALLEST_BRAIN or np.linalg.norm(centre - _BRAIN_CENTRE) > _FARTHEST_CENTRE:
        raise ValueError(
            f"Expected a whole brain registered to MNI152 in {name}, got {litres:.1f} l around "
            f"({', '.join(f'{x:.0f}' for x in centre)}) mm; the template has 1.8 l around (0, -20, 13). Register "
            "it to MNI152 (linearly, as FLIRT does), and pass the image with its affine."
        )
    wide, long, _ = (int(np.ptp(np.flatnonzero(inside.any(axis=others)))) + 1 for others in ((1, 2), (0, 2), (0, 1)))
    alike = float(np.corrcoef(inside.sum(axis=(0, 1))[4::8], _AREAS)[0, 1])
    if wide > long or alike < _LEAST_LIKE_IT:
        wrong = f"{wide} mm wide and {long} mm long" if wide > long else "one that lies otherwise from below to above"
        raise ValueError(
            f"Expected a brain that is longer than wide and stands upright in {name}, got {wrong}. Its affine may not "
            "say how its axes lie: take it from the source, or convert that image again."
        )


def inside_mni152_brain(image: Any) -> Any:
    """`image`, registered to MNI152, with zeros outside the brain of the template (nilearn's mask, at its grid).

    The fix for a volume that has its skull still. A mask of the person's own brain (SynthStrip, FreeSurfer) is better:
    the template's cuts a little of some brains and leaves some of the meninges of others.

    Returns:
        nibabel image of the same grid.
    """
    datasets = require("nilearn.datasets", extra="data", purpose="the brain mask of MNI152")
    imaging = require("nilearn.image", extra="data", purpose="masking an image")
    image = imaging.load_img(image)
    mask = imaging.resample_to_img(
        datasets.load_mni152_brain_mask(resolution=1),
        image,
        interpolation="nearest",
        copy_header=True,
        force_resample=True,
    )
    return imaging.new_img_like(image, np.where(imaging.get_data(mask) > 0, imaging.get_data(image), 0))
