"""Group bipartite matching of METR, arXiv 2304.03580: a box may match only the queries that hold its category."""

import torch
from mmdet.models.task_modules.assigners import AssignResult, HungarianAssigner
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@TASK_UTILS.register_module()
class GroupHungarianAssigner(HungarianAssigner):
    """One rectangular linear assignment for each category that has boxes.

    This is exact. One assignment over all queries with a finite penalty between categories is not the same: where a
    category has more boxes than queries, or none of the kept queries, it makes pairs across categories. It is also less
    work, because only costs inside a group are computed.

    Costs are the host's (``FocalLossCost``, ``BBoxL1Cost``, ``IoUCost``, …). They see one class, so ``scores`` has one
    column.
    """

    def assign(
        self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None = None, **kwargs
    ) -> AssignResult:
        """Match the queries of an image.

        Args:
            pred_instances: ``scores (M, 1)`` logits, ``bboxes (M, 4)`` xyxy in pixels, ``group_labels (M,)``: the
                category that each query holds, -1 for a query that holds none and is to be ignored. Groups need not
                be contiguous nor of one size.
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
        group_labels = pred_instances.group_labels
        gt_inds = torch.zeros_like(group_labels).masked_fill_(group_labels < 0, -1)
        labels = torch.full_like(group_labels, -1)

        groups, costs = [], []
        for label in gt_instances.labels.unique():
            queries = (group_labels == label).nonzero().flatten()
            boxes = (gt_instances.labels == label).nonzero().flatten()
            if len(queries):
                groups.append((queries, boxes))
                costs.append(self._cost(pred_instances[queries], gt_instances[boxes], img_meta))
        # One transfer for all groups: on a GPU each `.cpu()` waits for the stream.
        flat = torch.cat([cost.detach().flatten() for cost in costs]).cpu() if costs else None
        if flat is not None and not flat.isfinite().all():
            raise ValueError(
                'The matching cost is NaN or infinite: the predictions of the network have diverged. Lower '
                'the learning rate, clip gradients, or train without AMP.'
            )
        offset = 0
        for (queries, boxes), cost in zip(groups, costs, strict=True):
            block = flat[offset : offset + cost.numel()].view(cost.shape)
            offset += cost.numel()
            rows, columns = (torch.from_numpy(index).to(queries.device) for index in linear_sum_assignment(block))
            gt_inds[queries[rows]] = boxes[columns] + 1
            labels[queries[rows]] = gt_instances.labels[boxes[columns]]
        return AssignResult(num_gts=len(gt_instances), gt_inds=gt_inds, max_overlaps=None, labels=labels)

    def _cost(self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta: dict | None) -> Tensor:
        """Sum of the match costs within one group, ``(queries, boxes)``; the group's only class is column 0."""
        one_class = InstanceData(bboxes=gt_instances.bboxes, labels=torch.zeros_like(gt_instances.labels))
        return sum(
            cost(pred_instances=pred_instances, gt_instances=one_class, img_meta=img_meta) for cost in self.match_costs
        )
