"""Convert checkpoints of the BrainMT authors' training code to folders that `from_pretrained` loads.

    brain-transformers convert brain_mt --checkpoint BrainMT_..._best.pth --output brain-mt/

`--checkpoint` is the container that the authors' training code writes, or a bare state dict. No weights were ever
published: this is for what a lab trained itself. Sizes are read from the weights; the mixer too: keys of a backward
path (`A_b_log`) say that it is bidirectional. What no key tells (heads, epsilon, dropout) comes from the stored
configuration, or from `--authors-config`, the same constructor arguments as JSON, or is the authors' default.
"""

import math
from typing import Any

from ..conversion_base import (
    WB,
    ConversionError,
    ConvertedCheckpoint,
    Converter,
    GivenFile,
    InputFile,
    KeyMap,
    check_against_model,
    count_layers,
    tensor_of,
    weights_of,
)
from .configuration_brain_mt import BrainMTConfig
from .modeling_brain_mt import BrainMTForSequenceClassification

KEY_MAP = KeyMap(
    rules=[
        (r"cls_token", "brain_mt.embeddings.cls_token"),
        (r"pos_embed", "brain_mt.embeddings.position_embeddings"),
        (r"temporal_pos_embedding", "brain_mt.embeddings.frame_embeddings"),
        (r"patch_embed\.conv_down\.0\.weight", "brain_mt.embeddings.stem.conv1.weight"),
        (r"patch_embed\.conv_down\.2\.weight", "brain_mt.embeddings.stem.conv2.weight"),
        (
            rf"conv_block(?P<n>[01])\.(?P<part>(?:conv|norm)[12])\.{WB}",
            r"brain_mt.embeddings.stem.block\g<n>.\g<part>.\g<wb>",
        ),
        (r"downsample(?P<n>[01])\.reduction\.0\.weight", r"brain_mt.embeddings.stem.downsample\g<n>.weight"),
        (r"layers\.(?P<layer>\d+)\.mixer\.(?P<rest>.+)", r"brain_mt.mamba_layers.\g<layer>.mixer.\g<rest>"),
        (rf"layers\.(?P<layer>\d+)\.norm\.{WB}", r"brain_mt.mamba_layers.\g<layer>.norm.\g<wb>"),
        (rf"norm_f\.{WB}", r"brain_mt.mamba_norm.\g<wb>"),
        (rf"norm\.{WB}", r"brain_mt.norm.\g<wb>"),
        (
            rf"blocks\.(?P<layer>\d+)\.qkv\.{WB}",
            r"brain_mt.attention_layers.\g<layer>.attention.qkv.\g<wb>",
        ),
        (
            rf"blocks\.(?P<layer>\d+)\.proj\.{WB}",
            r"brain_mt.attention_layers.\g<layer>.attention.out_proj.\g<wb>",
        ),
        (rf"mlp\.(?P<fc>fc[12])\.{WB}", r"brain_mt.mlp.\g<fc>.\g<wb>"),
        (rf"head\.{WB}", r"classifier.\g<wb>"),
    ],
)


def _shape(weights: dict[str, Any], name: str) -> tuple[int, ...]:
    return tuple(tensor_of(weights, name).shape)


def infer_config(
    weights: dict[str, Any], stored: dict[str, Any], divide_directions: bool = False, volume_size: Any = None
) -> BrainMTConfig:
    """Configuration of a checkpoint, from the shapes of its weights and what they do not tell.

    Args:
        weights: the authors' state dict.
        stored: their configuration, with `model` and `task`; may be empty.
        divide_directions: see [`BrainMTConfig`]; no key tells.
        volume_size: voxels (y, x, z); by default the stored ones if their tokens are those of the weights.

    Raises:
        ConversionError: if something is missing or contradicts the weights.
    """
    arguments, task = dict(stored.get("model") or {}), dict(stored.get("task") or {})
    _, n_positions, width = _shape(weights, "pos_embed")
    n_mamba, n_attention = count_layers(weights, "layers."), count_layers(weights, "blocks.")
    values: dict[str, Any] = {
        "n_patches": n_positions - 1,
        "n_frames": _shape(weights, "temporal_pos_embedding")[1],
        "num_channels": _shape(weights, "patch_embed.conv_down.0.weight")[1],
        "stem_widths": [_shape(weights, f"patch_embed.conv_down.{n}.weight")[0] for n in (0, 2)],
        "hidden_size": width,
        "num_mamba_layers": n_mamba,
        "num_attention_layers": n_attention,
        "intermediate_size": _shape(weights, "mlp.fc1.weight")[0],
        "num_labels": _shape(weights, "head.weight")[0],
        "divide_directions": divide_directions,
        "num_attention_heads": arguments.get("num_heads", 2),
        "mamba_norm_eps": float(arguments.get("norm_epsilon", 1e-5)),
        "hidden_dropout_prob": arguments.get("drop_rate", 0.0),
        "attention_probs_dropout_prob": arguments.get("attn_drop_rate", 0.0),
        "classifier_dropout": arguments.get("fc_drop_rate", 0.0),
        "drop_path_rate": arguments.get("drop_path_rate", 0.1),
    }
    if n_mamba:
        inner, state_size = _shape(weights, "layers.0.mixer.A_log")
        values |= {
            "mixer_type": "bidirectional_v2" if "layers.0.mixer.A_b_log" in weights else "causal",
            "expand": inner // width,
            "state_size": state_size,
            "conv_kernel_size": _shape(weights, "layers.0.mixer.conv1d.weight")[2],
            "time_step_rank": _shape(weights, "layers.0.mixer.dt_proj.weight")[1],
            "use_bias": "layers.0.mixer.in_proj.bias" in weights,
            "use_conv_bias": "layers.0.mixer.conv1d.bias" in weights,
            "mamba_norm": "layer" if "layers.0.norm.bias" in weights else "rms",
        }
    if n_attention:
        values["qkv_bias"] = "blocks.0.qkv.bias" in weights
    values["volume_size"] = _volume_size(volume_size, arguments.get("img_size"), n_positions - 1)
    if task.get("name") == "regression" or (not task and values["num_labels"] == 1):
        values["problem_type"] = "regression"
    elif task.get("loss_fn") == "bce_with_logits":
        values["problem_type"] = "multi_label_classification"  # one logit: transformers' rule would take squares
    elif values["num_labels"] > 1:
        values["problem_type"] = "single_label_classification"
    return BrainMTConfig(**values)


def _volume_size(given: Any, stored: Any, n_patches: int) -> list[int] | None:
    """Voxels (y, x, z) if they have the tokens of the weights; the authors' (x, y, z) setting has no effect there."""
    if given is not None:
        if math.prod(BrainMTConfig.grid_of(given)) != n_patches:
            raise ConversionError(
                f"--volume-size {list(given)} has {math.prod(BrainMTConfig.grid_of(given))} patches, the weights "
                f"{n_patches}. Pass voxels as y x z."
            )
        return list(given)
    if isinstance(stored, (list, tuple)) and len(stored) == 3 and all(isinstance(size, int) for size in stored):
        swapped = [stored[1], stored[0], stored[2]]
        if math.prod(BrainMTConfig.grid_of(swapped)) == n_patches:
            return swapped
    return None


def convert(
    checkpoint: GivenFile,
    authors_config: GivenFile | None = None,
    divide_directions: bool = False,
    volume_size: Any = None,
) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    weights = weights_of(checkpoint.content, "model_state_dict")
    stored = checkpoint.content.get("config")
    stored = stored if isinstance(stored, dict) else {}
    if "layers.0.mixer.A_b_log" in weights and not any(".conv1d_b." in key for key in weights):
        raise ConversionError(
            "These weights are of Vim's first bidirectional mixer, whose directions share all but A_b_log; no BrainMT "
            "had it. Expected the second one, with conv1d_b, or the causal one."
        )
    if authors_config is not None:
        given = authors_config.content
        stored = given if "model" in given else {"model": given, "task": stored.get("task")}
    config = infer_config(weights, stored, divide_directions, volume_size)
    converted, report = KEY_MAP.convert(weights)
    check_against_model(BrainMTForSequenceClassification, config, converted)
    notes = [f"The mixer is {config.mixer_type}, as the names of the weights say."]
    warnings = []
    if config.volume_size is None:
        warnings.append(
            "The file does not tell the size of its volumes: any with as many patches are taken, and an (x, y, z) "
            "order goes unnoticed. Pass --volume-size as y x z."
        )
    return ConvertedCheckpoint(
        BrainMTForSequenceClassification, config, converted, report, notes=notes, warnings=warnings
    )


CONVERTER = Converter(
    description=__doc__,
    files=(
        InputFile("checkpoint", "checkpoint", "a BrainMT checkpoint", "..._best.pth, or a bare state dict"),
        InputFile(
            "authors_config",
            "settings",
            "the authors' configuration: model (and task), or the arguments of the model alone",
            "for a state dict without its configuration",
        ),
    ),
    flags={
        "divide_directions": {
            "action": "store_true",
            "help": "the mixer halves the sum of both directions (Vim's if_divide_out; the authors do not)",
        },
        "volume_size": {"type": int, "nargs": 3, "metavar": ("Y", "X", "Z"), "help": "voxels of a frame"},
    },
    convert=convert,
)
