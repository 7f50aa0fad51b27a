"""Which files of a folder are scans, whose they are, and which of several images of one run is taken.

Everything here is told by names, so that a tree of many thousand files is understood without opening one. BIDS and its
derivatives (fMRIPrep, XCP-D), HCP and UK Biobank are known; other names need a `name_pattern`.
"""

import fnmatch
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .readers import SERIES_SUFFIXES, series_suffix

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
IMAGE_SUFFIXES = (".nii", ".nii.gz")
NAME_COLUMNS = {
    "subject": "sub",
    "session": "ses",
    "run": "run",
    "task": "task",
    "acq": "acq",
    "dir": "dir",
    "space": "space",
    "desc": "desc",
}
"""Columns of a dataset that come from a file's name, and their BIDS entities."""

# What tells apart the images that a program made of one run. Two of them in one dataset are one scan counted twice.
_VARIANTS = (
    "space",
    "res",
    "den",
    "cohort",
    "desc",
    "echo",
    "part",
    "rec",
    "atlas",
    "seg",
    "scale",
    "label",
    "stat",
    "hemi",
)
_NATIVE = {"T1w", "T2w", "anat", "bold", "boldref", "epi", "func", "fsnative", "individual", "native", "orig"}
_NATIVE |= {"scanner", "subject", "T1", "T2", "run", "session"}
_SAME_SERIES = {"bold", "timeseries", "boldts", "ts"}  # suffixes that say nothing about which run it is
_DATATYPES = {"func", "anat", "derivatives", "fmri"}
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
    r"|(?:^|[_.])(?:fc|sc|fd|dvars|conmat|zmat|rmat|outliers|coverage)(?=[_.]|$)|skipped_files",
    re.IGNORECASE,
)
_HCP_TASKS = "REST|MOVIE|RET|WM|GAMBLING|MOTOR|LANGUAGE|SOCIAL|RELATIONAL|EMOTION|CARIT|FACENAME|GUESSING|VISMOTOR"
_HCP_ID = r"(?P<sub>\d{6}|HC[ADP]\d{7})(?:_(?P<ses>V\d+)(?:_MR)?)?"
_HCP_SCAN = (
    rf"(?:[rt]fMRI_(?P<task>[A-Za-z]+?)|(?P<task_only>{_HCP_TASKS}))(?P<run>\d*)(?:_[37]T)?"
    r"(?:_(?P<dir>LR|RL|AP|PA))?(?:_(?P<desc>.+))?"
)
_HCP_FILE = re.compile(rf"{_HCP_ID}_(?:[37]T_)?{_HCP_SCAN}")
_HCP_FOLDER = re.compile(_HCP_ID)
_HCP_NAME = re.compile(_HCP_SCAN)
_UKB_FILE = re.compile(r"(?P<sub>\d{7})_(?P<desc>\d{5})_(?P<ses>\d+)_(?P<run>\d+)(?:_.*)?")
_UKB_FOLDER = re.compile(r"(?P<sub>\d{7})(?:_\d{5}_(?P<ses>\d+)_\d+)?")
_UKB_NAME = re.compile(r"(?:(?P<task>[rt]fMRI)|fMRI)[._](?P<atlas>.+)|filtered_func_data_?(?P<desc>.*)")
# Identifiers of ADNI, OASIS-3 and -4, and ABCD, whose files have names of many kinds behind them.
_LONG_ID = re.compile(
    r"(?P<sub>\d{3}_S_\d{4,5}|OAS[34]\d{4}|NDAR_?INV[A-Z0-9]{8})(?:_MR_(?P<ses>d\d{4}))?(?:[_.-](?P<run>.+))?"
)
_MAX_NAMED = 5


@dataclass
class ScanName:
    """What the name of a file says.

    Attributes:
        columns: a value, or `None`, for each of `NAME_COLUMNS`.
        known: whether something says whose scan it is; else its subject is the file itself.
        run_key: equal for the images that were made of one run.
        variant: what tells those images apart, by entity.
    """

    columns: dict[str, str | None]
    known: bool
    run_key: tuple[Any, ...]
    variant: dict[str, str]


@dataclass
class FoundScans:
    """The scans of a folder.

    Attributes:
        files: split -> relative paths, sorted.
        names: relative path -> what its name says.
        left_out: relative path -> why it is no scan of this dataset.
        unusable: relative path -> why a scan cannot be used.
        notes: what the user has to know, as sentences.
        sidecars: JSON files, which may say how scans were taken.
        sessions: the `*_sessions.tsv` of single subjects.
    """

    files: dict[str, list[str]]
    names: dict[str, ScanName]
    left_out: dict[str, str] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sidecars: list[Path] = field(default_factory=list)
    sessions: list[Path] = field(default_factory=list)


def find_scans(
    root: Path,
    *,
    images: bool,
    pattern: str | None = None,
    name_pattern: str | None = None,
    participants: Collection[str] = (),
    skip_unusable: bool = False,
) -> FoundScans:
    """Find the scans of a folder by their names.

    Args:
        root: the folder.
        images: look for 4-D BOLD images, else for tables and arrays of ROI series.
        pattern: glob of the files; by default every `*bold.nii[.gz]`, or every file of a known format.
        name_pattern: regular expression with named groups, see [`ROISeriesFolderBuilder`].
        participants: identifiers without `sub-`; a file that begins with one is that person's.
        skip_unusable: list files without a subject in `unusable` where name_pattern says nothing about them, else
            refuse them.

    Returns:
        The scans; native and raw images beside normalised ones and other tables are in `left_out`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it cannot be told whose scans they are, or several images of one run are left.
    """
    expression = None if name_pattern is None else _compiled(name_pattern)
    found = FoundScans({}, {})
    candidates = _candidates(root, pattern, images, found)
    missing = sorted(name for name in candidates if not (root / name).exists())
    for name in missing:
        found.unusable[name] = f"{root / name}: a link to a file that is not there; fetch it (datalad get, git annex)."
    by_split = _by_split(root, candidates)
    for name in candidates:
        found.names[name] = scan_name(name, expression, participants)
        if expression is None and (contradiction := _contradiction(name)):
            found.unusable[name] = f"{root / name}: {contradiction}"
    kept = list(candidates)
    if expression is not None:
        without = [name for name in kept if not found.names[name].known]
        if without and (len(without) == len(kept) or not skip_unusable):
            raise ValueError(
                f"name_pattern {name_pattern!r} (--name-pattern) finds a subject in {len(kept) - len(without)} of "
                f"{len(kept)} paths below {root}; not in {_some(without)}. It is searched in the path relative to the "
                "folder, such as this one: make it fit, or choose the files with pattern (--pattern)."
                + _proposal(kept)
            )
        for name in without:
            found.unusable[name] = f"{root / name}: name_pattern finds no subject in this path."
    else:
        _refuse_shared_ids(root, found.names)
    if images:
        kept = _without_native(root, kept, found, pattern)
    kept = _without_parts(kept, found)
    _refuse_variants(root, kept, found)
    chosen = set(kept)
    found.files = {split: [n for n in names if n in chosen] for split, names in by_split.items()}
    found.files = {split: names for split, names in found.files.items() if names}
    _say_who(found)
    return found


def scan_name(name: str, expression: re.Pattern[str] | None = None, participants: Collection[str] = ()) -> ScanName:
    """What a relative path says about its scan; see [`ScanName`]."""
    folders, stem = _parts(name)
    entities: dict[str, str] = {}
    bare: list[str] = []
    inside = next((folder[4:] for folder in folders if re.fullmatch(r"sub-.+", folder)), None)
    text = stem
    if inside is not None and stem.startswith(f"sub-{inside}_"):
        # The folder tells where a label ends that has an underscore in it.
        entities["sub"], text = inside, stem[len(inside) + 5 :]
    for token in text.split("_"):
        match = re.fullmatch(r"([A-Za-z]+)-(.+)", token)
        if match and match[1] not in entities:
            entities[match[1]] = match[2]
        else:
            bare.append(token)
    place = [folder for folder in folders if not re.match(r"sub-|ses-", folder) and folder not in _DATATYPES]
    if inside is not None:
        first = next(number for number, folder in enumerate(folders) if folder == f"sub-{inside}")
        place = [folder for folder in folders[first:] if folder in place]
        entities.setdefault("sub", inside)
    for folder in folders:
        if folder.startswith("ses-"):
            entities.setdefault("ses", folder[4:])
    known = "sub" in entities
    if not known and (told := _cohort(folders, stem)):
        entities, bare, place, known = told, [], [], True
    if not known and (person := _participant(folders, stem, participants)) is not None:
        entities["sub"], known = person, True
    if expression is not None:
        match = expression.search(name)
        groups = {key: value for key, value in (match.groupdict() if match else {}).items() if value}
        known = "subject" in groups
        entities.update({NAME_COLUMNS[column]: value for column, value in groups.items()})
        if known and entities.get("sub") is not None:
            entities["sub"] = groups["subject"].removeprefix("sub-") or groups["subject"]
    columns = {column: entities.get(entity) for column, entity in NAME_COLUMNS.items()}
    if not known:
        # Not a name we know: the path is unique and claims nothing.
        columns["subject"] = name[: len(name) - len(_suffix(name))]
        return ScanName(columns, False, (name,), {})
    same = {key: value for key, value in entities.items() if key not in _VARIANTS}
    split = name.split("/", 1)[0] if name.split("/", 1)[0] in SPLITS else ""
    key = (split, *sorted(same.items()), tuple(place), tuple(part for part in bare if part not in _SAME_SERIES))
    return ScanName(columns, True, key, {e: entities[e] for e in _VARIANTS if e in entities})


def _cohort(folders: Sequence[str], stem: str) -> dict[str, str] | None:
    """Entities of a name of HCP or UK Biobank, where it is one."""
    match = _HCP_FILE.fullmatch(stem) or _UKB_FILE.fullmatch(stem) or _LONG_ID.fullmatch(stem)
    groups = dict(match.groupdict()) if match else {}
    if not groups and folders:
        person = next(filter(None, map(_HCP_FOLDER.fullmatch, folders)), None)
        scan = _HCP_NAME.fullmatch(stem)
        if person and scan:
            groups = {**scan.groupdict(), **person.groupdict()}
    if not groups and folders:
        home, inner = _UKB_FOLDER.fullmatch(folders[0]), _UKB_NAME.fullmatch(stem)
        rest = [part for part in folders[1:] if part not in ("fMRI", "rfMRI.ica", "tfMRI.feat")]
        instance = rest.pop(0) if rest and re.fullmatch(r"i\d+", rest[0]) else None
        if home or (inner and stem.startswith("fMRI.") and not rest):
            groups = {**(inner.groupdict() if inner else {}), **(home.groupdict() if home else {"sub": folders[0]})}
            groups["ses"] = instance or groups.get("ses")
            groups["run"] = "/".join(rest if inner else [*rest, stem])
    if not groups:
        return None
    if groups.get("task_only"):
        groups["task"] = groups["task_only"]
    return {key: value for key, value in groups.items() if value and key != "task_only"}


def _participant(folders: Sequence[str], stem: str, participants: Collection[str]) -> str | None:
    """The participant whose identifier is a folder of the path or stands at the start of the file's name."""
    if not participants:
        return None
    for folder in folders:
        if folder in participants:
            return folder
    ends = [len(stem), *(match.start() for match in re.finditer(r"[_. -]", stem))]
    return next((stem[:end] for end in sorted(ends, reverse=True) if stem[:end] in participants), None)


def _contradiction(name: str) -> str | None:
    """What folders and file of a BIDS name say differently."""
    folders, stem = _parts(name)
    for entity in ("sub", "ses"):
        outer, inner = [folder for folder in folders if folder.startswith(f"{entity}-")], _entity(name, entity)
        if outer and inner is not None and not any(f"_{folder}_" in f"_{stem}_" for folder in outer):
            return f"the folder says {outer[-1]} and the file says {entity}-{inner}. Rename the wrong one."
    return None


# --- files ---


def _candidates(root: Path, pattern: str | None, images: bool, found: FoundScans) -> list[str]:
    """Relative paths that may be scans; what is certainly none goes to `found.left_out`."""
    everything = list(_walk(root, "", found))
    found.sidecars = [root / name for name in everything if name.lower().endswith(".json")]
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
    of_kind = [name for name in chosen if (_is_image(name) if images else bool(series_suffix(name)))]
    if images and pattern is None:
        of_kind = [name for name in of_kind if _parts(name)[1].endswith("bold")]
    candidates = []
    for name in of_kind:
        if (why := _no_series(name, pattern is not None)) is not None:
            # Tables that every BIDS folder has are not worth a word.
            if why:
                found.left_out[name] = why
        else:
            candidates.append(name)
    if not candidates:
        suffixes = IMAGE_SUFFIXES if images else SERIES_SUFFIXES
        default = "**/*bold.nii*" if images else "**/*"
        others = sum(map(_is_image, everything)) if not images else 0
        hint = f" There are {others} images: give atlas (--atlas) to average them over parcels." if others else ""
        hint += (
            f" {len(found.left_out)} files are no scans (first: {_first(found.left_out)})." if found.left_out else ""
        )
        raise FileNotFoundError(
            f"{root}: expected files ending in {', '.join(suffixes)} (pattern {pattern or default!r}), got none.{hint}"
            " Check the folder, or give a pattern."
        )
    if found.left_out:
        found.notes.append(f"{len(found.left_out)} files are left out as no scans (first: {_first(found.left_out)}).")
    return candidates


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


def _no_series(name: str, chosen: bool) -> str | None:
    """Why a file is no scan, `""` where that goes without saying, `None` where it may be one."""
    base = name.rsplit("/", 1)[-1]
    if base.startswith("participants."):
        return ""
    stem = base[: len(base) - len(_suffix(base))]
    last = _suffix_part(name).lower()
    if last in ("events", "scans", "sessions", "channels", "physio", "participants"):
        return ""
    match = re.search(r"(?:^|_)stat-([A-Za-z0-9]+)", stem)
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


def _without_native(root: Path, names: list[str], found: FoundScans, pattern: str | None) -> list[str]:
    """The images that can be in the atlas's space; a pattern that names a space is the user's word."""
    spaces = {name: _entity(name, "space") for name in names}
    if pattern is not None and "space-" in pattern:
        return names
    template = [name for name in names if spaces[name] is not None and spaces[name] not in _NATIVE]
    native = {name: f"space-{spaces[name]}, not the atlas's space" for name in names if spaces[name] in _NATIVE}
    # fMRIPrep leaves out `space-` where nothing was normalised, and raw images have none.
    raw = _is_raw(root)
    for name in names:
        if spaces[name] is not None or "MNI" in name:
            continue
        if (
            template
            or _entity(name, "desc") == "preproc"
            or "filtered_func_data" in name
            or (raw and _entity(name, "sub") and not name.startswith("derivatives/"))
        ):
            native[name] = "no space- in its name, so in the scanner's own space, not the atlas's"
    kept = [name for name in names if name not in native]
    found.left_out.update(native)
    if not kept:
        raise ValueError(
            f"{root}: none of {len(names)} images is in the atlas's space (first: {names[0]}: {native[names[0]]}). "
            "Normalise them to the template of the atlas, for example with fMRIPrep's --output-spaces "
            "MNI152NLin6Asym."
        )
    if native:
        people = {found.names[name].columns["subject"] for name in kept}
        lost = sorted({str(found.names[name].columns["subject"]) for name in native} - people)
        found.notes.append(
            f"{len(native)} images are left out since they are not in the atlas's space (first: {_first(native)})."
            + (f" Nothing else is there of {len(lost)} subjects ({_some(lost)})." if lost else "")
        )
    unsaid = [name for name in kept if spaces[name] is None and "MNI" not in name]
    if unsaid:
        found.notes.append(
            f"{len(unsaid)} images do not say their space (first: {unsaid[0]}). They are taken to be in the atlas's; "
            "raw or native images would give wrong parcels."
        )
    several = sorted({str(spaces[name]) for name in template})
    if len(several) == 1 and not several[0].startswith("MNI"):
        found.notes.append(f"The images are in space-{several[0]}; the atlas has to be in it too.")
    if len(several) > 1:
        raise ValueError(
            f"{root}: the same scans come in several spaces ({several}). Choose one, for example with "
            f'pattern="**/*space-{several[-1]}*bold.nii.gz".'
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
    entities = [entity for entity in _VARIANTS if len({found.names[name].variant.get(entity) for name in first}) > 1]
    differ = "; ".join(
        f"{entity}- ({', '.join(sorted({found.names[n].variant.get(entity, 'none') for n in first}))})"
        for entity in entities
    )
    raise ValueError(
        f"{root}: {len(several)} runs come in several files, which would be one scan counted more than once (first: "
        f"{_some(first)}{f'; they differ in {differ}' if differ else ''}). Choose one of each run with pattern "
        f"(--pattern){_variant_pattern(names, found, entities)}."
        + ("" if differ else " If they are different runs or people, say so with name_pattern (--name-pattern).")
    )


def _variant_pattern(names: list[str], found: FoundScans, entities: list[str]) -> str:
    """A pattern that leaves exactly one file of each run, as words for an error, or nothing."""
    runs = {found.names[name].run_key for name in names}
    endings = sorted({_suffix(name) for name in names})
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


# --- whose scans they are ---


def _compiled(name_pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(name_pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"name_pattern {name_pattern!r} (--name-pattern) is no regular expression: {error}."
        ) from error
    if "subject" not in expression.groupindex:
        raise ValueError(f"Expected name_pattern with a named group (?P<subject>...), got {name_pattern!r}.")
    if unknown := sorted(set(expression.groupindex) - set(NAME_COLUMNS)):
        raise ValueError(
            f"Expected name_pattern with groups among {', '.join(NAME_COLUMNS)}, got {', '.join(unknown)} in "
            f"{name_pattern!r}."
        )
    return expression


def _refuse_shared_ids(root: Path, names: Mapping[str, ScanName]) -> None:
    """Refuse files without a subject that seem to be several of one person."""
    unknown = [name for name, told in names.items() if not told.known]
    place, group = _shared_id(unknown)
    if not group:
        return
    raise ValueError(
        f"{root}: no name says whose scan it is, and some seem to be several of one person (such as {_some(group)}). "
        "As people of their own they would be on both sides of every split. Say which part of the path is the subject "
        f"with name_pattern (--name-pattern), a regular expression.{_proposal(unknown, place)} If each file is "
        f"another person: '{_EACH_FILE}'."
    )


_EACH_FILE = r"^(?P<subject>.+?)\.\w+(\.gz)?$"
# Parts of names that look like an identifier and are none: atlases, kinds of scan; visits, runs and sites; groups.
_CONSTANT = re.compile(
    r"(a424|(aal|aicha|schaefer|tian|buckner|glasser|gordon|power|brainnetome|desikan|mni|tr|yeo|smri|[rt]?fmri|bold|rest"
    r"|task|roi|rois|ts|net|networks?|parcels?|runs?|ses|sessions?|visit|day|week|month|year|wave|scan|site|cent(er|re)"
    r"|time|timepoint|tp|block|split|fold|batch|cohort|study|dataset|baseline|followup|pre|post)\d*[a-z]*"
    r"|\d+(p|mm|hz|s|t|net|rois?|parcels)|[37]t|[vt]\d)",
    re.IGNORECASE,
)
_GROUP = re.compile(r"(controls?|patients?|cases?|healthy|hc|nc|td|mdd|sz|scz|ad|mci|asd|adhd|group)", re.IGNORECASE)
_SEPARATORS = r"[/_. -]+"
_PART = r"[^/_. -]+"


def _pieces(name: str) -> list[str]:
    """Parts of a name and what separates them, in turn: `S01R1_rest` -> `S01`, ``, `R1`, `_`, `rest`."""
    folders, stem = _parts(name)
    # A point is none in 0.72, and an identifier may end where letters follow.
    pieces = re.split(r"([/_ -]+|(?<!\D\d)\.)", "/".join([*folders, stem]))
    result: list[str] = []
    for number, piece in enumerate(pieces):
        inner = None if number % 2 else re.fullmatch(r"([A-Za-z]*\d{2,})([A-Za-z]{1,5}\d{0,2})", piece)
        result += [inner[1], "", inner[2]] if inner and not _CONSTANT.fullmatch(piece) else [piece]
    return result


def _shared_id(names: Sequence[str]) -> tuple[int, list[str]]:
    """The place of the part of a name that seems to be a person with several files, and these files.

    Places count from the start, or from the end where they are negative.
    """
    tokens = {name: _pieces(name)[::2] for name in names}
    longest = max(map(len, tokens.values()), default=0)
    # Names that begin alike: 100307_REST1, 100307_REST2.
    for place in range(longest - 1):
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name, parts in tokens.items():
            if len(parts) > place + 1:
                groups[tuple(parts[: place + 1])].append(name)
        shared = {start: group for start, group in groups.items() if len(group) > 1}
        varies = len({tuple(parts[: place + 1]) for parts in tokens.values()}) > 1
        for start, group in shared.items():
            word = start[-1]
            if any(map(str.isdigit, word)) and (varies or _looks_like_id(word)) and not _CONSTANT.fullmatch(word):
                return place, group
        # Words with the same endings: ann_rest1, ann_rest2, bob_rest1, bob_rest2.
        endings = Counter(tuple(parts[place + 1 :]) for parts in tokens.values() if len(parts) > place + 1)
        words = {start[-1] for start in shared}
        other = any(_CONSTANT.fullmatch(word) or _GROUP.fullmatch(word) for word in words)
        if varies and len(shared) > 1 and max(endings.values()) > 1 and not other:
            return place, next(iter(shared.values()))
    # An identifier that comes later: REST1/100307, REST2/100307.
    for place in [*range(1, longest), *range(-1, -longest, -1)]:
        owners: dict[str, list[str]] = defaultdict(list)
        for name, parts in tokens.items():
            if -len(parts) <= place < len(parts) and _looks_like_id(parts[place]):
                owners[parts[place]].append(name)
        several = [group for group in owners.values() if len(group) > 1]
        if several and len(owners) > 1 and sum(map(len, owners.values())) == len(names):
            return place, several[0]
    return 0, []


def _looks_like_id(word: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z]{1,12}\d{2,}|\d{3,}", word)) and not _CONSTANT.fullmatch(word)


def _proposal(names: Sequence[str], place: int | None = None) -> str:
    """A name_pattern whose subject is the part of the name at `place`, if it fits all names, as a sentence."""
    if place is None:
        place, group = _shared_id(names)
        if not group:
            return ""
    example = names[0]
    pieces = _pieces(example)
    start = "^[^/]+/" if "/" in example and example.split("/", 1)[0] in SPLITS else "^"
    end = r"\.\w+(\.gz)?$"
    if place < 0:
        tail = (_SEPARATORS + _PART) * (-place - 1)
        tried = [rf"{start}(?P<run>.+){_SEPARATORS}(?P<subject>{_PART}){tail}{end}"]
    else:
        before = "".join(_PART if number % 2 == 0 else _SEPARATORS for number in range(2 * place))
        exact = "".join(_PART if number % 2 == 0 else re.escape(pieces[number]) for number in range(2 * place))
        after = pieces[2 * place + 1] if len(pieces) > 2 * place + 1 else None
        subject = r"[A-Za-z]*\d+" if after == "" else _PART
        tried = [
            rf"{start}{exact}(?P<subject>{subject}){re.escape(after or '')}(?P<run>.+?){end}",
            rf"{start}{before}(?P<subject>{subject}){_SEPARATORS}(?P<run>.+?){end}",
        ]
        if after is None:
            tried = [rf"{start}(?P<run>{before.removesuffix(_SEPARATORS)}){_SEPARATORS}(?P<subject>{_PART}){end}"]
    for pattern in tried:
        if all(re.search(pattern, name) for name in names):
            return f" Fitting here: '{pattern}'."
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
    unknown = [name for name in chosen if not found.names[name].known]
    if not unknown:
        return
    who = "No name says" if len(unknown) == len(chosen) else f"{len(unknown)} of {len(chosen)} names do not say"
    found.notes.append(
        f"{who} whose scan it is (first: {unknown[0]}), so each of these files counts as a person. If a person has "
        r"several, say who it is with name_pattern (--name-pattern), such as '^(?P<subject>[^_]+)_'."
    )
    bases = Counter("/".join(name.split("/")[1:]) for name in unknown if name.split("/", 1)[0] in SPLITS)
    if again := sorted(base for base, count in bases.items() if count > 1):
        found.notes.append(
            f"{len(again)} names are in several splits (first: {again[0]}); if they are the same people, what is "
            "trained on one split knows those of another."
        )


# --- parts of a name ---


def _is_image(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(IMAGE_SUFFIXES) and not re.search(r"\.[dp][a-z]*\.nii$", lower)


def _suffix(name: str) -> str:
    lower = name.lower()
    suffix = series_suffix(name) or next((end for end in IMAGE_SUFFIXES[::-1] if lower.endswith(end)), "")
    return suffix or Path(name).suffix


def _parts(name: str) -> tuple[list[str], str]:
    """Folders below the split's, and the file's name without suffix."""
    *folders, base = name.split("/")
    if folders and folders[0] in SPLITS:
        folders = folders[1:]
    return folders, base[: len(base) - len(_suffix(base))]


def _suffix_part(name: str) -> str:
    """The last part of a BIDS name: bold, timeseries, events."""
    return re.split(r"[_.]", _parts(name)[1])[-1]


def _entity(name: str, entity: str) -> str | None:
    match = re.search(rf"(?:^|_){entity}-([A-Za-z0-9+]+)", name.rsplit("/", 1)[-1])
    return match[1] if match else None


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(map(str, names[:_MAX_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _first(reasons: Mapping[str, str]) -> str:
    name = next(iter(reasons))
    return f"{name}: {reasons[name]}"
