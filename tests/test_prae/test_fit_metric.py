"""What PRAEFitMetric prints and writes, and what it refuses; with several detectors see ``test_ensemble.py``."""

import numpy as np
import pytest
import torch

from mmplugins.prae import PRAEFitMetric
from mmplugins.prae.files.coco import read_ground_truth


@pytest.fixture
def fit_metric(repo, tmp_path):
    """Return a function that fits on objects of the samples, some of them moved, and returns what it prints."""
    ann = repo / 'tests/data/bccd/annotations/all_val.json'
    gt = read_ground_truth(ann)

    def run(score=lambda x: x, extra=(), classes=gt.dataset.classes, **options):
        metric = PRAEFitMetric(str(ann), str(tmp_path / 'calib.json'), **options)
        metric.dataset_meta = dict(classes=classes)
        rng = np.random.default_rng(0)
        for place, image_id in enumerate(gt.dataset.image_ids):
            mine = gt.image == place
            boxes = gt.box[mine] + rng.integers(0, 2, (mine.sum(), 1)) * 40
            pred = [*zip(boxes, score(rng.random(len(boxes))), gt.category[mine], strict=True), *extra]
            columns = [torch.tensor(np.array(column)) for column in zip(*pred, strict=True)]
            pred = dict(zip(('bboxes', 'scores', 'labels'), columns, strict=True))
            metric.process({}, [dict(img_id=image_id, pred_instances=pred)])
        return metric.evaluate(len(gt.dataset)), (tmp_path / 'calib.json').read_text()

    return run


def test_fused_boxes_are_no_detectors(fit_metric, tmp_path):
    with pytest.raises(ValueError, match=r"which of the detectors \['a', 'b'\] .* model.fusion=None"):
        fit_metric(names=('a', 'b'))
    assert not (tmp_path / 'calib.json').exists()


def test_fit_metric_leaves_out_what_is_no_box(fit_metric):
    bad = [([0, 0, 9, 9], np.nan, 0), ([0, 0, np.inf, 9], 0.9, 0), ([5, 5, 5, 9], 0.9, 0)]
    assert fit_metric(extra=bad) == fit_metric()


def test_fit_metric_has_no_error_of_logits_before(fit_metric):
    chances, logits = fit_metric()[0], fit_metric(score=lambda x: np.log(x / (1 - x)))[0]
    assert chances.pop('prae/detector_ece') > 0
    assert logits == chances


def test_fit_metric_refuses_classes_in_another_order_than_labels(fit_metric):
    with pytest.raises(ValueError, match='mmdet numbers labels in the order of the file'):
        fit_metric(classes=('platelets', 'white blood cell', 'red blood cell'))
    with pytest.raises(ValueError, match='unknown class dog'):
        fit_metric(classes=('dog',))
