"""How each kind of BrainHarmony case is computed with the public classes and functions."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_case import GoldenCase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_harmony
import convert_harmonix_s
from kinds_harmonix_f import convert_f
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.conversion.containers import read_torch_checkpoint
from brain_transformers.layers.masking import gather_tokens, num_kept_tokens, select_tokens
from brain_transformers.layers.positions import sincos_table
from brain_transformers.models.brain_harmony.conversion_brain_harmony import KEY_MAP, in_our_shape
from brain_transformers.models.conversion_base import GivenFile
from brain_transformers.models.harmonix_f.conversion_harmonix_f import convert as convert_harmonix_f_file
from brain_transformers.models.harmonix_s.conversion_harmonix_s import KEY_MAP as HARMONIX_S_KEYS
from brain_transformers.processing.structural import T1FeatureExtractor
from brain_transformers.training.parameter_groups import layer_decay_groups
from brain_transformers.training.schedules import warmup_half_cosine_lr

# --- Harmonix-S ---


def converted_t1_encoder(checkpoint: Path, num_heads: int, output: Path) -> Path:
    """The authors' T1 encoder after the conversion script."""
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), "--num-attention-heads", str(num_heads)]
    assert convert_harmonix_s.main(arguments) == 0
    return output


def t1_encoder(case: GoldenCase, work: Path) -> None:
    authors = case.json("config.json")
    folder = converted_t1_encoder(case.folder / "checkpoint.pth", authors["num_heads"], work / "converted")
    model = AutoModel.from_pretrained(folder).eval()
    config = model.config
    ours = [config.image_size, config.patch_size, config.hidden_size, config.num_hidden_layers]
    case.check(
        "sizes",
        ours[0] + ours[1:],
        [*authors["img_size"], *(authors[n] for n in ("patch_size", "embed_dim", "depth"))],
    )
    with torch.no_grad():
        output = model(case.take("image"), output_hidden_states=True)
    case.compare("last_hidden_state", output.last_hidden_state[:, 1:])
    for name in case.names("hidden_states."):  # of blocks: ours begin with the input of the first
        case.compare(name, output.hidden_states[int(name.rpartition(".")[2]) + 1])
    case.compare("pos_embed_sincos", bt.HarmonixSModel(config).embeddings.positions)


def t1_normalise(case: GoldenCase, work: Path) -> None:
    facts = case.json("config.json")
    i, j, k = np.indices(facts["input_shape"])
    of_i, of_j, of_k, radius = facts["a"]
    inside = ((i - 83) / 60) ** 2 + ((j - 106) / 80) ** 2 + ((k - 80) / radius) ** 2 < 1
    volume = np.where(inside, (of_i * i + of_j * j + of_k * k) % 97, 0)
    extractor = T1FeatureExtractor(check_brain=False)
    checked = extractor.check(volume, "the volume of the case")
    case.check("mean", checked.mean, facts["mean"], rtol=1e-6)
    case.check("std", checked.deviation, facts["std"], rtol=1e-6)
    (output,) = extractor(volume)["t1_volumes"]
    case.check("out_shape", output.shape, facts["out_shape"])
    case.check("out_sum", output.sum(dtype=np.float64), facts["out_sum"], rtol=1e-6)
    case.check("out_sq_sum", (output.astype(np.float64) ** 2).sum(), facts["out_sq_sum"], rtol=1e-6)
    case.compare("sample_stride8", output[0, ::8, ::8, ::8])
    case.compare("corner_low", output[0, :4, :4, :4])
    case.compare("center_line", output[0, 80, 96])
    case.compare("plane_k148_k149", output[0, ::8, ::8, 148:150])


HARMONIX_S = {"t1_encoder": t1_encoder, "t1_normalise": t1_normalise}


# --- fusion: stages 1 and 2 ---


def _converted(checkpoint: Path, output: Path, config: dict[str, Any], component: str) -> Path:
    """The checkpoint after the conversion script, with what its keys do not tell."""
    arguments = ["--component", component, "--checkpoint", str(checkpoint), "--output", str(output)]
    arguments += ["--num-attention-heads", str(config["num_heads"]), "--n-t1-tokens", str(config["num_t1_tokens"])]
    if component == "harmonizer":
        arguments += ["--decoder-num-attention-heads", str(config["decoder_num_heads"])]
    assert convert_brain_harmony.main(arguments) == 0
    return output


def _compare_gradients(case: GoldenCase, model: Any, loss: torch.Tensor) -> None:
    """Every `grad.*` of the case after a backward pass; ours take the axes of theirs."""
    loss.backward()
    parameters = dict(model.named_parameters())
    for name in case.names("grad."):
        found = KEY_MAP.target_of(name.removeprefix("grad."))
        assert found is not None, f"no rule for {name}"
        gradient = parameters[found[0]].grad
        assert gradient is not None
        case.compare_gradient(name, gradient.reshape(case.tensors[name].shape))


def _check_sizes(case: GoldenCase, model: Any, config: dict[str, Any]) -> None:
    ours, names = model.config, ("num_fmri_tokens", "num_t1_tokens", "input_dim", "embed_dim", "depth")
    sizes = [ours.n_fmri_tokens, ours.n_t1_tokens, ours.input_size, ours.hidden_size, ours.num_hidden_layers]
    case.check("sizes", sizes, [config[name] for name in names])
    case.check("num_latent_tokens", ours.num_hub_tokens, config["num_latent_tokens"])
    case.check("add_pre_mapping", model.brain_harmony.embeddings.projection is not None, config["add_pre_mapping"])


def stage1_harmonizer(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    folder = _converted(case.folder / "checkpoint.pth", work / "converted", config, "harmonizer")
    model = AutoModelForPreTraining.from_pretrained(folder, norm_pix_loss=config["norm_pix_loss"]).eval()
    _check_sizes(case, model, config)
    decoder = [getattr(model.config, f"decoder_{name}") for name in ("hidden_size", "num_hidden_layers")]
    case.check("sizes of the decoder", decoder, [config["decoder_embed_dim"], config["decoder_depth"]])
    tokens, mask = case.take("embeddings"), case.take("attn_mask")
    output = model(inputs_embeds=tokens, attention_mask=mask, output_hidden_states=True)
    for number, state in enumerate(output.hidden_states[1:]):
        case.compare(f"hidden_states.{number}", state)
    case.compare("latent", output.last_hidden_state)
    case.compare("pred", output.predictions)
    case.compare("loss", output.loss)
    case.check("loss of config.json", output.loss, torch.tensor(config["loss"]))
    for name, width in (("pos_embed_sincos", "embed_dim"), ("decoder_pos_embed_sincos", "decoder_embed_dim")):
        table = sincos_table((tokens.shape[1],), config[width], cls_row=True)
        case.compare(name, table[None], atol=1e-6)
    # The way that is taken when nobody asks for hidden states: padded tokens left out, hub queries alone at the end.
    short = model(inputs_embeds=tokens, attention_mask=mask)
    case.check("loss of the short way", short.loss, case.tensors["loss"])
    case.check("pred of the short way", short.predictions, case.tensors["pred"])
    _compare_gradients(case, model, short.loss)
    body = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        case.check("latent of the body", body(tokens, mask).last_hidden_state, case.tensors["latent"])


def stage2_finetune(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    folder = _converted(case.folder / "checkpoint.pth", work / "converted", config, "finetuned")
    smoothing = 0.1
    model = AutoModelForSequenceClassification.from_pretrained(folder, label_smoothing=smoothing).eval()
    _check_sizes(case, model, config)
    assert model.config.pooling == ("mean" if config["global_pool"] else "cls")
    case.check("use_mlp", model.config.classifier_head == "mlp", config.get("use_mlp", False))
    case.check("num_classes", model.num_labels, 1 if config.get("use_mlp") else config["num_classes"])
    tokens, mask = case.take("embeddings"), case.take("attn_mask")
    inputs = {"inputs_embeds": tokens, "attention_mask": mask}
    with torch.no_grad():
        for name, options in (("", {}), (" with hidden states", {"output_hidden_states": True})):
            output = model(**inputs, **options)
            case.check(f"features{name}", output.pooler_output, case.take("features"))
            case.check(f"logits{name}", output.logits, case.take("logits"))
        case.compare("features", output.pooler_output)
        case.compare("logits", output.logits)
    if case.has("labels"):
        _compare_losses(case, model, inputs, config, smoothing)
    if "param_groups" in config:
        _compare_groups(case, model, config)
    if (stage1 := case.folder / "stage1_checkpoint.pth").is_file():
        _compare_start(case, stage1, work, config)


def _compare_losses(
    case: GoldenCase, model: Any, inputs: dict[str, torch.Tensor], config: dict[str, Any], smoothing: float
) -> None:
    labels, rate = case.take("labels"), config["mixup_lam"]
    case.compare("loss_cross_entropy", model(**inputs, labels=labels).loss)
    flipped = inputs["inputs_embeds"].flip(0)
    mixed = rate * inputs["inputs_embeds"] + (1 - rate) * flipped
    case.compare("mixup_inputs", mixed, atol=1e-6)
    spread = torch.nn.functional.one_hot(labels, model.num_labels) * (1 - smoothing) + smoothing / model.num_labels
    shares = rate * spread + (1 - rate) * spread.flip(0)
    case.compare("mixup_targets", shares, atol=1e-6)
    with torch.no_grad():
        output = model(case.tensors["mixup_inputs"], inputs["attention_mask"], labels=case.tensors["mixup_targets"])
    case.compare("mixup_logits", output.logits)
    case.compare("mixup_loss", output.loss)
    # The criterion of training, without the paths that are dropped there.
    for layer in model.brain_harmony.layers:
        layer.drop_path_rate = 0.0
    loss = model.train()(**inputs, labels=labels).loss
    case.compare("loss_label_smoothing", loss)
    _compare_gradients(case, model, loss)


def _compare_groups(case: GoldenCase, model: Any, config: dict[str, Any]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    options = {"weight_decay": 0.05, "layer_decay": config["layer_decay"]}
    groups = layer_decay_groups(model, **options, published=True)
    ours = {(group["lr_scale"], group["weight_decay"]): group for group in groups}
    case.check("number of groups", len(groups), len(config["param_groups"]))
    for number, theirs in enumerate(config["param_groups"]):
        key = min(ours, key=lambda own: abs(own[0] - theirs["lr_scale"]) + abs(own[1] - theirs["weight_decay"]))
        case.check(f"group {number}", torch.tensor(key), torch.tensor([theirs["lr_scale"], theirs["weight_decay"]]))
        expected = {KEY_MAP.target_of(name)[0] for name in theirs["params"]}  # type: ignore[index]
        found = {names[id(parameter)] for parameter in ours[key]["params"]}
        if found != expected:
            case.failures.append(f"group {number}: {sorted(found ^ expected)} differ")
    # Ours differ in one thing: learned vectors do not decay.
    free = {
        names[id(p)]
        for group in layer_decay_groups(model, **options)
        if not group["weight_decay"]
        for p in group["params"]
    }
    free -= {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert free == {f"brain_harmony.embeddings.{name}" for name in ("hub_tokens", "hub_positions")}


def _compare_start(case: GoldenCase, stage1: Path, work: Path, config: dict[str, Any]) -> None:
    """What a classifier takes of a stage-1 file, and what it starts anew: the keys that the authors' code lists."""
    folder = _converted(stage1, work / "stage1", config, "harmonizer")
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=config["num_classes"], pooling="mean", output_loading_info=True
    )
    of_theirs = {name: KEY_MAP.target_of(name) for name in config["missing_keys_from_stage1"]}
    missing = {found[0] for found in of_theirs.values() if found is not None}
    if missing != set(info["missing_keys"]):
        case.failures.append(f"missing keys: {sorted(missing ^ set(info['missing_keys']))} differ")
    weights = read_torch_checkpoint(stage1)["model"]
    own, unused = model.state_dict(), set()
    for name, value in weights.items():
        target = KEY_MAP.target_of(name)
        assert target is not None
        if target[0] in own:
            case.check(f"start of {name}", own[target[0]], in_our_shape(target[0], value), atol=0, rtol=0)
        else:
            unused.add(name)
    if unused != set(config["unexpected_keys_from_stage1"]):
        case.failures.append(f"unexpected keys: {sorted(unused ^ set(config['unexpected_keys_from_stage1']))} differ")


def lr_schedules(case: GoldenCase, work: Path) -> None:
    for name, recipe in case.json("config.json").items():
        options = {
            "peak": recipe["lr"],
            "final": recipe["min_lr"],
            "warmup": recipe["warmup_epochs"],
            "total": recipe["epochs"],
        }
        rates = [warmup_half_cosine_lr(float(epoch), **options) for epoch in case.take(f"{name}.epoch")]
        case.compare(f"{name}.lr", torch.tensor(rates, dtype=torch.float64), atol=1e-18, rtol=1e-12)
        if "layer_decay" in recipe:
            case.compare(f"{name}.layer_scales", _layer_scales(recipe), atol=0, rtol=1e-12)


def _layer_scales(recipe: dict[str, Any]) -> torch.Tensor:
    """Factors of the learning rate from CLS to the head, of a model of that depth."""
    config = bt.load_config("brain-harmony-tiny", num_hidden_layers=recipe["depth"], num_labels=2)
    model = bt.BrainHarmonyForSequenceClassification(config)
    scale_of = {
        id(parameter): group["lr_scale"]
        for group in layer_decay_groups(model, layer_decay=recipe["layer_decay"])
        for parameter in group["params"]
    }
    body = model.brain_harmony
    levels = [body.embeddings.cls_token, *(layer.mlp.fc1.weight for layer in body.layers), body.embeddings.hub_tokens]
    return torch.tensor([scale_of[id(parameter)] for parameter in levels], dtype=torch.float64)


def random_masking_stats(case: GoldenCase, work: Path) -> None:
    """The authors' masking, which they never call, is that of ViT-MAE: ours, given their noise."""
    config = case.json("config.json")
    length, ratio, draws = config["L"], config["mask_ratio"], config["draws"]
    for key, expected in config["table"].items():
        n_tokens, share = key.split(",")
        case.check(f"table {key}", num_kept_tokens(int(n_tokens), float(share)), expected)
    case.check("len_keep", num_kept_tokens(length, ratio), config["len_keep"])
    case.check("kept_per_row", [num_kept_tokens(length, ratio)], config["kept_per_row"])
    noise, tokens = case.take("ids_restore_first8").float(), case.take("x_first8")
    selection = select_tokens(noise, ratio)
    case.compare("ids_restore_first8", selection.ids_restore)
    case.compare("mask_first8", selection.token_mask)
    case.compare("x_masked_first8", gather_tokens(tokens, selection.ids_keep), atol=0, rtol=0)
    kept = config["len_keep"] / length
    generator = torch.Generator().manual_seed(0)
    shares = 1 - select_tokens(torch.rand(draws, length, generator=generator), ratio).token_mask.mean(0)
    spread = 5 * np.sqrt(kept * (1 - kept) / draws)
    case.check("keep_freq_mean", float(shares.mean()), config["keep_freq_mean"], atol=1e-6, rtol=0)
    for name, value in (("keep_freq_min", shares.min()), ("keep_freq_max", shares.max())):
        case.check(name, float(value), kept, atol=spread, rtol=0)
        case.check(f"{name} of theirs", config[name], kept, atol=spread, rtol=0)


def _fusion_model(name: str, theirs: dict[str, list[int]]) -> Any:
    """Our model of one of the published sizes, without memory."""
    stage, size, _ = name.split("_")
    with torch.device("meta"):
        if stage == "stage1":
            return bt.BrainHarmonyForMaskedModeling(bt.load_config("brain-harmony-base"))
        pooling = "mean" if "fc_norm.weight" in theirs else "cls"
        config = bt.load_config(f"brain-harmony-{size}", num_labels=2, pooling=pooling)
        return bt.BrainHarmonyForSequenceClassification(config)


def _check_shapes(case: GoldenCase, name: str, model: Any, keys: Any, theirs: dict[str, Any], counts: Any) -> None:
    """Names and shapes of the authors' network through our rules, and its parameters."""
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    converted = {}
    for key, shape in theirs.items():
        target = keys.target_of(key)
        assert target is not None, key
        value = torch.empty(shape, device="meta")
        converted[target[0]] = list((in_our_shape(target[0], value) if keys is KEY_MAP else value).shape)
    if converted != ours:
        different = {key for key in converted.keys() | ours.keys() if converted.get(key) != ours.get(key)}
        case.failures.append(f"{name}: {sorted(different)[:5]} differ")
    # Tables of positions are buffers here, and parameters that are not trained there.
    trainable = model.num_parameters()
    case.check(f"{name}: trainable", trainable, counts["trainable"])
    case.check(f"{name}: total", trainable + sum(value.numel() for value in model.buffers()), counts["total"])


def _check_harmonix_f(case: GoldenCase, work: Path, theirs: dict[str, list[int]], counts: dict[str, Any]) -> None:
    """The converter refuses what has other names or shapes; the numbers of parameters are those of its model."""
    given = []
    for name, columns in (("gradient", 30), ("harmonics", 200)):
        (work / name).write_text(name)
        given.append(GivenFile(work / name, np.zeros((400, columns), dtype=np.float32)))
    weights = {key: torch.empty(shape, device="meta") for key, shape in theirs.items()}
    config = convert_harmonix_f_file(GivenFile(work / "model.pth", weights), *given).config
    with torch.device("meta"):
        model = bt.HarmonixFForMaskedModeling(config)
    target = model.harmonix_f.num_parameters()
    shared = sum(p.numel() for p in model.predictor.parcel_projection.parameters())
    positions = sum(p.numel() for p in model.harmonix_f.embeddings.positions.parameters()) + shared
    predictor = sum(p.numel() for p in model.predictor.parameters())
    tables = model.predictor.time_positions.numel() + model.harmonix_f.embeddings.positions.time_positions.numel()
    trainable = {
        "harmonix_f_encoder": target + shared,
        "pos_embed": positions,
        "predictor_incl_shared_pos": predictor - shared + positions,
        "jepa_total": target + predictor,
    }
    for name, number in trainable.items():
        case.check(f"{name}: trainable", number, counts[name]["trainable"])
        if name != "jepa_total":
            case.check(f"{name}: total", number + tables, counts[name]["total"])
    # Of the wrapper: the average, which has the positions of a predictor too, is not trained.
    whole = trainable["jepa_total"] + trainable["harmonix_f_encoder"] + 2 * tables
    case.check("jepa_total: total", whole, counts["jepa_total"]["total"])


def base_state_dict_shapes(case: GoldenCase, work: Path) -> None:
    facts = case.json("shapes.json")
    names = {"harmonizer_model.pth[model]": "stage1_base_128"}
    for place, theirs in facts["shapes"].items():
        name, keys = names.get(place, place), KEY_MAP
        if name == "harmonix_s_encoder":
            with torch.device("meta"):
                model, keys = bt.HarmonixSModel(bt.load_config("harmonix-s-base")), HARMONIX_S_KEYS
        elif name == "harmonix_f_model.pth":
            _check_harmonix_f(case, work, theirs, facts["parameter_counts"])
            continue
        else:
            model = _fusion_model(name, theirs)
        _check_shapes(case, name, model, keys, theirs, facts["parameter_counts"][name])


def _converted_whole(case: GoldenCase, work: Path, model: Any, config: dict[str, Any]) -> Path:
    """The case's encoders and the weights of `model`, under the authors' names, after `--component all`."""
    torch.manual_seed(0)
    pretraining = bt.BrainHarmonyForMaskedModeling(model.config)
    pretraining.brain_harmony.load_state_dict(model.state_dict())
    ours = {key: value for key, value in pretraining.state_dict().items() if "_encoder." not in key}
    weights = {_authors_name(key): value for key, value in ours.items()}
    for key in ("cls_token", "pos_embed", "mask_token", "decoder_pos_embed", "dec_latent_token_positional_embedding"):
        weights[key] = weights[key].reshape(1, -1, weights[key].shape[-1])
    torch.save({"model": weights}, work / "harmonizer.pth")
    fmri, t1 = config["harmonix_f"], config["harmonix_s"]
    arguments = {
        "--component": "all",
        "--checkpoint": work / "harmonizer.pth",
        "--fmri-checkpoint": case.folder / "checkpoint.pth",
        "--t1-checkpoint": case.folder / "t1_checkpoint.pth",
        "--gradient": case.folder / "gradient.csv",
        "--harmonics": case.folder / "geo_harm.csv",
        "--num-attention-heads": model.config.num_attention_heads,
        "--decoder-num-attention-heads": model.config.decoder_num_attention_heads,
        "--fmri-num-attention-heads": fmri["num_heads"],
        "--fmri-predictor-num-attention-heads": fmri["predictor_num_heads"],
        "--t1-num-attention-heads": t1["num_heads"],
        "--n-t1-tokens": model.config.n_t1_tokens,
        "--output": work / "whole",
    }
    assert convert_brain_harmony.main([str(word) for pair in arguments.items() for word in pair]) == 0
    account = json.loads((work / "whole" / "conversion.json").read_text())
    weights = {name for name in load_file(work / "whole" / "model.safetensors") if name.endswith(("weight", "bias"))}
    assert weights <= set(account["used"].values()), "every weight has its key in one of the three files"
    return work / "whole"


def _authors_name(key: str) -> str:
    """The authors' name of one of our tensors of the fusion."""
    parts = {
        "brain_harmony.embeddings.": {
            "cls_token": "cls_token",
            "position_embeddings": "pos_embed",
            "hub_tokens": "latent_tokens",
            "hub_positions": "enc_latent_token_positional_embedding",
            "projection": "pre_map",
        },
        "brain_harmony.": {"layernorm": "norm", "layers": "blocks"},
        "decoder.": {
            "mask_token": "mask_token",
            "position_embeddings": "decoder_pos_embed",
            "hub_positions": "dec_latent_token_positional_embedding",
            "embed": "decoder_embed",
            "layernorm": "decoder_norm",
            "projection": "decoder_pred",
            "layers": "decoder_blocks",
        },
    }
    place = next(place for place in parts if key.startswith(place))
    head, dot, rest = key.removeprefix(place).partition(".")
    for ours, theirs in (
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.out_proj", "attn.proj"),
        ("attention.qkv", "attn.qkv"),
    ):
        rest = rest.replace(ours, theirs)
    return f"{parts[place][head]}{dot}{rest}"


def stage0_embedding(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    fmri_config, t1_config = config["harmonix_f"], config["harmonix_s"]
    fmri = AutoModel.from_pretrained(convert_f(case, work, fmri_config))
    t1_folder = converted_t1_encoder(case.folder / "t1_checkpoint.pth", t1_config["num_heads"], work / "harmonix_s")
    t1 = AutoModel.from_pretrained(t1_folder)
    sizes = {"n_fmri_tokens": fmri_config["n_rois"] * fmri_config["num_patches"], "n_t1_tokens": t1.config.n_patches}
    options = {**sizes, "input_size": fmri_config["embed_dim"]}
    model = bt.BrainHarmonyModel(bt.load_config("brain-harmony-tiny", **options)).eval()
    model.set_encoders(fmri, t1)
    mask = case.take("attention_mask")
    tokens, observed = model.stage0(
        signals=case.take("signal")[:, 0],
        attention_mask=mask,
        patch_size=config["patch_size_used"],
        t1_volumes=case.take("image"),
    )
    case.compare("data", tokens)
    case.check("observed", observed[:, : mask.shape[1]], mask.bool())
    with np.load(case.folder / "sample.npz") as file:
        case.check("sample.npz: data", tokens[:1], torch.from_numpy(file["data"]))
        case.check("sample.npz: attn_mask", mask[:1], torch.from_numpy(file["attn_mask"]))
    # One folder holds all three, by the converter too.
    again = AutoModel.from_pretrained(_converted_whole(case, work, model, config)).eval()
    inputs = {"signals": case.tensors["signal"][:, 0], "attention_mask": mask, "t1_volumes": case.tensors["image"]}
    with torch.no_grad():
        expected = model(tokens, mask).pooler_output
        pooled = again(**inputs, patch_size=config["patch_size_used"]).pooler_output
    case.check("pooled of the whole model", pooled, expected, atol=1e-5)


FUSION = {
    "stage0_embedding": stage0_embedding,
    "base_state_dict_shapes": base_state_dict_shapes,
    "stage1_harmonizer": stage1_harmonizer,
    "stage2_finetune": stage2_finetune,
    "lr_schedules": lr_schedules,
    "random_masking_stats": random_masking_stats,
}


KINDS = {**HARMONIX_S, **FUSION}
