"""What the models of parcel series share: checks of their input, and tokens of single parcels."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import initialization as init

from ..atlases.parcel_tables import SOURCES, parcel_table
from ..layers.masking import check_tensor
from .configuration_roi import ROIConfig
from .modeling_base import BrainPreTrainedModel


def check_series(signals: torch.Tensor, config: Any) -> None:
    """Raise ValueError unless `signals` are `(batch, n_rois, n_timepoints)` with the parcels of `config`."""
    check_tensor("signals", signals)
    if signals.dim() != 3:
        raise ValueError(
            f"signals must be (batch, n_rois, n_timepoints), got {tuple(signals.shape)}. "
            "Add the batch axis, or pass the series through the feature extractor."
        )
    check_n_rois(signals.shape[1], signals.shape[2], config)


def check_n_rois(n_rois: int, n_timepoints: int, config: Any) -> None:
    """Raise ValueError if the model was built for another number of parcels."""
    if config.n_rois is None or n_rois == config.n_rois:
        return
    order = config.roi_order
    named = f"a list of {len(order)} labels" if isinstance(order, list) else repr(order)
    transposed = " The axes look swapped: transpose the last two." if n_timepoints == config.n_rois else ""
    raise ValueError(
        f"This model was built for {config.n_rois} ROIs (roi_order {named}), got signals "
        f"with {n_rois}.{transposed} Use the atlas of the model, or a config with n_rois={n_rois}."
    )


class ROIPreTrainedModel(BrainPreTrainedModel):
    """Base of models that read `signals` `(batch, n_rois, n_timepoints)`."""

    config: ROIConfig
    main_input_name = "signals"
    input_modalities = ["time"]

    def _check_signals(self, signals: torch.Tensor) -> None:
        """Raise ValueError for signals that the model cannot take."""
        check_series(signals, self.config)
        self._check_length(signals.shape[2])

    def _check_length(self, n_timepoints: int) -> None:
        """Raise ValueError for a number of timepoints that the model cannot take."""

    def _reset_tables(self, module: Any) -> None:
        """Give a new network this package's tables, if it has them, and say so in the configuration."""
        for name, source in self.config.table_sources.items():
            table, known = getattr(module, name), None
            if table.is_meta or getattr(table, "_is_hf_initialized", False):
                continue
            if name in self.config.tables and getattr(self.config, source) is not None:
                known = parcel_table(name, self.config.roi_order, table.shape[1])
            if known is None or known.shape != tuple(table.shape):
                # A configuration of saved weights names a table that a new model does not have.
                setattr(self.config, source, None)
                init.zeros_(table)
            else:
                setattr(self.config, source, SOURCES[name])
                init.copy_(table, torch.from_numpy(known))

    def stored_table(self, name: str) -> torch.Tensor:
        """A table of the parcels that was stored in this network.

        Raises:
            ValueError: if none was.
        """
        if getattr(self.config, self.config.table_sources[name]) is None:
            raise ValueError(
                f"This model has no {name} for its {self.config.n_rois} ROIs. Call set_table({name!r}, array, source) "
                "once, or build it with a roi_order that this package knows."
            )
        return getattr(self, name)

    @classmethod
    def n_tokens(cls, config: Any, inputs: Mapping[str, torch.Tensor] | None = None) -> int:
        """See [`BrainPreTrainedModel.n_tokens`]: one token a parcel and patch of timepoints."""
        n_rois, n_timepoints = config.n_rois, config.n_timepoints
        if inputs is not None:
            n_rois, n_timepoints = inputs["signals"].shape[-2:]
        return n_rois * (n_timepoints // config.patch_size)

    def roi_tokens(self, last_hidden_state: torch.Tensor, n_timepoints: int | None = None) -> torch.Tensor:
        """See [`BrainPreTrainedModel.roi_tokens`]."""
        batch, length, width = last_hidden_state.shape
        n_rois, first = self.config.n_rois, int(self.has_cls_token)
        if n_rois is None or (length - first) % n_rois:
            raise ValueError(
                f"Expected {'1 + ' * first}{n_rois} x n_windows tokens in natural order, got {length}: this looks "
                "like the output of a masked pass. Call the body without masks."
            )
        return last_hidden_state[:, first:].reshape(batch, n_rois, (length - first) // n_rois, width)
