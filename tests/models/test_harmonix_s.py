"""What only Harmonix-S has: cubes of a volume as tokens, and a decoder that is new."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForPreTraining

import brain_transformers as bt
from brain_transformers.hub.registry import MODELS
from brain_transformers.models.harmonix_s.modeling_harmonix_s import volumes_of
from brain_transformers.models.patches import patches_of


def tiny(kind: str = "Model", **overrides):
    torch.manual_seed(0)
    return getattr(bt, f"HarmonixS{kind}")(bt.load_config("harmonix-s-tiny", **overrides)).eval()


def volumes(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, 20, 24, 20, generator=torch.Generator().manual_seed(2))


def test_the_base_model_has_the_number_of_parameters_of_the_authors_code() -> None:
    with torch.device("meta"):
        model = bt.HarmonixSForMaskedModeling(bt.load_config("harmonix-s-base"))
    assert model.harmonix_s.num_parameters() == MODELS["harmonix-s-base"].parameters
    # The authors count their frozen position table, too: 89,125,632.
    assert model.harmonix_s.num_parameters() + model.harmonix_s.embeddings.positions.numel() == 89_125_632
    assert model.num_parameters() == MODELS["harmonix-s-base"].trained_parameters
    assert model.config.grid == (10, 12, 10)


def test_a_token_is_a_cube_in_c_order_and_goes_back_to_its_place() -> None:
    scans = volumes()
    patches = patches_of(scans, (5, 6, 5), 4)
    assert patches.shape == (2, 150, 64)
    h, w, d = 2, 5, 1
    cube = scans[1, 0, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4, 4 * d : 4 * d + 4]
    assert torch.equal(patches[1, (h * 6 + w) * 5 + d], cube.flatten())
    assert torch.equal(volumes_of(patches, (5, 6, 5), 4), scans)
    body, moved = tiny(), scans.clone()
    moved[:, :, 8:12, 20:24, 4:8] += 1
    with torch.no_grad():
        change = (body.embeddings(moved) - body.embeddings(scans)).abs().sum(2)
    assert (change > 0).nonzero().tolist() == [[0, 1 + 86], [1, 1 + 86]]


def test_targets_are_scaled_in_each_patch_unless_they_are_not() -> None:
    scans = 3 + 2 * volumes()
    scans[0, :, :4, :4, :4] = 7.0  # background
    with torch.no_grad():
        targets = patches_of(tiny("ForMaskedModeling")(scans).targets, (5, 6, 5), 4)
        plain = tiny("ForMaskedModeling", norm_pix_loss=False)(scans)
    assert float(targets[0, 0].abs().max()) == 0
    torch.testing.assert_close(targets[1].mean(1), torch.zeros(150), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets[1].std(1), torch.ones(150), atol=1e-5, rtol=0)
    assert torch.equal(plain.targets, scans)
    assert int(plain.token_mask.sum(1)[0]) == 150 - 37  # three quarters, of which what is kept is rounded down


def test_an_encoder_without_a_decoder_can_be_pretrained(tmp_path: Path) -> None:
    body = tiny()
    body.save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    for name, tensor in body.state_dict().items():
        assert torch.equal(model.harmonix_s.state_dict()[name], tensor), name
    fresh = tiny("ForMaskedModeling").decoder
    assert torch.equal(model.decoder.positions, fresh.positions)
    with torch.no_grad():
        assert float(model(volumes()).loss) > 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": [20, 24, 18]}, "multiples of patch_size 4"),
        ({"image_size": [20, 24]}, "three numbers of voxels"),
        ({"hidden_size": 28}, "hidden_size must be even, and so must a third"),
        ({"decoder_hidden_size": 28}, "decoder_hidden_size must be even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bt.load_config("harmonix-s-tiny", **values)
