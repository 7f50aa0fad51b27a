"""Convert the Brain-Semantoks authors' checkpoints to folders that `from_pretrained` loads.

    brain-transformers convert brain_semantoks --checkpoint brainsemantoks_ckpt_epoch_100.pth
    --network-map network_mapping.npz --output brain-semantoks-base/

By default the teacher encoder is written, which is what the authors use; `--pretraining` writes student, teacher and
projection heads. The training configuration is taken from the checkpoint, or from `--config` (the authors' YAML, or a
JSON file with constructor arguments) where a file holds none. The licence of the published weights is not stated: ask
the authors before you share converted weights.
"""

import re
from typing import Any

import numpy as np
import torch

from ..conversion_base import (
    ConversionError,
    ConvertedCheckpoint,
    Converter,
    GivenFile,
    InputFile,
    KeyMap,
    check_against_model,
    check_layers,
)
from .configuration_brain_semantoks import BrainSemantoksConfig
from .masking_brain_semantoks import concatenate_network_ids
from .modeling_brain_semantoks import (
    BrainSemantoksForMaskedModeling,
    BrainSemantoksForSequenceClassification,
    BrainSemantoksModel,
    LongConvolutionBranch,
)
from .networks_brain_semantoks import networks_of_parcels

_WB = r"(?P<wb>weight|bias)"
_BRANCH = r"branches\.(?P<branch>\d+)"
_ENCODERS = {"teacher": "brain_semantoks", "student": "student"}
# Our names of the authors' atlases, and their number of parcels.
_ATLASES = {"schaefer400": ("schaefer400-7net", 400), "tian3": ("tian-s3", 50), "buckner7": ("buckner7", 7)}
_DEAD_SET = "the tokenizers of this atlas are never used: all networks have theirs under the first atlas"
_DEAD_NORM = "never used by the authors' code"
_ALIAS = "the same tensor as the projection head, listed twice"


def key_map(first_atlas: str, pooling: str = "mean", shared_mask_head: bool = True, tokenizers: bool = True) -> KeyMap:
    """The authors' names to ours.

    Args:
        first_atlas: name of the atlas whose tokenizers are live: the first one.
        pooling: of the tokenizers; weights of an attention pool belong to the model only with `"attention"`.
        shared_mask_head: the head of hidden tokens is the projection head.
        tokenizers: the model has tokenizers of networks (not one shared projection of parcels).
    """
    rules: list[tuple[str, str]] = []
    dropped: list[tuple[str, str]] = []
    atlas = re.escape(first_atlas)
    for name, target in _ENCODERS.items():
        encoder = rf"{name}_encoder\."
        tokenizer = rf"{encoder}network_tokenizers\.{atlas}\.(?P<network>\d+)\."
        ours = rf"{target}.embeddings.tokenizers.\g<network>."
        branch = rf"{ours}branches.\g<branch>."
        transformer = rf"{encoder}inter_network_transformer\."
        block, layer = rf"{transformer}transformer_blocks\.(?P<layer>\d+)\.", rf"{target}.layers.\g<layer>."
        if not tokenizers:
            dropped.append((rf"{encoder}network_tokenizers\..*", "parcels have one shared projection instead"))
        if pooling != "attention":
            dropped.append((rf"{tokenizer}pool\.attention\.weight", f"not used with pooling {pooling!r}"))
        dropped.append((rf"{transformer}norm\.{_WB}", _DEAD_NORM))
        dropped.append((rf"{encoder}network_tokenizers\.(?!{atlas}\.).*", _DEAD_SET))
        rules += [
            (rf"{tokenizer}{_BRANCH}\.{_WB}", rf"{branch}convolution.\g<wb>"),
            (rf"{tokenizer}{_BRANCH}\.depthwise\.{_WB}", rf"{branch}convolution.\g<wb>"),
            (rf"{tokenizer}{_BRANCH}\.(?P<part>pointwise|projection)\.{_WB}", rf"{branch}\g<part>.\g<wb>"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.D", rf"{branch}skip"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.multiplier", rf"{branch}decay"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.kernel_norm", rf"{branch}kernel_norm"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.kernel_list\.(?P<scale>\d+)", rf"{branch}kernels.\g<scale>"),
            (rf"{tokenizer}pool\.attention\.weight", rf"{ours}attention_pool.weight"),
            (rf"{tokenizer}norm\.{_WB}", rf"{ours}norm.\g<wb>"),
            (rf"{encoder}shared_roi_projection\.{_WB}", rf"{target}.embeddings.shared_projection.\g<wb>"),
            (rf"{transformer}(?P<token>mask_embedding|cls_token)", rf"{target}.embeddings.\g<token>"),
            (rf"{transformer}temporal_pos_embedding", rf"{target}.embeddings.time_positions"),
            (rf"{transformer}network_learnable_pos_embedding\.weight", rf"{target}.embeddings.network_positions"),
            (rf"{block}norm1\.{_WB}", rf"{layer}layernorm_before.\g<wb>"),
            (rf"{block}norm2\.{_WB}", rf"{layer}layernorm_after.\g<wb>"),
            (rf"{block}attn\.qkv\.weight", rf"{layer}attention.qkv.weight"),
            (rf"{block}attn\.proj\.{_WB}", rf"{layer}attention.out_proj.\g<wb>"),
            (rf"{block}mlp\.0\.{_WB}", rf"{layer}mlp.fc1.\g<wb>"),
            (rf"{block}mlp\.3\.{_WB}", rf"{layer}mlp.fc2.\g<wb>"),
            (rf"{block}ls(?P<n>[12])\.gamma", rf"{layer}layer_scale\g<n>"),
            (rf"{encoder}norm\.{_WB}", rf"{target}.layernorm.\g<wb>"),
        ]
        if shared_mask_head:
            dropped.append((rf"{name}_mask_predictor\..*", _ALIAS))
        for theirs, mine in (("predictor", "head"), ("mask_predictor", "mask_head")):
            rules.append((rf"{name}_{theirs}\.mlp\.{_WB}", rf"{name}_{mine}.layers.0.\g<wb>"))
            # Activations stand between the linear layers, so these have even numbers.
            rules += [
                (rf"{name}_{theirs}\.mlp\.{2 * place}\.{_WB}", rf"{name}_{mine}.layers.{place}.\g<wb>")
                for place in range(8)
            ]
    rules.append((rf"(?:teacher|student)_encoder\.head\.1\.{_WB}", r"classifier.output.\g<wb>"))
    return KeyMap(rules=rules, dropped=dropped)


def constructor_values(authors: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of the authors' classes, from such arguments or from the training configuration (YAML).

    The number of heads and the width of the feed-forward blocks follow from `embedding_dim` in the authors' program,
    whatever the configuration says.

    Raises:
        ConversionError: if it is neither.
    """
    if "embedding_dim" in authors:
        return dict(authors)
    try:
        data, model = authors["data"], authors["model"]
        names, counts, sizes = [], [], []
        for atlas in ("schaefer", "tian", "buckner"):
            if data.get(f"{atlas}_atlas"):
                names.append(data[f"{atlas}_atlas"])
                counts.append(int(data.get(f"{atlas}_networks") or 1))
                sizes.append(int(data.get(f"{atlas}_rois") or 0))
        tokenizer = model.get("tokenizer") or {}
        ssl, masking, dino = (authors.get(part) or {} for part in ("ssl", "masking", "dino"))
        width = model["embedding_dim"]
        return {
            "atlas_names": names,
            "atlas_network_counts": counts,
            "total_rois": sum(sizes),
            "patch_size": data["patch_size"],
            "target_time_length": data["target_signal_length"],
            "max_spatial": data.get("max_spatial", False),
            "min_spatial": data.get("min_spatial", False),
            "embedding_dim": width,
            "depth": model["depth"],
            "heads": width // 64,
            "mlp_dim": 4 * width,
            "emb_dropout": model.get("emb_dropout", 0.0),
            "drop_path_rate": model.get("drop_path_rate", 0.0),
            "layer_scale_init_value": model.get("layer_scale_init_value"),
            "tokenizer_config": tokenizer.get("config"),
            "tokenizer_final_norm": tokenizer.get("final_norm", "layer"),
            "projection_hidden_dim": model.get("projection_hidden_dim", 1024),
            "projection_bottleneck_dim": model.get("projection_bottleneck_dim", 128),
            "projection_nlayers": model.get("projection_nlayers", 2),
            "mask_loss_weight": ssl.get("mask_loss_weight", 0.5),
            "network_loss_weight": ssl.get("network_loss_weight", 0.5),
            "coeff": dino.get("coeff", 1.0),
            "use_separate_mask_predictor": dino.get("use_separate_mask_predictor", False),
            "masking_ratio": masking.get("masking_ratio", [0.65, 0.85]),
            "masking_type": masking.get("masking_type", "slice"),
            "masking_frequency": masking.get("masking_frequency", 0.5),
        }
    except (KeyError, TypeError) as error:
        raise ConversionError(
            f"The configuration lacks {error}. Expected the authors' training configuration (config_used.yaml) or the "
            "constructor arguments of their model."
        ) from error


def _branches(tokenizer_config: list[dict[str, Any]]) -> list[dict[str, Any]]:
    branches = []
    for branch in tokenizer_config:
        kind = branch.get("type")
        if kind == "sgconv":
            names = ("out_channels", "kernel_size", "num_scales", "decay_min", "decay_max")
            branches.append({"type": "long_convolution", **{name: branch[name] for name in names if name in branch}})
        elif kind in ("dense", "dilated"):
            names = ("out_channels", "kernel_size", "depthwise", *(("dilation",) if kind == "dilated" else ()))
            branches.append({"type": "convolution", **{name: branch[name] for name in names if name in branch}})
        else:
            raise ConversionError(f"Unknown tokenizer branch {kind!r}, expected 'dense', 'dilated' or 'sgconv'.")
    return branches


def network_ids(values: dict[str, Any], network_map: GivenFile | None) -> tuple[list[int], str | None]:
    """Network of each parcel, and our name of the parcel order if it is one that we know.

    Args:
        values: see [`constructor_values`].
        network_map: the authors' `network_mapping.npz`; `None` uses the names of the parcels, for known atlases.

    Raises:
        ConversionError: if the map lacks an atlas, or does not have as many networks as the configuration says.
    """
    names, counts = list(values["atlas_names"]), list(values["atlas_network_counts"])
    if network_map is None:
        known = all(name in _ATLASES for name in names)
        order = "+".join(_ATLASES[name][0] for name in names) if known else None
        n_cortical = next((count for name, count in zip(names, counts) if name == "schaefer400"), 7)
        found = networks_of_parcels(order, n_cortical) if n_cortical in (7, 17) else None
        if found is None or values.get("total_rois", len(found[0])) != len(found[0]):
            raise ConversionError(
                f"The networks of the parcels of {', '.join(names)} are not known. Pass the authors' map: "
                "--network-map network_mapping.npz."
            )
        return found[0], order
    parts = []
    path, arrays = network_map.path, network_map.content
    for name, count in zip(names, counts):
        key = f"network_map_{name}_{count}n" if count > 1 else f"network_map_{name}"
        if key not in arrays:
            raise ConversionError(
                f"{path} has no {key}, only {', '.join(arrays)}. It belongs to other atlases: pass the file that was "
                "published with these weights."
            )
        if arrays[key].ndim != 1 or arrays[key].dtype.kind not in "iuf" or not np.isfinite(arrays[key]).all():
            raise ConversionError(f"{key} of {path} is no list of numbers, a network for each parcel.")
        parts.append([int(network) for network in arrays[key]])
        if len(set(parts[-1])) != count:
            raise ConversionError(f"{key} of {path} has {len(set(parts[-1]))} networks, the configuration {count}.")
    known = all(name in _ATLASES and len(part) == _ATLASES[name][1] for name, part in zip(names, parts))
    order = "+".join(_ATLASES[name][0] for name in names) if known else None
    return concatenate_network_ids(parts), order


def clean_keys(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Keys without the wrappers of parallel training; a bare encoder counts as the teacher.

    Raises:
        ConversionError: if the keys are not those of Brain-Semantoks.
    """
    cleaned = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.").replace(".module.", ".")
        if key.startswith(("network_tokenizers.", "inter_network_transformer.", "norm.", "head.", "shared_roi")):
            key = f"teacher_encoder.{key}"
        cleaned[key] = value
    if not any(".inter_network_transformer." in key for key in cleaned):
        shown = ", ".join(list(state_dict)[:4])
        raise ConversionError(f"These are not weights of Brain-Semantoks; the keys are {shown}, ...")
    return cleaned


def first_atlas(values: dict[str, Any], state_dict: dict[str, Any]) -> str:
    """Name of the atlas whose tokenizers are live: the first of the configuration, or of the weights."""
    if values.get("atlas_names"):
        return str(values["atlas_names"][0])
    found = (re.search(r"_encoder\.network_tokenizers\.([^.]+)\.", key) for key in state_dict)
    return next((match[1] for match in found if match), "schaefer400")


def _settle_kernel_norms(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Weights without the flags that say whether a kernel norm was measured; where it was not, it is measured here.

    A checkpoint that was saved before any forward pass holds placeholders; the first pass would measure the norms of
    the kernels as they are.
    """
    state_dict = dict(state_dict)
    for key in [key for key in state_dict if key.endswith(".slconv.kernel_norm_initialized")]:
        stem = key.removesuffix("kernel_norm_initialized")
        measured = state_dict.pop(key)
        if measured.is_meta or bool(measured):
            continue
        kernels = [name for name in state_dict if name.startswith(f"{stem}kernel_list.")]
        n_heads, n_rois, size = state_dict[kernels[0]].shape
        branch = LongConvolutionBranch(
            n_rois, n_heads * n_rois, size * 2 ** (len(kernels) - 1), size, len(kernels), 1.0, 1.0
        )
        with torch.no_grad():
            branch.decay.copy_(state_dict[f"{stem}multiplier"])
            for scale, kernel in enumerate(branch.kernels):
                kernel.copy_(state_dict[f"{stem}kernel_list.{scale}"])
        state_dict[f"{stem}kernel_norm"] = branch.measure_kernel_norm()
    return state_dict


def _head_sizes(state_dict: dict[str, Any]) -> dict[str, int]:
    """Sizes of the projection head, read from its weights."""
    pattern = re.compile(r"(?:student|teacher)_predictor\.mlp\.(?:(\d+)\.)?weight")
    found = {int(match[1] or 0): value.shape for key, value in state_dict.items() if (match := pattern.fullmatch(key))}
    if not found:
        return {}
    shapes = [found[place] for place in sorted(found)]
    sizes = {"projection_num_layers": len(shapes), "projection_size": int(shapes[-1][0])}
    return sizes | ({"projection_hidden_size": int(shapes[0][0])} if len(shapes) > 1 else {})


def _count_rois(state_dict: dict[str, Any], encoder: str, mode: str) -> int | None:
    """Number of parcels of a model without network map, from its weights."""
    if mode == "rois":
        positions = state_dict.get(f"{encoder}.inter_network_transformer.network_learnable_pos_embedding.weight")
        return None if positions is None else int(positions.shape[0])
    for key, value in state_dict.items():
        if key.startswith(f"{encoder}.network_tokenizers."):
            if key.endswith(".slconv.multiplier"):
                return int(value.shape[1])
            if key.endswith((".depthwise.weight", ".depthwise.bias")):
                return int(value.shape[0])
            if re.search(r"branches\.\d+\.weight$", key):
                return int(value.shape[1])
    return None


def build_config(
    values: dict[str, Any],
    state_dict: dict[str, Any],
    network_map: GivenFile | None,
    num_attention_heads: int | None = None,
    tokenizer_pooling: str | None = None,
) -> Any:
    """Configuration from the authors' values; what the weights tell is read from them.

    Raises:
        ConversionError: if values are missing or do not fit the weights.
    """
    values = {**values, **{name: values.get(name) or [] for name in ("atlas_names", "atlas_network_counts")}}
    encoder = "teacher_encoder" if any(key.startswith("teacher_encoder.") for key in state_dict) else "student_encoder"
    transformer = f"{encoder}.inter_network_transformer"
    heads = num_attention_heads or values.get("heads") or values["embedding_dim"] // 64
    if heads < 1 or values["embedding_dim"] % heads:
        raise ConversionError(
            f"{heads} attention heads do not divide a width of {values['embedding_dim']}. The number of heads is in "
            "no tensor, and by the authors' rule it is the width over 64; pass --num-attention-heads for a model that "
            "was built otherwise."
        )
    options: dict[str, Any] = {}
    if values.get("max_spatial") or values.get("min_spatial"):
        mode = "rois" if values.get("max_spatial") else "whole_brain"
        n_rois = values.get("total_rois") or _count_rois(state_dict, encoder, mode)
        options |= {"spatial_mode": mode, "roi_order": None, "n_rois": n_rois}
    else:
        networks, roi_order = network_ids(values, network_map)
        known = networks_of_parcels(roi_order, 17 if max(values["atlas_network_counts"]) == 17 else 7)
        names = known[1] if known is not None and known[0] == networks else None
        options |= {"networks": networks, "network_names": names, "roi_order": roi_order, "n_rois": len(networks)}
    if not options["n_rois"]:
        raise ConversionError("The configuration does not tell the number of parcels (total_rois).")
    if not values.get("max_spatial"):
        if not values.get("tokenizer_config"):
            raise ConversionError("The configuration has no tokenizer_config, so the tokenizers are not known.")
        options["tokenizer_branches"] = _branches(values["tokenizer_config"])
    width = state_dict.get(f"{transformer}.transformer_blocks.0.mlp.0.weight")
    norm = re.compile(r"\.network_tokenizers\.[^.]+\.\d+\.norm\.weight$")
    if any(key.endswith(".ls1.gamma") for key in state_dict):
        scale = values.get("layer_scale_init_value") or 0.1
    else:
        scale = None
    optional = {
        "mask_loss_weight": "mask_loss_weight",
        "network_loss_weight": "network_loss_weight",
        "coeff": "alignment_weight",
        "masking_type": "mask_kind",
        "masking_ratio": "mask_ratio",
        "masking_frequency": "masking_frequency",
        "emb_dropout": "embedding_dropout",
        "drop_path_rate": "drop_path_rate",
        "projection_hidden_dim": "projection_hidden_size",
        "projection_bottleneck_dim": "projection_size",
        "projection_nlayers": "projection_num_layers",
        "head_dropout": "classifier_dropout",
    }
    options |= {ours: values[theirs] for theirs, ours in optional.items() if values.get(theirs) is not None}
    options |= _head_sizes(state_dict)
    classifier = next((value for key, value in state_dict.items() if key.endswith("_encoder.head.1.weight")), None)
    if classifier is not None:
        options |= {"num_labels": int(classifier.shape[0]), "pooling": "cls"}
    try:
        return BrainSemantoksConfig(
            # Points past the last whole window are not used by the authors' model either.
            n_timepoints=values["target_time_length"] // values["patch_size"] * values["patch_size"],
            patch_size=values["patch_size"],
            hidden_size=values["embedding_dim"],
            num_hidden_layers=values["depth"],
            num_attention_heads=heads,
            intermediate_size=values["mlp_dim"] if width is None else int(width.shape[0]),
            tokenizer_pooling=tokenizer_pooling or values.get("tokenizer_pooling_type") or "mean",
            tokenizer_norm=bool(values.get("max_spatial")) or any(norm.search(key) for key in state_dict),
            layer_scale_init_value=scale,
            use_mask_embedding=f"{transformer}.mask_embedding" in state_dict,
            separate_mask_head=bool(values.get("use_separate_mask_predictor", False)),
            t_r=None if options["roi_order"] is None else 2.0,
            **options,
        )
    except KeyError as error:
        raise ConversionError(f"The configuration lacks {error}.") from error


def _check_aliases(state_dict: dict[str, Any]) -> None:
    """Without a separate head the mask heads must be the projection heads, listed twice."""
    for key, value in state_dict.items():
        twin = key.replace("_mask_predictor.", "_predictor.")
        if twin != key and not value.is_meta and not torch.equal(value, state_dict.get(twin, value[:0])):
            raise ConversionError(
                f"{key} differs from {twin}, but the configuration has no separate head for hidden tokens "
                "(use_separate_mask_predictor). The configuration belongs to other weights."
            )


def convert_state_dict(
    state_dict: dict[str, Any],
    authors: dict[str, Any],
    network_map: GivenFile | None = None,
    *,
    pretraining: bool = False,
    encoder: str = "teacher",
    num_attention_heads: int | None = None,
    tokenizer_pooling: str | None = None,
) -> ConvertedCheckpoint:
    """Turn the authors' weights and configuration into ours, strictly.

    Args:
        state_dict: the authors' weights (may be on the meta device).
        authors: training configuration or constructor arguments.
        network_map: the authors' `network_mapping.npz`.
        pretraining: the whole pretraining model instead of one encoder.
        encoder: `"teacher"`, as the authors use, or `"student"`.
        num_attention_heads: for models that do not follow the authors' rule (width over 64).
        tokenizer_pooling: another pooling over time than the configuration says.

    Raises:
        ConversionError: if anything is unknown, missing, or of a shape that the configuration does not imply.
    """
    values = constructor_values(authors)
    state_dict = _settle_kernel_norms(clean_keys(state_dict))
    config = build_config(values, state_dict, network_map, num_attention_heads, tokenizer_pooling)
    if not config.separate_mask_head:
        _check_aliases(state_dict)
    mapping = key_map(
        first_atlas(values, state_dict),
        config.tokenizer_pooling,
        not config.separate_mask_head,
        tokenizers=config.spatial_mode != "rois",
    )
    renamed, report = mapping.convert(state_dict)
    has_classifier = any(name.startswith("classifier.") for name in renamed)
    if pretraining:
        model_class: Any = BrainSemantoksForMaskedModeling
        converted = {name: value for name, value in renamed.items() if not name.startswith("classifier.")}
    else:
        wanted = f"{_ENCODERS[encoder]}."
        converted = {
            f"brain_semantoks.{name.removeprefix(wanted)}": value
            for name, value in renamed.items()
            if name.startswith(wanted)
        }
        if not converted:
            raise ConversionError(f"The checkpoint holds no {encoder} encoder ({encoder}_encoder. keys).")
        model_class = BrainSemantoksModel
        if has_classifier:
            model_class = BrainSemantoksForSequenceClassification
            converted |= {name: value for name, value in renamed.items() if name.startswith("classifier.")}
        else:
            converted = {name.removeprefix("brain_semantoks."): value for name, value in converted.items()}
        for key, name in list(report.renamed.items()):
            if not name.startswith((wanted, "classifier.")):
                del report.renamed[key]
                report.dropped[key] = f"not part of the {encoder} encoder"
    check_layers(config, state_dict)
    with torch.device("meta"):
        model = model_class(config)
    check_against_model(converted, model.state_dict(), allowed=set())
    return ConvertedCheckpoint(model_class, config, converted, report)


def summarise_dropped(dropped: dict[str, str]) -> dict[str, str]:
    """Dropped keys by their first parts and their reason, since there are hundreds."""
    groups: dict[tuple[str, str], int] = {}
    for key, reason in dropped.items():
        parts = key.split(".")
        depth = 1 if reason.startswith(("not part of", _ALIAS)) else 3
        group = (".".join(parts[:depth]), reason)
        groups[group] = groups.get(group, 0) + 1
    return {f"{group} ({count} tensors)": reason for (group, reason), count in groups.items()}


def convert(
    checkpoint: GivenFile,
    network_map: GivenFile | None = None,
    config: GivenFile | None = None,
    **options: Any,
) -> ConvertedCheckpoint:
    """See [`Converter`]; `options` are those of [`convert_state_dict`]."""
    container = checkpoint.content
    authors = container.get("config") if config is None else config.content
    if not isinstance(authors, dict):
        raise ConversionError(
            f"{checkpoint.path} holds no training configuration. Pass it with --config (config_used.yaml)."
        )
    weights = container.get("model_state_dict", container)
    converted = convert_state_dict(weights, authors, network_map, **options)
    converted.report.dropped = summarise_dropped(converted.report.dropped)
    if not converted.config.use_mask_embedding:
        converted.notes.append("The model was trained without masks and has no mask embedding: masks have no effect.")
        converted.warnings.append("the model has no mask embedding, so masks have no effect")
    if converted.config.networks is not None:
        converted.notes.append(
            "Networks follow from the names of the parcels, which give the same map as the authors' file."
            if network_map is None
            else f"Networks come from `{network_map.path.name}`, SHA-256 `{network_map.sha256}`."
        )
    return converted


CONVERTER = Converter(
    description=__doc__,
    files=(
        InputFile(
            "checkpoint",
            "checkpoint",
            "a Brain-Semantoks checkpoint, with its own configuration",
            "the authors' .pth file",
        ),
        InputFile(
            "network_map",
            "arrays",
            "the authors' network_mapping.npz",
            "network_mapping.npz; by default the one beside the checkpoint",
            beside="network_mapping.npz",
        ),
        InputFile(
            "config",
            "settings",
            "the authors' training configuration (config_used.yaml), or JSON of constructor arguments",
            "training configuration (YAML or JSON), if the checkpoint has none",
        ),
    ),
    flags={
        "pretraining": {"action": "store_true", "help": "write student, teacher and projection heads"},
        "encoder": {"choices": ("teacher", "student"), "default": "teacher", "help": "which encoder to write"},
        "num_attention_heads": {"type": int, "help": "for models that were not built by the authors' rule"},
        "tokenizer_pooling": {"choices": ("mean", "max", "attention"), "help": "another pooling over time"},
    },
    convert=convert,
)
