"""Suppression by torchvision's compiled operator, if torchvision is there; without, the head ``nms`` does the same.

mmcv's ``batched_nms`` is not used: it works in float32 and moves the classes apart by adding a multiple of the largest
coordinate, which for many classes leaves hundredths of a pixel.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy import ndarray

from .groups import group_bounds


def has_torchvision() -> bool:
    """Whether torchvision is installed."""
    return importlib.util.find_spec('torchvision') is not None


def suppress(box: ndarray, image: ndarray, category: ndarray, iou_thr: float) -> ndarray:
    """Keep a box unless a better one of its image and class, which is kept, overlaps it by more than a threshold.

    Args:
        box: ``(M, 4)`` xyxy, by image and class, the best of each class first.
        image: ``(M,)``, in rising order.
        category: ``(M,)``.
        iou_thr: The threshold.

    Returns:
        Rows that stay.
    """
    import torch
    from torchvision.ops import nms

    if not len(box):
        return np.zeros(0, dtype=np.int64)
    # One call for an image: classes are moved apart. In float64 that costs no precision that matters.
    low, high = box.min(), box.max()
    moved = torch.from_numpy(box - low + category[:, None] * (high - low + 1))
    # The operator orders by score; the given order is what counts, also among equal scores.
    place = torch.arange(len(box), 0, -1, dtype=torch.float64)
    starts, lengths = group_bounds(image)
    kept = [
        start + nms(moved[start : start + length], place[start : start + length], iou_thr).numpy()
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    return np.concatenate(kept)
