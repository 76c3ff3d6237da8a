"""Group matching against every permutation of every group (invariants 1 and 2)."""

from itertools import permutations

import numpy as np
import pytest
import torch
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment

from mmplugins.metr.group_assigner import GroupHungarianAssigner
from mmplugins.metr.head import FOCAL_COSTS

META = dict(img_shape=(48, 64))


class TableCost:
    """Match cost that is looked up: row of the query, column of the box, both written into their ``bboxes``."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def __call__(self, pred_instances, gt_instances, img_meta=None):
        rows, columns = pred_instances.bboxes[:, 0].long(), gt_instances.bboxes[:, 0].long()
        return self.table[rows][:, columns]


def assign(table, group_labels, gt_labels) -> torch.Tensor:
    """``gt_inds`` for a table ``(M, G)`` of costs."""
    assigner = GroupHungarianAssigner(match_costs=FOCAL_COSTS)
    assigner.match_costs = [TableCost(table)]
    pred = InstanceData(
        scores=torch.zeros(len(table), 1),
        bboxes=torch.arange(len(table)).float()[:, None].expand(-1, 4),
        group_labels=torch.as_tensor(group_labels),
    )
    gt_labels = torch.as_tensor(gt_labels, dtype=torch.long)
    gt = InstanceData(bboxes=torch.arange(len(gt_labels)).float()[:, None].expand(-1, 4), labels=gt_labels)
    return assigner.assign(pred, gt, META).gt_inds


def brute_force(table, group_labels, gt_labels) -> torch.Tensor:
    """The best pairs of each category, by trying all of them."""
    gt_inds = torch.where(torch.as_tensor(group_labels) < 0, -1, 0)
    for label in set(gt_labels) & set(group_labels):
        queries = [q for q, group in enumerate(group_labels) if group == label]
        boxes = [t for t, other in enumerate(gt_labels) if other == label]
        if len(queries) >= len(boxes):
            tries = [list(zip(chosen, boxes, strict=True)) for chosen in permutations(queries, len(boxes))]
        else:
            tries = [list(zip(queries, chosen, strict=True)) for chosen in permutations(boxes, len(queries))]
        best = min(tries, key=lambda pairs: sum(table[q, t].item() for q, t in pairs))
        for query, box in best:
            gt_inds[query] = box + 1
    return gt_inds


def random_case(rng, num_groups, num_queries, num_boxes, shuffle):
    """Costs, groups (some unused: -1) and boxes, some of them of categories that no query holds."""
    labels = rng.permutation(num_groups + 3)[:num_groups]
    group_labels = np.repeat(labels, num_queries)
    if num_groups > 1 and rng.random() < 0.3:
        group_labels[:num_queries] = -1
    if shuffle:
        rng.shuffle(group_labels)
    table = torch.from_numpy(rng.normal(size=(len(group_labels), num_boxes)))
    return table, group_labels.tolist(), rng.integers(0, num_groups + 3, num_boxes).tolist()


@pytest.mark.parametrize('shuffle', [False, True], ids=['contiguous', 'interleaved'])
@pytest.mark.parametrize('num_queries', [1, 3, 4])
@pytest.mark.parametrize('num_groups', [1, 3])
def test_it_is_the_union_of_the_best_of_every_group(num_groups, num_queries, shuffle):
    rng = np.random.default_rng(0)
    for _ in range(25):
        num_boxes = int(rng.integers(0, 12))
        table, groups, labels = random_case(rng, num_groups, num_queries, num_boxes, shuffle)
        got = assign(table, groups, labels)
        assert got.tolist() == brute_force(table, groups, labels).tolist(), (groups, labels)


@pytest.mark.parametrize(
    ('group_labels', 'gt_labels', 'matched'),
    [
        pytest.param([0, 0, 1, 1], [], 0, id='no box'),
        pytest.param([0, 0, 1, 1], [2, 3, 3], 0, id='only absent categories'),
        pytest.param([0, 0, 1, 1], [0, 0, 0, 0, 0], 2, id='more boxes than queries'),
        pytest.param([5, 5, 5], [5, 1, 5], 2, id='one group'),
        pytest.param([-1, -1, 1, 1], [0, 1, 0], 1, id='ignored queries'),
        pytest.param([0, 1, 0, 1], [1, 0, 1], 3, id='interleaved groups'),
    ],
)
def test_a_box_is_never_matched_across_categories(group_labels, gt_labels, matched):
    table = torch.rand(len(group_labels), len(gt_labels))
    gt_inds = assign(table, group_labels, gt_labels).tolist()
    pairs = [(group, gt_labels[index - 1]) for group, index in zip(group_labels, gt_inds, strict=True) if index > 0]
    assert len(pairs) == matched
    assert all(group == label for group, label in pairs)
    assert [index == -1 for index in gt_inds] == [group == -1 for group in group_labels]


def test_one_matching_with_a_finite_penalty_is_not_the_same():
    """Two boxes of category 0, which has one query: the penalty way gives the second box to the query of category 1."""
    table = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    groups, labels = torch.tensor([0, 1]), torch.tensor([0, 0])
    penalized = table + 100 * (groups[:, None] != labels)
    rows, columns = linear_sum_assignment(penalized)
    crossing = [(q, t) for q, t in zip(rows, columns, strict=True) if groups[q] != labels[t]]
    assert crossing == [(1, 1)]
    assert assign(table, groups, labels).tolist() == [1, 0]


def test_the_best_fitting_of_too_many_boxes_are_matched():
    table = torch.tensor([[5.0, 1.0, 3.0], [4.0, 2.0, 0.0]])
    assert assign(table, [7, 7], [7, 7, 7]).tolist() == [2, 3]


def test_permuted_queries_permute_the_result():
    rng = np.random.default_rng(1)
    table, groups, labels = random_case(rng, 3, 4, 9, shuffle=False)
    order = rng.permutation(len(groups))
    shuffled = assign(table[order], np.array(groups)[order], labels)
    assert shuffled.tolist() == assign(table, groups, labels)[order].tolist()


def test_permuted_boxes_permute_the_result():
    rng = np.random.default_rng(2)
    table, groups, labels = random_case(rng, 3, 4, 9, shuffle=False)
    order = rng.permutation(9)
    permuted = assign(table[:, order], groups, np.array(labels)[order])
    back = torch.where(permuted > 0, torch.from_numpy(order)[permuted.clamp(min=1) - 1] + 1, permuted)
    assert back.tolist() == assign(table, groups, labels).tolist()


def real_instances():
    torch.manual_seed(0)
    corners = torch.rand(8, 2) * 30
    pred = InstanceData(
        scores=torch.randn(8, 1),
        bboxes=torch.cat([corners, corners + 1 + 16 * torch.rand(8, 2)], dim=1),
        group_labels=torch.tensor([2, 2, 2, 2, 6, 6, 6, 6]),
    )
    corners = torch.rand(5, 2) * 30
    gt = InstanceData(
        bboxes=torch.cat([corners, corners + 10], dim=1),
        labels=torch.tensor([6, 2, 2, 6, 3]),
    )
    return pred, gt


def test_with_one_category_it_is_the_host_s_assigner():
    pred, gt = real_instances()
    pred.group_labels[:] = 0
    gt.labels[:] = 0
    host = TASK_UTILS.build(dict(type='HungarianAssigner', match_costs=FOCAL_COSTS)).assign(pred, gt, META)
    ours = GroupHungarianAssigner(match_costs=FOCAL_COSTS).assign(pred, gt, META)
    assert torch.equal(ours.gt_inds, host.gt_inds)
    assert torch.equal(ours.labels, host.labels)


def test_real_costs_and_the_other_fields_of_the_result():
    pred, gt = real_instances()
    host = TASK_UTILS.build(dict(type='HungarianAssigner', match_costs=FOCAL_COSTS))
    result = GroupHungarianAssigner(match_costs=FOCAL_COSTS).assign(pred, gt, META)
    for label in (2, 6):
        queries, boxes = pred.group_labels == label, gt.labels == label
        one_class = InstanceData(bboxes=gt.bboxes[boxes], labels=torch.zeros(2, dtype=torch.long))
        expected = host.assign(pred[queries], one_class, META).gt_inds
        numbers = torch.cat([torch.zeros(1, dtype=torch.long), boxes.nonzero().flatten() + 1])
        assert torch.equal(result.gt_inds[queries], numbers[expected])
    assert result.num_gts == 5
    matched = result.gt_inds > 0
    assert torch.equal(result.labels[matched], gt.labels[result.gt_inds[matched] - 1])
    assert (result.labels[~matched] == -1).all()


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_cost_that_is_not_finite(value):
    table = torch.rand(4, 2)
    table[1, 0] = value
    with pytest.raises(ValueError, match='predictions of the network have diverged'):
        assign(table, [0, 0, 1, 1], [0, 1])


def test_cost_of_a_pair_that_is_not_compared_may_be_anything():
    table = torch.rand(4, 2)
    expected = assign(table.clone(), [0, 0, 1, 1], [0, 1])
    table[3, 0] = float('nan')  # query of category 1, box of category 0
    assert torch.equal(assign(table, [0, 0, 1, 1], [0, 1]), expected) and (expected > 0).sum() == 2


def test_cost_that_has_no_effect_on_one_logit():
    with pytest.raises(ValueError, match='ClassificationCost has no effect.*FocalLossCost'):
        GroupHungarianAssigner(match_costs=[dict(type='BBoxL1Cost'), dict(type='ClassificationCost')])


def test_missing_group_labels():
    pred, gt = real_instances()
    del pred.group_labels
    with pytest.raises(ValueError, match='pred_instances.group_labels'):
        GroupHungarianAssigner(match_costs=FOCAL_COSTS).assign(pred, gt, META)


def test_it_is_built_from_a_config():
    assigner = TASK_UTILS.build(dict(type='GroupHungarianAssigner', match_costs=FOCAL_COSTS))
    assert len(assigner.match_costs) == 3
