"""Periodic L1, alone and with the host's Gaussian losses."""

import math

import pytest
import torch
from mmrotate.models.losses import GDLoss
from mmrotate.registry import MODELS

from mmplugins.o2detr import PeriodicRBoxL1Loss
from mmplugins.o2detr.angles import box_factors

SHAPE = (128, 128)
DEGREE = math.pi / 180


def make(name):
    if name == 'l1':
        loss = PeriodicRBoxL1Loss(reduction='none', loss_weight=1.0)
        return lambda pred, gt: loss(*(boxes / box_factors(SHAPE, boxes) for boxes in (pred, gt))).sum(-1)
    return GDLoss(loss_type=name, fun='log1p', tau=1.0, reduction='none', **(dict(sqrt=False) if name == 'kld' else {}))


LOSSES = ['l1', 'kld', 'gwd']


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('turn', [math.pi, -math.pi])
def test_half_turns_change_nothing(random_boxes, name, turn):
    pred, gt = random_boxes(50, dtype=torch.float64), random_boxes(50, dtype=torch.float64)
    turned = pred + torch.tensor([0, 0, 0, 0, turn], dtype=torch.float64)
    assert torch.allclose(make(name)(turned, gt), make(name)(pred, gt), atol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_exchanged_sides_are_the_same_box(random_boxes, name):
    pred, gt = random_boxes(50, dtype=torch.float64), random_boxes(50, dtype=torch.float64)
    exchanged = pred[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2], dtype=torch.float64)
    assert torch.allclose(make(name)(exchanged, gt), make(name)(pred, gt), atol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_179_degrees_are_minus_one(name):
    gt = torch.tensor([[60.0, 60, 60, 20, DEGREE]], dtype=torch.float64)
    preds = [torch.tensor([[60.0, 60, 60, 20, angle * DEGREE]], dtype=torch.float64) for angle in (179, -1)]
    first, second = (make(name)(pred, gt).item() for pred in preds)
    assert first == pytest.approx(second, abs=1e-6) and first < 0.05


def test_l1_is_that_to_the_nearer_of_two_forms(random_boxes):
    pred, gt = (boxes / box_factors(SHAPE, boxes) for boxes in (random_boxes(200), random_boxes(200)))
    wrapped = PeriodicRBoxL1Loss('wrapped', 'none', 1.0)
    other = gt[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, 0.5])
    each = torch.stack([wrapped(pred, form).sum(-1) for form in (gt, other)])
    found = PeriodicRBoxL1Loss('nearer', 'none', 1.0)(pred, gt).sum(-1)
    assert torch.allclose(found, each.amin(0)) and (each.argmin(0).bincount() > 50).all()


def test_plain_l1_jumps():
    pred, gt = torch.tensor([[0.5, 0.5, 0.6, 0.2, 179 / 180]]), torch.tensor([[0.5, 0.5, 0.6, 0.2, 1 / 180]])
    plain, wrapped = (PeriodicRBoxL1Loss(mode, 'sum', 1.0)(pred, gt).item() for mode in ('plain', 'wrapped'))
    assert plain == pytest.approx(178 / 180) and wrapped == pytest.approx(2 / 180 * 2 / 3, rel=1e-4)


@pytest.mark.parametrize('name', LOSSES)
def test_continuous_and_smooth_across_the_border(name):
    theta = torch.linspace(-10, 10, 1000, dtype=torch.float64) * DEGREE
    pred = torch.tensor([60.0, 60, 60, 20, 0], dtype=torch.float64).repeat(1000, 1)
    pred[:, 4] = torch.remainder(theta, math.pi)
    gt = torch.tensor([[60.0, 60, 60, 20, 30 * DEGREE]], dtype=torch.float64).expand(1000, 5)
    steps = make(name)(pred, gt).diff().abs()
    assert steps.max() < 3 * steps.median()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('sides', [(60.0, 20.0), (40.0, 40.0)], ids=['long', 'square'])
@pytest.mark.parametrize('angle', [0.0, 89.99, 90.0, 179.999])
def test_gradients_are_finite(name, sides, angle):
    pred = torch.tensor([[60.0, 60, *sides, angle * DEGREE]], dtype=torch.float64, requires_grad=True)
    gt = torch.tensor([[61.0, 62, *sides, 0]], dtype=torch.float64)
    make(name)(pred, gt).sum().backward()
    assert pred.grad.isfinite().all()


def test_the_angle_of_a_square_has_no_weight():
    loss = PeriodicRBoxL1Loss('wrapped', reduction='none', loss_weight=1.0)
    pred = torch.full((3, 5), 0.5)
    sides = torch.tensor([[0.3, 0.3], [0.4, 0.3], [0.4, 0.04]])
    gt = torch.cat([torch.full((3, 2), 0.5), sides, torch.full((3, 1), 0.2)], dim=1)
    assert torch.allclose(loss(pred, gt)[:, 4], 0.3 * torch.tensor([0, 0.25, 0.9]), atol=1e-6)


def test_weights_and_factors():
    pred, gt = torch.rand(6, 5), torch.rand(6, 5)
    weight = torch.zeros(6, 5)
    weight[:2] = 1
    each = PeriodicRBoxL1Loss(reduction='none', loss_weight=1.0)(pred, gt)
    total = PeriodicRBoxL1Loss(loss_weight=5.0)(pred, gt, weight, avg_factor=2)
    assert total.item() == pytest.approx(5 * each[:2].sum().item() / 2, rel=1e-5)
    assert PeriodicRBoxL1Loss()(pred, gt, torch.zeros(6, 5), avg_factor=1).item() == 0


def test_is_registered_and_checks_its_arguments():
    assert isinstance(MODELS.build(dict(type='PeriodicRBoxL1Loss', angle_l1='plain')), PeriodicRBoxL1Loss)
    with pytest.raises(ValueError, match="angle_l1 must be one of .*'wrapped'"):
        PeriodicRBoxL1Loss(angle_l1='periodic')
