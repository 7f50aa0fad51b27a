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

from ...atlases.networks import networks_of_parcels
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
    weights_of,
)
from .configuration_brain_semantoks import BrainSemantoksConfig
from .masking_brain_semantoks import concatenate_network_ids
from .modeling_brain_semantoks import (
    BrainSemantoksForMaskedModeling,
    BrainSemantoksForSequenceClassification,
    BrainSemantoksModel,
    LongConvolutionBranch,
)

_BRANCH = r"branches\.(?P<branch>\d+)"
_ENCODERS = {"teacher": "brain_semantoks", "student": "student"}
# Our names of the authors' atlases, and their number of parcels.
_ATLASES = {"schaefer400": ("schaefer400-7net", 400), "tian3": ("tian-s3", 50), "buckner7": ("buckner7", 7)}
_DEAD_SET = "the tokenizers of this atlas are never used: all networks have theirs under the first atlas"
_DEAD_NORM = "never used by the authors' code"
_ALIAS = "the same tensor as the projection head, listed twice"


def key_map(
    first_atlas: str,
    pooling: str = "mean",
    shared_mask_head: bool = True,
    tokenizers: bool = True,
    only: str | None = None,
    prefix: str = "",
) -> KeyMap:
    """The authors' names to ours.

    Args:
        first_atlas: name of the atlas whose tokenizers are live: the first one.
        pooling: of the tokenizers; weights of an attention pool belong to the model only with `"attention"`.
        shared_mask_head: the head of hidden tokens is the projection head.
        tokenizers: the model has tokenizers of networks (not one shared projection of parcels).
        only: `"teacher"` or `"student"` for that encoder alone, whose names then begin with `prefix`.
    """
    rules: list[tuple[str, str]] = []
    dropped: list[tuple[str, str]] = []
    atlas = re.escape(first_atlas)
    if only is not None:
        dropped.append(
            (rf"(?!{only}_encoder\.|\w+_encoder\.head\.)(?P<part>\w+)\..*", f"not part of the {only} encoder")
        )
    for name, body in _ENCODERS.items():
        target = f"{body}." if only is None else prefix
        encoder = rf"{name}_encoder\."
        tokenizer = rf"{encoder}network_tokenizers\.{atlas}\.(?P<network>\d+)\."
        ours = rf"{target}embeddings.tokenizers.\g<network>."
        branch = rf"{ours}branches.\g<branch>."
        transformer = rf"{encoder}inter_network_transformer\."
        if not tokenizers:
            reason = "parcels have one shared projection instead"
            dropped.append((rf"(?P<part>{encoder}network_tokenizers\.[^.]+)\..*", reason))
        if pooling != "attention":
            unused = rf"(?P<part>{encoder}network_tokenizers\.{atlas})\.\d+\.pool\.attention\.weight"
            dropped.append((unused, f"not used with pooling {pooling!r}"))
        dropped.append((rf"{transformer}norm\.{WB}", _DEAD_NORM))
        dropped.append((rf"(?P<part>{encoder}network_tokenizers\.(?!{atlas}\.)[^.]+)\..*", _DEAD_SET))
        rules += [
            (rf"{tokenizer}{_BRANCH}\.{WB}", rf"{branch}convolution.\g<wb>"),
            (rf"{tokenizer}{_BRANCH}\.depthwise\.{WB}", rf"{branch}convolution.\g<wb>"),
            (rf"{tokenizer}{_BRANCH}\.(?P<part>pointwise|projection)\.{WB}", rf"{branch}\g<part>.\g<wb>"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.D", rf"{branch}skip"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.multiplier", rf"{branch}decay"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.kernel_norm", rf"{branch}kernel_norm"),
            (rf"{tokenizer}{_BRANCH}\.slconv\.kernel_list\.(?P<scale>\d+)", rf"{branch}kernels.\g<scale>"),
            (rf"{tokenizer}pool\.attention\.weight", rf"{ours}attention_pool.weight"),
            (rf"{tokenizer}norm\.{WB}", rf"{ours}norm.\g<wb>"),
            (rf"{encoder}shared_roi_projection\.{WB}", rf"{target}embeddings.shared_projection.\g<wb>"),
            (rf"{transformer}(?P<token>mask_embedding|cls_token)", rf"{target}embeddings.\g<token>"),
            (rf"{transformer}temporal_pos_embedding", rf"{target}embeddings.time_positions"),
            (rf"{transformer}network_learnable_pos_embedding\.weight", rf"{target}embeddings.network_positions"),
            *block_rules(rf"{transformer}transformer_blocks\.", target, "0", "3"),
            (rf"{encoder}norm\.{WB}", rf"{target}layernorm.\g<wb>"),
        ]
        if shared_mask_head:
            dropped.append((rf"(?P<part>{name}_mask_predictor)\..*", _ALIAS))
        for theirs, mine in (("predictor", "head"), ("mask_predictor", "mask_head")):
            rules.append((rf"{name}_{theirs}\.mlp\.{WB}", rf"{name}_{mine}.layers.0.\g<wb>"))
            for place in range(8):  # activations stand between the linear layers, so these have even numbers
                rules.append((rf"{name}_{theirs}\.mlp\.{2 * place}\.{WB}", rf"{name}_{mine}.layers.{place}.\g<wb>"))
    rules.append((rf"(?:teacher|student)_encoder\.head\.1\.{WB}", r"classifier.output.\g<wb>"))
    return KeyMap(rules=rules, dropped=dropped)


# Names of constructor arguments: section of the training configuration that holds them, and our name.
_OPTIONS = {
    "emb_dropout": ("model", "embedding_dropout"),
    "drop_path_rate": ("model", "drop_path_rate"),
    "projection_hidden_dim": ("model", "projection_hidden_size"),
    "projection_bottleneck_dim": ("model", "projection_size"),
    "projection_nlayers": ("model", "projection_num_layers"),
    "head_dropout": ("model", "classifier_dropout"),
    "mask_loss_weight": ("ssl", "mask_loss_weight"),
    "network_loss_weight": ("ssl", "network_loss_weight"),
    "coeff": ("dino", "alignment_weight"),
    "use_separate_mask_predictor": ("dino", "separate_mask_head"),
    "masking_type": ("masking", "mask_kind"),
    "masking_ratio": ("masking", "mask_ratio"),
    "masking_frequency": ("masking", "masking_frequency"),
}


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
        atlases = [atlas for atlas in ("schaefer", "tian", "buckner") if data.get(f"{atlas}_atlas")]
        return {
            **{name: (authors.get(section) or {}).get(name) for name, (section, _) in _OPTIONS.items()},
            "max_spatial": data.get("max_spatial"),
            "min_spatial": data.get("min_spatial"),
            "atlas_names": [data[f"{atlas}_atlas"] for atlas in atlases],
            "atlas_network_counts": [int(data.get(f"{atlas}_networks") or 1) for atlas in atlases],
            "total_rois": sum(int(data.get(f"{atlas}_rois") or 0) for atlas in atlases),
            "patch_size": data["patch_size"],
            "target_time_length": data["target_signal_length"],
            "depth": model["depth"],
            "embedding_dim": model["embedding_dim"],
            "heads": model["embedding_dim"] // 64,
            "mlp_dim": 4 * model["embedding_dim"],
            "layer_scale_init_value": model.get("layer_scale_init_value"),
            "tokenizer_config": (model.get("tokenizer") or {}).get("config"),
        }
    except (KeyError, TypeError) as error:
        raise ConversionError(
            f"The configuration lacks {error}. Expected the authors' training configuration (config_used.yaml) or the "
            "constructor arguments of their model."
        ) from error


# The authors' kinds of tokenizer branches: ours, and the fields that go with it.
_BRANCHES = {
    "sgconv": ("long_convolution", ("out_channels", "kernel_size", "num_scales", "decay_min", "decay_max")),
    "dense": ("convolution", ("out_channels", "kernel_size", "depthwise")),
    "dilated": ("convolution", ("out_channels", "kernel_size", "depthwise", "dilation")),
}


def _branch(authors: dict[str, Any]) -> dict[str, Any]:
    if (kind := authors.get("type")) not in _BRANCHES:
        raise ConversionError(f"Unknown tokenizer branch {kind!r}, expected one of {', '.join(_BRANCHES)}.")
    ours, names = _BRANCHES[kind]
    return {"type": ours, **{name: authors[name] for name in names if name in authors}}


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


def clean_keys(content: dict[str, Any]) -> dict[str, Any]:
    """Weights of a file without the wrappers of parallel training; a bare encoder counts as the teacher.

    Raises:
        ConversionError: if the keys are not those of Brain-Semantoks.
    """
    bare = ("network_tokenizers.", "inter_network_transformer.", "norm.", "head.", "shared_roi")
    cleaned = {
        f"teacher_encoder.{key}" if key.startswith(bare) else key: value
        for key, value in weights_of(content, "model_state_dict").items()
    }
    if not any(".inter_network_transformer." in key for key in cleaned):
        shown = ", ".join(map(str, list(cleaned)[:4]))
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


def _tensor(state_dict: dict[str, Any], pattern: str) -> Any:
    """The first tensor whose name ends in this pattern, or `None`."""
    return next((value for key, value in state_dict.items() if re.search(rf"{pattern}$", key)), None)


def _count_rois(state_dict: dict[str, Any], mode: str) -> int | None:
    """Number of parcels of a model without network map, from its weights."""
    axes = {r"\.slconv\.multiplier": 1, r"\.depthwise\.(weight|bias)": 0, r"branches\.\d+\.weight": 1}
    if mode == "rois":
        axes = {r"\.network_learnable_pos_embedding\.weight": 0}
    found = ((_tensor(state_dict, pattern), axis) for pattern, axis in axes.items())
    return next((int(tensor.shape[axis]) for tensor, axis in found if tensor is not None), None)


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
        n_rois = values.get("total_rois") or _count_rois(state_dict, mode)
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
        options["tokenizer_branches"] = [_branch(branch) for branch in values["tokenizer_config"]]
    width = _tensor(state_dict, r"\.transformer_blocks\.0\.mlp\.0\.weight")
    norm = _tensor(state_dict, r"\.network_tokenizers\.[^.]+\.\d+\.norm\.weight")
    scaled = _tensor(state_dict, r"\.ls1\.gamma") is not None
    options |= {ours: values[theirs] for theirs, (_, ours) in _OPTIONS.items() if values.get(theirs) is not None}
    options |= _head_sizes(state_dict)
    classifier = _tensor(state_dict, r"_encoder\.head\.1\.weight")
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
            tokenizer_norm=bool(values.get("max_spatial")) or norm is not None,
            layer_scale_init_value=(values.get("layer_scale_init_value") or 0.1) if scaled else None,
            use_mask_embedding=_tensor(state_dict, r"\.mask_embedding") is not None,
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
    content: dict[str, Any],
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
        content: of the authors' file, or their weights alone (may be on the meta device).
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
    state_dict = _settle_kernel_norms(clean_keys(content))
    config = build_config(values, state_dict, network_map, num_attention_heads, tokenizer_pooling)
    if not config.separate_mask_head:
        _check_aliases(state_dict)
    has_head = any("_encoder.head." in key for key in state_dict)
    model_class: Any = BrainSemantoksForSequenceClassification if has_head else BrainSemantoksModel
    if pretraining:
        model_class = BrainSemantoksForMaskedModeling
        state_dict = {key: value for key, value in state_dict.items() if "_encoder.head." not in key}
    elif not any(key.startswith(f"{encoder}_encoder.") for key in state_dict):
        raise ConversionError(f"The checkpoint holds no {encoder} encoder ({encoder}_encoder. keys).")
    mapping = key_map(
        first_atlas(values, state_dict),
        config.tokenizer_pooling,
        not config.separate_mask_head,
        tokenizers=config.spatial_mode != "rois",
        only=None if pretraining else encoder,
        prefix="brain_semantoks." if has_head else "",
    )
    converted, report = mapping.convert(state_dict)
    check_against_model(model_class, config, converted)
    return ConvertedCheckpoint(model_class, config, converted, report)


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
    converted = convert_state_dict(container, authors, network_map, **options)
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
