"""Convert the authors' checkpoint of Harmonix-S to a folder that `from_pretrained` loads.

    brain-transformers convert harmonix_s --checkpoint harmonix-s/model.pth --output harmonix-s-base/

`--checkpoint` is the file of the authors' folder, a dictionary with the state dict under `model`, or a bare state
dict. Only the encoder is converted: the authors released no decoder that goes with it, and parts of one in the file
are left out. Sizes are read from the weights; the grid of patches is the authors', 10 x 12 x 10.
"""

from typing import Any

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
    encoder_sizes,
    published_heads,
    tensor_of,
    weights_of,
)
from .configuration_harmonix_s import HarmonixSConfig
from .modeling_harmonix_s import HarmonixSModel

GRID = (10, 12, 10)
# Width of the released weights -> heads, which no key tells.
PUBLISHED_HEADS = {768: 12}
_NO_DECODER = "part of a decoder, whose sizes and code the authors did not publish"

KEY_MAP = KeyMap(
    rules=[
        (r"cls_token", "embeddings.cls_token"),
        (r"pos_embed", "embeddings.positions"),
        (rf"patch_embed\.proj\.{WB}", r"embeddings.patch_projection.\g<wb>"),
        (rf"norm\.{WB}", r"layernorm.\g<wb>"),
        *block_rules(r"blocks\.", ""),
    ],
    dropped=[
        (r"(?P<part>decoder_(?:embed|blocks|norm|pred))\..+", _NO_DECODER),
        (r"mask_token|decoder_pos_embed", _NO_DECODER),
    ],
)


def infer_config(weights: dict[str, Any], num_attention_heads: int | None = None) -> HarmonixSConfig:
    """Configuration of a checkpoint, from the shapes of its weights.

    Raises:
        ConversionError: if something is missing or contradicts the weights.
    """
    kernel, n_positions = tensor_of(weights, "patch_embed.proj.weight"), tensor_of(weights, "pos_embed").shape[1]
    width, side = kernel.shape[0], kernel.shape[-1]
    if tuple(kernel.shape) != (width, 1, side, side, side):
        raise ConversionError(
            f"patch_embed.proj.weight is {tuple(kernel.shape)}, expected one channel and cubes, as in Harmonix-S."
        )
    x, y, z = GRID
    if n_positions != 1 + x * y * z:
        raise ConversionError(
            f"pos_embed has {n_positions} rows, expected {1 + x * y * z}: CLS and {x} x {y} x {z} patches, the only "
            "grid of Harmonix-S."
        )
    return HarmonixSConfig(
        image_size=[size * side for size in GRID],
        patch_size=side,
        **encoder_sizes(weights, "norm", "blocks."),
        num_attention_heads=published_heads(width, num_attention_heads, PUBLISHED_HEADS),
    )


def convert(checkpoint: GivenFile, num_attention_heads: int | None = None) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    weights = weights_of(checkpoint.content, "model")
    config = infer_config(weights, num_attention_heads)
    converted, report = KEY_MAP.convert(weights)
    check_against_model(HarmonixSModel, config, converted)
    notes = ["The position table is the one in the file, not that of the formula."]
    return ConvertedCheckpoint(HarmonixSModel, config, converted, report, notes=notes)


CONVERTER = Converter(
    description=__doc__,
    files=(InputFile("checkpoint", "checkpoint", "a Harmonix-S checkpoint", "harmonix-s/model.pth"),),
    flags={"num_attention_heads": {"type": int, "help": "for widths other than 768"}},
    convert=convert,
)
