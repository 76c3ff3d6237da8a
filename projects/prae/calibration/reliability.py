"""How far confidences are from the share of boxes that are right.

Expected calibration error (ECE), and D-ECE of Kueppers et al., "Multivariate Confidence Calibration for Object
Detection" (CVPR Workshops 2020), which also bins by the box's place and size, and LaECE of Oksuz et al., "Towards
Building Self-Aware Object Detectors" (CVPR 2023), whose target is how well right boxes are placed.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

BINS = 25
BINS_PER_AXIS = 5  # of score, center x and y, width and height: 3,125 cells


def reliability(scores: ndarray, target: ndarray, bins: int = BINS) -> tuple[ndarray, ndarray, ndarray]:
    """Bin scores.

    Args:
        scores: ``(M,)``; those outside [0, 1] count in the first or last bin.
        target: ``(M,)``, in [0, 1]; 1 is right.
        bins: Number of bins of equal width.

    Returns:
        Mean score, mean target and number of boxes of each bin that has any.
    """
    index = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    sums = (np.bincount(index, weights=values, minlength=bins)[used] for values in (scores, target))
    mean_score, mean_target = (total / count[used] for total in sums)
    return mean_score, mean_target, count[used]


def ece(scores: ndarray, target: ndarray, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1]: mean of |score - target| of the bins, weighted by their boxes."""
    if not len(scores):
        return 0.0
    score, value, count = reliability(scores, target, bins)
    return float((np.abs(score - value) * count).sum() / count.sum())


def d_ece(scores: ndarray, target: ndarray, box: ndarray, sizes: ndarray, bins: int = BINS_PER_AXIS) -> float:
    """Calibration error over cells of score, place and size.

    Args:
        scores: ``(M,)``.
        target: ``(M,)``.
        box: ``(M, 4)`` xyxy pixels.
        sizes: ``(M, 2)``, width and height of each box's image.
        bins: For each of the five axes.
    """
    if not len(scores):
        return 0.0
    scale = np.maximum(sizes, 1)
    center, extent = (box[:, :2] + box[:, 2:]) / 2 / scale, (box[:, 2:] - box[:, :2]) / scale
    axes = np.concatenate([scores[:, None], center, extent], axis=1)
    cells = np.clip((axes * bins).astype(np.int64), 0, bins - 1)
    index = np.ravel_multi_index(tuple(cells.T), (bins,) * 5)
    _, index = np.unique(index, return_inverse=True)
    return float(np.abs(np.bincount(index, weights=scores - target)).sum() / len(scores))


def la_ece(scores: ndarray, located: ndarray, category: ndarray, bins: int = BINS) -> float:
    """Calibration error against precision times IoU, mean over classes.

    Args:
        scores: ``(M,)``.
        located: ``(M,)``, IoU with the object of a right box, 0 of a wrong one.
        category: ``(M,)``.
        bins: Number of bins.
    """
    classes = np.unique(category)
    if not len(classes):
        return 0.0
    return float(np.mean([ece(scores[category == c], located[category == c], bins) for c in classes]))
