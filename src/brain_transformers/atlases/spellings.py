"""How tools spell the names of parcels, and the orders that names of files declare.

Labels are compared as lists: `7Networks_LH_Vis_1` is another parcel in each of Schaefer's ten resolutions, so names of
one resolution never stand for those of another.
"""

import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from .assets import ATLASES, atlas_labels, rows_of_edition

# Tian's own short names, for the long ones that this package ships.
_TIAN = {
    "hippocampus_head_med": "HIP-head-m", "hippocampus_head_lat": "HIP-head-l", "hippocampus": "HIP",
    "thalamus_VP_med": "THA-VPm", "thalamus_VP_lat": "THA-VPl", "thalamus_VA_inf": "THA-VAi",
    "thalamus_VA_sup": "THA-VAs", "thalamus_DA_med": "THA-DAm", "thalamus_DA_lat": "THA-DAl", "thalamus": "THA",
    "putamen": "PUT", "caudate": "CAU", "amygdala_lat": "lAMY", "amygdala_med": "mAMY", "accumbens": "NAc",
    "GP_post": "pGP", "GP_ant": "aGP",
}  # fmt: skip
_NETWORKS = "Vis|SomMot|DorsAttn|SalVentAttn|Limbic|Cont|Default|TempPar"
_SCHAEFER = re.compile(rf"(?:(?:7|17)networks_)?[lr]h_(?:{_NETWORKS})[a-z]*_.+", re.IGNORECASE)
# The next coarser resolution: so few names of Schaefer's parcels may be those of another one.
_COARSER = 300
# Names that only count: of rows, columns or label values.
_COUNTED = re.compile(
    r"(roi|parcel|region|label|node|network|area|value|col(umn)?|var|v|x|c|t|tr|time( ?point)?|frame|vol(ume)?|scan)?"
    r"[ _.-]*\d+",
    re.IGNORECASE,
)


def plain_spelling(label: str) -> str:
    """A label without what tools change: case, the edition in front, and the signs between its parts."""
    text = re.sub(r"^(7|17)networks_", "", label.strip().casefold())
    return re.sub(r"[\s_.-]+", "_", text)


@functools.cache
def _known() -> dict[str, str]:
    """Plain spelling -> the one name of a parcel; that of the 7-network edition for Schaefer's."""
    names: dict[str, str] = {}
    for atlas in ATLASES:
        labels = atlas_labels(atlas)
        own = labels
        if atlas == "schaefer400-17net":
            # The editions name the same 400 parcels differently (vertex overlap 100 %).
            own = tuple(rows_of_edition(np.array(atlas_labels("schaefer400-7net")), atlas).tolist())
        names |= {plain_spelling(label): name for label, name in zip(labels, own)}
        if atlas == "tian-s3":
            for label in labels:
                long = next(word for word in sorted(_TIAN, key=len, reverse=True) if label.startswith(word))
                names[plain_spelling(label.replace(long, _TIAN[long], 1))] = label
    return names


@functools.lru_cache(maxsize=64)
def canonical_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    """One name for each parcel, whichever edition and tool named it; labels that are not known stay as they are.

    Names of Schaefer's parcels are known only where all of the list are among the 400 and more than 300 are there,
    since coarser resolutions have the same names for other parcels; else they get a mark that no other list has.
    """
    known = _known()
    names = [known.get(plain_spelling(label), label) for label in labels]
    schaefer = [number for number, label in enumerate(labels) if _SCHAEFER.fullmatch(label)]
    if len(schaefer) <= _COARSER or any(names[number] not in _schaefer400() for number in schaefer):
        for number in schaefer:
            names[number] = f"{labels[number]} of {len(schaefer)}"
    return tuple(names)


def matched_rows(source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """Row of `source` for each label of `target`, (n_target,) int64; -1 where it has none.

    Labels match by the parcel that they name, else by a spelling that is one label's alone.
    """
    ours, wanted = canonical_labels(tuple(source)), canonical_labels(tuple(target))
    rows: dict[str, int] = {}
    for row, name in enumerate(ours):
        plain = plain_spelling(name)
        rows[plain] = -1 if plain in rows else row
    rows |= {name: row for row, name in enumerate(ours)}
    return np.array([rows.get(name, rows.get(plain_spelling(name), -1)) for name in wanted], dtype=np.int64)


@functools.cache
def _schaefer400() -> frozenset[str]:
    return frozenset(atlas_labels("schaefer400-7net"))


def other_resolution(labels: Sequence[str]) -> int:
    """How many names of Schaefer's parcels a list has that may be those of another resolution than 400; 0 for none."""
    return (
        sum(name.endswith(f" of {count}") for name in canonical_labels(tuple(labels)))
        if (count := sum(bool(_SCHAEFER.fullmatch(label)) for label in labels))
        else 0
    )


def only_counted(labels: Iterable[str]) -> bool:
    """Whether labels say nothing but numbers, such as `ROI_1`, `ROI_2`, ..."""
    return all(_COUNTED.fullmatch(label.strip()) for label in labels)


# What names of files say, as patterns, and the order with its number of parcels.
_DECLARED = (
    (r"schaefer(?:2018)?[_-]?17n(?:et(?:work)?s?)?[_-]?400p?(?:arcels)?", "schaefer400-17net"),
    (r"schaefer(?:2018)?[_-]?7n(?:et(?:work)?s?)?[_-]?400p?(?:arcels)?", "schaefer400-7net"),
    (r"schaefer(?:2018)?[_-]?400p?(?:arcels)?(?:[_-]?17n(?:et(?:work)?s?)?|x17)", "schaefer400-17net"),
    (r"schaefer(?:2018)?[_-]?400p?(?:arcels)?(?:[_-]?7n(?:et(?:work)?s?)?|x7)", "schaefer400-7net"),
    (r"tian[_-]?(?:subcortex)?[_-]?s(?:cale)?[_-]?(?:3|iii)(?:[_-]?[37]t)?", "tian-s3"),
    (r"a424", "a424"),
)


def declared_order(name: str) -> str | None:
    """The order that the name of a file, or of an atlas, declares; `None` if it names none, or several.

    `fMRI.Schaefer17n400p` is `schaefer400-17net`, `Schaefer2018_400Parcels_7Networks` is `schaefer400-7net`,
    `Tian_Subcortex_S3_3T` is `tian-s3`.
    """
    found = {
        order for words, order in _DECLARED if re.search(rf"(?<![a-z0-9]){words}(?![a-z0-9])", name, re.IGNORECASE)
    }
    return found.pop() if len(found) == 1 else None
