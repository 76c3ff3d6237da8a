"""Paired bootstrap intervals of average precision over images.

pycocotools cannot weight images, so the matches of :func:`match_greedy`, which are COCO's, are summed up again for each
resample. A test compares the unweighted sum with the package.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from ..boxes.average_precision import RECALLS
from ..boxes.groups import strongest
from ..boxes.tables import Detections, GroundTruth
from ..calibration.matching import COCO_THRESHOLDS, match_greedy

MAX_BOXES = 100  # COCO's


class ResampledAP:
    """AP of one table of detections, for any weights of the images.

    Args:
        table: The 100 strongest boxes of an image and category count, as in COCO's evaluation.
        gt: Ground truth.
    """

    def __init__(self, table: Detections, gt: GroundTruth) -> None:
        key = table.image * len(gt.dataset.classes) + table.category
        table = table.select(strongest(key, table.score, np.arange(len(table)), MAX_BOXES))
        hit, ignored = match_greedy(table, gt.ignored_as_crowd(), COCO_THRESHOLDS)
        order = np.argsort(-table.score, kind='stable')
        self._per_category = []
        self._once = np.ones(len(gt.dataset))
        for category in range(len(gt.dataset.classes)):
            rows = order[table.category[order] == category]
            positives = gt.image[(gt.category == category) & ~gt.ignore]
            if len(positives):
                levels = [(np.flatnonzero(hit[t, rows]), np.flatnonzero(ignored[t, rows])) for t in range(len(hit))]
                # Boxes that are ignored and come before each hit.
                levels = [(at, skip, np.searchsorted(skip, at)) for at, skip in levels]
                self._per_category.append((table.image[rows], positives, levels))

    def mean_ap(self, weights: ndarray | None = None) -> float:
        """Return mAP in percent; ``weights`` as below, None for all images once."""
        return float(self(self._once if weights is None else weights).mean())

    def ap50(self) -> float:
        """Return AP at IoU .5 in percent."""
        return float(self(self._once)[0])

    def __call__(self, weights: ndarray) -> ndarray:
        """Return AP in percent at each of COCO's ten thresholds, ``(10,)``, mean of categories.

        Args:
            weights: ``(I,)``, how often each image counts.
        """
        values = []
        for image, positives, levels in self._per_category:
            total = weights[positives].sum()
            if total > 0:
                weight = weights[image]
                running = np.cumsum(weight)
                values.append([self._level(weight, running, total, *level) for level in levels])
        return 100 * np.mean(values, axis=0) if values else np.zeros(len(COCO_THRESHOLDS))

    @staticmethod
    def _level(weight: ndarray, running: ndarray, total: float, at: ndarray, skip: ndarray, before: ndarray) -> float:
        """Interpolated AP. Recall changes at hits only, and precision is highest there, so only hits are looked at."""
        true = np.cumsum(weight[at])
        ignored = np.concatenate([[0.0], np.cumsum(weight[skip])])[before]
        counts = weight[at] > 0
        true, found = true[counts], (running[at] - ignored)[counts]
        if not len(true):
            return 0.0
        envelope = np.maximum.accumulate((true / found)[::-1])[::-1]
        place = np.searchsorted(true / total, RECALLS, side='left')
        return float(envelope[place[place < len(true)]].sum() / len(RECALLS))


def bootstrap(
    arms: dict[str, list[ResampledAP]], num_images: list[int], resamples: int, seed: int
) -> dict[str, ndarray]:
    """Return mAP and AP50 of each arm on the same resampled images, mean over folds.

    Args:
        arms: Name to one evaluator for each fold.
        num_images: Of each fold.
        resamples: How many.
        seed: Of numpy's generator.

    Returns:
        Name to ``(resamples, 2)``.
    """
    generator = np.random.default_rng(seed)
    out = {name: np.zeros((resamples, 2)) for name in arms}
    for row in range(resamples):
        weights = [np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64) for n in num_images]
        for name, folds in arms.items():
            ap = np.mean([fold(weight) for fold, weight in zip(folds, weights, strict=True)], axis=0)
            out[name][row] = ap.mean(), ap[0]
    return out
