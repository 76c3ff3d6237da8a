"""H-GKD on CUDA beside the CPU: all engines give what the dense one gives there."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from mmplugins.hgkd import HGKD, ActiveMask, draw_cells

needs_spconv = pytest.mark.skipif(find_spec('spconv') is None, reason='spconv is not installed')
engines = pytest.mark.parametrize('engine', ['dense', 'rows', pytest.param('spconv', marks=needs_spconv)])
BN = dict(type='BN')
# What there is: spconv has no bfloat16; a CPU has no float16 here, and spconv no half at all there.
FP16, BF16 = torch.float16, torch.bfloat16
HALVES = {
    ('cpu', 'dense'): [BF16],
    ('cpu', 'rows'): [BF16],
    ('cpu', 'spconv'): [],
    ('cuda', 'dense'): [FP16, BF16],
    ('cuda', 'rows'): [FP16, BF16],
    ('cuda', 'spconv'): [FP16],
}


def student(engine: str) -> HGKD:
    """A small student; its teacher sees the mean color of each patch."""
    torch.manual_seed(0)
    model = HGKD(
        backbone=dict(
            type='HGKDSparseResNet', depth=18, backend=engine, norm_cfg=BN, stem_channels=16, base_channels=16
        ),
        neck=dict(type='HGKDUNetDecoder', feature_dim=64, out_stride=4, norm_cfg=BN),
        head=dict(type='FeaturePredictHead'),
        out_channels=24,
        enc_dec_norm_cfg=BN,
    )
    model.teacher = lambda images, active: F.avg_pool2d(images, 16).repeat(1, 8, 1, 1)
    return model


def losses(model, device):
    images = torch.randn(4, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    return model.loss(images.to(device))


@engines
def test_float32_is_that_of_the_dense_engine_on_the_cpu(parity, device, engine):
    found = parity.step(student(engine), losses, device)
    parity.assert_same(found, parity.step(student('dense'), losses, 'cpu'), tolerance=3e-2)


@engines
def test_half_precision_is_finite_and_close(parity, device, engine):
    dtypes = HALVES[device, engine] or pytest.skip('spconv has no half precision on a CPU')
    expected = parity.step(student('dense'), losses, 'cpu')['loss_distill']
    for dtype in dtypes:
        parity.check_half(student(engine), losses, device, (dtype,))
        found = parity.step(student(engine), losses, device, dtype)['loss_distill']
        torch.testing.assert_close(found.float(), expected, rtol=3e-2, atol=0)


@pytest.mark.parametrize('engine', ['dense', 'rows'])
def test_forward_does_not_wait(parity, device, engine):
    """Once it is known which cells are visible; spconv waits for the number of its pairs."""
    model = student(engine).to(device)
    images, cells = torch.randn(2, 3, 64, 64).to(device), draw_cells(2, (2, 2), 0.5).to(device)

    def forward(mask: ActiveMask) -> None:
        model.neck([model.densify(features, level) for level, features in enumerate(model.encode(images, mask))])

    forward(ActiveMask(cells))
    mask = ActiveMask(cells)
    with parity.no_host_sync(device):
        forward(mask)
