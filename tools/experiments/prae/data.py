"""Boxes of real detectors on PASCAL VOC2007 test, 4,952 images; they are not part of this repository.

The folder of ``--data`` holds ``voc2007_test/gt.json.gz`` (COCO annotations) and
``voc2007_test/<detector>.bbox.json.gz`` (COCO results). Ignored (difficult) objects count as crowds, as pycocotools
knows no other way to ignore an object.
"""

import functools
from pathlib import Path

import numpy as np

from experiments import ROOT
from mmplugins.prae import Detections, GroundTruth
from mmplugins.prae.boxes.tables import subset, subset_detections
from mmplugins.prae.files.inputs import read_annotations, read_detections
from mmplugins.prae.verbs.compare import Fold

DATA = ROOT.parent / 'shared/data/detections'
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


def pick(boxes: Boxes, images: np.ndarray) -> Boxes:
    """The same for some of the images, named by place, in rising order."""
    gt, tables = boxes
    num = len(gt.dataset)
    return subset(gt, images), {name: subset_detections(table, images, num) for name, table in tables.items()}


def smaller(fold: Fold, count: int | None, seed: int) -> Fold:
    """The fold with ``count`` of its fit images, drawn by ``seed``; all if None."""
    images = np.sort(np.random.RandomState(seed).permutation(len(fold.fit_gt.dataset))[:count])
    gt, tables = pick((fold.fit_gt, fold.fit_tables), images)
    return Fold(gt, fold.test_gt, tables, fold.test_tables)
