"""T1 volumes as rows: the crop of MNI152 that models read, in a file that is memory-mapped."""

from pathlib import Path
from typing import Any

import numpy as np

from ..files import whole_file
from ..foreign import reading
from ..optional import require
from ..processing.base import check_choice
from ..processing.structural import T1_DTYPES, T1FeatureExtractor, inside_mni152_brain
from .cifti import is_cifti, refusal
from .errors import ROISeriesReadError
from .nifti import check_space, load_image, read_to_end
from .row_kinds import T1
from .scan_folders import ScanFolderBuilder, fingerprint, scan_file

BRAIN_MASKS = ("none", "beside", "template")


def read_t1(path: str | Path, brain_mask: str = "none") -> Any:
    """Read a T1 image; what is not inside of a brain mask becomes 0 if one is asked for.

    Args:
        path: a NIfTI image in MNI152.
        brain_mask: `"none"`, for images without skull; `"beside"`: the mask of the same name that fMRIPrep and others
            write, with `desc-brain_mask` in place of `desc-..._T1w`; `"template"`: that of MNI152, see
            [`inside_mni152_brain`].

    Returns:
        A nibabel image in memory, which [`T1FeatureExtractor`] takes.

    Raises:
        ROISeriesReadError: if a file is missing, damaged, or no volume.
    """
    check_choice("brain_mask (--brain-mask)", brain_mask, BRAIN_MASKS)
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    path = Path(path)
    values, affine = _read(path)
    if brain_mask == "beside":
        mask_path = path.with_name(_mask_name(path.name))
        if not mask_path.is_file():
            raise ROISeriesReadError(
                f"{path}: expected its brain mask {mask_path.name} beside it, got none. Use the template's "
                "(--brain-mask template), or strip the skull, for example with FreeSurfer's mri_synthstrip."
            )
        mask, mask_affine = _read(mask_path)
        if mask.shape != values.shape or not np.allclose(mask_affine, affine, atol=1e-3):
            raise ROISeriesReadError(f"{mask_path}: expected the grid of {path.name}, got another one.")
        values = np.where(mask > 0.5, values, 0)
    image = nib.Nifti1Image(values, affine)
    return inside_mni152_brain(image) if brain_mask == "template" else image


def _mask_name(name: str) -> str:
    """`sub-01_space-A_desc-brain_mask.nii.gz` of `sub-01_space-A_desc-preproc_T1w.nii.gz`."""
    stem, dot, ending = name.partition(".")
    parts = [part for part in stem.split("_")[:-1] if not part.startswith("desc-")]
    return "_".join([*parts, "desc-brain", "mask"]) + dot + ending


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values `(x, y, z)` and affine of an image; in memory, whole."""
    if is_cifti(path):
        raise ROISeriesReadError(refusal(path))
    with reading(path, "a NIfTI volume; it may be truncated", error=ROISeriesReadError):
        image = load_image(path, keep_file_open=True)
        shape, kind = image.shape, image.get_data_dtype().kind
        one_volume = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    if not one_volume or kind not in "fiu":
        raise ROISeriesReadError(
            f"{path}: expected one volume of real numbers (x, y, z), got shape {shape}, {image.get_data_dtype()}."
        )
    check_space(image, path)
    with reading(path, "a NIfTI volume; it may be truncated", error=ROISeriesReadError):
        values = np.asarray(image.dataobj)
        read_to_end(image)
    return values.reshape(shape[:3]), image.affine


def write_volume(path: Path, values: np.ndarray) -> dict[str, Any]:
    """Write a volume, whole or not at all, as a `.npy` file: as small as whole numbers allow, else as float32.

    Returns:
        Its `shape` and `dtype`.
    """
    whole = bool((values == np.rint(values)).all())
    dtype = next(
        name
        for name in T1_DTYPES
        if name == "float32" or (whole and np.iinfo(name).min <= values.min() and values.max() <= np.iinfo(name).max)
    )
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(values, dtype=dtype))
    return {"shape": list(values.shape), "dtype": dtype}


class T1FolderBuilder(ScanFolderBuilder):
    """Build an Arrow dataset from a folder of T1 images in MNI152; its rows say where their volumes are.

    Each image is checked and brought to the grid that [`T1FeatureExtractor`] reads, once. Rows hold `t1` (a `.npy`
    file of that crop, in the image's own units), `shape`, `dtype`, `mean` and `deviation` (which it is scaled by) and
    the columns of every [`ScanFolderBuilder`]. `data.saved_datasets.save_dataset` saves them with their files.

    Files that are there already, of the same image and with the same options, are not written again.

    Args:
        folder: where the images are, at any depth; their names end in `T1w` (BIDS) or fit `pattern`.
        volumes_folder: where the files of volumes go.
        brain_mask: see [`read_t1`].
        check_brain: see [`T1FeatureExtractor`].
        options: of [`ScanFolderBuilder`].

    Raises:
        ValueError: for options that do not exist, and what [`ScanFolderBuilder`] says.
    """

    kind = T1

    def __init__(
        self,
        folder: str | Path,
        *,
        volumes_folder: str | Path,
        brain_mask: str = "none",
        check_brain: bool = True,
        **options: Any,
    ) -> None:
        check_choice("brain_mask (--brain-mask)", brain_mask, BRAIN_MASKS)
        super().__init__(
            folder,
            images="T1w",
            options={
                "brain_mask": brain_mask,
                "check_brain": bool(check_brain),
                "volumes_folder": str(Path(volumes_folder).resolve()),
            },
            **options,
        )

    def read(self, path: Path) -> dict[str, Any]:
        """Where the volume of an image is, and what it is; writes it if it is not there yet."""
        how = self.config.options
        read_too = [path.with_name(_mask_name(path.name))] if how["brain_mask"] == "beside" else []
        made_of = [path.relative_to(self.config.folder).as_posix(), how["brain_mask"], how["check_brain"]]
        made_of.append(fingerprint(Path(self.config.folder), [path, *read_too]))
        volume, said = scan_file(how["volumes_folder"], made_of, lambda volume: self._write(path, volume))
        return {"t1": str(volume), **said}

    def open(self, path: Path) -> dict[str, Any]:
        """See [`ScanFolderBuilder.open`]: the image itself, in memory."""
        return {"t1": read_t1(path, self.config.options["brain_mask"])}

    def _write(self, path: Path, volume: Path) -> dict[str, Any]:
        how = self.config.options
        extractor = T1FeatureExtractor(check_brain=how["check_brain"])
        image = read_t1(path, how["brain_mask"])
        try:
            checked = extractor.check(image, str(path))
        except ValueError as error:
            raise ROISeriesReadError(str(error)) from error
        return {**write_volume(volume, checked.values), "mean": checked.mean, "deviation": checked.deviation}
