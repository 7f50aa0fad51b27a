"""How each kind of Brain-JEPA case is computed with the public classes and functions."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_case import GoldenCase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_jepa
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.layers.positions import TimeROIPositions
from brain_transformers.models.block_masks import MaskScales, _block_sizes, published_masks
from brain_transformers.models.brain_jepa.conversion_brain_jepa import KEY_MAP

# Rows of the large position tables that their case keeps, unless its README lists others.
_KEPT_ROWS = [0, 1, 9, 10, 499, 500, 2250, 4490, 4499]
# The key bias has no true gradient, so that Adam turns rounding into whole steps (README of the case).
_KEY_BIAS_ATOL = 1e-2


def converted_folder(case: GoldenCase, work: Path) -> Path:
    """The case's checkpoint after the conversion script."""
    (checkpoint,) = case.folder.glob("checkpoint.*")
    config = case.json("config.json")
    n_rois, n_timepoints = (config.get("data") or config)["crop_size"]
    output, table = work / "converted", work / "gradient.csv"
    np.savetxt(table, case.take("gradient")[0].numpy(), delimiter=",", fmt="%.9g")
    arguments = {
        "--checkpoint": checkpoint,
        "--output": output,
        "--gradient": table,
        "--num-attention-heads": config["num_heads"],
        "--n-rois": n_rois,
        "--n-timepoints": n_timepoints,
    }
    assert convert_brain_jepa.main([str(part) for pair in arguments.items() for part in pair]) == 0
    return output


def our_name(authors_name: str, downstream: bool) -> str:
    """Name of the parameter that holds the authors' `encoder.x`, `predictor.x` or `head.x`."""
    net = "brain_jepa" if downstream else "context_encoder"
    flat = authors_name.replace("encoder.", f"{net}.", 1) if authors_name.startswith("encoder.") else authors_name
    target = KEY_MAP.target_of(flat)
    assert target is not None, f"no rule for {authors_name}"
    return target[0]


def in_authors_shape(name: str, value: torch.Tensor | None) -> torch.Tensor | None:
    """The patch projection is a convolution in the authors' code."""
    if value is not None and name.endswith("patch_projection.weight"):
        return value[:, None, None, :]
    return value


def compare_gradients(case: GoldenCase, model: Any, loss: torch.Tensor, downstream: bool) -> None:
    """Compare every `grad.*` of the case after a backward pass from `loss`."""
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    for name in case.names("grad."):
        ours = our_name(name.removeprefix("grad."), downstream)
        case.compare_gradient(name, in_authors_shape(ours, parameters[ours].grad))


def masks_of(case: GoldenCase, kind: str) -> list[torch.Tensor]:
    """The list of masks `kind.0`, `kind.1`, ..."""
    return [case.take(f"{kind}.{number}").long() for number in range(len(case.names(f"{kind}.")))]


def encoder(case: GoldenCase, work: Path) -> None:
    folder = converted_folder(case, work)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    pretraining = AutoModelForPreTraining.from_pretrained(folder).eval()
    signals = case.take("fmri")[:, 0]
    with torch.no_grad():
        output = model(signals, output_hidden_states=True)
        values = {
            "last_hidden_state": output.last_hidden_state,
            "last_hidden_state_context_encoder": pretraining.context_encoder(signals).last_hidden_state,
            "mean_pooled": output.pooler_output,
            "patch_embeddings": model.embeddings.patch_projection(model.embeddings.patches(signals)),
            "pos_embed": model.embeddings.positions(model.known_gradients()),
            "predictor_pos_embed": pretraining.predictor.positions(pretraining.context_encoder.known_gradients()),
        }
        for name, value in values.items():
            if case.has(name):
                tight = {"atol": 1e-6, "rtol": 0.0} if name.endswith("pos_embed") else {}
                case.compare(name, value, **tight)
        for name in case.names("hidden_states."):
            case.compare(name, output.hidden_states[int(name.rsplit(".", 1)[1])])
        if case.has("mask_keep"):
            mask = case.take("mask_keep")
            if case.has("last_hidden_state_masked"):
                masked = model(signals, context_indices=mask).last_hidden_state
                case.compare("last_hidden_state_masked", masked)
            if case.has("last_hidden_state_masked_two"):
                two = model(signals, context_indices=[mask, mask.flip(0)]).last_hidden_state
                case.compare("last_hidden_state_masked_two", two)
            names = case.names("attentions_masked.")
            if names:
                eager = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
                attentions = eager(signals, context_indices=mask, output_attentions=True).attentions
                for name in names:
                    expected = case.tensors[name]
                    case.compare(name, attentions[int(name.rsplit(".", 1)[1])][: len(expected)])
    # Only some tokens out of the last layer: the same numbers as taking them from all.
    chosen = torch.arange(output.last_hidden_state.shape[1]).flip(0)[None, ::3].expand(len(signals), -1)
    with torch.no_grad():
        some = model(signals, output_indices=chosen).last_hidden_state
    case.check("output_indices", some, output.last_hidden_state[:, chosen[0]])


def pretrain_step(case: GoldenCase, work: Path) -> None:
    model = AutoModelForPreTraining.from_pretrained(converted_folder(case, work))
    signals = case.take("fmri")[:, 0]
    contexts, targets = masks_of(case, "masks_enc"), masks_of(case, "masks_pred")
    config = case.json("config.json")
    if "collator_calls_before" in config and len(contexts) == len(targets) == 1:
        _check_collated(case, config, contexts[0], targets[0])
    output = model(signals, context_indices=contexts, target_indices=targets)
    for name, value in (
        ("context_hidden_state", output.context_hidden_state),
        ("predictions", output.predictions),
        ("targets", output.targets),
    ):
        if case.has(name):
            case.compare(name, value)
    if case.has("loss"):
        case.compare("loss", output.loss[None], atol=1e-6)
    compare_gradients(case, model, output.loss, downstream=False)
    if case.has("grad_norm_total"):
        squares = [parameter.grad.square().sum() for parameter in model.parameters() if parameter.requires_grad]
        case.compare("grad_norm_total", torch.stack(squares).sum().sqrt()[None], rtol=case.meta["grad_rtol"])
    assert all(parameter.grad is None for parameter in model.brain_jepa.parameters())


def mask_scales(mask: dict[str, Any]) -> MaskScales:
    """The authors' names of the scales; R and T are axes, `_roi` says nothing regular."""
    return MaskScales(
        observation=tuple(mask["enc_mask_scale"]),
        cross_rois=tuple(mask["pred_mask_R_scale"]),
        cross_windows=tuple(mask["pred_mask_T_roi_scale"]),
        side_rois=tuple(mask["pred_mask_R_roi_scale"]),
        side_windows=tuple(mask["pred_mask_T_scale"]),
    )


def _seed_in_readme(case: GoldenCase) -> int | None:
    text = (case.folder / "README.md").read_text(encoding="utf-8") if (case.folder / "README.md").is_file() else ""
    marker = "torch.manual_seed("
    if marker not in text:
        return None
    digits = text.split(marker, 1)[1].split(")", 1)[0]
    return int(digits) if digits.isdigit() else None


def _check_collated(case: GoldenCase, config: dict[str, Any], context: torch.Tensor, target: torch.Tensor) -> None:
    seed = _seed_in_readme(case)
    if seed is None:
        return
    n_rois, n_timepoints = config["crop_size"]
    torch.manual_seed(seed)
    drawn = published_masks(
        len(context),
        n_rois,
        n_timepoints // config["patch_size"],
        mask_scales(config["mask"]),
        call_index=config["collator_calls_before"],
    )
    case.check("collated masks_enc", drawn.context_indices, context)
    case.check("collated masks_pred", drawn.target_indices, target)


def masks(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    n_rois, n_timepoints = config["input_size"]
    n_windows, scales = n_timepoints // config["patch_size"], mask_scales(config["mask"])
    for number, draw in enumerate(config.get("exact_draws", [])):
        torch.manual_seed(draw["manual_seed"])
        drawn = published_masks(draw["batch"], n_rois, n_windows, scales, call_index=draw["step_counter_value_used"])
        case.compare(f"masks_enc.{number}", drawn.context_indices)
        case.compare(f"masks_pred.{number}", drawn.target_indices)
        generator = torch.Generator().manual_seed(draw["step_counter_value_used"])
        shares = [torch.rand(1, generator=generator).item() for _ in range(4)]
        sizes = _block_sizes(n_rois, n_windows, scales, shares)
        values = {
            "enc_len": drawn.context_indices.shape[1],
            "pred_len": drawn.target_indices.shape[1],
            "alpha_size_roi_time": [sizes.cross_rois, sizes.cross_windows],
            "observation_size_roi_time": [sizes.observed_rois, sizes.observed_windows],
        }
        for name in sorted(set(draw) - {"manual_seed", "step_counter_value_used", "batch"}):
            case.check(f"{name}.{number}", values[name], draw[name])
    if "statistics" in config:
        _check_mask_statistics(case, dict(config["statistics"]), config["stat_batch"], n_rois, n_windows, scales)


def _check_mask_statistics(
    case: GoldenCase, expected: dict[str, Any], batch: int, n_rois: int, n_windows: int, scales: MaskScales
) -> None:
    """Statistics of consecutive calls after one seed (README of the case); with the same draws they are exact."""
    seed = 1400
    readme = case.folder / "README.md"
    if readme.is_file() and "after torch.manual_seed(" in readme.read_text(encoding="utf-8"):
        seed = int(readme.read_text(encoding="utf-8").split("after torch.manual_seed(")[1].split(")")[0])
    n_tokens, calls = n_rois * n_windows, expected.pop("calls")
    torch.manual_seed(seed)
    lengths: dict[str, list[float]] = {"enc_len": [], "pred_len": []}
    rows: dict[str, list[float]] = {
        name: []
        for name in (
            "enc_roi_count",
            "enc_time_count",
            "pred_unique_roi_count",
            "pred_duplicates",
            "pred_unique_len",
            "target_share_of_tokens",
            "context_share_of_tokens",
        )
    }
    counts = {"context": np.zeros(n_tokens), "target": np.zeros(n_tokens)}
    overlap = 0
    for call in range(calls):
        drawn = published_masks(batch, n_rois, n_windows, scales, call_index=call)
        context, target = drawn.context_indices.numpy(), drawn.target_indices.numpy()
        lengths["enc_len"].append(context.shape[1])
        lengths["pred_len"].append(target.shape[1])
        for seen, hidden in zip(context, target):
            unique = np.unique(hidden)
            rows["enc_roi_count"].append(len(np.unique(seen // n_windows)))
            rows["enc_time_count"].append(len(np.unique(seen % n_windows)))
            rows["pred_unique_roi_count"].append(len(np.unique(hidden // n_windows)))
            rows["pred_duplicates"].append(len(hidden) - len(unique))
            rows["pred_unique_len"].append(len(unique))
            rows["target_share_of_tokens"].append(len(unique) / n_tokens)
            rows["context_share_of_tokens"].append(len(seen) / n_tokens)
            overlap += len(np.intersect1d(seen, unique))
            counts["context"] += np.bincount(seen, minlength=n_tokens)
            counts["target"] += np.bincount(hidden, minlength=n_tokens)
    samples = calls * batch
    case.check("samples", samples, expected.pop("samples"))
    case.check("overlap", overlap, expected.pop("context_target_overlap_tokens_total"))
    for name, values in {**lengths, **rows}.items():
        facts = expected.pop(name)
        for key, function in (("min", np.min), ("max", np.max), ("mean", np.mean), ("std", np.std)):
            case.check(f"{name} {key}", np.float64(function(values)), np.float64(facts[key]), atol=1e-9, rtol=1e-9)
    fifth = np.arange(n_rois) * 5 // n_rois
    for name, total in counts.items():
        grid = total.reshape(n_rois, n_windows) / samples
        case.check(
            f"{name} per window",
            grid.sum(0),
            np.array(expected.pop(f"{name}_tokens_per_time_patch_mean")),
            atol=1e-9,
            rtol=1e-9,
        )
        per_fifth = [grid[fifth == number].sum() / (fifth == number).sum() for number in range(5)]
        wanted = np.array(expected.pop(f"{name}_tokens_per_roi_quintile_mean"))
        case.check(f"{name} per fifth", np.array(per_fifth), wanted, atol=1e-9, rtol=1e-9)
    assert not expected, f"unknown statistics: {sorted(expected)}"


def position_embedding(case: GoldenCase, work: Path) -> None:
    readme = case.folder / "README.md"
    listed = re.search(r"rows \[([\d, ]+)\]", readme.read_text(encoding="utf-8")) if readme.is_file() else None
    kept_rows = [int(row) for row in listed[1].split(",")] if listed else _KEPT_ROWS
    for number, item in enumerate(case.json("config.json")["items"]):
        mapping = item["add_w"] == "mapping"
        positions = TimeROIPositions(
            item["n_rois"], item["n_time_patches"], item["embed_dim"], item["gradient_dim"] if mapping else None
        )
        positions.reset_tables()
        if mapping:
            assert positions.gradient_projection is not None
            with torch.no_grad():
                positions.gradient_projection.weight.copy_(case.take(f"{number}.proj_weight"))
                positions.gradient_projection.bias.copy_(case.take(f"{number}.proj_bias"))
        gradients = case.take(f"{number}.gradient")[0]
        with torch.no_grad():
            table = positions(gradients)
        assert set(case.names(f"{number}.proj_")) == (
            {f"{number}.proj_weight", f"{number}.proj_bias"} if mapping else set()
        )
        for name, value in (
            ("emb_h", positions.time_positions),
            ("emb_w", None if mapping else positions.roi_positions),
            ("pos_embed", table),
            ("pos_embed_rows", table[0, kept_rows] if table.shape[1] > kept_rows[-1] else None),
        ):
            if case.has(f"{number}.{name}"):
                case.compare(f"{number}.{name}", value, atol=1e-6, rtol=0)
        if case.has(f"{number}.pos_embed_sum_per_channel"):
            case.compare(f"{number}.pos_embed_sum_per_channel", table[0].sum(0), atol=1e-3, rtol=0)


def downstream(case: GoldenCase, work: Path) -> None:
    from brain_transformers.training.finetuning.lars import LARS
    from brain_transformers.training.parameter_groups import layer_decay_groups
    from brain_transformers.training.schedules import warmup_half_cosine_lr

    folder = converted_folder(case, work)
    config = case.json("config.json")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    signals, labels = case.take("fmri")[:, 0], case.take("labels")
    output = model(signals, labels=labels)
    for name, value in (
        ("last_hidden_state", output.last_hidden_state),
        ("pooled", output.pooler_output),
        ("logits", output.logits),
        ("loss", output.loss[None]),
    ):
        if case.has(name):
            case.compare(name, value, atol=1e-5)
    compare_gradients(case, model, output.loss, downstream=True)

    groups = layer_decay_groups(model, weight_decay=0.05, layer_decay=1.0)
    facts = [
        {
            "lr_scale": group["lr_scale"],
            "weight_decay": group["weight_decay"],
            "n_tensors": len(group["params"]),
            "n_params": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in groups
    ]
    if "fine_tune_param_groups" in config and sorted(map(str, facts)) != sorted(
        map(str, config["fine_tune_param_groups"])
    ):
        case.failures.append(f"fine_tune_param_groups: {facts}, expected {config['fine_tune_param_groups']}")
    schedule = config.get("lr_schedule")
    if schedule is not None:
        for epoch, expected in schedule["at"]:
            value = warmup_half_cosine_lr(
                epoch,
                peak=schedule["lr"],
                final=schedule["min_lr"],
                warmup=schedule["warmup_epochs"],
                total=schedule["epochs"],
            )
            case.check(f"lr at epoch {epoch}", np.float64(value), np.float64(expected), atol=1e-12, rtol=1e-9)
    if case.names("lp_"):
        _check_linear_probe(case, folder, config, signals, labels, LARS)


def _check_linear_probe(
    case: GoldenCase, folder: Path, config: dict[str, Any], signals: torch.Tensor, labels: torch.Tensor, lars: Any
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder, classifier_head="batch_norm_linear")
    model.freeze_for_probing()
    optimizer = lars(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config["lars_lr"],
        weight_decay=0.05,
    )
    model.train()
    losses = []
    n_steps = len(case.tensors["lp_losses"]) if case.has("lp_losses") else 3
    for step in range(n_steps):
        output = model(signals, labels=labels)
        if case.has(f"lp_train_logits.step{step}"):
            case.compare(f"lp_train_logits.step{step}", output.logits)
        losses.append(output.loss.detach())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        for name, value in (("weight", model.classifier.linear.weight), ("bias", model.classifier.linear.bias)):
            key = f"lp_head_{name}.after{step + 1}"
            if case.has(key):
                case.compare(key, value, rtol=1e-4)
    model.eval()
    with torch.no_grad():
        logits = model(signals).logits
    for name, value in (
        ("lp_losses", torch.stack(losses)),
        ("lp_running_mean", model.classifier.batch_norm.running_mean),
        ("lp_running_var", model.classifier.batch_norm.running_var),
        ("lp_eval_logits", logits),
    ):
        if case.has(name):
            case.compare(name, value)


def data_preparation(case: GoldenCase, work: Path) -> None:
    from brain_transformers.processing.frame_sampling import sampled_frames

    config = case.json("config.json")
    n_rois = config["n_cortical_rois"] + config["n_subcortical_rois"]
    n_sampled, rate = config["num_frames"], config["sampling_rate"]
    raw = case.take("raw_subcortical_first").numpy()

    def extractor(normalization: str, n_timepoints: int = n_sampled, **values: Any) -> bt.ROISeriesFeatureExtractor:
        # A scan with a t_r of 1 s for a model of `rate` seconds: every frame of the model spans `rate` frames.
        return bt.ROISeriesFeatureExtractor(
            n_rois=n_rois,
            n_timepoints=n_timepoints,
            patch_size=1,
            t_r=rate,
            resampling="frames",
            normalization=normalization,
            **values,
        )

    def windows(made: Any, recordings: np.ndarray, start: float | None, t_r: float) -> torch.Tensor:
        return torch.as_tensor(made(recordings, t_r=t_r, start=start)["signals"])

    # The authors' reader takes the first frames of a recording.
    raw = raw[:, :, : config.get("seq_length", raw.shape[2])]
    robust = extractor("robust-means").fit(raw)
    for name, key in (("medians", "median"), ("iqrs", "iqr")):
        if case.has(name):
            case.compare(name, np.array(robust.statistics[key]), atol=0, rtol=1e-9)
    whole = extractor("robust-means", raw.shape[2], statistics=robust.statistics)
    for name in case.names("robust_scaled."):
        case.compare(name, windows(whole, raw[_subject(name)], None, rate), atol=1e-5, rtol=1e-6)
    for prefix, starts, made in (
        ("robust_scaled_downsampled.", "start_idx", robust),
        ("standardised_downsampled.", "start_idx_standardised", extractor("zscore-window")),
        ("downstream_zscored_downsampled.", "start_idx_downstream", extractor("zscore-scan")),
    ):
        for name in case.names(prefix):
            subject = _subject(name)
            start = float(case.take(starts)[subject])
            case.compare(name, windows(made, raw[subject], start, 1.0), atol=1e-5, rtol=1e-6)
    for name in case.names("frame_index."):
        start, _, length = name.removeprefix("frame_index.start").partition("_len")
        case.compare(name, sampled_frames(int(length or 490), float(start), 160, 3))


def _subject(name: str) -> int:
    return int(name.rsplit("subject", 1)[1])


class _ReplayedMasks:
    """Gives every batch the masks that its rows name."""

    makes_masks = True

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        masks = rows[0]["masks"]
        return {
            "signals": torch.stack([torch.as_tensor(row["signals"]) for row in rows]),
            "context_indices": masks[0],
            "target_indices": masks[1],
        }


def train_run(case: GoldenCase, work: Path) -> None:
    from transformers import set_seed

    from brain_transformers.training import JEPATrainer, JEPATrainingArguments

    config = case.json("config.json")
    trajectory, optimization = dict(config["trajectory"]), config["optimization"]
    accumulation, batch = config["meta"]["accumulation_steps"], config["data"]["batch_size"]
    ipe = trajectory.pop("iterations_per_epoch")
    n_iterations = ipe * optimization["epochs"]
    model = AutoModelForPreTraining.from_pretrained(_initial_folder(case, work, config))

    samples = case.take("samples")[:, 0]
    rows = []
    for step in range(n_iterations):
        masks = (case.take(f"step{step}.masks_enc").long(), case.take(f"step{step}.masks_pred").long())
        indices = case.take(f"step{step}.sample_index").tolist()
        assert len(indices) == batch
        rows += [{"signals": samples[index], "masks": masks} for index in indices]
    arguments = JEPATrainingArguments(
        output_dir=str(work / "run"),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=optimization["lr"],
        start_learning_rate=optimization["start_lr"],
        final_learning_rate=optimization["final_lr"],
        warmup_steps=int(optimization["warmup"] * ipe / accumulation),
        weight_decay=optimization["weight_decay"],
        final_weight_decay=optimization["final_weight_decay"],
        target_momentum_start=optimization["ema"][0],
        target_momentum_end=optimization["ema"][1],
        published_momentum=True,
        schedule_scale=optimization["ipe_scale"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    losses: list[float] = []
    after: list[tuple[float, float]] = []
    momenta: list[float] = []

    class Recorded(JEPATrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(float(loss))
            return loss

        def momentum_of(self, update: int) -> float:
            momenta.append(super().momentum_of(update))
            return momenta[-1]

    set_seed(0)
    trainer = Recorded(model, arguments, _ReplayedMasks(), rows)
    from transformers import TrainerCallback

    class Rates(TrainerCallback):
        def note(self) -> None:
            decayed = next(group for group in trainer.optimizer.param_groups if group["scheduled_decay"])
            after.append((decayed["lr"], decayed["weight_decay"]))

        def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
            self.note()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.note()

    trainer.add_callback(Rates())
    trainer.train()

    assert trainer.state.global_step == n_iterations // accumulation
    case.check(
        "losses",
        np.array(losses),
        np.array(trajectory.pop("loss_divided_by_accumulation_per_iteration")),
        atol=0,
        rtol=1e-5,
    )
    rates, decays = zip(*after)
    case.check("lr", np.array(rates), np.array(trajectory.pop("lr_after_iteration")), atol=1e-12, rtol=1e-9)
    case.check("wd", np.array(decays), np.array(trajectory.pop("weight_decay_after_iteration")), atol=1e-12, rtol=1e-9)
    expected = np.array(trajectory.pop("ema_momentum_per_optimizer_step"))
    case.check("momentum", np.array(momenta), expected, atol=1e-12, rtol=1e-12)
    # Names of files, and a counter, of the authors' run.
    unknown = set(trajectory) - {"files_written", "checkpoint_epoch_field"}
    assert not unknown, f"unknown parts of the trajectory: {sorted(unknown)}"
    _check_end_of_run(case, work, config, model)


def _conversion_arguments(case: GoldenCase, work: Path, config: dict[str, Any]) -> list[str]:
    table = work / "gradient.csv"
    np.savetxt(table, case.take("gradient")[0].numpy(), delimiter=",", fmt="%.9g")
    n_rois, n_timepoints = config["data"]["crop_size"]
    return [
        "--gradient", str(table), "--num-attention-heads", str(config["num_heads"]),
        "--n-rois", str(n_rois), "--n-timepoints", str(n_timepoints),
    ]  # fmt: skip


def _initial_folder(case: GoldenCase, work: Path, config: dict[str, Any]) -> Path:
    """The initial weights as a file in the authors' layout, converted."""
    parts = {
        net: {f"module.{name.removeprefix(f'init.{net}.')}": case.take(name) for name in case.names(f"init.{net}.")}
        for net in ("encoder", "predictor")
    }
    path, output = work / "initial.pth.tar", work / "initial"
    torch.save({**parts, "target_encoder": dict(parts["encoder"])}, path)
    arguments = ["--checkpoint", str(path), "--output", str(output), *_conversion_arguments(case, work, config)]
    assert convert_brain_jepa.main(arguments) == 0
    return output


def _check_end_of_run(case: GoldenCase, work: Path, config: dict[str, Any], model: Any) -> None:
    (checkpoint,) = case.folder.glob("checkpoint.*")
    output = work / "end"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), *_conversion_arguments(case, work, config)]
    assert convert_brain_jepa.main(arguments) == 0
    expected = AutoModelForPreTraining.from_pretrained(output).state_dict()
    actual = model.state_dict()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("attention.qkv.bias"):
            for part, (mine, theirs) in enumerate(zip(actual[name].chunk(3), value.chunk(3))):
                case.check(f"{name}[{part}]", mine, theirs, atol=_KEY_BIAS_ATOL if part == 1 else 2e-5, rtol=0)
        elif name.endswith("_positions"):
            # Only here the arithmetic of the moving average shows: the fixed tables drift by rounding.
            case.check(name, actual[name], value, atol=0, rtol=0)
        else:
            case.check(name, actual[name], value, atol=2e-5, rtol=0)


KINDS = {
    "data_preparation": data_preparation,
    "downstream": downstream,
    "train_run": train_run,
    "encoder": encoder,
    "pretrain_step": pretrain_step,
    "masks": masks,
    "position_embedding": position_embedding,
}
