"""Overlap of rotated boxes ``(cx, cy, w, h, radians)``, by the operator of mmcv.

Not in the paper, which has upright boxes only: our decision, because users of mmrotate ask for it. Suppression is by
the head ``nms``, not by the operator ``nms_rotated``, which on a CPU ignores the labels that it is given: boxes of one
image and class would suppress those of another.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def rotated_iou(a: ndarray, b: ndarray) -> ndarray:
    """IoU of ``(..., 5)`` and ``(..., 5)``, broadcast; float32 precision."""
    import torch
    from mmcv.ops import box_iou_rotated

    shape = np.broadcast_shapes(a.shape, b.shape)
    pairs = (torch.from_numpy(np.broadcast_to(x, shape).reshape(-1, 5).astype(np.float32)) for x in (a, b))
    return box_iou_rotated(*pairs, aligned=True).numpy().astype(np.float64).reshape(shape[:-1])
