"""What the configurations of models of parcel series share."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict

from ..atlases.parcel_tables import SOURCES, parcel_table
from .configuration_base import BrainConfig, ScanFacts


@strict
class ROIConfig(BrainConfig):
    """Base of the configurations of models that read series of parcels, in words that the extractor checks.

    Args:
        n_rois: parcels of a sample, or `None` to accept any.
        n_timepoints: timepoints of a window.
        patch_size: timepoints of a token.
        roi_order: name of the parcel order that the weights expect, or the list of labels, or `None` if unknown.
        t_r: repetition time of the training data in seconds, or `None` if unknown.
    """

    size_fields = (*BrainConfig.size_fields, "n_rois", "n_timepoints", "patch_size")

    n_rois: int | None = None
    n_timepoints: int = 200
    patch_size: int = 16
    roi_order: str | list[str] | None = None
    t_r: float | int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, source in self.table_sources.items():
            if getattr(self, source) == "package":
                setattr(self, source, None)
                table = self.tables.get(name)
                known = None if table is None else parcel_table(name, self.roi_order, int(table.shape[1] or 0))
                if known is not None and len(known) == self.n_rois:
                    setattr(self, source, SOURCES[name])
        super().__post_init__(**kwargs)

    def t_r_for(self, t_r: float) -> float:
        """Repetition time of a new model like this one for scans with `t_r`: theirs."""
        return t_r

    def fitted_to(self, facts: ScanFacts, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """See [`BrainConfig.fitted_to`]: parcels and repetition time are those of the scans.

        A configuration without an order takes theirs, with the rule of its family where it is a known one (sorted by
        the centres or not).
        """
        found: dict[str, Any] = {"n_rois": facts.n_rois}
        wanted = chosen.get("roi_order", self.roi_order or type(self)().roi_order)
        if facts.roi_order is not None:
            order = facts.roi_order
            by_centres = all(isinstance(name, str) for name in (wanted, order)) and str(wanted).endswith("@y")
            found["roi_order"] = f"{order}@y" if by_centres and not str(order).endswith("@y") else order
        if "t_r" not in chosen:
            found["t_r"] = None if facts.t_r is None else facts.t_r if self.t_r is None else self.t_r_for(facts.t_r)
        return {**found, **chosen}
