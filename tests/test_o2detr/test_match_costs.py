"""Match costs against the losses of the same name, pair by pair, and the matching against brute force."""

import itertools
import math

import pytest
import torch
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmengine.structures import InstanceData
from mmrotate.models.losses import GDLoss
from mmrotate.registry import TASK_UTILS
from mmrotate.structures import RotatedBoxes

from mmplugins.o2detr import GDCost, PeriodicRBoxL1Loss, RBoxL1Cost, RotatedIoUCost
from mmplugins.o2detr.angles import box_factors
from mmplugins.o2detr.match_costs import assign_cheapest

META = dict(img_shape=(96, 160))


def instances(boxes, **more):
    return InstanceData(bboxes=boxes, **more)


@pytest.fixture
def boxes(random_boxes):
    return random_boxes(9, META['img_shape'], torch.float64), random_boxes(5, META['img_shape'], torch.float64)


def by_pairs(loss, pred, gt):
    return torch.stack([torch.stack([loss(p[None], g[None]).sum() for g in gt]) for p in pred])


@pytest.mark.parametrize('angle_l1', ['nearer', 'wrapped', 'plain'])
def test_l1(boxes, angle_l1):
    loss = PeriodicRBoxL1Loss(angle_l1, reduction='none', loss_weight=1.0)
    expected = by_pairs(loss, *(x / box_factors(META['img_shape'], x) for x in boxes))
    cost = RBoxL1Cost(angle_l1, weight=3.0)(*map(instances, boxes), META)
    assert torch.allclose(cost, 3 * expected)


@pytest.mark.parametrize('turn', [math.pi, -math.pi])
def test_l1_is_that_of_the_line(boxes, turn):
    pred, gt = boxes
    costs = [RBoxL1Cost()(instances(pred + torch.tensor([0, 0, 0, 0, t])), instances(gt), META) for t in (0, turn)]
    assert torch.allclose(*costs)


SETTINGS = [
    dict(loss_type='kld', fun='log1p', tau=1.0, sqrt=False),
    dict(loss_type='kld', fun='log1p', tau=1.0, sqrt=True),
    dict(loss_type='kld', fun='sqrt', tau=0.0, sqrt=False),
    dict(loss_type='gwd', fun='log1p', tau=1.0),
    dict(loss_type='gwd', fun='none', tau=2.0),
]


@pytest.mark.parametrize('cfg', SETTINGS, ids=str)
def test_gaussian(boxes, cfg):
    expected = by_pairs(GDLoss(reduction='none', **cfg), *boxes)
    cost = GDCost(weight=2.0, **cfg)(*map(instances, boxes))
    assert torch.allclose(cost, 2 * expected, atol=1e-6)


@pytest.mark.parametrize('loss_type', ['kld', 'gwd'])
@pytest.mark.parametrize('turn', [math.pi, -math.pi, 'sides'])
def test_gaussian_cost_is_that_of_the_rectangle(boxes, loss_type, turn):
    pred, gt = boxes
    if turn == 'sides':
        same = pred[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, math.pi / 2])
    else:
        same = pred + torch.tensor([0, 0, 0, 0, turn])
    costs = [GDCost(loss_type)(instances(x), instances(gt)) for x in (pred, same)]
    assert torch.allclose(*costs, atol=1e-6)


def test_thin_boxes_are_finite_in_float32():
    # The determinant of the host's covariance of such a box is negative in float32, and its logarithm is nan.
    thin = torch.tensor([[500.0, 500.0, 1000.0, 0.05, 0.7], [500.0, 500.0, 0.0, 0.0, 0.1]])
    host = GDLoss('kld', fun='none', reduction='none', sqrt=False)(thin, thin)
    assert not host.isfinite().all()
    cost = GDCost()(instances(thin), instances(thin))
    assert cost.isfinite().all() and (cost.diagonal().abs() < 1e-3).all()


def test_iou(boxes, iou_of_opencv):
    pred, gt = (x.float() for x in boxes)
    pred[0] = gt[0]
    cost = RotatedIoUCost(weight=2.0)(instances(pred), instances(gt))
    expected = torch.tensor([[1 - iou_of_opencv(p, g) for g in gt.tolist()] for p in pred.tolist()])
    assert torch.allclose(cost, 2 * expected, atol=1e-3) and cost[0, 0] < 1e-3


@pytest.mark.parametrize(
    'cost', [RBoxL1Cost(), GDCost(), GDCost('gwd'), RotatedIoUCost()], ids=lambda x: type(x).__name__
)
def test_rotated_boxes_and_none(boxes, cost):
    pred, gt = (x.float() for x in boxes)
    plain = cost(instances(pred), instances(gt), META)
    assert torch.equal(cost(instances(pred), instances(RotatedBoxes(gt)), META), plain)
    assert cost(instances(pred), instances(gt[:0]), META).shape == (9, 0)


@pytest.mark.parametrize('num_gt', [0, 1, 3, 5])
@pytest.mark.parametrize('num_pred', [5, 3])
def test_matching_is_the_cheapest(random_boxes, num_gt, num_pred):
    costs = [dict(type='mmdet.FocalLossCost', weight=2.0), dict(type='RBoxL1Cost'), dict(type='GDCost')]
    assigner = TASK_UTILS.build(dict(type='mmdet.HungarianAssigner', match_costs=costs))
    pred = instances(random_boxes(num_pred, META['img_shape']), scores=torch.randn(num_pred, 4))
    gt = instances(random_boxes(num_gt, META['img_shape']), labels=torch.randint(4, (num_gt,)))
    assigned = assigner.assign(pred, gt, META).gt_inds
    if num_gt == 0:
        assert not assigned.any()
        return
    matrix = sum(cost(pred, gt, META) for cost in assigner.match_costs)
    pairs = min(num_pred, num_gt)
    best = min(
        sum(matrix[p, g].item() for p, g in zip(rows, columns, strict=True))
        for rows in itertools.permutations(range(num_pred), pairs)
        for columns in itertools.combinations(range(num_gt), pairs)
    )
    found = [(p, int(g) - 1) for p, g in enumerate(assigned) if g > 0]
    assert len(found) == pairs == len({g for _, g in found})
    assert sum(matrix[p, g].item() for p, g in found) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize('num', [1, 3, 50])
def test_each_box_gets_its_cheapest_predictions(random_boxes, num):
    costs = [RBoxL1Cost(), GDCost()]
    boxes = random_boxes(5, META['img_shape'])
    # Some are near two boxes, none is near all.
    pred = instances(torch.cat([random_boxes(10, META['img_shape']), boxes, boxes + 1]), scores=torch.randn(20, 3))
    gt = instances(boxes, labels=torch.zeros(5, dtype=torch.long))
    matrix = (RBoxL1Cost()(pred, gt, META) + GDCost()(pred, gt, META)).tolist()
    wanted = [sorted(range(20), key=lambda p: matrix[p][g])[:num] for g in range(5)]  # noqa: B023
    expected = []
    for p in range(20):
        asking = [g for g in range(5) if p in wanted[g]]
        expected.append(min(asking, key=lambda g: matrix[p][g]) + 1 if asking else 0)
    assert assign_cheapest(costs, pred, gt, META, num).tolist() == expected


def test_no_box_gets_no_prediction(random_boxes):
    pred = instances(random_boxes(4), scores=torch.randn(4, 3))
    gt = instances(torch.zeros(0, 5), labels=torch.zeros(0, dtype=torch.long))
    assert assign_cheapest([RBoxL1Cost()], pred, gt, META, 8).tolist() == [0] * 4


@pytest.mark.parametrize('arguments', [dict(loss_type='kfiou'), dict(fun='exp')], ids=str)
def test_unknown_arguments(arguments):
    with pytest.raises(ValueError, match="'kld', 'gwd'"):
        GDCost(**arguments)


def test_found_by_bare_name_in_the_scope_of_mmrotate():
    for name in ('RBoxL1Cost', 'GDCost', 'RotatedIoUCost'):
        assert type(MMDET_TASK_UTILS.build(dict(type=name))).__name__ == name
