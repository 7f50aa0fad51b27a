"""Convert the Brain-JEPA authors' checkpoints to folders that `from_pretrained` loads.

    brain-transformers convert brain_jepa --checkpoint jepa-ep300.pth.tar --gradient gradient_mapping_450.csv
    --output brain-jepa-base/

`--checkpoint` is the pretraining file (target encoder, context encoder and predictor all come along) or a fine-tuned
or linear-probed `checkpoint-*.pth`. Depths, widths and patch size are read from the weights. The gradient table is not
in any checkpoint: it is read from the authors' CSV and stored in the converted model. The number of attention heads is
known for the published widths and must be given for others. The authors state no licence for their weights: ask them
before you publish converted ones.
"""

import re
from typing import Any

import numpy as np
import torch

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
    unwrapped,
)
from ..conversion_latent_prediction import (
    PATCHES_ARE_ROWS,
    PREDICTOR_RULES,
    check_table,
    sizes_of,
    store_table,
    table_source,
)
from .configuration_brain_jepa import BrainJEPAConfig
from .family import GRADIENT_SHA256
from .modeling_brain_jepa import BrainJEPAForMaskedModeling, BrainJEPAForSequenceClassification

# Heads of the published widths (paper and released training scripts).
PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16}
PUBLISHED_N_ROIS = 450

_NET = r"(?P<net>brain_jepa|context_encoder)\."


def _position_rules(source: str, target: str) -> list[tuple[str, str]]:
    return [
        (rf"{source}emb_h", rf"{target}.time_positions"),
        (rf"{source}emb_w", rf"{target}.roi_positions"),
        (rf"{source}predictor_pos_embed_proj\.{WB}", rf"{target}.gradient_projection.\g<wb>"),
    ]


KEY_MAP = KeyMap(
    rules=[
        (rf"{_NET}patch_embed\.proj\.{WB}", r"\g<net>.embeddings.patch_projection.\g<wb>"),
        *_position_rules(rf"{_NET}pos_embed_proj\.", r"\g<net>.embeddings.positions"),
        *block_rules(rf"{_NET}blocks\.", r"\g<net>."),
        (rf"{_NET}norm\.{WB}", r"\g<net>.layernorm.\g<wb>"),
        *_position_rules(r"predictor\.predictor_2dpe_proj\.", "predictor.positions"),
        *PREDICTOR_RULES,
        (r"head\.0\.(?P<stat>running_mean|running_var|num_batches_tracked)", r"classifier.batch_norm.\g<stat>"),
        (rf"head\.(?:1\.)?{WB}", r"classifier.linear.\g<wb>"),
    ],
    shaped=PATCHES_ARE_ROWS,
)


_PARTS = {"encoder": "context_encoder", "predictor": "predictor", "target_encoder": "brain_jepa"}


def flatten_checkpoint(content: dict[str, Any]) -> tuple[dict[str, torch.Tensor], bool]:
    """All weights of a file under one name each, and whether it is a downstream (fine-tuned or probed) file.

    Raises:
        ConversionError: if it is neither a pretraining nor a downstream file.
    """
    if all(isinstance(content.get(part), dict) for part in _PARTS):
        parts = {f"{ours}.{key}": value for theirs, ours in _PARTS.items() for key, value in content[theirs].items()}
        return unwrapped(parts), False
    model = content.get("model")
    if isinstance(model, dict) and any(key.startswith("encoder.") for key in model):
        return unwrapped({re.sub(r"^encoder\.", "brain_jepa.", key): value for key, value in model.items()}), True
    raise ConversionError(
        "This is no Brain-JEPA checkpoint: expected a pretraining file with encoder, predictor and target_encoder, "
        f"or a fine-tuned one with model, got the keys {list(content)[:6]}."
    )


def infer_config(
    weights: dict[str, torch.Tensor],
    downstream: bool,
    gradients: np.ndarray | None,
    num_attention_heads: int | None = None,
    n_rois: int | None = None,
    n_timepoints: int | None = None,
) -> Any:
    """Configuration of a checkpoint from the shapes of its weights and what they do not tell.

    Args:
        weights, downstream: see [`flatten_checkpoint`].
        gradients: `(n_rois, n_components)` table.
        num_attention_heads: of encoder and predictor; known for the published widths.
        n_rois, n_timepoints: needed only where there is no gradient table.

    Raises:
        ConversionError: if something that cannot be read from the weights is missing or contradicts them.
    """
    heads = published_heads(len(tensor_of(weights, "brain_jepa.norm.weight")), num_attention_heads, PUBLISHED_HEADS)
    patch_size = tensor_of(weights, "brain_jepa.patch_embed.proj.weight").shape[-1]
    n_tokens = len(tensor_of(weights, "brain_jepa.pos_embed_proj.emb_h"))
    projection = weights.get("brain_jepa.pos_embed_proj.predictor_pos_embed_proj.weight")
    if projection is not None and gradients is None:
        raise ConversionError(
            "The gradient table is not in the file and the model does not run without it. Pass --gradient with the "
            "authors' gradient_mapping_450.csv."
        )
    if n_rois is None and gradients is not None:
        n_rois = len(gradients)
    if n_rois is None and n_timepoints is not None and n_timepoints >= patch_size:
        n_rois = n_tokens // (n_timepoints // patch_size)
    if n_rois is None:
        raise ConversionError(f"The file holds {n_tokens} tokens. Pass --n-rois or --n-timepoints to split them.")
    n_windows = n_tokens // n_rois
    given_windows = n_windows if n_timepoints is None else n_timepoints // patch_size
    if n_windows * n_rois != n_tokens or n_windows != given_windows:
        raise ConversionError(
            f"The position table has {n_tokens} rows, which are not {n_rois} ROIs x "
            f"{given_windows} windows of {patch_size} frames. Use the gradient table that belongs to this checkpoint."
        )
    values: dict[str, Any] = {
        "n_rois": n_rois,
        "n_timepoints": n_windows * patch_size,
        "patch_size": patch_size,
        **sizes_of(weights, "brain_jepa", downstream, heads, heads),
        "position_type": "index" if projection is None else "gradient",
        "gradient_source": None,
        "mask_rule": "published",
    }
    if projection is not None and gradients is not None:
        values["gradient_size"] = projection.shape[1]
        check_table("gradient", gradients, n_rois, projection.shape[1])
    if n_rois != PUBLISHED_N_ROIS:
        values |= {"roi_order": None, "t_r": None}
    if downstream:
        head = weights.get("head.weight", weights.get("head.1.weight"))
        if head is None:
            raise ConversionError("The fine-tuned file has no head (head.weight or head.1.weight).")
        pooled = "fc_norm.weight" in weights
        values |= {
            "num_labels": len(head),
            "pooling": "mean" if pooled else "first",
            "classifier_norm": pooled,
            "classifier_head": "batch_norm_linear" if "head.1.weight" in weights else "linear",
        }
        if len(head) == 1:
            values["problem_type"] = "regression"
    return BrainJEPAConfig(**values)


def convert_checkpoint(
    content: dict[str, Any], gradients: np.ndarray | None, **sizes: int | None
) -> ConvertedCheckpoint:
    """Turn the content of an authors' file into ours, strictly.

    Args:
        content: what `torch.load` gives (tensors may be on the meta device).
        gradients: `(n_rois, n_components)` table; not needed for positions by index.
        sizes: what neither tells, see [`infer_config`].

    Raises:
        ConversionError: if anything is unknown, missing, or of a shape that the rest does not imply.
    """
    weights, downstream = flatten_checkpoint(content)
    config = infer_config(weights, downstream, gradients, **sizes)
    model_class: Any = BrainJEPAForSequenceClassification if downstream else BrainJEPAForMaskedModeling
    converted, report = KEY_MAP.convert(weights)
    networks = ("brain_jepa",) if downstream else ("brain_jepa", "context_encoder")
    table = gradients if config.position_type == "gradient" else None
    store_table(converted, networks, "gradients", table, (0, config.gradient_size))
    check_against_model(model_class, config, converted)
    return ConvertedCheckpoint(model_class, config, converted, report)


def convert(checkpoint: GivenFile, gradient: GivenFile | None = None, **sizes: int | None) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    converted = convert_checkpoint(checkpoint.content, None if gradient is None else gradient.content, **sizes)
    if gradient is not None and converted.config.position_type == "gradient":
        known = ", the authors' table" if gradient.sha256 == GRADIENT_SHA256 else ""
        converted.notes.append(f"{table_source(converted.config, 'gradients', gradient, known)}.")
    elif converted.config.position_type == "index":
        converted.notes.append("Positions are by ROI index; the model takes no gradients.")
    return converted


CONVERTER = Converter(
    description=__doc__,
    files=(
        InputFile("checkpoint", "checkpoint", "a Brain-JEPA checkpoint", "jepa-ep300.pth.tar or a fine-tuned .pth"),
        InputFile(
            "gradient",
            "table",
            "a gradient table: numbers, a row an ROI, no header, as in the authors' gradient_mapping_450.csv",
            "the authors' gradient_mapping_450.csv, or another .csv or .npy",
        ),
    ),
    flags={
        "num_attention_heads": {"type": int, "help": "for widths other than 384, 768 and 1024"},
        "n_rois": {"type": int, "help": "only for models without a gradient table"},
        "n_timepoints": {"type": int, "help": "frames of a window, likewise"},
    },
    convert=convert,
)
