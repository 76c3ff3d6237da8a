"""Matching against pycocotools, and against loops."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmplugins.prae.boxes.average_precision import as_coco
from mmplugins.prae.boxes.tables import Detections
from mmplugins.prae.calibration.matching import COCO_THRESHOLDS, best_iou, hits_any, match_greedy


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def coco_matches(dets, gt):
    """Right and ignored, ``(10, M)``, as pycocotools has it."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = as_coco(gt)
        annotations.createIndex()
        xywh = np.concatenate([dets.box[:, :2], dets.box[:, 2:] - dets.box[:, :2]], axis=1)
        results = [
            dict(image_id=int(i) + 1, category_id=int(c) + 1, bbox=b.tolist(), score=float(s))
            for i, c, s, b in zip(dets.image, dets.category, dets.score, xywh, strict=True)
        ]
        run = COCOeval(annotations, annotations.loadRes(results), 'bbox')
        run.params.areaRng = [[0, 1e10]]
        run.evaluate()
    hit, ignored = np.zeros((2, 10, len(dets)), dtype=bool)
    for entry in run.evalImgs:
        if entry is not None:
            at = np.array(entry['dtIds'], dtype=int) - 1  # loadRes numbers results from 1
            matched = entry['dtMatches'] > 0
            ignored[:, at] = entry['dtIgnore'].astype(bool)
            hit[:, at] = matched & ~entry['dtIgnore'].astype(bool)
    return hit, ignored


@pytest.mark.parametrize('ties', [False, True], ids=['distinct scores', 'equal scores'])
def test_greedy_is_pycocotools(ground_truth, detector, ties):
    gt = ground_truth(ignore=0.3).ignored_as_crowd()
    dets = detector(gt, 7)
    if ties:
        dets = dets.with_scores(dets.score.round(1))
    hit, ignored = match_greedy(dets, gt, COCO_THRESHOLDS)
    expected_hit, expected_ignored = coco_matches(dets, gt)
    assert hit.any() and ignored.any()
    assert (hit == expected_hit).all()
    assert (ignored == expected_ignored).all()


def test_any_is_a_loop(ground_truth, detector):
    gt = ground_truth()
    dets = detector(gt, 7)
    expected = [
        max((iou(b, g) for g in gt.box[(gt.image == i) & (gt.category == c)]), default=0.0)
        for i, c, b in zip(dets.image, dets.category, dets.box, strict=True)
    ]
    np.testing.assert_allclose(best_iou(dets, gt), expected, atol=1e-12)
    assert (hits_any(dets, gt) == (np.array(expected) > 0.5)).all()


def test_a_difficult_object_takes_one_detection_only(ground_truth):
    # A crowd would take both; difficult objects are measured by IoU and are single.
    gt = ground_truth(num_images=1)
    gt = gt.select(np.array([0]))
    gt.ignore[:] = True
    dets = Detections.make([0, 0], [gt.category[0]] * 2, [0.9, 0.8], np.repeat(gt.box, 2, axis=0))
    hit, ignored = match_greedy(dets, gt, np.array([0.5]))
    assert not hit.any()
    assert ignored[0].tolist() == [True, False]


@pytest.mark.parametrize('empty', ['detections', 'ground truth'])
def test_nothing_to_match(ground_truth, detector, empty):
    gt = ground_truth()
    dets = detector(gt, 7)
    nothing = np.zeros(0, dtype=np.int64)
    dets, gt = (dets.select(nothing), gt) if empty == 'detections' else (dets, gt.select(nothing))
    hit, ignored = match_greedy(dets, gt)
    assert hit.shape == (10, len(dets))
    assert not hit.any() and not ignored.any()
