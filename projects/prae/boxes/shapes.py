"""Boxes as files have them: four, five or eight numbers each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray


def box_array(boxes: Sequence) -> ndarray:
    """Boxes ``(M, 4)``, ``(M, 5)`` or ``(M, 8)``.

    Raises:
        ValueError: If one is missing, has another number of numbers, or they differ in it.
    """
    lengths = {len(box) if hasattr(box, '__len__') else 0 for box in boxes}
    if len(lengths) > 1 or not lengths <= {4, 5, 8}:
        found = ', '.join('none' if not length else str(length) for length in sorted(lengths))
        raise ValueError(
            f'boxes have {found} numbers; all must have 4 (upright), 5 (center, size, radians) or 8 (corners)'
        )
    return np.array(boxes, dtype=np.float64).reshape(len(boxes), *(lengths or {4}))


def from_corner_and_size(boxes: Sequence) -> ndarray:
    """Boxes as COCO has them, ``(x, y, w, h)``, as corners ``(M, 4)``; rotated ones as :func:`rotated`."""
    box = box_array(boxes)
    if box.shape[1] == 4:
        box[:, 2:] += box[:, :2]
        return box
    return rotated(box)


def rotated(box: ndarray) -> ndarray:
    """Boxes ``(M, 5)``, checked, or the smallest rotated boxes ``(M, 5)`` around quadrilaterals ``(M, 8)``.

    Raises:
        ValueError: If angles are no radians.
    """
    if box.shape[1] == 5:
        if (np.abs(box[:, 4]) > 2 * np.pi).any():
            raise ValueError('angles of rotated boxes go beyond 2 pi: they must be radians, clockwise, as in mmrotate')
        return box
    import cv2

    out = np.zeros((len(box), 5))
    for row, corners in zip(out, box.astype(np.float32).reshape(-1, 4, 2), strict=True):
        center, size, degrees = cv2.minAreaRect(corners)
        row[:] = (*center, *size, np.deg2rad(degrees))
    return out
