"""What holds for every registered model: saving, loading, attention implementations, precision, gradients."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from model_checks import CASES, KINDS, ModelCase, no_dropout, primary_output

import brain_transformers as bt
from brain_transformers.families import FAMILIES

AUTO = {
    "Model": AutoModel,
    "ForMaskedModeling": AutoModelForPreTraining,
    "ForSequenceClassification": AutoModelForSequenceClassification,
}

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_autoencoder = pytest.mark.parametrize("case", [case for case in CASES if case.reconstructs], ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS)


def run(model: Any, case: ModelCase, batch: int = 2, **kwargs: Any) -> Any:
    torch.manual_seed(3)  # heads that mask draw their noise here
    with torch.no_grad():
        return model(**case.inputs_of(model, batch), **kwargs)


def all_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and every buffer, persistent or not."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_every_registered_family_is_under_test() -> None:
    assert {case.config().model_type for case in CASES} == {family.model_type for family in FAMILIES}


@every_case
def test_config_survives_json(case: ModelCase, tmp_path: Path) -> None:
    name, value = case.changed
    config = case.config(**{name: value})
    assert getattr(case.config(), name) != value
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
    json.loads((tmp_path / "config.json").read_text())


@every_case
def test_config_refuses_wrong_values(case: ModelCase) -> None:
    for name, value, message in (
        ("hidden_size", "32", "hidden_size"),
        ("num_attention_heads", 5, "multiple"),
        (*case.wrong, case.wrong[0]),
        ("pooling", "attention", "pooling"),
    ):
        with pytest.raises(ValueError, match=message):
            case.config(**{name: value})


@every_case
@every_kind
def test_save_and_load_give_every_tensor_back(case: ModelCase, kind: str, tmp_path: Path) -> None:
    model = case.build(kind)
    with torch.no_grad():
        for buffer in model.buffers():  # tables that differ from what the code would compute
            if buffer.is_floating_point():
                buffer.add_(0.01 * torch.randn_like(buffer))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded, info = AUTO[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = all_tensors(model), all_tensors(loaded)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    torch.testing.assert_close(
        primary_output(run(loaded.eval(), case)), primary_output(run(model, case)), rtol=0, atol=0
    )


@every_case
def test_body_and_classifier_load_from_a_pretraining_checkpoint(case: ModelCase, tmp_path: Path) -> None:
    pretrained = case.build("ForMaskedModeling")
    pretrained.save_pretrained(tmp_path)
    body, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    reference = getattr(pretrained, pretrained.base_model_prefix)
    torch.testing.assert_close(
        run(body.eval(), case).pooler_output, run(reference, case).pooler_output, rtol=0, atol=0
    )
    classifier, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=4, output_loading_info=True
    )
    assert info["missing_keys"]
    assert all(key.startswith("classifier.") for key in info["missing_keys"])
    assert run(classifier.eval(), case).logits.shape == (2, 4)
    for tensor in all_tensors(classifier).values():
        assert bool(torch.isfinite(tensor).all())


@every_case
def test_loading_on_the_meta_device_leaves_no_garbage(case: ModelCase, tmp_path: Path) -> None:
    fresh = getattr(bt, f"{case.stem}ForMaskedModeling")(case.config())
    fresh.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path, device_map="cpu")
    for name, tensor in all_tensors(loaded).items():
        assert tensor.device.type == "cpu", name
        assert torch.equal(tensor, all_tensors(fresh)[name]), name


@every_case
def test_missing_weights_are_an_error(case: ModelCase, tmp_path: Path) -> None:
    model = case.build("ForMaskedModeling")
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    body = f"{model.base_model_prefix}."
    removed = next(name for name in sorted(weights) if name.startswith(body) and "layers.0." in name)
    del weights[removed]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing"):
        AutoModel.from_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, strict=False) is not None


@every_case
def test_unexpected_weights_are_an_error(case: ModelCase, tmp_path: Path) -> None:
    case.build("Model").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "layers.99.mlp.fc1.bias": torch.zeros(4)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not part of the model"):
        AutoModel.from_pretrained(tmp_path)


@every_case
def test_a_truncated_file_is_one_clear_error(case: ModelCase, tmp_path: Path) -> None:
    case.build("Model").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(OSError, match="truncated or corrupt"):
        AutoModel.from_pretrained(tmp_path)


@every_case
def test_the_folder_of_another_family_is_refused(case: ModelCase, tmp_path: Path) -> None:
    case.build("Model").save_pretrained(tmp_path)
    other = next(other for other in CASES if other.stem != case.stem)
    with pytest.raises(ValueError, match="model_type"):
        getattr(bt, f"{other.stem}Model").from_pretrained(tmp_path)


@every_case
@every_kind
def test_fused_attention_equals_the_plain_one(case: ModelCase, kind: str) -> None:
    model = case.build(kind, attn_implementation="eager")
    expected = primary_output(run(model, case))
    for implementation in ("sdpa", "flex_attention"):
        model.set_attn_implementation(implementation)
        torch.testing.assert_close(primary_output(run(model, case)), expected, rtol=1e-4, atol=2e-5)


@every_case
def test_attention_implementations_agree_with_padding(case: ModelCase) -> None:
    assert case.attention_mask is not None
    model = case.build("Model", attn_implementation="eager")
    mask = case.attention_mask(2)
    expected = run(model, case, attention_mask=mask).last_hidden_state
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(run(model, case, attention_mask=mask).last_hidden_state, expected, rtol=1e-4, atol=2e-5)


@every_case
def test_padding_does_not_change_what_was_observed(case: ModelCase) -> None:
    assert case.attention_mask is not None
    mask = case.attention_mask(3)
    body = case.build("Model")
    outputs = run(body, case, 3, attention_mask=mask)
    if case.has_cls:
        with_cls = torch.cat([torch.ones(3, 1), mask], dim=1)
        torch.testing.assert_close(
            run(body, case, 3, attention_mask=with_cls).pooler_output, outputs.pooler_output, rtol=0, atol=0
        )
    if case.keeps_padding:
        hidden = body(**case.make_inputs(3), bool_masked_pos=outputs.token_mask.bool())
        torch.testing.assert_close(outputs.last_hidden_state, hidden.last_hidden_state, rtol=0, atol=0)
        of_rois = body.roi_tokens(torch.cat([outputs.token_mask[:, :1], outputs.token_mask], dim=1)[..., None])
        assert torch.equal(of_rois.flatten(1), 1 - mask)
    elif not case.passes_padding and case.reads is None:
        assert bool((case.tokens(outputs.last_hidden_state)[mask == 0] == 0).all())
    # What stands in the padding is of no account.
    inputs = case.make_inputs(3)
    in_padding = case.in_padding(inputs, mask)
    if in_padding is not None:
        main = body.main_input_name
        inputs[main] = torch.where(in_padding, 1e4, inputs[main])
        with torch.no_grad():
            changed = body(**inputs, attention_mask=mask)
        observed = slice(None) if not case.passes_padding else mask == 1
        torch.testing.assert_close(
            case.tokens(changed.last_hidden_state)[observed],
            case.tokens(outputs.last_hidden_state)[observed],
            rtol=0,
            atol=0,
        )
    # A batch of one gives the same as its row of a padded batch.
    inputs = {name: value[:1] for name, value in case.make_inputs(3).items()}
    with torch.no_grad():
        alone = body(**inputs, attention_mask=mask[:1])
    torch.testing.assert_close(alone.last_hidden_state, outputs.last_hidden_state[:1], rtol=1e-4, atol=1e-5)


@every_case
def test_all_ones_mask_equals_no_mask(case: ModelCase) -> None:
    assert case.attention_mask is not None
    mask = torch.ones_like(case.attention_mask(2))
    for kind in ("Model", "ForMaskedModeling"):
        model = case.build(kind)
        torch.testing.assert_close(
            primary_output(run(model, case, attention_mask=case.mask_of(model, mask))),
            primary_output(run(model, case)),
            rtol=1e-4,
            atol=1e-5,
        )


@every_case
def test_features_are_deterministic_and_complete(case: ModelCase) -> None:
    body = case.build("Model")
    first, second = run(body, case), run(body, case)
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert first.token_mask is None
    if not case.has_rois:
        with pytest.raises(ValueError, match="no tokens of single ROIs"):
            body.roi_tokens(first.last_hidden_state)
        return
    tokens = body.roi_tokens(first.last_hidden_state)
    assert tokens.shape[:2] == case.make_inputs(2)["signals"].shape[:2]
    assert tokens.shape[3] == body.config.hidden_size


@every_case
def test_hidden_states_and_attentions_on_request(case: ModelCase) -> None:
    body = case.build("Model", attn_implementation="eager")
    output = run(body, case, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == body.config.num_hidden_layers + 1
    assert len(output.attentions) == getattr(body.config, case.attention_layers)
    last = output.hidden_states[-1] if case.reads is None else case.reads(output.hidden_states[-1])
    normed = last if case.final_norm is None else getattr(body, case.final_norm)(last)
    torch.testing.assert_close(normed, output.last_hidden_state, rtol=0, atol=0)
    plain = run(body, case)
    assert plain.hidden_states is None
    assert plain.attentions is None
    as_tuple = run(body, case, return_dict=False)
    assert torch.equal(as_tuple[0], plain.last_hidden_state)
    torch.testing.assert_close(plain.last_hidden_state, output.last_hidden_state, rtol=1e-4, atol=1e-5)


@every_case
@pytest.mark.parametrize("kind", ["ForMaskedModeling", "ForSequenceClassification"])
def test_gradients_reach_every_parameter(case: ModelCase, kind: str) -> None:
    model = case.build(kind).train()
    labels = {"labels": torch.tensor([0, 2])} if kind == "ForSequenceClassification" else {}
    loss = model(**case.inputs_of(model, 2), **labels).loss
    loss.backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, p in trainable.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert not set(without) - (set(case.only_when_masked) if kind == "ForSequenceClassification" else set())
    # Frozen is only what a head says is frozen: the released network of a teacher and student.
    frozen = model.num_parameters() - model.num_parameters(only_trainable=True)
    parts = case.frozen if kind == "ForMaskedModeling" else ()
    assert frozen == sum(p.numel() for part in parts for p in getattr(model, part).parameters())


@pytest.mark.parametrize("case", [case for case in CASES if case.frozen], ids=str)
def test_a_moving_average_starts_as_a_copy_and_moves_only_when_it_is_told(case: ModelCase, tmp_path: Path) -> None:
    fresh = getattr(bt, f"{case.stem}ForMaskedModeling")(case.config())
    for average, trained in fresh.averages():
        theirs = all_tensors(trained)
        for name, tensor in all_tensors(average).items():
            assert torch.equal(tensor, theirs[name]), name
            assert not tensor.numel() or tensor.data_ptr() != theirs[name].data_ptr(), name
    case.build("ForMaskedModeling").save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path).train()
    model(**case.inputs_of(model, 2)).loss.backward()
    for average, trained in model.averages():
        assert not average.training
        assert trained.training
        assert not [p for p in average.parameters() if p.requires_grad or p.grad is not None]
        assert all(p.requires_grad for p in trained.parameters())
    before = [{name: p.clone() for name, p in average.named_parameters()} for average, _ in model.averages()]
    model.update_moving_average(0.75)
    for (average, trained), old in zip(model.averages(), before):
        for name, parameter in trained.named_parameters():
            expected = 0.75 * old[name] + 0.25 * parameter
            torch.testing.assert_close(average.get_parameter(name), expected, rtol=1e-6, atol=1e-7)


@every_case
def test_activation_checkpointing_changes_nothing(case: ModelCase) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = case.build("ForMaskedModeling", **no_dropout(case)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        model(**case.inputs_of(model, 2)).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[1][name], gradients[0][name], rtol=1e-5, atol=1e-7)


@every_case
@every_kind
def test_bfloat16_runs_and_stays_close(case: ModelCase, kind: str, tmp_path: Path) -> None:
    model = case.build(kind)
    model.save_pretrained(tmp_path)
    half = AUTO[kind].from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    expected, actual = primary_output(run(model, case)), primary_output(run(half, case))
    assert actual.dtype == torch.bfloat16
    relative = (actual.float() - expected).norm() / expected.norm()
    assert float(relative) < 0.05


@every_case
def test_compiles_as_one_graph(case: ModelCase) -> None:
    torch.compiler.reset()  # what all families share counts against one limit of recompilations in a process
    body = case.build("Model")
    compiled = torch.compile(body, fullgraph=True, backend="eager")
    assert case.attention_mask is not None
    for mask in (None, case.attention_mask(2)):
        expected = run(body, case, attention_mask=mask).last_hidden_state
        actual = run(compiled, case, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@every_case
@pytest.mark.parametrize(
    ("kind", "padded"), [("Model", True), ("ForMaskedModeling", False), ("ForSequenceClassification", False)]
)
@pytest.mark.filterwarnings("ignore")
def test_exports_as_one_program(case: ModelCase, kind: str, padded: bool) -> None:
    model = case.build(kind)
    inputs = {**case.inputs_of(model, 2), "return_dict": True}
    if padded:
        assert case.attention_mask is not None
        inputs["attention_mask"] = case.mask_of(model, case.attention_mask(2)).contiguous()
    if kind == "ForMaskedModeling" and case.reconstructs:
        inputs["noise"] = torch.rand(2, run(model, case).token_mask.shape[1])
    elif kind == "ForMaskedModeling":
        assert case.make_masks is not None
        inputs |= case.make_masks(2)
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, strict=False)
        actual, expected = program.module()(**inputs), model(**inputs)
    torch.testing.assert_close(primary_output(actual), primary_output(expected), rtol=1e-4, atol=3e-5)
    if kind == "ForMaskedModeling":
        torch.testing.assert_close(actual.loss, expected.loss, rtol=1e-4, atol=1e-5)
    # Converters to ONNX know minima and maxima along an axis only.
    whole = [node for node in program.graph.nodes if str(node.target) in ("aten.min.default", "aten.max.default")]
    without_axis = [
        node for node in program.graph.nodes if ".amin." in str(node.target) or ".amax." in str(node.target)
    ]
    assert not whole
    assert all(len(node.args) > 1 and node.args[1] for node in without_axis)


@every_autoencoder
def test_noise_and_mask_ratio_decide_the_mask(case: ModelCase) -> None:
    model = case.build("ForMaskedModeling")
    inputs = case.make_inputs(2)
    n_tokens = run(model, case).token_mask.shape[1]
    noise = torch.rand(2, n_tokens, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        first, second = (model(**inputs, noise=noise, mask_ratio=0.5) for _ in range(2))
        none = model(**inputs, mask_ratio=0.0)
    assert torch.equal(first.token_mask, second.token_mask)
    assert torch.equal(first.loss, second.loss)
    hidden = first.token_mask.bool()
    assert int(hidden.sum(1)[0]) == n_tokens - int(n_tokens * 0.5)
    for row in range(2):
        assert float(noise[row][hidden[row]].min()) > float(noise[row][~hidden[row]].max())
    assert none.loss is None
    assert not bool(none.token_mask.any()) if none.token_mask is not None else True


@every_autoencoder
def test_masked_modeling_fields_have_the_shape_of_the_signal(case: ModelCase) -> None:
    model = case.build("ForMaskedModeling")
    output = run(model, case, mask_ratio=0.5)
    shape = case.make_inputs(2)[model.main_input_name].shape
    for name in ("predictions", "targets", "signal_mask"):
        assert getattr(output, name).shape == shape, name
    error = (output.predictions - output.targets).square()
    expected = (error * output.signal_mask).sum() / output.signal_mask.sum()
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)


@every_autoencoder
def test_hidden_signal_cannot_leak_into_the_prediction(case: ModelCase) -> None:
    model = case.build("ForMaskedModeling")
    inputs = case.make_inputs(1)
    n_tokens = run(model, case, 1).token_mask.shape[1]
    noise = torch.rand(1, n_tokens, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        first = model(**inputs, noise=noise, mask_ratio=0.5)
        main = model.main_input_name
        changed = {**inputs, main: torch.where(first.signal_mask.bool(), 100.0, inputs[main])}
        second = model(**changed, noise=noise, mask_ratio=0.5)
    assert bool(first.signal_mask.any())
    torch.testing.assert_close(first.predictions, second.predictions, rtol=0, atol=0)


@every_case
@pytest.mark.parametrize(
    ("problem", "num_labels", "labels"),
    [
        ("regression", 1, torch.tensor([0.3, -1.2])),
        ("single_label_classification", 3, torch.tensor([2, 0])),
        ("multi_label_classification", 3, torch.tensor([[1.0, 0, 1], [0, 0, 1]])),
    ],
)
def test_classification_losses(case: ModelCase, problem: str, num_labels: int, labels: torch.Tensor) -> None:
    model = case.build("ForSequenceClassification", num_labels=num_labels)
    output = run(model, case, labels=labels)
    assert output.logits.shape == (2, num_labels)
    assert model.config.problem_type == problem
    functional = torch.nn.functional
    expected = {
        "regression": lambda: functional.mse_loss(output.logits.squeeze(), labels),
        "single_label_classification": lambda: functional.cross_entropy(output.logits, labels),
        "multi_label_classification": lambda: functional.binary_cross_entropy_with_logits(output.logits, labels),
    }[problem]()
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("case", "pooling"), [(case, name) for case in CASES for name in case.poolings], ids=lambda value: str(value)
)
def test_pooling_is_a_config_field(case: ModelCase, pooling: str) -> None:
    body = case.build("Model", pooling=pooling)
    output = run(body, case)
    torch.testing.assert_close(output.pooler_output, case.poolings[pooling](output.last_hidden_state))


@every_case
def test_wrong_inputs_are_one_clear_error(case: ModelCase) -> None:
    body = case.build("Model")
    inputs = case.make_inputs(2)
    main = body.main_input_name
    scans = inputs[main]
    rest = {name: value for name, value in inputs.items() if name != main}
    for message, wrong in case.wrong_scans(scans).items():
        with pytest.raises(ValueError, match=message):
            body(**{main: wrong}, **rest)
    if case.reconstructs:
        with pytest.raises(ValueError, match="noise"):
            body(**inputs, noise=torch.rand(2, 5))
        for share in (2.0, 1.0, -0.5, float("nan")):
            with pytest.raises(ValueError, match="mask_ratio must be"):
                body(**inputs, mask_ratio=share)
    with pytest.raises(ValueError, match="attention_mask"):
        body(**inputs, attention_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="attention_mask must be a tensor"):
        body(**inputs, attention_mask=torch.ones(2, 5).numpy())
    with pytest.raises(ValueError, match=f"{main} must be a tensor, got ndarray"):
        body(**{main: scans.numpy()}, **rest)
    with pytest.raises(ValueError, match="at least one sample"):
        body(**{main: scans[:0]}, **rest)


@every_case
@pytest.mark.parametrize(
    ("num_labels", "labels", "message"),
    [
        (3, torch.tensor([0, 7]), "from 0 to 2, got 7"),
        (3, torch.tensor([0, -1]), "from 0 to 2, got -1"),
        (3, torch.tensor([0, 1, 2]), "labels must be class ids"),
        (3, torch.tensor([0.0, 1.0]), "labels must be numbers of shape"),
        (1, torch.tensor([0.5]), "labels must be numbers of shape"),  # one number would be spread over two samples
    ],
)
def test_wrong_labels_are_one_clear_error(
    case: ModelCase, num_labels: int, labels: torch.Tensor, message: str
) -> None:
    model = case.build("ForSequenceClassification", num_labels=num_labels)
    with pytest.raises(ValueError, match=message):
        run(model, case, labels=labels)


@every_case
def test_accumulated_gradients_equal_one_batch(case: ModelCase, tmp_path: Path) -> None:
    """The Trainer must not scale our losses as if they counted items (a factor of the accumulation steps)."""
    inputs = case.make_inputs(4)
    rows = [{**{k: v[i] for k, v in inputs.items()}, "labels": torch.tensor(float(i))} for i in range(4)]
    weights = []
    for batch, accumulation in ((4, 1), (1, 4)):
        model = case.build("ForSequenceClassification", num_labels=1, **no_dropout(case))
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(batch)),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=copy.deepcopy(rows))
        trainer.train()
        weights.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-6)


def layers_of(model: Any) -> dict[str, torch.nn.Module]:
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


@every_case
@every_kind
def test_every_layer_is_called_once_it_has_a_hook(case: ModelCase, kind: str) -> None:
    model = case.build(kind)
    expected = primary_output(run(model, case))
    layers, called = layers_of(model), set()
    for name, layer in layers.items():
        layer.register_forward_hook(lambda module, inputs, output, name=name: called.add(name))
    torch.testing.assert_close(primary_output(run(model, case)), expected, rtol=1e-4, atol=2e-5)
    assert called == set(layers)


@every_case
def test_adapters_on_every_layer_learn_and_start_where_the_model_was(case: ModelCase) -> None:
    from peft import LoraConfig, get_peft_model

    model = case.build("ForSequenceClassification", **no_dropout(case))
    targets = [name for name in layers_of(model) if not name.startswith("classifier")]
    expected = run(model, case).pooler_output
    pissa = LoraConfig(r=2, target_modules="all-linear", init_lora_weights="pissa")
    moved = get_peft_model(copy.deepcopy(model), pissa).eval()
    torch.testing.assert_close(run(moved, case).pooler_output, expected, rtol=1e-4, atol=1e-4)
    for options in ({}, {"use_dora": True}):
        config = LoraConfig(r=2, target_modules=targets, modules_to_save=["classifier"], **options)
        adapted = get_peft_model(copy.deepcopy(model), config)
        torch.testing.assert_close(run(adapted.eval(), case).pooler_output, expected, rtol=1e-4, atol=1e-4)
        adapted(**case.make_inputs(2), labels=torch.tensor([0, 2])).loss.backward()
        weights = {name: p for name, p in adapted.named_parameters() if ".lora_" in name}
        assert len({name.split(".lora_")[0] for name in weights}) == len(targets)
        assert not [name for name, p in weights.items() if p.grad is None]


@every_case
def test_what_an_adapter_on_any_linear_layer_adds_counts(case: ModelCase) -> None:
    """Also where a faster formulation takes weights together: none may pass an adapter by."""
    from peft import LoraConfig, get_peft_model

    model = case.build("ForSequenceClassification", **no_dropout(case))
    linear = {name for name, module in layers_of(model).items() if isinstance(module, torch.nn.Linear)}
    config = LoraConfig(r=2, target_modules="all-linear", modules_to_save=["classifier"], init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if hasattr(module, "lora_B")
    }
    assert layers.keys() == {name for name in linear if not name.startswith("classifier")}
    whole = run(adapted, case).logits
    for name, layer in layers.items():
        scale, layer.scaling["default"] = layer.scaling["default"], 0.0
        assert float((run(adapted, case).logits - whole).abs().max()) > 1e-6, name
        layer.scaling["default"] = scale
    labels = torch.tensor([0, 2])
    adapted.train()
    loss = adapted(**case.make_inputs(2), labels=labels).loss
    loss.backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert not [name for name, p in trained.items() if p.grad is None or not bool(p.grad.any())]
    torch.optim.SGD(trained.values(), lr=1e-3).step()
    after = adapted(**case.make_inputs(2), labels=labels).loss
    assert float(after.detach()) < float(loss.detach())
    assert float((run(adapted.eval(), case).logits - whole).abs().max()) > 1e-5


@every_case
@pytest.mark.parametrize("kind", ["ForMaskedModeling", "ForSequenceClassification"])
def test_adapters_learn_with_reentrant_checkpointing(case: ModelCase, kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = case.build(kind, **no_dropout(case))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    targets = [name for name in layers_of(model) if name.endswith("qkv") and not name.startswith(case.frozen or "-")]
    if kind == "ForSequenceClassification":
        targets = [name for name in layers_of(model) if name.endswith("qkv")]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets)).train()
    labels = {"labels": torch.tensor([0, 2])} if kind == "ForSequenceClassification" else {}
    adapted(**case.inputs_of(model, 2), **labels).loss.backward()
    weights = {name: p for name, p in adapted.named_parameters() if ".lora_" in name}
    assert weights
    assert not [name for name, p in weights.items() if p.grad is None]


@every_case
@every_kind
def test_input_embeddings_are_those_that_are_trained(case: ModelCase, kind: str) -> None:
    model = case.build(kind)
    embeddings = model.get_input_embeddings()
    assert all(parameter.requires_grad for parameter in embeddings.parameters())
    other = copy.deepcopy(embeddings)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    assert other in set(model.modules())


@every_case
@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_quantisation_reaches_every_linear_layer(case: ModelCase, kind: str) -> None:
    model = case.build(kind)
    expected = primary_output(run(model, case))
    linear = [name for name, module in layers_of(model).items() if isinstance(module, torch.nn.Linear)]
    small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert not [name for name in linear if isinstance(small.get_submodule(name), torch.nn.Linear)]
    actual = primary_output(run(small, case))
    error = float((actual - expected).norm() / expected.norm())
    assert error < 0.3  # BrainLM's coordinates, in millimetres, lose the most to eight bits


@every_case
@every_kind
def test_a_model_and_its_parts_have_one_configuration_of_their_own(case: ModelCase, kind: str) -> None:
    config = case.config()
    first, second = (getattr(bt, f"{case.stem}{kind}")(config) for _ in range(2))
    for model in (first, second, copy.deepcopy(first)):
        assert {id(part.config) for part in model.modules() if hasattr(part, "config")} == {id(model.config)}
    assert first.config is not second.config
    first.set_attn_implementation("eager")
    assert second.config._attn_implementation == "sdpa"


@every_case
@every_kind
def test_a_sample_without_observed_tokens_is_named(case: ModelCase, kind: str) -> None:
    assert case.attention_mask is not None
    model = case.build(kind)
    mask = case.attention_mask(3)
    mask[1] = 0
    with pytest.raises(ValueError, match=r"observed token.*row \d"):
        run(model, case, 3, attention_mask=case.mask_of(model, mask))


@every_case
@every_kind
def test_a_configuration_can_ask_for_tuples(case: ModelCase, kind: str) -> None:
    model = case.build(kind)
    expected = run(model, case).to_tuple()
    model.config.return_dict = False
    actual = run(model, case)
    assert type(actual) is tuple
    torch.testing.assert_close(actual[0], expected[0], rtol=0, atol=0)
