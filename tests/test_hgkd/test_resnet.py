import pytest
import torch
from mmpretrain.models import ResNet
from mmpretrain.registry import MODELS

from mmplugins.hgkd import ActiveMask, HGKDSparseResNet, draw_cells

BN = dict(type='BN')
SMALL = dict(norm_cfg=BN, stem_channels=16, base_channels=8)
ENGINES = ['dense', 'rows']


def corners(height: int, width: int) -> torch.Tensor:
    """Four images, each with one visible cell in a corner."""
    cells = torch.zeros(4, 1, height, width, dtype=torch.bool)
    for image, (y, x) in enumerate([(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        cells[image, 0, y, x] = True
    return cells


@pytest.mark.parametrize('backend', ENGINES)
@pytest.mark.parametrize('cells', [draw_cells(4, (3, 4), 0.6), corners(3, 4)], ids=['random', 'corners'])
@pytest.mark.parametrize('noise', [9.0, float('nan')], ids=['noise', 'nan'])
def test_nothing_of_a_hidden_pixel_reaches_a_feature(noise, cells, backend):
    net = HGKDSparseResNet(50, backend, **SMALL)
    x = torch.randn(4, 3, 96, 128)
    hidden = ~ActiveMask(cells).sites((96, 128))
    changed = torch.where(hidden, torch.randn_like(x) * noise, x)
    assert not torch.equal(changed, x)
    for before, after in zip(net(x, cells), net(changed, cells), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize('backend', ENGINES)
def test_features_live_at_visible_sites_only(backend):
    cells, ratio = draw_cells(3, (3, 5), 0.6), 0.6
    net = HGKDSparseResNet(18, backend, **SMALL)
    keep = round(15 * (1 - ratio))
    x = torch.randn(3, 3, 96, 160)
    for out, features in zip(net(x, cells), net.encode(x, ActiveMask(cells)), strict=True):
        stride = 96 // out.size(2)
        alive = out.abs().sum(1, keepdim=True) > 0
        visible = ActiveMask(cells).sites(tuple(out.shape[2:]))
        assert not (alive & ~visible).any()
        assert visible.flatten(1).sum(1).tolist() == [keep * (32 // stride) ** 2] * 3
        # The engines on rows hold the visible sites and no others.
        rows = (3 * keep * (32 // stride) ** 2, out.size(1))
        assert features.data.shape == (out.shape if backend == 'dense' else rows)


@pytest.mark.parametrize('depth', [18, 34, 50, 101])
def test_state_dict_is_that_of_a_plain_resnet(depth):
    net = HGKDSparseResNet(depth, **SMALL)
    plain = ResNet(depth, norm_cfg=BN, stem_channels=16, base_channels=8)
    plain.load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(plain.state_dict(), strict=True)
    if depth == 50:
        assert len(net.state_dict()) == 318


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('training', [False, True])
def test_without_a_mask_it_is_a_plain_resnet_to_the_bit(training, depth):
    net = HGKDSparseResNet(depth, **SMALL).train(training)
    plain = ResNet(depth, out_indices=(0, 1, 2, 3), norm_cfg=BN, stem_channels=16, base_channels=8)
    plain.load_state_dict(net.state_dict())
    plain.train(training)
    x = torch.randn(2, 3, 70, 45)  # any size
    for mine, expected in zip(net(x), plain(x), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize('backend', ENGINES)
@pytest.mark.parametrize('training', [False, True])
def test_engines_with_everything_visible_are_a_plain_resnet(training, backend):
    net = HGKDSparseResNet(50, backend, **SMALL).double()
    plain = ResNet(50, out_indices=(0, 1, 2, 3), norm_cfg=BN, stem_channels=16, base_channels=8).double()
    plain.load_state_dict(net.state_dict())
    net.train(training), plain.train(training)
    x, cells = torch.randn(2, 3, 64, 96, dtype=torch.float64), torch.ones(2, 1, 2, 3, dtype=torch.bool)
    expected = plain(x)
    for features, right in zip(net.encode(x, ActiveMask(cells)), expected, strict=True):
        torch.testing.assert_close(features.dense(), right, rtol=1e-10, atol=1e-10)
    if not training:  # the running statistics have not moved
        assert all(torch.equal(mine, right) for mine, right in zip(net(x, cells), expected, strict=True))


def test_a_mask_leaves_nothing_behind():
    net = HGKDSparseResNet(18, **SMALL).eval()
    x = torch.randn(2, 3, 64, 64)
    before = net(x)
    net(x, draw_cells(2, (2, 2), 0.5))
    assert all(torch.equal(a, b) for a, b in zip(before, net(x), strict=True))


@pytest.mark.slow  # a process of its own
def test_norms_of_either_name_build_without_a_scope_and_run_without_a_process_group(run):
    script = """
import torch
from mmplugins.hgkd import HGKDSparseResNet, draw_cells
from mmplugins.hgkd.sparse.layers import ActiveSyncBatchNorm
for name in ('SyncBN', 'SparseSyncBatchNorm2d', 'SparseBatchNorm2d', 'BN', None):
    norm = {} if name is None else dict(norm_cfg=dict(type=name))
    net = HGKDSparseResNet(18, stem_channels=8, base_channels=8, **norm)
    assert ('Sync' in (name or 'Sync')) == isinstance(net.bn1, ActiveSyncBatchNorm)
    net(torch.zeros(2, 3, 64, 64), draw_cells(2, (2, 2), 0.5))
"""
    run('python', '-W', 'ignore', '-c', script)


def test_deep_stem_drop_path_and_frozen_stages_work_as_in_the_host():
    net = HGKDSparseResNet(50, 'rows', deep_stem=True, drop_path_rate=0.5, frozen_stages=1, **SMALL).train()
    same = HGKDSparseResNet(50, 'dense', deep_stem=True, drop_path_rate=0.5, frozen_stages=1, **SMALL).train()
    same.load_state_dict(net.state_dict())
    x, cells = torch.randn(4, 3, 64, 64, dtype=torch.float64), draw_cells(4, (2, 2), 0.5)
    outs = []
    for model in (net.double(), same.double()):
        torch.manual_seed(5)
        outs.append(model(x, cells))
    for mine, expected in zip(*outs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)
    sum(out.sum() for out in outs[0]).backward()
    without = {name.split('.')[0] for name, parameter in net.named_parameters() if parameter.grad is None}
    assert without == {'stem', 'layer1'}


def test_eval_and_train_can_be_chained():
    net = HGKDSparseResNet(18, **SMALL)
    assert net.eval() is net and not net.training
    assert net.train() is net and net.training


def test_builds_from_the_registry():
    net = MODELS.build(dict(type='mmpretrain.HGKDSparseResNet', depth=18, **SMALL))
    assert isinstance(net, HGKDSparseResNet)


def test_checkpointing_has_no_sparse_form():
    with pytest.raises(ValueError, match='with_cp=True computes again'):
        HGKDSparseResNet(50, **SMALL, with_cp=True)


def test_images_that_do_not_fit_the_mask_are_an_error():
    net = HGKDSparseResNet(18, **SMALL)
    with pytest.raises(ValueError, match='2 images, but a mask of 3'):
        net(torch.zeros(2, 3, 64, 64), torch.ones(3, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match='64 x 96 sites does not fit a mask of 2 x 2 cells'):
        net(torch.zeros(2, 3, 64, 96), torch.ones(2, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match='side of a cell must be the stride'):
        net(torch.zeros(2, 3, 64, 64), draw_cells(2, (4, 4), 0.5))  # cells of 16 px
