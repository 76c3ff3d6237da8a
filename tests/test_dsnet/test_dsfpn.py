"""DSFPN: the host's FPN at the start, its weights, its options; and a learned difference."""

from copy import deepcopy

import pytest
import torch
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from torch import nn

from mmplugins.dsnet import DSFPN

CHANNELS = [4, 8, 12, 16]
LISTS = dict(lateral='lateral_convs', lateral_rev='lateral_convs', output='fpn_convs')
BASE = dict(in_channels=CHANNELS, out_channels=16, num_outs=5)
EXTRAS = [
    dict(),
    dict(start_level=1, add_extra_convs='on_input'),
    dict(add_extra_convs='on_lateral', norm_cfg=dict(type='BN')),
    dict(add_extra_convs='on_output', relu_before_extra_convs=True, upsample_cfg=dict(mode='bilinear')),
    dict(end_level=2, num_outs=3),
]
extras = pytest.mark.parametrize('extra', EXTRAS, ids=lambda extra: '-'.join(map(str, extra)) or 'plain')
positions = pytest.mark.parametrize('position', list(LISTS))


def maps(batch: int = 2, size: tuple[int, int] = (24, 40)) -> list[torch.Tensor]:
    """Maps of a backbone, sides rounded up."""
    return [
        torch.randn(batch, c, -(-size[0] // 2**i), -(-size[1] // 2**i)) for i, c in enumerate(CHANNELS)
    ]  # fmt: skip


@extras
@positions
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_starts_as_fpn_and_loads_its_weights(extra, position, training):
    options = {**BASE, **extra}
    fpn, ours = FPN(**options), DSFPN(**options, head_dim=2, position=position)
    fpn.init_weights()
    missing, unexpected = ours.load_state_dict(fpn.state_dict(), strict=False)
    assert not unexpected
    blocks = {key for key in ours.state_dict() if '.block.' in key and not key.endswith('num_batches_tracked')}
    assert set(missing) == blocks
    inputs = maps(size=(23, 37))
    expected, found = fpn.train(training)(inputs), ours.train(training)(inputs)
    assert len(found) == options['num_outs']
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


@positions
def test_differs_after_one_step(position):
    fpn, ours = FPN(**BASE), DSFPN(**BASE, head_dim=2, position=position)
    ours.load_state_dict(fpn.state_dict(), strict=False)
    inputs = maps()
    for neck in (fpn, ours):
        optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
        sum(y.square().mean() for y in neck(inputs)).backward()
        optimizer.step()
    for a, b in zip(fpn.eval()(inputs)[:4], ours.eval()(inputs), strict=False):
        assert not torch.allclose(a, b)
    # From the second step on, nothing is dead.
    ours.train().zero_grad()
    sum(y.square().mean() for y in ours(inputs)).backward()
    assert not [name for name, p in ours.named_parameters() if not p.grad.abs().sum() > 0]


@positions
def test_init_weights_keeps_the_start(position):
    """The host initializes all convolutions inside it, also those of the blocks."""
    ours = DSFPN(**BASE, head_dim=2, position=position)
    ours.init_weights()
    fpn = FPN(**BASE)
    fpn.load_state_dict({key: value for key, value in ours.state_dict().items() if '.block.' not in key})
    inputs = maps()
    for a, b in zip(fpn(inputs), ours(inputs), strict=True):
        assert torch.equal(a, b)


def test_zero_init_is_an_option():
    fpn, ours = FPN(**BASE), DSFPN(**BASE, head_dim=2, zero_init=False)
    ours.init_weights()
    fpn.load_state_dict({key: value for key, value in ours.state_dict().items() if '.block.' not in key})
    inputs = maps()
    assert not torch.allclose(fpn(inputs)[0], ours(inputs)[0])
    linear = [m for m in ours.modules() if isinstance(m, nn.Linear)]
    # Xavier, as the paper says of all new layers.
    scaled = torch.cat([m.weight.flatten() / (6 / sum(m.weight.shape)) ** 0.5 for m in linear])
    assert scaled.abs().max() <= 1 and scaled.std().item() == pytest.approx(3**-0.5, rel=0.1)
    assert not any(m.bias.any() for m in linear)


def test_pretrained_weights_are_loaded_behind_the_zeros(tmp_path):
    trained = DSFPN(**BASE, head_dim=2, zero_init=False)
    torch.save(trained.state_dict(), tmp_path / 'neck.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'neck.pth'))
    ours = DSFPN(**BASE, head_dim=2, init_cfg=init_cfg)
    ours.init_weights()
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in trained.state_dict().items())


@pytest.mark.parametrize(
    ('options', 'parameters'),
    [
        (dict(position='lateral_rev', mlp_ratio=1), 4_426_240),
        (dict(position='lateral_rev'), 6_002_176),
        (dict(position='output', mlp_ratio=1), 4_426_240),
        (dict(), 2_623_488 + 54_496 + 213_440 + 1_316_960 + 3_360_512),  # the blocks of the backbone
    ],
)
def test_parameters(options, parameters):
    base = dict(in_channels=[64, 128, 320, 512], out_channels=256, num_outs=5)
    with torch.device('meta'):
        assert sum(p.numel() for p in FPN(**base).parameters()) == 2_623_488
        ours = DSFPN(**base, **options)
        assert sum(p.numel() for p in ours.parameters()) == parameters


def test_channels_of_the_blocks_and_their_heads():
    """Half of the channels of a block are in heads of 32: 1, 2, 5, 8 on the maps of DS-Net, as in the backbone."""
    base = dict(in_channels=[64, 128, 320, 512], out_channels=256, num_outs=5)
    with torch.device('meta'):
        found = {p: getattr(DSFPN(**base, position=p), name) for p, name in LISTS.items()}
    channels = {p: [conv.block.norm1.num_features for conv in convs[:4]] for p, convs in found.items()}
    assert channels == dict(lateral=[64, 128, 320, 512], lateral_rev=[256] * 4, output=[256] * 4)
    heads = {p: [conv.block.glob.num_heads for conv in convs[:4]] for p, convs in found.items()}
    assert heads == dict(lateral=[1, 2, 5, 8], lateral_rev=[4] * 4, output=[4] * 4)


def test_last_is_a_block_in_the_place_of_the_convolution():
    ours, inputs = DSFPN(**BASE, head_dim=2, position='last', zero_init=False).eval(), maps()
    found = ours(inputs)
    assert [y.shape for y in found] == [y.shape for y in FPN(**BASE)(inputs)]
    torch.testing.assert_close(found[3], ours.fpn_convs[3](ours.lateral_convs[3](inputs[3])))
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and m.groups == 1 for m in ours.modules()) == 0


def test_lateral_positions_follow_their_formulas():
    inputs = maps()
    for position in ('lateral', 'lateral_rev'):
        ours = DSFPN(**BASE, head_dim=2, position=position, zero_init=False).eval()
        conv, x = ours.lateral_convs[3], inputs[3]
        lateral = conv.conv(conv.block(x)) if position == 'lateral' else conv.block(conv.conv(x))
        torch.testing.assert_close(ours(inputs)[3], ours.fpn_convs[3].conv(lateral))


@pytest.mark.parametrize('source', ['on_input', 'on_lateral', 'on_output'])
def test_extra_scales_of_patches_and_blocks(source):
    options = {**BASE, 'num_outs': 6, 'add_extra_convs': source}
    ours = DSFPN(**options, head_dim=2, extra_blocks=True, zero_init=False).eval()
    inputs = maps(size=(23, 37))
    fpn = FPN(**options)
    missing, unexpected = fpn.load_state_dict(ours.state_dict(), strict=False)
    assert all(key.startswith(('fpn_convs.4.', 'fpn_convs.5.')) for key in missing)
    found = ours(inputs)
    assert [y.shape for y in found] == [y.shape for y in fpn(inputs)]
    extra = ours.fpn_convs[5]
    torch.testing.assert_close(found[5], extra.block(extra.embed(found[4])))
    assert extra.embed.projection.kernel_size == (2, 2)
    sum(y.square().sum() for y in ours.train()(inputs[:3] + [torch.randn(2, 16, 9, 9)])[-2:]).backward()
    assert all(p.grad is not None for p in ours.fpn_convs[4].parameters())


@positions
@pytest.mark.parametrize('levels', [None, (1, 2, 3), (2,), ()], ids=str)
def test_levels(levels, position):
    ours = DSFPN(**BASE, head_dim=2, levels=levels, position=position, add_extra_convs='on_output')
    found = {int(key.split('.')[1]) for key in ours.state_dict() if '.block.' in key}
    assert found == set(range(4) if levels is None else levels)
    assert all(key.startswith(LISTS[position]) for key in ours.state_dict() if '.block.' in key)


def test_position_is_before_or_after_the_sum():
    """A block on the laterals reaches finer scales, one on the outputs does not."""
    inputs = maps()
    for position, reaches in (('lateral', True), ('lateral_rev', True), ('output', False)):
        ours = DSFPN(**BASE, head_dim=2, position=position, levels=(3,)).eval()
        before = ours(inputs)
        nn.init.constant_(getattr(ours, LISTS[position])[3].block.ffn.fc2.bias, 1.0)
        after = ours(inputs)
        assert not torch.allclose(before[3], after[3])
        assert torch.allclose(before[0], after[0]) is not reaches


def test_as_many_tokens_everywhere_as_the_coarsest_map_has_positions():
    for extra, expected in (
        (dict(), (8, 4, 2, 1)),
        (dict(start_level=1), (4, 2, 1)),
        (dict(end_level=1, num_outs=2), (2, 1)),
    ):
        ours = DSFPN(**{**BASE, **extra}, head_dim=2).eval()
        assert tuple(conv.block.global_ratio for conv in ours.lateral_convs) == expected
    given = DSFPN(**BASE, head_dim=2, global_ratios=(4, 4, 2, 2))
    assert tuple(conv.block.global_ratio for conv in given.lateral_convs) == (4, 4, 2, 2)


@positions
def test_copies_use_their_own_blocks(position):
    """EMA and some inferencers copy the model."""
    ours = DSFPN(**BASE, head_dim=2, position=position).eval()
    other = deepcopy(ours)
    inputs = maps()
    expected = ours(inputs)[0]
    for name, parameter in ours.named_parameters():
        if '.block.' in name:
            nn.init.normal_(parameter)
    assert torch.equal(other(inputs)[0], expected)
    assert not torch.allclose(ours(inputs)[0], expected)


def test_recomputation_changes_nothing():
    ours, saving = (DSFPN(**BASE, head_dim=2, zero_init=False, with_cp=with_cp) for with_cp in (False, True))
    saving.load_state_dict(ours.state_dict())
    inputs = [x.requires_grad_() for x in maps()]
    gradients = [
        torch.autograd.grad(sum(y.square().mean() for y in neck(inputs)), [*inputs, *neck.parameters()])
        for neck in (ours, saving)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ('options', 'missing'),
    [
        (dict(split_ratio=0.0), {'glob', 'global_in', 'global_out', 'align'}),
        (dict(split_ratio=1.0), {'local', 'local_in', 'local_out', 'align'}),
        (dict(inter_scale_align=False), {'align'}),
        (dict(split_ratio=0.25), set()),
    ],
    ids=['no global stream', 'no local stream', 'not aligned', 'a quarter local'],
)
def test_ablations_of_the_blocks(options, missing):
    """Of the streams and their alignment; it still starts as FPN."""
    ours, fpn, inputs = DSFPN(**BASE, head_dim=1, **options), FPN(**BASE), maps()
    ours.init_weights()
    fpn.load_state_dict({key: value for key, value in ours.state_dict().items() if '.block.' not in key})
    assert all(torch.equal(a, b) for a, b in zip(fpn(inputs), ours(inputs), strict=True))
    parts = {'local', 'local_in', 'local_out', 'glob', 'global_in', 'global_out', 'align'}
    found = {key.split('.block.')[1].split('.')[0] for key in ours.state_dict() if '.block.' in key}
    assert parts - found == missing


@positions
def test_maps_are_contiguous(position):
    """Also of channels-last inputs: RoIAlign reads the memory as it lies."""
    ours = DSFPN(**BASE, head_dim=2, position=position, zero_init=False)
    found = ours([x.contiguous(memory_format=torch.channels_last) for x in maps()])
    assert all(y.is_contiguous() for y in found)


def test_convolutions_have_the_norms_of_the_host():
    """Those that are replaced, too."""
    norm = dict(norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    for extra in (norm, dict(norm, no_norm_on_lateral=True)):
        fpn = FPN(**BASE, **extra)
        for position in LISTS:
            ours = DSFPN(**BASE, **extra, head_dim=2, position=position)
            keys = {key for key in ours.state_dict() if '.block.' not in key}
            assert keys == fpn.state_dict().keys()
            assert ours.load_state_dict(fpn.state_dict(), strict=False).unexpected_keys == []
            inputs = maps()
            for a, b in zip(fpn.eval()(inputs), ours.eval()(inputs), strict=True):
                assert torch.equal(a, b)


def test_from_the_registry_of_the_host():
    neck = MODELS.build(dict(type='DSFPN', **BASE, head_dim=2, block_norm_cfg=dict(type='SyncBN')))
    assert isinstance(neck, FPN)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in neck.modules())


@positions
def test_every_layer_with_weights_is_called(position, silent):
    ours = DSFPN(**BASE, head_dim=2, position=position, add_extra_convs='on_input', extra_blocks=True)
    assert not silent(ours, maps(size=(23, 37)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(levels=(0, 4)), r'levels=\(0, 4\): FPN builds 4 scales, 0 to 3'),
        (dict(levels=(-1,)), r'levels=\(-1,\)'),
        (dict(position='input'), "position='input' is not 'lateral', 'lateral_rev', 'output' or 'last'"),
        (dict(global_ratios=(2, 1)), r'global_ratios=\(2, 1\) needs one entry a scale, 4'),
        (dict(head_dim=0), 'head_dim=0 is not a number of channels from 1 on'),
        (dict(head_dim=-2), 'head_dim=-2 is not'),
        (dict(head_dim=3), 'head_dim=3 does not divide the 2 channels of the global stream .of 4 channels of a block'),
        (dict(head_dim=6, position='output'), 'head_dim=6 does not divide the 8 channels'),
        (dict(extra_blocks=True), 'extra_blocks=True is for the scales of add_extra_convs'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DSFPN(**{**BASE, 'head_dim': 2, **options})
