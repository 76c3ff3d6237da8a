"""P-NMS: what is done with refined boxes of one image and category. Five heads, all groups in lock step.

The name P-NMS is of arXiv 2105.03139; in the authors' code (github.com/anonymous-iccv2021/PRAE, no license, read for
facts only) it is weighted boxes fusion (Solovyev et al., arXiv 1910.13302) on refined scores: ``wbf``. The others are
Non-Maximum Suppression, Soft-NMS (Bodla et al., arXiv 1704.04503), Non-Maximum Weighted (Zhou et al., CAD 2017) and,
not in the paper, ``noisy_or``: 1 - prod(1 - SP) over detectors, right if they err independently.

Letters: ``G`` groups of a chunk, ``L`` boxes of its longest group, in falling order of score; groups are in rising
order of length. ``D`` detectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from ..boxes.overlap import box_iou, turned_to
from .options import FuseConfig


@dataclass(frozen=True)
class Chunk:
    """Groups of similar length, padded.

    Args:
        box: ``(G, L, 4)`` xyxy, or ``(G, L, 5)`` rotated.
        score: ``(G, L)``, refined score times weight of the detector; 0 at padding.
        pull: ``(G, L)``, refined score times weight of the detector's corners; what corners are averaged by.
        weight: ``(G, L)``, of the box's detector.
        detector: ``(G, L)``.
        valid: ``(G, L)``.
        num_detectors: ``(G,)``, that a fused score is relative to.
        sum_weights: ``(G,)``, of these.
        detector_weights: ``(D,)``.
    """

    box: ndarray
    score: ndarray
    pull: ndarray
    weight: ndarray
    detector: ndarray
    valid: ndarray
    num_detectors: ndarray
    sum_weights: ndarray
    detector_weights: ndarray


@dataclass(frozen=True)
class Merged:
    """What a head makes of a chunk; ``(G, L)`` each, where ``keep`` is False the rest has no meaning.

    Args:
        keep: There is an output box in this place.
        box: ``(G, L, 4)`` or ``(G, L, 5)``.
        score: Its score.
        first: Which box of the group it is, or, if merged, the best of its members.
        own: The other way round: the place of the output box that a box went into; None if boxes are kept, not merged.
    """

    keep: ndarray
    box: ndarray
    score: ndarray
    first: ndarray
    own: ndarray | None = None


def wbf(x: Chunk, cfg: FuseConfig) -> Merged:
    """Weighted boxes fusion: a box joins the fused box that it overlaps most, which then moves.

    Fused corners are the weighted mean of the members'. The fused score is the members' weighted mean times the share
    of the detectors, by weight, that they stand for: ``min(1, sum of the members' weights / sum(weights))``. For
    weights of 1 this is ``avg`` of the package ensemble-boxes, whose scores exceed 1 for others. With
    ``count='models'`` the share is that of the detectors that are among the members: ``box_and_model_avg`` of that
    package.
    """
    groups, length = x.valid.shape
    columns = x.box.shape[-1]
    fused, corner_sum = np.zeros((2, columns, groups, length))  # unopened ones have no area, so nothing overlaps them
    area, mass, pull, total_weight = np.zeros((4, groups, length))
    opened, own = np.zeros(groups, dtype=np.int64), np.zeros((groups, length), dtype=np.int64)
    first, models = np.zeros((2, groups, length), dtype=np.int64)
    corners = np.moveaxis(x.box, -1, 0)
    lengths = x.valid.sum(1)
    for rank in range(length):
        start = int(np.searchsorted(lengths, rank, side='right'))  # groups that have a box of this rank: the rest
        rows = np.arange(start, groups)
        box, score = corners[:, start:, rank], x.score[start:, rank]
        width = max(int(opened[start:].max()), 1)
        old = fused[:, start:, :width]
        iou = _overlap(old, area[start:, :width], box) if columns == 4 else _rotated_overlap(old, box)
        best = iou.argmax(1)
        joins = iou[rows - start, best] > cfg.iou_thr
        place = np.where(joins, best, opened[start:])
        if columns == 5:
            box = np.where(joins, turned_to(box, fused[4, rows, place]), box)
        own[start:, rank] = place
        first[rows[~joins], place[~joins]] = rank
        opened[start:] += ~joins
        mass[rows, place] += score
        pull[rows, place] += x.pull[start:, rank]
        total_weight[rows, place] += x.weight[start:, rank]
        models[rows, place] |= 1 << x.detector[start:, rank]
        corner_sum[:, rows, place] += x.pull[start:, rank] * box
        new = np.where(joins, corner_sum[:, rows, place] / np.maximum(pull[rows, place], 1e-300), box)
        # Members without any score cannot be weighted: the first stays.
        new = np.where(pull[rows, place] > 0, new, np.where(joins, fused[:, rows, place], box))
        fused[:, rows, place] = new
        area[rows, place] = (new[2] - new[0]) * (new[3] - new[1])
    keep = (total_weight > 0) & (_popcount(models) >= cfg.min_models)
    share = total_weight if cfg.count == 'boxes' else _weight_of(models, x.detector_weights)
    share = np.minimum(share / x.sum_weights[:, None], 1)
    return Merged(keep, np.moveaxis(fused, 0, -1), mass / np.maximum(total_weight, 1e-300) * share, first, own)


def _overlap(old: ndarray, area: ndarray, box: ndarray) -> ndarray:
    """IoU ``(G, W)`` of fused boxes ``(4, G, W)`` with known areas and a box ``(4, G)`` of each group."""
    inter_w = np.minimum(old[2], box[2][:, None]) - np.maximum(old[0], box[0][:, None])
    inter_h = np.minimum(old[3], box[3][:, None]) - np.maximum(old[1], box[1][:, None])
    inter = np.maximum(inter_w, 0) * np.maximum(inter_h, 0)
    own_area = (box[2] - box[0]) * (box[3] - box[1])
    return inter / (area + own_area[:, None] - inter)


def _rotated_overlap(old: ndarray, box: ndarray) -> ndarray:
    """The same of rotated boxes ``(5, G, W)`` and ``(5, G)``."""
    return box_iou(np.moveaxis(old, 0, -1), np.moveaxis(box, 0, -1)[:, None])


def nms(x: Chunk, cfg: FuseConfig) -> Merged:
    """Keep a box unless a better one that is kept overlaps it by more than the threshold."""
    own = _clusters(x, cfg.iou_thr)
    place = np.arange(x.valid.shape[1])
    return Merged(
        (own == place) & x.valid, x.box, x.score / x.detector_weights.max(), np.broadcast_to(place, own.shape)
    )


def soft_nms(x: Chunk, cfg: FuseConfig) -> Merged:
    """Lower a score for each better box that overlaps: by ``exp(-iou^2 / sigma)``, or, linearly, by ``1 - iou``."""
    iou = box_iou(x.box[:, :, None], x.box[:, None])
    factor = np.exp(-(iou**2) / cfg.sigma) if cfg.sigma is not None else np.where(iou > cfg.iou_thr, 1 - iou, 1.0)
    score = np.where(x.valid, x.score / x.detector_weights.max(), -1.0)
    waiting, rows = x.valid.copy(), np.arange(len(score))
    for _ in range(score.shape[1]):
        best = np.where(waiting, score, -1.0).argmax(1)
        waiting[rows, best] = False
        score = np.where(waiting, score * factor[rows, best], score)
    place = np.broadcast_to(np.arange(score.shape[1]), score.shape)
    return Merged(x.valid & (score >= cfg.min_score), x.box, score, place)


def nmw(x: Chunk, cfg: FuseConfig) -> Merged:
    """Mean of a kept box and those that it overlaps, weighted by score times IoU with it; the kept box's score."""
    own = _clusters(x, cfg.iou_thr, nearest=True)
    place = np.arange(own.shape[1])
    pull = x.pull * box_iou(x.box, np.take_along_axis(x.box, own[..., None], axis=1))
    box, models = _cluster_mean(x, own, pull)
    keep = (own == place) & x.valid & (_popcount(models) >= cfg.min_models)
    return Merged(keep, box, x.score / x.detector_weights.max(), np.broadcast_to(place, own.shape), own)


def noisy_or(x: Chunk, cfg: FuseConfig) -> Merged:
    """Score-weighted mean of a kept box and those it suppresses; ``1 - prod(1 - highest score)`` over detectors."""
    own = _clusters(x, cfg.iou_thr)
    place = np.arange(own.shape[1])
    rows = np.broadcast_to(np.arange(len(own))[:, None], own.shape)
    box, models = _cluster_mean(x, own, x.pull)
    score = np.clip(x.score / x.detector_weights.max(), 0, 1)
    doubt = np.ones(own.shape)
    for detector in range(len(x.detector_weights)):
        mine = x.valid & (x.detector == detector)
        highest = np.zeros(own.shape)
        np.maximum.at(highest, (rows[mine], own[mine]), score[mine])
        doubt *= 1 - highest
    keep = (own == place) & x.valid & (_popcount(models) >= cfg.min_models)
    return Merged(keep, box, 1 - doubt, np.broadcast_to(place, own.shape), own)


HEADS = dict(wbf=wbf, nms=nms, soft_nms=soft_nms, nmw=nmw, noisy_or=noisy_or)
# Padded pairs and spread of lengths of a chunk, see boxes.groups.chunks. Soft-NMS holds all pairs, in a few arrays that
# should fit a processor's cache; the others go rank by rank, and leave groups out that have no box of a rank.
CHUNKS = dict(soft_nms=(2**17, 1.25), wbf=(2**23, 2.0))


def _clusters(x: Chunk, iou_thr: float, nearest: bool = False) -> ndarray:
    """Greedy clusters: which box of the group each box belongs to, ``(G, L)``; itself if it is kept.

    Args:
        x: Boxes.
        iou_thr: A box belongs to a better, kept one with a higher IoU: to the best of them.
        nearest: To the nearest of them.
    """
    own = np.full(x.valid.shape, -1)
    highest = np.full(x.valid.shape, iou_thr)
    lengths = x.valid.sum(1)
    for rank in range(own.shape[1]):
        start = int(np.searchsorted(lengths, rank, side='right'))  # groups that have a box of this rank: the rest
        kept = start + np.flatnonzero(own[start:, rank] < 0)
        own[kept, rank] = rank
        # Overlaps of kept boxes only: most boxes are not, so this is several times less than all pairs.
        iou = box_iou(x.box[kept, rank, None], x.box[kept, rank + 1 :])
        joins = iou > highest[kept, rank + 1 :]
        if nearest:
            highest[kept, rank + 1 :] = np.where(joins, iou, highest[kept, rank + 1 :])
        else:
            joins &= own[kept, rank + 1 :] < 0
        own[kept, rank + 1 :] = np.where(joins, rank, own[kept, rank + 1 :])
    return own


def _cluster_mean(x: Chunk, own: ndarray, pull: ndarray) -> tuple[ndarray, ndarray]:
    """Weighted mean of each cluster's boxes, ``(G, L, 4)`` or 5, and a bit for each detector in it, ``(G, L)``."""
    rows = np.broadcast_to(np.arange(len(own))[:, None], own.shape)[x.valid]
    at, box = own[x.valid], x.box[x.valid]
    if box.shape[-1] == 5:
        box = turned_to(box.T, x.box[rows, at, 4]).T
    total, corner_sum, models = np.zeros(own.shape), np.zeros(x.box.shape), np.zeros(own.shape, dtype=np.int64)
    np.add.at(total, (rows, at), pull[x.valid])
    np.add.at(corner_sum, (rows, at), pull[x.valid][:, None] * box)
    np.bitwise_or.at(models, (rows, at), 1 << x.detector[x.valid])
    mean = corner_sum / np.maximum(total, 1e-300)[..., None]
    return np.where(total[..., None] > 0, mean, x.box), models


def _weight_of(models: ndarray, weights: ndarray) -> ndarray:
    """Sum of the weights of the detectors whose bits are set, ``(G, L)``."""
    return sum(((models >> d) & 1) * weight for d, weight in enumerate(weights))


def _popcount(models: ndarray) -> ndarray:
    """Number of bits set, ``(G, L)``; 63 at most."""
    return sum((models >> d) & 1 for d in range(int(models.max(initial=0)).bit_length())) + np.zeros_like(models)
