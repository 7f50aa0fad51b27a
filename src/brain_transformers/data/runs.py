"""What belongs to one run: tables of several atlases, one table in two formats, and runs that were joined end to end.

Told by names, like everything in `derivatives`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..atlases.roi_orders import ROIOrder, resolve_roi_order
from ..atlases.spellings import declared_order
from .cifti import SUFFIX as PTSERIES
from .errors import ROISeriesReadError
from .scan_names import some, suffix_of
from .sidecars import RUN_OF_NAME
from .tables import is_number, read_lines

if TYPE_CHECKING:
    from .derivatives import FoundScans

# Schaefer-400 in the atlases that XCP-D, QSIPrep and ASLPrep bring, with other parcels behind it.
_WITH_SCHAEFER = re.compile(r"4S456(Parcels)?", re.IGNORECASE)
# Which of several tables with the same parcels is taken.
_PREFERRED = ("schaefer400-17net", "schaefer400-7net")
_OF_A_RUN = re.compile(r"_(outliers|motion|design|timeseries|bold)\.", re.IGNORECASE)


@dataclass(frozen=True)
class ScanParts:
    """What a scan is made of, where that is not one whole file.

    Attributes:
        files: relative paths; the rows of tables of one run follow each other.
        runs: the runs that a file was joined from, in order, each with a table that has a row for each of its frames.
        run: which of them this scan is.
        row: which scan of a file that holds many it is.
    """

    files: tuple[str, ...]
    runs: tuple[tuple[str, str], ...] = ()
    run: str | None = None
    row: int | None = None

    def frames(self, root: Path, n_timepoints: int) -> slice:
        """The frames of this run.

        Raises:
            ROISeriesReadError: if the tables have not as many rows as the file has frames.
        """
        lengths = {run: _n_rows(root / table) for run, table in self.runs}
        if sum(lengths.values()) != n_timepoints:
            raise ROISeriesReadError(
                f"{root / self.files[0]}: expected as many frames as its runs have together ("
                f"{', '.join(f'{run}: {length}' for run, length in lengths.items())}), got {n_timepoints}, so it "
                "cannot be told where one run ends. Process the runs one by one."
            )
        names = list(lengths)
        start = sum(lengths[name] for name in names[: names.index(str(self.run))])
        return slice(start, start + lengths[str(self.run)])


def _n_rows(table: Path) -> int:
    lines = read_lines(table)
    header = bool(lines) and not all(is_number(cell) for cell in re.split(r"[\t, ]+", lines[0].strip()))
    return len(lines) - header


# --- tables of several atlases ---


def atlas_of(name: str, found: "FoundScans") -> str:
    """The atlas that the name of a table tells, or nothing."""
    variant = found.names[name].variant
    return variant.get("atlas") or variant.get("seg") or ""


def choose_tables(
    names: list[str], found: "FoundScans", atlas: str | None = None, roi_order: ROIOrder | None = None
) -> list[str]:
    """The tables of the same atlas of all runs; what is not taken is in `found.left_out`, and `found.notes` says so.

    Args:
        names: relative paths.
        found: their names; tables that are joined come to its `parts`.
        atlas: the user's choice, or several joined with `+`.
        roi_order: what the user wants, which tells the tables that hold it.
    """
    names = _without_second_format(names, found)
    runs: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in names:
        runs[found.names[name].run_key].append(name)
    there = sorted({atlas_of(name, found) for name in names} - {""})
    several = [group for group in runs.values() if len({atlas_of(name, found) for name in group}) > 1]
    if atlas is not None:
        chosen = [value for part in atlas.split("+") for value in there if value.casefold() == part.casefold()]
    elif several:
        chosen = _preferred(there, roi_order)
    else:
        chosen = []
    if not chosen:
        return names
    took = "+".join(chosen)
    kept, without, lacking = [], 0, defaultdict(list)
    for group in runs.values():
        of = [[name for name in group if atlas_of(name, found) == value] for value in chosen]
        others = [name for name in group if atlas_of(name, found) not in chosen]
        if not of[0]:
            without += 1
            found.left_out.update(dict.fromkeys(group, f"there is no table of {chosen[0]} of this run"))
            continue
        found.left_out.update(
            dict.fromkeys(others, f"another atlas of a run of which {took} is taken; choose it with --atlas")
        )
        if all(len(part) <= 1 for part in of):
            members = tuple(name for part in of for name in part)
            for value in (value for value, part in zip(chosen, of) if not part):
                lacking[value].append(members[0])
            kept.append(members[0])
            if len(members) > 1:
                found.parts[members[0]] = ScanParts(members)
        else:
            kept += [name for part in of for name in part]  # which is refused, with the reason
    if atlas is None:
        other = next((value for value in there if value not in chosen), "")
        found.notes.append(
            f"{len(several)} runs come as tables of several atlases ({some(there)}); {took} "
            + ("is taken" if len(chosen) == 1 else "are joined")
            + f". Choose another with atlas (--atlas {other or chosen[0]})."
        )
    for value, those in lacking.items():
        found.notes.append(
            f"{len(those)} of {len(kept)} scans have no table of {value} (first: {those[0]}): its parcels are "
            "missing in these scans, and in no others."
        )
    if without:
        found.notes.append(f"{without} runs have no table of {chosen[0]} and are left out.")
    order = {name: number for number, name in enumerate(names)}
    return sorted(kept, key=order.__getitem__)


def _without_second_format(names: list[str], found: "FoundScans") -> list[str]:
    """Without the `.tsv` of a parcellated CIFTI series, which tells its labels and its time step itself."""

    def same(name: str) -> tuple[object, ...]:
        variant = {key: value for key, value in found.names[name].variant.items() if key != "den"}
        return (found.names[name].run_key, *sorted(variant.items()))

    cifti = {same(name) for name in names if name.lower().endswith(PTSERIES)}
    twice = [name for name in names if not name.lower().endswith(PTSERIES) and same(name) in cifti]
    twice = [name for name in twice if atlas_of(name, found)]
    found.left_out.update(dict.fromkeys(twice, f"the same series as the {PTSERIES} beside it, which is taken"))
    return [name for name in names if name not in set(twice)]


def _preferred(there: Sequence[str], roi_order: ROIOrder | None) -> list[str]:
    """The atlases whose parcels models take, or those that hold what is wanted."""

    def holds(value: str) -> str | None:
        return "schaefer400-7net" if _WITH_SCHAEFER.fullmatch(value) else declared_order(value)

    holding = {value: holds(value) for value in there}
    # XCP-D's table of Tian's subcortex does not say its scale; the labels in it do.
    holding |= {value: "tian-s3" for value in there if value.casefold() == "tian"}

    def first(parts: Sequence[str]) -> list[str]:
        return [value for part in parts for value, held in holding.items() if held == part][:1]

    cortex = [value for value in there if _WITH_SCHAEFER.fullmatch(value)][:1] or first(_PREFERRED)
    if roi_order is None:
        return [*cortex, *first(["tian-s3"])] if cortex else first(["a424"])
    name = resolve_roi_order(roi_order).name
    if name is None:
        return [*cortex, *first(["tian-s3"])]
    chosen: list[str] = []
    for part in name.split("+"):
        own = first([part, *_PREFERRED] if part in _PREFERRED else [part])
        chosen += (cortex or own) if part in _PREFERRED and not first([part]) else own
    return list(dict.fromkeys(chosen))


# --- runs that were joined ---


def without_joined_runs(root: Path, names: list[str], everything: Sequence[str], found: "FoundScans") -> list[str]:
    """Cut files that hold several runs of a task end to end, or leave them out where the single runs are there.

    XCP-D (`--combine-runs`, the default of its modes abcd and hbcd) and the ABCD-BIDS pipeline join runs: the name has
    no `run-`, beside files that have it. Each run has its own scale and time, and a window across a seam means
    nothing.
    """
    of_run: dict[tuple[str, tuple[str, ...]], dict[str, str]] = defaultdict(dict)
    for name in everything:
        folder, _, base = name.rpartition("/")
        if (
            not ("_run-" in base or "_dir-" in base)
            or not _OF_A_RUN.search(base)
            or not (match := RUN_OF_NAME.match(base))
        ):
            continue
        tokens = match[0].split("_")
        for dropped in (("run-",), ("dir-",), ("dir-", "run-")):
            rest = tuple(token for token in tokens if not token.startswith(dropped))
            run = "_".join(token for token in tokens if token.startswith(dropped))
            if run and len(rest) == len(tokens) - len(dropped):
                table = of_run[folder, rest].setdefault(run, "")
                if re.search(r"_(outliers|motion)\.tsv$", base) and not table.endswith("_outliers.tsv"):
                    of_run[folder, rest][run] = name
    here: dict[str, list[str]] = defaultdict(list)
    for name in names:
        here[name.rpartition("/")[0]].append(name)
    kept = []
    for name in names:
        folder, _, base = name.rpartition("/")
        match = RUN_OF_NAME.match(base)
        runs = of_run.get((folder, tuple(match[0].split("_"))), {}) if match else {}
        told = [run for run, table in runs.items() if table]
        singles = match and len(runs) > 1 and any(_same_but_run(other, match[0], base) for other in here[folder])
        if len(runs) < 2 or not (singles or len(told) > 1):
            kept.append(name)
        elif singles:
            found.left_out[name] = "several runs joined end to end; the single runs are taken"
        elif len(told) == len(runs):
            kept += _cut(name, runs, found)
        else:
            found.unusable[name] = (
                f"{root / name}: {len(runs)} runs joined end to end ({some(sorted(runs))}), and nothing tells where "
                "one ends (no outliers.tsv or motion.tsv of each). Windows across the seams mean nothing: process the "
                "runs one by one (xcp_d --combine-runs n)."
            )
            kept.append(name)
    if both := [name for name in names if found.left_out.get(name, "").startswith("several runs joined")]:
        found.notes.append(
            f"{len(both)} files hold several runs end to end and are left out, since the single runs are there too "
            f"(first: {both[0]})."
        )
    if cut := {parts.files[0] for name, parts in found.parts.items() if parts.run is not None}:
        found.notes.append(
            f"{len(cut)} files hold several runs end to end (first: {sorted(cut)[0]}); they are cut at the seams, a "
            "scan a run."
        )
    return kept


def _cut(name: str, runs: dict[str, str], found: "FoundScans") -> list[str]:
    """The runs of a file as scans of their own, in order: run-10 comes after run-9."""
    in_order = sorted(
        runs.items(), key=lambda item: [int(n) if n.isdigit() else 0 for n in re.split(r"(\d+)", item[0])]
    )
    whole, parts = found.names[name], found.parts.pop(name, ScanParts((name,)))
    keys = []
    for run, _ in in_order:
        columns = {**whole.columns, **dict(_entity(token) for token in run.split("_"))}
        keys.append(f"{name}#{run}")
        found.names[keys[-1]] = replace(
            whole, columns=columns, run_key=(*whole.run_key[:-2], run, *whole.run_key[-2:])
        )
        found.parts[keys[-1]] = ScanParts(parts.files, tuple(in_order), run)
    return keys


def _same_but_run(other: str, run: str, base: str) -> bool:
    """Whether a name of the same folder says the same but which run it is."""
    name = other.rpartition("/")[2]
    match = RUN_OF_NAME.match(name)
    if not match or match[0] == run:
        return False
    plain, wanted = (re.sub(r"_(run|dir)-[^_.]+", "", text) for text in (match[0], run))
    return plain == wanted and name[match.end() :] == base[len(run) :]


def _entity(token: str) -> tuple[str, str]:
    entity, _, value = token.partition("-")
    return entity, value


# --- cleaned images of HCP ---

_HCP_IMAGE = re.compile(
    r"(?:^|.*/)MNINonLinear/Results/(?P<run>[^/]+)/(?P=run)(?:_Atlas(?:_MSMAll)?)?(?:_hp\d+[a-z]*)?"
    r"(?:_clean|_rclean|_tclean)*(?:\.dtseries\.nii|\.nii(?:\.gz)?)"
)


def is_hcp_image(name: str) -> bool:
    """Whether an image is the series of a run in HCP's `MNINonLinear/Results`."""
    return _HCP_IMAGE.fullmatch(name) is not None


def cleanest(names: list[str], found: "FoundScans") -> list[str]:
    """Of each run of HCP the image that was cleaned most."""
    best: dict[tuple[str, ...], str] = {}
    for name in names:
        if match := _HCP_IMAGE.fullmatch(name):
            key = (name.rpartition("/")[0], match["run"])
            before = best.get(key)
            if before is None or len(suffix_free(name)) > len(suffix_free(before)):
                best[key] = name
    chosen = set(best.values())
    less = [name for name in names if _HCP_IMAGE.fullmatch(name) and name not in chosen]
    found.left_out.update(dict.fromkeys(less, "the same run before cleaning; the cleaned image is taken"))
    if less:
        found.notes.append(f"{len(less)} images are left out for cleaned ones of the same runs (first: {less[0]}).")
    return [name for name in names if name not in set(less)]


def suffix_free(name: str) -> str:
    """The name without its format."""
    return name[: len(name) - len(suffix_of(name))]
