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


def _rotated_iou(a: ndarray, b: ndarray) -> ndarray:
    """By mmcv's operator, in float32."""
    import torch
    from mmcv.ops import box_iou_rotated

    shape = np.broadcast_shapes(a.shape, b.shape)
    pairs = (torch.from_numpy(np.broadcast_to(x, shape).reshape(-1, 5).astype(np.float32)) for x in (a, b))
    return box_iou_rotated(*pairs, aligned=True).numpy().astype(np.float64).reshape(shape[:-1])
