"""Convert the BrainLM authors' checkpoints to folders that `from_pretrained` loads.

    python conversion/convert_brainlm.py --checkpoint vitmae_650M/ --output brainlm-650m/ --coordinates
    A424_Coordinates.dat

`--checkpoint` is a folder of the authors' hub repository (`old_13M`, `vitmae_111M`, `vitmae_650M`, or a fine-tuned
one) with `config.json` and `pytorch_model.bin`; the Trainer files beside them are ignored. Which of the two unrelated
networks it holds is read from the names of the weights. The licence of the published weights (CC BY-NC-ND 4.0) lets
you convert them for yourself; ask the authors before you publish converted or fine-tuned weights.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from checkpoints import (
    ConversionError,
    KeyMap,
    KeyReport,
    add_common_arguments,
    check_against_model,
    check_layers,
    check_output,
    command_line,
    read_json,
    read_torch_checkpoint,
    reading,
    save_converted,
    sha256_of,
)

import brain_transformers as bt
from brain_transformers.hub.registry import load_config

A424_N_ROIS = 424

_LAYER = r"(?P<layer>\d+)"


def _encoder_and_decoder(source: str, target: str) -> list[tuple[str, str]]:
    """The same rule for the layers of the encoder (`BODY.layers`) and of the decoder."""
    return [
        (rf"vit\.encoder\.layer\.{_LAYER}\.{source}", rf"BODY.layers.\g<layer>.{target}"),
        (rf"decoder\.decoder_layers\.{_LAYER}\.{source}", rf"decoder.layers.\g<layer>.{target}"),
    ]


_WB = r"(?P<wb>weight|bias)"

_MLP_RULES = [
    *_encoder_and_decoder(rf"attention\.output\.dense\.{_WB}", r"attention.out_proj.\g<wb>"),
    *_encoder_and_decoder(rf"intermediate\.dense\.{_WB}", r"mlp.fc1.\g<wb>"),
    *_encoder_and_decoder(rf"output\.dense\.{_WB}", r"mlp.fc2.\g<wb>"),
]

TOKENS_KEY_MAP = KeyMap(
    rules=[
        (r"vit\.embeddings\.cls_token", "BODY.embeddings.cls_token"),
        (rf"vit\.embeddings\.signal_embedding_projection\.{_WB}", r"BODY.embeddings.signal_projection.\g<wb>"),
        (rf"vit\.embeddings\.xyz_embedding_projection\.{_WB}", r"BODY.embeddings.coordinate_projection.\g<wb>"),
        (r"vit\.embeddings\.pos_embedding\.pe", "BODY.embeddings.time_positions"),
        (r"decoder\.pos_embedding\.pe", "decoder.time_positions"),
        *_MLP_RULES,
        *_encoder_and_decoder(r"attention\.self\.conv\.weight", "attention.token_convolution.weight"),
        *_encoder_and_decoder(rf"attention\.output\.LayerNorm\.{_WB}", r"attention_layernorm.\g<wb>"),
        *_encoder_and_decoder(rf"output\.LayerNorm\.{_WB}", r"mlp_layernorm.\g<wb>"),
        (rf"vit\.layernorm\.{_WB}", r"BODY.layernorm.\g<wb>"),
        (r"decoder\.mask_token", "decoder.mask_token"),
        (rf"decoder\.decoder_embed\.{_WB}", r"decoder.embed.\g<wb>"),
        (rf"decoder\.decoder_xyz_projection\.{_WB}", r"decoder.coordinate_projection.\g<wb>"),
        (rf"decoder\.decoder_norm\.{_WB}", r"decoder.layernorm.\g<wb>"),
        (rf"decoder\.decoder_pred(?P<n>[12])\.{_WB}", r"decoder.prediction\g<n>.\g<wb>"),
    ],
    fused=_encoder_and_decoder(rf"attention\.self\.(?P<part>query|key|value)\.{_WB}", r"attention.qkv.\g<wb>"),
    dropped=[(rf"decoder\.decoder_pred\.{_WB}", "never used by the authors' code")],
)

IMAGE_KEY_MAP = KeyMap(
    rules=[
        (r"vit\.embeddings\.cls_token", "BODY.embeddings.cls_token"),
        (r"vit\.embeddings\.position_embeddings", "BODY.embeddings.positions"),
        (rf"vit\.embeddings\.patch_embeddings\.projection\.{_WB}", r"BODY.embeddings.patch_projection.\g<wb>"),
        *_MLP_RULES,
        *_encoder_and_decoder(rf"(?P<norm>layernorm_before|layernorm_after)\.{_WB}", r"\g<norm>.\g<wb>"),
        (rf"vit\.layernorm\.{_WB}", r"BODY.layernorm.\g<wb>"),
        (r"decoder\.mask_token", "decoder.mask_token"),
        (r"decoder\.decoder_pos_embed", "decoder.positions"),
        (rf"decoder\.decoder_embed\.{_WB}", r"decoder.embed.\g<wb>"),
        (rf"decoder\.decoder_norm\.{_WB}", r"decoder.layernorm.\g<wb>"),
        (rf"decoder\.decoder_pred\.{_WB}", r"decoder.prediction.\g<wb>"),
        (rf"mlp_pred_head\.lin(?P<n>[123])\.{_WB}", r"classifier.fc\g<n>.\g<wb>"),
    ],
    fused=_encoder_and_decoder(rf"attention\.attention\.(?P<part>query|key|value)\.{_WB}", r"attention.qkv.\g<wb>"),
)


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """Result of [`convert_state_dict`]: class to build, its configuration, the weights, and the account of keys."""

    model_class: Any
    config: Any
    state_dict: dict[str, torch.Tensor]
    report: KeyReport

    @property
    def body_name(self) -> str:
        return self.model_class.base_model_prefix


def detect_architecture(keys: Any) -> str:
    """`"tokens"` (13M) or `"image"` (111M, 650M, fine-tuned), from the names of the weights.

    Raises:
        ConversionError: if it is neither.
    """
    if "vit.embeddings.signal_embedding_projection.weight" in keys:
        return "tokens"
    if "vit.embeddings.patch_embeddings.projection.weight" in keys:
        return "image"
    shown = ", ".join(list(keys)[:4])
    raise ConversionError(
        "These are not weights of BrainLM: neither vit.embeddings.signal_embedding_projection.weight (13M) nor "
        f"vit.embeddings.patch_embeddings.projection.weight (111M, 650M) is among the keys ({shown}, ...)."
    )


def _need(config: dict[str, Any], names: tuple[str, ...]) -> None:
    absent = [name for name in names if name not in config]
    if absent:
        raise ConversionError(
            f"config.json lacks {', '.join(absent)}. It does not belong to these weights: copy the config.json that "
            "was published beside them."
        )


_SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)
_OPTIONAL_FIELDS = ("hidden_act", "hidden_dropout_prob", "layer_norm_eps", "initializer_range", "mask_ratio")


def tokens_config(authors: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> Any:
    """Configuration of the parcel x time model from the authors' values."""
    _need(authors, (*_SHARED_FIELDS, "num_brain_voxels", "num_timepoints_per_voxel", "timepoint_patching_size"))
    if authors.get("inv_coeff_init_option"):
        raise ConversionError(
            "inv_coeff_init_option=true is set: the authors' code cannot run it, so there is no behaviour to "
            "reproduce."
        )
    values = {name: authors[name] for name in (*_SHARED_FIELDS, *_OPTIONAL_FIELDS) if name in authors}
    n_rois = authors["num_brain_voxels"]
    landmarks, segments = authors.get("num_landmarks"), authors.get("segment_means_seq_len")
    if landmarks == segments:
        landmarks = segments = None
    positions = state_dict.get("vit.embeddings.pos_embedding.pe")
    return bt.BrainLMConfig(
        **values,
        n_rois=n_rois,
        n_timepoints=authors["num_timepoints_per_voxel"],
        patch_size=authors["timepoint_patching_size"],
        attention_probs_dropout_prob=authors.get("attention_probs_dropout_prob", 0.1),
        conv_kernel_size=authors.get("conv_kernel_size"),
        num_landmarks=landmarks,
        segment_means_seq_len=segments,
        num_positions=5000 if positions is None else positions.shape[0],
        use_tanh_decoder=authors.get("use_tanh_decoder", False),
        reconstruction_loss=authors.get("loss_fn", "mse"),
        roi_order="a424" if n_rois == A424_N_ROIS else None,
    )


def image_config(authors: dict[str, Any], state_dict: dict[str, torch.Tensor], n_rois: int | None) -> Any:
    """Configuration of the ViT from the authors' values."""
    _need(authors, (*_SHARED_FIELDS, "patch_size"))
    side = authors.get("image_size")
    if isinstance(side, list | tuple):
        if len(set(side)) != 1:
            raise ConversionError(f"image_size {side} is not square; the published models use 432 or 434 squared.")
        side = side[0]
    values = {name: authors[name] for name in (*_SHARED_FIELDS, *_OPTIONAL_FIELDS) if name in authors}
    if n_rois is None and authors["hidden_size"] in {
        load_config(name).hidden_size for name in ("brainlm-111m", "brainlm-650m")
    }:
        n_rois = A424_N_ROIS
    config = bt.BrainLMViTConfig(
        **values,
        n_rois=n_rois,
        patch_size=authors["patch_size"],
        image_size=side,
        num_channels=authors.get("num_channels", 3),
        attention_probs_dropout_prob=authors.get("attention_probs_dropout_prob", 0.0),
        qkv_bias=authors.get("qkv_bias", True),
        norm_pix_loss=authors.get("norm_pix_loss", False),
        train_mode=authors.get("train_mode", "auto_encode"),
        roi_order="a424@y" if n_rois == A424_N_ROIS else None,
    )
    if any(key.startswith("mlp_pred_head.") for key in state_dict):
        config = bt.BrainLMViTConfig(
            **{
                **config.to_diff_dict(),
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
        )
    return config


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], authors_config: dict[str, Any], n_rois: int | None = None
) -> ConvertedCheckpoint:
    """Turn the authors' weights and configuration into ours, strictly.

    Args:
        state_dict: the authors' weights (may be on the meta device).
        authors_config: content of their `config.json`.
        n_rois: for the ViT, number of parcels to insist on; published sizes insist on 424 by themselves.

    Raises:
        ConversionError: if anything is unknown, missing, or of a shape that the configuration does not imply.
    """
    if detect_architecture(state_dict.keys()) == "tokens":
        key_map, config = TOKENS_KEY_MAP, tokens_config(authors_config, state_dict)
        model_class: Any = bt.BrainLMForMaskedModeling
    else:
        key_map, config = IMAGE_KEY_MAP, image_config(authors_config, state_dict, n_rois)
        fine_tuned = config.classifier_head == "mlp"
        model_class = bt.BrainLMViTForSequenceClassification if fine_tuned else bt.BrainLMViTForMaskedModeling
    renamed, report = key_map.convert(state_dict)
    body = model_class.base_model_prefix
    converted = {name.replace("BODY", body, 1): value for name, value in renamed.items()}
    report.renamed = {key: name.replace("BODY", body, 1) for key, name in report.renamed.items()}
    for name, value in converted.items():
        if name.endswith("token_convolution.weight") and value.dim() == 4:
            converted[name] = value[:, 0, :, 0].contiguous()  # (heads, 1, kernel, 1) in the authors' 2-D convolution
    check_layers(config, state_dict)
    with torch.device("meta"):
        model = model_class(config)
    check_against_model(converted, model.state_dict(), allowed={f"{body}.coordinates"})
    return ConvertedCheckpoint(model_class, config, converted, report)


def convert(
    checkpoint: Path,
    output: Path,
    coordinates: Path | None = None,
    n_rois: int | None = None,
    source: str | None = None,
) -> tuple[Any, KeyReport]:
    """Convert a folder of the authors and write the result; returns the model and the account of keys."""
    from brain_transformers.data.readers import read_coordinates
    from brain_transformers.processing.roi_series import ROISeriesFeatureExtractor

    if not checkpoint.is_dir():
        raise ConversionError(f"{checkpoint} is not a folder. Expected one with config.json and pytorch_model.bin.")
    check_output(output, checkpoint, coordinates)
    authors_config = read_json(checkpoint / "config.json")
    weights = checkpoint / "pytorch_model.bin"
    state_dict = read_torch_checkpoint(weights)
    with reading(checkpoint, "config.json and pytorch_model.bin of one published BrainLM"):
        converted = convert_state_dict(state_dict, authors_config, n_rois)
    config = converted.config
    table = None
    if coordinates is not None:
        with reading(coordinates, "the coordinate table of the authors' repository (A424_Coordinates.dat)"):
            table = torch.as_tensor(read_coordinates(coordinates, n_rois=config.n_rois))
    tensors = dict(converted.state_dict)
    is_tokens = config.model_type == bt.BrainLMConfig.model_type
    notes = []
    if is_tokens:
        tensors[f"{converted.body_name}.coordinates"] = torch.zeros(config.n_rois, 3) if table is None else table
        if table is not None and coordinates is not None:
            config.coordinates_source = coordinates.name
            notes.append(f"Parcel centres come from `{coordinates.name}`, SHA-256 `{sha256_of(coordinates)}`.")
    elif table is not None and coordinates is not None:
        notes.append(f"Rows are sorted by the Y of `{coordinates.name}`, SHA-256 `{sha256_of(coordinates)}`.")
    if table is None:
        notes.append(
            "No coordinate table was given: the extractor needs `coordinates` at every call, "
            + ("since the model does." if is_tokens else "to sort the parcels.")
        )
    extractor = ROISeriesFeatureExtractor.from_model_config(
        config, coordinates=None if table is None else table.tolist()
    )
    model = save_converted(
        converted.model_class,
        config,
        tensors,
        output,
        weights,
        extractor=extractor,
        dropped=converted.report.dropped,
        notes=notes,
        source=source,
        needs=("coordinates", "parcel centres, (n_rois, 3) in mm MNI") if table is None else None,
    )
    return model, converted.report


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder with config.json and pytorch_model.bin")
    parser.add_argument(
        "--coordinates",
        type=Path,
        help="the authors' A424_Coordinates.dat: stored in the 13M model, used to sort the rows of the ViT models",
    )
    parser.add_argument("--n-rois", type=int, help="number of parcels that a ViT model of unpublished size insists on")
    add_common_arguments(parser)

    def run(options: argparse.Namespace) -> None:
        model, report = convert(
            options.checkpoint, options.output, options.coordinates, options.n_rois, options.source
        )
        print(report.summary())
        print(type(model).__name__, end=" ")
        if options.coordinates is None:
            print(
                "warning: no --coordinates given; see the card in the output folder for what that means",
                file=sys.stderr,
            )

    return command_line(parser, arguments, run)


if __name__ == "__main__":
    raise SystemExit(main())
