"""Instance masks of merged boxes. Not in the paper, though one of its detectors is Mask R-CNN: our decision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import ndarray


def vote(masks: Sequence[dict | ndarray], weights: ndarray) -> dict | ndarray:
    """Pixels that members with at least half of the weight have.

    Args:
        masks: ``(H, W)`` bool, or run-length encoded as in COCO: ``size`` and ``counts``.
        weights: ``(M,)``, not negative; all equal if they are 0.

    Returns:
        In the form of the first one.
    """
    if len(masks) == 1:
        return masks[0]
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(masks), 1 / len(masks))
    share = sum(weight * as_bitmap(mask) for weight, mask in zip(weights, masks, strict=True))
    # A hair below one half: thirds and their like do not add up to it.
    whole = share >= 0.5 - 1e-9
    return whole if isinstance(masks[0], np.ndarray) else as_run_lengths(whole)


def as_bitmap(mask: dict | ndarray) -> ndarray:
    """A mask as ``(H, W)`` bool."""
    return mask if isinstance(mask, np.ndarray) else _tools().decode(mask).astype(bool)


def as_run_lengths(mask: ndarray) -> dict:
    """A mask ``(H, W)`` run-length encoded, its text as JSON can hold it."""
    code = _tools().encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**code, 'counts': code['counts'].decode()}


def _tools():
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ImportError('masks need `pip install pycocotools`, or leave them out: --drop-masks') from error
    return mask
