"""What only BrainLM has: convolution and landmarks along the tokens, coordinates, and a packed short scan."""

import pytest
import torch

import brain_transformers as bt
from brain_transformers.layers.token_convolution import token_convolution
from brain_transformers.models.brainlm.modeling_brainlm import landmark_attention


def sum_over_offsets(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The convolution as the sum that it is.

    Not a grouped `conv2d`: on CPUs with AVX-512, torch 2.13 (oneDNN 3.12) returns float32 gradients of the kernel that
    are about 10 % off for kernels of 65 on sequences of 65 tokens and more.
    """
    kernel_size, n_tokens = weight.shape[1], values.shape[2]
    padded = torch.nn.functional.pad(values, (0, 0, kernel_size // 2, kernel_size // 2))
    output = torch.zeros_like(values)
    for offset in range(kernel_size):
        output = output + weight[None, :, offset, None, None] * padded[:, :, offset : offset + n_tokens]
    return output


@pytest.mark.parametrize(("n_tokens", "kernel_size"), [(1, 5), (7, 65), (64, 65), (65, 3), (200, 65), (130, 1)])
def test_banded_product_equals_the_convolution(n_tokens: int, kernel_size: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, n_tokens, 8, requires_grad=True)
    weight = torch.randn(3, kernel_size, requires_grad=True)
    results = []
    for function in (sum_over_offsets, token_convolution):
        output = function(values, weight)
        results.append((output, *torch.autograd.grad(output.square().sum(), (values, weight))))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def tiny(**overrides) -> bt.BrainLMModel:
    torch.manual_seed(0)
    return bt.BrainLMModel(bt.load_config("brainlm-tiny", **overrides)).eval()


def inputs(batch: int = 2, n_timepoints: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 12, n_timepoints, generator=generator), 30 * torch.randn(
        batch, 12, 3, generator=generator
    )


def test_released_sizes_have_the_published_number_of_parameters() -> None:
    # Published: 13,429,292 in the 13M file, of which decoder.decoder_pred (768 x 513) is never used.
    expected = {
        "brainlm-13m": 13_429_292 - 768 * 513,
        "brainlm-111m": 111_655_680,
        "brainlm-650m": 656_613_964,
    }
    classes = {"brainlm_mae": bt.BrainLMForMaskedModeling, "brainlm_vit_mae": bt.BrainLMViTForMaskedModeling}
    for name, count in expected.items():
        config = bt.load_config(name)
        with torch.device("meta"):
            model = classes[config.model_type](config)
        assert sum(parameter.numel() for parameter in model.parameters()) == count, name
        entry = bt.hub.registry.MODELS[name]
        assert entry.trained_parameters == count
        assert entry.parameters == model.base_model.num_parameters()


def test_a_padded_scan_equals_the_short_scan() -> None:
    model = tiny()
    signals, coordinates = inputs()
    mask = torch.zeros(2, 12, 4)
    mask[:, :, :3] = 1
    with torch.no_grad():
        padded = model(signals, coordinates, attention_mask=mask.flatten(1))
        short = model(signals[:, :, :30], coordinates)
    torch.testing.assert_close(
        model.roi_tokens(padded.last_hidden_state)[:, :, :3], model.roi_tokens(short.last_hidden_state)
    )
    torch.testing.assert_close(padded.pooler_output, short.pooler_output)


def test_what_is_padded_cannot_reach_loss_or_features() -> None:
    torch.manual_seed(0)
    model = bt.BrainLMForMaskedModeling(bt.load_config("brainlm-tiny")).eval()
    signals, coordinates = inputs()
    mask = torch.ones(2, 12, 4)
    mask[0, :, 2:] = 0
    changed = signals.clone()
    changed[0, :, 20:] = 1e3
    noise = torch.rand(2, 48)
    with torch.no_grad():
        first, second = (
            model(x, coordinates, attention_mask=mask.flatten(1), noise=noise, mask_ratio=0.5)
            for x in (signals, changed)
        )
    torch.testing.assert_close(first.loss, second.loss, rtol=0, atol=0)
    assert not bool(first.signal_mask[0, :, 20:].any())
    assert int(first.token_mask[0].sum()) == 12
    assert int(first.token_mask[1].sum()) == 24


def test_landmark_attention_needs_its_length() -> None:
    model = tiny(num_landmarks=7, segment_means_seq_len=49)
    signals, coordinates = inputs()
    with torch.no_grad():
        assert model(signals, coordinates).last_hidden_state.shape == (2, 49, 32)
        with pytest.raises(ValueError, match="segment_means_seq_len=49"):
            model(signals[:, :, :30], coordinates)
        with pytest.raises(ValueError, match="segment_means_seq_len=49"):
            model(signals, coordinates, mask_ratio=0.5)


def test_one_landmark_a_token_approaches_full_attention() -> None:
    query, key, value = (torch.randn(1, 2, 12, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    context, weights = landmark_attention(0.1 * query, 0.1 * key, value, 12, 8**-0.5)
    expected = torch.nn.functional.scaled_dot_product_attention(0.1 * query, 0.1 * key, value)
    assert weights.shape == (1, 2, 12, 12)
    torch.testing.assert_close(context, expected, rtol=0.05, atol=0.05)


def test_equal_landmark_numbers_mean_full_attention() -> None:
    assert not tiny(num_landmarks=64, segment_means_seq_len=64).config.uses_landmarks


def test_coordinates_are_stored_and_saved(tmp_path) -> None:
    model = tiny()
    signals, coordinates = inputs()
    with pytest.raises(ValueError, match="set_table"):
        model(signals)
    with pytest.raises(ValueError, match="finite"):
        model.set_table("coordinates", torch.zeros(5, 3), source="test")
    model.set_table("coordinates", coordinates[0], source="a table")
    model.save_pretrained(tmp_path)
    loaded = bt.BrainLMModel.from_pretrained(tmp_path).eval()
    assert loaded.config.coordinates_source == "a table"
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(signals).last_hidden_state,
            model(signals, coordinates[:1].expand(2, -1, -1)).last_hidden_state,
            rtol=0,
            atol=0,
        )
    for wrong in (coordinates[:, :5], coordinates[:1].expand(3, -1, -1), coordinates.numpy(), coordinates / 0):
        with pytest.raises(ValueError, match="coordinates must be"):
            model(signals, wrong)


def test_masked_pass_cannot_be_read_as_a_grid() -> None:
    model = tiny()
    signals, coordinates = inputs()
    with torch.no_grad():
        output = model(signals, coordinates, mask_ratio=0.3)
    with pytest.raises(ValueError, match="masked pass"):
        model.roi_tokens(output.last_hidden_state)


def test_coordinate_init_scale_shrinks_both_projections() -> None:
    spread = {}
    for scale in (1.0, 0.02):
        torch.manual_seed(0)
        model = bt.BrainLMForMaskedModeling(bt.load_config("brainlm-tiny", coordinate_init_scale=scale))
        parts = (model.brainlm.embeddings, model.decoder)
        spread[scale] = [float(part.coordinate_projection.weight.std()) for part in parts]
    for published, small in zip(spread[1.0], spread[0.02], strict=True):
        assert 0.015 < small / published < 0.025


def test_coordinates_of_one_model_are_not_those_of_another(tmp_path) -> None:
    config = bt.load_config("brainlm-tiny")
    signals, coordinates = inputs()
    first, second = bt.BrainLMModel(config).eval(), bt.BrainLMModel(config).eval()
    first.set_table("coordinates", coordinates[0], source="mine")
    with pytest.raises(ValueError, match="set_table"):
        second(signals)
    assert config.coordinates_source is None
    first.save_pretrained(tmp_path)
    fresh = bt.BrainLMModel(bt.BrainLMConfig.from_pretrained(tmp_path)).eval()
    with pytest.raises(ValueError, match="set_table"):
        fresh(signals)
    assert fresh.config.coordinates_source is None
