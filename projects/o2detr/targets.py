"""What the predictions of O²DETR (arXiv 2106.03146) are taught: the ground truth of an image, and targets of scores.

Scores that know the IoU are not in the paper: a score that is 1 for every matched query says nothing about its box.
With ``QualityFocalLoss`` or ``VarifocalLoss`` the score of a matched query learns the IoU of its box, as in GFL (Li et
al., NeurIPS 2020) and VarifocalNet (Zhang et al., CVPR 2021), here of rotated boxes.

Shapes: ``G`` true boxes, ``P`` predictions, ``C`` classes.
"""

import torch
from mmdet.models.losses import QualityFocalLoss, VarifocalLoss
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from mmrotate.structures.bbox import rbbox_overlaps
from torch import Tensor, nn
from torch.nn.functional import one_hot

from .angles import clamp_sides, regularize


def prepare_gt(gt_instances: InstanceData, img_meta: dict, num_classes: int, min_size: float) -> InstanceData:
    """Return new instances, boxes in ``le180`` and at least ``min_size`` large.

    Args:
        gt_instances: ``bboxes`` ``(G, 5)``, rotated boxes or a tensor; ``labels`` ``(G,)``.
        img_meta: Of the image, for messages.
        num_classes: ``C``.
        min_size: Of the sides, in pixels.

    Raises:
        ValueError: A label is not below ``num_classes``, or boxes are not rotated ones.
    """
    boxes, labels = get_box_tensor(gt_instances.bboxes), gt_instances.labels
    where = img_meta.get('img_path', 'an image')
    if boxes.numel() and boxes.size(-1) != 5:
        raise ValueError(
            f'{where} has boxes of {boxes.size(-1)} numbers; O2DETRHead needs (cx, cy, w, h, θ): put '
            "dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')) into the pipeline"
        )
    low, high = torch.stack(labels.aminmax()).tolist() if labels.numel() else (0, 0)
    if not 0 <= low <= high < num_classes:
        raise ValueError(
            f'{where} has the labels {labels.unique().tolist()}, the head has num_classes={num_classes}: '
            'set num_classes of the head (and of all stages of a RoI head) to the number of classes of the data'
        )
    return InstanceData(bboxes=clamp_sides(regularize(boxes.reshape(-1, 5).float()), min_size), labels=labels)


def score_targets(
    loss_cls: nn.Module, labels: Tensor, matched: Tensor, pred_boxes: Tensor, true_boxes: Tensor, num_classes: int
) -> Tensor | tuple[Tensor, Tensor]:
    """Return what a classification loss of the host compares scores with.

    Args:
        loss_cls: The loss.
        labels: ``(P,)``, ``num_classes`` for none.
        matched: ``(Q,)``, positions of predictions that have a true box.
        pred_boxes: ``(Q, 5)``, theirs in pixels.
        true_boxes: ``(Q, 5)``, in pixels.
        num_classes: ``C``.

    Returns:
        Labels and the IoU of the boxes ``(P,)`` for ``QualityFocalLoss``, IoU at the label ``(P, C)`` for
        ``VarifocalLoss``, labels for others.
    """
    if not isinstance(loss_cls, QualityFocalLoss | VarifocalLoss):
        return labels
    ious = rbbox_overlaps(pred_boxes.detach().float(), true_boxes.float(), is_aligned=True).view(-1)
    quality = ious.new_zeros(len(labels)).index_put((matched,), ious)
    if isinstance(loss_cls, QualityFocalLoss):
        return labels, quality
    return one_hot(labels, num_classes + 1)[:, :num_classes] * quality[:, None]
