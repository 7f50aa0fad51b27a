"""Series and T1 volumes of the same people as rows of pairs."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..optional import require
from .row_kinds import PAIR, SERIES, T1, RowKind, column_of, kind_of
from .scan_folders import ScanFolderBuilder
from .scan_names import NAME_COLUMNS

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")
    pa = require("pyarrow", extra="data", purpose="datasets of scans")

_MAX_NAMED = 5


def pair_datasets(series: Any, volumes: Any, *, only_pairs: bool = False) -> Any:
    """Join series and T1 volumes by person and session, for models of both (BrainHarmony).

    A series gets the volume of its session, or the only one of its person; a volume of another session is told, and
    several volumes of which nothing says which is meant are an error. Who lacks one of them has a row without it, so
    that a model masks its tokens.

    Args:
        series: dataset of series, or of several splits of them; columns of participants are taken from here.
        volumes: dataset of T1 volumes, or of several splits, whose volumes are looked for all together.
        only_pairs: leave out who lacks a series or a volume.

    Returns:
        A dataset of pairs with the splits of `series`. A volume without series goes to the split of its person's other
        scans, or to its own where there is one of that name; else it is left out, with a warning.

    Raises:
        ValueError: if these are no such datasets, scans do not say whose they are, nothing belongs together, or
            several volumes may belong to one scan.
    """
    parts = dict(series) if isinstance(series, Mapping) else {"": series}
    of_t1 = dict(volumes) if isinstance(volumes, Mapping) else {"": volumes}
    for given, kind, flag in ((parts, SERIES, "series"), (of_t1, T1, "volumes")):
        for rows in given.values():
            _check(rows, kind, flag)
    t1_split = [name for name, rows in of_t1.items() for _ in range(len(rows))]
    t1 = datasets.concatenate_datasets([rows.with_format(None) for rows in of_t1.values()])
    people, sessions = column_of(t1, "subject"), column_of(t1, "session")
    places: dict[str, list[int]] = {}
    for place, person in enumerate(people):
        places.setdefault(person, []).append(place)
    chosen: dict[str, list[int | None]] = {}
    split_of: dict[str, str] = {}
    unlike = []
    for split, rows in parts.items():
        chosen[split] = []
        for person, session in zip(column_of(rows, "subject"), column_of(rows, "session")):
            found = _volume_for(person, session, places.get(person, []), sessions, t1)
            chosen[split].append(found)
            split_of[person] = split
            if found is not None and session is not None and sessions[found] not in (None, session):
                unlike.append(f"{person} {session} with {sessions[found]}")
    used = {place for places_ in chosen.values() for place in places_ if place is not None}
    if not used:
        raise ValueError(
            f"No series and T1 volume are of one person: series are of {_some(split_of)}, volumes of {_some(people)}. "
            "Make the names the same, or say with name_pattern (--name-pattern) where the subject stands in the paths."
        )
    if unlike:
        warnings.warn(
            f"{len(unlike)} scans get the T1 volume of another session of their person ({unlike[0]}).",
            UserWarning,
            stacklevel=2,
        )
    alone: dict[str, list[int]] = {split: [] for split in parts}
    lost = []
    for place in range(len(t1)):
        if place not in used and not only_pairs:
            split = split_of.get(people[place], t1_split[place])
            alone[split].append(place) if split in alone else lost.append(people[place])
    if lost:
        warnings.warn(
            f"{len(lost)} T1 volumes are of people without a series ({_some(lost)}), and nothing says which split "
            "they belong to: they are left out.",
            UserWarning,
            stacklevel=2,
        )
    joined = {
        split: _joined(rows, t1, chosen[split], alone[split], only_pairs).with_format("numpy")
        for split, rows in parts.items()
    }
    return datasets.DatasetDict(joined) if isinstance(series, Mapping) else joined[""]


def _check(rows: Any, kind: RowKind, called: str) -> None:
    """Raise ValueError unless the rows are of this kind and say whose scans they are."""
    names = getattr(rows, "column_names", None) or ()
    found = kind_of(names)
    if found is not kind:
        what = found.name if found is not None else type(rows).__name__
        raise ValueError(f"Expected {called} as a dataset of {kind.name}, got {what}. Make it with prepare.")
    if lacking := {"subject", "session", "subject_known", "source_file"} - set(names):
        raise ValueError(f"Expected {called} that say whose they are, got rows without {', '.join(sorted(lacking))}.")
    unknown = [
        source
        for source, known in zip(column_of(rows, "source_file"), column_of(rows, "subject_known"))
        if known is False
    ]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(rows)} files of {kind.name} do not say whose they are (first: {unknown[0]}), so "
            "that nothing can be joined with them. Say where the subject stands in the path with name_pattern "
            "(--name-pattern)."
        )


def _volume_for(
    person: str, session: str | None, places: Sequence[int], sessions: Sequence[str | None], t1: Any
) -> int | None:
    """The place of the volume that belongs to a scan, `None` if its person has none."""
    same = [place for place in places if session is not None and sessions[place] == session]
    found = same or [place for place in places if sessions[place] is None] or list(places)
    if len(found) > 1:
        files = [str(t1[place]["source_file"]) for place in found[:_MAX_NAMED]]
        raise ValueError(
            f"{len(found)} T1 volumes may belong to the scan of {person}{f' session {session}' if session else ''}: "
            f"{', '.join(files)}. Keep one: prepare the volumes by themselves, with a --pattern that finds it "
            "(prepare --kind t1), and join that dataset."
        )
    return found[0] if found else None


def _joined(rows: Any, t1: Any, chosen: Sequence[int | None], alone: Sequence[int], only_pairs: bool) -> Any:
    """Series with the volumes that were chosen for them, then volumes alone."""
    volumes = _volumes(t1)
    columns = datasets.Dataset(datasets.table.InMemoryTable(volumes.take(pa.array(chosen, pa.int64()))))
    # Side by side, since series may be larger than the memory.
    joined = datasets.concatenate_datasets([rows.with_format(None), columns], axis=1)
    if only_pairs and None in chosen:
        joined = joined.select([number for number, place in enumerate(chosen) if place is not None])
    extra = {name: kind for name, kind in joined.features.items() if name not in PAIR.features()}
    features = PAIR.features(extra)
    joined = joined.select_columns(list(features)).cast(features) if len(joined) else joined
    if not alone:
        return joined
    own = t1.with_format("arrow")[:].take(pa.array(alone, pa.int64()))
    more = volumes.take(pa.array(alone, pa.int64()))
    kept = {name: more.column(name) for name in more.column_names}
    beside = (*NAME_COLUMNS, "subject_known", "source_file", *extra)
    kept |= {name: own.column(name) for name in beside if name in own.column_names}
    schema = features.arrow_schema
    cells = [
        kept[field.name].cast(field.type) if field.name in kept else pa.nulls(len(alone), field.type)
        for field in schema
    ]
    table = datasets.table.InMemoryTable(pa.Table.from_arrays(cells, schema=schema))
    return datasets.concatenate_datasets([joined, datasets.Dataset(table)])


def _volumes(t1: Any) -> Any:
    """The columns of volumes in a row of a pair, as an Arrow table."""
    table = t1.with_format("arrow")[:]
    names = {**{name: name for name in T1.columns}, "source_file": "t1_source_file", "session": "t1_session"}
    return table.select(list(names)).rename_columns(list(names.values()))


def _some(people: Any) -> str:
    names = sorted(set(people))
    return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")


class PairFolderBuilder:
    """Series and T1 volumes, each of a builder of its folder or a dataset, as one dataset of pairs; for `prepare`.

    Args:
        series, volumes: a [`ScanFolderBuilder`], or rows.
        only_pairs: see [`pair_datasets`].
    """

    kind = PAIR

    def __init__(self, series: Any, volumes: Any, *, only_pairs: bool = False) -> None:
        self._given, self._only_pairs = (series, volumes), only_pairs
        for given, kind, called in ((series, SERIES, "series"), (volumes, T1, "volumes")):
            if not isinstance(given, ScanFolderBuilder):  # before the other is read, which may take hours
                for rows in given.values() if isinstance(given, Mapping) else (given,):
                    _check(rows, kind, called)

    def _told(self, name: str) -> list[Any]:
        return [getattr(given, name) for given in self._given if hasattr(given, name)]

    @property
    def skipped(self) -> dict[str, str]:
        """See [`ScanFolderBuilder`]."""
        return {name: why for part in self._told("skipped") for name, why in part.items()}

    @property
    def left_out(self) -> dict[str, str]:
        """See [`ScanFolderBuilder`]."""
        return {name: why for part in self._told("left_out") for name, why in part.items()}

    @property
    def people(self) -> set[str]:
        """See [`ScanFolderBuilder.people`]."""
        return set().union(*self._told("people"))

    def made_of(self) -> dict[str, Any]:
        """See [`ScanFolderBuilder.made_of`]."""

        def of(given: Any) -> Any:
            if isinstance(given, ScanFolderBuilder):
                return given.made_of()
            return {
                name: part._fingerprint for name, part in (given if isinstance(given, dict) else {"": given}).items()
            }

        series, volumes = map(of, self._given)
        return {"series": series, "volumes": volumes, "only_pairs": self._only_pairs}

    def rows(self, read: Callable[[ScanFolderBuilder], Any]) -> Any:
        """See [`ScanFolderBuilder.rows`]."""
        series, volumes = (read(given) if isinstance(given, ScanFolderBuilder) else given for given in self._given)
        return pair_datasets(series, volumes, only_pairs=self._only_pairs)
