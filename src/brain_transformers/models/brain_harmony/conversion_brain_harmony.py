"""Convert checkpoints of the BrainHarmony authors to folders that `from_pretrained` loads.

    brain-transformers convert brain_harmony --component harmonizer --checkpoint harmonizer/model.pth --output DIR

`--component harmonizer` is the fusion model of stage 1 with its decoder, `finetuned` a classifier of stage 2, `all`
either of them together with the encoders whose tokens it reads (`--fmri-checkpoint` with its two tables,
`--t1-checkpoint`): one folder that takes scans and volumes. The files are containers with the key `model`. Sizes are
read from the weights, but for what no key tells: heads, which are those of the published widths unless they are given,
and how many of the tokens are of T1 (1200).
"""

from typing import Any

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
    count_layers,
    encoder_sizes,
    published_heads,
    tensor_of,
    weights_of,
)
from ..harmonix_f.conversion_harmonix_f import CONVERTER as FMRI_CONVERTER
from ..harmonix_f.conversion_harmonix_f import convert as convert_fmri
from ..harmonix_s.conversion_harmonix_s import convert as convert_t1
from .configuration_brain_harmony import BrainHarmonyConfig
from .modeling_brain_harmony import BrainHarmonyForMaskedModeling, BrainHarmonyForSequenceClassification

_BODY = "brain_harmony."
KEY_MAP = KeyMap(
    rules=[
        (r"cls_token", rf"{_BODY}embeddings.cls_token"),
        (r"pos_embed", rf"{_BODY}embeddings.position_embeddings"),
        (r"latent_tokens", rf"{_BODY}embeddings.hub_tokens"),
        (r"enc_latent_token_positional_embedding", rf"{_BODY}embeddings.hub_positions"),
        (rf"pre_map\.{WB}", rf"{_BODY}embeddings.projection.\g<wb>"),
        (rf"norm\.{WB}", rf"{_BODY}layernorm.\g<wb>"),
        *block_rules(r"blocks\.", _BODY),
        (rf"decoder_embed\.{WB}", r"decoder.embed.\g<wb>"),
        (r"mask_token", "decoder.mask_token"),
        (r"decoder_pos_embed", "decoder.position_embeddings"),
        (r"dec_latent_token_positional_embedding", "decoder.hub_positions"),
        (rf"decoder_norm\.{WB}", r"decoder.layernorm.\g<wb>"),
        (rf"decoder_pred\.{WB}", r"decoder.projection.\g<wb>"),
        *block_rules(r"decoder_blocks\.", "decoder."),
        (rf"fc_norm\.{WB}", r"classifier.norm.\g<wb>"),
        (rf"head\.{WB}", r"classifier.layers.output.\g<wb>"),
        (rf"head\.lin(?P<n>[123])\.{WB}", r"classifier.layers.fc\g<n>.\g<wb>"),
    ],
)
# Width of a published size -> its attention heads, which no key tells.
_HEADS, _DECODER_HEADS = {384: 6, 768: 12, 1024: 16}, {512: 16}


def in_our_shape(name: str, value: torch.Tensor) -> torch.Tensor:
    """A tensor of the authors under our name, without the leading axes of one that their tokens and tables have."""
    tokens, tables = ("cls_token", "mask_token"), ("position_embeddings", "hub_positions")
    n_axes = next((n for n, names in ((1, tokens), (2, tables)) if name.endswith(names)), value.ndim)
    while value.ndim > n_axes and value.shape[0] == 1:
        value = value[0]
    return value


def infer_config(
    weights: dict[str, torch.Tensor],
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    n_t1_tokens: int = 1200,
) -> BrainHarmonyConfig:
    """Configuration of a checkpoint, from the shapes of its weights and what they do not tell.

    Raises:
        ConversionError: if something is missing or cannot be.
    """
    n_hub, width = tensor_of(weights, "latent_tokens").shape
    n_tokens = tensor_of(weights, "pos_embed").shape[1] - 1
    if not 0 <= n_t1_tokens < n_tokens:
        raise ConversionError(f"The file has {n_tokens} tokens, of which {n_t1_tokens} cannot be of T1.")
    values: dict[str, Any] = {
        "n_fmri_tokens": n_tokens - n_t1_tokens,
        "n_t1_tokens": n_t1_tokens,
        "num_hub_tokens": n_hub,
        "hidden_size": width,
        "input_size": weights["pre_map.weight"].shape[1] if "pre_map.weight" in weights else width,
        "num_hidden_layers": count_layers(weights, "blocks."),
        "num_attention_heads": published_heads(width, num_attention_heads, _HEADS),
        "intermediate_size": tensor_of(weights, "blocks.0.mlp.fc1.weight").shape[0],
    }
    if "decoder_embed.weight" in weights:
        decoder = encoder_sizes(weights, "decoder_norm", "decoder_blocks.", "decoder_")
        flag = "--decoder-num-attention-heads"
        heads = published_heads(decoder["decoder_hidden_size"], decoder_num_attention_heads, _DECODER_HEADS, flag)
        return BrainHarmonyConfig(**values, **decoder, decoder_num_attention_heads=heads)
    values["pooling"] = "mean" if "fc_norm.weight" in weights else "cls"
    if "head.lin1.weight" in weights:
        values |= {"classifier_head": "mlp", "classifier_hidden_size": weights["head.lin1.weight"].shape[0]}
        num_labels = tensor_of(weights, "head.lin3.weight").shape[0]
    else:
        num_labels = tensor_of(weights, "head.weight").shape[0]
    values |= {
        "num_labels": num_labels,
        "problem_type": "regression" if num_labels == 1 else "single_label_classification",
        "final_norm": values["pooling"] == "cls",
    }
    return BrainHarmonyConfig(**values)


def convert(
    checkpoint: GivenFile,
    fmri_checkpoint: GivenFile | None = None,
    t1_checkpoint: GivenFile | None = None,
    gradient: GivenFile | None = None,
    harmonics: GivenFile | None = None,
    component: str = "harmonizer",
    num_attention_heads: int | None = None,
    decoder_num_attention_heads: int | None = None,
    n_t1_tokens: int = 1200,
    **encoder_heads: int | None,
) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    encoders = {"fmri_checkpoint": fmri_checkpoint, "t1_checkpoint": t1_checkpoint}
    absent = [f"--{name.replace('_', '-')}" for name, file in encoders.items() if file is None]
    if (component == "all") == bool(absent):
        raise ConversionError(
            f"--component {component} takes {'both' if component == 'all' else 'no'} encoders, got "
            f"{f'no {absent[0]}' if component == 'all' else 'one'}. With them the component is `all`."
        )
    weights = weights_of(checkpoint.content, "model")
    has_decoder, has_head = "decoder_embed.weight" in weights, any(key.startswith("head.") for key in weights)
    wanted = {"harmonizer": (True, False), "finetuned": (False, True)}.get(component, (has_decoder, not has_decoder))
    if (has_decoder, has_head) != wanted:
        found = {(True, False): "a decoder", (False, True): "a head"}.get((has_decoder, has_head), "neither or both")
        raise ConversionError(
            f"--component {component} is a file with a {'decoder' if wanted[0] else 'head'}, this one has {found}. "
            "Stage 1 is `harmonizer`, stage 2 `finetuned`."
        )
    config = infer_config(weights, num_attention_heads, decoder_num_attention_heads, n_t1_tokens)
    converted, report = KEY_MAP.convert(weights)
    converted = {name: in_our_shape(name, value) for name, value in converted.items()}
    model_class: Any = BrainHarmonyForMaskedModeling if has_decoder else BrainHarmonyForSequenceClassification
    notes = [
        "The statistics by which the authors scaled the fMRI of pretraining were never published.",
        f"Heads ({config.num_attention_heads} in the encoder) are in no file: they are those of the published sizes "
        "unless they were given.",
    ]
    if fmri_checkpoint is not None and t1_checkpoint is not None:
        heads = {name.removeprefix("fmri_"): n for name, n in encoder_heads.items() if name.startswith("fmri_")}
        n_windows = config.n_fmri_tokens // (len(gradient.content) if gradient is not None else 1)
        fmri = convert_fmri(fmri_checkpoint, gradient, harmonics, n_windows=n_windows, **heads)
        t1 = convert_t1(t1_checkpoint, encoder_heads.get("t1_num_attention_heads"))
        # Of Harmonix-F the moving average, whose tokens stage 0 holds.
        released = {key: value for key, value in fmri.state_dict.items() if key.startswith("harmonix_f.")}
        fmri.state_dict = {key.removeprefix("harmonix_f."): value for key, value in released.items()}
        used = {key: ours for key, ours in fmri.report.renamed.items() if ours in released}
        if left := len(fmri.report.renamed) - len(used):
            fmri.report.dropped[f"of Harmonix-F ({left} tensors)"] = "the twin and the predictor only pretrain it"
            fmri.report.n_dropped += left
        fmri.report.renamed = {key: ours.removeprefix("harmonix_f.") for key, ours in used.items()}
        for name, part, file in (("fmri", fmri, fmri_checkpoint), ("t1", t1, t1_checkpoint)):
            setattr(config, f"{name}_config", part.config)
            converted |= {f"{_BODY}{name}_encoder.{key}": value for key, value in part.state_dict.items()}
            ours = {f"{name}: {key}": f"{_BODY}{name}_encoder.{each}" for key, each in part.report.renamed.items()}
            report.renamed |= ours
            report.dropped |= part.report.dropped
            report.n_dropped += part.report.n_dropped
            notes += [f"The {name} encoder comes from `{file.path.name}`, SHA-256 `{file.sha256}`.", *part.notes]
        config.validate_architecture()
    check_against_model(model_class, config, converted)
    return ConvertedCheckpoint(model_class, config, converted, report, notes=notes)


CONVERTER = Converter(
    description=__doc__,
    files=(
        InputFile("checkpoint", "checkpoint", "a BrainHarmony checkpoint", "model.pth of the component"),
        InputFile("fmri_checkpoint", "checkpoint", "a Harmonix-F checkpoint", "harmonix-f/model.pth, for `all`"),
        InputFile("t1_checkpoint", "checkpoint", "a Harmonix-S checkpoint", "harmonix-s/model.pth, for `all`"),
        *FMRI_CONVERTER.files[1:],
    ),
    flags={
        "component": {
            "choices": ("harmonizer", "finetuned", "all"),
            "default": "harmonizer",
            "help": "stage 1 with its decoder (the default), a classifier of stage 2, or either with its encoders",
        },
        "num_attention_heads": {"type": int, "help": "attention heads of the encoder"},
        "decoder_num_attention_heads": {"type": int, "help": "attention heads of the decoder"},
        "fmri_num_attention_heads": {"type": int, "help": "of Harmonix-F, for widths other than 768"},
        "fmri_predictor_num_attention_heads": {"type": int, "help": "of its predictor, which is left out"},
        "t1_num_attention_heads": {"type": int, "help": "of Harmonix-S, for widths other than 768"},
        "n_t1_tokens": {"type": int, "default": 1200, "help": "tokens of T1 at the end of the sequence"},
    },
    convert=convert,
)
