"""How each kind of BrainHarmony case that is about Harmonix-F is computed with public classes and functions."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_case import GoldenCase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_harmonix_f
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.data.tables import read_table
from brain_transformers.models.harmonix_f.conversion_harmonix_f import KEY_MAP as HARMONIX_F_KEYS
from brain_transformers.models.harmonix_f.modeling_harmonix_f import (
    HarmonixFPositions,
    HarmonixFPredictor,
    resizing_matrices,
)
from brain_transformers.processing.frame_sampling import sampled_frames

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden" / "brain_harmony"

# --- Harmonix-F ---


def resized_kernel(weight: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The stored kernel `(hidden_size, stored)` for patches of another length: `(hidden_size, patch_size)`."""
    stored = weight.shape[1]
    return weight if patch_size == stored else weight @ resizing_matrices(stored, patch_size)[1].to(weight).T


def convert_f(case: GoldenCase, work: Path, config: dict[str, Any], *more: str) -> Path:
    """The case's checkpoint and tables after the conversion script."""
    output = work / "harmonix_f"
    arguments = {
        "--checkpoint": case.folder / "checkpoint.pth",
        "--gradient": case.folder / "gradient.csv",
        "--harmonics": case.folder / "geo_harm.csv",
        "--output": output,
        "--num-attention-heads": config["num_heads"],
        "--predictor-num-attention-heads": config["predictor_num_heads"],
        "--n-windows": config["num_patches"],
        "--layer-norm-eps": config.get("layer_norm_eps", 1e-6),
        "--predictor-layer-norm-eps": config.get("predictor_layer_norm_eps", 1e-6),
    }
    words = [str(part) for pair in arguments.items() for part in pair]
    assert convert_harmonix_f.main([*words, *more]) == 0
    return output


def _f_gradient(model: Any, key: str) -> torch.Tensor | None:
    """Gradient of the parameter that holds the authors' key, in the authors' shape."""
    parts = {"encoder.": "context_encoder.", "decoder.": "predictor."}
    part = next((part for part in parts if key.startswith(part)), "")
    flat = parts[part] + key.removeprefix(part) if part else key
    flat = flat if part or key.startswith(("head.", "fc_norm.")) else f"harmonix_f.{key}"
    target = HARMONIX_F_KEYS.target_of(flat)
    assert target is not None, f"no rule for {key}"
    gradient = dict(model.named_parameters())[target[0]].grad
    if gradient is not None and target[0].endswith("patch_projection.weight"):
        return gradient[:, None, None, :]
    return gradient


def _decoder_positions(case: GoldenCase, config: Any) -> Any:
    """The predictor's positions with the weights of `encoder_ema.`."""
    predictor = HarmonixFPredictor(config)
    predictor.reset_tables()
    weights = torch.load(case.folder / "checkpoint.pth", weights_only=True)
    prefix = "encoder_ema.pos_embed."
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(predictor.parcel_projection, name).copy_(weights[f"{prefix}decoder_pos_embed_proj.{name}"])
        stored = weights[f"{prefix}emb_h_decoder"]
        if stored.shape == predictor.time_positions.shape:
            predictor.time_positions.copy_(stored)
    return predictor.positions


def f_encoder(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    folder = convert_f(case, work, config)
    model = AutoModel.from_pretrained(folder).eval()
    eager = AutoModel.from_pretrained(folder, padded_attention="observed").eval()
    case.compare("gradient", model.gradients, atol=0, rtol=0)
    case.compare("geo_harm", model.harmonics, atol=0, rtol=0)
    positions, cls = model.embeddings.positions, int(config.get("use_cls_token", False))
    n_windows = config["num_patches"]
    with torch.no_grad():
        parcels = model.parcels()
        # The moving average's own half of a predictor, which it has none of, is not converted.
        decoder = _decoder_positions(case, model.config)
        tables = {
            "pos_embed_encoder": positions(parcels, n_windows),
            "pos_embed_decoder": decoder(parcels, n_windows),
        }
    for name, table in tables.items():
        case.compare(name, torch.nn.functional.pad(table, (0, 0, cls, 0)))
    for name in case.names("k", ".signal"):
        k = int(name[1:].removesuffix(".signal"))
        prefix = f"k{k}."
        signals, mask = case.take(name)[:, 0], case.take(f"{prefix}attention_mask")
        lengths = case.take(f"{prefix}lengths")
        n_observed = mask[:, cls:].view(len(mask), config["n_rois"], -1)[:, 0].sum(1)
        case.check(f"{prefix}lengths", -(-lengths // k), n_observed)
        kernel = resized_kernel(model.embeddings.patch_projection.weight.detach(), k)
        case.compare(f"{prefix}patch_kernel", kernel[:, None, None, :])
        with torch.no_grad():
            tokens = model.embeddings(signals, k, parcels) - positions(parcels, n_windows)
            case.compare(f"{prefix}patch_embed", tokens)
            packed = model(signals, mask, k)
            asked = model(signals, mask, k, output_hidden_states=True)
            case.compare(f"{prefix}last_hidden_state", packed.last_hidden_state)
            case.check(f"{prefix}with a mask", asked.last_hidden_state, case.tensors[f"{prefix}last_hidden_state"])
            one_each = torch.full((len(signals),), k)
            case.check(f"{prefix}one k each", model(signals, mask, one_each).pooler_output, packed.pooler_output)
            case.compare(f"{prefix}last_hidden_state_no_mask", model(signals, None, k).last_hidden_state)
            if case.has(f"{prefix}eager_last_hidden_state"):
                case.compare(f"{prefix}eager_last_hidden_state", eager(signals, mask, k).last_hidden_state)
        for state in case.names(f"{prefix}hidden_states."):
            case.compare(state, asked.hidden_states[1 + int(state.rsplit(".", 1)[1])])


def jepa_pretrain(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    model = AutoModelForPreTraining.from_pretrained(convert_f(case, work, config)).eval()
    signals, mask, k = case.take("signal")[:, 0], case.take("attention_mask"), config["patch_size_used"]
    contexts, targets = case.take("masks_enc"), case.take("masks_pred")
    observed = mask[:, mask.shape[1] - model.config.n_rois * model.config.n_windows :]
    case.compare("attention_mask_enc", observed.gather(1, contexts.long()))
    case.compare("attention_mask_dec", observed.gather(1, targets.long()))
    with torch.no_grad():
        case.compare("target_encoder_output", model.harmonix_f(signals, mask, k).last_hidden_state)
    output = model(signals, mask, k, contexts, targets)
    case.compare("context_output", output.context_hidden_state)
    case.compare("predictor_output", output.predictions)
    case.compare("target_normed", output.targets)
    case.compare("loss_per_sample", output.sample_losses)
    case.compare("loss", output.loss)
    case.check("loss of config.json", output.loss, config["loss"])
    if bool(mask.all()):
        case.check("loss without a mask", model(signals, None, k, contexts, targets).loss, config["loss"])
    output.loss.backward()
    for name in case.names("grad."):
        case.compare_gradient(name, _f_gradient(model, name.removeprefix("grad.")))


def f_classifier(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    pooling = "mean" if config["global_pool"] else "cls"
    folder = convert_f(case, work, config, "--pooling", pooling)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    labels = case.take("labels")
    output = model(case.take("signal")[:, 0], case.take("attention_mask"), config["patch_size_used"], labels=labels)
    case.compare("features", output.pooler_output)
    case.compare("logits", output.logits)
    case.compare("loss", output.loss)
    output.loss.backward()
    for name in case.names("grad."):
        case.compare_gradient(name, _f_gradient(model, name.removeprefix("grad.")))


def patch_kernel_resize(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    weight = case.take("weight")
    for k in config["patch_sizes"]:
        matrix, inverse = resizing_matrices(config["base_patch_size"], k)
        case.compare(f"resize_{k}", matrix)
        case.compare(f"pinv_{k}", inverse)
        kernel = resized_kernel(weight[:, 0, 0], k)[:, None, None]
        case.compare(f"kernel_{k}", kernel)
    extractor = bt.HarmonixFFeatureExtractor(patch_seconds=config["standard_time"])
    for t_r, k in config["tr_to_patch_size"].items():
        case.check(f"t_r {t_r}", extractor.window_for(float(t_r), "a scan")[1], k)


def _authors_table(case: GoldenCase, name: str) -> Path:
    """A table beside the cases; for a copy of a case alone, that beside the project."""
    beside = case.folder.parent / name
    return beside if beside.is_file() else _SHARED / name


def pos_embed_real_tables(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    n_rois, n_windows = config["grid_size"]
    width, predictor_width, cls = config["embed_dim"], config["predictor_embed_dim"], int(config["cls_token"])
    settings = bt.HarmonixFConfig(
        n_rois=n_rois,
        n_timepoints=48 * n_windows,
        hidden_size=width,
        num_attention_heads=2,
        predictor_hidden_size=predictor_width,
        predictor_num_attention_heads=2,
        gradient_size=config["grad_dim"],
        harmonics_size=config["geoh_dim"],
    )
    positions, predictor = HarmonixFPositions(settings), HarmonixFPredictor(settings)
    positions.reset_tables()
    predictor.reset_tables()
    names = {
        "geo_harm_proj": positions.harmonics_projection,
        "grad_proj": positions.gradient_projection,
        "decoder_pos_embed_proj": predictor.parcel_projection,
    }
    weights = torch.load(case.folder / "checkpoint.pth", weights_only=True)
    for key, value in weights.items():
        module, name = key.split(".")[-2:]
        getattr(names[module], name).data.copy_(value)
    gradients = np.loadtxt(_authors_table(case, "gradient_mapping_400.csv"), delimiter=",", dtype=np.float32)
    harmonics = read_table(_authors_table(case, "schaefer400_roi_eigenmodes.csv")).values.astype(np.float32)
    with torch.no_grad():
        parcels = positions.parcels(torch.from_numpy(gradients), torch.from_numpy(harmonics))
        tables = {
            "pos_embed_encoder": positions(parcels, n_windows),
            "pos_embed_decoder": predictor.positions(parcels, n_windows),
        }
    for name, table in tables.items():
        case.compare(name, torch.nn.functional.pad(table, (0, 0, cls, 0)), atol=1e-5)
    halves = {"emb_h_encoder": positions.time_positions, "emb_h_decoder": predictor.time_positions}
    for name, table in halves.items():
        if case.has(name):
            case.compare(name, table)


def _ukb_scan(subject: int, n_frames: int) -> np.ndarray:
    r, t = np.arange(400)[:, None], np.arange(n_frames)[None]
    value = 37 * r + 101 * t + 53 * subject + 11 * ((r * t) % 17) + 7 * ((subject * r) % 13)
    return (900 + value % 211).astype(np.float32)


def dataset_ukb(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    n_frames, standard = config["seq_length"], config["standard_time"]
    scans = [_ukb_scan(subject, n_frames) for subject in range(config["subjects"])]
    prepared = [_preprocessed(scan, config["preprocess"]) for scan in scans]
    shift, scale = _ukb_statistics(prepared, config)
    item = prepared[config["item_index"]]
    scaled = item if shift is None else ((item - shift[:, None]) / scale[:, None]).astype(np.float32)
    size = max(float(np.abs(scaled).max()), 1.0)
    names = {"all_robust_scaling": ("medians", "iqrs"), "all_mean_std": ("mean", "std")}.get(config["norm"], ())
    for name, value in zip(names, (shift, scale)):
        case.compare(f"norm.{name}", torch.from_numpy(value), atol=1e-4 * float(np.abs(value).max() + 1), rtol=1e-4)
    for rate in config["sampling_rates"]:
        facts, prefix = config[f"sr{rate}"], f"sr{rate}."
        t_r = 0.735 * rate
        picked = scaled
        if rate > 1:
            frames = sampled_frames(n_frames, facts["start_idx"] or 0.0, n_frames // rate, rate)
            case.compare(f"{prefix}frame_index", torch.from_numpy(frames))
            picked = scaled[:, frames]
        extractor = bt.HarmonixFFeatureExtractor(patch_seconds=standard, normalization="none")
        batch = extractor(picked, t_r=t_r)
        case.check(f"{prefix}patch_size", batch["patch_size"][0], facts["patch_size"])
        case.check(f"{prefix}num_frames", picked.shape[1], facts["num_frames"])
        signals, mask = batch["signals"][0], batch.get("attention_mask", np.ones((1, 7200), np.int64))[0]
        n_patches = config["target_num_patches"]
        if n_patches is None:  # the authors pad to whole patches only, and mask nothing
            signals = signals[:, : facts["num_patches"] * facts["patch_size"]]
            mask = np.ones(400 * facts["num_patches"], np.int64)
        case.check(f"{prefix}signal_shape", [1, *signals.shape], facts["signal_shape"])
        case.check(f"{prefix}target_pad_length", signals.shape[1], facts["target_pad_length"])
        observed = mask.reshape(400, -1)[0].sum() if n_patches is not None else facts["num_patches"]
        case.check(f"{prefix}num_patches", observed, facts["num_patches"])
        case.compare(f"{prefix}signal_roi_stride50", torch.from_numpy(signals[None, ::50]), atol=1e-4 * size)
        case.compare(f"{prefix}attention_mask", torch.from_numpy(mask.astype(np.int32)))


def _preprocessed(scan: np.ndarray, how: str | None) -> np.ndarray:
    if how == "centering":
        return scan - scan.mean(axis=1, keepdims=True)
    if how == "zscore":
        return (scan - scan.mean(axis=1, keepdims=True)) / (scan.std(axis=1, keepdims=True) + 1e-9)
    return scan


def _ukb_statistics(scans: list[np.ndarray], config: dict[str, Any]) -> tuple[Any, Any]:
    """Shift and scale of each ROI: of the scans' means, or of all their values where they were centred before."""
    if config["preprocess"]:
        values = np.concatenate(scans, axis=1)
    else:
        values = np.stack([scan.mean(axis=1) for scan in scans], axis=1)
    if config["norm"] == "all_robust_scaling":
        if not config["preprocess"]:
            extractor = bt.HarmonixFFeatureExtractor(normalization="robust-means").fit(scans)
            statistics = extractor.statistics
            return np.array(statistics["median"], np.float32), np.array(statistics["iqr"], np.float32)
        low, median, high = np.percentile(values, [25, 50, 75], axis=1)
        return median.astype(np.float32), (high - low).astype(np.float32)
    if config["norm"] == "all_mean_std":
        return values.mean(axis=1).astype(np.float32), values.std(axis=1).astype(np.float32)
    return None, None


def dataset_abide(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    extractor = bt.HarmonixFFeatureExtractor(
        n_timepoints=48 * config["target_num_patches"], patch_seconds=config["standard_time"], normalization="none"
    )
    kept = []
    for number, (site, name, length, label) in enumerate(config["subjects"]):
        if config["tr_min"] <= config["tr_by_site"][site] < config["tr_max"]:
            kept.append((number, site, name, length, label))
    case.check("number of items", len(kept), len(config["items"]))
    bin_t_r = config["tr_by_site"][kept[-1][1]]  # of the last item, for all
    case.check("t_r of the bin", bin_t_r, config["bin_tr"])
    for place, (facts, (number, site, name, length, label)) in enumerate(zip(config["items"], kept)):
        r, t = np.arange(400)[:, None], np.arange(length)[None]
        scan = ((13 * r + 29 * t + 5 * number + 3 * ((r * t) % 23)) % 101 - 50 + 0.5).astype(np.float32)
        batch = extractor(scan, t_r=bin_t_r)
        mask = batch.get("attention_mask", np.ones((1, 400 * config["target_num_patches"]), np.int64))[0]
        case.compare(f"{place}.signal_roi_stride50", torch.from_numpy(batch["signals"][:, ::50]), atol=0, rtol=0)
        case.compare(f"{place}.attention_mask", torch.from_numpy(mask.astype(np.int32)))
        case.compare(f"{place}.label", torch.tensor(label - 1))
        assert facts["id"] == f"{site}/sub-{name}"
        values = (batch["patch_size"][0], length, mask.reshape(400, -1)[0].sum())
        for key, value in zip(("patch_size", "length", "num_patches"), values):
            case.check(f"{place}.{key}", value, facts[key])
        case.check(f"{place}.shape", [1, *batch["signals"][0].shape], facts["shape"])


KINDS = {
    "f_encoder": f_encoder,
    "jepa_pretrain": jepa_pretrain,
    "f_classifier": f_classifier,
    "patch_kernel_resize": patch_kernel_resize,
    "pos_embed_real_tables": pos_embed_real_tables,
    "dataset_ukb": dataset_ukb,
    "dataset_abide": dataset_abide,
}
