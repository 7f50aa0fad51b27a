"""Convert checkpoints of Harmonix-F to folders that `from_pretrained` loads.

    brain-transformers convert harmonix_f --checkpoint harmonix-f/model.pth --gradient gradient_mapping_400.csv
    --harmonics schaefer400_roi_eigenmodes.csv --output harmonix-f-base/

`--checkpoint` is the authors' pretraining file (encoder, predictor and moving average come along) or a state dict of
their classification variant. Widths and depths are read from the weights; heads are known for the published width. The
two tables of the parcels are in no checkpoint: they are read from the authors' files and stored in the model. The
number of patches is not read from the file: position tables of another number are replaced by the formula, as the
authors' code does (`--n-windows`, 18 by default). The authors' README has a badge of CC BY-NC-SA 4.0.
"""

from typing import Any

import numpy as np
import torch

from ...layers.positions import sincos_table
from ..conversion_base import (
    WB,
    ConversionError,
    ConvertedCheckpoint,
    Converter,
    GivenFile,
    InputFile,
    KeyMap,
    block_rules,
    check_against_model,
    published_heads,
    tensor_of,
    weights_of,
)
from ..conversion_latent_prediction import (
    PATCHES_ARE_ROWS,
    PREDICTOR_RULES,
    check_table,
    sizes_of,
    store_table,
    table_source,
)
from .configuration_harmonix_f import HarmonixFConfig
from .modeling_harmonix_f import HarmonixFForMaskedModeling, HarmonixFForSequenceClassification

PUBLISHED_HEADS = {768: 12}
PUBLISHED_N_ROIS = 400

_NET = r"(?P<net>harmonix_f|context_encoder)\."
_NAMES = {"grad_proj": "gradient_projection", "geo_harm_proj": "harmonics_projection"}

KEY_MAP = KeyMap(
    rules=[
        (rf"{_NET}cls_token", r"\g<net>.embeddings.cls_token"),
        (rf"{_NET}patch_embed\.proj\.{WB}", r"\g<net>.embeddings.patch_projection.\g<wb>"),
        (rf"{_NET}pos_embed\.emb_h_encoder", r"\g<net>.embeddings.positions.time_positions"),
        *(
            (rf"{_NET}pos_embed\.{theirs}\.{WB}", rf"\g<net>.embeddings.positions.{ours}.\g<wb>")
            for theirs, ours in _NAMES.items()
        ),
        (r"context_encoder\.pos_embed\.emb_h_decoder", "predictor.time_positions"),
        (rf"context_encoder\.pos_embed\.decoder_pos_embed_proj\.{WB}", r"predictor.parcel_projection.\g<wb>"),
        *block_rules(rf"{_NET}blocks\.", r"\g<net>."),
        (rf"{_NET}norm\.{WB}", r"\g<net>.layernorm.\g<wb>"),
        *PREDICTOR_RULES,
        (rf"head\.{WB}", r"classifier.linear.\g<wb>"),
    ],
    dropped=[
        (
            r"harmonix_f\.pos_embed\.(emb_h_decoder|decoder_pos_embed_proj\..+)",
            "positions of a predictor, which the moving average has none of",
        ),
        (r"predictor\.predictor_pos_embed\..+", "the same module as that of the encoder, which is kept once"),
        (r"cls_token", "of the authors' wrapper, which never reads it"),
    ],
    shaped=PATCHES_ARE_ROWS,
)

_PARTS = {"encoder_ema.": "harmonix_f.", "encoder.": "context_encoder.", "decoder.": "predictor."}


def flatten_checkpoint(content: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Weights under names with the part of our model in front, and whether it is a classification file.

    Raises:
        ConversionError: if it is neither that nor a pretraining file, or its two copies of the positions differ.
    """
    weights = weights_of(content, "model", "state_dict")
    if any(key.startswith("encoder_ema.") for key in weights):
        renamed = {}
        for key, value in weights.items():
            theirs = next((part for part in _PARTS if key.startswith(part)), "")
            renamed[_PARTS.get(theirs, "") + key.removeprefix(theirs)] = value
        for name, value in renamed.items():
            copy = renamed.get(name.replace("predictor.predictor_pos_embed.", "context_encoder.pos_embed."))
            if name.startswith("predictor.predictor_pos_embed.") and not _equal(value, copy):
                raise ConversionError(
                    f"The checkpoint holds two copies of the positions, and {name} differs from the encoder's. "
                    "Expected one module stored twice, as the authors' code does."
                )
        return renamed, False
    if "head.weight" in weights:
        heads = ("head.", "fc_norm.")
        return {key if key.startswith(heads) else f"harmonix_f.{key}": value for key, value in weights.items()}, True
    raise ConversionError(
        "This is no Harmonix-F checkpoint: expected a pretraining file with encoder., decoder. and encoder_ema., or a "
        f"classification one with head.weight, got the keys {list(weights)[:6]}."
    )


def _equal(value: Any, other: Any) -> bool:
    if not isinstance(value, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    return value.is_meta or torch.equal(value, other)


def infer_config(
    weights: dict[str, Any],
    downstream: bool,
    gradients: np.ndarray,
    harmonics: np.ndarray,
    *,
    num_attention_heads: int | None = None,
    predictor_num_attention_heads: int | None = None,
    n_windows: int = 18,
    layer_norm_eps: float = 1e-6,
    predictor_layer_norm_eps: float = 1e-6,
    padded_attention: str = "zero",
    pooling: str | None = None,
) -> HarmonixFConfig:
    """Configuration of a checkpoint, from the shapes of its weights and tables and what they do not tell.

    Raises:
        ConversionError: if something is missing, or contradicts the rest.
    """
    width, _, _, patch_size = tensor_of(weights, "harmonix_f.patch_embed.proj.weight").shape
    heads, n_rois = published_heads(width, num_attention_heads, PUBLISHED_HEADS), len(gradients)
    for name, table, key in (("gradient", gradients, "grad_proj"), ("harmonics", harmonics, "geo_harm_proj")):
        check_table(name, table, n_rois, tensor_of(weights, f"harmonix_f.pos_embed.{key}.weight").shape[1])
    has_cls = "harmonix_f.cls_token" in weights
    values: dict[str, Any] = {
        "n_rois": n_rois,
        "n_timepoints": n_windows * patch_size,
        "patch_size": patch_size,
        **sizes_of(weights, "harmonix_f", downstream, heads, predictor_num_attention_heads or heads),
        "gradient_size": gradients.shape[1],
        "harmonics_size": harmonics.shape[1],
        "use_cls_token": has_cls,
        "pooling": pooling or "mean",
        "padded_attention": padded_attention,
        "layer_norm_eps": layer_norm_eps,
        "predictor_layer_norm_eps": predictor_layer_norm_eps,
    }
    if n_rois != PUBLISHED_N_ROIS:
        values |= {"roi_order": None, "t_r": None}
    if downstream:
        values["num_labels"] = len(tensor_of(weights, "head.weight"))
    return HarmonixFConfig(**values)


def convert(
    checkpoint: GivenFile, gradient: GivenFile | None = None, harmonics: GivenFile | None = None, **flags: Any
) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    if gradient is None or harmonics is None:
        raise ConversionError(
            "The tables of the parcels are not in the file and the model does not run without them. Pass --gradient "
            "with the authors' gradient_mapping_400.csv and --harmonics with schaefer400_roi_eigenmodes.csv."
        )
    weights, downstream = flatten_checkpoint(checkpoint.content)
    known = {name: value for name, value in flags.items() if value is not None}
    config = infer_config(weights, downstream, gradient.content, harmonics.content, **known)
    model_class: Any = HarmonixFForSequenceClassification if downstream else HarmonixFForMaskedModeling
    converted, report = KEY_MAP.convert(weights)
    nets = ("harmonix_f",) if downstream else ("harmonix_f", "context_encoder")
    tables = {"gradients": gradient, "harmonics": harmonics}
    for name, file in tables.items():
        store_table(converted, nets, name, file.content)
    replaced = _replace_time_tables(config, converted, nets)
    check_against_model(model_class, config, converted)
    notes = [
        f"{table_source(config, name, file)}, as it is: the authors' two tables are in different row orders, and the "
        "weights were trained with them so."
        for name, file in tables.items()
    ]
    if replaced:
        notes.append(
            f"Position tables of the file with another number of patches than {config.n_windows} were replaced by the "
            f"formula, as the authors' code does: {', '.join(replaced)}."
        )
    return ConvertedCheckpoint(model_class, config, converted, report, notes=notes)


def _replace_time_tables(
    config: HarmonixFConfig, converted: dict[str, torch.Tensor], nets: tuple[str, ...]
) -> list[str]:
    """Fill in tables of time that the file lacks or has in another size; names of the latter."""
    n_rois, replaced = int(config.n_rois or 0), []
    tables = {f"{net}.embeddings.positions.time_positions": config.hidden_size // 2 for net in nets}
    if len(nets) > 1:
        tables["predictor.time_positions"] = config.predictor_hidden_size // 2
    for key, half in tables.items():
        stored = converted.get(key)
        if stored is not None and tuple(stored.shape) == (n_rois * config.n_windows, half):
            continue
        replaced += [key] if stored is not None else []
        converted[key] = sincos_table((config.n_windows,), half).repeat(n_rois, 1)
    return replaced


CONVERTER = Converter(
    description=__doc__,
    files=(
        InputFile("checkpoint", "checkpoint", "a Harmonix-F checkpoint", "harmonix-f/model.pth"),
        InputFile(
            "gradient", "table", "a gradient table: numbers, a row an ROI, no header", "gradient_mapping_400.csv"
        ),
        InputFile(
            "harmonics",
            "named table",
            "a table of geometric harmonics: a header, then a row an ROI with its index in front",
            "schaefer400_roi_eigenmodes.csv",
        ),
    ),
    flags={
        "num_attention_heads": {"type": int, "help": "for widths other than 768"},
        "predictor_num_attention_heads": {"type": int, "help": "if they differ from those of the encoder"},
        "n_windows": {"type": int, "default": 18, "help": "patches of a window (18)"},
        "layer_norm_eps": {"type": float, "help": "of the encoder (1e-6)"},
        "predictor_layer_norm_eps": {"type": float, "help": "of the predictor (1e-6)"},
        "padded_attention": {"choices": ("zero", "observed"), "help": "see HarmonixFConfig (zero)"},
        "pooling": {"choices": ("mean", "cls"), "help": "of a classification file (mean)"},
    },
    convert=convert,
)
