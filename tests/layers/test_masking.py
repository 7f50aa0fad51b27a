"""The way back to natural order."""

import torch

from brain_transformers.layers.masking import gather_tokens, pack_observed_tokens, restore_tokens, select_tokens


def test_tokens_come_back_to_their_places_and_the_filler_stands_elsewhere() -> None:
    tokens = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(2, 8, generator=torch.Generator().manual_seed(1))
    selection = select_tokens(noise, 0.5)
    filler = torch.full((1, 1, 3), 9.0)
    back = restore_tokens(gather_tokens(tokens, selection.ids_keep), selection, filler)
    hidden = selection.token_mask.bool()
    assert hidden.sum(1).tolist() == [4, 4]
    assert torch.equal(back[~hidden], tokens[~hidden])
    assert bool((back[hidden] == 9.0).all())


def test_padding_comes_back_as_zeros_whatever_it_was() -> None:
    tokens = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    observed = torch.tensor([[1, 0, 1, 1, 0], [1, 0, 0, 0, 0]]).bool()
    packed = pack_observed_tokens(observed)
    kept = gather_tokens(tokens, packed.ids_keep)
    kept[~packed.keep_mask] = torch.nan
    back = restore_tokens(kept, packed)
    assert torch.equal(back[observed], tokens[observed])
    assert bool((back[~observed] == 0).all())
