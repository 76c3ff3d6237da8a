"""Scores against pycocotools' own summary."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmplugins.prae.boxes.average_precision import as_coco, coco_scores
from mmplugins.prae.files.coco import read_ground_truth


def summary(dets, content: dict) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = content
        annotations.createIndex()
        xywh = np.concatenate([dets.box[:, :2], dets.box[:, 2:] - dets.box[:, :2]], axis=1)
        results = [
            dict(image_id=int(i) + 1, category_id=int(c) + 1, bbox=b.tolist(), score=float(s))
            for i, c, s, b in zip(dets.image, dets.category, dets.score, xywh, strict=True)
        ]
        run = COCOeval(annotations, annotations.loadRes(results), 'bbox')
        run.evaluate()
        run.accumulate()
        run.summarize()
    return 100 * run.stats[:6]


@pytest.fixture(scope='module')
def case(ground_truth, detector):
    gt = ground_truth(num_images=50, ignore=0.3)
    return gt, detector(gt, 3)


def test_scores_are_those_of_pycocotools(case):
    gt, dets = case
    expected = summary(dets, as_coco(gt)).tolist()
    assert list(coco_scores(dets, gt, sizes=True).values()) == pytest.approx(expected, abs=1e-9)


def test_sizes_are_those_of_masks(case, coco_json, tmp_path):
    gt, dets = case
    content, rng = coco_json(gt.select(~gt.ignore)), np.random.default_rng(0)
    for annotation in content['annotations']:
        annotation['area'] *= rng.uniform(0.2, 1)  # a mask does not fill its box
    boxes = content['annotations'][::5]
    for annotation in boxes:
        annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    expected = summary(dets, content)
    for annotation in boxes:
        del annotation['area']
    (tmp_path / 'gt.json').write_text(json.dumps(content))
    scores = coco_scores(dets, read_ground_truth(tmp_path / 'gt.json'), sizes=True)
    assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-9)


def test_no_detection_scores_zero(case):
    gt, dets = case
    nothing = dets.select(np.zeros(0, dtype=int))
    assert set(coco_scores(nothing, gt, sizes=True).values()) == {0.0}
