"""Boxes of real detectors on PASCAL VOC2007 test, 4,952 images; they are not part of this repository.

The folder of ``--data`` holds ``voc2007_test/gt.json.gz`` (COCO annotations) and
``voc2007_test/<detector>.bbox.json.gz`` (COCO results). Ignored (difficult) objects count as crowds, as pycocotools
knows no other way to ignore an object.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments import ROOT
from mmplugins.prae import Detections, GroundTruth
from mmplugins.prae.files.inputs import read_annotations, read_detections
from mmplugins.prae.tuning.folds import Fold, pick

DATA = ROOT / 'data/detections'
DETECTORS = (
    'yolov2_darknet', 'two_stage', 'yolov2_pytorch', 'yolov3_darknet', 'tiny_yolo_darknet', 'tiny_yolo_caffe',
)  # fmt: skip
Boxes = tuple[GroundTruth, dict[str, Detections]]


@functools.cache
def load(data: Path) -> Boxes:
    """Ground truth, and the boxes of all detectors by name."""
    folder = data / 'voc2007_test'
    gt = read_annotations(folder / 'gt.json.gz')
    return gt, {name: read_detections(folder / f'{name}.bbox.json.gz', gt.dataset, name) for name in DETECTORS}


def smaller(fold: Fold, count: int, seed: int) -> Fold:
    """The fold with ``count`` of its fit images, drawn by ``seed``."""
    images = np.sort(np.random.RandomState(seed).permutation(len(fold.fit_gt.dataset))[:count])
    fit_gt, fit_tables = pick(fold.fit_gt, fold.fit_tables, images)
    return replace(fold, fit_gt=fit_gt, fit_tables=fit_tables)


def with_weak_boxes(gt: GroundTruth, table: Detections, count: int, seed: Sequence[int]) -> Detections:
    """A detector with ``count`` more boxes in each image, anywhere, of any class, with scores below .004.

    So are most of the 300 queries of a DETR, and what a low ``score_thr`` lets through.
    """
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(len(gt.dataset)), count)
    size = gt.dataset.sizes[image]
    corner = rng.uniform(0, 0.8, (len(image), 2)) * size
    box = np.concatenate([corner, corner + rng.uniform(0.05, 0.2, (len(image), 2)) * size], axis=1)
    category = rng.integers(0, len(gt.dataset.classes), len(image))
    parts = (table.image, image), (table.category, category), (table.score, rng.uniform(0, 4e-3, len(image)))
    more = Detections(*map(np.concatenate, parts), np.concatenate([table.box, box]))
    return more.select(np.argsort(more.image, kind='stable'))
