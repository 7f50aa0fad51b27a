"""What only Brain-JEPA has: positions from gradients, masks by index, three networks, other lengths."""

import numpy as np
import pytest
import torch

import brain_transformers as bt
from brain_transformers.models.block_masks import (
    MaskScales,
    balanced_masks,
    draw_masks,
    published_masks,
)


def tiny(kind: str = "ForMaskedModeling", **overrides):
    torch.manual_seed(0)
    model = getattr(bt, f"BrainJEPA{kind}")(bt.load_config("brain-jepa-tiny", **overrides))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def scans(batch: int = 2, n_timepoints: int = 40) -> torch.Tensor:
    return torch.randn(batch, 50, n_timepoints, generator=torch.Generator().manual_seed(2))


# Encoder and predictor as counted from the released file, each with its fixed time table.
PUBLISHED_PARAMETERS = {
    "brain-jepa-small": (22_170_816, 864_000, 11_813_568),
    "brain-jepa-base": (86_808_960, 1_728_000, 12_108_864),
    "brain-jepa-large": (304_648_704, 2_304_000, 12_305_728),
}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_named_sizes_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = bt.BrainJEPAForMaskedModeling(bt.load_config(name))

    def count(network, positions):
        return sum(parameter.numel() for parameter in network.parameters()) + positions.time_positions.numel()

    encoder, table, predictor = PUBLISHED_PARAMETERS[name]
    assert model.context_encoder.embeddings.positions.time_positions.numel() == table
    assert count(model.context_encoder, model.context_encoder.embeddings.positions) == encoder
    assert count(model.brain_jepa, model.brain_jepa.embeddings.positions) == encoder
    assert count(model.predictor, model.predictor.positions) == predictor
    entry = bt.hub.registry.MODELS[name]
    assert entry.parameters == model.brain_jepa.num_parameters()
    assert entry.trained_parameters == model.num_parameters(only_trainable=True)


def test_the_twelve_layer_predictor_of_the_authors_scripts_has_their_size() -> None:
    with torch.device("meta"):
        model = bt.BrainJEPAForMaskedModeling(bt.load_config("brain-jepa-base", predictor_num_hidden_layers=12))
    assert (
        model.predictor.positions.time_positions.numel()
        + sum(parameter.numel() for parameter in model.predictor.parameters())
        == 22_755_648
    )


# --- gradients ---


def test_fresh_models_have_our_gradients_in_their_own_row_order() -> None:
    base = bt.load_config("brain-jepa-base", num_hidden_layers=1, hidden_size=24, num_attention_heads=2)
    other = bt.load_config(
        "brain-jepa-base",
        num_hidden_layers=1,
        hidden_size=24,
        num_attention_heads=2,
        roi_order="schaefer400-7net",
        n_rois=400,
    )
    assert "5 nearest" in base.gradient_source
    first, second = bt.BrainJEPAModel(base).gradients, bt.BrainJEPAModel(other).gradients
    assert first.shape == (450, 30)
    from brain_transformers.atlases.roi_orders import permutation, roi_coordinates

    rows = permutation(other.roi_order, "schaefer400-17net").index
    assert torch.equal(first[50:], second[torch.from_numpy(rows)])
    # A subcortical row is the mean over its nearest cortical parcels, whatever their order.
    centres = roi_coordinates(base.roi_order)
    distance = np.linalg.norm(centres[50:].astype(float) - centres[7].astype(float), axis=1)
    torch.testing.assert_close(first[7], first[50:][torch.from_numpy(np.argsort(distance)[:5])].mean(0))


def test_parcels_without_gradients_need_a_table() -> None:
    model = tiny("Model", roi_order=None)
    assert model.config.gradient_source is None
    with pytest.raises(ValueError, match="set_table"):
        model(scans())
    with pytest.raises(ValueError, match=r"\(50, 6\)"):
        model.set_table("gradients", torch.zeros(50, 5), "mine")
    table = torch.randn(50, 6, generator=torch.Generator().manual_seed(4))
    model.set_table("gradients", table, "mine")
    first = model(scans()).last_hidden_state
    model.set_table("gradients", table.flip(0), "mine")
    assert not torch.allclose(model(scans()).last_hidden_state, first)
    assert model.config.gradient_source == "mine"


def test_a_table_given_to_the_pretraining_model_is_saved_with_it(tmp_path) -> None:
    model = tiny(roi_order=None)
    table = torch.randn(50, 6, generator=torch.Generator().manual_seed(4))
    model.set_table("gradients", table, "mine")
    model.save_pretrained(tmp_path)
    body = bt.BrainJEPAModel.from_pretrained(tmp_path)
    assert torch.equal(body.gradients, table)
    assert body.config.gradient_source == "mine"


def test_a_new_model_does_not_claim_the_gradients_of_another(tmp_path) -> None:
    for roi_order in (None, "tian-s3"):
        model = tiny("Model", roi_order=roi_order)
        model.set_table("gradients", torch.randn(50, 6), "mine")
        model.save_pretrained(tmp_path)
        fresh = bt.BrainJEPAModel(bt.BrainJEPAConfig.from_pretrained(tmp_path)).eval()
        if roi_order is None:
            with pytest.raises(ValueError, match="set_table"):
                fresh(scans())
        else:
            assert "5 nearest" in fresh.config.gradient_source
            assert bool(torch.isfinite(fresh(scans()).pooler_output).all())
        assert bt.BrainJEPAModel.from_pretrained(tmp_path).config.gradient_source == "mine"


def test_positions_by_index_take_no_gradients() -> None:
    model = tiny("Model", position_type="index", roi_order=None)
    assert model(scans()).last_hidden_state.shape == (2, 500, 32)
    assert model.gradients.numel() == 0
    with pytest.raises(ValueError, match=r"as it is configured stores no table .gradients"):
        model.set_table("gradients", torch.zeros(50, 6), "mine")


def test_gradients_flow_through_the_scaling_of_the_positions() -> None:
    model = tiny("Model").double()
    positions = model.embeddings.positions
    weight = positions.gradient_projection.weight
    gradients = model.gradients
    coefficients = torch.randn(50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def loss(projection: torch.Tensor) -> torch.Tensor:
        projected = gradients @ projection.T + positions.gradient_projection.bias
        low, high = projected.min(), projected.max()
        return (((projected - low) / (high - low) * 2 - 1) * coefficients).sum()

    (expected,) = torch.autograd.grad(loss(weight), weight)
    # The scaled table is float32 in the model.
    (actual,) = torch.autograd.grad((positions.roi_half(gradients) * coefficients.float()).sum(), weight)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


# --- lengths ---


def test_frames_past_the_last_patch_are_ignored() -> None:
    model = tiny("Model")
    torch.testing.assert_close(
        model(scans(n_timepoints=43)).last_hidden_state,
        model(scans(n_timepoints=43)[:, :, :40]).last_hidden_state,
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("position_type", ["gradient", "index"])
def test_a_padded_scan_equals_the_short_scan(position_type: str) -> None:
    model = tiny("Model", position_type=position_type)
    mask = torch.zeros(2, 50, 10)
    mask[:, :, :7] = 1
    with torch.no_grad():
        padded = model(scans(), attention_mask=mask.flatten(1))
        short = model(scans()[:, :, :28])
    torch.testing.assert_close(padded.pooler_output, short.pooler_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.roi_tokens(padded.last_hidden_state)[:, :, :7],
        model.roi_tokens(short.last_hidden_state),
        rtol=1e-4,
        atol=1e-5,
    )
    longer = model(scans(n_timepoints=60))
    assert longer.last_hidden_state.shape == (2, 750, 32)


def test_positions_of_another_length_follow_the_formula() -> None:
    for kind in ("gradient", "index"):
        model, longer = tiny("Model", position_type=kind), tiny("Model", position_type=kind, n_timepoints=60)
        at_run_time = model.embeddings.positions(model.known_gradients(), 15)
        built = longer.embeddings.positions(longer.known_gradients())
        torch.testing.assert_close(at_run_time, built, rtol=1e-5, atol=1e-6)


# --- contexts, targets, three networks ---


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_some_tokens_of_the_last_layer_equal_those_of_the_whole_pass(implementation: str) -> None:
    model = tiny("Model", attn_implementation=implementation)
    chosen = torch.tensor([[3, 499, 20], [0, 7, 3]])
    mask = torch.ones(2, 500)
    mask[:, 450:] = 0
    with torch.no_grad():
        for attention_mask in (None, mask):
            whole = model(scans(), attention_mask=attention_mask).last_hidden_state
            some = model(scans(), attention_mask=attention_mask, output_indices=chosen).last_hidden_state
            for row in range(2):
                observed = [i for i in range(3) if attention_mask is None or mask[row, chosen[row, i]]]
                torch.testing.assert_close(
                    some[row, observed], whole[row, chosen[row, observed]], rtol=1e-4, atol=1e-5
                )


def test_nothing_hidden_reaches_the_predictions() -> None:
    model = tiny()
    masks = draw_masks(model.config, 2, 10, np.random.default_rng(0))
    seen = torch.zeros(2, 500, dtype=torch.bool).scatter_(1, masks.context_indices, True)
    changed = torch.where(seen.view(2, 50, 10).repeat_interleave(4, dim=2), scans(), 7.0)
    arguments = {"context_indices": masks.context_indices, "target_indices": masks.target_indices}
    with torch.no_grad():
        first, second = model(scans(), **arguments), model(changed, **arguments)
    assert torch.equal(first.predictions, second.predictions)
    assert not torch.allclose(first.targets, second.targets)


def test_several_masks_equal_one_at_a_time() -> None:
    model = tiny()
    generator = torch.Generator().manual_seed(3)
    contexts = [torch.randint(0, 500, (2, 30), generator=generator) for _ in range(2)]
    targets = [torch.randint(0, 500, (2, 11), generator=generator) for _ in range(3)]
    with torch.no_grad():
        joined = model(scans(), context_indices=contexts, target_indices=targets)
        parts = [
            model(scans(), context_indices=context, target_indices=target)
            for target in targets
            for context in contexts
        ]
    torch.testing.assert_close(joined.predictions, torch.cat([part.predictions for part in parts]))
    torch.testing.assert_close(joined.targets, torch.cat([part.targets for part in parts]))
    torch.testing.assert_close(joined.loss, torch.stack([part.loss for part in parts]).mean())


def test_padded_targets_do_not_count() -> None:
    model = tiny()
    masks = draw_masks(model.config, 2, 10, np.random.default_rng(0))
    attention_mask = torch.ones(2, 50, 10)
    attention_mask[:, :, 8:] = 0
    attention_mask = attention_mask.flatten(1)
    arguments = {"context_indices": masks.context_indices, "target_indices": masks.target_indices}
    changed = scans()
    changed[:, :, 32:] = 50.0
    with torch.no_grad():
        first = model(scans(), attention_mask=attention_mask, **arguments)
        second = model(changed, attention_mask=attention_mask, **arguments)
    assert torch.equal(first.loss, second.loss)
    counts = attention_mask.gather(1, masks.target_indices)
    error = torch.nn.functional.smooth_l1_loss(first.predictions, first.targets, reduction="none").mean(2)
    torch.testing.assert_close(first.loss, (error * counts).sum() / counts.sum())
    assert 0 < float(counts.mean()) < 1


def test_wrong_masks_are_one_clear_error() -> None:
    model = tiny()
    good = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="together"):
        model(scans(), context_indices=good)
    with pytest.raises(ValueError, match="target_indices must be"):
        model(scans(), context_indices=good, target_indices=good[:1])
    with pytest.raises(ValueError, match="bool"):
        model(scans(), context_indices=good.bool(), target_indices=good)
    with pytest.raises(ValueError, match="one shape"):
        model(scans(), context_indices=[good, good[:, :3]], target_indices=good)
    with pytest.raises(ValueError, match="not both"):
        model.brain_jepa(scans(), context_indices=good, output_indices=good)


def test_states_of_all_networks_on_request() -> None:
    model = tiny(attn_implementation="eager")
    masks = draw_masks(model.config, 2, 10, np.random.default_rng(0))
    arguments = {"context_indices": masks.context_indices, "target_indices": masks.target_indices}
    with torch.no_grad():
        output = model(scans(), output_hidden_states=True, output_attentions=True, **arguments)
        plain = model(scans(), **arguments)
    n_context, n_targets = masks.context_indices.shape[1], masks.target_indices.shape[1]
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, n_context, 32)] * 3
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, n_context, n_context)] * 2
    torch.testing.assert_close(
        model.context_encoder.layernorm(output.hidden_states[-1]), output.context_hidden_state, rtol=0, atol=0
    )
    lengths = [state.shape[1] for state in output.predictor_hidden_states]
    assert lengths == [n_context + n_targets, n_context + n_targets, n_targets]
    expected = model.predictor.projection(model.predictor.layernorm(output.predictor_hidden_states[-1]))
    torch.testing.assert_close(expected, output.predictions)
    assert (plain.hidden_states, plain.attentions, plain.predictor_hidden_states) == (None, None, None)
    assert torch.equal(model(scans(), return_dict=False, **arguments)[0], plain.loss)


def test_adapters_on_the_projection_also_act_in_shortened_layers() -> None:
    class Adapted(torch.nn.Module):
        def __init__(self, base: torch.nn.Linear):
            super().__init__()
            self.base, self.weight, self.bias = base, base.weight, base.bias

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.base(hidden) + 0.5 * hidden.repeat(1, 1, 3)

    model = tiny("Model")
    for layer in model.layers:
        layer.attention.qkv = Adapted(layer.attention.qkv)
    chosen = torch.tensor([[3, 499, 20], [0, 7, 3]])
    with torch.no_grad():
        whole = model(scans()).last_hidden_state
        some = model(scans(), output_indices=chosen).last_hidden_state
    torch.testing.assert_close(some, torch.stack([whole[row, chosen[row]] for row in range(2)]), rtol=1e-4, atol=1e-5)


def test_masked_forward_compiles_as_one_graph() -> None:
    model = tiny()
    masks = draw_masks(model.config, 2, 10, np.random.default_rng(0))
    arguments = {"context_indices": masks.context_indices, "target_indices": masks.target_indices}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(scans(), **arguments).loss, model(scans(), **arguments).loss)


# --- downstream ---


def test_pooler_norm_is_the_head_at_its_start() -> None:
    plain, normed = tiny("Model"), tiny("Model", pooler_norm=True)
    pooled = plain(scans()).pooler_output
    expected = torch.nn.functional.layer_norm(pooled, pooled.shape[-1:], eps=1e-6)
    torch.testing.assert_close(normed(scans()).pooler_output, expected)
    torch.manual_seed(0)
    head = bt.BrainJEPAForSequenceClassification(bt.load_config("brain-jepa-tiny", num_labels=2))
    assert 0 < float(head.classifier.linear.weight.detach().abs().max()) < 1e-3
    probe = bt.BrainJEPAForSequenceClassification(
        bt.load_config("brain-jepa-tiny", num_labels=2, classifier_head="batch_norm_linear")
    )
    assert 5e-3 < float(probe.classifier.linear.weight.detach().std()) < 2e-2


@pytest.mark.parametrize("pooling", ["model", "mean", "max", "roi"])
def test_tables_of_embeddings_take_all_tokens(pooling: str) -> None:
    from brain_transformers.evaluation.embedding import embed_dataset, embedding_columns

    model = tiny("Model")
    extractor = bt.ROISeriesFeatureExtractor.from_model_config(model.config, t_r=None, normalization="none")
    signals = scans(1, n_timepoints=30)[0].numpy()
    row = {"signals": signals.reshape(-1), "n_rois": 50, "n_timepoints": 30, "t_r": 2.2143, "roi_order": "tian-s3"}
    table = embed_dataset(model, [row], extractor, pooling=pooling, progress=False)
    values = torch.from_numpy(table[embedding_columns(table)].to_numpy().copy())[0].float()
    mask = torch.ones(1, 50, 10)
    mask[:, :, 8:] = 0
    padded = torch.nn.functional.pad(torch.from_numpy(signals)[None], (0, 10))
    with torch.no_grad():
        tokens = model.roi_tokens(model(padded, attention_mask=mask.flatten(1)).last_hidden_state)[0, :, :8]
    expected = {
        "model": tokens.mean((0, 1)),
        "mean": tokens.mean((0, 1)),
        "max": tokens.amax((0, 1)),
        "roi": tokens.mean(1).flatten(),
    }[pooling]
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no CLS token"):
        embed_dataset(model, [row], extractor, pooling="cls", progress=False)


# --- masks ---


@pytest.mark.parametrize("rule", ["balanced", "published"])
@pytest.mark.parametrize(("n_rois", "n_windows"), [(450, 10), (50, 10), (30, 7), (20, 18)])
def test_masks_are_disjoint_blocks(rule: str, n_rois: int, n_windows: int) -> None:
    config = bt.load_config("brain-jepa-tiny", mask_rule=rule, n_rois=n_rois, roi_order=None)
    for seed in range(20):
        masks = draw_masks(config, 4, n_windows, np.random.default_rng(seed))
        again = draw_masks(config, 4, n_windows, np.random.default_rng(seed))
        assert torch.equal(masks.context_indices, again.context_indices)
        assert torch.equal(masks.target_indices, again.target_indices)
        assert bool((masks.context_indices.diff(dim=1) > 0).all())
        for context, target in zip(masks.context_indices, masks.target_indices):
            assert not set(context.tolist()) & set(target.tolist())
            assert 0 <= int(target.min()) <= int(target.max()) < n_rois * n_windows


def test_balanced_masks_leave_no_parcel_and_no_window_out() -> None:
    counts = {}
    for rule in ("balanced", "published"):
        config = bt.load_config("brain-jepa-base", mask_rule=rule)
        seen = torch.zeros(4500)
        for seed in range(60):
            seen += torch.bincount(
                draw_masks(config, 16, 10, np.random.default_rng(seed)).context_indices.flatten(), minlength=4500
            )
        counts[rule] = seen.view(450, 10) / (60 * 16)
    by_fifth = {rule: grid.view(5, 90, 10).sum(2).mean(1) for rule, grid in counts.items()}
    assert float(by_fifth["balanced"].max() / by_fifth["balanced"].min()) < 1.1
    assert float(by_fifth["published"].max() / by_fifth["published"].min()) > 5
    assert float(counts["published"][:, 9].sum()) == 0
    windows = counts["balanced"].sum(0)
    assert float(windows.min()) > 0.1 * float(windows.max())
    torch.testing.assert_close(windows, windows.flip(0), rtol=0.1, atol=5.0)


def test_balanced_masks_are_as_large_as_the_published_ones() -> None:
    sizes = {"balanced": [], "published": []}
    for call in range(150):
        for rule in sizes:
            config = bt.load_config("brain-jepa-base", mask_rule=rule)
            masks = draw_masks(config, 16, 10, np.random.default_rng(call))
            sizes[rule].append((masks.context_indices.shape[1], masks.target_indices.shape[1]))
    means = {rule: np.mean(values, axis=0) for rule, values in sizes.items()}
    np.testing.assert_allclose(means["balanced"], means["published"], rtol=0.12)


def test_published_masks_refuse_scales_without_room() -> None:
    with pytest.raises(ValueError, match="smaller scales"):
        published_masks(1, 20, 10, MaskScales(observation=(1.0, 1.0)), call_index=0)
    with pytest.raises(ValueError, match="2 ROIs and 2 windows"):
        balanced_masks(1, 20, 1, rng=np.random.default_rng(0))


def test_the_sampler_leaves_the_global_generator_alone_when_seeded() -> None:
    config = bt.load_config("brain-jepa-tiny", mask_rule="published")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_masks(config, 2, 10, np.random.default_rng(1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["context_indices", "output_indices"])
@pytest.mark.parametrize("token", [-1, 500])
def test_token_ids_out_of_range_are_refused(name: str, token: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 499"):
        tiny("Model")(scans(), **{name: torch.full((len(scans()), 3), token)})


def test_tables_have_names_of_their_own_too() -> None:
    model = tiny()
    table = torch.randn(50, 6)
    model.set_gradients(table, "a test")
    assert torch.equal(model.brain_jepa.gradients, table)
    assert torch.equal(model.context_encoder.gradients, table)
    body = bt.BrainLMModel(bt.load_config("brainlm-tiny"))
    body.set_coordinates(torch.ones(body.config.n_rois, 3), "a test")
    assert body.config.coordinates_source == "a test"
