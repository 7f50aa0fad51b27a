"""What only BrainLM-ViT has: the padded image, forecasting masks, the authors' fine-tuning losses."""

import pytest
import torch

import brain_transformers as bt
from brain_transformers.models.brainlm_vit.masking_brainlm_vit import last_timepoints_mask


def tiny(kind: str = "Model", **overrides):
    torch.manual_seed(0)
    return getattr(bt, f"BrainLMViT{kind}")(bt.load_config("brainlm-vit-tiny", **overrides)).eval()


def recordings(batch: int = 2, n_timepoints: int = 40) -> torch.Tensor:
    return torch.randn(batch, 24, n_timepoints, generator=torch.Generator().manual_seed(1))


def test_identical_channels_equal_the_repeated_image() -> None:
    model = tiny("ForMaskedModeling")
    signals, noise = recordings(), torch.rand(2, 729)
    with torch.no_grad():
        one = model(signals=signals, noise=noise)
        three = model(pixel_values=signals[:, None].expand(-1, 3, -1, -1), noise=noise)
    torch.testing.assert_close(one.logits, three.logits, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.loss, three.loss)


def test_unsorted_coordinates_are_refused() -> None:
    model = tiny()
    coordinates = torch.zeros(1, 24, 3)
    coordinates[0, :, 1] = torch.arange(24.0)
    with torch.no_grad():
        model(recordings(1), coordinates=coordinates)
        with pytest.raises(ValueError, match="sorted by Y"):
            model(recordings(1), coordinates=coordinates.flip(1))


@pytest.mark.parametrize("n_timepoints", [39, 432, 500, 1])
def test_sizes_that_cannot_be_centred_are_refused(n_timepoints: int) -> None:
    with pytest.raises(ValueError, match="n_timepoints"):
        tiny()(torch.zeros(1, 24, n_timepoints))


def test_neither_or_both_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="either"):
        tiny()()
    with pytest.raises(ValueError, match="pixel_values"):
        tiny()(pixel_values=torch.zeros(1, 2, 24, 40))


def test_roi_tokens_repeat_the_patch_row() -> None:
    model = tiny()
    with torch.no_grad():
        output = model(recordings())
    tokens = model.roi_tokens(output.last_hidden_state)
    assert tokens.shape == (2, 24, 3, 32)  # 40 timepoints from column 196 on touch patch columns 12, 13 and 14
    # 24 rows start at 204 = 12 * 16 + 12: four parcels in patch row 12, sixteen in 13, four in 14.
    assert torch.equal(tokens[:, 0], tokens[:, 3])
    assert torch.equal(tokens[:, 4], tokens[:, 19])
    assert not torch.equal(tokens[:, 3], tokens[:, 4])
    grid = output.last_hidden_state[:, 1:].reshape(2, 27, 27, 32)
    assert torch.equal(tokens[:, 10], grid[:, 13, 12:15])


@pytest.mark.parametrize("mode", ["predict_last", "predict_last_pixel"])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.75])
def test_forecasting_hides_the_end_and_only_sees_the_past(mode: str, ratio: float) -> None:
    model = tiny("ForMaskedModeling", train_mode=mode, mask_ratio=ratio)
    signals = recordings()
    asked = int(ratio * 40)
    with torch.no_grad():
        output = model(signals)
        hidden = output.signal_mask[0, 0].bool()
        changed = torch.where(output.signal_mask.bool(), 50.0, signals)
        again = model(changed)
    first = int(hidden.nonzero()[0])
    assert bool(hidden[first:].all())
    if mode == "predict_last_pixel":
        assert first == 40 - asked
    else:
        assert 40 - asked - 15 <= first <= 40 - asked
    torch.testing.assert_close(output.predictions, again.predictions, rtol=0, atol=0)


def test_fewer_timepoints_than_a_patch_are_still_hidden() -> None:
    """The authors' code masks nothing here and divides by zero."""
    plan = last_timepoints_mask(200, 16, 432, 0.005, "predict_last_pixel")
    assert plan.timepoints == (199, 200)
    assert plan.zeroed_columns == (315, 316)
    output = tiny("ForMaskedModeling", train_mode="predict_last_pixel", mask_ratio=0.05)(recordings())
    assert int(output.signal_mask[0, 0].sum()) == 2
    assert bool(torch.isfinite(output.loss))


def test_nothing_to_forecast_gives_no_loss() -> None:
    output = tiny("ForMaskedModeling", train_mode="predict_last", mask_ratio=0.0)(recordings())
    assert output.loss is None


def test_padding_of_a_short_scan_stays_out_of_the_loss() -> None:
    model = tiny("ForMaskedModeling")
    signals, noise = recordings(), torch.rand(2, 729)
    mask = torch.ones(2, 27, 27)
    mask[:, :, 14:16] = 0
    changed = signals.clone()
    changed[:, :, 224 - 196 :] = 9.0
    with torch.no_grad():
        first, second = (model(x, noise=noise, attention_mask=mask.flatten(1)) for x in (signals, changed))
    torch.testing.assert_close(first.loss, second.loss, rtol=0, atol=0)
    assert not bool(first.signal_mask[:, :, 28:].any())


@pytest.mark.parametrize("loss", ["mse", "mae", "binary_cross_entropy", "weighted_mse"])
def test_the_authors_losses(loss: str) -> None:
    model = tiny("ForSequenceClassification", num_labels=1, classifier_head="mlp", classifier_loss=loss)
    labels = torch.tensor([1.0, 0.0])
    with torch.no_grad():
        output = model(recordings(), labels=labels)
    error = output.logits[:, 0] - labels
    expected = {
        "mse": lambda: error.square().mean(),
        "mae": lambda: error.abs().mean(),
        "binary_cross_entropy": lambda: torch.nn.functional.binary_cross_entropy_with_logits(
            output.logits[:, 0], labels
        ),
        # 1.0 lies in the band of weight 2.11, 0.0 in that of weight 1.
        "weighted_mse": lambda: 0.01 * (2.11 * error[0] ** 2 + error[1] ** 2),
    }[loss]()
    torch.testing.assert_close(output.loss, expected)


def test_joint_reconstruction_adds_its_share() -> None:
    model = tiny("ForSequenceClassification", num_labels=1, classifier_loss="mse", reconstruction_weight=0.5)
    noise = torch.rand(2, 729)
    with torch.no_grad():
        output = model(recordings(), labels=torch.zeros(2), noise=noise, mask_ratio=0.5)
        unmasked = model(recordings(), labels=torch.zeros(2))
    torch.testing.assert_close(output.loss, output.classification_loss + 0.5 * output.reconstruction_loss)
    assert unmasked.reconstruction_loss is None
    torch.testing.assert_close(unmasked.loss, unmasked.classification_loss)


def test_one_output_losses_refuse_several_labels() -> None:
    with pytest.raises(ValueError, match="single output"):
        tiny("ForSequenceClassification", num_labels=3, classifier_loss="mse")


def test_inference_hides_nothing_while_training_may() -> None:
    model = tiny("ForSequenceClassification", num_labels=2, classifier_mask_ratio=0.75)
    with torch.no_grad():
        assert model(recordings()).token_mask is None
        assert int(model.train()(recordings()).token_mask[0].sum()) == 547
