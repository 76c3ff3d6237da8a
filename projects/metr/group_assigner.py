"""Group bipartite matching of METR, arXiv 2304.03580: a box may match only the queries that hold its category."""

import numpy as np
import torch
from mmdet.models.task_modules.assigners import (
    AssignResult,
    BBoxL1Cost,
    ClassificationCost,
    FocalLossCost,
    HungarianAssigner,
    IoUCost,
)
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor

BOX_COSTS = (BBoxL1Cost, IoUCost)  # they take leading dimensions, so all groups go in one call


@TASK_UTILS.register_module()
class GroupHungarianAssigner(HungarianAssigner):
    """One rectangular linear assignment for each category that has boxes.

    This is exact. One assignment over all queries with a finite penalty between categories is not the same: where a
    category has more boxes than queries, or none of the kept queries, it makes pairs across categories. It is also less
    work, because only costs inside a group are computed.

    Costs are the host's (``FocalLossCost``, ``BBoxL1Cost``, ``IoUCost``, …). They see one class, so ``scores`` has one
    column. Costs of boxes and of scores are computed for all groups together, any other group by group: on the case of
    the benchmark that takes a quarter of the time (4 images, 20 groups; one thread of a CPU, 23 and 86 ms).

    Args:
        match_costs: Configs of the costs, or one.

    Raises:
        ValueError: One is a ``ClassificationCost``.
    """

    def __init__(self, match_costs: list[dict] | dict) -> None:
        super().__init__(match_costs)
        if any(type(cost) is ClassificationCost for cost in self.match_costs):
            raise ValueError(
                'ClassificationCost has no effect here: it is a softmax over classes, and a query has one logit. Give '
                '`match_costs` a FocalLossCost instead'
            )

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs
    ) -> AssignResult:
        """Match the queries of an image.

        Args:
            pred_instances: ``scores (M, 1)`` logits, ``bboxes (M, 4)`` xyxy in pixels, ``group_labels (M,)``: the
                category that each query holds, -1 for a query that holds none and is to be ignored. Groups need not
                be contiguous nor of one size. Like ``labels`` they are read on the CPU: callers that match several
                layers should pass both as CPU tensors, to avoid a transfer per layer.
            gt_instances: ``bboxes (G, 4)`` xyxy in pixels, ``labels (G,)``. Boxes of a category that no query holds
                match nothing; of a category with more boxes than queries the best fitting are matched.
            img_meta: Handed to the costs.
            **kwargs: Not used; the host's signature.

        Returns:
            ``gt_inds (M,)``: 1-based index of the box, 0 for a negative, -1 for an ignored query.

        Raises:
            ValueError: ``group_labels`` is missing, or a cost is NaN or infinite.
        """
        if 'group_labels' not in pred_instances:
            raise ValueError('GroupHungarianAssigner needs `pred_instances.group_labels`, the category of each query')
        # On a GPU each search for indices would wait for the stream.
        group_labels, gt_labels = (x.cpu().numpy() for x in (pred_instances.group_labels, gt_instances.labels))
        gt_inds = np.where(group_labels < 0, -1, 0)
        present = np.intersect1d(group_labels[group_labels >= 0], gt_labels)
        groups = [(np.flatnonzero(group_labels == k), np.flatnonzero(gt_labels == k)) for k in present]
        costs = self._costs(pred_instances, gt_instances, img_meta, groups) if groups else []
        for (queries, boxes), cost in zip(groups, costs, strict=True):
            cost = cost[: len(queries), : len(boxes)]
            if not np.isfinite(cost).all():
                raise ValueError(
                    'The matching cost is NaN or infinite: the predictions of the network have diverged. Lower '
                    'the learning rate, clip gradients, or train without AMP.'
                )
            rows, columns = linear_sum_assignment(cost)
            gt_inds[queries[rows]] = boxes[columns] + 1
        matched = gt_inds > 0
        labels = np.full_like(gt_inds, -1)
        labels[matched] = gt_labels[gt_inds[matched] - 1]
        gt_inds, labels = torch.from_numpy(np.stack([gt_inds, labels])).to(gt_instances.bboxes.device)
        return AssignResult(num_gts=len(gt_instances), gt_inds=gt_inds, max_overlaps=None, labels=labels)

    def _costs(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        img_meta: dict | None,
        groups: list[tuple[np.ndarray, np.ndarray]],
    ) -> np.ndarray:
        """Sum of the match costs of every group at once.

        Args:
            pred_instances: See :meth:`assign`.
            gt_instances: See :meth:`assign`.
            img_meta: Handed to the costs.
            groups: Indices of the queries and of the boxes of each group.

        Returns:
            ``(groups, most queries of a group, most boxes of a group)``; rows and columns beyond a group's own are
            repetitions of its first.
        """
        parts = [_padded(indices) for indices in zip(*groups, strict=True)]
        indices = torch.from_numpy(np.concatenate(parts, axis=1))
        widths = [part.shape[1] for part in parts]
        queries, boxes = indices.to(gt_instances.bboxes.device).split(widths, dim=1)
        pred_boxes = InstanceData(bboxes=pred_instances.bboxes[queries])
        gt_boxes = InstanceData(bboxes=gt_instances.bboxes[boxes])
        # A score is compared with the only class, whatever the box is: one column will do.
        any_box = InstanceData(bboxes=gt_instances.bboxes[:1], labels=queries.new_zeros(1))
        total = 0
        for cost in self.match_costs:
            if type(cost) in BOX_COSTS:  # a subclass may be anything
                value = cost(pred_instances=pred_boxes, gt_instances=gt_boxes, img_meta=img_meta)
            elif type(cost) is FocalLossCost:
                value = cost(pred_instances=pred_instances, gt_instances=any_box, img_meta=img_meta)[queries]
            else:
                value = torch.stack(
                    [
                        self._cost_of_group(cost, pred_instances[q], gt_instances[t], img_meta)
                        for q, t in zip(*indices.split(widths, dim=1), strict=True)
                    ]
                )
            total = total + value
        return total.detach().expand(*queries.shape, boxes.size(1)).cpu().numpy()

    @staticmethod
    def _cost_of_group(cost, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None) -> Tensor:
        """A cost of another kind, ``(queries, boxes)``: nothing is known of it but the host's interface."""
        gt_instances.labels = gt_instances.bboxes.new_zeros(len(gt_instances), dtype=torch.long)
        return cost(pred_instances=pred_instances, gt_instances=gt_instances, img_meta=img_meta)


def _padded(indices: tuple[np.ndarray, ...]) -> np.ndarray:
    """Index lists of different lengths as the rows of a table, filled up with their first index."""
    width = max(map(len, indices))
    return np.stack([np.pad(index, (0, width - len(index)), constant_values=index[0]) for index in indices])
