"""Convert a made-up checkpoint, a state dict, to a folder that `from_pretrained` loads."""

from typing import Any

from ..conversion_base import (
    WB,
    ConvertedCheckpoint,
    Converter,
    GivenFile,
    InputFile,
    KeyMap,
    block_rules,
    check_against_model,
    count_layers,
    tensor_of,
    weights_of,
)
from .configuration_made_up import MadeUpConfig
from .modeling_made_up import MadeUpModel

KEY_MAP = KeyMap(
    rules=[
        (r"cls", "embeddings.cls_token"),
        (r"pos", "embeddings.positions"),
        (rf"patch\.{WB}", r"embeddings.projection.\g<wb>"),
        (rf"norm\.{WB}", r"layernorm.\g<wb>"),
        *block_rules(r"blocks\.", ""),
    ],
    dropped=[(r"decoder\..+", "the decoder of pretraining")],
)


def convert(checkpoint: GivenFile, n_rois: int = 20, **flags: Any) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    weights = weights_of(checkpoint.content, "model")
    width, patch_size = tensor_of(weights, "patch.weight").shape
    n_patches = (tensor_of(weights, "pos").shape[1] - 1) // n_rois
    config = MadeUpConfig(
        n_rois=n_rois,
        n_timepoints=n_patches * patch_size,
        patch_size=patch_size,
        hidden_size=width,
        num_hidden_layers=count_layers(weights, "blocks."),
        intermediate_size=len(tensor_of(weights, "blocks.0.mlp.fc1.bias")),
    )
    converted, report = KEY_MAP.convert(weights)
    check_against_model(MadeUpModel, config, converted)
    return ConvertedCheckpoint(MadeUpModel, config, converted, report)


CONVERTER = Converter(
    description=__doc__,
    files=(InputFile("checkpoint", "checkpoint", "a made-up checkpoint", "made_up.pth"),),
    flags={"n_rois": {"type": int, "default": 20, "help": "parcels of the model"}},
    convert=convert,
)
