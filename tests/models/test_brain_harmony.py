"""What only BrainHarmony has: hub tokens, padding that is left out, a bottleneck, and two ways to a head."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

import brain_transformers as bt
from brain_transformers.hub.registry import MODELS
from brain_transformers.models.brain_harmony.modeling_brain_harmony import _warn_of_one_modality
from brain_transformers.training.finetuning.new_head import load_with_new_head


def tiny(kind: str = "Model", **overrides):
    torch.manual_seed(0)
    model = getattr(bt, f"BrainHarmony{kind}")(bt.load_config("brain-harmony-tiny", **overrides))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 42, 24, generator=torch.Generator().manual_seed(2))


def padding() -> torch.Tensor:
    """Of 6 parcels and 5 patches: two, four and all of them observed."""
    mask = torch.ones(3, 6, 5, dtype=torch.long)
    mask[0, :, 2:] = 0
    mask[1, :, 4:] = 0
    return mask.flatten(1)


def test_the_base_model_has_the_number_of_parameters_of_the_authors_code() -> None:
    with torch.device("meta"):
        model = bt.BrainHarmonyForMaskedModeling(bt.load_config("brain-harmony-base"))
    assert model.brain_harmony.num_parameters() == MODELS["brain-harmony-base"].parameters
    assert model.num_parameters() == MODELS["brain-harmony-base"].trained_parameters == 111_327_232


def test_padded_tokens_are_left_out_and_change_nothing() -> None:
    body, mask = tiny(), padding()
    seen: list[tuple[int, ...]] = []
    body.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[:2])))
    body.layers[1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[:2])))
    with torch.no_grad():
        short = body(tokens(), mask)
        of_layers = list(seen)
        whole = body(tokens(), mask, output_hidden_states=True)
    # CLS, 12 + 12 (24 + 12, 30 + 12) tokens and 7 hub tokens, all in one sequence; then CLS and hub tokens.
    assert of_layers == [(1, 32 + 44 + 50), (1, 3 * 8)]
    assert seen[len(of_layers) :] == [(3, 50), (3, 50)]
    assert [state.shape[1] for state in whole.hidden_states] == [50, 50, 50]
    torch.testing.assert_close(short.last_hidden_state, whole.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_a_group_of_one_length_keeps_the_order_of_the_batch() -> None:
    body = tiny()
    mask = padding()[[0, 1, 0]]
    with torch.no_grad():
        together = body(tokens(), mask).pooler_output
        alone = torch.cat([body(tokens()[i : i + 1], mask[i : i + 1]).pooler_output for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_mask_over_all_tokens_leaves_out_a_missing_volume() -> None:
    body = tiny()
    whole = torch.ones(3, 42)
    whole[1:, 30:] = 0
    other = tokens()
    other[1:, 30:] = 99.0
    with torch.no_grad():
        with_t1, without, changed = body(tokens()), body(tokens(), whole), body(other, whole)
    torch.testing.assert_close(without.pooler_output[0], with_t1.pooler_output[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(without.pooler_output[1], with_t1.pooler_output[1], atol=1e-3)
    assert torch.equal(without.pooler_output, changed.pooler_output)


def test_loss_counts_padded_tokens_unless_they_are_left_out() -> None:
    mask, observed = padding(), torch.nn.functional.pad(padding(), (0, 12), value=1).bool()
    with torch.no_grad():
        output = tiny("ForMaskedModeling")(tokens(), mask)
        without = tiny("ForMaskedModeling", loss_on_padding=False)(tokens(), mask)
    errors = (output.predictions - output.targets) ** 2
    torch.testing.assert_close(output.loss, errors.mean())
    torch.testing.assert_close(without.loss, errors[observed].mean())
    assert torch.equal(without.signal_mask[:, :, 0].bool(), observed)
    torch.testing.assert_close(output.targets.std(2), torch.ones(3, 42), rtol=1e-4, atol=1e-4)
    raw = tiny("ForMaskedModeling", norm_pix_loss=False)
    with torch.no_grad():
        assert torch.equal(raw(tokens()).targets, tokens())


def test_decoder_sees_nothing_but_hub_tokens() -> None:
    model = tiny("ForMaskedModeling")
    latent = torch.randn(2, 8, 32)
    with torch.no_grad():
        short, none = model.decoder(latent)
        whole, states = model.decoder(latent, output_hidden_states=True)
    assert none is None
    assert [state.shape for state in states] == [(2, 50, 16)] * 3
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-5)
    assert short.shape == (2, 42, 24)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_head_on_hub_tokens_reads_them_before_the_norm_of_pretraining(pooling: str, tmp_path: Path) -> None:
    pretrained = tiny("ForMaskedModeling")
    pretrained.save_pretrained(tmp_path / "stage1")
    options = {"num_labels": 3, "pooling": pooling}
    model, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "stage1", **options, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    with torch.no_grad():
        states = pretrained.brain_harmony(tokens(), output_hidden_states=True).hidden_states[-1]
        features = model.eval()(tokens()).pooler_output
        if pooling == "mean":
            expected = torch.nn.functional.layer_norm(states[:, -7:].mean(1), (32,), eps=1e-6)
        else:
            expected = pretrained.brain_harmony.layernorm(states[:, 0])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    # A fine-tuned folder loads whole, as its body too; so does a new head on a body that has the norm.
    model.save_pretrained(tmp_path / "stage2")
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stage2", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert AutoModel.from_pretrained(tmp_path / "stage2").config.final_norm is (pooling == "cls")
    new = load_with_new_head(str(tmp_path / "stage1"), options)
    with torch.no_grad():
        torch.testing.assert_close(new.eval()(tokens()).pooler_output, features, rtol=1e-4, atol=1e-5)


def test_head_starts_near_zero_and_the_mlp_is_its_own() -> None:
    linear = bt.BrainHarmonyForSequenceClassification(bt.load_config("brain-harmony-tiny", num_labels=50))
    weight = linear.classifier.layers.output.weight
    assert 1.5e-5 < float(weight.detach().std()) < 2.5e-5
    mlp = tiny("ForSequenceClassification", classifier_head="mlp", num_labels=1, classifier_hidden_size=5)
    shapes = [tuple(module.weight.shape) for module in mlp.classifier.layers if isinstance(module, torch.nn.Linear)]
    assert shapes == [(5, 32), (5, 5), (1, 5)]


def test_labels_are_smoothed_in_training_alone_and_may_be_shares() -> None:
    model = tiny("ForSequenceClassification", num_labels=3, label_smoothing=0.1)
    model.config.problem_type = "single_label_classification"
    labels = torch.tensor([0, 2, 1])
    cross_entropy = torch.nn.functional.cross_entropy
    for training in (True, False):
        output = model.train(training)(tokens(), labels=labels)
        expected = cross_entropy(output.logits, labels, label_smoothing=0.1 if training else 0.0)
        torch.testing.assert_close(output.loss, expected)
    shares = torch.tensor([[0.3, 0.7, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    output = model(tokens(), labels=shares)
    torch.testing.assert_close(output.loss, cross_entropy(output.logits, shares))


def test_a_model_of_fmri_alone() -> None:
    body = tiny(n_t1_tokens=0)
    with torch.no_grad():
        assert body(tokens()[:, :30], padding()).pooler_output.shape == (3, 32)


# --- the model that holds its encoders ---


def encoders() -> tuple[Any, Any]:
    torch.manual_seed(3)
    fmri = bt.HarmonixFModel(bt.load_config("harmonix-f-tiny"))
    t1 = bt.HarmonixSModel(bt.load_config("harmonix-s-tiny"))
    return fmri.eval(), t1.eval()


def composed(kind: str = "Model", **overrides: Any) -> Any:
    fmri, t1 = encoders()
    sizes = {"n_fmri_tokens": 60, "n_t1_tokens": 150, "input_size": 32}
    model = tiny(kind, **sizes, **overrides)
    model.set_encoders(fmri, t1)
    return model


def scans(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        "signals": torch.randn(batch, 12, 40, generator=generator),
        "t1_volumes": torch.randn(batch, 1, 20, 24, 20, generator=generator),
    }


def test_a_pair_goes_through_the_frozen_encoders_and_the_fusion() -> None:
    model, (fmri, t1) = composed(), encoders()
    mask = torch.ones(2, 12, 5, dtype=torch.long)
    mask[0, :, 3:] = 0
    mask = mask.flatten(1)
    with torch.no_grad():
        joined = torch.cat(
            [
                fmri(scans()["signals"], attention_mask=mask).last_hidden_state,
                t1(scans()["t1_volumes"]).last_hidden_state[:, 1:],
            ],
            dim=1,
        )
        expected = model(joined, mask).last_hidden_state
        torch.testing.assert_close(model(**scans(), attention_mask=mask).last_hidden_state, expected)
        # Another repetition time brings another length of patches.
        other = torch.nn.functional.interpolate(scans()["signals"], size=20)
        assert model(signals=other, t1_volumes=scans()["t1_volumes"], patch_size=4).pooler_output.shape == (2, 32)


def test_one_folder_holds_it_whole_and_encoders_stay_as_they_are(tmp_path: Path) -> None:
    model = composed("ForSequenceClassification", num_labels=3)
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" in content
    assert not [name for name in ("fmri_config", "t1_config") if "auto_map" in content[name]]
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(loaded(**scans()).logits, model(**scans()).logits, rtol=0, atol=0)
    for some in (model, loaded):
        some.train()
        some(**scans(), labels=torch.tensor([0, 2])).loss.backward()
        body = some.brain_harmony
        for encoder in (body.fmri_encoder, body.t1_encoder):
            assert not encoder.training
            assert not [p for p in encoder.parameters() if p.requires_grad or p.grad is not None]
        trained = {name: p for name, p in some.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in trained.values())
        assert not [name for name in trained if "encoder." in name]
        assert some.config.fmri_config is body.fmri_encoder.config
    assert AutoModel.from_pretrained(tmp_path).fmri_encoder is not None


def test_nested_configurations_take_no_code_from_a_file(tmp_path: Path) -> None:
    composed().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["fmri_config"] |= {"auto_map": {"AutoModel": "evil.Model"}, "attn_implementation": "org/kernel"}
    content["t1_config"] |= {"trust_remote_code": True, "_attn_implementation": "org/kernel"}
    path.write_text(json.dumps(content))
    model = AutoModel.from_pretrained(tmp_path)
    for part in (model.config.fmri_config, model.config.t1_config):
        assert part._attn_implementation == "sdpa"
        assert not hasattr(part, "trust_remote_code")
        assert getattr(part, "auto_map", None) is None
    content["t1_config"]["model_type"] = "bert"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="t1_config"):
        AutoModel.from_pretrained(tmp_path)


def test_one_modality_alone_is_told_once() -> None:
    _warn_of_one_modality.cache_clear()
    model = composed()
    with pytest.warns(UserWarning, match="T1 is missing"):
        model(signals=scans()["signals"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(signals=scans()["signals"])
        model(**scans())


def test_what_is_missing_is_masked_out() -> None:
    model = composed()
    whole = torch.ones(2, 210, dtype=torch.long)
    whole[1, 60:] = 0
    with torch.no_grad():
        both, fmri = model(**scans()), model(signals=scans()["signals"])
        t1 = model(t1_volumes=scans()["t1_volumes"])
        mixed = model(**scans(), attention_mask=whole)
        whole[1] = 1 - whole[1]
        turned = model(**scans(), attention_mask=whole)
    torch.testing.assert_close(mixed.pooler_output[0], both.pooler_output[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed.pooler_output[1], fmri.pooler_output[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.pooler_output[1], t1.pooler_output[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both.pooler_output, fmri.pooler_output, atol=1e-3)


def test_what_is_missing_does_not_count_in_the_loss() -> None:
    model = composed("ForMaskedModeling")
    with torch.no_grad():
        output = model(signals=scans()["signals"])
        tokens_of_fmri = model.brain_harmony.fmri_encoder(scans()["signals"]).last_hidden_state
    assert output.signal_mask[:, :60].all()
    assert not output.signal_mask[:, 60:].any()
    torch.testing.assert_close(
        output.targets[:, :60], torch.nn.functional.layer_norm(tokens_of_fmri, (32,)), rtol=0.05, atol=0.01
    )


def test_wrong_pairs_are_one_clear_error() -> None:
    model = composed()
    with pytest.raises(ValueError, match="got none of them"):
        model()
    with pytest.raises(ValueError, match="not both"):
        model(torch.zeros(2, 210, 32), signals=scans()["signals"])
    with pytest.raises(ValueError, match="5 patches of patch_size frames"):
        model(signals=scans()["signals"][:, :, :24])
    with pytest.raises(ValueError, match="holds no encoder for signals"):
        tiny()(signals=scans()["signals"])
    with pytest.raises(ValueError, match="30 tokens of 24 numbers, got 60 of 32"):
        tiny().set_encoders(encoders()[0])
