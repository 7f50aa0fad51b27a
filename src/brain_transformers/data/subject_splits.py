"""Splits of a dataset in which all scans of a person, or of a family, stay on one side."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..optional import require
from .participants import is_gap
from .row_kinds import column_of

if TYPE_CHECKING:
    import datasets
else:
    datasets = require("datasets", extra="data", purpose="datasets of scans")

# Different numbers from which on a column is cut into as many groups of equal size.
_MOST_CLASSES, _N_QUANTILES = 10, 5
_ALL = "\0all"  # no value of a column


def split_subjects(
    rows: "datasets.Dataset",
    shares: Mapping[str, float],
    *,
    stratify: str | None = None,
    groups: str | None = None,
    seed: int = 0,
) -> "datasets.DatasetDict":
    """Split a dataset by its subjects: sessions and runs of a person, and people of a group, are never parted.

    Groups are drawn in an order that follows from the seed and their names alone, the larger ones first, and each goes
    where scans are lacking most; with `stratify` that is counted for each value besides.

    Args:
        rows: a dataset of scans.
        shares: share of each split, such as `{"train": 0.8, "validation": 0.1, "test": 0.1}`; they sum to 1.
        stratify: column whose values are to be as frequent in every split, such as `"sex"`; numbers of more than ten
            values, such as an age, count as five groups of equal size.
        groups: column that keeps people together besides, such as `"family_id"`; where it is empty nobody is kept.
        seed: of the order.

    Raises:
        ValueError: for shares that do not sum to 1, a column that is not there, a scan without a subject, or fewer
            groups than splits.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        said = " ".join(f"{name}={share:g}" for name, share in shares.items())
        raise ValueError(f"Expected shares above 0 that sum to 1 (--split), got {said or 'none'}.")
    for column in (stratify, groups):
        if column is not None and column not in rows.column_names:
            raise ValueError(f"There is no column {column!r} to split by, only {', '.join(rows.column_names)}.")
    subjects = column_of(rows, "subject")
    if missing := [number for number, subject in enumerate(subjects) if is_gap(subject)]:
        raise ValueError(f"Expected a subject for every scan, got none for scan {missing[0]}. Leave it out.")
    together = _together(subjects, None if groups is None else column_of(rows, groups))
    members: dict[str, list[int]] = {}
    for number, name in enumerate(together):
        members.setdefault(name, []).append(number)
    if len(members) < len(shares):
        raise ValueError(f"{len(members)} people or groups make no {len(shares)} splits. Use fewer splits.")
    strata = ["" for _ in subjects] if stratify is None else _classes(column_of(rows, stratify))
    # A seed of names: a scan more or less does not shuffle the others anew.
    drawn = {name: np.random.default_rng([seed, *name.encode()]).random() for name in members}
    order = sorted(members, key=lambda name: (-len(members[name]), drawn[name]))
    sizes = Counter(strata) + Counter({_ALL: len(strata)})
    held = {split: Counter[str]() for split in shares}
    parts: dict[str, list[int]] = {split: [] for split in shares}
    for name in order:
        wanted = Counter(strata[number] for number in members[name]) + Counter({_ALL: len(members[name])})

        def excess(split: str, wanted: Counter[str] = wanted) -> float:
            """By how much the squares of what is too much or too little in a split grow, relative to its share."""
            aims = {kind: shares[split] * sizes[kind] for kind in wanted}
            return sum(n * (2 * (held[split][kind] - aims[kind]) + n) / aims[kind] for kind, n in wanted.items())

        best = min(shares, key=excess)
        held[best].update(wanted)
        parts[best] += members[name]
    for split in shares:  # a small share of few people
        if not parts[split]:
            giver = max(parts, key=lambda other: len({together[number] for number in parts[other]}))
            given = together[parts[giver][-1]]
            parts[split], parts[giver] = members[given], [n for n in parts[giver] if together[n] != given]
    return datasets.DatasetDict({split: rows.select(sorted(numbers)) for split, numbers in parts.items()})


def _together(subjects: list[Any], groups: list[Any] | None) -> list[str]:
    """A name for each scan that is the same for all that belong together, directly or through others."""
    leader: dict[str, str] = {}

    def first(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    names = [f"subject {subject}" for subject in subjects]
    for name, group in zip(names, groups or []):
        if not is_gap(group):
            low, high = sorted((first(name), first(f"group {group}")))
            leader[high] = low
    return [first(name) for name in names]


def _classes(values: list[Any]) -> list[str]:
    """The stratum of each scan."""
    known = [value for value in values if not is_gap(value)]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    if not numbers or len(set(known)) <= _MOST_CLASSES:
        return ["n/a" if is_gap(value) else str(value) for value in values]
    bounds = np.quantile(known, np.linspace(0, 1, _N_QUANTILES + 1)[1:-1])
    return ["n/a" if is_gap(value) else str(int(np.searchsorted(bounds, value))) for value in values]


def describe_strata(dataset: "datasets.DatasetDict", stratify: str) -> list[str]:
    """How a column is spread over the splits, in words."""
    said = []
    columns = {split: column_of(rows, stratify) for split, rows in dataset.items()}
    everything = _classes([value for values in columns.values() for value in values])
    for split, values in columns.items():
        own, everything = everything[: len(values)], everything[len(values) :]
        numbers = [value for value in values if isinstance(value, (int, float)) and not is_gap(value)]
        if len(set(numbers)) > _N_QUANTILES:
            said.append(f"{split}: {stratify} {np.mean(numbers):.3g} on average")
        else:
            counts = sorted(Counter(own).items())
            said.append(f"{split}: {', '.join(f'{stratify} {kind} {100 * n / len(own):.0f} %' for kind, n in counts)}")
    return said
