"""Convert the BrainLM authors' checkpoints to folders that `from_pretrained` loads.

    brain-transformers convert brainlm --checkpoint vitmae_650M/ --coordinates A424_Coordinates.dat
    --output brainlm-650m/

`--checkpoint` is a folder of the authors' hub repository (`old_13M`, `vitmae_111M`, `vitmae_650M`, or a fine-tuned
one) with `config.json` and `pytorch_model.bin`; the Trainer files beside them are ignored. Which of the two unrelated
networks it holds is read from the names of the weights. The licence of the published weights (CC BY-NC-ND 4.0) lets
you convert them for yourself; ask the authors before you publish converted or fine-tuned weights.
"""

from typing import Any

import torch

from ..brainlm_vit.conversion_brainlm_vit import (
    A424_N_ROIS,
    IMAGE_KEY_MAP,
    MLP_RULES,
    OPTIONAL_FIELDS,
    SHARED_FIELDS,
    encoder_and_decoder,
    image_config,
    need,
)
from ..brainlm_vit.modeling_brainlm_vit import BrainLMViTForMaskedModeling, BrainLMViTForSequenceClassification
from ..conversion_base import (
    WB,
    ConversionError,
    ConvertedCheckpoint,
    Converter,
    GivenFile,
    InputFile,
    KeyMap,
    check_against_model,
)
from .configuration_brainlm import BrainLMConfig
from .modeling_brainlm import BrainLMForMaskedModeling

TOKENS_KEY_MAP = KeyMap(
    rules=[
        (r"vit\.embeddings\.cls_token", "BODY.embeddings.cls_token"),
        (rf"vit\.embeddings\.signal_embedding_projection\.{WB}", r"BODY.embeddings.signal_projection.\g<wb>"),
        (rf"vit\.embeddings\.xyz_embedding_projection\.{WB}", r"BODY.embeddings.coordinate_projection.\g<wb>"),
        (r"vit\.embeddings\.pos_embedding\.pe", "BODY.embeddings.time_positions"),
        (r"decoder\.pos_embedding\.pe", "decoder.time_positions"),
        *MLP_RULES,
        *encoder_and_decoder(r"attention\.self\.conv\.weight", "attention.token_convolution.weight"),
        *encoder_and_decoder(rf"attention\.output\.LayerNorm\.{WB}", r"attention_layernorm.\g<wb>"),
        *encoder_and_decoder(rf"output\.LayerNorm\.{WB}", r"mlp_layernorm.\g<wb>"),
        (rf"vit\.layernorm\.{WB}", r"BODY.layernorm.\g<wb>"),
        (r"decoder\.mask_token", "decoder.mask_token"),
        (rf"decoder\.decoder_embed\.{WB}", r"decoder.embed.\g<wb>"),
        (rf"decoder\.decoder_xyz_projection\.{WB}", r"decoder.coordinate_projection.\g<wb>"),
        (rf"decoder\.decoder_norm\.{WB}", r"decoder.layernorm.\g<wb>"),
        (rf"decoder\.decoder_pred(?P<n>[12])\.{WB}", r"decoder.prediction\g<n>.\g<wb>"),
    ],
    fused=encoder_and_decoder(rf"attention\.self\.(?P<part>query|key|value)\.{WB}", r"attention.qkv.\g<wb>"),
    dropped=[(rf"decoder\.decoder_pred\.{WB}", "never used by the authors' code")],
    # (heads, 1, kernel, 1) in the authors' 2-D convolution
    shaped=[("token_convolution.weight", lambda kernel: kernel.flatten(1) if kernel.dim() == 4 else kernel)],
)


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


def tokens_config(authors: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> Any:
    """Configuration of the parcel x time model from the authors' values."""
    need(authors, (*SHARED_FIELDS, "num_brain_voxels", "num_timepoints_per_voxel", "timepoint_patching_size"))
    if authors.get("inv_coeff_init_option"):
        raise ConversionError(
            "inv_coeff_init_option=true is set: the authors' code cannot run it, so there is no behaviour to "
            "reproduce."
        )
    own = ("attention_probs_dropout_prob", "use_tanh_decoder", "loss_fn")
    values = {name: authors[name] for name in (*SHARED_FIELDS, *OPTIONAL_FIELDS, *own) if name in authors}
    n_rois = authors["num_brain_voxels"]
    landmarks, segments = authors.get("num_landmarks"), authors.get("segment_means_seq_len")
    if landmarks == segments:
        landmarks = segments = None
    positions = state_dict.get("vit.embeddings.pos_embedding.pe")
    return BrainLMConfig(
        **values,
        n_rois=n_rois,
        n_timepoints=authors["num_timepoints_per_voxel"],
        patch_size=authors["timepoint_patching_size"],
        conv_kernel_size=authors.get("conv_kernel_size"),
        num_landmarks=landmarks,
        segment_means_seq_len=segments,
        num_positions=5000 if positions is None else positions.shape[0],
        roi_order="a424" if n_rois == A424_N_ROIS else None,
    )


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
        model_class: Any = BrainLMForMaskedModeling
    else:
        key_map, config = IMAGE_KEY_MAP, image_config(authors_config, state_dict, n_rois)
        fine_tuned = config.classifier_head == "mlp"
        model_class = BrainLMViTForSequenceClassification if fine_tuned else BrainLMViTForMaskedModeling
    renamed, report = key_map.convert(state_dict)
    body = model_class.base_model_prefix
    converted = {name.replace("BODY", body, 1): value for name, value in renamed.items()}
    report.renamed = {key: name.replace("BODY", body, 1) for key, name in report.renamed.items()}
    check_against_model(model_class, config, converted, allowed={f"{body}.coordinates"})
    return ConvertedCheckpoint(model_class, config, converted, report)


def convert(
    checkpoint: GivenFile, coordinates: GivenFile | None = None, n_rois: int | None = None
) -> ConvertedCheckpoint:
    """See [`Converter`]."""
    converted = convert_state_dict(checkpoint.content["weights"], checkpoint.content["config"], n_rois)
    config, is_tokens = converted.config, converted.model_class is BrainLMForMaskedModeling
    if is_tokens:
        centres = f"{BrainLMForMaskedModeling.base_model_prefix}.coordinates"
        converted.state_dict[centres] = torch.zeros(config.n_rois, 3)
    if coordinates is None:
        converted.needs = ("coordinates", "parcel centres, (n_rois, 3) in mm MNI")
        converted.notes.append(
            "No coordinate table was given: the extractor needs `coordinates` at every call, "
            + ("since the model does." if is_tokens else "to sort the parcels.")
        )
        converted.warnings.append("no --coordinates given; see the card in the output folder for what that means")
        return converted
    table = torch.as_tensor(coordinates.content)
    if config.n_rois is not None and len(table) != config.n_rois:
        raise ConversionError(
            f"{coordinates.path}: expected {config.n_rois} rows, got {len(table)}. Pass the table that was published "
            "with these weights."
        )
    converted.processor_values["coordinates"] = table.tolist()
    if is_tokens:
        converted.state_dict[centres] = table
        config.coordinates_source = coordinates.path.name
    what = "Parcel centres come from" if is_tokens else "Rows are sorted by the Y of"
    converted.notes.append(f"{what} `{coordinates.path.name}`, SHA-256 `{coordinates.sha256}`.")
    return converted


CONVERTER = Converter(
    description=__doc__,
    files=(
        InputFile(
            "checkpoint",
            "model folder",
            "config.json and pytorch_model.bin of one published BrainLM",
            "folder with config.json and pytorch_model.bin",
        ),
        InputFile(
            "coordinates",
            "coordinates",
            "the coordinate table of the authors' repository (A424_Coordinates.dat)",
            "the authors' A424_Coordinates.dat: stored in the 13M model, used to sort the rows of the ViT models",
        ),
    ),
    flags={"n_rois": {"type": int, "help": "number of parcels that a ViT model of unpublished size insists on"}},
    convert=convert,
)
