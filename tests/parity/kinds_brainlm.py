"""How each kind of BrainLM case is computed with the public classes and functions."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import authors_brainlm as recordings
import numpy as np
import torch
from golden_case import GoldenCase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brainlm
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.atlases.roi_orders import stable_y_order
from brain_transformers.layers.masking import num_kept_tokens, select_tokens
from brain_transformers.layers.positions import interleaved_sincos_table, sincos_table
from brain_transformers.models.brainlm.conversion_brainlm import TOKENS_KEY_MAP, convert_state_dict
from brain_transformers.models.brainlm_vit.conversion_brainlm_vit import IMAGE_KEY_MAP
from brain_transformers.models.brainlm_vit.masking_brainlm_vit import last_timepoints_mask, last_timepoints_noise

# Gradients with coordinates in raw millimetres: tokens are about 20 times larger and attention saturates, so float32
# gradients (the authors' own, too) are 5e-4 away from float64.
_MILLIMETRE_GRAD_RTOL = 1e-3


def converted_folder(case: GoldenCase, work: Path, *arguments: str) -> Path:
    """The case's checkpoint after the conversion script."""
    output = work / "converted"
    code = convert_brainlm.main(["--checkpoint", str(case.checkpoint), "--output", str(output), *arguments])
    assert code == 0
    return output


def authors_gradient(model: Any, key: str) -> torch.Tensor | None:
    """Gradient of the parameter that holds the authors' `key`, in the authors' shape."""
    key_map = TOKENS_KEY_MAP if isinstance(model.config, bt.BrainLMConfig) else IMAGE_KEY_MAP
    target = key_map.target_of(key)
    assert target is not None, f"no rule for {key}"
    name, part = target[0].replace("BODY", model.base_model_prefix), target[1]
    gradient = dict(model.named_parameters())[name].grad
    if gradient is None:
        return None
    if part is not None:
        return gradient.chunk(3)[part]
    if name.endswith("token_convolution.weight"):
        return gradient[:, None, :, None]
    return gradient


def compare_gradients(case: GoldenCase, model: Any, loss: torch.Tensor, rtol: float | None = None) -> None:
    """Compare every `grad.*` of the case after a backward pass from `loss`."""
    model.zero_grad()
    loss.backward()
    for name in case.names("grad."):
        case.compare_gradient(name, authors_gradient(model, name.removeprefix("grad.")), rtol=rtol)


def compare_states(case: GoldenCase, prefix: str, states: tuple[torch.Tensor, ...]) -> None:
    """Compare `prefix.0`, `prefix.1`, ... with a tuple of the same length."""
    names = case.names(f"{prefix}.")
    for name in names:
        case.compare(name, states[int(name.removeprefix(f"{prefix}."))])
    if names:
        case.check(f"number of {prefix}", len(states), max(int(name.rsplit(".", 1)[1]) for name in names) + 1)


def a_pretrain(case: GoldenCase, work: Path) -> None:
    folder = converted_folder(case, work)
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    signals, xyz, noise = case.take("signal_vectors"), case.take("xyz_vectors"), case.take("noise")
    output = model(signals, xyz, noise=noise, output_hidden_states=True)
    if case.has("loss"):
        case.compare("loss", output.loss)
    for name in ("mse", "mae"):
        if case.has(f"loss_{name}"):
            other = AutoModelForPreTraining.from_pretrained(folder, loss_fn=name).eval()
            case.compare(f"loss_{name}", other(signals, xyz, noise=noise).loss)
    if case.has("embeddings"):
        case.compare("embeddings", output.hidden_states[0])
    for name, value in (
        ("logits", output.logits),
        ("last_hidden_state", output.last_hidden_state),
        ("mask", output.mask),
        ("mask_flat", output.token_mask),
        ("ids_restore", output.ids_restore),
    ):
        if case.has(name):
            case.compare(name, value)
    compare_states(case, "hidden_states", output.hidden_states)
    compare_states(case, "decoder_hidden_states", output.decoder_hidden_states)
    # The family layout and the layout of every family are the same numbers.
    case.check("predictions", output.predictions.reshape(output.logits.shape), output.logits, atol=0, rtol=0)
    case.check("targets", output.targets, signals, atol=0, rtol=0)
    attention_names = case.names("attentions.")
    if attention_names:
        eager = AutoModelForPreTraining.from_pretrained(folder, attn_implementation="eager").eval()
        attentions = eager(signals, xyz, noise=noise, output_attentions=True).attentions
        for name in attention_names:
            index = name.removeprefix("attentions.")
            case.compare(name, attentions[-1 if index == "last" else int(index)])
    in_millimetres = float(xyz.abs().max()) > 10
    compare_gradients(case, model, output.loss, _MILLIMETRE_GRAD_RTOL if in_millimetres else None)


def a_encoder_order(case: GoldenCase, work: Path) -> None:
    folder = converted_folder(case, work)
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    body = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    signals, xyz = case.take("signal_vectors"), case.take("xyz_vectors")
    for noise_name in case.names("noise_"):
        tag, noise = noise_name.removeprefix("noise_"), case.take(noise_name)
        calls = [{"noise": noise, "mask_ratio": 0.0}]
        if tag == "identity":
            calls.append({"mask_ratio": 0.0})  # natural order is what the body does by itself
        for call in calls:
            with torch.no_grad():
                output = model(signals, xyz, **call)
                encoded = body(signals, xyz, output_attentions=True, **call)
            values = {
                "last_hidden_state": output.last_hidden_state,
                "cls": output.last_hidden_state[:, 0],
                "mean_patch": output.last_hidden_state[:, 1:].mean(1),
                "mask": output.token_mask,
                "logits": output.logits,
                "attentions.last": encoded.attentions[-1],
                "loss_is_nan": torch.tensor(output.loss is None),
            }
            if output.ids_restore is not None:
                values["ids_restore"] = output.ids_restore
            for name, value in values.items():
                if case.has(f"{tag}.{name}"):
                    case.compare(f"{tag}.{name}", value)
            case.check(f"{tag}: body", encoded.last_hidden_state, output.last_hidden_state)


def _image_inputs(case: GoldenCase) -> dict[str, torch.Tensor]:
    inputs = (
        {"signals": case.take("recording")} if case.has("recording") else {"pixel_values": case.take("pixel_values")}
    )
    if case.has("noise"):
        inputs["noise"] = case.take("noise")
    return inputs


def _order_by_token(states: torch.Tensor, ids_restore: torch.Tensor, n_kept: int) -> torch.Tensor:
    """Kept tokens `(batch, 1 + n_kept, width)` in ascending order of their token id."""
    kept_places = torch.argsort(ids_restore, dim=1)[:, :n_kept]
    order = torch.argsort(kept_places, dim=1)
    tokens = states[:, 1:].gather(1, order[:, :, None].expand(-1, -1, states.shape[2]))
    return torch.cat([states[:, :1], tokens], dim=1)


def b_pretrain(case: GoldenCase, work: Path) -> None:
    folder = converted_folder(case, work)
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    inputs = _image_inputs(case)
    output = model(**inputs, output_hidden_states=True)
    lean = model(**inputs)  # without hidden states, the last decoder layer runs only where its output is used
    case.compare("loss", lean.loss)
    case.check("loss with hidden states", output.loss, lean.loss)
    for name, value in (
        ("logits", lean.logits),
        ("token_mask", output.token_mask),
        ("pixel_mask", output.mask),
    ):
        if case.has(name):
            case.compare(name, value)
    if case.has("decoder_logits_tokens"):
        case.compare("decoder_logits_tokens", output.decoder_logits[:, ::37])
    # In the deterministic modes the noise is all ties: where the order differs, states are compared by token id.
    n_kept = output.last_hidden_state.shape[1] - 1
    same_order = "noise" in inputs or torch.equal(output.ids_restore, case.tensors["ids_restore"])
    states = {f"hidden_states.{i}": state for i, state in enumerate(output.hidden_states)}
    states["last_hidden_state"] = output.last_hidden_state
    if same_order:
        case.compare("ids_restore", output.ids_restore)
        for name, state in states.items():
            if case.has(name):
                case.compare(name, state)
    else:
        expected_restore = case.take("ids_restore")  # among ties any order will do, if the same tokens are kept
        case.check("ids_restore: kept", output.ids_restore < n_kept, expected_restore < n_kept)
        for name, state in states.items():
            if case.has(name):
                ours = _order_by_token(state, output.ids_restore, n_kept)
                case.check(name, ours, _order_by_token(case.take(name), expected_restore, n_kept))
    case.check("number of hidden_states", len(output.hidden_states), len(case.names("hidden_states.")))
    compare_gradients(case, model, lean.loss)


def b_finetune(case: GoldenCase, work: Path) -> None:
    folder = converted_folder(case, work)
    inputs = _image_inputs(case)
    variants = case.json("variants.json")
    labels = {name: case.take(f"labels_{name}") for name in ("regression", "binary") if case.has(f"labels_{name}")}
    for index, (tag, variant) in enumerate(variants.items()):
        model = AutoModelForSequenceClassification.from_pretrained(folder, **variant).eval()
        which = "binary" if variant.get("loss_fn", model.config.loss_fn) == "binary_cross_entropy" else "regression"
        # Masking stays on, as in the authors' code; the default here hides nothing at inference.
        output = model(**inputs, labels=labels[which], mask_ratio=model.config.mask_ratio)
        values = {
            "inference_logits": output.logits if output.raw_logits is None else output.raw_logits,
            "logits": output.logits,
            "loss": output.loss,
        }
        if output.classification_loss is not None:
            values["mlp_loss"] = output.classification_loss
            values["recon_loss"] = output.reconstruction_loss
        for name, value in values.items():
            if case.has(f"{tag}.{name}"):
                case.compare(f"{tag}.{name}", value)
        if index == 0:
            for name in ("token_mask", "last_hidden_state"):
                if case.has(name):
                    case.compare(name, getattr(output, name))
            compare_gradients(case, model, output.loss)


def masking(case: GoldenCase, work: Path) -> None:
    facts = copy.deepcopy(case.json("facts.json"))
    for name in case.names("random.", ".noise"):
        tag = name.removesuffix(".noise")
        ratio = float(tag.rsplit(".r", 1)[1])
        selection = select_tokens(case.take(name), ratio)
        case.compare(f"{tag}.mask", selection.token_mask)
        case.compare(f"{tag}.ids_restore", selection.ids_restore)
        case.compare(f"{tag}.ids_keep", selection.ids_keep)
        fact = facts.pop(tag)
        case.check(f"{tag} kept", selection.ids_keep.shape[1], fact.pop("len_keep"))
        case.check(f"{tag} masked", int(selection.token_mask[0].sum()), fact.pop("masked"))
        assert not fact, f"unknown facts of {tag}: {fact}"
    for key, expected in facts.pop("len_keep_real", {}).items():
        length, ratio_text = key.split("@")
        case.check(key, num_kept_tokens(int(length), float(ratio_text)), expected)
    for key, plan in facts.pop("predict_last", {}).items():
        _check_predict_last(case, key, plan)
    for key in [key for key in facts if key.startswith("auto_encode_stats")]:
        _check_mask_statistics(case, key, facts.pop(key))
    assert not facts, f"unknown facts: {sorted(facts)}"


def _check_predict_last(case: GoldenCase, key: str, expected: dict[str, Any]) -> None:
    patch, width, ratio, mode = key.split(".", 2)[0], key.split(".")[1], *key.split(".r", 1)[1].rsplit(".", 1)
    patch_size, n_timepoints = int(patch[1:]), int(width[1:])
    config = bt.BrainLMViTConfig(patch_size=patch_size)
    plan = last_timepoints_mask(n_timepoints, patch_size, config.image_size, float(ratio), mode)
    noise = last_timepoints_noise(plan, config.grid_size)
    case.check(f"{key} patch columns", list(plan.patch_columns), expected.pop("masked_patch_columns"))
    case.check(f"{key} kept", int((noise == 0).sum()), expected.pop("kept_tokens"))
    case.check(f"{key} timepoints", list(plan.timepoints), expected.pop("pixel_mask_first_last"))
    case.check(f"{key} count", plan.timepoints[1] - plan.timepoints[0], expected.pop("pixel_mask_count"))
    start, stop = plan.zeroed_columns
    case.check(f"{key} zeroed", [start, stop] if start < stop else [], expected.pop("zeroed_padded_columns"))
    assert not expected, f"unknown facts of {key}: {expected}"


def _check_mask_statistics(case: GoldenCase, key: str, expected: dict[str, Any]) -> None:
    """Distribution of random masks over many draws: counts exact, rates as one Monte-Carlo run can agree."""
    _, _, _, patch, ratio_text, draws_text = key.split("_")
    config = bt.BrainLMViTConfig(patch_size=int(patch[1:]))
    grid, ratio, draws = config.grid_size, float(ratio_text[1:]), int(draws_text.removesuffix("draws"))
    generator = torch.Generator().manual_seed(0)
    mask = select_tokens(torch.rand(draws, grid * grid, generator=generator), ratio).token_mask
    image = mask.reshape(draws, grid, grid)
    rate = mask.mean(0)
    case.check(f"{key} min", int(mask.sum(1).min()), expected.pop("masked_per_sample_min"))
    case.check(f"{key} max", int(mask.sum(1).max()), expected.pop("masked_per_sample_max"))
    for name, value in (("mean", rate.mean()), ("std", rate.std())):
        case.check(f"{key} rate {name}", value, torch.tensor(expected.pop(f"per_position_rate_{name}")), atol=5e-3)
    for name, value in (("min", rate.min()), ("max", rate.max())):
        case.check(f"{key} rate {name}", value, torch.tensor(expected.pop(f"per_position_rate_{name}")), atol=0.04)
    pairs = draws // 2
    identical = int((mask[:pairs] == mask[pairs : 2 * pairs]).all(1).sum())
    case.check(f"{key} identical", identical, expected.pop("two_samples_of_a_batch_identical"))
    agreement = (image[:, :, 1:] == image[:, :, :-1]).float().mean()
    case.check(f"{key} neighbours", agreement, torch.tensor(expected.pop("neighbour_agreement_time")), atol=5e-3)
    iid = ratio**2 + (1 - ratio) ** 2
    case.check(f"{key} iid", torch.tensor(iid), torch.tensor(expected.pop("expected_agreement_iid")), atol=5e-3)
    inside = image[:, :, grid // 4 : 3 * grid // 4].mean()
    case.check(f"{key} inside", inside, torch.tensor(expected.pop("masked_inside_data_rows_cols")), atol=5e-3)
    assert not expected, f"unknown facts of {key}: {sorted(expected)}"


def positional(case: GoldenCase, work: Path) -> None:
    for name in case.names("sincos2d."):
        width, grid = (int(part[1:]) for part in name.split(".")[1:])
        case.compare(name, sincos_table((grid, grid), width, cls_row=True), atol=1e-6, rtol=0)
    for name in case.names("sincos2d_rows."):
        tag = name.removeprefix("sincos2d_rows.")
        width, grid = (int(part[1:]) for part in tag.split("."))
        rows = case.take(f"sincos2d_rows_idx.{tag}")
        case.compare(name, sincos_table((grid, grid), width, cls_row=True)[rows], atol=1e-6, rtol=0)
    for name in case.names("pe1d."):
        expected = case.tensors[name]
        case.compare(name, interleaved_sincos_table(5000, expected.shape[1])[: expected.shape[0]], atol=1e-6, rtol=0)


def metrics(case: GoldenCase, work: Path) -> None:
    from brain_transformers.training.masked.metrics import masked_reconstruction_metrics

    predictions, targets, mask = case.take("pred"), case.take("target"), case.take("mask")
    expected = case.json("metrics.json")
    names = {"mse": "mse", "mae": "mae", "r2": "r2_clipped", "pearson": "pearson_r_clipped"}
    for tag, sign in (("good", 1), ("anti", -1)):
        values = masked_reconstruction_metrics(sign * predictions, targets, mask)
        for name, value in expected.pop(tag, {}).items():
            case.check(f"{tag}.{name}", torch.tensor(values[names[name]]), torch.tensor(value), atol=1e-5, rtol=1e-5)
    assert not expected, f"unknown metrics: {sorted(expected)}"


def lr_schedule(case: GoldenCase, work: Path) -> None:
    from brain_transformers.training.schedules import warmup_cosine_lr

    facts = case.json("facts.json")
    assert facts.pop("schedule") == "cosine_with_restarts"
    assert facts.pop("num_cycles") == 1
    max_steps, warmup, peak = facts.pop("max_steps"), facts.pop("warmup_steps"), facts.pop("peak_lr")
    for step, expected in facts.pop("step_lr"):
        value = warmup_cosine_lr(step, peak=peak, warmup_steps=warmup, max_steps=max_steps)
        case.check(f"lr after {step} steps", np.float64(value), np.float64(expected), atol=1e-9, rtol=0)
    # Logged by the authors for information; they depend on data that was never released.
    left = {name for name in facts if "eval" not in name}
    assert not left, f"unknown facts: {sorted(left)}"


def data_pipeline(case: GoldenCase, work: Path) -> None:
    facts = case.json("facts.json")
    _check_converter(case, facts)
    _check_toolkit(case, facts)
    assert not facts, f"unknown facts: {sorted(facts)}"
    if case.has("coords_index_xyz"):
        case.compare("voxel_order", stable_y_order(case.take("coords_index_xyz")[:, 1:].numpy()))
    if case.has("image.stored_rows"):
        rows, start = case.take("image.rows"), int(case.take("image.start")[0])
        stored = case.take("image.stored_rows").numpy()
        assert len(rows) == len(stored)  # they are rows of the image already, so nothing is left to sort
        width = case.tensors["image.out_rows"].shape[1]
        image = recordings.vit_image(stored, None, start=start, n_timepoints=width)
        case.compare("image.out_rows", image, atol=0, rtol=1e-5)
    for name, transform, source in (
        ("log1p_divmax", recordings.log_scaled_label, "raw"),
        ("divmax", recordings.max_scaled_label, "raw"),
        ("phq9_bin", recordings.depression_label, "raw"),
        ("age_z", recordings.standardised_label, "age_raw"),
    ):
        if case.has(f"labels.{name}"):
            case.compare(f"labels.{name}", transform(case.take(f"labels.{source}").numpy()), atol=1e-6, rtol=1e-5)


_UKBIOBANK_COLUMNS = [
    recordings.ALL_PATIENT_ALL_VOXEL,
    recordings.PER_PATIENT_ALL_VOXEL,
    recordings.PER_PATIENT_PER_VOXEL,
    recordings.PER_VOXEL_ALL_PATIENT,
    recordings.SUBTRACT_MEAN,
    recordings.SUBTRACT_MEAN_STD,
    recordings.SUBTRACT_MEAN_99TH,
]
_ROBUST_SCALER = "Voxelwise_RobustScaler_Normalized_Recording"
# Columns that subtract a mean of several hundred from the raw signal carry its float32 rounding.
_MEAN_ROUNDING = 3e-4


def _column_tolerance(column: str) -> dict[str, float]:
    subtracts = column in (recordings.SUBTRACT_MEAN, _ROBUST_SCALER)
    return {"atol": _MEAN_ROUNDING, "rtol": 0.0} if subtracts else {"atol": 2e-5, "rtol": 1e-5}


def _check_converter(case: GoldenCase, facts: dict[str, Any]) -> None:
    raw = {name.removeprefix("convert.raw."): case.take(name).numpy() for name in case.names("convert.raw.")}
    splits = recordings.ukbiobank_splits(list(raw))
    for ours, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        fact = facts.pop(f"convert.{theirs}_ukbiobank1000", None)
        if fact is None:
            continue
        assert splits[ours] == fact["files"]
        assert [recordings.patient_id(file, upstream_quirks=True) for file in fact["files"]] == fact["patient_id"]
        assert fact["columns"] == ["Raw_Recording", *_UKBIOBANK_COLUMNS, "Filename", "Patient ID"]
    computed = recordings.ukbiobank_columns(raw) if raw else {}
    for column, dtype in facts.pop("convert.dtypes", {}).items():
        assert all(str(columns[column].dtype) == dtype for columns in computed.values())
    for file, columns in computed.items():
        for column, values in columns.items():
            if case.has(f"convert.{column}.{file}"):
                case.compare(f"convert.{column}.{file}", values, **_column_tolerance(column))


def _check_toolkit(case: GoldenCase, facts: dict[str, Any]) -> None:
    """Raw and robust-scaled columns are computed; the others mixed all 424 parcels, of which the case keeps a few."""
    prefix = "toolkit.raw."
    raw = {
        name.removeprefix(prefix): np.round(case.take(name).numpy(), 3).astype(np.float32)  # as written to the files
        for name in case.names(prefix)
    }
    if not raw:
        return
    facts.pop("toolkit.kept_parcels")  # which parcels the case keeps
    robust = _ROBUST_SCALER
    expected_columns = ["Raw_Recording", robust, *_UKBIOBANK_COLUMNS, "Filename", "Patient ID"]
    assert facts.pop("toolkit.columns") == expected_columns
    for column, shape in facts.pop("toolkit.shapes").items():
        # The authors' layouts differ: [time, parcels] for the robust-scaled column, [parcels, time] for all others.
        n_timepoints = {len(recording) for recording in raw.values()}
        assert sorted(shape) == sorted([424, *n_timepoints])
        assert (shape[0] == 424) == (column != robust)
    scaled = recordings.toolkit_robust_scale(raw, upstream_quirks=True)
    for name in case.names("toolkit."):
        if name.startswith(prefix):
            continue
        column, subject = name.removeprefix("toolkit.").rsplit(".", 1)
        if column == "Raw_Recording":
            case.compare(name, raw[subject].T, atol=0, rtol=1e-6)
        elif column == robust:
            case.compare(name, scaled[subject], **_column_tolerance(column))
        else:
            case.leave_out(name, "it mixed all 424 parcels, of which the case keeps a few")


def state_dict_keys(case: GoldenCase, work: Path) -> None:
    """Key lists at real size, converted on the meta device: nothing may be missing, unexpected or misshapen."""
    published = {"old_13M": "brainlm-13m", "vitmae_111M": "brainlm-111m", "vitmae_650M": "brainlm-650m"}
    for path in sorted(case.folder.glob("*.json")):
        if path.name == "case.json":
            continue
        shapes = json.loads(path.read_text(encoding="utf-8"))
        with torch.device("meta"):
            weights = {key: torch.empty(shape) for key, shape in shapes.items()}
        converted = convert_state_dict(weights, authors_config_of(shapes))
        reported = {*converted.report.renamed, *converted.report.dropped}
        assert reported == set(shapes), f"{path.stem}: {sorted(set(shapes) - reported)[:3]} not accounted for"
        case.check(f"{path.stem}: keys", len(reported), len(shapes))
        if path.stem in published:
            config, expected = converted.config.to_dict(), bt.load_config(published[path.stem]).to_dict()
            different = {key: (config[key], expected[key]) for key in expected if config[key] != expected[key]}
            assert not different, f"{path.stem}: {different}"


def authors_config_of(shapes: dict[str, list[int]]) -> dict[str, Any]:
    """The authors' `config.json` values as far as the shapes of the weights tell, and their defaults for the rest."""
    decoder = "decoder.mask_token" in shapes

    def depth(prefix: str) -> int:
        numbers = {int(key.removeprefix(prefix).split(".")[0]) for key in shapes if key.startswith(prefix)}
        return len(numbers)

    hidden = shapes["vit.embeddings.cls_token"][-1]
    width = shapes["decoder.mask_token"][-1] if decoder else 512
    config: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": depth("vit.encoder.layer."),
        "intermediate_size": shapes["vit.encoder.layer.0.intermediate.dense.bias"][0],
        "decoder_hidden_size": width,
        "decoder_num_hidden_layers": depth("decoder.decoder_layers.") if decoder else 8,
        "decoder_intermediate_size": (
            shapes["decoder.decoder_layers.0.intermediate.dense.bias"][0] if decoder else 2048
        ),
    }
    convolution = shapes.get("vit.encoder.layer.0.attention.self.conv.weight")
    if "vit.embeddings.signal_embedding_projection.weight" in shapes:
        patch = shapes["vit.embeddings.signal_embedding_projection.weight"][1]
        decoder_convolution = shapes.get("decoder.decoder_layers.0.attention.self.conv.weight")
        return {
            **config,
            "num_attention_heads": convolution[0] if convolution else 4,
            "decoder_num_attention_heads": decoder_convolution[0] if decoder_convolution else 4,
            "num_brain_voxels": 424,
            "num_timepoints_per_voxel": 10 * patch,
            "timepoint_patching_size": patch,
            "conv_kernel_size": convolution[2] if convolution else None,
            "num_landmarks": 64,
            "segment_means_seq_len": 64,
            "mask_ratio": 0.2,
            "loss_fn": "mse",
        }
    channels, patch = shapes["vit.embeddings.patch_embeddings.projection.weight"][1:3]
    grid = round((shapes["vit.embeddings.position_embeddings"][1] - 1) ** 0.5)
    return {
        **config,
        # Head counts leave no trace in the weights; these are those of ViT-MAE base, large and huge.
        "num_attention_heads": {768: 12, 1024: 16, 1280: 16}.get(hidden, 4),
        "decoder_num_attention_heads": 16 if width == 512 else 4,
        "patch_size": patch,
        "image_size": [grid * patch] * 2,
        "num_channels": channels,
        "qkv_bias": "vit.encoder.layer.0.attention.attention.query.bias" in shapes,
        "mask_ratio": 0.75,
    }


KINDS = {
    "a_pretrain": a_pretrain,
    "a_encoder_order": a_encoder_order,
    "a_landmarks": a_encoder_order,
    "b_pretrain": b_pretrain,
    "b_predict_last": b_pretrain,
    "b_predict_last_pixel": b_pretrain,
    "b_finetune": b_finetune,
    "b_finetune_ssl": b_finetune,
    "masking": masking,
    "positional": positional,
    "metrics": metrics,
    "data_pipeline": data_pipeline,
    "lr_schedule": lr_schedule,
    "state_dict_keys": state_dict_keys,
}
