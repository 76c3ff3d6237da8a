"""The rotated decoder against the host's horizontal one."""

import pytest
import torch
from mmdet.models.layers import DeformableDetrTransformerDecoder
from mmrotate.structures import RotatedBoxes
from torch import nn

from mmplugins.o2detr import O2DETRDecoder
from mmplugins.o2detr.angles import box_factors

D, SHAPES = 16, torch.tensor([[6, 8], [3, 4]])


@pytest.fixture
def decoders(model_cfg):
    layer = dict(
        self_attn_cfg=dict(embed_dims=D, num_heads=4, dropout=0.0, batch_first=True),
        cross_attn_cfg=dict(embed_dims=D, num_heads=4, num_levels=2, dropout=0.0, batch_first=True),
        ffn_cfg=dict(embed_dims=D, feedforward_channels=16),
    )

    def make(**kwargs):
        cfg = dict(num_layers=3, layer_cfg=layer, post_norm_cfg=None, **kwargs)
        ours, host = O2DETRDecoder(**cfg).eval(), DeformableDetrTransformerDecoder(**cfg).eval()
        for parameter in ours.parameters():
            nn.init.normal_(parameter, std=0.3)
        host.load_state_dict(ours.state_dict())
        return ours, host

    return make


@pytest.fixture
def inputs():
    mask = torch.zeros(2, 60, dtype=torch.bool)
    mask[1, 40:] = True
    return dict(
        query=torch.randn(2, 5, D),
        query_pos=torch.randn(2, 5, D),
        value=torch.randn(2, 60, D),
        key_padding_mask=mask,
        spatial_shapes=SHAPES,
        level_start_index=torch.tensor([0, 48]),
        valid_ratios=torch.rand(2, 2, 2) * 0.5 + 0.5,
    )


@pytest.mark.parametrize('kind', ['points', 'boxes'])
def test_without_refinement_it_is_the_hosts(decoders, inputs, kind):
    ours, host = decoders(return_intermediate=True)
    if kind == 'points':
        given = theirs = torch.rand(2, 5, 2)
    else:
        # Sides of the rectangles around the corners, in pixels of an image of 60 x 90 and 80 x 40.
        size = torch.tensor([[60.0, 90], [80, 40]])
        cells = torch.tensor([8.0, 6.0])  # of the finest map: the images fill parts of different shape
        inputs['valid_ratios'] = (size / 20 / cells)[:, None].expand(2, 2, 2)
        boxes = torch.cat([torch.rand(2, 5, 4) * 50 + 10, torch.rand(2, 5, 1) * torch.pi], dim=-1)
        corners = RotatedBoxes.rbox2corner(boxes)
        sides = corners.amax(2) - corners.amin(2)
        theirs = torch.cat([boxes[..., :2], sides], dim=-1) / size.repeat(1, 2)[:, None]
        factors = torch.stack([box_factors((int(h), int(w)), boxes) for w, h in size])
        given = boxes / factors[:, None]
    states, references = ours(reference_points=given, **inputs)
    expected, _ = host(reference_points=theirs, **inputs)
    assert torch.allclose(states, expected, atol=1e-4)
    assert all(torch.equal(x, given) for x in references)


@pytest.mark.parametrize('size', [2, 4], ids=['points', 'boxes'])
def test_refinement_of_horizontal_boxes_is_the_hosts(decoders, inputs, size):
    ours, host = decoders(return_intermediate=True)
    branches = nn.ModuleList([nn.Linear(D, 6) for _ in range(3)])
    horizontal = nn.ModuleList([nn.Linear(D, 4) for _ in range(3)])
    for six, four in zip(branches, horizontal, strict=True):
        four.load_state_dict({name: value[:4] for name, value in six.state_dict().items()})
        nn.init.zeros_(six.weight.data[4:])
        six.bias.data[4:] = torch.tensor([1.0, 0.0])  # θ is 0
    # A square image: the sides of a box are in the units of the host.
    inputs['valid_ratios'] = torch.tensor([0.5, 2 / 3]).expand(2, 2, 2)
    reference = torch.rand(2, 5, 5)
    reference[..., 4] = 0
    given = reference if size == 4 else reference[..., :2]
    states, references = ours(reference_points=given, reg_branches=branches, **inputs)
    with torch.no_grad():  # the host writes into the output of its branches
        expected, boxes = host(reference_points=reference[..., :size], reg_branches=horizontal, **inputs)
    assert torch.allclose(states, expected, atol=1e-5)
    assert torch.allclose(references[..., :4], boxes, atol=1e-5) and not references[..., 4].any()
    assert references.shape == (3, 2, 5, 5) and not references.requires_grad


def test_last_layer_only(decoders, inputs):
    ours, _ = decoders(return_intermediate=False)
    state, reference = ours(reference_points=torch.rand(2, 5, 2), **inputs)
    assert state.shape == (2, 5, D) and reference.shape == (2, 5, 2)


def test_a_turned_box_with_exchanged_sides_is_sampled_the_same(decoders, inputs):
    ours, _ = decoders(return_intermediate=True)
    boxes = torch.rand(2, 5, 5)
    same = torch.cat([boxes[..., [0, 1, 3, 2]], (boxes[..., 4:] + 0.5) % 1], dim=-1)
    turned = torch.cat([boxes[..., :4], (boxes[..., 4:] + 0.5) % 1], dim=-1)
    states = [ours(reference_points=x, **inputs)[0] for x in (boxes, same, turned)]
    assert torch.allclose(states[0], states[1], atol=1e-4) and not torch.allclose(states[0], states[2], atol=1e-2)
