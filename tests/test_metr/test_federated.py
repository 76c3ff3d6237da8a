"""Files that say for each image what was looked for: samples, and evaluation against LVIS' own rules by brute force."""

import json

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.evaluator import Evaluator
from torchvision.ops import box_iou

from mmplugins.metr import MultiVocabConcatDataset, VocabCocoMetric

NAMES = ['man', 'person', 'dog', 'cup']
MAN, PERSON, DOG, CUP = 1, 2, 3, 4  # ids of the file
BOX, OTHER = [4, 6, 20, 10], [30, 10, 20, 20]


@pytest.fixture
def federated(write_coco):
    """Image 0: men, a crowd of persons, no dog. Image 1: some dogs of many, a cup with a useless box. Image 2: none."""

    def edit(data):
        data['annotations'][2]['iscrowd'] = 1
        data['annotations'][5]['bbox'] = [4, 6, 0, 10]
        said = (([DOG], []), ([PERSON, CUP], [DOG, CUP]), ([], []))
        for image, (negative, partly) in zip(data['images'], said, strict=True):
            image.update(neg_category_ids=negative, not_exhaustive_category_ids=partly)

    images = [[('man', BOX), ('man', OTHER), ('person', OTHER)], [('dog', BOX), ('dog', OTHER), ('cup', BOX)], []]
    return write_coco('F', NAMES, images, edit=edit)


EXPECTED = [([0, 2], []), ([1, 2], [2]), ([], [])]


def test_labels_of_a_data_set(federated):
    dataset = DATASETS.build(federated)
    found = [dataset.get_data_info(i) for i in range(3)]
    assert [(info['annotated_labels'], info['partly_boxed_labels']) for info in found] == EXPECTED


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('wrap', [False, True])
def test_they_become_rows_and_come_through_any_pipeline(federated, pipeline, packed, wrap):
    """The vocabulary is in another order than the file."""
    steps = pipeline() if packed else pipeline()[:2]
    source = dict(type='RepeatDataset', times=2, dataset=federated) if wrap else federated
    dataset = MultiVocabConcatDataset(dict(F=source), dict(datasets=dict(F=NAMES[::-1])), pipeline=steps)
    for i, (annotated, partly) in enumerate(EXPECTED):
        sample = dataset[i]
        found = sample['data_samples'].metainfo if packed else sample
        assert found['annotated_rows'] == [3 - label for label in annotated]
        assert found['partly_boxed_rows'] == [3 - label for label in partly]
        assert 'annotated_labels' not in found


def test_an_ordinary_file_says_nothing(write_coco, pipeline):
    cfg = write_coco('A', NAMES, [[('man', BOX)]])
    sample = MultiVocabConcatDataset(dict(A=cfg), pipeline=pipeline())[0]['data_samples']
    assert 'annotated_rows' not in sample
    assert 'partly_boxed_rows' not in sample


def test_mixed_images_are_refused(federated, pipeline):
    steps = pipeline()
    mixed = dict(type='MultiImageMixDataset', dataset={**federated, 'pipeline': steps[:2]}, pipeline=steps[2:])
    dataset = MultiVocabConcatDataset(dict(F=mixed))
    with pytest.raises(ValueError, match="dataset 'F' says for each image.*mixed images"):
        dataset[0]


def test_lvis_has_an_address_in_place_of_a_name(federated):
    path = f'{federated["data_root"]}/ann.json'
    with open(path, encoding='utf-8') as file:
        data = json.load(file)
    for image in data['images']:
        image['coco_url'] = f'http://images.cocodataset.org/val2017/{image.pop("file_name")}'
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(data, file)
    assert DATASETS.build(federated).get_data_info(1)['img_path'].endswith('F/val2017/2.jpg')


# -- evaluation -----------------------------------------------------------------------------------------------------


def lvis_ap(data: dict, detections: dict[int, list], iou_thr: float) -> float:
    """Mean AP by the rules of arXiv 1908.03195 and COCO's 101 recall points.

    Args:
        data: Content of a file without crowds.
        detections: Image to a list of ``(category, score, xyxy)``.
        iou_thr: Of a match.
    """
    aps = []
    for category in range(1, len(NAMES) + 1):
        hits, total = [], 0  # (score, whether it is right)
        for image in data['images']:
            own = [a for a in data['annotations'] if a['image_id'] == image['id'] and a['category_id'] == category]
            if not own and category not in image['neg_category_ids']:
                continue
            total += len(own)
            truth = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in own)]).reshape(-1, 4)
            found = sorted((d for d in detections[image['id']] if d[0] == category), key=lambda d: -d[1])
            free = [True] * len(own)
            for _, score, box in found:
                ious = box_iou(torch.tensor([box]), truth.float())[0] if own else torch.zeros(0)
                best = max(
                    (i for i in range(len(own)) if free[i] and ious[i] >= iou_thr), key=lambda i: ious[i], default=-1
                )
                if best >= 0:
                    free[best] = False
                    hits.append((score, True))
                elif category not in image['not_exhaustive_category_ids']:
                    hits.append((score, False))
        if not total:
            continue
        right = np.cumsum([right for _, right in sorted(hits, key=lambda hit: -hit[0])])
        recall, precision = right / total, right / np.arange(1, len(right) + 1)
        points = [max(precision[recall >= r - 1e-12], default=0) for r in np.linspace(0, 1, 101)]
        aps.append(np.mean(points))
    return float(np.mean(aps))


def test_evaluation_is_that_of_lvis(write_coco):
    rng = np.random.default_rng(0)

    def box():
        return [*rng.integers(0, 30, 2).tolist(), *rng.integers(8, 18, 2).tolist()]

    images = [[(NAMES[rng.integers(4)], box()) for _ in range(3)] for _ in range(12)]

    def edit(data):
        for image, boxes in zip(data['images'], images, strict=True):
            present = sorted({NAMES.index(name) + 1 for name, _ in boxes})
            absent = [category for category in range(1, 5) if category not in present]
            image.update(neg_category_ids=absent[:1], not_exhaustive_category_ids=present[:1])

    cfg = write_coco('F', NAMES, images, edit=edit)
    path = f'{cfg["data_root"]}/ann.json'
    with open(path, encoding='utf-8') as file:
        data = json.load(file)
    detections, samples = {}, []
    for image, boxes in zip(data['images'], images, strict=True):
        shifted = [(x + rng.normal(0, 1.5), y + rng.normal(0, 1.5), w, h) for _, (x, y, w, h) in boxes]
        found = [(NAMES.index(name) + 1, b) for (name, _), b in zip(boxes, shifted, strict=True)]
        found += [(int(rng.integers(1, 5)), box()) for _ in range(6)]
        found = [(c, float(rng.random()), [x, y, x + w, y + h]) for c, (x, y, w, h) in found]
        detections[image['id']] = found
        prediction = dict(
            bboxes=torch.tensor([d[2] for d in found], dtype=torch.float64),
            scores=torch.tensor([d[1] for d in found], dtype=torch.float64),
            labels=torch.tensor([d[0] - 1 for d in found]),
        )
        samples.append(dict(img_id=image['id'], ori_shape=(48, 64), pred_instances=prediction))
    evaluator = Evaluator(VocabCocoMetric(path, 'F', metric_items=['mAP_50', 'mAP_75']))
    evaluator.dataset_meta = dict(classes=NAMES)
    evaluator.process(data_samples=samples, data_batch={})
    result = evaluator.evaluate(len(samples))
    for key, iou_thr in dict(mAP_50=0.5, mAP_75=0.75).items():
        expected = lvis_ap(data, detections, iou_thr)
        assert 0.1 < expected < 0.9
        assert result[f'coco/bbox_{key}'] == pytest.approx(expected, abs=6e-4)  # the host rounds to three digits
