"""What the converters of models that learn by latent prediction share: the predictor, sizes, tables of parcels."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from .conversion_base import WB, ConversionError, GivenFile, block_rules, encoder_sizes

PREDICTOR_RULES = [
    (r"predictor\.mask_token", "predictor.mask_token"),
    (rf"predictor\.predictor_embed\.{WB}", r"predictor.embed.\g<wb>"),
    *block_rules(r"predictor\.predictor_blocks\.", "predictor."),
    (rf"predictor\.predictor_norm\.{WB}", r"predictor.layernorm.\g<wb>"),
    (rf"predictor\.predictor_proj\.{WB}", r"predictor.projection.\g<wb>"),
    (rf"fc_norm\.{WB}", r"classifier.norm.\g<wb>"),
]
# The authors' convolution of a patch is (width, 1, 1, patch).
PATCHES_ARE_ROWS = (("patch_projection.weight", lambda kernel: kernel[:, 0, 0, :].contiguous()),)


def sizes_of(
    weights: Mapping[str, Any], net: str, downstream: bool, heads: int, predictor_heads: int
) -> dict[str, Any]:
    """Fields of the configuration with the sizes of encoder and predictor; a downstream file has no predictor."""
    values = encoder_sizes(weights, f"{net}.norm", f"{net}.blocks.")
    values |= {"num_attention_heads": heads, "predictor_num_attention_heads": predictor_heads}
    if downstream:  # none is built either
        return {**values, "predictor_hidden_size": 4 * heads, "predictor_num_attention_heads": heads}
    return {
        **values,
        **encoder_sizes(weights, "predictor.predictor_norm", "predictor.predictor_blocks.", "predictor_"),
    }


def check_table(what: str, table: np.ndarray, n_rois: int, columns: int) -> None:
    """Raise ConversionError for a table of parcels of another size than the weights imply."""
    if len(table) != n_rois:
        raise ConversionError(f"The {what} table has {len(table)} rows, expected {n_rois}, one an ROI.")
    if table.shape[1] != columns:
        raise ConversionError(f"The {what} table has {table.shape[1]} columns, expected {columns} by the weights.")


def store_table(
    converted: dict[str, torch.Tensor], networks: Iterable[str], name: str, table: np.ndarray | None, shape: Any = None
) -> None:
    """Put a table of parcels, or zeros of `shape`, into every network."""
    values = torch.zeros(shape) if table is None else torch.from_numpy(np.array(table, dtype=np.float32))
    converted.update({f"{network}.{name}": values.clone() for network in networks})


def table_source(config: Any, name: str, file: GivenFile, known: str = "") -> str:
    """Say in the configuration where a table came from; returns a note for the card."""
    setattr(config, config.table_sources[name], f"{file.path.name} (SHA-256 {file.sha256[:16]}{known})")
    return f"The {name} table comes from `{file.path.name}`, SHA-256 `{file.sha256}`{known}"
