"""SPSA behind layers of the hosts' backbones, by the names of the layers."""

from copy import deepcopy

import pytest
import torch
from mmdet.registry import MODELS as DET
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.registry import MODELS as PRETRAIN
from torch import nn

from mmplugins.spsa import SPSA, insert_spsa, spsa_gate

SMALL_SWIN = dict(embed_dims=32, depths=[1, 1], num_heads=[2, 2])
SMALL_CONVNEXT = dict(depths=[1, 1, 1, 1], channels=[16, 32, 48, 64])
SMALL_MIT = dict(embed_dims=16, num_stages=2, num_layers=[1, 1], num_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2],
                 sr_ratios=[8, 4], out_indices=(0, 1))  # fmt: skip
TIMM = dict(type='mmpretrain.TIMMBackbone', model_name='mobilenetv3_small_050', features_only=True)
EIGHT = dict(mixer=dict(type='SPSA', head_dim=8))
# Backbone, layers, how many they are, options.
HOSTS = {
    'mmpretrain ResNet-18': (dict(type='mmpretrain.ResNet', depth=18), r'layer[2-4].*\.conv2', 6, {}),
    'mmdet ResNet-50': (dict(type='mmdet.ResNet', depth=50, base_channels=16), r'layer[2-4].*\.conv2', 13, {}),
    'mmdet CSPDarknet': (
        dict(type='mmdet.CSPDarknet', deepen_factor=0.33, widen_factor=0.25), r'stage[2-4].*blocks\.\d\.conv2', 7, EIGHT
    ),
    'mmpretrain Swin': (
        dict(type='mmpretrain.SwinTransformer', arch=SMALL_SWIN, out_indices=(0, 1)), r'.*\.attn', 2, {}
    ),
    'mmpretrain ConvNeXt': (
        dict(type='mmpretrain.ConvNeXt', arch=SMALL_CONVNEXT), r'stages.*depthwise_conv', 4, {}
    ),
    'mmseg MiT': (dict(type='mmseg.MixVisionTransformer', **SMALL_MIT), r'layers\.\d\.1\.\d\.attn', 2, {}),
    'mmdet RegNet': (dict(type='mmdet.RegNet', arch='regnetx_400mf'), r'layer[34].*\.conv2', 19, {}),
    'timm MobileNetV3': (TIMM, r'.*conv_dw', 11, EIGHT),
}  # fmt: skip


def maps(network, x):
    found = network(x)
    return found if isinstance(found, (tuple, list)) else (found,)


@pytest.mark.parametrize('host', HOSTS)
def test_insert_leaves_the_weights_of_the_host(host):
    config, after, number, options = HOSTS[host]
    if 'TIMM' in config['type']:
        pytest.importorskip('timm')
    if 'mmseg' in config['type']:
        pytest.importorskip('mmseg.models')
    plain = MODELS.build(config)
    ours = MODELS.build(dict(type='SPSAInserter', backbone=config, after=after, **options))
    assert type(ours) is type(plain)
    assert [isinstance(m, SPSA) for m in ours.modules()].count(True) == number
    assert ours.state_dict().keys() == plain.state_dict().keys()
    ours.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, 96, 64)
    for network in (ours, plain):
        network.train()
    found, expected = maps(ours, x), maps(plain, x)
    assert [y.shape for y in found] == [y.shape for y in expected]
    assert not torch.allclose(found[-1], expected[-1])
    found[-1].square().mean().backward()
    for network in (ours, plain):
        network.eval()
    copy = deepcopy(ours)
    assert all(torch.equal(a, b) for a, b in zip(maps(copy, x), maps(ours, x), strict=True))


def test_insert_is_the_gate_behind_the_layer():
    """Of a map, of tokens, and of channels in the end; against the function on the output of the plain layer."""
    conv, linear = nn.Conv2d(3, 32, 1), nn.Linear(32, 32)

    class Network(nn.Module):
        def __init__(self, last):
            super().__init__()
            self.conv, self.linear, self.last = deepcopy(conv), deepcopy(linear), last

        def forward(self, x):
            x = self.conv(x).permute(0, 2, 3, 1)
            return self.linear(x if self.last else x.flatten(1, 2))

    x = torch.randn(2, 3, 6, 5)
    mapped = insert_spsa(Network(True), 'conv', dict(type='SPSA', head_dim=8))
    torch.testing.assert_close(mapped(x), linear(spsa_gate(conv(x), 4).permute(0, 2, 3, 1)))
    expected = spsa_gate(linear(conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(insert_spsa(Network(False), 'linear')(x), expected.flatten(1, 2))
    torch.testing.assert_close(insert_spsa(Network(True), 'linear', channel_axis=-1)(x), expected)


def test_insert_behind_a_sequential_mixes_once():
    """It runs all that it holds, so a hook would mix again; in a copy, too."""
    plain = PRETRAIN.build(dict(type='ResNet', depth=18, out_indices=(1, 2, 3)))
    plain.eval()  # of mmpretrain's it returns None
    ours = deepcopy(insert_spsa(deepcopy(plain), 'layer[2-4]'))
    x, expected = torch.randn(1, 3, 64, 64), []
    z = plain.layer1(plain.maxpool(plain.relu(plain.norm1(plain.conv1(x)))))
    for layer in (plain.layer2, plain.layer3, plain.layer4):
        z = layer(z)
        z = spsa_gate(z, z.shape[1] // 16)
        expected.append(z)
    torch.testing.assert_close(list(ours(x)), expected)


class Branches(nn.ModuleDict):
    def forward(self, x):
        return torch.cat([layer(x) for layer in self.values()], dim=1)


def test_insert_behind_a_container_with_a_forward_of_its_own_is_refused():
    """It would run the mixer beside the branches."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Branches(dict(a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1))))
    with pytest.raises(ValueError, match='layer 1 of Sequential runs the layers that it holds in a way of its own'):
        insert_spsa(network, '1')


def test_insert_behind_a_layer_that_is_called_twice():
    """Asking what it returns does not put the first output in the place of the second."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x):
            small = self.conv(self.conv(self.stem(x))[:, :, ::2, ::2])
            assert small.shape[-1] == x.shape[-1] // 2
            return small

    network = Network()
    x = torch.randn(1, 3, 8, 8)
    expected = spsa_gate(network.conv(spsa_gate(network.conv(network.stem(x)), 1)[:, :, ::2, ::2]), 1)
    torch.testing.assert_close(insert_spsa(network, 'conv')(x), expected)


def test_insert_changes_all_layers_or_none():
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 20, 1))
    with pytest.raises(ValueError, match='behind layer 1: head_dim=16 does not divide in_channels=20'):
        insert_spsa(network, '0|1')
    insert_spsa(network, '0|1', dict(type='SPSA', head_dim=4))
    assert [isinstance(m, SPSA) for m in network.modules()].count(True) == 2


def test_insert_leaves_statistics_and_modes():
    network = PRETRAIN.build(dict(type='ResNet', depth=18, norm_eval=False, frozen_stages=1))
    network.train()
    before, modes = deepcopy(network.state_dict()), [m.training for m in network.modules()]
    insert_spsa(network, r'layer4\.1\.conv2')
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    names = [m.training for name, m in network.named_modules() if '.spsa' not in name]
    assert names == modes


def test_insert_into_a_detector_that_is_not_in_memory():
    """The scope of the host is found, and no memory is needed."""
    init_default_scope('mmdet')  # as a config's
    config = dict(type='SPSAInserter', backbone=dict(type='ResNet', depth=50), after=r'layer4.*\.conv3')
    with torch.device('meta'):
        assert [isinstance(m, SPSA) for m in DET.build(config).modules()].count(True) == 3


@pytest.mark.parametrize(
    ('after', 'options', 'message'),
    [
        ('layer9.*', dict(), r"after='layer9.\*' is the name of no layer of ResNet; there are \['layer1.0.conv1'"),
        (r'layer1', dict(mixer=dict(type='SPSA', head_dim=48)), 'behind layer layer1: head_dim=48 does not divide'),
        (
            r'layer1\.\d\.drop_path|conv1',
            dict(example=(3, 64, 64), mixer=dict(type='SPSA', head_dim=5)),
            'behind layer',
        ),
    ],
)
def test_insert_with_bad_options(after, options, message):
    with pytest.raises(ValueError, match=message):
        insert_spsa(PRETRAIN.build(dict(type='ResNet', depth=18)), after, **options)


def test_insert_where_nothing_can_be_put():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused, self.pair, self.conv = nn.Linear(2, 2), nn.LSTM(2, 2), nn.Conv2d(3, 16, 1)

        def forward(self, x):
            self.pair(x[0, :, :, :2])
            return self.conv(x)

    with pytest.raises(ValueError, match='layer unused of Network is not called'):
        insert_spsa(Network(), 'unused')
    with pytest.raises(ValueError, match='layer pair of Network returns tuple, no map'):
        insert_spsa(Network(), 'pair')
    network = insert_spsa(Network(), 'conv')
    with pytest.raises(ValueError, match='layer conv of Network has a mixer behind it already'):
        insert_spsa(network, 'conv')
