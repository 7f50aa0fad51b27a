"""The repetition time of a scan: from its header, its BIDS sidecars, or the user, and never from two that disagree."""

import functools
import math
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any

from ..foreign import read_json
from ..processing.time import check_t_r
from .errors import ROISeriesReadError
from .participants import is_gap

# Headers are float32 and some tools round to milliseconds.
_TOLERANCE = 1e-3
# Entities that a table of parcels, or a denoised image, has in another form than the image that it was made from.
_MAY_DIFFER = frozenset(
    {"space", "desc", "res", "den", "atlas", "seg", "scale", "stat", "label", "echo", "part", "cohort"}
)
RUN_OF_NAME = re.compile(r"sub-[^_.]+(?:_(?:ses|task|acq|ce|rec|dir|run|echo)-[^_.]+)*")
"""The beginning of a BIDS name that says which run it is of, before what tools add to it."""
_MOST_SOURCES = 50
_ENTITY = re.compile(r"([A-Za-z0-9]+)-([A-Za-z0-9.+]+)")


def scan_t_r(path: str | Path, *, given: float | None = None, header: float | None = None) -> float | None:
    """The repetition time of one scan, in seconds; `None` if nothing tells.

    Args:
        path: the scan. Its sidecars are those of BIDS: `<name>.json` beside it, and JSON files in its folder and the
            folders above, up to the dataset's root, whose entities are all among its own. The nearest that has a
            `RepetitionTime`, or a `SamplingFrequency` in Hz, counts; a gap (`null`, `"n/a"`) is none. A table of
            parcels also asks the `_bold.json` of its run, and then those of the `Sources` that its sidecar names.
        given: what the user says; it wins, with a warning where the files say otherwise.
        header: what the file itself says; `None` or 0 where it says nothing.

    Raises:
        ROISeriesReadError: if a sidecar is damaged, a value cannot be a repetition time, or header and sidecar (or two
            sidecars of equal rank) differ by more than 1 ms. The message names the files and the values.
    """
    path = Path(path)
    if given is not None:
        given = check_t_r(given)
        try:
            told = scan_t_r(path, header=header)
        except ROISeriesReadError as error:
            warnings.warn(f"t_r={given:g} is used as given, but: {error}", UserWarning, stacklevel=3)
            return given
        if told is not None and abs(told - given) > _TOLERANCE:
            warnings.warn(
                f"{path}: t_r={given:g} s was given and is used, but the file and its sidecar say {told:g} s.",
                UserWarning,
                stacklevel=3,
            )
        return given
    in_header = None if not header else _checked(float(header), path, "the repetition time of its header")
    found = _sidecar_t_r(path)
    if found is None:
        return in_header
    in_sidecar, sidecar = found
    if in_header is not None and abs(in_header - in_sidecar) > _TOLERANCE:
        raise ROISeriesReadError(
            f"{path}: expected one repetition time, got {in_header:g} s from its header and {in_sidecar:g} s from "
            f"{sidecar}. Repair the wrong one, or give t_r."
        )
    return in_sidecar


def refuse_other_t_r(path: Path, t_r: float) -> None:
    """Refuse a repetition time that contradicts a sidecar; headers are often wrong, and are only warned of."""
    try:
        told = scan_t_r(path)
    except ROISeriesReadError:
        return  # a damaged sidecar: the reader warns, and takes what is given
    if told is not None and abs(told - t_r) > 1e-3:
        raise ROISeriesReadError(
            f"{path}: expected one repetition time, got t_r={t_r:g} s (--t-r) and {told:g} s from its sidecar. Leave "
            "t_r out, or repair the sidecar."
        )


def _sidecar_t_r(path: Path) -> tuple[float, Path] | None:
    for rank in _ranks(path):
        found: tuple[float, Path] | None = None
        for sidecar in rank:
            if (seconds := _told(sidecar)) is None:
                continue
            if found is not None and abs(found[0] - seconds) > _TOLERANCE:
                raise ROISeriesReadError(
                    f"{path}: expected one repetition time, got {found[0]:g} s from {found[1]} and {seconds:g} s from "
                    f"{sidecar}. Repair the wrong one, or give t_r."
                )
            found = found or (seconds, sidecar)
        if found is not None:
            return found
    return None


def _told(sidecar: Path) -> float | None:
    """What one sidecar says: `RepetitionTime`, or `SamplingFrequency` in Hz, as some derivatives of series have it."""
    content = read_json(sidecar, "a BIDS sidecar", ROISeriesReadError)
    value, rate = content.get("RepetitionTime"), content.get("SamplingFrequency")
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]  # the same for every volume
    seconds = None if is_gap(value) else _checked(value, sidecar, "RepetitionTime")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        return seconds  # XCP-D writes the word "TR"
    of_rate = _checked(round(1 / rate, 6), sidecar, f"the frame of a SamplingFrequency of {rate:g} Hz")
    if seconds is not None and abs(seconds - of_rate) > _TOLERANCE:
        raise ROISeriesReadError(
            f"{sidecar}: expected one repetition time, got RepetitionTime {seconds:g} s and SamplingFrequency "
            f"{rate:g} Hz ({of_rate:g} s). Repair the wrong one, or give t_r."
        )
    return of_rate if seconds is None else seconds


def _checked(value: Any, source: Path, what: str) -> float:
    try:
        return check_t_r(value, "a repetition time")
    except ValueError as error:
        shown = f"{value:g} s" if isinstance(value, float) else repr(value)[:80]
        raise ROISeriesReadError(f"{source}: {what} is {shown}. {error} If the file is wrong, give t_r.") from error


def _ranks(path: Path) -> list[list[Path]]:
    """Sidecars by rank: those of the first rank that tells a repetition time count, and must agree."""
    stems = _stems(path.name)
    # `scan.json`, and `scan.tsv.json` as some tools name it.
    ranks = [[sidecar] for stem in stems if (sidecar := path.with_name(stem + ".json")).is_file()]
    entities, suffix = _parts(stems[0]) if stems else ({}, "")
    folders = _folders(path) if entities else []
    for wanted, may_differ in ((suffix, frozenset[str]()), ("bold", _MAY_DIFFER)):
        for folder in folders:
            fitting: dict[int, list[Path]] = {}
            by_subject = _json_files(folder)
            candidates = [item for subject in {entities.get("sub"), None} for item in by_subject.get(subject, ())]
            for name, others, other_suffix in candidates:
                fits = all(entities.get(key) == value or key in may_differ for key, value in others.items())
                if other_suffix == wanted and fits:
                    same = sum(entities.get(key) == value for key, value in others.items())
                    fitting.setdefault(same, []).append(folder / name)
            # The more entities a sidecar names, the nearer it is.
            ranks += [fitting[count] for count in sorted(fitting, reverse=True)]
    return [rank for rank in [*ranks, _of_sources(path, ranks)] if rank]


def _of_sources(path: Path, ranks: list[list[Path]]) -> list[Path]:
    """Sidecars of the images that a scan was made of, which its own sidecars name as `Sources`, BIDS URIs."""
    root = _folders(path)[-1]
    found: list[Path] = []
    for sidecar in (sidecar for rank in ranks for sidecar in rank):
        sources = read_json(sidecar, "a BIDS sidecar", ROISeriesReadError).get("Sources")
        for source in (
            [one for one in sources if isinstance(one, str)][:_MOST_SOURCES] if isinstance(sources, list) else []
        ):
            match = re.fullmatch(r"(?:bids:([^:/]*):)?(.+?)(?:\.nii(?:\.gz)?|\.[dp]tseries\.nii|\.tsv)", source)
            if match and (place := _dataset(root, match[1] or "")) is not None:
                file = place / f"{match[2]}.json"
                found += [file] if file.name.split("_")[0] == path.name.split("_")[0] and file.is_file() else []
    return list(dict.fromkeys(found))


def _dataset(root: Path, name: str) -> Path | None:
    """The folder of a dataset that a BIDS URI names: this one, or one of the `DatasetLinks` of its description."""
    if not name:
        return root
    description = root / "dataset_description.json"
    links = read_json(description, "a description of a dataset", ROISeriesReadError) if description.is_file() else {}
    link = links.get("DatasetLinks")
    link = link.get(name) if isinstance(link, dict) else None
    if not isinstance(link, str) or re.match(r"(?!file:)\w+:", link):
        return None
    return root / link.removeprefix("file://").removeprefix("file:")


def _stems(name: str) -> list[str]:
    """The name without its format, first without all of it: `a.tsv.gz` -> `a`, `a.tsv`."""
    for end in (".gz", ".nii", ".ptseries", ".npy", ".npz", ".csv", ".tsv", ".mat", ".dat"):
        if name.lower().endswith(end):
            shorter = name[: -len(end)]
            return [*_stems(shorter), shorter]
    return []


def _parts(stem: str) -> tuple[dict[str, str], str]:
    """Entities and suffix of a BIDS name: `sub-01_task-rest_bold` -> ({"sub": "01", "task": "rest"}, "bold")."""
    *chunks, suffix = stem.split("_")
    matches = [_ENTITY.fullmatch(chunk) for chunk in chunks]
    if not all(matches):
        return {}, ""
    return {match.group(1): match.group(2) for match in matches if match}, suffix


def _folders(path: Path) -> list[Path]:
    """The folder of a scan and those above, up to the dataset's root: above `sub-...`, or where it is described."""
    above = list(path.absolute().parents)
    root = next((number for number, folder in enumerate(above) if folder.name.startswith("sub-")), -1) + 1
    described = next((n for n, folder in enumerate(above[:8]) if (folder / "dataset_description.json").is_file()), 0)
    return above[: min(max(root, described), 8) + 1]


_Sidecars = dict[str | None, list[tuple[str, dict[str, str], str]]]


def _json_files(folder: Path) -> _Sidecars:
    """JSON files of a folder with their entities and suffix, by subject, `None` for those of all subjects."""
    changed = folder.stat().st_mtime_ns
    # The clock of file systems is coarse: what has just changed may change again at the same time.
    fresh = time.time_ns() - changed < 2 * 10**9
    return _list_json.__wrapped__(str(folder), changed) if fresh else _list_json(str(folder), changed)


@functools.lru_cache(maxsize=256)
def _list_json(folder: str, changed: int) -> _Sidecars:
    """JSON files of a folder that was last changed at `changed`; a thousand scans ask for the same root."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith(".json") and entry.is_file())
    except PermissionError:  # a folder above that is somebody else's
        return {}
    result: _Sidecars = {}
    for name in names:
        entities, suffix = _parts(name.removesuffix(".json"))
        result.setdefault(entities.get("sub"), []).append((name, entities, suffix))
    return result
