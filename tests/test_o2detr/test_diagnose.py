"""The oracle table: AP against the host's, and each row against predictions that are wrong in one thing only."""

import contextlib
import math
import multiprocessing.pool
import types

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmrotate.evaluation.functional import eval_rbbox_map
from mmrotate.evaluation.functional import mean_ap as host
from mmrotate.structures import RotatedBoxes

from mmplugins.o2detr.verbs.diagnose import ROWS, Image, diagnose, image_of, mean_ap, text_of

CLASSES = 3
# mmcv's IoU of boxes that coincide may be 0.33.
ASIDE = torch.tensor([0.05, 0.04, 0.0, 0.0, 0.0])


@contextlib.contextmanager
def in_threads():
    before = host.get_context
    host.get_context = lambda _: types.SimpleNamespace(Pool=lambda _: multiprocessing.pool.ThreadPool(1))
    yield
    host.get_context = before


def instances(boxes, labels, scores=None):
    more = {} if scores is None else dict(scores=scores)
    return InstanceData(bboxes=boxes, labels=torch.as_tensor(labels, dtype=torch.long), **more)


def far_boxes(n, seed=0):
    """Boxes of ratio 4 that do not touch."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.tensor([[60.0 + 80 * (i % 4), 60 + 80 * (i // 4)] for i in range(n)])
    angles = torch.rand(n, 1, generator=generator) * math.pi
    return torch.cat([centers, torch.tensor([[40.0, 10.0]]).expand(n, 2), angles], dim=1)


def images_with(change, n=8):
    """Two images whose predictions are the truth after ``change(boxes, scores, labels)``."""
    images = []
    for seed in range(2):
        truth = far_boxes(n, seed)
        labels = torch.arange(n) % CLASSES
        boxes, scores, found = change(truth + ASIDE, torch.linspace(0.9, 0.5, n), labels)
        none = instances(truth[:0], labels[:0])
        images.append(Image(instances(boxes, found, scores), instances(truth, labels), none))
    return images


WRONG = {
    'class': lambda boxes, scores, labels: (boxes, scores, (labels + 1) % CLASSES),
    'angle': lambda boxes, scores, labels: (boxes + torch.tensor([0, 0, 0, 0, 0.6]), scores, labels),
    'size': lambda boxes, scores, labels: (boxes * torch.tensor([1, 1, 1.7, 1.7, 1]), scores, labels),
    'center': lambda boxes, scores, labels: (boxes + torch.tensor([4.0, 4, 0, 0, 0]), scores, labels),
    # As many wrong boxes, better scored, elsewhere.
    'ranking': lambda boxes, scores, labels: (
        torch.cat([boxes, boxes + 40 * torch.tensor([1, 1, 0, 0, 0])]),
        torch.cat([scores, scores + 0.5]),
        torch.cat([labels, labels]),
    ),
    # Each box is found three times.
    'NMS': lambda boxes, scores, labels: (
        torch.cat([boxes, boxes + 0.5, boxes - 0.5]),
        torch.cat([scores, scores - 0.01, scores - 0.02]),
        labels.repeat(3),
    ),
}


@pytest.mark.parametrize('row', WRONG)
def test_a_row_repairs_what_is_wrong_and_only_that(row):
    table = diagnose(images_with(WRONG[row]), CLASSES)
    assert table['as it is']['ap50'] < 0.95 and table[row]['ap50'] == pytest.approx(1)
    assert set(table) == set(ROWS)
    for other in set(COLUMN_ROWS) - {row}:
        assert table[other]['ap50'] < 0.95, other


COLUMN_ROWS = ('class', 'angle', 'size', 'center')


def test_nothing_to_repair():
    table = diagnose(images_with(lambda *same: same), CLASSES)
    assert all(value == pytest.approx(1) for row in table.values() for value in row.values())


def noisy_images(random_boxes, n=12):
    torch.manual_seed(0)
    images = []
    for number in (n, 0, n):
        truth = random_boxes(number) if number else torch.zeros(0, 5)
        labels = torch.randint(CLASSES, (number,))
        found = torch.cat([truth, truth, random_boxes(6)])
        found = found + torch.randn_like(found) * torch.tensor([2, 2, 2, 1, 0.1])
        found[:, 2:4].clamp_(min=2)
        found_labels = torch.cat([labels, labels, torch.randint(CLASSES, (6,))])
        ignored = instances(random_boxes(3), torch.randint(CLASSES, (3,)))
        images.append(Image(instances(found, found_labels, torch.rand(len(found))), instances(truth, labels), ignored))
    return images


@pytest.mark.parametrize('iou_thr', [0.3, 0.5])
def test_ap_is_that_of_the_host(random_boxes, iou_thr):
    images = noisy_images(random_boxes)
    found = [
        [
            torch.cat([x.bboxes, x.scores[:, None]], dim=1)[x.labels == label].numpy()
            for label in range(CLASSES)
        ]
        for x in (image.found for image in images)
    ]  # fmt: skip
    truth = [
        dict(
            bboxes=image.truth.bboxes.numpy(),
            labels=image.truth.labels.numpy(),
            bboxes_ignore=image.ignored.bboxes.numpy(),
            labels_ignore=image.ignored.labels.numpy(),
        )
        for image in images
    ]
    with in_threads():
        expected, _ = eval_rbbox_map(found, truth, iou_thr=iou_thr, use_07_metric=False, logger='silent')
    assert 0.05 < expected < 0.95
    assert mean_ap(images, [image.found for image in images], CLASSES, iou_thr) == pytest.approx(expected, abs=1e-5)


def test_samples_of_any_detector():
    sample = DetDataSample()
    boxes = torch.tensor([[50.0, 50, 10, 40, 0.2]])
    sample.pred_instances = instances(RotatedBoxes(boxes), [1], torch.tensor([0.5]))
    sample.gt_instances = instances(RotatedBoxes(boxes), [1])
    image = image_of(sample)
    assert image.found.bboxes.tolist()[0] == pytest.approx([50, 50, 40, 10, 0.2 + math.pi / 2])
    assert len(image.ignored) == 0 and len(image.truth) == 1


@pytest.mark.parametrize('kind', ['none', 'corners'])
def test_samples_without_rotated_truth(kind):
    sample = DetDataSample()
    sample.pred_instances = instances(torch.rand(1, 5), [1], torch.tensor([0.5]))
    if kind == 'corners':
        sample.gt_instances = instances(torch.rand(2, 8), [0, 1])
    with pytest.raises(ValueError, match='LoadAnnotations' if kind == 'none' else '8 numbers.*ConvertBoxType'):
        image_of(sample)


def test_table_says_what_each_row_gains():
    text = text_of(diagnose(images_with(WRONG['angle']), CLASSES)).splitlines()
    assert len(text) == 1 + len(ROWS) and '1.000 (+' in next(line for line in text if line.startswith('angle'))
    assert np.all([line.count('(') == 2 for line in text[1:]])
