"""The three engines compute the same; the oracle of a layer is torch on the masked map."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import nn

from mmplugins.hgkd import ActiveMask, HGKDSparseResNet, draw_cells
from mmplugins.hgkd.sparse.encoder import build_engine
from mmplugins.hgkd.sparse.layers import to_active

needs_spconv = pytest.mark.skipif(find_spec('spconv') is None, reason='spconv is not installed')
ENGINES = ['dense', 'rows', pytest.param('spconv', marks=needs_spconv)]
SPARSE = ENGINES[1:]
LAYERS = dict(
    stem=(7, 2, 3, 1),
    conv3=(3, 1, 1, 1),
    conv3_stride2=(3, 2, 1, 1),
    conv3_dilated=(3, 1, 2, 2),
    conv1=(1, 1, 0, 1),
    conv1_stride2=(1, 2, 0, 1),
)


def masked(x, mask):
    return x * mask.sites(tuple(x.shape[2:]))


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('edge', [2, 8], ids=['small_cells', 'large_cells'])
@pytest.mark.parametrize('args', LAYERS.values(), ids=LAYERS)
def test_convolution_is_that_of_the_masked_map(args, edge, engine):
    kernel, stride, padding, dilation = args
    mask = ActiveMask(draw_cells(2, (2, 3), 0.5))
    layer = to_active(nn.Conv2d(8, 16, kernel, stride, padding, dilation))
    x = torch.randn(2, 8, 2 * edge, 3 * edge)
    grad = torch.randn(2, 16, 2 * edge // stride, 3 * edge // stride)
    results = []
    for use in (
        lambda x: layer(build_engine(engine).start(x, mask)).dense(),
        lambda x: masked(layer(masked(x, mask)), mask),
    ):
        given = x.clone().requires_grad_()
        out = use(given)
        results.append([out, *torch.autograd.grad(out, [given, layer.weight, layer.bias], grad)])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5 * expected.detach().abs().max().item())


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('edge', [2, 8], ids=['small_cells', 'large_cells'])
def test_max_pool_is_that_of_the_masked_map(edge, engine):
    mask = ActiveMask(draw_cells(2, (2, 3), 0.5))
    layer = to_active(nn.MaxPool2d(3, 2, 1))
    x = torch.rand(2, 4, 2 * edge, 3 * edge)  # no ties: each gradient has one place to go
    results = []
    for use in (
        lambda x: layer(build_engine(engine).start(x, mask)).dense(),
        lambda x: masked(layer(masked(x, mask)), mask),
    ):
        given = x.clone().requires_grad_()
        out = use(given)
        results.append([out, *torch.autograd.grad(out.sum(), given)])
    for mine, expected in zip(*results, strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('norm', [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norm_is_that_of_the_visible_rows(norm, engine):
    mask, x = ActiveMask(draw_cells(2, (2, 3), 0.5)), torch.randn(2, 5, 8, 12, dtype=torch.float64) * 3 + 1
    layer, plain = to_active(norm(5)).double(), nn.BatchNorm1d(5).double()
    rows = x.permute(0, 2, 3, 1)[mask.sites((8, 12)).squeeze(1)]
    changed = torch.where(mask.sites((8, 12)), x, torch.randn_like(x) * 100)
    out = layer(build_engine(engine).start(changed, mask)).dense()
    expected = plain(rows)
    got = out.permute(0, 2, 3, 1)[mask.sites((8, 12)).squeeze(1)]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert out.count_nonzero() == rows.numel()  # hidden sites stay 0
    torch.testing.assert_close(layer.running_mean, plain.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.running_var, plain.running_var, rtol=1e-12, atol=1e-12)
    layer.eval(), plain.eval()
    out = layer(build_engine(engine).start(x * 2, mask)).dense()
    got = out.permute(0, 2, 3, 1)[mask.sites((8, 12)).squeeze(1)]
    torch.testing.assert_close(got, plain(rows * 2), rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize('engine', ENGINES)
def test_drop_path_takes_whole_images_and_the_same_ones_in_every_engine(engine):
    mask = ActiveMask(draw_cells(16, (2, 3), 0.5))
    x = torch.ones(16, 2, 4, 6)
    layer = to_active(DropPath(0.5))
    torch.manual_seed(3)
    out = layer(build_engine(engine).start(x, mask)).dense()
    torch.manual_seed(3)
    plain = layer(torch.ones(16, 1, 1, 1))
    assert torch.equal(out, masked(plain * x, mask))
    assert 0 < plain.count_nonzero() < 16
    layer.eval()
    assert torch.equal(layer(build_engine(engine).start(x, mask)).dense(), masked(x, mask))


@pytest.mark.parametrize('engine', SPARSE)
@pytest.mark.parametrize('depth', [18, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize('ratio', [0.0, 0.4, 0.75])
@pytest.mark.parametrize('shape', [(2, 96, 160), (1, 64, 192)], ids=['batch', 'one_image'])
def test_networks_agree_with_all_gradients(shape, ratio, depth, engine):
    images, height, width = shape
    cells = draw_cells(images, (height // 32, width // 32), ratio)
    x = torch.randn(images, 3, height, width, dtype=torch.float64)
    results = []
    for backend in ('dense', engine):
        torch.manual_seed(1)
        net = HGKDSparseResNet(depth, backend, dict(type='BN'), stem_channels=16, base_channels=8).double()
        given = x.clone().requires_grad_()
        outs = [features.dense() for features in net.encode(given, ActiveMask(cells))]
        grads = torch.autograd.grad(sum((out.sin() + out).sum() for out in outs), [given, *net.parameters()])
        results.append([*outs, *grads, *net.buffers()])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(
            mine, expected, rtol=1e-9, atol=1e-9 * max(expected.detach().abs().max().item(), 1e-3)
        )


@pytest.mark.parametrize('engine', ENGINES)
def test_half_precision_on_a_cpu_is_an_error(engine):
    net = HGKDSparseResNet(18, engine, dict(type='BN'))
    x, cells = torch.zeros(1, 3, 64, 64), draw_cells(1, (2, 2), 0.5)
    with pytest.raises(TypeError, match='float16 on a CPU'):
        net.half()(x.half(), cells)
    with pytest.raises(TypeError, match='float16 on a CPU'), torch.autocast('cpu', torch.float16):
        net.float()(x, cells)


@needs_spconv
def test_spconv_refuses_autocast_on_a_cpu():
    net = HGKDSparseResNet(18, 'spconv', dict(type='BN'))
    with pytest.raises(TypeError, match='float32 or torch.float64 on cpu, got torch.bfloat16'):
        with torch.autocast('cpu', torch.bfloat16):
            net(torch.zeros(1, 3, 64, 64), draw_cells(1, (2, 2), 0.5))


@pytest.mark.parametrize('engine', ['dense', 'rows'])
def test_bfloat16_autocast_is_close_and_gives_gradients(engine):
    net = HGKDSparseResNet(18, engine, dict(type='BN'), stem_channels=16, base_channels=16)
    x, cells = torch.randn(4, 3, 96, 96), draw_cells(4, (3, 3), 0.4)
    exact = net(x, cells)[0]
    with torch.autocast('cpu', torch.bfloat16):
        out = net(x, cells)
    assert F.cosine_similarity(out[0].float().flatten(), exact.flatten(), dim=0) > 0.99
    sum(level.float().sum() for level in out).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


def test_auto_is_rows_on_a_cpu_and_dense_on_cuda():
    assert build_engine('auto', 'cpu').name == 'rows'
    assert build_engine('auto', 'cuda:0').name == 'dense'
    with pytest.raises(ValueError, match='backend must be one of auto, dense, rows, spconv'):
        build_engine('sparse')


@pytest.mark.parametrize(
    'layer',
    [nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 2, 1, 1), nn.Conv2d(2, 2, (3, 1), padding=(1, 0)), nn.MaxPool2d(3, 2)],
    ids=str,
)
def test_layers_that_would_mix_cells_are_an_error(layer):
    mask = ActiveMask(torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match='cannot be sparse'):
        to_active(layer)(build_engine('rows').start(torch.zeros(1, 2, 8, 8), mask))


@pytest.mark.parametrize(
    'layer',
    [
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(2),
        nn.GroupNorm(1, 2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode='reflect'),
    ],
    ids=str,
)
def test_layers_without_a_sparse_form_are_an_error(layer):
    with pytest.raises(ValueError, match='sparse'):
        to_active(nn.Sequential(layer))
