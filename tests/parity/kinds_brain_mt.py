"""How each kind of BrainMT case is computed with the public classes and functions."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_brain_mt import published_regression_scores, published_split, written_groups
from golden_case import GoldenCase
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_mt
from transformers import AutoModel, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.layers.mamba_mixer import MambaMixer
from brain_transformers.models.brain_mt.conversion_brain_mt import KEY_MAP
from brain_transformers.processing.volumes import frame_major, normalise_volumes
from brain_transformers.training import FineTuningArguments, FineTuningTrainer
from brain_transformers.training.schedules import warm_restarts_lr
from brain_transformers.training.scores import prediction_scores

# The authors' arguments of a mixer, and ours.
_MIXER_ARGUMENTS = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "time_step_rank",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "mixer": "mixer_type",
    "if_divide_out": "if_divide_out",
}
# The authors' float64 values are those of one formula in two evaluations, which agree to this.
_FLOAT64_ATOL = 1e-10
_STEM = {
    "patch_embed": "conv2",
    "conv_block0": "block0",
    "downsample0": "downsample0",
    "conv_block1": "block1",
    "downsample1": "downsample1",
}


def _convert(checkpoint: Path, work: Path, config: dict[str, Any]) -> Path:
    """The checkpoint after the conversion script, with what its keys do not tell."""
    output = work / "converted"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output)]
    if config["harness"].get("if_divide_out"):
        arguments.append("--divide-directions")
    assert convert_brain_mt.main(arguments) == 0
    return output


class _Listener:
    """What modules gave in a pass, by the authors' names."""

    def __init__(self, body: Any) -> None:
        self.values: dict[str, torch.Tensor] = {}
        stem = body.embeddings.stem
        for theirs, ours in _STEM.items():
            act = torch.relu if theirs == "patch_embed" else (lambda value: value)
            self._listen(getattr(stem, ours), f"stem.{theirs}", act)
        self._listen(body.mamba_norm, "norm_f")
        for number, layer in enumerate(body.mamba_layers):
            self._listen(layer.mixer, f"mamba.{number}.hidden")
        for number, layer in enumerate(body.attention_layers):
            self._listen(layer, f"attn.{number}.out")
            # The second call of the shared norm in a layer reads what lies between its two blocks.
            layer.register_forward_pre_hook(self._count(number), with_kwargs=True)
        body.norm.register_forward_pre_hook(self._between)
        self.layer = self.calls = 0

    def _listen(self, module: Any, name: str, act: Any = lambda value: value) -> None:
        def hook(_: Any, __: Any, output: Any) -> None:
            value = act((output[0] if isinstance(output, tuple) else output).detach().clone())
            earlier = self.values.get(name)
            self.values[name] = (
                value if earlier is None or not name.startswith("stem.") else torch.cat([earlier, value])
            )

        module.register_forward_hook(hook)

    def _count(self, number: int) -> Any:
        def hook(*_: Any) -> None:
            self.layer, self.calls = number, 0

        return hook

    def _between(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if self.calls:
            self.values[f"attn.{self.layer}.mid"] = inputs[0].detach().clone()
        self.calls += 1


def encoder(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    (checkpoint,) = case.folder.glob("checkpoint.*")
    folder = _convert(checkpoint, work, config)
    volumes, target = case.take("input"), case.take("target")
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    double = AutoModelForSequenceClassification.from_pretrained(folder).eval().double()
    with torch.no_grad():
        case.compare("logits_f64", double(volumes.double()).logits)
    listener = _Listener(model.brain_mt)
    output = model(volumes, output_hidden_states=True, labels=target)
    values = dict(listener.values)
    values["tokens"] = output.hidden_states[0]
    n_mamba = model.config.num_mamba_layers
    for number in range(n_mamba):
        values[f"mamba.{number}.residual"] = output.hidden_states[number]
    values |= {"logits": output.logits, "cls_features": output.pooler_output, "loss": output.loss}
    for name, value in values.items():
        if case.has(name):
            case.compare(name, value)
    # Without hidden states only the CLS query runs through the last layer.
    with torch.no_grad():
        case.check("logits of the short way", model(volumes).logits, case.tensors["logits"])
        body = AutoModel.from_pretrained(folder).eval()
        encoded = body(volumes)
    case.check("cls of last_hidden_state", encoded.last_hidden_state[:, 0], output.pooler_output)
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name in case.names("grad."):
        found = KEY_MAP.target_of(name.removeprefix("grad."))
        assert found is not None, f"no rule for {name}"
        case.compare_gradient(name, gradients[found[0]])


def _formula(shape: list[int], number: int) -> np.ndarray:
    """Values in [-1, 1) of an integer hash, as the case's README gives it."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    h = (index + np.uint64(number) * np.uint64(0x9E3779B9)) & mask
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x7FEB352D)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(0x846CA68B)) & mask
    h ^= h >> np.uint64(16)
    return (h.astype(np.float64) / 2**31 - 1).reshape(shape)


def _weight(key: str, shape: list[int], number: int) -> torch.Tensor:
    """The formula's weight of an authors' key; the first rule that matches counts."""
    u = _formula(shape, number)
    fan_in = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
    if key.endswith(("A_log", "A_b_log")):
        return torch.from_numpy((0.3 * u).astype(np.float32)) + torch.log(torch.arange(1.0, shape[1] + 1))
    if key.endswith((".D", ".D_b")):
        scale, shift = 0.5, 1.0
    elif key.endswith(("dt_proj.bias", "dt_proj_b.bias")):
        scale, shift = 2.0, -2.0
    elif key in ("cls_token", "pos_embed", "temporal_pos_embedding"):
        scale, shift = 0.5, 0.0
    elif "norm" in key and key.endswith("weight"):
        scale, shift = 0.3, 1.0
    elif len(shape) == 1:
        scale, shift = 0.2, 0.0
    elif len(shape) == 5:
        scale, shift = 2.5 / np.sqrt(fan_in), 0.0
    else:
        scale, shift = 1.7 / np.sqrt(fan_in), 0.0
    return torch.from_numpy((u * scale + shift).astype(np.float32))


def base_formula(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    shapes = _authors_shapes(config)
    keys = config["keys_sorted"]
    assert sorted(shapes) == keys, "the keys of the published network are others"
    weights = {key: _weight(key, shapes[key], 1 + number) for number, key in enumerate(keys)}
    sums = [float(weights[key].double().sum()) for key in keys]
    case.compare("param_f64sums", torch.tensor(sums, dtype=torch.float64), atol=1e-6, rtol=1e-9)
    volumes = torch.from_numpy(_formula(config["input_shape"], 0).astype(np.float32))
    case.compare("input_f64sum", volumes.double().sum()[None], atol=1e-6, rtol=1e-9)
    case.compare("input_first8", volumes.flatten()[:8], atol=0, rtol=0)
    checkpoint = work / "formula.pth"
    torch.save({"model_state_dict": weights, "config": {"model": config["upstream_args"]}}, checkpoint)
    folder = _convert(checkpoint, work, config)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    listener = _Listener(model.brain_mt)
    with torch.no_grad():
        output = model(volumes, output_hidden_states=True)
        logits_f64 = model.double()(volumes.double()).logits
    # The README of these cases: values reach 16, and the order of sums alone gives 1.5e-5.
    wide = {"atol": 5e-5, "rtol": 1e-4}
    case.compare("logits", output.logits, **wide)
    case.compare("logits_f64", logits_f64)
    case.compare("cls_features", output.pooler_output, **wide)
    case.compare("norm_f_head", listener.values["norm_f"][:, :64, :32], **wide)
    case.compare("tokens_head", output.hidden_states[0][:, :64, :32], atol=1e-5, rtol=1e-5)
    case.compare("tokens_last", output.hidden_states[0][:, -3:], atol=1e-5, rtol=1e-5)
    case.compare("stem_first_frame", listener.values["stem.downsample1"][0, :16], atol=1e-5, rtol=1e-5)


def _authors_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """The authors' key -> shape of the network that the case describes (spec, section 8)."""
    arguments, harness = config["upstream_args"], config["harness"]
    width, (n_mamba, n_attention) = arguments["embed_dim"], arguments["depth"]
    first, second = harness["stem_channels"]
    mamba = arguments.get("ssm_cfg") or {}
    inner, state, kernel = mamba.get("expand", 2) * width, mamba.get("d_state", 16), mamba.get("d_conv", 4)
    rank = mamba.get("dt_rank", "auto")
    rank = -(-width // 16) if rank == "auto" else rank
    norm_bias = not arguments.get("rms_norm", True)
    shapes: dict[str, list[int]] = {
        "cls_token": [1, 1, width],
        "pos_embed": [1, harness["num_patches"] + 1, width],
        "temporal_pos_embedding": [1, arguments["num_frames"], width],
        "norm.weight": [width],
        "norm.bias": [width],
        "patch_embed.conv_down.0.weight": [first, arguments["in_chans"], 3, 3, 3],
        "patch_embed.conv_down.2.weight": [second, first, 3, 3, 3],
        "head.weight": [arguments["num_classes"], width],
        "head.bias": [arguments["num_classes"]],
        "mlp.fc1.weight": [2 * width, width],
        "mlp.fc1.bias": [2 * width],
        "mlp.fc2.weight": [width, 2 * width],
        "mlp.fc2.bias": [width],
        "norm_f.weight": [width],
        **({"norm_f.bias": [width]} if norm_bias else {}),
    }
    for number, channels in enumerate((second, 2 * second)):
        for part in (1, 2):
            shapes[f"conv_block{number}.conv{part}.weight"] = [channels, channels, 3, 3, 3]
            for name in (f"conv{part}.bias", f"norm{part}.weight", f"norm{part}.bias"):
                shapes[f"conv_block{number}.{name}"] = [channels]
        shapes[f"downsample{number}.reduction.0.weight"] = [2 * channels, channels, 3, 3, 3]
    paths = ("", "_b") if harness["mixer"] == "bidirectional_v2" else ("",)
    for layer in range(n_mamba):
        at = f"layers.{layer}"
        shapes[f"{at}.norm.weight"] = [width]
        if norm_bias:
            shapes[f"{at}.norm.bias"] = [width]
        if mamba.get("bias", False):
            shapes[f"{at}.mixer.in_proj.bias"], shapes[f"{at}.mixer.out_proj.bias"] = [2 * inner], [width]
        shapes[f"{at}.mixer.in_proj.weight"] = [2 * inner, width]
        shapes[f"{at}.mixer.out_proj.weight"] = [width, inner]
        for path in paths:
            shapes[f"{at}.mixer.A{path}_log"] = [inner, state]
            shapes[f"{at}.mixer.D{path}"] = [inner]
            shapes[f"{at}.mixer.conv1d{path}.weight"] = [inner, 1, kernel]
            if mamba.get("conv_bias", True):
                shapes[f"{at}.mixer.conv1d{path}.bias"] = [inner]
            shapes[f"{at}.mixer.x_proj{path}.weight"] = [rank + 2 * state, inner]
            shapes[f"{at}.mixer.dt_proj{path}.weight"] = [inner, rank]
            shapes[f"{at}.mixer.dt_proj{path}.bias"] = [inner]
    for layer in range(n_attention):
        shapes[f"blocks.{layer}.qkv.weight"] = [3 * width, width]
        if arguments.get("qkv_bias", True):
            shapes[f"blocks.{layer}.qkv.bias"] = [3 * width]
        shapes[f"blocks.{layer}.proj.weight"] = [width, width]
        shapes[f"blocks.{layer}.proj.bias"] = [width]
    return shapes


def _almost_equal(case: GoldenCase, name: str, actual: np.ndarray) -> None:
    """float16 values: at least 99.5 % the same, the others one unit in the last place away (README of the case)."""
    expected = case.take(name).numpy()
    case.compared.add(name)
    case.check(f"{name}: shape", actual.shape, expected.shape)
    differ = actual != expected
    case.check(f"{name}: share that differs", float(differ.mean() > 0.005), 0.0)
    if differ.any():
        units = np.abs(np.spacing(expected[differ].astype(np.float16))).astype(np.float64)
        error = np.abs(actual[differ].astype(np.float64) - expected[differ].astype(np.float64))
        case.check(f"{name}: units", float((error > np.maximum(units, 1e-5)).any()), 0.0)


def preprocess_dataset(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    raw = case.take("raw").numpy()
    assert list(raw.shape) == config["shape_xyzt"]
    methods = {"z-norm": "zscore", "minmax": "minmax", "none": "none"}
    for name in case.names("out."):
        _, method, fill = name.split(".")
        _almost_equal(case, name, normalise_volumes(raw, methods[method], fill).astype(np.float16))
    stored, n_frames = case.tensors["out.z-norm.min"].numpy(), config["num_frames_slice"]
    frames = frame_major(stored)[:, None]
    starts = []
    for seed in range(len(case.take("slice_starts_seed0to39"))):
        torch.manual_seed(seed)
        starts.append(published_start(len(frames), n_frames))
    case.compare("slice_starts_seed0to39", torch.tensor(starts))
    lengths = {"exact": n_frames, "short": n_frames - 2}
    for name in case.names("sample."):
        what, seed = name.removeprefix("sample."), None
        if ".seed" in what:
            what, seed = what.split(".seed")
            torch.manual_seed(int(seed))
            start = published_start(len(frames), n_frames)
            case.compare(name, torch.from_numpy(frames[start : start + n_frames].copy()), atol=0, rtol=0)
            # The same window through the public extractor, on the values that a row holds.
            _check_extractor(case, work, stored, start, n_frames, name)
        else:
            case.compare(name, torch.from_numpy(frames[: lengths[what]].copy()), atol=0, rtol=0)
    targets = [float(value) for value in config["targets_csv"]["y"]]
    for number, name in enumerate(("long", "exact", "short")):
        if case.has(f"target.{name}"):
            case.compare(f"target.{name}", torch.tensor(targets[number], dtype=torch.float16), atol=0, rtol=0)


def _check_extractor(case: GoldenCase, work: Path, stored: np.ndarray, start: int, n_frames: int, name: str) -> None:
    frames = np.ascontiguousarray(frame_major(stored))
    np.save(work / "frames.npy", frames)
    row = {"volumes": str(work / "frames.npy"), "shape": list(frames.shape), "dtype": "float16", "scale": 1.0}
    row |= {"offset": 0.0, "normalization": "zscore", "background": "min"}
    extractor = bt.VolumeFeatureExtractor(volume_size=frames.shape[1:], n_frames=n_frames)
    window = extractor(row, start=start)["volumes"][0].astype(np.float16)
    case.check(f"{name}: by the extractor", window, case.tensors[name], atol=0, rtol=0)


def published_start(n_total: int, n_frames: int) -> int:
    """First frame of the authors' random window: uniform, from torch's global generator."""
    return int(torch.randint(0, n_total - n_frames + 1, (1,))) if n_total > n_frames else 0


def mixer(case: GoldenCase, work: Path) -> None:
    """One mixer alone: its state dict is ours as it is."""
    config = case.json("config.json")
    model = MambaMixer(
        config.pop("d_model"), **{_MIXER_ARGUMENTS[name]: value for name, value in config.items()}
    ).train()
    model.load_state_dict(load_file(case.folder / "checkpoint.safetensors"))
    hidden_states = case.take("input").clone().requires_grad_()
    output = model(hidden_states)
    case.compare("output", output)
    if case.has("cotangent"):
        (output * case.take("cotangent")).sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        gradients["input"] = hidden_states.grad
        for name in case.names("grad."):
            case.compare_gradient(name, gradients[name.removeprefix("grad.")])
    with torch.no_grad():
        case.check("output without gradients", model(hidden_states), output)
        if case.has("output_f64"):
            case.compare("output_f64", model.double()(hidden_states.double()), atol=_FLOAT64_ATOL)


def recipe(case: GoldenCase, work: Path) -> None:
    """Schedules, groups of the optimizer, rates of stochastic depth, splits and scores."""
    facts, metrics = case.json("recipe.json"), case.json("metrics.json")
    facts.pop("scheduler_state_keys", None)  # of the authors' object
    cycles = {"peak": 2e-4, "final": 1e-6, "warmup_steps": 5, "cycle_steps": 35}
    growing = {"peak": 1e-3, "final": 1e-5, "warmup_steps": 3, "cycle_steps": 10, "cycle_growth": 2, "peak_decay": 0.5}
    as_run = {**cycles, "warmup_steps": 5 * 2100, "cycle_steps": 35 * 2100}
    for name, options in (
        ("per_epoch_first35_warm5", cycles),
        ("first10_warm3_mult2_gamma0.5_max1e-3_min1e-5", growing),
        ("as_run_2100_batches_per_epoch_stepped_once_per_epoch", as_run),
    ):
        if expected := facts.pop(name, None):
            rates = [warm_restarts_lr(step, **options) for step in range(len(expected))]
            case.check(name, np.array(rates), np.array(expected), atol=0, rtol=1e-12)
    for name in [name for name in facts if name.startswith("param_groups_")]:
        _check_groups(case, name, facts.pop(name), work)
    _check_drop_path(case, facts.pop("drop_path_base", []))
    for name, expected in facts.pop("splits", {}).items():
        n_scans, seed = (int(part.strip("nsed")) for part in name.split("_"))
        for part, wanted in zip(published_split(n_scans, seed=seed), expected, strict=True):
            case.check(f"splits.{name}", part, wanted)
    _check_scores(case, metrics)
    left = [*facts, *metrics]
    assert not left, f"unknown facts: {left}"


def _check_groups(case: GoldenCase, name: str, expected: list[dict[str, Any]], work: Path) -> None:
    """Groups of the Trainer's optimizer with `published`, or what the authors' rules make of names without prefix."""
    n_mamba, n_attention = (int(part) for part in name.rsplit("_", 2)[1:])
    # Groups go by names and numbers of axes, whatever the widths.
    config = bt.load_config("brain-mt-tiny", num_mamba_layers=n_mamba, num_attention_layers=n_attention, num_labels=1)
    model = bt.BrainMTForSequenceClassification(config)
    options = {"learning_rate": 2e-4, "adam_epsilon": 1e-6, "layer_decay": 0.75}
    arguments = FineTuningArguments(str(work), **options, published=True, use_cpu=True, report_to="none")
    trainer = FineTuningTrainer(model, arguments)
    if "as_run" in name:
        groups = trainer.create_optimizer().param_groups
    else:
        written = [
            {"params": parameters, "lr_scale": scale, "weight_decay": 0.05 if decays else 0.0}
            for parameters, scale, decays in written_groups(model, 0.75)
        ]
        kind, settings = trainer.get_optimizer_cls_and_kwargs(arguments, model)
        groups = kind(written, **settings).param_groups
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    ours = {key: KEY_MAP.target_of(key) for group in expected for key in group["params"]}
    assert all(ours.values()), f"no rule for {[key for key, found in ours.items() if not found]}"
    case.check(f"{name}: number of groups", len(groups), len(expected))
    for number, (group, wanted) in enumerate(zip(groups, expected)):
        have = {names[id(parameter)] for parameter in group["params"]}
        differ = have ^ {ours[key][0] for key in wanted["params"]}
        case.check(f"{name}, group {number}: parameters in one and not in the other", sorted(differ), [])
        for fact in ("weight_decay", "lr_scale", "lr", "eps", "betas"):
            value, right = np.array(group[fact], np.float64), np.array(wanted[fact], np.float64)
            case.check(f"{name}, group {number}: {fact}", value, right, atol=0, rtol=1e-12)


def _check_drop_path(case: GoldenCase, expected: list[list[Any]]) -> None:
    """The authors drop a mixer's output where the next layer adds it, or before the norm between the stages."""
    config = bt.load_config("brain-mt-base")
    mamba, attention = config.drop_path_rates()
    rates = {f"layers.{number + 1}.drop_path": rate for number, rate in enumerate(mamba[:-1])}
    rates |= {"drop_path": mamba[-1], **{f"drop_path_attn.{n}": rate for n, rate in enumerate(attention)}}
    wanted = dict(expected)
    if wanted:
        case.check("drop_path: names", sorted(name for name, rate in rates.items() if rate) == sorted(wanted), True)
    for name in wanted.keys() & rates.keys():
        case.check(name, np.float64(rates[name]), np.float64(wanted[name]), atol=0, rtol=1e-6)


def _check_scores(case: GoldenCase, metrics: dict[str, Any]) -> None:
    outputs, targets = (np.array(metrics.pop(f"{name}_f32"), np.float32) for name in ("outputs", "targets"))
    for dtype, score in (("float32", prediction_scores), ("float32", None), ("float16", None)):
        expected = metrics[dtype]
        guesses, truth = outputs.astype(dtype), targets.astype(dtype)
        values = score(guesses[:, None], truth) if score else published_regression_scores(truth, guesses)
        for name, wanted in expected.items():
            value = values.get({"r_squared": "r2"}.get(name, name))
            if value is not None:  # the p value is of the authors' scores alone
                case.check(f"{dtype}.{name}", np.float64(value), np.float64(wanted), atol=0, rtol=1e-6)
    del metrics["float32"], metrics["float16"]
    binary = metrics.pop("binary")
    labels = np.array(binary.pop("labels"))
    case.check("binary.labels", labels, (targets > 0).astype(int))
    assert binary.pop("logits") == "outputs_f32"
    values = prediction_scores(outputs[:, None], labels)
    for name, wanted in binary.items():
        value = values[{"f1_score": "f1"}.get(name, name)]
        case.check(f"binary.{name}", np.float64(value), np.float64(wanted), atol=1e-6, rtol=0)


KINDS = {
    "mixer": mixer,
    "encoder": encoder,
    "base_formula": base_formula,
    "preprocess_dataset": preprocess_dataset,
    "recipe": recipe,
}
