"""Grouped decoders against the host's with a block-diagonal mask, and against copies of the memory."""

import copy

import pytest
import torch
from mmdet.models.layers import (
    DeformableDetrTransformerDecoder,
    DeformableDetrTransformerDecoderLayer,
    DinoTransformerDecoder,
)
from mmengine.model import ModuleList
from torch import nn

from mmplugins.metr.decoder import DeformableMETRDecoder, METRDecoder, METRDecoderLayer
from mmplugins.metr.positions import matched

POSITIONS = 'ref_point_head.layers.0.weight'
B, K, Q, P, D, HEADS = 2, 3, 4, 6, 16, 4
SHAPES = torch.tensor([[4, 5], [2, 3]])
N = int(SHAPES.prod(1).sum())
LAYER = dict(
    self_attn_cfg=dict(embed_dims=D, num_heads=HEADS, dropout=0.0),
    cross_attn_cfg=dict(embed_dims=D, num_heads=HEADS, num_levels=2, num_points=2, dropout=0.0),
    ffn_cfg=dict(embed_dims=D, feedforward_channels=32, ffn_drop=0.0),
)


def randomize(module: nn.Module) -> nn.Module:
    """Values away from the start, where deformable attention ignores its query."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture
def layers():
    """Our layer and the host's, with the same parameters."""
    ours = randomize(METRDecoderLayer(**copy.deepcopy(LAYER)))
    host = DeformableDetrTransformerDecoderLayer(**copy.deepcopy(LAYER))
    host.load_state_dict(ours.state_dict())
    return ours, host


@pytest.fixture
def inputs():
    """Function that gives the inputs of a layer for ``M`` queries; the second image is padded at the right."""

    def make(num_queries: int) -> dict:
        generator = torch.Generator().manual_seed(6)
        mask = torch.zeros(B, N, dtype=torch.bool)
        mask[1, [4, 9, 14, 19, 22, 25]] = True
        return dict(
            query=torch.randn(B, num_queries, D, generator=generator),
            query_pos=torch.randn(B, num_queries, D, generator=generator),
            value=torch.randn(B, N, D, generator=generator),
            key_padding_mask=mask,
            reference_points=0.2 + 0.5 * torch.rand(B, num_queries, 1, 4, generator=generator).repeat(1, 1, 2, 1),
            spatial_shapes=SHAPES,
            level_start_index=torch.tensor([0, 20]),
        )

    return make


def block_diagonal(num_dn: int, dn_mask=None) -> torch.Tensor:
    """``(B * heads, M, M)``, True where attention is forbidden: groups see themselves, denoising as its mask says."""
    size = num_dn + K * Q
    mask = torch.ones(B, size, size, dtype=torch.bool)
    if num_dn:
        mask[:, :num_dn, :num_dn] = dn_mask
    for group in range(K):
        part = slice(num_dn + group * Q, num_dn + (group + 1) * Q)
        mask[:, part, part] = False
    return mask.repeat_interleave(HEADS, dim=0)


@pytest.fixture
def dn_mask():
    """``(B, P, P)``, random, with the diagonal allowed; another one for each image."""
    mask = torch.rand(B, P, P, generator=torch.Generator().manual_seed(7)) < 0.5
    return mask & ~torch.eye(P, dtype=torch.bool)


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_layer_is_the_host_s_with_a_block_diagonal_mask(layers, inputs):
    ours, host = layers
    kwargs = inputs(K * Q)
    close(ours(**kwargs, num_groups=K), host(**kwargs, self_attn_mask=block_diagonal(0)))


def test_layer_with_denoising_is_the_host_s_with_a_block_diagonal_mask(layers, inputs, dn_mask):
    ours, host = layers
    kwargs = inputs(P + K * Q)
    got = ours(**kwargs, num_groups=K, dn_mask=dn_mask.repeat_interleave(HEADS, dim=0))
    close(got, host(**kwargs, self_attn_mask=block_diagonal(P, dn_mask)))


def test_layer_is_the_host_s_with_a_copy_of_the_memory_for_each_category(layers, inputs):
    """Image by image, then category by category: ``repeat_interleave``. The released code tiles the references."""
    ours, host = layers
    kwargs = inputs(K * Q)
    copies = dict(
        {key: kwargs[key].reshape(B * K, Q, -1) for key in ('query', 'query_pos')},
        value=kwargs['value'].repeat_interleave(K, dim=0),
        key_padding_mask=kwargs['key_padding_mask'].repeat_interleave(K, dim=0),
        reference_points=kwargs['reference_points'].reshape(B * K, Q, 2, 4),
        spatial_shapes=SHAPES,
        level_start_index=kwargs['level_start_index'],
    )
    close(ours(**kwargs, num_groups=K), host(**copies).reshape(B, K * Q, D))


def test_one_group_is_the_host_s_layer(layers, inputs):
    ours, host = layers
    kwargs = inputs(Q)
    torch.testing.assert_close(ours(**kwargs, num_groups=1), host(**kwargs), rtol=0, atol=1e-5)


def changed_queries(ours, kwargs, part, **extra) -> torch.Tensor:
    """``(M,)`` bool: whose output is not bit-equal after other values came in at ``part``."""
    before = ours(**kwargs, **extra)
    query = kwargs['query'].clone()
    query[:, part] = torch.randn(query[:, part].shape)
    after = ours(**dict(kwargs, query=query), **extra)
    return (before != after).any(-1).any(0)


@pytest.mark.parametrize('group', range(K))
def test_a_group_does_not_see_another(layers, inputs, group):
    changed = changed_queries(layers[0], inputs(K * Q), slice(group * Q, group * Q + 1), num_groups=K)
    assert changed.view(K, Q).tolist() == [[other == group] * Q for other in range(K)]


def test_denoising_and_groups_do_not_see_each_other(layers, inputs, dn_mask):
    """DINO's denoising queries see the matching ones; ours stand beside the groups, so they do not."""
    kwargs = inputs(P + K * Q)
    extra = dict(num_groups=K, dn_mask=dn_mask.repeat_interleave(HEADS, dim=0))
    from_dn = changed_queries(layers[0], kwargs, slice(0, P), **extra)
    assert from_dn.tolist() == [True] * P + [False] * K * Q
    from_groups = changed_queries(layers[0], kwargs, slice(P, None), **extra)
    assert from_groups.tolist() == [False] * P + [True] * K * Q


@pytest.mark.parametrize('query', range(P))
def test_denoising_queries_see_what_the_mask_says(layers, inputs, dn_mask, query):
    """For per-category, per-group masks see ``test_denoising.py``; here any mask is obeyed, of each image its own."""
    extra = dict(num_groups=K, dn_mask=dn_mask.repeat_interleave(HEADS, dim=0))
    kwargs = inputs(P + K * Q)
    before = layers[0](**kwargs, **extra)
    moved = kwargs['query'].clone()
    moved[:, query] += 1
    after = layers[0](**dict(kwargs, query=moved), **extra)
    changed = (before != after).any(-1)[:, :P]
    assert torch.equal(changed, ~dn_mask[:, :, query])


def decoders(ours_type, host_type):
    cfg = dict(num_layers=2, layer_cfg=LAYER, return_intermediate=True, post_norm_cfg=None)
    ours = randomize(ours_type(**copy.deepcopy(cfg)))
    host = host_type(**copy.deepcopy(cfg))
    state = ours.state_dict()
    if POSITIONS in state:
        state[POSITIONS] = matched(state[POSITIONS], host.state_dict()[POSITIONS].size(1))
    host.load_state_dict(state)
    branches = randomize(ModuleList([nn.Linear(D, 4) for _ in range(2)]))
    return ours, host, branches


@pytest.fixture
def decoder_inputs(inputs):
    def make(num_queries: int) -> dict:
        kwargs = inputs(num_queries)
        kwargs['reference_points'] = kwargs['reference_points'][:, :, 0]
        kwargs['valid_ratios'] = torch.tensor([[[1.0, 1.0]] * 2, [[0.8, 1.0], [0.66, 1.0]]])
        return kwargs

    return make


@pytest.mark.parametrize('num_dn', [0, P], ids=['matching', 'matching and denoising'])
def test_dino_decoder_is_the_host_s(decoder_inputs, dn_mask, num_dn):
    ours, host, branches = decoders(METRDecoder, DinoTransformerDecoder)
    kwargs = decoder_inputs(num_dn + K * Q)
    del kwargs['query_pos']
    heads_mask = dn_mask.repeat_interleave(HEADS, dim=0) if num_dn else None
    got = ours(**kwargs, reg_branches=branches, num_groups=K, dn_mask=heads_mask)
    expected = host(**kwargs, reg_branches=branches, self_attn_mask=block_diagonal(num_dn, dn_mask))
    assert got[0].shape == (2, B, num_dn + K * Q, D)
    for mine, theirs in zip(got, expected, strict=True):
        close(mine, theirs)


def test_deformable_decoder_is_the_host_s(decoder_inputs):
    ours, host, branches = decoders(DeformableMETRDecoder, DeformableDetrTransformerDecoder)
    kwargs = decoder_inputs(K * Q)
    got = ours(**kwargs, reg_branches=branches, num_groups=K)
    expected = host(**kwargs, reg_branches=branches, self_attn_mask=block_diagonal(0))
    for mine, theirs in zip(got, expected, strict=True):
        close(mine, theirs)


def test_gradients_equal_those_of_the_mask(layers, inputs, dn_mask):
    ours, host = layers
    kwargs = inputs(P + K * Q)
    weight = torch.randn(B, P + K * Q, D)
    (ours(**kwargs, num_groups=K, dn_mask=dn_mask.repeat_interleave(HEADS, dim=0)) * weight).sum().backward()
    (host(**kwargs, self_attn_mask=block_diagonal(P, dn_mask)) * weight).sum().backward()
    for (name, mine), theirs in zip(ours.named_parameters(), host.parameters(), strict=True):
        assert mine.grad is not None, name
        torch.testing.assert_close(
            mine.grad, theirs.grad, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: name + text
        )
