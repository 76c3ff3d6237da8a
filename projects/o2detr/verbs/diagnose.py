"""What holds the AP of a rotated detector back: one thing in its predictions is made right at a time.

Serves any detector of mmrotate. AP is the area under the curve, by the host's own rules; the rows are

- ``class``: of the true box that a prediction overlaps most;
- ``angle``, ``size``, ``center``: of the true box of its class that it overlaps most, the longer side first;
- ``ranking``: the score is the IoU with that box;
- ``NMS``: rotated NMS with an IoU of 0.1 in each class, and the same after ``ranking``.

A prediction that overlaps no such box by 0.1 stays as it is; its score in ``ranking`` is its IoU all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmcv.ops import batched_nms
from mmdet.evaluation.functional import average_precision
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from mmrotate.evaluation.functional.mean_ap import tpfp_default
from mmrotate.structures.bbox import rbbox_overlaps
from torch import nn

from ..angles import regularize

ROWS = ('as it is', 'class', 'angle', 'size', 'center', 'ranking', 'NMS', 'ranking, NMS')
IOU_THRS = (0.5, 0.75)
NEAR = 0.1  # IoU from which a prediction is one of a true box
COLUMNS = dict(center=(0, 1), size=(2, 3), angle=(4,))


@dataclass
class Image:
    """Predictions and truth of an image, on the CPU.

    Attributes:
        found: ``bboxes`` ``(n, 5)``, ``scores`` and ``labels`` ``(n,)``.
        truth: ``bboxes`` ``(G, 5)`` and ``labels`` ``(G,)``.
        ignored: As ``truth``: neither right nor wrong if found.
    """

    found: InstanceData
    truth: InstanceData
    ignored: InstanceData


def image_of(sample: DetDataSample) -> Image:
    """Take what is needed from a sample that was predicted.

    Raises:
        ValueError: The truth is missing or has no rotated boxes.
    """
    truth = sample.get('gt_instances')
    if truth is None or 'bboxes' not in truth:
        raise ValueError('the samples have no truth: test_dataloader needs LoadAnnotations in its pipeline')

    def plain(instances: InstanceData, *more: str) -> InstanceData:
        boxes = get_box_tensor(instances.bboxes).float().cpu()
        if len(boxes) and boxes.size(-1) != 5:
            raise ValueError(
                f'boxes have {boxes.size(-1)} numbers, not (cx, cy, w, h, θ): put '
                "dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')) into the test pipeline"
            )
        return InstanceData(
            bboxes=regularize(boxes.reshape(-1, 5)), **{key: instances[key].cpu() for key in ('labels', *more)}
        )

    truth = plain(truth)
    ignored = plain(sample.ignored_instances) if 'ignored_instances' in sample else truth[:0]
    return Image(plain(sample.pred_instances, 'scores'), truth, ignored)


def improved(image: Image, row: str) -> InstanceData:
    """Return predictions of an image with one thing made right.

    Args:
        image: With ``found`` and ``truth``.
        row: Of :data:`ROWS`.

    Returns:
        ``bboxes``, ``scores`` and ``labels``.
    """
    found, truth = image.found, image.truth
    if row == 'as it is' or not len(found):
        return found
    if row == 'NMS':
        return suppressed(found)
    if row == 'ranking, NMS':
        return suppressed(improved(image, 'ranking'))
    boxes, scores, labels = found.bboxes.clone(), found.scores, found.labels
    overlaps = rbbox_overlaps(boxes, truth.bboxes) if len(truth) else boxes.new_zeros(len(boxes), 0)
    if row != 'class':
        overlaps = overlaps.where(labels[:, None] == truth.labels, 0.0)
    iou, best = torch.cat([boxes.new_full((len(boxes), 1), 0.0), overlaps], dim=1).max(1)
    near = iou >= NEAR
    own = best[near] - 1  # the first column stands for none
    if row == 'ranking':
        scores = iou
    elif row == 'class':
        labels = labels.clone()
        labels[near] = truth.labels[own]
    else:
        for column in COLUMNS[row]:
            boxes[near, column] = truth.bboxes[own, column]
    return InstanceData(bboxes=boxes, scores=scores, labels=labels)


def suppressed(found: InstanceData, iou: float = 0.1) -> InstanceData:
    """Return the predictions that rotated NMS in each class leaves, best first."""
    cfg = dict(type='nms_rotated', iou_threshold=iou)
    return found[batched_nms(found.bboxes, found.scores, found.labels, cfg)[1]]


def mean_ap(images: Sequence[Image], predictions: Sequence[InstanceData], num_classes: int, iou_thr: float) -> float:
    """Mean AP over the classes that are in the truth, as that of the host's ``eval_rbbox_map`` without processes.

    Args:
        images: With ``truth`` and ``ignored``.
        predictions: One for each image, see :func:`improved`.
        num_classes: Number of classes.
        iou_thr: IoU from which a prediction is right.
    """
    aps = []
    for label in range(num_classes):
        scores, right, wrong, total = [], [], [], 0
        for image, found in zip(images, predictions, strict=True):
            found = found[found.labels == label]
            truth = image.truth.bboxes[image.truth.labels == label].numpy()
            # The host forgets what is to be ignored where an image has no other truth.
            ignored = image.ignored.bboxes[image.ignored.labels == label].numpy()[: None if len(image.truth) else 0]
            rows = torch.cat([found.bboxes, found.scores[:, None]], dim=1).numpy()
            tp, fp = tpfp_default(rows, truth, ignored, iou_thr)
            scores.append(rows[:, 5])
            right.append(tp[0])
            wrong.append(fp[0])
            total += len(truth)
        if total:
            order = np.argsort(-np.concatenate(scores), kind='stable')
            right, wrong = (np.concatenate(flags)[order].cumsum() for flags in (right, wrong))
            aps.append(average_precision(right / total, right / np.maximum(right + wrong, 1e-9), 'area'))
    return float(np.mean(aps)) if aps else 0.0


def diagnose(images: Sequence[Image], num_classes: int, rows: Iterable[str] = ROWS) -> dict[str, dict[str, float]]:
    """Return AP50 and AP75 of each row, ``{'as it is': {'ap50': …, 'ap75': …}, …}``."""
    table = {}
    for row in rows:
        predictions = [improved(image, row) for image in images]
        table[row] = {f'ap{thr * 100:.0f}': mean_ap(images, predictions, num_classes, thr) for thr in IOU_THRS}
    return table


@torch.no_grad()
def predict(model: nn.Module, cfg: Config) -> list[Image]:
    """Predict all images of ``cfg.test_dataloader``.

    Args:
        model: From ``mmdet.apis.init_detector``.
        cfg: Of the model.

    Raises:
        ValueError: See :func:`image_of`.
    """
    loader = Runner.build_dataloader(cfg.test_dataloader)
    return [image_of(sample) for batch in loader for sample in model.test_step(batch)]


def text_of(table: dict[str, dict[str, float]]) -> str:
    """The table for a terminal, with what each row gains."""
    first = table['as it is']
    lines = [f'{"made right":<14}{"AP50":>8}{"":>9}{"AP75":>8}']
    for row, aps in table.items():
        columns = [f'{aps[key]:8.3f} ({aps[key] - first[key]:+.3f})' for key in aps]
        lines.append(f'{row:<14}' + ''.join(columns))
    return '\n'.join(lines)
