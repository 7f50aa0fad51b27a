"""What the name of a scan says: whose it is, which run, and which variant of it.

BIDS and its derivatives, HCP, UK Biobank and a few other cohorts are known; other names need a `name_pattern`, and
those that seem to be several files of one person are refused without.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cifti import DENSE_SUFFIX
from .readers import series_suffix

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
IMAGE_SUFFIXES = (".nii", ".nii.gz")
HDF5_SUFFIXES = (".h5", ".hdf5")
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
VARIANTS = (
    "space", "res", "den", "cohort", "desc", "echo", "part", "rec", "atlas", "seg", "scale", "label", "stat", "hemi",
)  # fmt: skip
_SAME_SERIES = {"bold", "timeseries", "boldts", "ts"}  # suffixes that say nothing about which run it is
_DATATYPES = {"func", "anat", "derivatives", "fmri"}
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


def scan_name(name: str, expression: re.Pattern[str] | None = None, participants: Collection[str] = ()) -> ScanName:
    """What a relative path says about its scan; see [`ScanName`]."""
    folders, stem = name_parts(name)
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
    if inside is not None and bare == [stem] and (table := _UKB_NAME.fullmatch(stem)) and table["atlas"]:
        entities["atlas"], bare = table["atlas"], []  # labs copy this layout into folders of their own
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
        columns["subject"] = name[: len(name) - len(suffix_of(name))]
        return ScanName(columns, False, (columns["subject"],), {})
    same = {key: value for key, value in entities.items() if key not in VARIANTS}
    split = name.split("/", 1)[0] if name.split("/", 1)[0] in SPLITS else ""
    key = (split, *sorted(same.items()), tuple(place), tuple(part for part in bare if part not in _SAME_SERIES))
    return ScanName(columns, True, key, {e: entities[e] for e in VARIANTS if e in entities})


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


def contradiction(name: str) -> str | None:
    """What folders and file of a BIDS name say differently."""
    folders, stem = name_parts(name)
    for entity in ("sub", "ses"):
        outer, inner = [folder for folder in folders if folder.startswith(f"{entity}-")], entity_of(name, entity)
        if outer and inner is not None and not any(f"_{folder}_" in f"_{stem}_" for folder in outer):
            return f"the folder says {outer[-1]} and the file says {entity}-{inner}. Rename the wrong one."
    return None


# --- whose scans they are ---


def compile_name_pattern(name_pattern: str) -> re.Pattern[str]:
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


def refuse_shared_ids(root: Path, names: Mapping[str, ScanName]) -> None:
    """Refuse files without a subject that seem to be several of one person."""
    unknown = [name for name, told in names.items() if not told.known]
    place, group = _shared_id(unknown)
    if not group:
        return
    raise ValueError(
        f"{root}: no name says whose scan it is, and some seem to be several of one person (such as {some(group)}). "
        "As people of their own they would be on both sides of every split. Say which part of the path is the subject "
        f"with name_pattern (--name-pattern), a regular expression.{_fitting(unknown, place, group[0])} If each file "
        f"is another person: '{_EACH_FILE}'."
    )


_EACH_FILE = r"^(?P<subject>.+?)\.\w+(\.gz)?$"
# Parts of names that look like an identifier and are none: atlases, kinds of scan; visits, runs and sites; groups.
_CONSTANT = re.compile(
    r"(a424|(aal|aicha|schaefer|tian|buckner|glasser|gordon|power|brainnetome|desikan|mni|tr|yeo|smri|[rt]?fmri|bold|rest"
    r"|task|roi|rois|ts|net|networks?|parcels?|runs?|ses|sessions?|visit|day|week|month|year|wave|scan|site|cent(er|re)"
    r"|time|timepoint|tp|block|split|fold|batch|cohort|study|dataset|baseline|followup|pre|post)\d*[a-z]*"
    r"|(re)?test|lr|rl|ap|pa|(19|20)\d\d-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])"
    r"|\d+(p|mm|hz|s|t|net|rois?|parcels)|[37]t|[vt]\d)",
    re.IGNORECASE,
)
_VISIT = re.compile(r"ses|sess|session|visit|run|day|week|month|year|wave|tp|time|timepoint|rest|task", re.IGNORECASE)
_GROUP = re.compile(r"(controls?|patients?|cases?|healthy|hc|nc|td|mdd|sz|scz|ad|mci|asd|adhd|group)", re.IGNORECASE)
_SEPARATORS = r"[/_. -]+"
_PART = r"[^/_. -]+"


def _pieces(name: str) -> list[str]:
    """Parts of a name and what separates them, in turn: `S01R1_rest` -> `S01`, ``, `R1`, `_`, `rest`."""
    folders, stem = name_parts(name)
    # A point is none in 0.72, and an identifier may end where letters follow.
    text = re.sub(r"(?<!\d)((?:19|20)\d\d)[-_](\d\d)[-_](\d\d)(?!\d)", r"\1\2\3", "/".join([*folders, stem]))
    pieces = re.split(r"([/_ -]+|(?<!\D\d)\.)", text)
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
            if len(parts) > place:
                groups[tuple(parts[: place + 1])].append(name)
        # One may be the beginning of the others: 100307, 100307_retest.
        groups = {start: sorted(group, key=lambda name: -len(tokens[name])) for start, group in groups.items()}
        longer = {start for start, group in groups.items() if len(tokens[group[0]]) > place + 1}
        shared = {start: group for start, group in groups.items() if len(group) > 1 and start in longer}
        varies = len({tuple(parts[: place + 1]) for parts in tokens.values()}) > 1
        for start, group in shared.items():
            word = start[-1]
            if any(map(str.isdigit, word)) and (varies or _looks_like_id(word)) and not _is_constant(start, place):
                return place, group
        # Words with the same endings: ann_rest1, ann_rest2, bob_rest1, bob_rest2.
        endings = Counter(tuple(parts[place + 1 :]) for parts in tokens.values() if len(parts) > place + 1)
        words = {start[-1] for start in shared}
        other = any(_CONSTANT.fullmatch(word) or _GROUP.fullmatch(word) for word in words)
        if varies and len(shared) > 1 and max(endings.values()) > 1 and not other:
            return place, next(iter(shared.values()))
        # Words before runs, visits and dates alone: ann, ann_retest, bob.
        for group in shared.values():
            places = [(tokens[name], at) for name in group for at in range(place + 1, len(tokens[name]))]
            runs = all(_is_constant(parts, at) for parts, at in places)
            if varies and runs and not other:
                return place, group
    # An identifier that comes later: REST1/100307, REST2/100307.
    for place in [*range(1, longest), *range(-1, -longest, -1)]:
        owners: dict[str, list[str]] = defaultdict(list)
        for name, parts in tokens.items():
            if not -len(parts) <= place < len(parts) or _is_constant(parts, place):
                continue
            if _looks_like_id(parts[place]) or all(_is_constant(parts, at) for at in range(place % len(parts))):
                owners[parts[place]].append(name)
        several = [group for group in owners.values() if len(group) > 1]
        if several and len(owners) > 1 and sum(map(len, owners.values())) == len(names):
            return place, several[0]
    return 0, []


def _is_constant(parts: Sequence[str], place: int) -> bool:
    """Whether a part is a kind of scan, a visit or a run, also where its number stands apart: `ses-1`."""
    before = parts[place - 1] if place % len(parts) else ""
    numbered = _VISIT.fullmatch(before) and re.fullmatch(r"\d{1,2}", parts[place])
    return bool(numbered or _CONSTANT.fullmatch(parts[place]))


def says_visit(name: str) -> bool:
    """Whether a folder of the path is a visit, a run or a kind of scan."""
    return any(_is_constant(parts := re.split(_SEPARATORS, folder), len(parts) - 1) for folder in name_parts(name)[0])


def _looks_like_id(word: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z]{1,12}\d{2,}|\d{3,}", word)) and not _CONSTANT.fullmatch(word)


def proposal(names: Sequence[str]) -> str:
    """A name_pattern for names of which several seem to be of one person, as a sentence, or nothing."""
    place, group = _shared_id(names)
    return _fitting(names, place, group[0]) if group else ""


def _fitting(names: Sequence[str], place: int, example: str) -> str:
    """A name_pattern whose subject is the part of the name at `place`, if it fits all names, as a sentence."""
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
        tried.append(rf"{start}{before}(?P<subject>{subject})({_SEPARATORS}(?P<run>.+?))?{end}")
    for pattern in tried:
        if all(re.search(pattern, name) for name in names):
            return f" Fitting here: '{pattern}'."
    return ""


# --- parts of a name ---


def is_image(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(IMAGE_SUFFIXES) and not re.search(r"\.[dp][a-z]*\.nii$", lower)


def suffix_of(name: str) -> str:
    lower = name.lower()
    suffix = series_suffix(name) or next(
        (end for end in (*IMAGE_SUFFIXES, DENSE_SUFFIX)[::-1] if lower.endswith(end)), ""
    )
    return suffix or Path(name).suffix


def name_parts(name: str) -> tuple[list[str], str]:
    """Folders below the split's, and the file's name without suffix."""
    *folders, base = name.split("/")
    if folders and folders[0] in SPLITS:
        folders = folders[1:]
    return folders, base[: len(base) - len(suffix_of(base))]


def entity_of(name: str, entity: str) -> str | None:
    match = re.search(rf"(?:^|_){entity}-([A-Za-z0-9+]+)", name.rsplit("/", 1)[-1])
    return match[1] if match else None


def some(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(map(str, names[:_MAX_NAMED])) + (f" and {rest} more" if rest > 0 else "")
