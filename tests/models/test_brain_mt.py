"""What only BrainMT has: volumes through convolutions, two kinds of layers, hidden blocks that leak nowhere."""

from itertools import pairwise

import pytest
import torch

import brain_transformers as bt
from brain_transformers.hub.registry import MODELS
from brain_transformers.models.brain_mt.masking_brain_mt import hidden_tokens, n_units
from brain_transformers.models.brain_mt.modeling_brain_mt import blocks_of, hide_blocks, patch_of_voxels, volumes_of
from brain_transformers.training import layer_decay_groups


def tiny(kind: str = "Model", **overrides):
    torch.manual_seed(0)
    model = getattr(bt, f"BrainMT{kind}")(bt.load_config("brain-mt-tiny", **overrides))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def scans(batch: int = 2, n_frames: int = 6) -> torch.Tensor:
    return torch.randn(batch, n_frames, 1, 28, 24, 24, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("name", "with_head"), [("brain-mt-base", 40_567_233), ("brain-mt-base-causal", 39_104_961)])
def test_named_sizes_have_the_number_of_parameters_of_the_authors_code(name: str, with_head: int) -> None:
    with torch.device("meta"):
        model = bt.BrainMTForSequenceClassification(bt.load_config(name, num_labels=1))
    assert model.num_parameters() == with_head
    assert model.brain_mt.num_parameters() == MODELS[name].parameters


def test_one_window_is_learnt_by_heart() -> None:
    """Gradients reach what a hidden block needs: noise that nothing predicts is rebuilt after some steps on it."""
    torch.manual_seed(0)
    model = bt.BrainMTForMaskedModeling(bt.load_config("brain-mt-tiny", drop_path_rate=0.0)).train()
    volumes, hidden = scans(1), torch.zeros(1, 48, dtype=torch.bool)
    hidden[:, :24] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(90):
        loss = model(volumes, bool_masked_pos=hidden).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.9
    assert losses[-1] < 0.05


def test_no_hidden_voxel_reaches_the_prediction() -> None:
    model = tiny("ForMaskedModeling")
    volumes = scans()
    hidden = torch.zeros(2, 8, 6, dtype=torch.bool)
    hidden[0, 1], hidden[1, 3, 2:5] = True, True
    hidden = hidden.flatten(1)
    inside = patch_of_voxels(hidden, (28, 24, 24)).expand_as(volumes)
    other = torch.where(inside, torch.randn_like(volumes) * 50, volumes)
    assert not torch.equal(other, volumes)
    with torch.no_grad():
        one, two = (model(values, bool_masked_pos=hidden) for values in (volumes, other))
        seen = model(volumes, bool_masked_pos=torch.zeros_like(hidden).index_fill(1, torch.tensor([40]), True))
    assert torch.equal(one.predictions, two.predictions)
    assert not torch.equal(one.targets, two.targets)
    assert not torch.equal(one.predictions, seen.predictions)  # and what is not hidden does reach it


def test_loss_is_the_error_over_hidden_voxels_that_change() -> None:
    model = tiny("ForMaskedModeling")
    volumes = scans()
    volumes[:, :, :, :10] = -3  # background, the same in every frame
    hidden = torch.zeros(2, 8, 6, dtype=torch.bool)
    hidden[:, [0, 5]] = True
    with torch.no_grad():
        output = model(volumes, bool_masked_pos=hidden.flatten(1))
    predicted = volumes_of(output.predictions, (28, 24, 24), 6)
    counted = patch_of_voxels(hidden.flatten(1), (28, 24, 24)).expand_as(volumes).clone()
    counted[:, :, :, :10] = False
    expected = ((predicted - volumes)[counted] ** 2).mean()
    torch.testing.assert_close(output.loss, expected)
    assert int(output.signal_mask.sum()) == int(counted.sum())


def test_frames_that_pad_a_scan_make_no_voxel_of_the_background_count() -> None:
    model = tiny("ForMaskedModeling")
    volumes = scans(1)
    volumes[:, :, :, :10] = -3
    volumes[:, 4:] = 0  # what the feature extractor pads a short scan with
    observed = torch.ones(1, 8, 6, dtype=torch.long)
    observed[:, :, 4:] = 0
    hidden = torch.zeros(1, 8, 6, dtype=torch.bool)
    hidden[:, [0, 5]] = True
    options = {"bool_masked_pos": hidden.flatten(1), "attention_mask": observed.flatten(1)}
    with torch.no_grad():
        padded = model(volumes, **options)
        alone = model(volumes[:, :4], bool_masked_pos=hidden[:, :, :4].flatten(1))
    assert int(padded.signal_mask.sum()) == int(alone.signal_mask.sum())
    torch.testing.assert_close(padded.loss, alone.loss, rtol=1e-4, atol=1e-6)


def test_blocks_and_volumes_are_inverse() -> None:
    volumes = scans()
    blocks = blocks_of(volumes)
    assert blocks.shape == (2, 48, 4096)
    torch.testing.assert_close(volumes_of(blocks, (28, 24, 24), 6), volumes, rtol=0, atol=0)
    # Token 1 * 6 + 4 is the second patch, which lies behind the first along z, in the fifth frame.
    torch.testing.assert_close(
        blocks[0, 10].view(16, 16, 16)[:, :, :8], volumes[0, 4, 0, :16, :16, 16:], rtol=0, atol=0
    )
    only = torch.zeros(2, 48, dtype=torch.bool)
    only[:, 10] = True
    assert int((hide_blocks(volumes, only) == 0).sum()) == 2 * 16 * 16 * 8


@pytest.mark.parametrize(("rule", "run"), [("columns", 20), ("runs", 4), ("runs", 40)])
def test_masks_hide_patches_in_all_frames_or_in_long_runs(rule: str, run: int) -> None:
    config = bt.load_config("brain-mt-tiny", mask_rule=rule, mask_run=run, mask_ratio=0.5)
    units = n_units(config, 30)
    generator = torch.Generator().manual_seed(0)
    masks = hidden_tokens(config, 30, torch.rand(64, units, generator=generator), torch.rand(64, generator=generator))
    assert masks.shape == (64, 8 * 30)
    assert abs(float(masks.float().mean()) - 0.5) < 0.03
    changes = (masks.view(64, 8, 30).diff(dim=2)).sum(2)
    if rule == "columns" or run >= 30:
        assert rule == "runs" or int(changes.sum()) == 0
    else:
        starts = masks.view(64, 8, 30).int().diff(dim=2).ne(0)
        gaps = [torch.diff(row.nonzero().flatten()) for row in starts.flatten(0, 1)]
        assert min(int(gap.min()) for gap in gaps if len(gap)) >= run
        assert len({int(row.nonzero()[0]) % run for row in starts.flatten(0, 1) if row.any()}) > 1  # seams anywhere


def test_a_frame_alone_cannot_be_hidden_from_itself() -> None:
    config = bt.load_config("brain-mt-tiny", volume_size=[16, 16, 16], n_patches=None)
    with pytest.raises(ValueError, match="two blocks"):
        hidden_tokens(config, 6, torch.rand(1, 1), torch.rand(1))


def test_frames_in_chunks_give_the_same() -> None:
    body = tiny()
    with torch.no_grad():
        whole, one_by_one = (
            (setattr(body.config, "frames_per_chunk", size), body(scans()).last_hidden_state)[1] for size in (100, 1)
        )
    torch.testing.assert_close(whole, one_by_one, rtol=1e-5, atol=1e-5)


def test_only_the_cls_query_runs_through_the_last_layer_when_nothing_else_is_asked_for() -> None:
    model = tiny("ForSequenceClassification", num_labels=2)
    asked: list[int] = []
    model.brain_mt.mlp.register_forward_hook(lambda module, inputs, output: asked.append(output.shape[1]))
    with torch.no_grad():
        short, long = model(scans()), model(scans(), output_hidden_states=True)
    assert asked == [49, 1, 49, 49]
    torch.testing.assert_close(short.logits, long.logits, rtol=1e-5, atol=1e-5)
    assert short.last_hidden_state is None
    assert len(long.hidden_states) == 5
    masked = torch.ones(2, 8, 6)
    masked[0, :, 4:] = 0
    with torch.no_grad():
        padded = model(scans(), attention_mask=masked.flatten(1))
        alone = model(scans()[:1, :4])
    torch.testing.assert_close(padded.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)


def test_cls_of_the_causal_mixer_sees_nothing_before_attention() -> None:
    body = tiny(mixer_type="causal")
    with torch.no_grad():
        one, two = (body(values, output_hidden_states=True).hidden_states for values in (scans(), scans() + 1))
    for layer in range(3):
        assert torch.equal(one[layer][:, 0], two[layer][:, 0])
    assert not torch.equal(one[4][:, 0], two[4][:, 0])


def test_learning_rates_fall_over_both_stages_and_not_for_what_layers_share() -> None:
    model = tiny("ForSequenceClassification", num_labels=1)
    levels = model.layer_groups()
    assert len(levels) == 1 + 2 + 2
    grouped = {id(parameter) for level in levels for parameter in level}
    left = {name for name, parameter in model.named_parameters() if id(parameter) not in grouped}
    shared = {f"brain_mt.{part}" for part in ("mamba_norm", "norm", "mlp.fc1", "mlp.fc2")} | {"classifier"}
    assert {name.rpartition(".")[0] for name in left} == shared


def test_positions_and_rates_of_the_state_spaces_do_not_decay() -> None:
    model = tiny("ForSequenceClassification", num_labels=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def decayed(**options) -> set[str]:
        groups = layer_decay_groups(model, layer_decay=0.75, **options)
        assert sum(len(group["params"]) for group in groups) == len(names)
        return {names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]}

    vectors = {f"brain_mt.embeddings.{name}" for name in ("cls_token", "position_embeddings", "frame_embeddings")}
    logarithms = {f"brain_mt.mamba_layers.{n}.mixer.{name}" for n in range(2) for name in ("A_log", "A_b_log")}
    flat = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    assert decayed() == set(names.values()) - flat - vectors - logarithms
    assert decayed(published=True) == set(names.values()) - flat


def test_the_first_mixer_is_never_dropped_and_the_last_at_the_full_rate() -> None:
    mamba, attention = bt.load_config("brain-mt-base").drop_path_rates()
    assert (mamba[0], mamba[-1]) == (0.0, 0.1)
    assert attention[-1] == pytest.approx(0.1)
    assert len(mamba) == 12
    assert all(earlier < later for earlier, later in pairwise(mamba))


def test_one_stored_frame_is_added_to_every_frame() -> None:
    body = tiny(n_frames=1)
    with torch.no_grad():
        output = body(scans(n_frames=3))
    assert output.last_hidden_state.shape == (2, 1 + 8 * 3, 32)
    with pytest.raises(ValueError, match="1 to 6 frames"):
        tiny()(scans(n_frames=7))
