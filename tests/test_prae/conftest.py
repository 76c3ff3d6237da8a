"""Small detection problems that are made up: objects, and detectors that find them more or less well."""

from collections.abc import Callable

import numpy as np
import pytest

from mmplugins.prae import Dataset, Detections, GroundTruth


def make_ground_truth(num_images: int = 60, num_classes: int = 3, seed: int = 0, ignore: float = 0.1) -> GroundTruth:
    """Objects of 20 to 120 pixels in images of 400 x 300; some are to be ignored."""
    rng = np.random.default_rng(seed)
    count = num_images * 4
    corner = rng.uniform(0, [280, 180], (count, 2))
    box = np.concatenate([corner, corner + rng.uniform(20, 120, (count, 2))], axis=1)
    dataset = Dataset(
        tuple(range(1, num_images + 1)),
        tuple(f'{number:04d}.jpg' for number in range(1, num_images + 1)),
        np.tile([400.0, 300.0], (num_images, 1)),
        tuple(f'class {number}' for number in range(num_classes)),
        tuple(range(1, num_classes + 1)),
    )
    image, category = rng.integers(0, num_images, count), rng.integers(0, num_classes, count)
    return GroundTruth(dataset, image, category, box, rng.random(count) < ignore, np.zeros(count, dtype=bool))


def make_detections(gt: GroundTruth, seed: int, noise: float = 8.0, power: float = 1.0, false: int = 3) -> Detections:
    """A detector: jittered objects, duplicates and false boxes.

    Args:
        gt: What there is to find.
        seed: Of the detector.
        noise: Jitter of corners, pixels; the score falls with it.
        power: Scores are raised to it, so that detectors are on different scales.
        false: False boxes for an image.
    """
    rng = np.random.default_rng(seed)
    found = np.repeat(np.flatnonzero(rng.random(len(gt.box)) < 0.9), 2)
    jitter = rng.normal(0, noise * rng.uniform(0.2, 1.6, (len(found), 1)), (len(found), 4))
    error = np.abs(jitter).mean(1)
    num_false = false * len(gt.dataset)
    corner = rng.uniform(0, [280, 180], (num_false, 2))
    wrong = np.concatenate([corner, corner + rng.uniform(20, 120, (num_false, 2))], axis=1)
    box = np.concatenate([gt.box[found] + jitter, wrong])
    box = np.concatenate([box[:, :2], np.maximum(box[:, 2:], box[:, :2] + 2)], axis=1)
    logit = np.concatenate([2 - error / 3 + rng.normal(0, 0.8, len(found)), rng.normal(-1.5, 1.0, num_false)])
    image = np.concatenate([gt.image[found], rng.integers(0, len(gt.dataset), num_false)])
    category = np.concatenate([gt.category[found], rng.integers(0, len(gt.dataset.classes), num_false)])
    order = np.argsort(image, kind='stable')
    score = (1 / (1 + np.exp(-logit))) ** power
    return Detections.make(image[order], category[order], score[order], box[order])


@pytest.fixture(scope='session')
def ground_truth() -> Callable[..., GroundTruth]:
    """Return :func:`make_ground_truth`."""
    return make_ground_truth


@pytest.fixture(scope='session')
def detector() -> Callable[..., Detections]:
    """Return :func:`make_detections`."""
    return make_detections


@pytest.fixture(scope='session')
def scene() -> tuple[GroundTruth, GroundTruth, list[Detections], list[Detections]]:
    """Return ground truth of fit and test images, and the boxes of two detectors of different scales on both."""
    fit, test = make_ground_truth(seed=1), make_ground_truth(seed=2)
    return (
        fit,
        test,
        [make_detections(fit, 3), make_detections(fit, 4, noise=12.0, power=3.0)],
        [make_detections(test, 5), make_detections(test, 6, noise=12.0, power=3.0)],
    )
