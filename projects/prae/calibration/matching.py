"""Which detections are right: the target that the confidence is compared with.

The abstract of arXiv 2105.03139 asks for the probability "of being right in category and location"; the authors' code
(github.com/anonymous-iccv2021/PRAE, no license, read for facts only) counts a box as a hit if any annotation of its
image and category overlaps it by more than 0.5: ``match='any'``. Not in the paper: ``match='greedy'``, one-to-one as in
COCO's evaluation, and the other targets, because with ``any`` a duplicate counts as right, and with one threshold a
box that is loosely placed counts as much as an exact one.

Letters: ``G`` groups of a chunk, ``B`` detections and ``N`` annotations of its longest groups, ``T`` IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy import ndarray

from ..boxes.groups import group_bounds, padded
from ..boxes.overlap import box_area, box_iou
from ..boxes.tables import Detections, GroundTruth

COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_PAIRS = 2_000_000


def hits_any(dets: Detections, gt: GroundTruth, threshold: float = 0.5) -> ndarray:
    """Whether any annotation of the same image and category has IoU > ``threshold``, ``(M,)`` bool.

    Difficult and crowd boxes count as ordinary ones, as in the authors' code.
    """
    return best_iou(dets, gt) > threshold


def best_iou(dets: Detections, gt: GroundTruth) -> ndarray:
    """Highest IoU with an annotation of the same image and category, ``(M,)``; 0 without one.

    Ignored annotations count as ordinary ones.
    """
    best = np.zeros(len(dets))
    for rows, valid, iou, *_ in _pairs(dets, gt):
        best[rows[valid]] = iou.max(2)[valid]
    return best


def hits(dets: Detections, gt: GroundTruth, threshold: float = 0.5) -> ndarray:
    """Whether each is right, one-to-one, ``(M,)`` bool; see :func:`match_greedy`."""
    return match_greedy(dets, gt, np.array([threshold]))[0][0]


def match_greedy(dets: Detections, gt: GroundTruth, thresholds: ndarray = COCO_THRESHOLDS) -> tuple[ndarray, ndarray]:
    """One-to-one matching of each image and category in order of score, the rules of COCO's evaluation.

    A detection takes the free annotation with the highest IoU of at least the threshold. If there is none, and it
    overlaps an ignored one so much, it is ignored itself. Only crowds can be taken more than once.

    Args:
        dets: Detections; equal scores go in the order of the table.
        gt: Ground truth of the same data set.
        thresholds: ``(T,)``.

    Returns:
        ``(T, M)`` bool, right; ``(T, M)`` bool, neither right nor wrong.
    """
    hit = np.zeros((len(thresholds), len(dets)), dtype=bool)
    ignored = np.zeros_like(hit)
    limits = np.minimum(np.asarray(thresholds), 1 - 1e-10)[:, None, None]  # pycocotools' bound
    for rows, valid, iou, present, ignore, crowd in _pairs(dets, gt):
        regular = np.broadcast_to(present & ~ignore, (len(thresholds), *present.shape)).copy()
        optional = np.broadcast_to(present & ignore, regular.shape).copy()
        groups = np.arange(len(rows))[None]
        level = np.arange(len(thresholds))[:, None]
        for rank in range(rows.shape[1]):
            enough = (iou[:, rank] >= limits) & valid[:, rank, None]  # (T, G, N)
            took_regular, best = _take(enough & regular, iou[:, rank])
            regular[level, groups, best] &= ~took_regular
            took_optional, best = _take(enough & optional, iou[:, rank])
            took_optional &= ~took_regular
            optional[level, groups, best] &= ~took_optional | crowd[groups, best]
            at = rows[valid[:, rank], rank]
            hit[:, at] = took_regular[:, valid[:, rank]]
            ignored[:, at] = took_optional[:, valid[:, rank]]
    return hit, ignored


def _take(allowed: ndarray, iou: ndarray) -> tuple[ndarray, ndarray]:
    """Whether and which of the allowed ``(T, G, N)`` has the highest IoU ``(G, N)``; the last of equals, as COCO."""
    value = np.where(allowed, iou, -1.0)[..., ::-1]
    best = value.argmax(2)
    return np.take_along_axis(value, best[..., None], 2)[..., 0] >= 0, value.shape[2] - 1 - best


def _pairs(dets: Detections, gt: GroundTruth) -> Iterator[tuple[ndarray, ...]]:
    """Yield chunks of groups that have detections and annotations.

    Yields:
        ``(G, B)`` rows of detections by falling score; ``(G, B)`` valid; ``(G, B, N)`` overlaps; ``(G, N)`` whether
        there is an annotation, whether it is ignored, whether it is a crowd.

    Raises:
        ValueError: If only the detections or only the annotations are rotated.
    """
    num = len(gt.dataset.classes)
    det_key, gt_key = dets.image * num + dets.category, gt.image * num + gt.category
    det_order, gt_order = np.lexsort((-dets.score, det_key)), np.argsort(gt_key, kind='stable')
    det_start, det_length = group_bounds(det_key[det_order])
    gt_start, gt_length = group_bounds(gt_key[gt_order])
    if not len(det_start) or not len(gt_start):
        return
    if dets.box.shape[1] != gt.box.shape[1]:
        raise ValueError(
            f'detections have boxes of {dets.box.shape[1]} numbers, annotations of {gt.box.shape[1]}: '
            f'either all are upright (4) or all rotated (5)'
        )
    _, d, g = np.intersect1d(det_key[det_order][det_start], gt_key[gt_order][gt_start], return_indices=True)
    order = np.lexsort((gt_length[g], det_length[d]))
    d, g = d[order], g[order]
    start = 0
    while start < len(d):
        stop = _chunk_end(det_length[d], gt_length[g], start)
        rows, valid = padded(det_start[d[start:stop]], det_length[d[start:stop]])
        gt_rows, present = padded(gt_start[g[start:stop]], gt_length[g[start:stop]])
        rows, gt_rows = det_order[rows], gt_order[gt_rows]
        crowd = gt.crowd[gt_rows]
        iou = _overlap(dets.box[rows][:, :, None], gt.box[gt_rows][:, None], crowd) * present[:, None]
        yield rows, valid, iou, present, gt.ignore[gt_rows], crowd
        start = stop


def _chunk_end(det_length: ndarray, gt_length: ndarray, start: int) -> int:
    """End of the chunk that begins at ``start``: similar lengths, at most ``MAX_PAIRS`` / 10 pairs (10 thresholds)."""
    stop = int(np.searchsorted(det_length, max(det_length[start] * 5 // 4, 2), side='right'))
    widest = int(gt_length[start:stop].max())
    return min(stop, start + max(1, MAX_PAIRS // 10 // (int(det_length[stop - 1]) * widest)))


def _overlap(dets: ndarray, gts: ndarray, crowd: ndarray) -> ndarray:
    """IoU ``(G, B, N)`` of ``(G, B, 1, 4)`` and ``(G, 1, N, 4)``; for upright crowds relative to the detection."""
    iou = box_iou(dets, gts)
    if crowd.any() and dets.shape[-1] == 4:
        inter = iou * (box_area(dets) + box_area(gts)) / (1 + iou)
        iou = np.where(crowd[:, None], inter / np.maximum(box_area(dets), 1e-300), iou)
    return iou
