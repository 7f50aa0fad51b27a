"""The names and settings of the BrainLM authors' ViT in ours; `conversion_brainlm` converts both of their networks."""

from typing import Any

import torch

from ..conversion_base import WB, ConversionError, KeyMap
from .configuration_brainlm_vit import BrainLMViTConfig
from .family import FAMILY

A424_N_ROIS = 424

_LAYER = r"(?P<layer>\d+)"


def encoder_and_decoder(source: str, target: str) -> list[tuple[str, str]]:
    """The same rule for the layers of the encoder (`BODY.layers`) and of the decoder."""
    return [
        (rf"vit\.encoder\.layer\.{_LAYER}\.{source}", rf"BODY.layers.\g<layer>.{target}"),
        (rf"decoder\.decoder_layers\.{_LAYER}\.{source}", rf"decoder.layers.\g<layer>.{target}"),
    ]


MLP_RULES = [
    *encoder_and_decoder(rf"attention\.output\.dense\.{WB}", r"attention.out_proj.\g<wb>"),
    *encoder_and_decoder(rf"intermediate\.dense\.{WB}", r"mlp.fc1.\g<wb>"),
    *encoder_and_decoder(rf"output\.dense\.{WB}", r"mlp.fc2.\g<wb>"),
]

IMAGE_KEY_MAP = KeyMap(
    rules=[
        (r"vit\.embeddings\.cls_token", "BODY.embeddings.cls_token"),
        (r"vit\.embeddings\.position_embeddings", "BODY.embeddings.positions"),
        (rf"vit\.embeddings\.patch_embeddings\.projection\.{WB}", r"BODY.embeddings.patch_projection.\g<wb>"),
        *MLP_RULES,
        *encoder_and_decoder(rf"(?P<norm>layernorm_before|layernorm_after)\.{WB}", r"\g<norm>.\g<wb>"),
        (rf"vit\.layernorm\.{WB}", r"BODY.layernorm.\g<wb>"),
        (r"decoder\.mask_token", "decoder.mask_token"),
        (r"decoder\.decoder_pos_embed", "decoder.positions"),
        (rf"decoder\.decoder_embed\.{WB}", r"decoder.embed.\g<wb>"),
        (rf"decoder\.decoder_norm\.{WB}", r"decoder.layernorm.\g<wb>"),
        (rf"decoder\.decoder_pred\.{WB}", r"decoder.prediction.\g<wb>"),
        (rf"mlp_pred_head\.lin(?P<n>[123])\.{WB}", r"classifier.fc\g<n>.\g<wb>"),
    ],
    fused=encoder_and_decoder(rf"attention\.attention\.(?P<part>query|key|value)\.{WB}", r"attention.qkv.\g<wb>"),
)


def need(config: dict[str, Any], names: tuple[str, ...]) -> None:
    absent = [name for name in names if name not in config]
    if absent:
        raise ConversionError(
            f"config.json lacks {', '.join(absent)}. It does not belong to these weights: copy the config.json that "
            "was published beside them."
        )


SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)
OPTIONAL_FIELDS = ("hidden_act", "hidden_dropout_prob", "layer_norm_eps", "initializer_range", "mask_ratio")


def image_config(authors: dict[str, Any], state_dict: dict[str, torch.Tensor], n_rois: int | None) -> Any:
    """Configuration of the ViT from the authors' values."""
    need(authors, (*SHARED_FIELDS, "patch_size"))
    side = authors.get("image_size")
    if isinstance(side, list | tuple):
        if len(set(side)) != 1:
            raise ConversionError(f"image_size {side} is not square; the published models use 432 or 434 squared.")
        side = side[0]
    own = ("num_channels", "attention_probs_dropout_prob", "qkv_bias", "norm_pix_loss", "train_mode")
    values = {name: authors[name] for name in (*SHARED_FIELDS, *OPTIONAL_FIELDS, *own) if name in authors}
    published = (BrainLMViTConfig(**model.values) for model in FAMILY.models.values() if model.source is not None)
    if n_rois is None and authors["hidden_size"] in {config.hidden_size for config in published}:
        n_rois = A424_N_ROIS
    if any(key.startswith("mlp_pred_head.") for key in state_dict):
        values |= {
            "num_labels": 1,
            "classifier_head": "mlp",
            "classifier_dropout": authors.get("hidden_dropout_prob", 0.0),
            "classifier_loss": authors.get("loss_fn", "mse"),
            "classifier_mask_ratio": authors.get("mask_ratio", 0.75),
            "sigmoid_outputs": authors.get("sigmoid_outputs", False),
            "pos_weight": authors.get("pos_weight"),
            "pooling": "mean_with_cls" if authors.get("use_mean_pooling", False) else "cls",
            "reconstruction_weight": 0.5 if "decoder.mask_token" in state_dict else 0.0,
        }
    order = "a424@y" if n_rois == A424_N_ROIS else None
    return BrainLMViTConfig(
        **values, n_rois=n_rois, patch_size=authors["patch_size"], image_size=side, roi_order=order
    )
