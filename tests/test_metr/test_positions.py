"""The head of the queries' positions: upstream's numbers on either stack, and weights that cross."""

import pytest
import torch
from mmdet.models.layers import MLP, coordinate_to_encoding

from mmplugins.metr.positions import RefPointHead, matched, thin, widen

D = 32


@pytest.fixture
def boxes() -> torch.Tensor:
    """``(2, 5, 4)`` in [0, 1]."""
    return torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('num_feats', [D // 2, D, 2 * D, 128])
def test_it_is_upstream_s_whatever_the_host_encodes(boxes, num_feats):
    """mmdet 3.3: ``MLP(2 D, D, D, 2)`` on ``num_feats=D / 2``, which for D = 256 is its default of 128."""
    torch.manual_seed(0)
    ours, upstream = RefPointHead(D), MLP(2 * D, D, D, 2)
    upstream.load_state_dict(ours.state_dict())
    expected = upstream(coordinate_to_encoding(boxes, num_feats=D // 2))
    assert torch.equal(ours(coordinate_to_encoding(boxes, num_feats=num_feats)), expected)


def test_upstream_s_own_width_is_not_touched():
    encoding = torch.randn(2, 5, 512)
    assert torch.equal(thin(encoding, 512), encoding)


def test_widened_weights_do_the_same(boxes):
    weight = torch.randn(D, 2 * D)
    coarse, fine = (coordinate_to_encoding(boxes, num_feats=n) for n in (D // 2, D))
    torch.testing.assert_close(fine @ widen(weight, 4 * D).T, coarse @ weight.T)
    assert torch.equal(matched(widen(weight, 4 * D), 2 * D), weight)
    assert torch.equal(matched(weight, 2 * D), weight)


def test_an_encoding_that_does_not_contain_ours():
    with pytest.raises(ValueError, match='48 channels does not contain one of 64'):
        RefPointHead(D)(torch.zeros(2, 5, 48))


def test_weights_of_the_other_dino_are_refused():
    with pytest.raises(ValueError, match='has 128 inputs, the paper.*from-dino'):
        RefPointHead(D).load_state_dict(MLP(4 * D, D, D, 2).state_dict())
