"""Suppression by torchvision's compiled operator, if torchvision is there; without, the head ``nms`` does the same.

mmcv's ``batched_nms`` is not used: it works in float32 and moves the classes apart by adding a multiple of the largest
coordinate, which for many classes leaves hundredths of a pixel.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from numpy import ndarray

from ..boxes.groups import group_bounds

BOXES_OF_A_CALL = 200  # about; with fewer the calls cost more than the work in them, which grows with the square


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
    # One call for several images: boxes of different images and classes are moved apart. Float64 is exact enough for
    # that: a call has at most some hundred groups, each some thousand pixels wide.
    image_start, image_length = group_bounds(image)
    call = np.repeat(image_start // BOXES_OF_A_CALL, image_length)
    class_length = group_bounds(image * (int(category.max()) + 1) + category)[1]
    group = np.repeat(np.arange(len(class_length)), class_length)
    starts, lengths = group_bounds(call)
    group -= np.repeat(group[starts], lengths)
    low, high = box.min(), box.max()
    moved = torch.from_numpy(box - low + group[:, None] * (high - low + 1))
    # The operator orders by score; the given order is what counts, also among equal scores.
    place = torch.arange(len(box), 0, -1, dtype=torch.float64)
    calls = zip(moved.split(lengths.tolist()), place.split(lengths.tolist()), strict=True)
    kept = [nms(own, rank, iou_thr) for own, rank in calls]
    return torch.cat(kept).numpy() + np.repeat(starts, [len(rows) for rows in kept])
