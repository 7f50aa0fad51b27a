"""How each kind of Brain-Semantoks case is computed with the public classes and functions."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import authors_semantoks as authors
import numpy as np
import torch
from golden_case import GoldenCase

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "conversion"))

import convert_brain_semantoks
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, TrainerCallback

import brain_transformers as bt
from brain_transformers.layers.pooling import pool_tokens
from brain_transformers.layers.positions import sincos_table
from brain_transformers.models.brain_semantoks import masking_brain_semantoks as masking_functions
from brain_transformers.models.brain_semantoks.conversion_brain_semantoks import clean_keys, first_atlas, key_map
from brain_transformers.models.brain_semantoks.modeling_brain_semantoks import (
    LongConvolutionBranch,
    coding_rate_loss,
)

# What the authors call a pooling of tokens -> our name.
_POOLINGS = {"cls": "cls", "avg": "mean", "cls_avg": "cls_mean"}
_SCENARIO_POOLINGS = ("mean", "max", "attention")


def _checkpoint_path(case: GoldenCase) -> Path:
    return next(path for path in sorted(case.folder.glob("checkpoint*")) if path.suffix in (".pth", ".pt", ".bin"))


def _authors_weights(case: GoldenCase) -> dict[str, torch.Tensor]:
    """The checkpoint under the authors' names, without wrappers; an encoder alone is the teacher."""
    return clean_keys(torch.load(_checkpoint_path(case), weights_only=True))


def _network_map(case: GoldenCase, name: str | None = None) -> Path | None:
    """The authors' map of networks: in the folder of the case, or once for all cases beside it."""
    names = [Path(name).name] if name else []
    places = [
        folder / file for folder in (case.folder, case.folder.parent) for file in (*names, "network_mapping.npz")
    ]
    return next((place for place in places if place.is_file()), None)


def converted_folder(case: GoldenCase, work: Path, *arguments: str, name: str = "converted") -> Path:
    """The case's checkpoint after the conversion script, by the way that its files leave open.

    A container of the training program converts with what it stores, except for the number of heads of a shrunken
    model, which no tensor tells; an encoder alone, or a container without a configuration, needs the constructor
    arguments.
    """
    output = work / name
    if output.is_dir():
        return output
    config = case.json("config.json")
    constructor = config["constructor"]
    stored = torch.load(_checkpoint_path(case), weights_only=True)
    extra: list[str] = []
    if config["class"] == "CNN_TF" or not isinstance(stored.get("config"), dict):
        path = work / "constructor.json"
        path.write_text(json.dumps(constructor))
        extra = ["--config", str(path)]
    elif case.kind != "container_from_training":
        extra = ["--num-attention-heads", str(constructor["heads"])]
    if (network_map := _network_map(case, constructor.get("network_data_path"))) is not None:
        extra += ["--network-map", str(network_map)]
    code = convert_brain_semantoks.main(
        ["--checkpoint", str(_checkpoint_path(case)), "--output", str(output), *extra, *arguments]
    )
    assert code == 0
    return output


class _Encoders:
    """Models of a case, converted and loaded when they are first asked for."""

    def __init__(self, case: GoldenCase, work: Path):
        self.case, self.work = case, work
        self.loaded: dict[str, Any] = {}
        self.has_heads = any(name.endswith("predictor_out") for name in case.tensors)
        self.has_classifier = any(re.fullmatch(r"(?:.+\.)?logits", name) for name in case.tensors)

    def _load(self, key: str, loader: Any, *arguments: str) -> Any:
        if key not in self.loaded:
            folder = converted_folder(self.case, self.work, *arguments, name=key)
            self.loaded[key] = loader.from_pretrained(folder).eval()
        return self.loaded[key]

    def encoder(self, which: str = "teacher", pooling: str | None = None) -> Any:
        """Body of the teacher or student, perhaps with another pooling over time."""
        arguments = ["--encoder", which, *(["--tokenizer-pooling", pooling] if pooling else [])]
        return self._load(f"{which}-{pooling}", AutoModel, *arguments)

    def pretraining(self) -> Any:
        return self._load("pretraining", AutoModelForPreTraining, "--pretraining")

    def classifier(self, pooling: str | None = None) -> Any:
        arguments = ["--tokenizer-pooling", pooling] if pooling else []
        return self._load(f"classifier-{pooling}", AutoModelForSequenceClassification, *arguments)


def _authors_mapping(case: GoldenCase) -> Any:
    constructor = case.json("config.json")["constructor"]
    return key_map(
        first_atlas(constructor, _authors_weights(case)),
        shared_mask_head=not constructor.get("use_separate_mask_predictor", False),
        tokenizers=not constructor.get("max_spatial", False),
    )


def _is_dropped(mapping: Any, key: str) -> bool:
    return any(pattern.fullmatch(key) for pattern, _ in mapping.dropped)


def our_name(case: GoldenCase, key: str) -> str:
    """Name in our pretraining model of the authors' `key`; heads that are listed twice go by their first name."""
    mapping = _authors_mapping(case)
    if not case.json("config.json")["constructor"].get("use_separate_mask_predictor", False):
        key = key.replace("_mask_predictor.", "_predictor.")
    target = mapping.target_of(key)
    assert target is not None, f"no rule for {key}"
    return target[0]


def _encoder_values(
    case: GoldenCase, encoders: _Encoders, which: str, pooling: str | None, x: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, Any]:
    """Every named output of one encoder for one input."""
    model = encoders.encoder(which, pooling)
    config = model.config
    with torch.no_grad():
        output = model(x, bool_masked_pos=mask, output_hidden_states=True)
        values: dict[str, Any] = {
            "last_hidden_state": output.last_hidden_state,
            "cls": output.last_hidden_state[:, 0],
            **{f"hidden_states.{i}": state for i, state in enumerate(output.hidden_states)},
            **{f"features.{name}": pool_tokens(output.last_hidden_state, ours) for name, ours in _POOLINGS.items()},
        }
        theirs = {ours: name for name, ours in _POOLINGS.items()}[config.pooling]
        case.check(f"{which}: pooler_output", output.pooler_output, values[f"features.{theirs}"])
        signals, _ = model.prepare(x)
        values["tokenizer_out"] = model.embeddings.tokenize(signals)
        windows = signals.reshape(len(x), config.n_rois, config.n_windows, config.patch_size).transpose(1, 2)
        for network, tokenizer in enumerate(model.embeddings.tokenizers):
            part = windows[:, :, config.rois_of_networks()[network]].flatten(0, 1)
            for place, branch in enumerate(tokenizer.branches):
                values[f"net{network}.branch{place}_out"] = branch(part)
                if isinstance(branch, LongConvolutionBranch):
                    values[f"kernel_norm_after.{network}"] = branch.kernel_norm
        if encoders.has_heads:
            whole = encoders.pretraining()
            head = whole.teacher_head if which == "teacher" else whole.student_head
            values["predictor_out"] = head(output.last_hidden_state[:, 0])
        if encoders.has_classifier:
            values["logits"] = encoders.classifier(pooling)(x, bool_masked_pos=mask).logits
    return values


_OUTPUT = re.compile(
    r"(?:(?P<prefix>.+?)\.)?(?P<output>tokenizer_out|hidden_states\.\d+|last_hidden_state|features\.\w+|cls|"
    r"predictor_out|logits|net\d+\.branch\d+_out|kernel_norm_after\.\d+)"
)
_HIDDEN = ("masked", "with_mask")
_MASK = re.compile(r"mask(?:_\w+)?")


def _input_of(case: GoldenCase, scenario: str | None, encoders: _Encoders) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Signals of a scenario, and its own mask if it has one (that is for `masked` alone where there are both)."""
    prefix = "" if scenario is None else f"{scenario}."
    names = [f"{prefix}x", f"{prefix}x_float16", *([scenario] if scenario else []), "x", "x_float16"]
    x = next(case.take(name).float() for name in names if case.has(name))
    has_both = any(set(_HIDDEN) & set(name.removeprefix(prefix).split(".")) for name in case.names(prefix))
    has_own = scenario is not None and not has_both and case.has(f"{prefix}mask")
    mask = case.take(f"{prefix}mask") if has_own else None
    if scenario is not None and scenario.startswith("keep_only_network"):
        config = encoders.encoder().config
        mask = torch.ones(len(x), config.n_networks, config.n_windows, dtype=torch.bool)
        mask[:, int(scenario.removeprefix("keep_only_network"))] = False
    return x, mask


def encoder(case: GoldenCase, work: Path) -> None:
    encoders = _Encoders(case, work)
    mask_names = sorted(name for name in case.tensors if _MASK.fullmatch(name))  # `mask` comes first
    cache: dict[Any, dict[str, Any]] = {}
    for name in case.tensors:  # inputs count when an output asks for them
        if match := re.fullmatch(r"temporal_pos_embedding_(\d+)x(\d+)", name):
            case.compare(name, sincos_table((int(match[1]),), int(match[2])))
        elif name == "roi_network_index":
            rows = encoders.encoder().config.rois_of_networks()
            networks = {roi: network for network, rois in enumerate(rows) for roi in rois}
            case.compare(name, torch.tensor([networks[roi] for roi in sorted(networks)]))
        elif match := _OUTPUT.fullmatch(name):
            parts = (match["prefix"] or "").split(".") if match["prefix"] else []
            masked = bool(parts) and parts[-1] in _HIDDEN and bool(parts.pop())
            which = parts.pop() if parts and parts[-1] in ("teacher", "student") else "teacher"
            scenario = ".".join(parts) or None
            key = (scenario, which, masked)
            if key not in cache:
                pooling = scenario if scenario in _SCENARIO_POOLINGS else None
                x, mask = _input_of(case, scenario, encoders)
                if masked:
                    own = f"{scenario}.mask"
                    mask = case.take(own if case.has(own) else mask_names[0])
                cache[key] = _encoder_values(case, encoders, which, pooling, x, mask)
            if match["output"] in cache[key]:
                case.compare(name, cache[key][match["output"]])


def container_from_training(case: GoldenCase, work: Path) -> None:
    encoder(case, work)
    stored = torch.load(_checkpoint_path(case), weights_only=True)
    config = AutoModel.from_pretrained(
        converted_folder(case, work, "--encoder", "teacher", name="teacher-None")
    ).config
    # The stored configuration has no number of heads, so that the authors' rule is what decides.
    assert config.num_attention_heads == stored["config"]["model"]["embedding_dim"] // 64


# --- pretraining ---


def _views(case: GoldenCase, step: int | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    names = ("view1", "view2", "mask1", "mask2")
    if step:
        names = tuple(f"traj.{name}.{step}" for name in names)
    views = torch.stack([case.take(names[0]), case.take(names[1])], dim=1)
    masks = None
    if case.has(names[2]):
        masks = torch.stack([case.take(names[2]), case.take(names[3])], dim=1).bool()
    return views, masks


_LOGS = {
    "cls_loss": "cls_loss",
    "mask_loss": "mask_loss",
    "network_loss": "network_loss",
    "total_loss": "loss",
    "within_view_loss": "within_view_loss",
    "student_proj_std": "student_projection_std",
    "teacher_proj_std": "teacher_projection_std",
}


def _pretraining_values(output: Any, masks: torch.Tensor | None) -> dict[str, torch.Tensor]:
    values = {"loss": output.loss, **{f"log.{theirs}": output[ours] for theirs, ours in _LOGS.items()}}
    values["log.network_mask_loss"] = torch.zeros(())  # a leftover of the authors' code, always 0
    for who in ("student", "teacher"):
        for view in (0, 1):
            values[f"{who}_tokens{view + 1}"] = output[f"{who}_last_hidden_state"][:, view]
            values[f"{who}_cls_proj{view + 1}"] = output[f"{who}_cls_projection"][:, view]
            values[f"{who}_net_proj{view + 1}"] = output[f"{who}_network_projection"][:, view]
            if masks is not None and output[f"{who}_mask_projection"] is not None:
                chosen = masks[:, view].flatten(1)
                values[f"{who}_mask_proj{view + 1}"] = output[f"{who}_mask_projection"][:, view][chosen]
    return values


def _compare_value(case: GoldenCase, name: str, value: torch.Tensor) -> None:
    case.compare(name, value.to(case.tensors[name].dtype))


def pretrain(case: GoldenCase, work: Path) -> None:
    config = case.json("config.json")
    encoders = _Encoders(case, work)
    model = encoders.pretraining()
    views, masks = _views(case)
    weight = config.get("network_loss_weight_in_loss_tensors", model.config.network_loss_weight)
    model.config.masked_term_without_embedding = True  # as in the authors' code
    for mode in ("masked", "unmasked", "masked_no_ttr"):
        names = case.names(f"{mode}.")
        if not names:
            continue
        model.zero_grad()
        used = None if mode == "unmasked" else masks
        output = model(views, used, 0.0 if mode == "masked_no_ttr" else weight, output_hidden_states=True)
        plain = model(views, used, 0.0 if mode == "masked_no_ttr" else weight)
        case.check(f"{mode}: loss without projections", plain.loss, output.loss)
        assert plain.student_mask_projection is None
        values = _pretraining_values(output, used)
        if any(".grad" in name for name in names):
            output.loss.backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            values["grad_total_norm"] = torch.stack([g.norm() for g in gradients.values()]).norm()
        for name in names:
            output_name = name.removeprefix(f"{mode}.")
            if output_name.startswith("grad."):
                case.compare_gradient(name, gradients.get(our_name(case, output_name.removeprefix("grad."))))
            elif output_name in values:
                _compare_value(case, name, values[output_name])
    if case.has("mcr.student1"):
        student, teacher = (
            torch.stack([case.take(f"mcr.{who}1"), case.take(f"mcr.{who}2")]) for who in ("student", "teacher")
        )
        parts = coding_rate_loss(student, teacher, float(config["constructor"].get("coeff", 1)))
        for name, value in (
            ("mcr.loss", parts.loss),
            ("mcr.comp_loss", parts.compression),
            ("mcr.expa_loss", parts.expansion),
        ):
            if case.has(name):
                case.compare(name, value)
    if (case.folder / "trajectory.json").is_file():
        _trajectory(case, work, encoders)


class _Recorder(bt.SelfDistillationTrainer):
    """Keeps what the trajectory of a case lists, pass by pass, and stops where the case stops."""

    records: list[dict[str, Any]]
    without_gradient: set[str]  # parameters that had none at the last optimizer step

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        groups = self.optimizer.param_groups
        self.records.append(
            {
                **{theirs: float(outputs[ours].detach()) for theirs, ours in _LOGS.items()},
                "network_mask_loss": 0.0,
                "netloss_weight": self.network_loss_weight(),
                "lr_used": [group["lr"] for group in groups],
                "weight_decay": [group["weight_decay"] for group in groups],
            }
        )
        return (loss, outputs) if return_outputs else loss

    def move_average(self) -> None:
        parameters = self.average_model.named_parameters()
        self.without_gradient = {name for name, p in parameters if p.requires_grad and p.grad is None}
        super().move_average()
        self.records[-1]["teacher_momentum"] = self.momentum

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "grad_norm" in logs:
            self.records[-1]["grad_norm_before_clip"] = logs["grad_norm"]
        super().log(logs, *args, **kwargs)


class _StopAfter(TrainerCallback):
    """Stops where the case stops, which may be between two optimizer steps."""

    trainer: _Recorder

    def __init__(self, passes: int):
        self.passes = passes

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = control.should_training_stop or len(self.trainer.records) >= self.passes

    on_substep_end = on_step_end


def _trajectory(case: GoldenCase, work: Path, encoders: _Encoders) -> None:
    """The authors' training loop through our Trainer, with their groups and their way of counting steps."""
    recipe, expected = case.json("config.json")["trajectory"], case.json("trajectory.json")
    steps, accumulation, total = expected.pop("steps"), recipe.get("accum", 1), recipe["num_training_steps"]
    masked_steps = recipe.get("masked_steps", True)
    if isinstance(masked_steps, bool):
        masked_steps = [masked_steps] * len(steps)
    rows: list[dict[str, Any]] = []
    inputs = [_views(case, number) for number in range(len(steps))]
    for number in range(total):
        views, masks = inputs[min(number, len(steps) - 1)]
        for sample in range(len(views)):
            row = {"signals": views[sample].numpy()}
            if number < len(steps) and masked_steps[number] and masks is not None:
                row["bool_masked_pos"] = masks[sample].numpy()
            rows.append(row)

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        names = [name for name in ("signals", "bool_masked_pos") if name in batch[0]]
        return {name: torch.from_numpy(np.stack([row[name] for row in batch])) for name in names}

    model = AutoModelForPreTraining.from_pretrained(
        converted_folder(case, work, "--pretraining", name="pretraining"),
        network_loss_weight=recipe["network_loss_weight"],
    )
    has_schedule = recipe.get("wd_end") is not None and recipe["wd_end"] != recipe["wd_start"]
    arguments = bt.SelfDistillationTrainingArguments(
        output_dir=str(work / "run"),
        per_device_train_batch_size=len(rows) // total,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        learning_rate=recipe["base_lr"],
        weight_decay=recipe["wd_start"],
        final_weight_decay=recipe["wd_end"] if has_schedule else None,
        layer_decay=recipe.get("lr_decay_rate", 1.0),
        warmup_epochs=recipe["num_warmup_steps"] / total,
        network_loss_decay_epochs=recipe["netloss_decay_steps"] / total,
        network_loss_delay_epochs=recipe.get("netloss_delay_steps", 0) / total,
        network_loss_schedule=recipe.get("netloss_decay_schedule", "cosine"),
        teacher_momentum=case.json("config.json")["constructor"].get("base_teacher_momentum", 0.99),
        train_sampling_strategy="sequential",
        published_parameter_groups=True,
        published_step_counting=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    stop = _StopAfter(len(steps))
    trainer = _Recorder(model, arguments, collate, train_dataset=rows, callbacks=[stop])
    trainer.records, stop.trainer = [], trainer
    trainer.train()
    assert len(trainer.records) == len(steps)
    for record, step in zip(trainer.records, steps):
        number = step.pop("step")
        step.pop("masked", None)  # as the recipe says
        for name in ("lr_used", "netloss_weight", "weight_decay", "teacher_momentum"):
            value, actual = step.pop(name, None), record.get(name)
            if value is not None:
                if name == "weight_decay" and isinstance(value, float):
                    assert actual is not None
                    actual = [decay for decay in actual if decay] or [0.0]
                    value = [value] * len(actual)
                case.check(f"step {number}: {name}", np.array(actual), np.array(value), atol=1e-15, rtol=1e-12)
        for name in [name for name, value in step.items() if value is not None]:
            assert name in record, f"unknown value {name} of a step"
            case.check(
                f"step {number}: {name}", np.float64(record[name]), np.float64(step[name]), atol=1e-4, rtol=1e-4
            )
    state, mapping = trainer.model.state_dict(), _authors_mapping(case)
    for name in case.names("traj.final."):
        key = name.removeprefix("traj.final.")
        if key == "teacher_cls_avg_of_view1":
            views, _ = _views(case)
            with torch.no_grad():
                tokens = trainer.model.brain_semantoks.eval()(views[:, 0]).last_hidden_state
            case.compare(name, pool_tokens(tokens, "cls_mean"), atol=1e-4, rtol=1e-4)
        elif _is_dropped(mapping, key) and "_mask_predictor." not in key:
            case.leave_out(name, "a tokenizer that nothing uses; ours has none")
        else:
            case.compare(name, state[our_name(case, key)], atol=1e-4, rtol=1e-4)
    _check_groups(case, trainer, expected, recipe.get("lr_decay_rate", 1.0))
    assert not expected, f"unknown facts of the trajectory: {sorted(expected)}"


_BUFFERS = (".multiplier", ".kernel_norm", ".kernel_norm_initialized", ".temporal_pos_embedding")


def _dead_parameters(case: GoldenCase) -> dict[str, int]:
    """Parameters of the authors' encoders that nothing uses, and how many numbers they hold."""
    mapping = _authors_mapping(case)
    return {
        key: value.numel()
        for key, value in _authors_weights(case).items()
        if "_encoder." in key and not key.endswith(_BUFFERS) and _is_dropped(mapping, key)
    }


def _check_groups(case: GoldenCase, trainer: Any, expected: dict[str, Any], layer_decay: float) -> None:
    dead = _dead_parameters(case)
    # Those that an optimizer step never had a gradient for have no moments; others may lack one at the last step.
    moved = {id(parameter) for parameter in trainer.optimizer.state}
    untouched = {name for name, p in trainer.model.named_parameters() if p.requires_grad and id(p) not in moved}
    never = expected.pop("student_params_without_gradient", None)
    if never is not None:
        dead_students = {key for key in dead if key.startswith("student_encoder.")}
        assert dead_students <= set(never)
        named = {our_name(case, key) for key in set(never) - dead_students}
        if not untouched <= named <= untouched | trainer.without_gradient:
            case.failures.append(f"without gradient: {sorted(untouched)}, expected {sorted(named)}")
    groups = expected.pop("param_groups", None)
    if groups is None:
        return
    for number, (actual, group) in enumerate(zip(trainer.optimizer.param_groups, groups, strict=True)):
        count = sum(parameter.numel() for parameter in actual["params"])
        if layer_decay == 1:  # one group of everything, teacher and dead tokenizers included
            count = sum(p.numel() for p in trainer.model.parameters()) + sum(dead.values())
        elif actual["initial_lr"] == trainer.args.learning_rate:
            free = number == 1  # the first group decays, since the first parameter is a weight
            count += sum(
                n
                for key, n in dead.items()
                if key.startswith("student_") and (key.endswith(".bias") or "norm" in key) == free
            )
        case.check(f"group {number}: n_params", count, group["n_params"])
        for name, value in (("initial_lr", actual["initial_lr"]), ("weight_decay_last", actual["weight_decay"])):
            if group.get(name) is not None:
                case.check(
                    f"group {number}: {name}", np.float64(value), np.float64(group[name]), atol=1e-15, rtol=1e-12
                )


def _live_keys(case: GoldenCase) -> list[str]:
    mapping = _authors_mapping(case)
    return [
        key
        for key in _authors_weights(case)
        if mapping.target_of(key) is not None and "kernel_norm_initialized" not in key
    ]


# --- masks, schedules ---


def _closed_form(n_networks: int, n_windows: int, low: float, high: float) -> dict[str, Any]:
    """Exact probabilities of the temporal lengths, and the range of network counts."""
    edges = sorted({low, high, *(k / n_windows for k in range(n_windows + 1) if low < k / n_windows < high)})
    lengths: dict[str, float] = {}
    for left, right in zip(edges, edges[1:]):  # noqa: RUF007 (pairs of a short list)
        length = str(masking_functions.temporal_length((left + right) / 2, n_windows))
        lengths[length] = lengths.get(length, 0.0) + (right - left) / (high - low)
    if not lengths:  # a range of one number
        lengths = {str(masking_functions.temporal_length(low, n_windows)): 1.0}
    first, stop = masking_functions.network_count_range(n_networks, (low, high))
    return {
        "temporal_length": lengths,
        "temporal_start": "uniform over 0..T-length inclusive",
        "network_count": f"uniform over {first}..{stop - 1}",
        "network_count_low": first,
        "network_count_high_exclusive": stop,
    }


def _mask_statistics(kind: str, n_networks: int, n_windows: int, mask_range: tuple[float, float], n_draws: int) -> Any:
    """The statistics of `mask_stats.json` for our masks.

    `extremes`: how often the smallest and the largest hidden share came up.
    """
    draws = masking_functions.MaskDraws(np.random.default_rng(0))
    masks = np.stack(
        [masking_functions.draw_mask(kind, n_networks, n_windows, draws, mask_range) for _ in range(n_draws)]
    )
    same_rows = (masks == masks[:, :1]).all((1, 2))
    whole_rows = (masks == masks[:, :, :1]).all((1, 2))
    fraction = masks.mean((1, 2))
    lengths: dict[str, float] = {}
    starts: dict[str, float] = {}
    counts: dict[str, float] = {}
    for mask, temporal in zip(masks, same_rows):
        if temporal:
            length = int(mask[0].sum())
            lengths[str(length)] = lengths.get(str(length), 0) + 1 / n_draws
            if length:
                start = f"{length}@{int(mask[0].argmax())}"
                starts[start] = starts.get(start, 0) + 1 / n_draws
        else:
            count = str(int(mask[:, 0].sum()))
            counts[count] = counts.get(count, 0) + 1 / n_draws
    return {
        "fraction_temporal": same_rows.mean(),
        "fraction_network": (~same_rows & whole_rows).mean(),
        "unclassified": (~same_rows & ~whole_rows).mean(),
        "mask_fraction": {
            "mean": fraction.mean(),
            "std": fraction.std(),
            "min": fraction.min(),
            "max": fraction.max(),
        },
        "extremes": {
            "min": float((fraction == fraction.min()).mean()),
            "max": float((fraction == fraction.max()).mean()),
        },
        "temporal_length_fraction": lengths,
        "temporal_length_at_start_fraction": starts,
        "network_count_fraction": counts,
        "column_mask_probability": masks.mean((0, 1)).tolist(),
        "row_mask_probability": masks.mean((0, 2)).tolist(),
    }


_DISTRIBUTIONS = tuple(
    f".{name}"
    for name in (
        "temporal_length",
        "temporal_length_fraction",
        "temporal_length_at_start_fraction",
        "network_count_fraction",
    )
)


def _check_nested(case: GoldenCase, name: str, actual: Any, expected: Any, atol: float) -> None:
    if isinstance(expected, dict):
        if name.endswith(_DISTRIBUTIONS):  # what never came up may be left out
            actual, expected = (
                {**dict.fromkeys(theirs, 0.0), **ours} for ours, theirs in ((actual, expected), (expected, actual))
            )
        if set(expected) - set(actual):
            case.failures.append(f"{name}: unknown {sorted(set(expected) - set(actual))}")
        for key in set(expected) & set(actual):
            _check_nested(case, f"{name}.{key}", actual[key], expected[key], atol)
    elif isinstance(expected, str):
        if actual != expected:
            case.failures.append(f"{name}: {actual!r}, expected {expected!r}")
    else:
        case.check(
            name, np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64), atol=atol, rtol=0
        )


_MASK_ATOL = 0.015
_OUR_DRAWS = 100_000
_SIZE_KEYS = (
    ("C", "N", "n_networks", "networks"),
    ("T", "P", "n_windows", "n_patches", "patches"),
    ("range", "mask_range", "masking_ratio", "ratio"),
)
_SETTING_KEYS = {"function", "kind", "name", "n_draws", *(key for keys in _SIZE_KEYS for key in keys)}
Setting = tuple[int, int, float, float]


def _setting(entry: Any, text: str = "") -> Setting | None:
    """Networks, windows and range, from an entry that lists them or from a name such as `network_9x5_065_085`."""
    listed = entry if isinstance(entry, dict) else {}
    found = [next((listed[key] for key in keys if key in listed), None) for keys in _SIZE_KEYS]
    sizes = re.search(r"(\d+)\s*x\s*(\d+)", text) or re.search(r"[CN]\W{0,2}(\d+).*?[TP]\W{0,2}(\d+)", text)
    if found[0] is None and sizes is not None:
        found[:2] = int(sizes[1]), int(sizes[2])
    if found[0] is None or found[1] is None:
        return None
    if found[2] is None:
        digits = re.findall(r"\d+(?:\.\d+)?", text[sizes.end() :] if sizes is not None else "")[:2]
        found[2] = [_share(value) for value in digits] if len(digits) == 2 else [0.65, 0.85]
    return int(found[0]), int(found[1]), float(found[2][0]), float(found[2][1])


def _share(digits: str) -> float:
    """0.65 from `0.65`, `065` or `65`."""
    value = float(digits) if "." in digits else float(f"{digits[0]}.{digits[1:]}")
    return value if value <= 1 else float(digits) / 100


def masks(case: GoldenCase, work: Path) -> None:
    stats = case.json("mask_stats.json")
    entries = stats.pop("stats", [])
    kinds = [entry["function"].removesuffix("_masker") for entry in entries]
    settings = [_setting(entry) for entry in entries]
    for name in case.names():
        if match := re.fullmatch(r"(slice|temporal|network)_(\d+)x(\d+)_seeds_(\d+)_(\d+)", name):
            kind, (n, p, first, last) = match[1], (int(match[i]) for i in range(2, 6))
            ranges = [(s[2:], k) for s, k in zip(settings, kinds) if s is not None and s[:2] == (n, p)]
            # The range of the statistics of that function; where there are none, the bits tell which it was.
            own = [limits for limits, k in ranges if k == kind] or [(0.65, 0.85), *(limits for limits, _ in ranges)]
            drawn = [
                np.stack(
                    [
                        masking_functions.draw_mask(kind, n, p, authors.PublishedDraws(seed), limits)
                        for seed in range(first, last + 1)
                    ]
                )
                for limits in own
            ]
            expected = case.tensors[name].numpy().astype(bool)
            case.compare(name, next((ours for ours in drawn if np.array_equal(ours, expected)), drawn[0]))
    for kind, setting, entry in zip(kinds, settings, entries):
        assert setting is not None, entry
        facts = {key: value for key, value in entry.items() if key not in _SETTING_KEYS}
        _check_statistics(case, kind, setting, facts, entry["n_draws"])
    for name in [name for name in stats if name.startswith("analytic")]:
        _check_analytic(case, name, stats.pop(name), entries)
    for text, setting, outcome in _error_settings(stats.pop("errors", [])):
        _check_error(case, text, setting, outcome)
    _canonical(case, stats)
    assert not stats, f"unknown facts: {sorted(stats)}"


def _check_statistics(case: GoldenCase, kind: str, setting: Setting, facts: dict[str, Any], n_draws: int) -> None:
    n, p, *limits = setting
    title = f"{kind} {n}x{p} {limits}"
    ours_n = max(2000, min(_OUR_DRAWS, 50_000_000 // (n * p)))
    ours = _mask_statistics(kind, n, p, (limits[0], limits[1]), ours_n)
    # Both sides are samples: 4.5 standard errors of their difference where that is more than the stated tolerance.
    atol = max(_MASK_ATOL, 4.5 * (0.25 / n_draws + 0.25 / ours_n) ** 0.5)
    share = facts.get("mask_fraction", {})
    for name in [name for name in ("min", "max") if name in share]:
        possible = _possible_shares(kind, setting)
        value = share[name]
        if not any(abs(value - other) < 1e-9 for other in possible):
            case.failures.append(f"{title}.mask_fraction.{name}: {value}, possible are {possible}")
    if "mask_fraction" in facts:
        facts = {**facts, "mask_fraction": {k: v for k, v in share.items() if k not in ("min", "max")}}
    for name in [name for name in ("min", "max") if name in share]:
        seldom = ours["extremes"][name] < 20 / n_draws
        if abs(share[name] - ours["mask_fraction"][name]) > 1e-9 and not seldom:
            case.failures.append(f"{title}.mask_fraction.{name}: {share[name]}, ours {ours['mask_fraction'][name]}")
    _check_nested(case, title, ours, facts, atol)


def _possible_shares(kind: str, setting: Setting) -> list[float]:
    """Hidden shares that can come up."""
    n, p, low, high = setting
    closed = _closed_form(n, p, low, high)
    shares = [int(length) / p for length in closed["temporal_length"]] if kind != "network" else []
    if kind != "temporal":
        shares += [k / n for k in range(closed["network_count_low"], closed["network_count_high_exclusive"])]
    return sorted(set(shares))


def _check_analytic(case: GoldenCase, name: str, expected: Any, entries: list[Any]) -> None:
    """Closed forms: a list that goes with the statistics, a dict with its setting, or a dict of such."""
    if isinstance(expected, list):
        for entry, values in zip(entries, expected, strict=True):
            _check_analytic(case, name, {**{k: v for k, v in entry.items() if k in _SETTING_KEYS}, **values}, [])
        return
    if not any(key.startswith(("temporal_", "network_")) and "x" not in key for key in expected):
        for key, values in expected.items():
            _check_analytic(case, f"{name}_{key}", values, entries)
        return
    setting = _setting(expected, name) or (_setting(entries[0]) if entries else None)
    assert setting is not None, f"{name} does not tell its sizes"
    ours = _closed_form(*setting)
    empty = ours["network_count_low"] >= ours["network_count_high_exclusive"]
    values = {
        key: value
        for key, value in expected.items()
        if key not in _SETTING_KEYS and not (empty and key == "network_count")  # no such draw
    }
    _check_nested(case, f"{name} {setting}", ours, values, 1e-9)


_OUTCOMES = ("result", "outcome", "upstream", "error", "exception", "status", "ok")


def _error_settings(errors: Any, path: str = "") -> Any:
    """What was tried, by name and setting, and what the authors' code did: a list or nested dicts."""
    if isinstance(errors, list):
        for entry in errors:
            yield from _error_settings(entry, path)
        return
    if set(errors) & (_SETTING_KEYS | set(_OUTCOMES)):
        text = " ".join(str(part) for part in (path, errors.get("function"), errors.get("kind"), errors.get("name")))
        words = [errors[key] for key in _OUTCOMES if key in errors]
        others = [v for k, v in errors.items() if isinstance(v, str) and k not in (*_SETTING_KEYS, "message")]
        outcomes = words or others
        assert outcomes, f"no outcome in {errors}"
        yield text, _setting(errors, text), outcomes[0]
        return
    for name, value in errors.items():
        if isinstance(value, (dict, list)):
            yield from _error_settings(value, f"{path} {name}")
        else:
            text = f"{path} {name}"
            yield text, _setting({}, text), value


def _check_error(case: GoldenCase, text: str, setting: Setting | None, outcome: Any) -> None:
    """Settings that fail in the authors' code give a ValueError that names the range; the others give a mask."""
    assert setting is not None, f"{text!r} does not tell its sizes"
    n, p, *limits = setting
    mask_range = (limits[0], limits[1])
    kind = next((kind for kind in masking_functions.MASK_KINDS if kind in text), None)
    if kind is None:
        kind = next(iter(re.findall(r"[a-z]{3,}", text)), "network")
    expected_to_fail = not (outcome is None or outcome is True or str(outcome).lower().startswith("ok"))
    # A slice mask fails only when it comes out as one of networks, so it is drawn until both kinds were seen.
    problem = None
    for seed in range(40):
        try:
            masking_functions.draw_mask(kind, n, p, authors.PublishedDraws(seed), mask_range)
        except ValueError as error:
            problem = str(error)
    if (problem is not None) != expected_to_fail and not (kind == "slice" and problem is not None):
        case.failures.append(f"{text.strip()} {setting}: expected {outcome!r}, got {problem!r}")
    if problem is not None and kind in masking_functions.MASK_KINDS:
        assert f"{mask_range[0]}-{mask_range[1]}" in problem


def _as_mapping(value: Any) -> list[list[int]] | None:
    """Networks of each functional one, from a list, a dict by number, a table of 0 and 1, or one filled with -1."""
    if isinstance(value, torch.Tensor):
        if value.dim() != 2:
            return None
        if value.dtype == torch.bool:
            return [row.nonzero()[:, 0].tolist() for row in value]
        return [[int(network) for network in row if network >= 0] for row in value.tolist()]
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        numbered = {int(key): networks for key, networks in value.items()}
        value = [numbered.get(number, []) for number in range(max(numbered) + 1)]
    if isinstance(value, list) and value and all(isinstance(networks, list) for networks in value):
        return [[int(network) for network in networks] for networks in value]
    return None


def _published_mappings(case: GoldenCase) -> list[list[list[int]]]:
    """Mappings from the 7- to the 17-network map, for each choice of atlases."""
    path = _network_map(case)
    if path is None:
        return []
    with np.load(path) as archive:
        maps = {name: archive[name] for name in archive}
    if not {"network_map_schaefer400_7n", "network_map_schaefer400_17n"} <= set(maps):
        return []
    rest = [[maps[f"network_map_{name}"] for name in names] for names in (("tian3", "buckner7"), ("tian3",), ())]
    concatenate = masking_functions.concatenate_network_ids
    return [
        masking_functions.functional_network_mapping(
            *(concatenate([maps[f"network_map_schaefer400_{k}n"], *others]) for k in (7, 17))
        )
        for others in rest
    ]


def _mappings_in(name: str, value: Any) -> Any:
    """Every mapping among the facts, by name; other facts must be numbers or words about them."""
    mapping = _as_mapping(value)
    if mapping is not None:
        yield name, mapping
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _mappings_in(f"{name}_{key}", part)


def _canonical(case: GoldenCase, stats: dict[str, Any]) -> None:
    """Masks over functional networks, copied to the networks of a finer map."""
    mappings: dict[str, list[list[int]]] = {}
    for name in [name for name in stats if name.startswith("canonical")]:
        mappings.update(_mappings_in(name, stats.pop(name)))
    names = case.names("canonical")
    ids = {name: case.take(name).tolist() for name in names if case.tensors[name].dim() == 1}
    for name in [name for name in names if "mapping" in name and name not in ids]:
        mapping = _as_mapping(case.take(name))
        assert mapping is not None
        mappings[name] = mapping
    functional_ids = next((value for name, value in ids.items() if "functional" in name), None)
    actual_ids = next((value for name, value in ids.items() if "functional" not in name), None)
    published = _published_mappings(case)
    if functional_ids is not None and actual_ids is not None:
        published = [masking_functions.functional_network_mapping(functional_ids, actual_ids)]
    for name, mapping in mappings.items():
        sizes = (len(mapping), max((max(networks, default=0) for networks in mapping), default=0))
        alike = [other for other in published if (len(other), max(max(part) for part in other)) == sizes]
        if alike and mapping not in alike:
            case.failures.append(f"{name}: {mapping}, ours {alike[0]}")
    mask_names = [name for name in names if name not in ids and name not in mappings]
    if not mask_names:
        return
    candidates = [mapping for _, mapping in sorted(mappings.items())] or published
    assert candidates, f"no mapping for {mask_names}"
    sources = [
        name
        for name in mask_names
        if case.tensors[name].shape[-2] in {len(mapping) for mapping in candidates}
        and ("functional" in name or not re.search("expand|actual|17n|out", name))
    ]
    for name in sources:
        case.take(name)
    assert sources, f"no functional mask among {mask_names}"
    for name in [name for name in mask_names if name not in sources]:
        expected = case.tensors[name]
        words = set(re.split(r"[_.]", name))
        alike = [other for other in sources if case.tensors[other].shape[:-2] == expected.shape[:-2]] or sources
        source = case.tensors[max(alike, key=lambda other: len(words & set(re.split(r"[_.]", other))))].numpy()
        rows, size = source.reshape(-1, *source.shape[-2:]).astype(bool), expected.shape[-2]
        fitting = [
            mapping
            for mapping in candidates
            if len(mapping) == rows.shape[1] and max(max(part, default=0) for part in mapping) < size
        ]
        assert fitting, f"no mapping for {name}"
        ours = [
            np.stack([masking_functions.expand_functional_mask(mask, mapping, size) for mask in rows]).reshape(
                expected.shape
            )
            for mapping in fitting
        ]
        case.compare(name, next((o for o in ours if np.array_equal(o, expected.numpy().astype(bool))), ours[0]))


_SCHEDULE_TOLERANCE = {"atol": 1e-15, "rtol": 1e-12}


def schedules(case: GoldenCase, work: Path) -> None:
    from brain_transformers.training import schedules as ours

    facts = case.json("schedules.json")
    for number, recipe in enumerate(facts.pop("finetune", [])):
        grid = recipe.get("use_grid_search", False)  # which always takes a cosine over all epochs
        options = (
            {}
            if grid
            else {
                "schedule": recipe.get("scheduler_type", "cosine"),
                "warmup_epochs": recipe.get("warmup_epochs", 0),
                "min_lr": recipe.get("min_lr", 0.0),
            }
        )
        values = [
            ours.finetuning_lr(epoch, peak=recipe["scaled_lr"], epochs=recipe["epochs"], **options)
            for epoch in range(len(recipe["lr_per_epoch"]))
        ]
        case.check(f"finetune {number}", np.array(values), np.array(recipe["lr_per_epoch"]), **_SCHEDULE_TOLERANCE)
    if facts.pop("peak_lr_rule", None) is not None:
        case.check("peak", ours.scaled_learning_rate(7e-4, 512), np.float64(0.0014), atol=0, rtol=1e-12)
    for name in [
        name for name, recipe in facts.items() if isinstance(recipe, dict) and "num_training_steps" in recipe
    ]:
        recipe = facts.pop(name)
        steps = recipe["num_training_steps"]
        values_of = {
            "lr_used_at_step": lambda step, r=recipe, n=steps: ours.warmup_cosine_lr(
                step, peak=r["base_lr"], warmup_steps=r["num_warmup_steps"], max_steps=n
            ),
            "weight_decay_at_step": lambda step, r=recipe, n=steps: ours.cosine_between(
                step, first=r["wd_start"], last=r["wd_end"], total_steps=n
            ),
            "teacher_momentum_at_step": lambda step, r=recipe, n=steps: ours.cosine_between(
                step, first=r["base_teacher_momentum"], last=1, total_steps=n
            ),
            "network_loss_weight_at_step": lambda step, r=recipe: ours.decaying_loss_weight(
                step,
                weight=r["network_loss_weight"],
                decay_steps=r[
                    "netloss_weight_decay_steps" if "netloss_weight_decay_steps" in r else "netloss_decay_steps"
                ],
                delay_steps=r.get("netloss_delay_steps", 0),
                schedule=r.get("netloss_decay_schedule", "cosine"),
            ),
        }
        for key in [key for key, values in recipe.items() if key.endswith("_at_step") and values is not None]:
            expected = recipe[key]
            values = [values_of[key](step) for step in range(len(expected))]
            case.check(f"{name}.{key}", np.array(values), np.array(expected, dtype=float), **_SCHEDULE_TOLERANCE)
    assert not facts, f"unknown facts: {sorted(facts)}"


# --- downstream ---

_HEAD_KINDS = {"linear": "batch_norm_linear", "mlp": "mlp"}


def _our_head_name(name: str, kind: str) -> str:
    """Name in our classifier of `head.<place>.<tensor>` of the authors."""
    _, place, tensor = name.split(".")
    if kind == "linear":
        return f"norm.{tensor}" if place == "0" else f"output.{tensor}"
    return f"hidden.{int(place) // 3}.{tensor}"  # linear, GELU, dropout


def _load_head(case: GoldenCase, model: Any, tag: str, kind: str) -> dict[str, str]:
    """Put the case's head into the model; returns our name of each of the authors' tensors."""
    prefix = f"{tag}.init."
    authors = [name.removeprefix(prefix) for name in case.names(prefix)]
    names = {name: _our_head_name(name, kind) for name in authors}
    if kind == "mlp":
        last = max(int(name.split(".")[1]) for name in authors)
        names = {n: f"output.{n.split('.')[2]}" if n.split(".")[1] == str(last) else ours for n, ours in names.items()}
    weights = {ours: case.take(f"{prefix}{name}") for name, ours in names.items()}
    model.classifier.load_state_dict(weights)
    return names


def downstream(case: GoldenCase, work: Path) -> None:
    config, info = case.json("config.json")["downstream"], case.json("info.json")
    which = "teacher" if config.get("use_teacher", info.pop("use_teacher", True)) else "student"
    folder = converted_folder(case, work, "--encoder", which)
    x = case.take("x") if case.has("x") else None
    for tag, head in config["heads"].items():
        assert x is not None
        _check_head(case, folder, tag, head, config, info, x)
    if "probe" in info:
        _check_probe(case, info.pop("probe"))
    for name in ("feature_type", "num_classes", "layerwise_decay_rate"):  # settings
        info.pop(name, None)
    assert not info.pop("lr_and_wd_multiplier_by_name", None), "multipliers by name are not compared with anything"
    left = set(info) - {f"{tag}.optimizer_groups" for tag in config["heads"]}
    assert not left, f"unknown facts: {sorted(left)}"


def _check_head(
    case: GoldenCase, folder: Path, tag: str, head: dict[str, Any], config: dict[str, Any], info: Any, x: torch.Tensor
) -> None:
    from brain_transformers.training import fine_tuning_groups

    labels = case.take("labels")
    kind = head["head_type"]
    regression = labels.is_floating_point()
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=config["num_classes"],
        pooling=config["feature_type"],
        classifier_head=_HEAD_KINDS[kind],
        classifier_hidden_sizes=head.get("hidden_dims") or [],
        classifier_dropout=head.get("dropout", 0.0),
        classifier_loss="mae",
        problem_type="regression" if regression else "single_label_classification",
    )
    names = _load_head(case, model, tag, kind)
    with torch.no_grad():
        values = {"eval_logits": model.eval()(x).logits}
    output = model.train()(x, labels=labels)
    values |= {"train_logits": output.logits, "train_loss": output.loss}
    rate = config.get("lr_decay_rate", info.get("layerwise_decay_rate", 1.0))
    expected_groups = info.get(f"{tag}.optimizer_groups")
    top = expected_groups[-1] if expected_groups else {}  # of the head, which is not scaled
    groups = fine_tuning_groups(
        model,
        learning_rate=top.get("lr", 1e-3),
        weight_decay=top.get("weight_decay", 0.05),
        layer_decay=rate,
        published=True,
    )
    if expected_groups is not None:
        _check_finetuning_groups(case, tag, groups, expected_groups)
    optimizer = torch.optim.AdamW(groups)
    output.loss.backward()
    values["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    values["step1_loss_after"] = model(x, labels=labels).loss
    parameters = dict(model.named_parameters())
    mapping = _authors_mapping(case)
    for name in [name for name in case.names(f"{tag}.") if name not in case.seen]:
        key = name.removeprefix(f"{tag}.")
        if key in values:
            case.compare(name, values[key], **({"atol": 1e-4, "rtol": 1e-4} if key == "step1_loss_after" else {}))
        elif key.startswith("after_step."):
            case.compare(
                name, _stepped(parameters, names, mapping, key.removeprefix("after_step.")), atol=1e-4, rtol=1e-4
            )


def _stepped(parameters: dict[str, torch.Tensor], names: dict[str, str], mapping: Any, key: str) -> torch.Tensor:
    """The parameter of ours that holds the authors' `key` of an encoder with a head."""
    if key.removeprefix("head.") in names:
        return parameters[f"classifier.{names[key.removeprefix('head.')]}"]
    target = mapping.target_of(f"teacher_encoder.{key.removeprefix('encoder.')}")
    assert target is not None, f"no rule for {key}"
    return parameters[target[0]]


def _check_finetuning_groups(case: GoldenCase, tag: str, groups: list[dict[str, Any]], expected: Any) -> None:
    dead = {key: n for key, n in _dead_parameters(case).items() if key.startswith("teacher_")}
    full_rate = [number for number, group in enumerate(groups[:-1]) if group["lr"] == groups[-1]["lr"]]
    for number, (group, wanted) in enumerate(zip(groups, expected, strict=True)):
        count = sum(parameter.numel() for parameter in group["params"])
        if number in full_rate:  # the authors list the tokenizers that nothing uses as well
            one_group = len(full_rate) == 1
            count += sum(
                n
                for key, n in dead.items()
                if one_group or (key.endswith(".bias") or "norm" in key) == (group["weight_decay"] == 0)
            )
        for name, value in (("lr", group["lr"]), ("weight_decay", group["weight_decay"]), ("n_params", count)):
            case.check(
                f"{tag} group {number}: {name}", np.float64(value), np.float64(wanted[name]), atol=1e-15, rtol=1e-12
            )


_METRIC_NAMES = {
    **dict.fromkeys(("pearson", "r", "pearsonr", "pearson_corr", "pearson_correlation", "correlation"), "pearson_r"),
    **dict.fromkeys(("mean_absolute_error", "l1"), "mae"),
    **dict.fromkeys(("r2_score", "r_squared"), "r2"),
    **dict.fromkeys(("f1_binary", "f1_score"), "f1"),
    **dict.fromkeys(("roc_auc", "auc"), "auroc"),
    "precision_binary": "precision",
    "recall_binary": "recall",
    "acc": "accuracy",
    "bacc": "balanced_accuracy",
}


def _published_scores(scores: dict[str, float]) -> dict[str, float]:
    """As the authors' code reports them: those of classes in percent, and 0 for what is not defined."""
    if "mae" in scores:
        return {"r2": 0.0, "pearson_r": 0.0, **scores}
    return {name: 100 * value for name, value in scores.items()}


def _check_metrics(case: GoldenCase, title: str, actual: dict[str, float], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        name = _METRIC_NAMES.get(name, name)
        ours = actual.get(name)
        if ours is None and name == "auroc" and (value is None or not value > 0):
            continue  # not defined, since a class is missing
        if ours is None:
            case.failures.append(f"{title}: no metric {name}, only {sorted(actual)}")
        else:
            case.check(f"{title}: {name}", np.float64(ours), np.float64(value), atol=1e-6, rtol=1e-6)


def _check_probe(case: GoldenCase, facts: dict[str, Any]) -> None:
    from brain_transformers.evaluation.linear_probe import (
        ProbeHeads,
        average_crops,
        train_probe_heads,
    )
    from brain_transformers.training.scores import prediction_scores

    take = {name.removeprefix("probe."): case.take(name) for name in case.names("probe.") if ".init." in name}
    heads = ProbeHeads(
        take["init.bn.weight"][None, None].clone(),
        take["init.bn.bias"][None, None].clone(),
        take["init.layer.weight"][None, None].clone(),
        take["init.layer.bias"][None, None].clone(),
        take["init.bn.running_mean"][None].clone(),
        take["init.bn.running_var"][None].clone(),
        int(take["init.bn.num_batches_tracked"]),
    )
    features, labels = case.take("probe.train_features"), case.take("probe.train_labels")
    train_probe_heads(
        features,
        labels.reshape(len(features)),
        learning_rates=[facts.pop("lr")],
        epochs=facts.pop("epochs"),
        batch_size=len(features),
        momentum=facts.pop("momentum"),
        heads=heads,
    )
    batch = facts.pop("batch", None)
    assert batch is None or re.findall(r"\d+", str(batch)) in ([], [str(len(features))])
    final = {
        "bn.weight": heads.scale[0, 0],
        "bn.bias": heads.shift[0, 0],
        "bn.running_mean": heads.running_mean[0],
        "bn.running_var": heads.running_var[0],
        "bn.num_batches_tracked": torch.tensor(heads.n_batches),
        "layer.weight": heads.weight[0, 0],
        "layer.bias": heads.bias[0, 0],
    }
    for name, value in final.items():
        if case.has(f"probe.final.{name}"):
            case.compare(f"probe.final.{name}", value, atol=1e-4, rtol=1e-4)
    evaluated, targets = case.take("probe.eval_features"), case.take("probe.eval_labels")
    logits = heads(evaluated)[0, 0]
    n_crops = facts.pop("crops_per_subject")
    averaged = average_crops(logits, n_crops)
    # Metrics are those of the stored logits, since a rank may turn on the last digit.
    stored = case.tensors["probe.eval_logits"]
    case.compare("probe.eval_logits", logits.reshape(stored.shape), atol=1e-4, rtol=1e-4)
    if case.has("probe.crop_averaged_logits"):
        averaged = averaged.reshape(case.tensors["probe.crop_averaged_logits"].shape)
        case.compare("probe.crop_averaged_logits", averaged, atol=1e-4, rtol=1e-4)
    stored = stored.reshape(len(stored), -1)
    targets = targets.reshape(len(stored))
    per_crop = _published_scores(prediction_scores(stored, targets))
    _check_metrics(case, "per crop", per_crop, facts.pop("metrics_per_crop", {}))
    of_subject = targets.reshape(-1, n_crops)[:, 0]
    subject_logits = case.tensors.get("probe.crop_averaged_logits", average_crops(stored, n_crops))
    subject_logits = subject_logits.reshape(len(of_subject), -1)
    averaged = _published_scores(prediction_scores(subject_logits, of_subject))
    _check_metrics(case, "averaged", averaged, facts.pop("metrics_subject_averaged", {}))
    primary = facts.pop("val_primary_metric", None)
    if primary is not None:
        value = per_crop["mae"] if "mae" in per_crop else per_crop["balanced_accuracy"]
        case.check("primary", np.float64(value), np.float64(abs(primary)), atol=1e-6, rtol=1e-6)
    assert not facts, f"unknown facts of the probe: {sorted(facts)}"


# --- data ---


def data_pipeline(case: GoldenCase, work: Path) -> None:
    from brain_transformers.processing.frame_sampling import regular_starts

    facts = case.json("info.json")
    for tag in [tag for tag, entry in facts.items() if isinstance(entry, dict) and "modality_config" in entry]:
        _check_dataset(case, work, tag, facts.pop(tag))
    for number, entry in facts.pop("aug", {}).items():
        _check_augmentation(case, number, entry)
    for last, expected in facts.pop("regular_crop_starts", {}).items():
        case.check(f"regular {last}", regular_starts(int(last), len(expected)), np.array(expected))
    for name in [name for name in facts if name.startswith("random_crop_starts_max")]:
        _check_random_starts(case, int(name.removeprefix("random_crop_starts_max")), facts.pop(name))
    assert not facts, f"unknown facts: {sorted(facts)}"


def _check_random_starts(case: GoldenCase, last: int, expected: dict[str, float]) -> None:
    """Starts of both crops of many scans, as the collator of the Trainer draws them."""
    extractor = bt.ROISeriesFeatureExtractor(1, 4, patch_size=1, normalization="none")
    collator = bt.ScanCollator(extractor, window="random", n_views=2, seed=0)
    series = np.arange(last + 4, dtype=np.float32)  # so that the first value of a crop is its start
    scan = {"signals": series, "n_rois": 1, "n_timepoints": len(series)}
    crops = collator([{**scan, "__row_index__": row, "__epoch__": 0} for row in range(4000)])["signals"]
    starts = crops[:, :, 0, 0].numpy()
    case.check("first start", starts.min(), np.float64(expected.pop("min")), atol=0, rtol=0)
    case.check("last start", starts.max(), np.float64(expected.pop("max")), atol=0, rtol=0)
    case.check("mean start", starts.mean(), np.float64(expected.pop("mean")), atol=0.03 * last, rtol=0)
    correlation = np.corrcoef(starts.T)[0, 1]
    case.check("views", correlation, np.float64(expected.pop("corr_between_views")), atol=0.06, rtol=0)
    assert not expected, f"unknown statistics: {sorted(expected)}"


def _check_augmentation(case: GoldenCase, number: str, entry: dict[str, Any]) -> None:
    from brain_transformers.training import augmentation as views

    own = f"aug.{number}.input"
    signals = case.take(own if case.has(own) else "aug.input").numpy()
    n_rois, n_timepoints = signals.shape
    spatial, temporal, noise, scale = views.check_levels(entry["augment_level"])
    draws = iter(entry["draws_in_order"])

    def ratio(wanted: bool, limits: tuple[float, float]) -> float:
        if not wanted:
            return limits[0]
        kind, value = next(draws)
        assert kind == "uniform"
        assert limits[0] <= value <= limits[1]
        return value

    roi_ratio = ratio(spatial > 0, views.AUGMENTATION_LEVELS[spatial][0])
    time_ratio = ratio(temporal > 0, views.AUGMENTATION_LEVELS[temporal][1])
    factor = ratio(scale > 0, views.AUGMENTATION_LEVELS[scale][3])
    zero_rois, block = np.zeros(0, dtype=np.int64), (0, 0)
    if spatial:
        assert list(next(draws)) == ["choice", views.zeroed_count(n_rois, roi_ratio)]
        zero_rois = case.take(f"aug.{number}.zero_indices").numpy()
        assert len(zero_rois) == views.zeroed_count(n_rois, roi_ratio)
    if temporal:
        kind, start = next(draws)
        assert kind == "randint"
        block = (int(start), views.zeroed_count(n_timepoints, time_ratio))
    assert next(draws, None) is None
    values = None
    if views.AUGMENTATION_LEVELS[noise][2]:
        values = case.take(f"aug.{number}.noise").numpy()
        case.check(
            f"aug.{number}: noise", values.std(), np.float64(views.AUGMENTATION_LEVELS[noise][2]), atol=0, rtol=0.2
        )
    output = views.Augmentation(zero_rois, block, factor, values)(signals)
    case.compare(f"aug.{number}.output", output, atol=1e-6, rtol=1e-6)


def _check_dataset(case: GoldenCase, work: Path, tag: str, entry: dict[str, Any]) -> None:
    """The authors' dataset by the functions that reproduce it, and by our builder and extractor where both do the
    same."""
    from brain_transformers.data import semantoks_hdf5 as recordings
    from brain_transformers.data.semantoks_hdf5 import SemantoksHDF5Builder
    from brain_transformers.processing.frame_sampling import regular_starts

    unknown = set(entry) - {"modality_config", "dataset_args", "n", "ids", "labels", "shapes"}
    assert not unknown, f"unknown facts of {tag}: {sorted(unknown)}"
    config, options = entry["modality_config"], entry.get("dataset_args", {})
    atlases = [config[f"{name}_atlas"] for name in ("schaefer", "tian", "buckner") if config.get(f"{name}_atlas")]
    target, n_crops = config["target_signal_length"], config["number_of_crops"]
    label_names = sorted({name for row in entry.get("labels") or [] for name in row})
    path = next(iter(sorted(case.folder.glob("*.h5"))))
    source_t_r, target_t_r = config.get("source_tr") or 2.0, options.get("temporal_resampling_tr")
    with recordings.SemantoksRecordings(path, atlases, label_names) as file:
        scans = [file[row] for row in range(len(file))]
    subjects = sorted({scan.subject for scan in scans})
    if "ids" in entry:
        known, subjects = subjects, list(entry["ids"])
        listed = any("subject" in name and value for part in (config, options) for name, value in part.items())
        assert subjects == sorted(set(subjects) & set(known)) if listed else subjects == known
    builder = SemantoksHDF5Builder(
        path,
        atlases=atlases,
        labels=label_names,
        roi_order=[f"roi-{row}" for row in range(len(scans[0].signals))],
        cache_dir=work / f"cache-{tag}",
    )
    builder.download_and_prepare()
    rows = builder.as_dataset(split="train").with_format("numpy")
    for number, subject in enumerate(subjects):
        candidates = [row for row, scan in enumerate(scans) if scan.subject == subject]
        starts_name, crops_name = f"{tag}.{number}.starts", f"{tag}.{number}.crops"
        starts = case.take(starts_name).tolist()
        expected = case.take(crops_name)
        matches = []
        for row in candidates:  # which scan of a subject was drawn is not stored
            signals, length = authors.published_recording(
                scans[row].signals, scans[row].length, source_t_r, target_t_r
            )
            crops = [authors.published_crop(signals, length, start, target) for start in starts]
            if any(crop.shape != tuple(expected.shape[1:]) for crop in crops):
                continue
            crops = np.stack(crops)
            error = np.abs(crops - expected.numpy())
            same = np.isnan(crops) == np.isnan(expected.numpy())
            if same.all() and np.nanmax(error, initial=0.0) < 2e-5:
                matches.append((row, length))
        if not matches:
            case.failures.append(f"{crops_name}: no scan of {subject} gives these crops")
            continue
        row, length = matches[0]
        if str(options.get("crop_starts", "")).startswith("regular"):
            last = max(length - target, 0)
            case.check(starts_name, regular_starts(last, n_crops), np.array(starts))
        assert all(0 <= start <= max(length - target, 0) for start in starts)
        for name, value in (entry["labels"][number] if entry.get("labels") else {}).items():
            ours, value = np.float64(rows[row][name.rsplit("/", 1)[-1]]), np.float64("nan" if value is None else value)
            if not np.array_equal(ours, value, equal_nan=True):
                case.failures.append(f"{tag}.{number}: label {name} is {ours}, expected {value}")
        # The authors' z-score looks behind `ts_len`, where our builder has cut.
        behind = scans[row].signals[:, recordings.measured_length(scans[row]) :]
        if target_t_r is None and length == recordings.measured_length(scans[row]) and np.isnan(behind).all():
            _check_extractor(case, rows[row], starts, expected, config)
    if "n" in entry:
        assert entry["n"] == len(subjects)
    if "shapes" in entry:
        shapes, n_rois = entry["shapes"], len(scans[0].signals)
        n_networks = sum(
            config.get(f"{name}_networks") or 1
            for name in ("schaefer", "tian", "buckner")
            if config.get(f"{name}_atlas")
        )
        if config.get("max_spatial"):
            n_networks = n_rois
        elif config.get("min_spatial"):
            n_networks = 1
        windows = (target - config["patch_size"]) // config["patch_size"] + 1
        ours = {"signal": [1, n_crops, [n_rois, target]], "mask": [n_crops, [n_networks, windows]]}
        for name, shape in shapes.items():
            if shape is not None and shape != ours[name]:
                case.failures.append(f"{tag}: shape of {name} is {ours[name]}, expected {shape}")


def _check_extractor(case: GoldenCase, row: Any, starts: list[int], expected: torch.Tensor, config: Any) -> None:
    from brain_transformers.processing.rows import unpack_row

    target, patch = config["target_signal_length"], config["patch_size"]
    signals, roi_order, t_r = unpack_row(row)
    if target % patch or not bool(torch.isfinite(expected).all()) or not np.isfinite(signals).all():
        return  # gaps of single parcels are filled, and windows are whole patches
    extractor = bt.ROISeriesFeatureExtractor(
        len(signals), target, patch, roi_order=roi_order, t_r=t_r, normalization="zscore"
    )
    for crop, start in enumerate(starts):
        inputs = extractor(signals, t_r=t_r, roi_order=roi_order, start=start)
        case.check(f"extractor, crop {crop}", inputs["signals"][0], expected[crop], atol=2e-5, rtol=1e-5)
        if signals.shape[1] < target:
            observed = inputs["attention_mask"].reshape(len(signals), target // patch)
            assert (observed == (np.arange(target // patch) < -(-signals.shape[1] // patch))).all()


KINDS = {
    "encoder": encoder,
    "container_from_training": container_from_training,
    "pretrain": pretrain,
    "masks": masks,
    "schedules": schedules,
    "downstream": downstream,
    "data_pipeline": data_pipeline,
}
