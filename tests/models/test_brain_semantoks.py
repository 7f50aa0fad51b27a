"""What only Brain-Semantoks has: networks, frozen kernel norms, missing tokens, masks, self-distillation."""

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.models.brain_semantoks.masking_brain_semantoks import (
    MaskDraws,
    concatenate_network_ids,
    draw_mask,
    expand_functional_mask,
    functional_network_mapping,
)
from brain_transformers.models.brain_semantoks.modeling_brain_semantoks import (
    LongConvolutionBranch,
    coding_rate_loss,
)


def tiny(kind: str = "Model", **overrides):
    torch.manual_seed(0)
    return getattr(bt, f"BrainSemantoks{kind}")(bt.load_config("brain-semantoks-tiny", **overrides)).eval()


def signals(batch: int = 2, n_timepoints: int = 40) -> torch.Tensor:
    return torch.randn(batch, 20, n_timepoints, generator=torch.Generator().manual_seed(1))


# --- sizes and networks ---


def test_released_size_has_the_published_number_of_live_parameters() -> None:
    config = bt.load_config("brain-semantoks-base")
    with torch.device("meta"):
        body = bt.BrainSemantoksModel(config)
        whole = bt.BrainSemantoksForMaskedModeling(config)
    assert sum(p.numel() for p in body.parameters()) == 58_720_931
    assert sum(p.numel() for p in body.layers.parameters()) == 56_696_832
    sizes = [242_095, 243_853, 219_654, 224_379, 187_086, 227_360, 287_771, 218_704, 163_213]
    assert [sum(p.numel() for p in tokenizer.parameters()) for tokenizer in body.embeddings.tokenizers] == sizes
    entry = bt.hub.registry.MODELS["brain-semantoks-base"]
    assert entry.parameters == 58_720_931
    assert entry.trained_parameters == whole.num_parameters(only_trainable=True)


def test_networks_follow_from_the_names_of_the_parcels() -> None:
    config = bt.load_config("brain-semantoks-base")
    assert [len(rois) for rois in config.rois_of_networks()] == [61, 77, 46, 47, 26, 52, 91, 50, 7]
    assert config.rois_of_networks()[0] == [*range(31), *range(200, 230)]
    assert config.rois_of_networks()[8] == list(range(450, 457))
    assert config.network_names[7:] == ["Subcortex", "Cerebellum"]
    seventeen = bt.load_config("brain-semantoks-base", n_cortical_networks=17)
    sizes = [24, 23, 39, 31, 27, 25, 34, 17, 11, 13, 24, 25, 12, 34, 32, 13, 16, 50, 7]
    assert [len(rois) for rois in seventeen.rois_of_networks()] == sizes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"networks": None}, "networks is needed"),
        ({"networks": [0] * 19}, "20 entries"),
        ({"networks": [0] * 10 + [2] * 10}, "without gaps"),
        ({"tokenizer_branches": [{"type": "convolution", "out_channels": 8}]}, "add up to 8"),
        ({"tokenizer_branches": [{"type": "wavelet", "out_channels": 32}]}, "type of a tokenizer branch"),
        ({"tokenizer_branches": [{"type": "convolution", "out_channels": 32, "stride": 2}]}, "fields"),
        ({"tokenizer_branches": [{"type": "long_convolution", "out_channels": 32}]}, "spans 16"),
        ({"n_timepoints": 45}, "multiple of patch_size"),
        ({"num_attention_heads": 0}, "at least 1"),
        ({"network_names": ["a"]}, "one name for each"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bt.load_config("brain-semantoks-tiny", **values)


def test_weights_start_as_the_authors_do() -> None:
    model = tiny(
        "ForMaskedModeling", hidden_size=256, tokenizer_branches=None, patch_size=20, tokenizer_pooling="attention"
    )
    tokenizer = model.student.embeddings.tokenizers[0]
    long = tokenizer.branches[1]
    assert all(0.9 < float(part.detach().std()) < 1.1 for part in (*long.kernels, long.skip))
    bound = (6 / 257) ** 0.5
    assert 0.9 * bound < float(tokenizer.attention_pool.weight.detach().abs().max()) <= bound
    for layer in model.student_head.layers:
        assert 0.015 < float(layer.weight.detach().std()) < 0.025
        assert not bool(layer.bias.any())
    bound = 256**-0.5
    assert 0.95 * bound < float(model.student.layers[0].attention.qkv.weight.detach().abs().max()) <= bound
    vectors = model.student.embeddings
    for vector in (vectors.cls_token, vectors.mask_embedding, vectors.network_positions):
        assert 0.017 < float(vector.detach().std()) < 0.023
    assert float((model.student.layers[0].layer_scale1 - 0.1).abs().max()) < 1e-6


# --- tokenizers ---


def long_branch() -> LongConvolutionBranch:
    return tiny().embeddings.tokenizers[0].branches[1]


def test_long_convolution_is_the_sum_that_it_says() -> None:
    branch = long_branch()
    windows = torch.randn(3, 6, 10, generator=torch.Generator().manual_seed(2))
    kernel = (branch.raw_kernel() / branch.kernel_norm).detach()
    n_heads, n_rois, length = kernel.shape
    right = length - 1 - (length - 1) // 2
    mixed = torch.zeros(3, 10, n_rois, n_heads)
    for time in range(10):
        for lag in range(length):
            if 0 <= time + right - lag < 10:
                mixed[:, time] += kernel[:, :, lag].T * windows[:, :, time + right - lag, None]
        mixed[:, time] += branch.skip.detach().T * windows[:, :, time, None]
    expected = branch.projection(mixed.flatten(2))
    torch.testing.assert_close(branch(windows).transpose(1, 2), expected, rtol=1e-4, atol=1e-5)


def test_kernel_norm_is_measured_once_and_never_again(tmp_path) -> None:
    model = tiny()
    branch = model.embeddings.tokenizers[0].branches[1]
    torch.testing.assert_close(branch.kernel_norm, branch.raw_kernel().norm(dim=2, keepdim=True))
    frozen = branch.kernel_norm.clone()
    with torch.no_grad():
        branch.kernels[0].mul_(3.0)  # as training would
    model(signals())
    model.save_pretrained(tmp_path)
    loaded = bt.BrainSemantoksModel.from_pretrained(tmp_path).eval()
    loaded(signals())
    assert torch.equal(loaded.embeddings.tokenizers[0].branches[1].kernel_norm, frozen)
    assert "embeddings.tokenizers.0.branches.1.kernel_norm" in model.state_dict()
    torch.testing.assert_close(loaded(signals()).pooler_output, model(signals()).pooler_output, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_in_use_follows_its_weights(mode) -> None:
    model, fresh = tiny(), tiny()
    changes = (
        lambda m: m.embeddings.tokenizers[0].branches[1].kernels[0].data.mul_(2.0),
        lambda m: m.embeddings.tokenizers[1].branches[1].kernel_norm.data.add_(1.0),
        lambda m: m.embeddings.tokenizers[2].branches[0].convolution.weight.data.neg_(),
        lambda m: m.load_state_dict({k: v * 0.5 if v.is_floating_point() else v for k, v in m.state_dict().items()}),
    )
    for change in changes:
        with mode():
            before = model(signals()).pooler_output
        change(model), change(fresh)
        with mode():
            after = model(signals()).pooler_output
        torch.testing.assert_close(after, fresh(signals()).pooler_output.detach(), rtol=0, atol=0)
        assert not torch.equal(before, after)


def test_teacher_and_student_keep_norms_of_their_own() -> None:
    model = tiny("ForMaskedModeling")
    norm = model.student.embeddings.tokenizers[0].branches[1].kernel_norm
    with torch.no_grad():
        norm.add_(1.0)
    before = model.brain_semantoks.embeddings.tokenizers[0].branches[1].kernel_norm.clone()
    model.update_moving_average(0.5)
    assert torch.equal(model.brain_semantoks.embeddings.tokenizers[0].branches[1].kernel_norm, before)


@pytest.mark.parametrize("mode", ["rois", "whole_brain"])
def test_spatial_modes_need_no_network_map(mode: str) -> None:
    model = tiny(
        spatial_mode=mode,
        networks=None,
        tokenizer_branches=None if mode == "rois" else [{"type": "convolution", "out_channels": 32}],
    )
    output = model(signals())
    assert output.last_hidden_state.shape == (2, 1 + (80 if mode == "rois" else 4), 32)
    assert model.roi_tokens(output.last_hidden_state).shape == (2, 20, 4, 32)


def test_a_parcel_reaches_only_the_tokens_of_its_network_and_window() -> None:
    model = tiny()
    first = signals(1)
    second = first.clone()
    second[0, 15, 12] += 5.0  # network 3, window 1
    with torch.no_grad():
        changed = (model.embeddings(first) - model.embeddings(second)).abs().sum(2)[0] > 0
    assert changed.nonzero().flatten().tolist() == [1 + 3 * 4 + 1]


# --- missing data and masks ---


def test_shorter_scans_are_masked_windows() -> None:
    model = tiny()
    short = signals(2, 24)  # two whole windows and four timepoints of the third
    mask = torch.zeros(2, 5, 4, dtype=torch.bool)
    mask[:, :, 3] = True
    padded = torch.nn.functional.pad(short, (0, 16))
    with torch.no_grad():
        expected = model(padded, bool_masked_pos=mask)
        actual = model(short)
    assert torch.equal(actual.last_hidden_state, expected.last_hidden_state)
    assert actual.token_mask.reshape(2, 5, 4)[0, 0].tolist() == [0, 0, 0, 1]
    as_zeros = tiny(missing_tokens="zeros")
    with torch.no_grad():
        assert torch.equal(as_zeros(short).last_hidden_state, as_zeros(padded).last_hidden_state)
    assert as_zeros(short).token_mask is None


def test_longer_input_within_the_last_window_is_cut_and_beyond_it_refused() -> None:
    model = tiny()
    longer = signals(2, 49)
    assert torch.equal(model(longer).pooler_output, model(longer[:, :, :40]).pooler_output)
    with pytest.raises(ValueError, match="n_timepoints"):
        model(signals(2, 50))


def test_missing_parcels_from_extractor_to_tokens() -> None:
    labels = [f"roi-{row}" for row in range(20)]
    config = bt.load_config("brain-semantoks-tiny", roi_order=labels)
    model = bt.BrainSemantoksModel(config).eval()
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(config)
    scan = signals(1)[0].numpy()
    with pytest.warns(UserWarning, match="lacks"):
        inputs = extractor(scan[:18], t_r=2.0, roi_order=labels[:18], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
        full = extractor(scan, t_r=2.0, roi_order=labels, return_tensors="pt")
        mask = torch.zeros(1, 5, 4, dtype=torch.bool)
        mask[:, 4] = True
        expected = model(full["signals"], bool_masked_pos=mask)
    assert output.token_mask.reshape(1, 5, 4).sum((0, 2)).tolist() == [0, 0, 0, 0, 4]
    torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-5)


def test_tokenizers_of_hidden_networks_do_not_run() -> None:
    model = tiny()
    ran = []
    for number, tokenizer in enumerate(model.embeddings.tokenizers):
        tokenizer.register_forward_hook(lambda module, args, out, n=number: ran.append((n, len(args[0]))))
    mask = torch.zeros(2, 5, 4, dtype=torch.bool)
    mask[:, 1] = True
    mask[0, 2, :3] = True
    with torch.no_grad():
        fast = model(signals(), bool_masked_pos=mask).last_hidden_state
    assert ran == [(0, 8), (2, 5), (3, 8), (4, 8)]
    model.embeddings._may_look = lambda signals: False
    with torch.no_grad():
        torch.testing.assert_close(model(signals(), bool_masked_pos=mask).last_hidden_state, fast)


def test_a_mask_that_hides_nothing_gives_the_mask_embedding_a_gradient_of_zero() -> None:
    model = tiny()
    mask = torch.zeros(2, model.config.n_tokens, dtype=torch.bool)
    model(signals(), bool_masked_pos=mask).last_hidden_state.sum().backward()
    gradient = model.embeddings.mask_embedding.grad
    assert gradient is not None
    assert not gradient.any()


def test_masks_without_a_mask_embedding_have_no_effect_and_are_reported() -> None:
    model = tiny(use_mask_embedding=False)
    mask = torch.ones(2, 20, dtype=torch.bool)
    output = model(signals(), bool_masked_pos=mask)
    assert torch.equal(output.last_hidden_state, model(signals()).last_hidden_state)
    assert output.token_mask is None


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="bool_masked_pos"):
        tiny()(signals(), bool_masked_pos=torch.zeros(2, 19, dtype=torch.bool))
    whole = tiny("ForMaskedModeling")
    views = torch.stack([signals(), signals()], 1)
    with pytest.raises(ValueError, match="two windows"):
        whole(signals())
    with pytest.raises(ValueError, match="bool_masked_pos"):
        whole(views, torch.zeros(2, 20, dtype=torch.bool))


@pytest.mark.parametrize("rule", ["published", "nominal"])
def test_hidden_share_of_both_rules(rule: str) -> None:
    draws = MaskDraws(np.random.default_rng(0))
    masks = np.stack([draw_mask("slice", 9, 5, draws, rule=rule) for _ in range(4000)])
    whole = (masks == masks[:, :1]).all((1, 2)) | (masks == masks[:, :, :1]).all((1, 2))
    assert whole.all()
    expected = {"published": 0.631, "nominal": 0.75}[rule]
    assert masks.mean() == pytest.approx(expected, abs=0.01)
    assert not masks.all((1, 2)).any()


def test_a_range_without_any_number_of_networks_names_itself() -> None:
    with pytest.raises(ValueError, match=r"0\.65-0\.85 of 2 networks"):
        draw_mask("network", 2, 5, MaskDraws(np.random.default_rng(0)))
    assert draw_mask("network", 2, 5, MaskDraws(np.random.default_rng(0)), rule="nominal").sum() == 5
    assert draw_mask("temporal", 2, 1, MaskDraws(np.random.default_rng(0))).sum() == 0


def test_functional_masks_on_a_finer_map() -> None:
    assert concatenate_network_ids([[3, 4, 3], [19.0, 19.0], [33.0]]) == [0, 1, 0, 2, 2, 3]
    mapping = functional_network_mapping([0, 0, 1, 1], [0, 1, 1, 2])
    assert mapping == [[0, 1], [1, 2]]
    mask = np.array([[True, True], [False, True]])
    # Network 1 belongs to both; the second overwrites the first.
    assert expand_functional_mask(mask, mapping, 3).tolist() == [[True, True], [False, True], [False, True]]
    with pytest.raises(ValueError, match="same parcels"):
        functional_network_mapping([0, 1], [0])


# --- self-distillation ---


def test_hidden_signal_reaches_the_teacher_only() -> None:
    model = tiny("ForMaskedModeling")
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    views = torch.stack([signals(3), signals(3).flip(0)], 1)
    mask = torch.zeros(3, 2, 5, 4, dtype=torch.bool)
    mask[:, 0, 3] = True
    changed = views.clone()
    changed[:, 0, 14:18] += 3.0  # the parcels of network 3
    first, second = (model(v, mask) for v in (views, changed))
    assert torch.equal(first.student_last_hidden_state, second.student_last_hidden_state)
    assert not torch.equal(first.teacher_last_hidden_state, second.teacher_last_hidden_state)
    assert torch.equal(first.token_mask.reshape(mask.shape).bool(), mask)
    without = model(views)
    assert without.mask_loss == 0
    assert first.mask_loss < 0
    no_networks = model(views, mask, network_loss_weight=0.0)
    torch.testing.assert_close(no_networks.loss, first.cls_loss + first.mask_loss)


def test_the_loss_is_float32_under_autocast() -> None:
    model = tiny("ForMaskedModeling")
    views = torch.stack([signals(8), signals(8).flip(0)], 1)
    expected = model(views).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(views)
    assert output.loss.dtype == torch.float32
    assert abs(output.loss.item() - expected.item()) < 0.05


def test_a_covariance_that_is_not_finite_is_an_error() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=-1)
    assert torch.isfinite(coding_rate_loss(vectors, vectors.flip(0)).loss)
    vectors[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        coding_rate_loss(vectors, vectors)


def test_collapsed_views_have_a_higher_loss_than_spread_ones() -> None:
    spread = torch.nn.functional.normalize(torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    collapsed = spread[:, :1].expand(-1, 64, -1)
    losses = [coding_rate_loss(v.expand(2, -1, -1), v.expand(2, -1, -1)) for v in (spread, collapsed)]
    assert losses[0].loss < losses[1].loss
    assert losses[0].compression == pytest.approx(1.0)


@pytest.mark.parametrize("head", ["linear", "batch_norm_linear", "mlp"])
def test_classifier_heads(head: str) -> None:
    model = tiny("ForSequenceClassification", num_labels=3, classifier_head=head, classifier_hidden_sizes=[10, 6])
    labels = torch.tensor([0, 2])
    output = model.train()(signals(), labels=labels)
    output.loss.backward()
    assert output.logits.shape == (2, 3)
    assert all(p.grad is not None for p in model.classifier.parameters())
    if head != "linear":
        assert float(model.classifier.output.weight.detach().abs().max()) < 1e-3


def test_absolute_error_does_not_broadcast_labels() -> None:
    model = tiny("ForSequenceClassification", num_labels=1, classifier_loss="mae")
    labels = torch.tensor([1.0, -2.0])
    expected = (model(signals()).logits[:, 0] - labels).abs().mean()
    for form in (labels, labels[:, None]):
        torch.testing.assert_close(model(signals(), labels=form).loss, expected)


def test_stochastic_depth_and_dropout_act_in_training_only() -> None:
    model = tiny(drop_path_rate=0.9, embedding_dropout=0.5)
    assert [layer.drop_path_rate for layer in model.layers] == [0.0, 0.9]
    with torch.no_grad():
        assert torch.equal(model(signals()).pooler_output, model(signals()).pooler_output)
        model.train()
        assert not torch.equal(model(signals()).pooler_output, model(signals()).pooler_output)


@pytest.mark.parametrize("networks", [[0, 0, 1, 2, 3], [3, 0, 4, 1, 2]])
def test_a_mask_of_parcels_is_never_read_as_one_of_networks(networks: list[int]) -> None:
    # One window, and as many parcels as networks or one more: lengths of both kinds of mask meet.
    config = bt.load_config(
        "brain-semantoks-tiny", n_rois=5, n_timepoints=10, networks=networks, network_names=None, roi_order=None
    )
    model = bt.BrainSemantoksModel(config).eval()
    signals, mask = torch.randn(5, 5, 10), 1 - torch.eye(5)
    of_network = torch.stack([mask[:, [n == k for n in networks]].any(1) for k in range(config.n_networks)], dim=1)
    with torch.no_grad():
        of_parcels = model(signals, attention_mask=mask)
        by_shape = model(signals, attention_mask=mask[..., None])
        as_networks = model(signals, attention_mask=of_network[..., None].float())
        with_cls = model(signals, attention_mask=torch.cat([torch.ones(5, 1), mask], dim=1))
    assert torch.equal(of_parcels.token_mask, (~of_network).float())
    others = (by_shape, with_cls) if config.n_networks == 5 else (by_shape, with_cls, as_networks)
    for other in others:
        torch.testing.assert_close(other.last_hidden_state, of_parcels.last_hidden_state, rtol=0, atol=0)
    with pytest.raises(ValueError, match="attention_mask"):
        model(signals, attention_mask=torch.ones(5, 3, 1))
