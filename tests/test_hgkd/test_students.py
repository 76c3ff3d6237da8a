"""Other CNNs than ResNets under a mask: the same in each engine, nothing of a hidden pixel, every layer called."""

from importlib.util import find_spec

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn

from mmplugins.hgkd import ActiveMask, HGKDSparseBackbone, draw_cells
from mmplugins.hgkd.sparse.encoder import build_engine
from mmplugins.hgkd.sparse.layers import to_active

STAGES = (0, 1, 2, 3)
CONVNEXT = dict(type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32]), gap_before_final_norm=False)
REPVGG = dict(
    num_blocks=[1, 2, 1, 1], width_factor=[0.25, 0.25, 0.25, 0.125], group_layer_map={2: 2}, se_cfg=dict(ratio=4)
)
STUDENTS = {
    'MobileNetV2': dict(type='MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 7)),
    'MobileNetV3': dict(type='MobileNetV3', arch='small_050', out_indices=(0, 1, 3, 12)),
    'EfficientNet': dict(type='EfficientNet', arch='b0', out_indices=(2, 3, 4, 6)),
    'RegNet': dict(type='RegNet', arch='regnetx_400mf', out_indices=STAGES),
    'ResNeXt': dict(
        type='ResNeXt',
        depth=50,
        groups=4,
        width_per_group=4,
        stem_channels=16,
        base_channels=16,
        out_indices=STAGES,
    ),
    'ResNetV1d': dict(type='ResNetV1d', depth=18, stem_channels=16, base_channels=8, out_indices=STAGES),
    'SEResNet': dict(type='SEResNet', depth=50, stem_channels=16, base_channels=8, out_indices=STAGES),
    'ConvNeXt': dict(**CONVNEXT, out_indices=STAGES),
    'ConvNeXt of 1x1': dict(**CONVNEXT, out_indices=STAGES, linear_pw_conv=False),
    'RepVGG': dict(type='RepVGG', arch=REPVGG, out_indices=STAGES),
    **{
        name: dict(type='TIMMBackbone', model_name=name, features_only=True, **{'out_indices': (1, 2, 3, 4), **more})
        for name, more in {
            'mobilenetv3_small_050': {},
            'tf_efficientnet_lite0': {},
            'regnety_002': {},
            'convnext_atto': dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), out_indices=STAGES),
            'repvgg_a0': {},
        }.items()
    },
}
QUICK = ('MobileNetV2', 'ConvNeXt', 'mobilenetv3_small_050')
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STUDENTS]
needs_spconv = pytest.mark.skipif(find_spec('spconv') is None, reason='spconv is not installed')


def build(name: str, backend: str = 'rows') -> HGKDSparseBackbone:
    """Student with random weights, norms included, in float64 and training mode."""
    if STUDENTS[name]['type'] == 'TIMMBackbone':
        pytest.importorskip('timm')
    torch.manual_seed(0)
    net = HGKDSparseBackbone(STUDENTS[name], backend)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.uniform_(0.5, 1.5), module.bias.data.normal_(std=0.2)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.0
    return net.double().train()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of 64 x 96 pixels and a mask of their cells of 32."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator, dtype=torch.float64)
    return images, draw_cells(2, (2, 3), 0.5, generator)


@pytest.mark.parametrize('name', ALL)
def test_engines_agree_and_hidden_pixels_do_not_matter(name):
    images, cells = inputs()
    changed = torch.where(ActiveMask(cells).sites((64, 96)), images, float('nan'))
    found = {}
    for backend in ('dense', 'rows', *(['spconv'] if find_spec('spconv') else [])):
        net = build(name, backend)
        outs = net(images, cells)
        grads = torch.autograd.grad(sum(out.square().mean() for out in outs), [*net.parameters()])
        found[backend] = [*outs, *grads, *(buffer.double() for buffer in net.buffers())]
        net = build(name, backend)
        for before, after in zip(outs, net(changed, cells), strict=True):
            assert torch.equal(before, after)
    for backend in found:
        for mine, expected in zip(found[backend], found['dense'], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-9 * max(float(expected.abs().max()), 1e-3))


@pytest.mark.parametrize('name', ALL)
def test_without_a_mask_it_is_the_plain_network(name):
    net = build(name).eval()
    plain = MODELS.build(dict(STUDENTS[name])).double()
    plain.load_state_dict(net.net.state_dict(), strict=True)
    plain.eval()
    images, _ = inputs()
    visible = ActiveMask(torch.ones(2, 1, 2, 3, dtype=torch.bool))
    for mine, features, expected in zip(net(images), net.encode(images, visible), plain(images), strict=True):
        assert torch.equal(mine, expected)
        torch.testing.assert_close(features.dense(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('backend', ['dense', 'rows', pytest.param('spconv', marks=needs_spconv)])
def test_a_hook_on_each_layer_fires(backend):
    net, calls = build('MobileNetV2', backend), set()
    leaves = {name: module for name, module in net.named_modules() if not [*module.children()]}
    for name, module in leaves.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: calls.add(name))
    net(*inputs())
    assert calls == set(leaves)


def visible_sites(x, mask):
    return [x[i, :, mask.sites(tuple(x.shape[2:]))[i, 0]] for i in range(len(x))]


class TestLayers:
    """Single layers against torch on what is visible."""

    @pytest.mark.parametrize('engine', ['dense', 'rows'])
    def test_squeeze_and_excitation_sees_the_visible_sites(self, engine):
        mask, x = ActiveMask(draw_cells(3, (2, 3), 0.5)), torch.randn(3, 4, 8, 12, dtype=torch.float64)
        features = build_engine(engine).start(x, mask)
        mean = to_active(nn.AdaptiveAvgPool2d(1))(features)
        expected = torch.stack([sites.mean(dim=1) for sites in visible_sites(x, mask)])
        torch.testing.assert_close(mean[:, :, 0, 0], expected)
        torch.testing.assert_close(features.mean((-2, -1)), expected)
        scaled = (features * mean).dense()
        torch.testing.assert_close(scaled, x * mask.sites((8, 12)) * expected[:, :, None, None])

    @pytest.mark.parametrize('engine', ['dense', 'rows', pytest.param('spconv', marks=needs_spconv)])
    @pytest.mark.parametrize('groups', [1, 2, 8])
    @pytest.mark.parametrize(('kernel', 'stride', 'padding'), [(3, 1, 1), (5, 2, 2), (2, 2, 0), (4, 4, 0), (1, 2, 0)])
    @pytest.mark.parametrize('edge', [4, 16])
    def test_grouped_convolution_is_that_of_the_masked_map(self, engine, groups, kernel, stride, padding, edge):
        mask = ActiveMask(draw_cells(2, (2, 3), 0.5))
        layer = to_active(nn.Conv2d(8, 16, kernel, stride, padding, groups=groups)).double()
        x = torch.randn(2, 8, 2 * edge, 3 * edge, dtype=torch.float64)
        results = []
        for use in (
            lambda x: layer(build_engine(engine).start(x, mask)).dense(),
            lambda x: (y := layer(x * mask.sites(tuple(x.shape[2:])))) * mask.sites(tuple(y.shape[2:])),
        ):
            given = x.clone().requires_grad_()
            out = use(given)
            results.append([out, *torch.autograd.grad(out.square().sum(), [given, layer.weight, layer.bias])])
        for mine, expected in zip(*results, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize('engine', ['dense', 'rows'])
    @pytest.mark.parametrize(
        'pool', [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, 2, ceil_mode=True)], ids=str
    )
    def test_average_pool_is_that_of_the_masked_map(self, engine, pool):
        mask, x = ActiveMask(draw_cells(2, (2, 3), 0.5)), torch.randn(2, 4, 8, 12, dtype=torch.float64)
        out = to_active(pool)(build_engine(engine).start(x, mask)).dense()
        torch.testing.assert_close(out, pool(x * mask.sites((8, 12))) * mask.sites((4, 6)))

    def test_a_function_without_a_form_says_so(self):
        features = build_engine('rows').start(torch.zeros(1, 2, 8, 8), ActiveMask(torch.ones(1, 1, 2, 2).bool()))
        with pytest.raises(TypeError, match='sigmoid has no form for visible sites only'):
            nn.Sigmoid()(features)
        with pytest.raises(ValueError, match='not one for each channel'):
            features * torch.ones(1, 2, 8, 8)
        with pytest.raises(ValueError, match='cannot be permuted'):
            features.permute(0, 2, 1, 3)
        with pytest.raises(ValueError, match='mean over dimensions 2 and 3'):
            features.mean((1,))
