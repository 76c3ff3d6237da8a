"""Distinct proposals of a two-stage O²DETR: of tokens that see the same object, one becomes a query.

Not in the paper. Tokens are taught one to many, so an object has several good ones; queries that start from the same
box compete for one object, and others have no query. Dense Distinct Query (Zhang et al., CVPR 2023) drops repeats by
suppression before the decoder; so do we, with rotated boxes.

The overlap is ProbIoU (Llerena et al., 2021), closed form of a few tensor operations, and a proposal is dropped for any
better one that it overlaps: nothing waits for a GPU, everything exports to ONNX, and identical boxes, which are the
ones to drop, need no special treatment (mmcv's rotated IoU of such may be 0.33).

Shapes: ``B`` images, ``N`` tokens, ``M`` queries, ``K`` candidates.
"""

import math

import torch
from torch import Tensor

from .angles import MIN_SIZE

CANDIDATES = 4  # times as many as queries


def covariances(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance of points spread evenly over rotated boxes, ``(..., 5)`` to xx, yy and xy of ``(...)``."""
    w, h = boxes[..., 2:4].clamp(min=MIN_SIZE).square().div(12).unbind(-1)
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    return w * cos**2 + h * sin**2, w * sin**2 + h * cos**2, (w - h) * cos * sin


def probabilistic_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Overlap of all pairs: one minus the Hellinger distance of their Gaussians.

    Args:
        boxes: ``(..., K, 5)``, one unit for center and sides; radians.
        others: ``(..., L, 5)``, likewise.

    Returns:
        ``(..., K, L)`` in [0, 1], 1 for the same box.
    """
    first, second = covariances(boxes), covariances(others)
    roots = [(xx * yy - xy**2).clamp(min=1e-24).sqrt() for xx, yy, xy in (first, second)]
    xx, yy, xy = (a[..., :, None] + b[..., None, :] for a, b in zip(first, second, strict=True))
    dx, dy = (boxes[..., :, None, :2] - others[..., None, :, :2]).unbind(-1)
    determinant = (xx * yy - xy**2).clamp(min=1e-24)
    center = (yy * dx**2 + xx * dy**2 - 2 * xy * dx * dy) / determinant / 4
    # The coefficient of Bhattacharyya.
    common = (-center).exp() * (4 * roots[0][..., :, None] * roots[1][..., None, :] / determinant).clamp(max=1).sqrt()
    return 1 - (1 - common).clamp(min=0).sqrt()


@torch.no_grad()
def distinct_tokens(scores: Tensor, boxes: Tensor, image_sides: Tensor, num: int, overlap_thr: float) -> Tensor:
    """Choose the best tokens whose boxes no better one repeats; repeats fill up where these are too few.

    Args:
        scores: ``(B, N)`` logits; -inf for tokens that are chosen last, behind all repeats.
        boxes: ``(B, N, 5)``, normalized.
        image_sides: ``(B or 1, 2)``, width and height of the images without padding, in any unit.
        num: Tokens to choose, at most ``N``.
        overlap_thr: Of two boxes with more :func:`probabilistic_iou`, the worse is a repeat.

    Returns:
        Positions ``(B, num)``.
    """
    logits, candidates = scores.topk(min(CANDIDATES * num, scores.size(1)), dim=1)  # best first
    chosen = boxes.gather(1, candidates[..., None].expand(-1, -1, 5))
    # In parts of the longer side, as the sides are.
    center = chosen[..., :2] * (image_sides / image_sides.amax(-1, keepdim=True))[:, None]
    chosen = torch.cat([center, chosen[..., 2:4], chosen[..., 4:] * math.pi], dim=-1)
    # `num` rows at a time, and of the columns only better ones: all pairs of 900 queries are half a gigabyte an image.
    count, repeats = chosen.size(1), []
    for start in range(0, count, num):
        stop = min(start + num, count)
        overlaps = probabilistic_iou(chosen[:, start:stop], chosen[:, :stop])
        repeats.append((overlaps > overlap_thr).tril(start - 1).any(-1))
    last = torch.cat(repeats, dim=1) | logits.isinf()
    places = torch.arange(count, device=last.device) + last * count
    return candidates.gather(1, places.topk(num, dim=1, largest=False).indices)
