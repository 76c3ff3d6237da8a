"""Places and position embedding."""

import pytest
import torch

from mmplugins.cae.tokens import sincos_table, split_places, tokens_at


def test_places_are_in_raster_order(draw_mask):
    mask = draw_mask(5, 12, 7)
    visible, masked = split_places(mask)
    for row, seen, hidden in zip(mask, visible, masked, strict=True):
        assert seen.tolist() == (~row).nonzero().flatten().tolist()
        assert hidden.tolist() == row.nonzero().flatten().tolist()


def test_tokens_at_equals_boolean_indexing(draw_mask):
    tokens, mask = torch.randn(3, 12, 4), draw_mask(3, 12, 5)
    visible, masked = split_places(mask)
    assert torch.equal(tokens_at(tokens, masked), tokens[mask].reshape(3, 5, 4))
    assert torch.equal(tokens_at(tokens[:1], visible), tokens[:1].expand(3, -1, -1)[~mask].reshape(3, 7, 4))


@pytest.mark.parametrize('value', [True, False], ids=['all', 'none'])
def test_something_must_be_masked_and_something_not(value):
    with pytest.raises(ValueError, match='between 1 and 8 of 9 patches must be masked'):
        split_places(torch.full((2, 9), value))


def test_rows_must_agree():
    with pytest.raises(ValueError, match='same number of patches, got 1 to 2'):
        split_places(torch.tensor([[True, False, False], [True, True, False]]))


@pytest.mark.parametrize('grid', [(4, 4), (2, 5), (7, 3)], ids=str)
def test_table_is_the_formula(grid, reference_sincos):
    torch.testing.assert_close(sincos_table(grid, 24), reference_sincos(*grid, 24), atol=1e-6, rtol=0)


def test_table_needs_four_groups():
    with pytest.raises(ValueError, match='multiple of 4 channels, got 30'):
        sincos_table((2, 2), 30)
