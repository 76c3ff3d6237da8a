"""Images to fit on and images to test on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..boxes.tables import Detections, GroundTruth, subset, subset_detections


@dataclass(frozen=True)
class Fold:
    """Fit and test images with their ground truth, and the boxes of some detectors on both."""

    fit_gt: GroundTruth
    test_gt: GroundTruth
    fit_tables: dict[str, Detections]
    test_tables: dict[str, Detections]


def parts_of(num_images: int, count: int, seed: int = 0) -> list[np.ndarray]:
    """Random parts of the images of about equal size, each in rising order."""
    # The legacy generator: its permutations are fixed for good, those of default_rng may change between releases.
    order = np.random.RandomState(seed).permutation(num_images)
    bounds = np.arange(1, count) * num_images // count
    return [np.sort(part) for part in np.split(order, bounds)]


def pick(gt: GroundTruth, tables: Mapping[str, Detections], images: np.ndarray) -> tuple[GroundTruth, dict]:
    """Ground truth and boxes of some images, numbered anew in the given order."""
    num = len(gt.dataset)
    return subset(gt, images), {name: subset_detections(table, images, num) for name, table in tables.items()}


def make_folds(gt: GroundTruth, tables: Mapping[str, Detections], seed: int = 0) -> list[Fold]:
    """Both ways round of two halves."""
    a, b = (pick(gt, tables, part) for part in parts_of(len(gt.dataset), 2, seed))
    return [Fold(fit[0], test[0], fit[1], test[1]) for fit, test in ((a, b), (b, a))]
