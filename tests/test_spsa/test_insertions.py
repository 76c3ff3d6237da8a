"""SPSA inside the hosts' own backbones: in the right place, without touching their weights."""

import sys

import pytest
import torch
from mmdet.models.backbones import ResNet as DetResNet
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.models.backbones import MobileNetV2, MobileViT, ResNet
from mmpretrain.models.backbones.mobilevit import MobileVitBlock

import experiments.spsa.mixers  # noqa: F401  registers them
from mmplugins.spsa import SPSA, SPSAMobileNetV2, SPSAMobileViT, SPSAResNet

PLUGINS = [dict(cfg=dict(type='SPSA', head_dim=16), stages=(False, True, True, True), position='after_conv2')]
X = dict(size=(2, 3, 64, 96))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def evaluating(model):
    model.eval()  # of a backbone of mmpretrain it returns None
    return model


def mixers(model):
    return [name for name, module in model.named_modules() if isinstance(module, SPSA)]


@pytest.mark.parametrize(
    ('ours', 'plain', 'number'),
    [
        pytest.param(lambda: SPSAResNet(50), lambda: ResNet(50), 4 + 6 + 3, id='resnet'),
        pytest.param(lambda: SPSAMobileNetV2(), lambda: MobileNetV2(), 3 + 4 + 3 + 3 + 1, id='mobilenet-v2'),
        pytest.param(lambda: DetResNet(50, plugins=PLUGINS), lambda: DetResNet(50), 4 + 6 + 3, id='resnet-mmdet'),
    ],
)
def test_weights_of_the_host_fit(ours, plain, number):
    ours, plain = ours(), plain()
    assert len(mixers(ours)) == number
    assert count(ours) == count(plain)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    ours.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(**X)
    ours.eval(), plain.eval()
    with torch.no_grad():
        found, expected = ours(x), plain(x)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
    assert not torch.allclose(found[-1], expected[-1])


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('make', [
    pytest.param(lambda **o: (SPSAResNet(50, mixer=None, base_channels=16, stem_channels=16, **o),
                              ResNet(50, base_channels=16, stem_channels=16, **o)), id='resnet'),
    pytest.param(lambda **o: (SPSAMobileNetV2(mixer=None, **o), MobileNetV2(**o)), id='mobilenet-v2'),
])  # fmt: skip
def test_without_a_mixer_it_is_the_host(make, with_cp):
    ours, plain = make(with_cp=with_cp)
    plain.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(**X)
    gradients = []
    for model in (ours, plain):
        model(x)[-1].square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_mmpretrain_and_mmdet_put_it_in_the_same_place():
    """The same weights in both ResNets give the same maps."""
    ours = evaluating(SPSAResNet(50, out_indices=(0, 1, 2, 3)))
    det = evaluating(DetResNet(50, plugins=PLUGINS))
    det.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours(x), det(x), strict=True):
            torch.testing.assert_close(a, b)


def test_mobilenet_v2_position():
    """Between the depth-wise convolution and the projection."""
    block = SPSAMobileNetV2().layer3[1]
    assert list(block.conv._modules) == ['0', '1', 'mixer', '2']
    assert block.conv.mixer.in_channels == block.conv[1].conv.groups == block.conv._modules['2'].in_channels


def test_mobilevit_has_no_attention_left():
    ours, plain = SPSAMobileViT('xx_small'), MobileViT('xx_small')
    assert len(mixers(ours)) == 2 + 4 + 3
    attention = {name for name in plain.state_dict() if '.attn.' in name}
    assert plain.state_dict().keys() - ours.state_dict().keys() == attention
    assert not ours.state_dict().keys() - plain.state_dict().keys()
    sizes = sum(dims * dims * 4 + 4 * dims for dims in (64,) * 2 + (80,) * 4 + (96,) * 3)
    assert count(plain) - count(ours) == sizes
    ours(torch.randn(2, 3, 64, 96))[0].mean().backward()
    x = torch.randn(1, 3, 70, 50)
    assert evaluating(ours)(x)[0].shape == evaluating(plain)(x)[0].shape


def test_mobilevit_tokens():
    """In a block, the layer sees the tokens of each place of the patches as one image."""
    ours = SPSAMobileViT('xx_small')
    block = next(module for module in ours.modules() if isinstance(module, MobileVitBlock))
    mixer = block.global_rep[0].attn
    x = torch.randn(8, 12, 64)
    expected = SPSA(64, head_dim=8)(x.permute(0, 2, 1).reshape(8, 64, 3, 4)).flatten(2).permute(0, 2, 1)
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize(
    'mixer',
    [
        dict(type='SPSA', mode='agg'),
        dict(type='SPSASimAM'),
        dict(type='SPSAMHSA', head_dim=8),
        dict(type='SPSASGE', head_dim=8),
    ],
    ids=lambda mixer: mixer['type'],
)
def test_other_mixers(mixer):
    for net in (
        SPSAResNet(50, mixer=mixer, base_channels=16, stem_channels=16),
        SPSAMobileNetV2(mixer=mixer, mixer_layers=(6,)),
        SPSAMobileViT('xx_small', mixer=dict(mixer, head_dim=8) if mixer['type'] == 'SPSA' else mixer),
    ):
        assert evaluating(net)(torch.randn(1, 3, 64, 64))[-1].isfinite().all()


WITHOUT_MMPRETRAIN = """
import sys
sys.modules['mmpretrain'] = None  # as if it were not installed
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmplugins.spsa import SPSA, SPSANet

plugin = dict(cfg=dict(type='SPSA'), stages=(False, False, True, True), position='after_conv2')
for net in (dict(type='ResNet', depth=50, plugins=[plugin]), dict(type='SPSANet', arch='xxs')):
    net = MODELS.build(net)
    net(torch.randn(2, 3, 64, 64))[-1].mean().backward()
    print(sum(isinstance(module, SPSA) for module in net.modules()))
for path in sys.argv[1:]:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    print(type(MODELS.build(cfg.model).backbone).__name__)
from mmplugins.spsa import SPSAResNet
"""
CONFIGS_OF_MMDET = ('fcos_spsanet-micro_1xb8-12e_bccd.py', 'ssdlite_spsanet-xs_8xb24-600e_coco.py')


def test_in_mmdet_without_mmpretrain(run, repo):
    configs = [repo / 'configs/spsa' / name for name in CONFIGS_OF_MMDET]
    done = run(sys.executable, '-W', 'ignore', '-c', WITHOUT_MMPRETRAIN, *configs, check=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[-1] == 'ImportError: SPSAResNet needs mmpretrain: pip install onedl-mmpretrain'
    assert lines.count('SPSANet') == len(configs)
    assert [line for line in lines if line.isdecimal()] == [str(6 + 3), str(2 + 2 + 6 + 3)]


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: SPSAResNet(18), 'depths 50, 101 and 152'),
        (lambda: SPSAResNet(50, mixer_stages=(True, False)), 'one entry a stage, 4'),
        (lambda: SPSAMobileNetV2(mixer_layers=(0,)), 'there are layers 1 to 7'),
        (lambda: SPSAMobileNetV2(mixer=dict(type='SPSA', head_dim=64)), 'does not divide'),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stages_of_the_resnet():
    net = SPSAResNet(50, mixer_stages=(False, False, True, False))
    assert {name.split('.')[0] for name in mixers(net)} == {'layer3'}
    assert ROOT_MODELS.get('SPSAResNet') is None  # a backbone of mmpretrain; in mmdet write mmpretrain.SPSAResNet
