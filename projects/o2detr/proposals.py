"""Distinct proposals of a two-stage O²DETR: of tokens that see the same object, one becomes a query.

Not in the paper. Tokens are taught one to many, so an object has several good ones; queries that start from the same
box compete for one object, and others have no query. Dense Distinct Query (Zhang et al., CVPR 2023) drops repeats by
suppression before the decoder; so do we, with rotated boxes.

The overlap is ProbIoU (Llerena et al., 2021), closed form of a few tensor operations, and a proposal is dropped for any
better one that it overlaps: nothing waits for a GPU, everything exports to ONNX, and boxes that coincide, the very
ones to drop, are no special case (mmcv's rotated IoU of such may be 0.33).

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


def probabilistic_iou(boxes: Tensor) -> Tensor:
    """Overlap of all pairs: one minus the Hellinger distance of their Gaussians.

    Args:
        boxes: ``(..., K, 5)``, one unit for center and sides; radians.

    Returns:
        ``(..., K, K)`` in [0, 1], 1 for the same box.
    """
    xx, yy, xy = covariances(boxes)
    root = (xx * yy - xy**2).clamp(min=1e-24).sqrt()
    xx, yy, xy = (value[..., :, None] + value[..., None, :] for value in (xx, yy, xy))
    dx, dy = (boxes[..., :, None, :2] - boxes[..., None, :, :2]).unbind(-1)
    determinant = (xx * yy - xy**2).clamp(min=1e-24)
    center = (yy * dx**2 + xx * dy**2 - 2 * xy * dx * dy) / determinant / 4
    # The coefficient of Bhattacharyya.
    common = (-center).exp() * (4 * root[..., :, None] * root[..., None, :] / determinant).clamp(max=1).sqrt()
    return 1 - (1 - common).clamp(min=0).sqrt()


@torch.no_grad()
def distinct_tokens(scores: Tensor, boxes: Tensor, image_sides: Tensor, num: int, overlap_thr: float) -> Tensor:
    """Choose the best tokens whose boxes no better one repeats; repeats fill up where these are too few.

    Args:
        scores: ``(B, N)`` logits; -inf for tokens that are chosen last.
        boxes: ``(B, N, 5)``, normalized.
        image_sides: ``(B or 1, 2)``, width and height of the images without padding, in any unit.
        num: Tokens to choose, at most ``N``.
        overlap_thr: Of two boxes with more :func:`probabilistic_iou`, the worse is a repeat.

    Returns:
        Positions ``(B, num)``.
    """
    candidates = scores.topk(min(CANDIDATES * num, scores.size(1)), dim=1).indices  # best first
    chosen = boxes.gather(1, candidates[..., None].expand(-1, -1, 5))
    # In parts of the longer side, as the sides are.
    center = chosen[..., :2] * (image_sides / image_sides.amax(-1, keepdim=True))[:, None]
    chosen = torch.cat([center, chosen[..., 2:4], chosen[..., 4:] * math.pi], dim=-1)
    repeats = (probabilistic_iou(chosen) > overlap_thr).tril(-1).any(-1)
    places = torch.arange(repeats.size(1), device=repeats.device) + repeats * repeats.size(1)
    return candidates.gather(1, places.topk(num, dim=1, largest=False).indices)
