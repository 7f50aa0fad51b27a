"""What only Harmonix-F has: patches of any length, two tables of the parcels, padding that passes through."""

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.data.row_randomness import EPOCH, ROW_INDEX, BatchNumbers
from brain_transformers.hub.registry import MODELS
from brain_transformers.models.harmonix_f.modeling_harmonix_f import resizing_matrices


def tiny(kind: str = "Model", **overrides):
    torch.manual_seed(0)
    model = getattr(bt, f"HarmonixF{kind}")(bt.load_config("harmonix-f-tiny", **overrides))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def scans(n_timepoints: int = 40, batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 12, n_timepoints, generator=torch.Generator().manual_seed(2))


def padding(*n_observed: int) -> torch.Tensor:
    return (torch.arange(5)[None] < torch.tensor(n_observed)[:, None])[:, None].expand(-1, 12, -1).flatten(1).long()


def test_the_named_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = bt.HarmonixFForMaskedModeling(bt.load_config("harmonix-f-base"))
    entry = MODELS["harmonix-f-base"]
    # The authors count 89,403,840 with the fixed tables and the predictor's half of the positions.
    tables = 7200 * (384 + 192)
    assert model.harmonix_f.num_parameters() == entry.parameters == 89_403_840 - tables - (192 * 384 + 192)
    assert model.num_parameters(only_trainable=True) == entry.trained_parameters == 96_495_552


def test_a_new_model_has_the_tables_of_this_package_in_one_order() -> None:
    model = bt.HarmonixFModel(bt.load_config("harmonix-f-tiny"))
    assert "brain-transformers" in model.config.gradient_source
    assert "brain-transformers" in model.config.harmonics_source
    assert float(model.harmonics[:, 1].std()) > 0
    reversed_order = list(reversed(model.config.roi_order))
    other = bt.HarmonixFModel(bt.load_config("harmonix-f-tiny", roi_order=reversed_order))
    assert torch.equal(other.gradients, model.gradients.flip(0))
    assert torch.equal(other.harmonics, model.harmonics.flip(0))
    unknown = bt.HarmonixFModel(bt.load_config("harmonix-f-tiny", roi_order=None))
    with pytest.raises(ValueError, match="no gradients for its 12 ROIs"):
        unknown(scans())
    unknown.set_table("gradients", model.gradients, "a test")
    with pytest.raises(ValueError, match="no harmonics"):
        unknown(scans())
    unknown.set_table("harmonics", model.harmonics, "a test")
    assert unknown(scans()).pooler_output.shape == (3, 32)


def test_one_batch_may_mix_lengths_of_patches() -> None:
    model = tiny()
    sizes, lengths = (4, 8, 11), (20, 40, 55)
    signals = torch.zeros(3, 12, 55)
    for row, length in enumerate(lengths):
        signals[row, :, :length] = scans(length)[row]
    with torch.no_grad():
        mixed = model(signals, padding(5, 3, 4), torch.tensor(sizes))
        for row, (size, length) in enumerate(zip(sizes, lengths)):
            alone = model(signals[row : row + 1, :, :length], padding((5, 3, 4)[row]), size)
            torch.testing.assert_close(mixed.pooler_output[row], alone.pooler_output[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mixed.last_hidden_state[row], alone.last_hidden_state[0], rtol=1e-4, atol=1e-5)


def test_resized_patches_are_the_resized_kernel() -> None:
    weight = torch.randn(6, 48)
    for size in (12, 48, 71):
        patches = torch.randn(5, size)
        kernel = weight if size == 48 else weight @ resizing_matrices(48, size)[1].T
        expected = patches @ kernel.T
        actual = patches @ weight.T if size == 48 else patches @ resizing_matrices(48, size)[1] @ weight.T
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_and_whole_sequences_give_the_same(implementation: str) -> None:
    model = tiny(attn_implementation=implementation)
    mask = padding(5, 2, 4)
    with torch.no_grad():
        packed = model(scans(), mask)
        whole = model(scans(), mask, output_hidden_states=True)
        same = model(scans(), mask, output_indices=torch.arange(60).flip(0).expand(3, -1))
    torch.testing.assert_close(packed.last_hidden_state, whole.last_hidden_state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.pooler_output, whole.pooler_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(same.last_hidden_state.flip(1), packed.last_hidden_state, rtol=1e-4, atol=1e-5)
    assert not bool((packed.last_hidden_state[1, 2:5] == 0).all())  # padded tokens pass through the layers


def test_padded_tokens_that_nobody_reads_do_not_run() -> None:
    model, inputs, mask = tiny(), {"signals": scans()}, padding(5, 2, 4)
    seen: list[int] = []
    model.layers[0].mlp.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:2].numel()))
    with torch.no_grad():
        whole = model(**inputs, attention_mask=mask)
        in_all, n_observed = sum(seen), int(mask.sum())
        seen.clear()
        spared = model(**inputs, attention_mask=mask, keep_padding=False)
        states = model(**inputs, attention_mask=mask, keep_padding=False, output_hidden_states=True)
    assert (in_all, seen[0]) == (mask.numel(), n_observed)
    assert torch.equal(spared.pooler_output, whole.pooler_output)
    assert torch.equal(spared.last_hidden_state[mask == 1], whole.last_hidden_state[mask == 1])
    assert not spared.last_hidden_state[mask == 0].any()
    torch.testing.assert_close(states.last_hidden_state, whole.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_padding_is_never_attended_to_and_its_gradients_are_those_of_the_whole() -> None:
    model = tiny("ForMaskedModeling").train()
    mask = padding(5, 2, 4)
    contexts, targets = torch.arange(0, 60, 3).expand(3, -1), torch.arange(1, 60, 3).expand(3, -1)
    gradients = []
    for asked in (False, True):
        model.zero_grad()
        output = model(scans(), mask, None, contexts, targets, output_hidden_states=asked)
        output.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], rtol=1e-3, atol=1e-5)
    assert output.target_mask.sum(1).tolist() == [20, 8, 16]
    changed = scans()
    changed[1, :, 16:] = 9
    with torch.no_grad():
        one, two = (model.eval()(values, mask, None, contexts, targets) for values in (scans(), changed))
    torch.testing.assert_close(one.loss, two.loss)


def test_masks_lie_in_windows_that_some_sample_has() -> None:
    model = tiny("ForMaskedModeling")
    draws = BatchNumbers(0).draws([{ROW_INDEX: n, EPOCH: 0} for n in range(3)])
    masks = type(model).draw_masks(model.config, draws, {"signals": scans(), "attention_mask": padding(3, 2, 4)})
    for ids in masks.values():
        assert len(ids) == 3
        assert int((ids % 5).max()) <= 3


def test_a_sample_without_observed_targets_costs_nothing() -> None:
    model = tiny("ForMaskedModeling")
    contexts, targets = (torch.arange(12) * 5).expand(2, -1), (torch.arange(12) * 5 + 4).expand(2, -1)
    output = model(scans(batch=2), padding(5, 2), None, contexts, targets)
    assert output.sample_losses[1] == 0
    assert bool(torch.isfinite(output.loss))


def test_a_cls_token_stands_in_front() -> None:
    model = tiny(use_cls_token=True, pooling="cls")
    mask = padding(5, 2, 4)
    with torch.no_grad():
        output = model(scans(), mask)
        with_entry = model(scans(), torch.nn.functional.pad(mask, (1, 0), value=1))
    assert output.last_hidden_state.shape == (3, 61, 32)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, 0])
    torch.testing.assert_close(with_entry.last_hidden_state, output.last_hidden_state)
    with pytest.raises(ValueError, match="use_cls_token"):
        bt.load_config("harmonix-f-tiny", pooling="cls")


def test_patches_that_do_not_fit_are_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="patch_size must be one whole number"):
        model(scans(), None, torch.tensor([8, 8]))
    with pytest.raises(ValueError, match="at least patch_size=41"):
        model(scans(), None, 41)


def test_the_extractor_says_how_long_patches_are() -> None:
    extractor = bt.HarmonixFFeatureExtractor.from_model_config(
        bt.load_config("harmonix-f-tiny"), patch_seconds=16.0, normalization="zscore"
    )
    order = extractor.roi_order
    rng = np.random.default_rng(0)
    batch = extractor([rng.normal(size=(12, n)) for n in (60, 30)], t_r=[1.0, 2.0], roi_order=order)
    assert batch["patch_size"].tolist() == [16, 8]
    assert batch["signals"].shape == (2, 12, 80)
    assert batch["attention_mask"].reshape(2, 12, 5).sum(2).tolist() == [[4] * 12, [4] * 12]
    assert not batch["signals"][1, :, 40:].any()
    with pytest.raises(ValueError, match="Expected t_r of scan 0"):
        extractor(rng.normal(size=(12, 60)), roi_order=order)
    windows = extractor(rng.normal(size=(12, 200)), t_r=2.0, roi_order=order, window="all")
    assert windows["signals"].shape == (5, 12, 40)
    model = tiny()
    with torch.no_grad():
        assert model(**extractor(rng.normal(size=(12, 60)), t_r=1.0, roi_order=order, return_tensors="pt"))


def test_a_new_model_for_scans_that_differ_in_repetition_time_trains(tmp_path, recwarn) -> None:
    config = bt.load_config("harmonix-f-tiny")
    rng = np.random.default_rng(0)
    t_rs = [0.735, 1.5, 2.0, 0.735]
    scans = [rng.normal(size=(12, int(50 / t_r))).astype(np.float32) for t_r in t_rs]
    dataset = bt.dataset_from_arrays(scans, roi_order=config.roi_order, t_r=t_rs, subject=list("abcd"))
    model, extractor = bt.new_model(
        "harmonix-f-tiny", dataset, patch_seconds=10.0, patch_size=14, n_timepoints=70, normalization="zscore"
    )
    assert model.config.t_r == 0.735
    assert not [str(warning.message) for warning in recwarn if "differ in t_r" in str(warning.message)]
    before = model.context_encoder.embeddings.patch_projection.weight.clone()
    arguments = bt.JEPATrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to="none"
    )
    trainer = bt.JEPATrainer(model, arguments, train_dataset=dataset, processing_class=extractor)
    assert np.isfinite(trainer.train().training_loss)
    assert not torch.equal(model.context_encoder.embeddings.patch_projection.weight, before)
    table = bt.embed_dataset(model.harmonix_f, dataset, extractor)
    assert len(table) == 4
