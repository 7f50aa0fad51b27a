"""Which files of a folder are scans, and which of several images of one run is taken.

Everything here is told by names, so that a tree of many thousand files is understood without opening one.
"""

import fnmatch
import glob
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atlases.roi_orders import ROI_ORDERS, ROIOrder
from .censoring import OUTLIERS
from .cifti import DENSE_SUFFIX
from .errors import ROISeriesReadError
from .nifti import NATIVE_SPACES
from .readers import SERIES_SUFFIXES, series_suffix
from .runs import ScanParts, atlas_of, choose_tables, cleanest, is_hcp_image, without_joined_runs
from .scan_names import (
    HDF5_SUFFIXES,
    IMAGE_SUFFIXES,
    NAME_COLUMNS,
    SPLITS,
    VARIANTS,
    ScanName,
    compile_name_pattern,
    contradiction,
    entity_of,
    is_image,
    name_parts,
    proposal,
    refuse_shared_ids,
    says_visit,
    scan_name,
    some,
    suffix_of,
)

_SIDE_FOLDERS = re.compile(r"^\.|^@eaDir$|^__MACOSX$|^lost\+found$|^#recycle$", re.IGNORECASE)
# Names of tables that are no series, by their last part, and the same words in names of other tools.
_SIDE_SUFFIXES = {
    "events", "scans", "sessions", "channels", "electrodes", "physio", "stim", "beh", "blood", "coordsystem", "dseg",
    "participants", "samples", "mixing", "relmat", "relmatrix", "connectome", "conmat", "motion", "outliers", "design",
    "qc", "regressors", "confounds", "coverage", "alff", "reho", "bval", "bvec", "mask", "probseg", "boldref", "sbref",
    "t1w", "t2w", "flair", "xfm",
    "coordinates", "centroids", "centroid", "coords", "labels", "embeddings",
}  # fmt: skip
_SIDE_WORDS = re.compile(
    r"confound|nuisance|regressor|relmat|correlation|corrmat|connectivity|connectome|covariance|precision_?mat"
    r"|adjacency|coordinates|centroids|framewise_?displacement|motion_?param|movement_?regress|phenotyp|demographic"
    r"|^rp_|(?:^|[_.])(?:fc|sc|fd|netmats?\d*|fisherz|dvars|conmat|zmat|rmat|outliers|coverage)(?=[_.]|$)|skipped_files",
    re.IGNORECASE,
)


@dataclass
class FoundScans:
    """The scans of a folder.

    Attributes:
        files: split -> relative paths, sorted.
        names: relative path -> what its name says.
        left_out: relative path -> why it is no scan of this dataset.
        unusable: relative path -> why a scan cannot be used.
        notes: what the user has to know, as sentences.
        sidecars: files that may say how scans were taken: JSON, and tables of cut volumes.
        sessions: the `*_sessions.tsv` of single subjects.
        parts: relative path -> what the scan is made of, where that is not this one file.
    """

    files: dict[str, list[str]]
    names: dict[str, ScanName]
    left_out: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sidecars: list[Path] = field(default_factory=list)
    sessions: list[Path] = field(default_factory=list)
    parts: dict[str, ScanParts] = field(default_factory=dict)


def find_scans(
    root: Path,
    *,
    images: str | None,
    pattern: str | None = None,
    name_pattern: str | None = None,
    participants: Collection[str] = (),
    other_files: Collection[Path] = (),
    skip_unusable: bool = False,
    atlas: str | None = None,
    roi_order: ROIOrder | None = None,
    listing: Sequence[str] | None = None,
) -> FoundScans:
    """Find the scans of a folder by their names.

    Args:
        root: the folder.
        images: BIDS suffix of the images to look for (`"bold"`), `None` for tables and arrays of ROI series.
        pattern: glob of the files; by default every image of that suffix, or every file of a known format.
        name_pattern: regular expression with named groups, see [`ROISeriesFolderBuilder`].
        participants: identifiers without `sub-`; a file that begins with one is that person's.
        other_files: files that are known to be something else, such as the participants table.
        skip_unusable: list files without a subject in `unusable` where name_pattern says nothing about them, else
            refuse them.
        atlas: which tables of a run to take, see [`choose_tables`](brain_transformers.data.runs.choose_tables).
        roi_order: the order that is wanted, by which tables are chosen.
        listing: relative paths of all files, where they are known; by default those in the folder.

    Returns:
        The scans; native and raw images beside normalised ones and other tables are in `left_out`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be told whose scans they are, or several images of one run are left.
    """
    expression = None if name_pattern is None else compile_name_pattern(name_pattern)
    found = FoundScans({}, {})
    elsewhere = {path.resolve() for path in other_files}
    everything = sorted(listing) if listing is not None else list(_walk(root, "", found))
    candidates = [
        name
        for name in _candidates(root, everything, pattern, images, found)
        if not elsewhere or (root / name).resolve() not in elsewhere
    ]
    missing = sorted(name for name in candidates if not (root / name).exists())
    for name in missing:
        found.unusable[name] = f"{root / name}: a link to a file that is not there; fetch it (datalad get, git annex)."
    by_split = _by_split(root, candidates)
    files_of_many = [name for name in candidates if name.lower().endswith(HDF5_SUFFIXES)]
    candidates = [name for name in candidates if not name.lower().endswith(HDF5_SUFFIXES)]
    for name in candidates:
        found.names[name] = scan_name(name, expression, participants)
        if expression is None and (why := contradiction(name)):
            found.unusable[name] = f"{root / name}: {why}"
    kept = list(candidates)
    if expression is not None:
        without = [name for name in kept if not found.names[name].known]
        if without and (len(without) == len(kept) or not skip_unusable):
            raise ValueError(
                f"name_pattern {name_pattern!r} (--name-pattern) finds a subject in {len(kept) - len(without)} of "
                f"{len(kept)} paths below {root}; not in {some(without)}. It is searched in the path relative to the "
                "folder, such as this one: make it fit, or choose the files with pattern (--pattern)." + proposal(kept)
            )
        for name in without:
            found.unusable[name] = f"{root / name}: name_pattern finds no subject in this path."
    else:
        refuse_shared_ids(root, found.names)
    if images:
        kept = cleanest(_without_native(root, kept, found, pattern, images), found)
    kept = _without_parts(kept, found)
    if not images:
        kept = choose_tables(kept, found, atlas, roi_order)
    kept = without_joined_runs(root, kept, everything, found)
    kept += [scan for name in files_of_many for scan in _scans_of(root, name, found)]
    if not kept and files_of_many:
        raise ROISeriesReadError(found.left_out[files_of_many[0]])
    _refuse_variants(root, kept, found)
    for split, names in by_split.items():
        here = set(names)
        taken = [name for name in kept if (found.parts[name].files[0] if name in found.parts else name) in here]
        found.files |= {split: taken} if taken else {}
    _say_who(found)
    return found


def files_of_layout(layout: Any) -> tuple[Path, list[str]]:
    """Folder and relative paths of the files of a layout of pybids, those of its derivatives too.

    Raises:
        ValueError: if a file is not below its root.
    """
    root = Path(layout.root).resolve()
    files = [Path(file) for file in layout.get_files(scope="all")]
    outside = [file for file in files if not file.resolve().is_relative_to(root)]
    if outside:
        raise ValueError(
            f"Expected a layout whose files are below its root {root}, got {outside[0]}. Give the layout of the "
            "derivatives alone."
        )
    return root, sorted(file.resolve().relative_to(root).as_posix() for file in files)


def has_tables_of(root: Path, atlas: str) -> bool:
    """Whether a folder has tables whose names say that they are of an atlas, or of several joined with `+`.

    Raises:
        ValueError: if it has tables of others, and this is the name of no label image.
    """
    if not root.is_dir() or Path(atlas).exists() or re.search(r"[:/\\]|\.nii", atlas):
        return False
    files = (name for name in _walk(root, "", FoundScans({}, {})) if series_suffix(name))
    told = (scan_name(name).variant for name in files)
    there = {value for variant in told if (value := variant.get("atlas") or variant.get("seg"))}
    if set(atlas.casefold().split("+")) <= {value.casefold() for value in there}:
        return True
    if there and atlas not in ROI_ORDERS:
        raise ValueError(
            f"{root}: expected atlas (--atlas) to be a label image, or that of the tables here ("
            f"{some(sorted(there))}; several are joined with +), got {atlas!r}."
        )
    return False


def _scans_of(root: Path, name: str, found: FoundScans) -> list[str]:
    """The scans of an HDF5 file in the layout of the Brain-Semantoks authors, each with its own subject."""
    from .semantoks_hdf5 import SemantoksRecordings

    try:
        with SemantoksRecordings(root / name) as recordings:
            subjects = recordings.subjects
    except ROISeriesReadError as error:
        found.left_out[name] = str(error)  # another program's file
        return []
    keys = [f"{name}#{row}" for row in range(len(subjects))]
    for row, (key, subject) in enumerate(zip(keys, subjects)):
        columns = {**dict.fromkeys(NAME_COLUMNS), "subject": subject.removeprefix("sub-") or subject}
        found.names[key] = ScanName(columns, True, (key, (), ()), {})
        found.parts[key] = ScanParts((name,), row=row)
    return keys


# --- files ---


def _candidates(
    root: Path, everything: list[str], pattern: str | None, images: str | None, found: FoundScans
) -> list[str]:
    """Relative paths that may be scans; what is certainly none goes to `found.left_out`."""
    found.sidecars = [root / name for name in everything if name.lower().endswith((".json", OUTLIERS))]
    found.sessions = [root / name for name in everything if re.search(r"(^|/)sub-[^/]+_sessions\.tsv$", name)]
    chosen: Collection[str] = everything
    if pattern is not None:
        try:
            chosen = {path.relative_to(root).as_posix() for path in root.glob(pattern)}
        except (NotImplementedError, ValueError, IndexError) as error:
            raise ValueError(
                f"pattern {pattern!r} (--pattern) is no glob of paths below {root} ({error}). Give one such as "
                '"**/*_bold.nii.gz".'
            ) from error
        chosen = [name for name in everything if name in chosen]
    dense = images == DENSE_SUFFIX
    of_kind = [
        name
        for name in chosen
        if (
            name.lower().endswith(DENSE_SUFFIX)
            if dense
            else is_image(name)
            if images
            else bool(series_suffix(name)) or name.lower().endswith(HDF5_SUFFIXES)
        )
    ]
    if images and pattern is None and not dense:
        of_kind = [
            name
            for name in of_kind
            if name_parts(name)[1].endswith(images) or (images == "bold" and is_hcp_image(name))
        ]
    if pattern is None and not images:
        of_voxels = (
            "dense CIFTI, of vertices and voxels; give a label file (.dlabel.nii) as atlas (--atlas) to average it"
        )
        found.left_out.update({name: of_voxels for name in chosen if name.lower().endswith(DENSE_SUFFIX)})
    candidates = []
    for name in of_kind:
        if (why := _no_series(name, pattern is not None, images)) is not None:
            # Tables that every BIDS folder has are not worth a word.
            if why:
                found.left_out[name] = why
        else:
            candidates.append(name)
    if not candidates:
        alone = next((name for name in everything if pattern == glob.escape(name)), None)
        suffixes = (DENSE_SUFFIX,) if dense else IMAGE_SUFFIXES if images else (*SERIES_SUFFIXES, *HDF5_SUFFIXES)
        default = f"**/*{images}" if dense else f"**/*{images}.nii*" if images else "**/*"
        if alone is not None:
            why = found.left_out.get(alone) or f"expected a file ending in {', '.join(suffixes)}"
            raise ValueError(f"{root / alone} is no scan: {why}.{'' if images else _for_images([alone])}")
        hint = "" if images else _for_images(everything)
        hint += (
            f" {len(found.left_out)} files are no scans (first: {_first(found.left_out)})." if found.left_out else ""
        )
        raise FileNotFoundError(
            f"{root}: expected files ending in {', '.join(suffixes)} (pattern {pattern or default!r}), got none.{hint}"
            " Check the folder, or give a pattern (--pattern)."
        )
    if found.left_out:
        found.notes.append(f"{len(found.left_out)} files are left out as no scans (first: {_first(found.left_out)}).")
    return candidates


def _for_images(everything: Sequence[str]) -> str:
    """What to do with the images of a folder without tables, as a sentence."""
    images = [name for name in everything if is_image(name)]
    bold = [name for name in images if name_parts(name)[1].endswith("bold") or is_hcp_image(name)]
    dense = [name for name in everything if name.lower().endswith(DENSE_SUFFIX)]
    t1 = [name for name in images if name_parts(name)[1].endswith("T1w")]
    said = []
    if bold or (images and not t1):
        how = "give atlas (--atlas), a label image, to average them over parcels, or prepare --kind volumes"
        said.append(f"{len(bold or images)} {'BOLD ' if bold else ''}images (first: {(bold or images)[0]}): {how}")
    if dense:
        said.append(f"{len(dense)} dense CIFTI series (first: {dense[0]}): give a .dlabel.nii as atlas (--atlas)")
    if t1:
        said.append(f"{len(t1)} T1 images (first: {t1[0]}): prepare --kind t1")
    return f" There are {'; '.join(said)}." if said else ""


def _walk(root: Path, inside: str, found: FoundScans) -> Iterator[str]:
    """Relative paths of all files, sorted; hidden ones and what file servers leave are passed over."""
    with os.scandir(root / inside) as listing:
        items = sorted(listing, key=lambda item: item.name)
    for item in items:
        name = f"{inside}{item.name}"
        if _SIDE_FOLDERS.search(item.name):
            continue
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            found.left_out[shown] = "its name is not UTF-8; rename it"
            continue
        if item.is_dir(follow_symlinks=False):
            yield from _walk(root, f"{name}/", found)
        elif item.is_dir():
            found.left_out[f"{name}/"] = "a link to a folder is not followed; pass that folder, or copy it"
        else:
            yield name


def _no_series(name: str, chosen: bool, images: str | None = None) -> str | None:
    """Why a file is no scan, `""` where that goes without saying, `None` where it may be one."""
    base = name.rsplit("/", 1)[-1]
    # Tables of people, which BIDS keeps in a folder of their own.
    if base.startswith("participants.") or name.startswith("phenotype/"):
        return ""
    stem = base[: len(base) - len(suffix_of(base))]
    last = _suffix_part(name).lower()
    if last in ("events", "scans", "sessions", "channels", "physio", "participants"):
        return ""
    match = re.search(r"(?:^|_)stat-([A-Za-z0-9]+)", stem)
    if images is not None and last == images.lower():
        return None
    if last in _SIDE_SUFFIXES:
        return f"no series of ROIs: {last}"
    if match and match[1] not in ("mean", "median", "pc1", "eigenvariate"):
        return f"no series of ROIs: stat-{match[1]}"
    if not chosen and (word := _SIDE_WORDS.search(stem)):
        return f"no series of ROIs by its name: {word[0].strip('_.-')}"
    return None


def _by_split(root: Path, names: Sequence[str]) -> dict[str, list[str]]:
    by_split: dict[str, list[str]] = {}
    for name in names:
        top = name.split("/", 1)[0] if "/" in name else ""
        by_split.setdefault(SPLITS.get(top, ""), []).append(name)
    if set(by_split) == {""}:
        return {"train": list(names)}
    if "" in by_split:
        raise ValueError(
            f"{root}: some files lie in split folders ({sorted(set(by_split) - {''})}) and some do not (first: "
            f"{by_split[''][0]}). Put all in split folders, or none."
        )
    return by_split


# --- images of one run ---


def _without_native(root: Path, names: list[str], found: FoundScans, pattern: str | None, images: str) -> list[str]:
    """The images that can be in the template's space; a pattern that names a space is the user's word."""
    spaces = {name: entity_of(name, "space") for name in names}
    if pattern is not None and "space-" in pattern:
        return names
    template = [name for name in names if spaces[name] is not None and spaces[name] not in NATIVE_SPACES]
    native = {
        name: f"space-{spaces[name]}, not the template's space" for name in names if spaces[name] in NATIVE_SPACES
    }
    # fMRIPrep leaves out `space-` where nothing was normalised, and raw images have none.
    raw = _is_raw(root)
    for name in names:
        if spaces[name] is not None or "MNI" in name:
            continue
        if (
            template
            or entity_of(name, "desc") == "preproc"
            or "filtered_func_data" in name
            or (raw and entity_of(name, "sub") and not name.startswith("derivatives/"))
        ):
            native[name] = "no space- in its name, so in the scanner's own space, not the template's"
    kept = [name for name in names if name not in native]
    found.left_out.update(native)
    if not kept:
        raise ValueError(
            f"{root}: none of {len(names)} images is in the template's space (first: {names[0]}: {native[names[0]]}). "
            "Normalise them to that of the atlas or model, for example with fMRIPrep's --output-spaces "
            "MNI152NLin6Asym."
        )
    if native:
        people = {found.names[name].columns["subject"] for name in kept}
        lost = sorted({str(found.names[name].columns["subject"]) for name in native} - people)
        found.notes.append(
            f"{len(native)} images are left out since they are not in the template's space (first: {_first(native)})."
            + (f" Nothing else is there of {len(lost)} subjects ({some(lost)})." if lost else "")
        )
    unsaid = [name for name in kept if spaces[name] is None and "MNI" not in name]
    if unsaid:
        found.notes.append(
            f"{len(unsaid)} images do not say their space (first: {unsaid[0]}). They are taken to be in that of "
            "the atlas or model; raw or native images would give wrong numbers."
        )
    several = sorted({str(spaces[name]) for name in template})
    if len(several) == 1 and not several[0].startswith("MNI"):
        found.notes.append(f"The images are in space-{several[0]}; the atlas or model has to be in it too.")
    if len(several) > 1:
        raise ValueError(
            f"{root}: the same scans come in several spaces ({several}). Choose one, for example with "
            f'pattern="**/*space-{several[-1]}*{images}.nii.gz".'
        )
    return kept


def _is_raw(root: Path) -> bool:
    """Whether the folder is a BIDS dataset that says, or by leaving it out says, that it is raw."""
    try:
        text = json.loads((root / "dataset_description.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(text, dict) and text.get("DatasetType", "raw") == "raw" and "GeneratedBy" not in text


def _without_parts(names: list[str], found: FoundScans) -> list[str]:
    """Without what is a piece of a run: its phase, and single echoes where the combined series is there."""
    combined = {found.names[name].run_key for name in names if "echo" not in found.names[name].variant}
    kept = []
    for name in names:
        variant = found.names[name].variant
        if variant.get("part", "mag") != "mag":
            found.left_out[name] = f"part-{variant['part']} of a run, no BOLD signal"
        elif "echo" in variant and found.names[name].run_key in combined:
            found.left_out[name] = "a single echo; the series of all echoes is taken"
        else:
            kept.append(name)
    return kept


def _refuse_variants(root: Path, names: list[str], found: FoundScans) -> None:
    """Refuse several images of one run, with a pattern that leaves one where there is such a pattern."""
    runs = defaultdict(list)
    for name in names:
        runs[found.names[name].run_key].append(name)
    several = [group for group in runs.values() if len(group) > 1]
    if not several:
        return
    first = several[0]
    entities = [entity for entity in VARIANTS if len({found.names[name].variant.get(entity) for name in first}) > 1]
    differ = "; ".join(
        f"{entity}- ({', '.join(sorted({found.names[n].variant.get(entity, 'none') for n in first}))})"
        for entity in entities
    )
    raise ValueError(
        f"{root}: {len(several)} runs come in several files, which would be one scan counted more than once (first: "
        f"{some(first)}{f'; they differ in {differ}' if differ else ''}). Choose one of each run with "
        + (
            f"atlas (--atlas {atlas}), or "
            if (atlas := atlas_of(first[0], found)) and {"atlas", "seg"} & {*entities}
            else ""
        )
        + f"pattern (--pattern){_variant_pattern(names, found, entities)}."
        + ("" if differ else " If they are different runs or people, say so with name_pattern (--name-pattern).")
    )


def _variant_pattern(names: list[str], found: FoundScans, entities: list[str]) -> str:
    """A pattern that leaves exactly one file of each run, as words for an error, or nothing."""
    runs = {found.names[name].run_key for name in names}
    endings = sorted({suffix_of(name) for name in names})
    words = [
        (entity, value)
        for entity in entities
        for value in sorted({found.names[name].variant.get(entity, "") for name in names} - {""})
    ]
    tried = [f"*{entity}-{value}[_.]*{ending}" for entity, value in words for ending in endings]
    tried += [f"*{value}*{ending}" for _, value in words for ending in endings]
    for pattern in [*tried, *(f"*{ending}" for ending in endings)]:
        taken = [name for name in names if fnmatch.fnmatchcase(name.rsplit("/", 1)[-1], pattern)]
        if len(taken) == len(runs) == len({found.names[name].run_key for name in taken}):
            return f', for example "**/{pattern}"'
    return ""


def _say_who(found: FoundScans) -> None:
    chosen = [name for names in found.files.values() for name in names if name not in found.unusable]
    people = {str(found.names[name].columns["subject"]) for name in chosen if found.names[name].known}
    alike: dict[str, list[str]] = defaultdict(list)
    for person in sorted(people):
        alike[person.lower().lstrip("0")].append(person)
    if twins := [group for group in alike.values() if len(group) > 1]:
        found.notes.append(
            f"{' and '.join(twins[0])} count as {len(twins[0])} people"
            + (f", and so do {len(twins) - 1} other such pairs" if len(twins) > 1 else "")
            + ". If they are one, rename their files."
        )
    again: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in chosen:
        if found.names[name].known:
            *run, _, rest = found.names[name].run_key
            again[(*run, rest)].append(name)
    copies = [group for group in again.values() if len(group) > 1 and not any(map(says_visit, group))]
    if copies:
        found.notes.append(
            f"{len(copies)} scans have the same name in several folders (first: {some(copies[0])}) and count as other "
            "scans of the same person. If they are copies or other versions, choose one with pattern (--pattern); if "
            "they are other people, say so with name_pattern (--name-pattern)."
        )
    unknown = [name for name in chosen if not found.names[name].known]
    if not unknown:
        return
    who = "No name says" if len(unknown) == len(chosen) else f"{len(unknown)} of {len(chosen)} names do not say"
    found.notes.append(
        f"{who} whose scan it is (first: {unknown[0]}), so each of these files counts as a person. If a person has "
        r"several, say who it is with name_pattern (--name-pattern), such as '^(?P<subject>[^_]+)_'."
    )
    bases = Counter("/".join(name.split("/")[1:]) for name in unknown if name.split("/", 1)[0] in SPLITS)
    if shared := sorted(base for base, count in bases.items() if count > 1):
        found.notes.append(
            f"{len(shared)} names are in several splits (first: {shared[0]}); if they are the same people, what is "
            "trained on one split knows those of another."
        )


def _suffix_part(name: str) -> str:
    """The last part of a BIDS name: bold, timeseries, events."""
    return re.split(r"[_.]", name_parts(name)[1])[-1]


def _first(reasons: Mapping[str, str]) -> str:
    name = next(iter(reasons))
    return f"{name}: {reasons[name]}"
