"""Small detection problems that are made up: objects, and detectors that find them more or less well."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmplugins.prae import Dataset, Detections, GroundTruth
from mmplugins.prae.files.coco import write_results


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


@pytest.fixture(scope='session')
def coco_json() -> Callable[[GroundTruth], dict]:
    """Return a function that makes a COCO annotation file of ground truth."""

    def make(gt: GroundTruth) -> dict:
        data = gt.dataset
        size = gt.box[:, 2:] - gt.box[:, :2]
        return dict(
            images=[
                dict(id=image_id, file_name=name, width=int(w), height=int(h))
                for image_id, name, (w, h) in zip(data.image_ids, data.file_names, data.sizes, strict=True)
            ],
            categories=[dict(id=i, name=name) for i, name in zip(data.category_ids, data.classes, strict=True)],
            annotations=[
                dict(
                    id=number + 1,
                    image_id=data.image_ids[gt.image[number]],
                    category_id=data.category_ids[gt.category[number]],
                    bbox=[*gt.box[number, :2].tolist(), *size[number].tolist()],
                    area=float(size[number].prod()),
                    iscrowd=0,
                    difficult=int(gt.ignore[number]),
                )
                for number in range(len(gt.box))
            ],
        )

    return make


@pytest.fixture
def files(scene, coco_json, tmp_path) -> Path:
    """Return a folder with ``fit.json``, ``test.json`` and the boxes of detectors a and b on both."""
    for part, (gt, tables) in dict(fit=(scene[0], scene[2]), test=(scene[1], scene[3])).items():
        content = coco_json(gt)
        for image in content['images']:
            image['file_name'] = f'{part}_{image["file_name"]}'
        (tmp_path / f'{part}.json').write_text(json.dumps(content))
        for name, table in zip('ab', tables, strict=True):
            write_results(table, gt.dataset, tmp_path / f'{name}_{part}.bbox.json')
    return tmp_path
