"""Sampling level by level against mmcv's own fallback: values, gradients, padding, points and boxes."""

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

from mmplugins.metr.deformable_attention import (
    LevelwiseDeformableAttention,
    WeightedSum,
    sample_levels,
)

B, M, HEADS, LEVELS, POINTS, D = 2, 7, 4, 2, 3, 16
SHAPES = torch.tensor([[4, 5], [2, 3]])
N = int(SHAPES.prod(1).sum())


def test_sum_over_levels_is_mmcvs():
    value = torch.randn(B, N, HEADS, D // HEADS, dtype=torch.double, requires_grad=True)
    # Some points lie outside the image, where samples are zero.
    locations = (torch.rand(B, M, HEADS, LEVELS, POINTS, 2, dtype=torch.double) * 1.6 - 0.3).requires_grad_()
    weights = torch.rand(B, M, HEADS, LEVELS, POINTS, dtype=torch.double, requires_grad=True)
    inputs = (value, locations, weights)
    ours = sample_levels(
        value.permute(0, 2, 3, 1), SHAPES, locations.permute(0, 2, 3, 4, 5, 1), weights.permute(0, 2, 3, 4, 1)
    ).transpose(1, 2)
    host = multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)
    torch.testing.assert_close(ours, host, rtol=0, atol=1e-12)
    probe = torch.randn_like(host)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, probe), torch.autograd.grad(host, inputs, probe), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_weighted_sum_and_its_gradients():
    samples = torch.randn(3, 4, 5, 6, dtype=torch.double, requires_grad=True)
    weights = torch.rand(3, 5, 6, dtype=torch.double, requires_grad=True)
    torch.testing.assert_close(
        WeightedSum.apply(samples, weights), torch.einsum('gdpm,gpm->gdm', samples, weights), rtol=0, atol=1e-12
    )
    assert torch.autograd.gradcheck(WeightedSum.apply, (samples, weights))


@pytest.mark.parametrize('coordinates', [2, 4], ids=['points', 'boxes'])
@pytest.mark.parametrize('padded', [False, True])
def test_module_is_mmcvs(coordinates, padded):
    cfg = dict(embed_dims=D, num_heads=HEADS, num_levels=LEVELS, num_points=POINTS, dropout=0.0, batch_first=True)
    host = MultiScaleDeformableAttention(**cfg)
    with torch.no_grad():
        for parameter in host.parameters():  # at its start the module ignores its query
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = LevelwiseDeformableAttention(**cfg)
    ours.load_state_dict(host.state_dict())
    mask = torch.zeros(B, N, dtype=torch.bool)
    mask[1, [4, 9, 14, 19, 22, 25]] = padded
    inputs = dict(
        query=torch.randn(B, M, D),
        query_pos=torch.randn(B, M, D),
        value=torch.randn(B, N, D),
        key_padding_mask=mask if padded else None,
        reference_points=0.2 + 0.5 * torch.rand(B, M, 1, coordinates).repeat(1, 1, LEVELS, 1),
        spatial_shapes=SHAPES,
        level_start_index=torch.tensor([0, 20]),
    )
    torch.testing.assert_close(ours(**inputs), host(**inputs), rtol=0, atol=1e-5)


def test_other_layout_is_refused():
    with pytest.raises(ValueError, match='batch_first=True'):
        LevelwiseDeformableAttention(embed_dims=D, num_heads=HEADS)
