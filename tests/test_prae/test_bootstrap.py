"""The resampled sum against the package, and against resampled files."""

from dataclasses import replace

import numpy as np
import pytest

from mmplugins.prae.boxes.average_precision import coco_scores
from mmplugins.prae.boxes.tables import Detections, GroundTruth
from mmplugins.prae.tuning.bootstrap import ResampledAP, bootstrap


@pytest.fixture(scope='module')
def case(ground_truth, detector):
    gt = ground_truth(num_images=50, ignore=0.3)
    return gt, detector(gt, 3)


def test_unweighted_sum_is_the_package(case):
    gt, dets = case
    ap, scores = ResampledAP(dets, gt)(np.ones(50)), coco_scores(dets, gt)
    assert (ap.mean(), ap[0], ap[5]) == pytest.approx((scores['mAP'], scores['AP50'], scores['AP75']), abs=1e-9)


def test_weights_repeat_images(case):
    gt, dets = case
    weights = np.random.default_rng(0).integers(0, 3, 50)
    parts = [(image, copy) for image in range(50) for copy in range(weights[image])]
    ids = tuple(range(len(parts)))
    dataset = replace(gt.dataset, image_ids=ids, file_names=('',) * len(ids), sizes=np.zeros((len(ids), 2)))
    det_rows = [np.flatnonzero(dets.image == image) for image, _ in parts]
    gt_rows = [np.flatnonzero(gt.image == image) for image, _ in parts]

    def number(rows):
        return np.repeat(np.arange(len(parts)), [len(row) for row in rows])

    more = dets.select(np.concatenate(det_rows))
    more = Detections(number(det_rows), more.category, more.score, more.box)
    objects = gt.select(np.concatenate(gt_rows))
    objects = GroundTruth(dataset, number(gt_rows), objects.category, objects.box, objects.ignore, objects.crowd)
    expected = coco_scores(more, objects)
    assert ResampledAP(dets, gt)(weights.astype(float)).mean() == pytest.approx(expected['mAP'], abs=1e-9)


def test_boxes_after_the_hundredth_do_not_count(case):
    gt, dets = case
    gt = gt.select(gt.image < 2)
    first, rng = dets.select(dets.image < 2), np.random.default_rng(0)
    many = first.select(np.repeat(np.arange(len(first)), 40))
    many = many.with_scores(rng.random(len(many)).round(3))  # with ties
    many = replace(many, category=many.category * 0, box=many.box + rng.normal(0, 9, (len(many), 1)))
    gt = replace(gt, category=gt.category * 0)
    assert np.bincount(many.image).min() > 200
    scores = coco_scores(many, gt)
    ap = ResampledAP(many, gt)(np.ones(50))
    assert 0 < scores['mAP'] < 100
    assert (ap.mean(), ap[0], ap[5]) == pytest.approx((scores['mAP'], scores['AP50'], scores['AP75']), abs=1e-9)


def test_bootstrap_is_paired(case):
    gt, dets = case
    arms = dict(a=[ResampledAP(dets, gt)], b=[ResampledAP(dets, gt)])
    drawn = bootstrap(arms, [50], resamples=5, seed=0)
    assert (drawn['a'] == drawn['b']).all()
    assert drawn['a'].std(0).min() > 0


def test_no_detection_scores_zero(case):
    gt, dets = case
    nothing = dets.select(np.zeros(0, dtype=int))
    assert ResampledAP(nothing, gt)(np.ones(50)).tolist() == [0.0] * 10
