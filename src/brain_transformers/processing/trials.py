"""A scan looked at and tried, before anything is made of it: what a check of many scans asks their processor."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .base import ScanProcessor


@dataclass
class Look:
    """What a row holds, as [`ScanProcessor.look`] sees it.

    Attributes:
        facts: name of a column of a table -> text or number.
        warned: what cannot be right for the model.
        remarks: what a user should know of it, of scans that a model takes all the same.
        carpet: gives (n_rows, n_timepoints) values for a picture, NaN where nothing was measured; `None` without one.
        t_r: seconds between their columns, or `None`.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    carpet: Callable[[], np.ndarray] | None = None
    t_r: float | None = None


@dataclass
class Trial:
    """What a processor made of a scan, see [`try_scan`].

    Attributes:
        n_windows: side by side; 0 if the scan is refused.
        observed: share of their tokens of which enough was measured.
        refused: why it is, `""` if it is not.
        warned: what a call warns of.
        remarks: what a call says that asks for nothing, and what was done to the scan.
    """

    n_windows: int = 0
    observed: float = 0.0
    refused: str = ""
    warned: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def try_scan(processor: "ScanProcessor", item: Any, number: int = 0) -> Trial:
    """What a call of a processor makes of a row or scan, and says of it; of its windows only the first is made."""
    probe, found = copy.deepcopy(processor), Trial()
    probe._warned.add("units")  # which a look at it tells

    def told(key: Any, message: str) -> None:
        if key not in probe._warned:
            probe._warned.add(key)
            kind = key[0] if isinstance(key, tuple) else key
            (found.remarks if kind in probe.mild else found.warned).append(message)

    # A processor of several modalities holds one for each.
    for part in (probe, *(value for value in vars(probe).values() if hasattr(value, "warn_once"))):
        part.warn_once = told
    try:
        scan, name, facts = probe.named(item, number, {})
        checked = probe.check(scan, name, **facts)
        starts = probe.starts(checked, window="all")
        mask = probe.mask(checked, starts)
        batch = probe.cut(checked, starts[:1])
        probe.refuse_infinite(batch, [name])
        probe.report([checked], [starts[:1]], batch)
    except ValueError as error:
        found.refused = str(error)
        return found
    found.n_windows, found.observed = len(starts), 1.0 if mask is None else float(mask.mean())
    found.remarks += checked.done()
    return found
