"""SPSANet: counts, shapes, freezing, mixers."""

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.registry import MODELS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import experiments.spsa.mixers  # noqa: F401  registers them
from mmplugins.spsa import SPSA, SPSANet

TINY = dict(dims=(16, 32), depths=(1, 2))
TWO = dict(TINY, residuals=2)
layouts = pytest.mark.parametrize('arch', [TINY, TWO], ids=['one', 'two'])
# arch: parameters with 1000 classes, millions of multiplications at 224 and 256 pixels; the last with attention.
SIZES = [
    ('xxs', 'SPSA', 1_133_672, 197.8, 258.3),
    ('xs', 'SPSA', 2_164_504, 366.8, 479.0),
    ('s', 'SPSA', 5_375_144, 843.8, 1102.0),
    ('xxs', None, 1_133_672, 197.8, 258.3),
    ('xxs', 'SPSAMHSA', 1_564_424, None, 2861),
    ('xs', 'SPSAMHSA', 3_033_016, None, 4294),
    ('s', 'SPSAMHSA', 7_713_272, None, 7278),
    ('xxs_2res', 'SPSA', 1_099_128, 221.5, 289.2),
    ('xs_2res', 'SPSA', 2_107_808, 420.6, 549.3),
    ('s_2res', 'SPSA', 5_445_968, 955.5, 1247.9),
]


def classifier(arch, mixer, classes=1000):
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='SPSANet', arch=arch, mixer=mixer and dict(type=mixer)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=classes, in_channels=SPSANet.arch_settings[arch]['dims'][-1]),
        )
    )


@pytest.mark.parametrize(('arch', 'mixer', 'parameters', 'at_224', 'at_256'), SIZES)
def test_parameters_and_multiplications(arch, mixer, parameters, at_224, at_256):
    with torch.device('meta'):  # counted by torch, not run
        model = classifier(arch, mixer).eval()
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        for side, expected in ((224, at_224), (256, at_256)):
            if expected:
                with FlopCounterMode(display=False) as counter:
                    model(torch.empty(1, 3, side, side), mode='tensor')
                assert counter.get_total_flops() / 2e6 == pytest.approx(expected, rel=0.02)


def test_outputs_of_all_stages():
    net = SPSANet('xxs', out_indices=(0, 1, 2, 3)).eval()
    outputs = net(torch.randn(2, 3, 64, 96))
    assert [tuple(y.shape) for y in outputs] == [(2, 32, 16, 24), (2, 64, 8, 12), (2, 96, 4, 6), (2, 160, 2, 3)]
    assert [tuple(y.shape) for y in SPSANet(TINY)(torch.randn(1, 3, 33, 47))] == [(1, 32, 4, 6)]


@layouts
def test_outputs_come_in_the_order_that_was_asked_for(arch):
    """And contiguous, also of a channels-last image: RoIAlign reads the memory as it lies."""
    net, other = SPSANet(arch, out_indices=(0, 1)).eval(), SPSANet(arch, out_indices=(-1, 0)).eval()
    other.load_state_dict(net.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    first, second = net(x)
    for found, expected in zip(other(x), (second, first), strict=True):
        assert torch.equal(found, expected) and found.is_contiguous()
    assert [(f['num_chs'], f['reduction']) for f in other.feature_info] == [(32, 8), (16, 4)]


@pytest.mark.parametrize('mixer', ['SPSA', 'SPSASimAM', 'SPSASGE', 'SPSAMHSA', None, 'ContextBlock'])
@layouts
def test_mixers_are_swappable(mixer, arch):
    ratio = dict(ratio=0.25) if mixer == 'ContextBlock' else {}  # a plugin of mmcv
    net = SPSANet(arch, mixer=mixer and dict(type=mixer, **ratio))
    net(torch.randn(2, 3, 32, 48))[0].square().mean().backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_weights_load_with_any_parameter_free_mixer():
    net, other = SPSANet(TINY), SPSANet(TINY, mixer=None)
    other.load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(other.state_dict(), strict=True)
    x = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(net.eval()(x)[0], other.eval()(x)[0])  # but it does something


def test_block_follows_the_formula():
    block = SPSANet(TINY).stages[1][2].eval()
    x = torch.randn(2, 32, 4, 6)
    expand, act, reduce = block.ffn
    expected = x + reduce(expand(SPSA(32)(block.norm(block.dwconv(x)))).relu())
    torch.testing.assert_close(block(x), expected)
    assert block.dwconv.groups == 32 and expand.out_channels == 96 and isinstance(act, nn.ReLU)


def test_block_of_two_residuals_follows_the_formula():
    block = SPSANet(TWO).stages[1][2].eval()
    x = torch.randn(2, 32, 4, 6)
    y = x + block.pwconv(SPSA(32)(block.dwconv(block.norm1(x))))
    expand, act, reduce = block.ffn
    torch.testing.assert_close(block(x), y + reduce(nn.functional.gelu(expand(block.norm2(y)))))


def test_no_bias_before_a_norm():
    for module in SPSANet(TINY).modules():
        children = list(module.children())
        for layer, following in zip(children, children[1:], strict=False):
            if isinstance(layer, nn.Conv2d):
                assert (layer.bias is None) is isinstance(following, nn.BatchNorm2d)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
def test_frozen_stages(frozen):
    net = SPSANet(TINY, frozen_stages=frozen)
    net.train()
    net(torch.randn(2, 3, 32, 32))[0].sum().backward()
    parts = [net.stem, *net.stages]
    for index, part in enumerate(parts):
        is_frozen = index <= frozen
        assert all((parameter.grad is None) is is_frozen for parameter in part.parameters()), index
        assert all(norm.training is not is_frozen for norm in part.modules() if isinstance(norm, nn.BatchNorm2d))


def test_norm_eval():
    net = SPSANet(TINY, norm_eval=True).train()
    assert not any(norm.training for norm in net.modules() if isinstance(norm, nn.BatchNorm2d))
    assert net.stages[0][0].training


@layouts
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_checkpointing_changes_nothing(arch, training):
    """Neither gradients nor the statistics of batch norms, which see each batch once."""
    net, saving = SPSANet(arch), SPSANet(arch, with_cp=True)
    saving.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    for model in (net, saving):
        model.train(training)(x)[0].square().mean().backward()
    torch.testing.assert_close(*([parameter.grad for parameter in model.parameters()] for model in (net, saving)))
    torch.testing.assert_close(net.state_dict(), saving.state_dict())


@pytest.mark.parametrize('mixer', ['SPSA', 'SPSAMHSA', None])
@layouts
def test_hosts_fusion_of_norms_is_right(mixer, arch):
    """mmcv folds a norm into the convolution registered before it: all but those of the outputs, and rightly."""
    net = SPSANet(arch, mixer=mixer and dict(type=mixer), out_indices=(0, 1))
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    net.eval()
    x = torch.randn(1, 3, 32, 32)
    expected = net(x)
    fused = fuse_conv_bn(net)
    left = [name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert arch is TWO or left == ['norm0', 'norm1']
    for found, wanted in zip(fused(x), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='m'), "arch='m' is not one of xxs, xs, s, xxs_2res"),
        (dict(arch=dict(TINY, residuals=3)), 'residuals=3 of arch is not 1 or 2'),
        (dict(arch=dict(dims=(16, 32))), 'needs dims and depths'),
        (dict(arch=dict(dims=(16, 32), depths=(1,))), 'of equal length'),
        (dict(arch=dict(TINY, heads=2)), 'at most expansion'),
        (dict(arch=TINY, out_indices=(0, 2)), r'out_indices=\(0, 2\): there are 2 stages'),
        (dict(arch=TINY, frozen_stages=3), 'frozen_stages=3'),
        (dict(arch=dict(dims=(16, 40), depths=(1, 1))), 'head_dim=16 does not divide in_channels=40'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SPSANet(**options)


def test_config_is_not_changed():
    mixer = dict(type='SPSA', head_dim=8)
    SPSANet(TINY, mixer=mixer)
    assert mixer == dict(type='SPSA', head_dim=8)
    assert ROOT_MODELS.build(dict(mixer, in_channels=16)).num_heads == 2


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    net = SPSANet(TINY)
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast('cpu', dtype=dtype):
        y = net(x)[0]
    assert y.isfinite().all()
    y.float().square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
