"""Overlap of boxes, upright ``(x1, y1, x2, y2)`` or rotated ``(cx, cy, w, h, radians)``.

Rotated boxes are not in the paper: our decision, because users of mmrotate ask for them. Suppression is by the head
``nms``, not by mmcv's operator ``nms_rotated``, which on a CPU ignores the labels that it is given: boxes of one image
and class would suppress those of another.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def box_iou(a: ndarray, b: ndarray) -> ndarray:
    """IoU of ``(..., 4)`` and ``(..., 4)``, or of ``(..., 5)`` and ``(..., 5)``, broadcast; 0 without any area."""
    if a.shape[-1] == 5:
        return _rotated_iou(a, b)
    # Column by column: numpy is several times slower on a last axis of 2.
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    inter = np.maximum(width, 0) * np.maximum(height, 0)
    union = box_area(a) + box_area(b) - inter
    return inter / np.maximum(union, 1e-300)


def box_area(box: ndarray) -> ndarray:
    """Area of xyxy boxes ``(..., 4)``."""
    return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])


def turned_to(box: ndarray, angle: ndarray) -> ndarray:
    """Describe rotated boxes ``(5, M)`` by angles within 45 degrees of ``angle`` ``(M,)``: so they can be averaged.

    A rectangle has four names: by a quarter turn width and height change places.
    """
    quarters = np.round((angle - box[4]) / (np.pi / 2))
    odd = quarters % 2 == 1
    width, height = np.where(odd, box[3], box[2]), np.where(odd, box[2], box[3])
    return np.stack([box[0], box[1], width, height, box[4] + quarters * np.pi / 2])


def _rotated_iou(a: ndarray, b: ndarray) -> ndarray:
    """By mmcv's operator, in float32."""
    import torch
    from mmcv.ops import box_iou_rotated

    shape = np.broadcast_shapes(a.shape, b.shape)
    flat = (np.broadcast_to(x, shape).reshape(-1, 5) for x in (a, b))
    # The operator finds no overlap of a rectangle with itself under another of its four names.
    pairs = (torch.from_numpy(turned_to(x.T, np.zeros(len(x))).T.astype(np.float32)) for x in flat)
    return box_iou_rotated(*pairs, aligned=True).numpy().astype(np.float64).reshape(shape[:-1])
