"""OpenImages' metric, against mmdet's own data set and metric on the published tables of the stand-ins."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import OpenImagesMetric
from mmdet.registry import DATASETS
from mmengine.evaluator import Evaluator

from mmplugins.metr import VocabOpenImagesMetric
from mmplugins.metr.__main__ import main


@pytest.fixture(scope='module')
def root(standins, tmp_path_factory) -> Path:
    """Return a folder with the stand-in of OpenImages, prepared."""
    root = tmp_path_factory.mktemp('openimages')
    standins.FAMILIES['openimages'](root)
    # The third label is a child of the second, and has a box where the second is known too.
    path = root / 'annotations/bbox_labels_600_hierarchy.json'
    tree = json.loads(path.read_text())
    parent, child, *others = tree['Subcategory']
    parent['Subcategory'].append(child)
    tree['Subcategory'] = [parent, *others]
    path.write_text(json.dumps(tree))
    assert main(['prepare', 'openimages', str(root), '--parts', 'val']) == 0
    return root


@pytest.fixture(scope='module')
def host(root):
    """Return mmdet's data set over the tables."""
    folder = 'annotations/'
    return DATASETS.build(
        dict(
            type='mmdet.OpenImagesDataset',
            data_root=str(root),
            ann_file=f'{folder}validation-annotations-bbox.csv',
            data_prefix=dict(img='val/'),
            label_file=f'{folder}class-descriptions-boxable.csv',
            hierarchy_file=f'{folder}bbox_labels_600_hierarchy.json',
            meta_file=f'{folder}validation-image-metas.pkl',
            image_level_ann_file=f'{folder}validation-annotations-human-imagelabels-boxable.csv',
            test_mode=True,
            lazy_init=False,
        )
    )


@pytest.fixture(scope='module')
def prepared(root) -> dict:
    return json.loads((root / 'annotations/oidv6_val_bbox_coco.json').read_text())


def found(host, rng: np.random.Generator) -> list[dict]:
    """Return predictions near the truth and elsewhere, of right, wrong and unknown names, and of parents' children.

    Not of what lies below a name that was verified as absent (label 0 below 1): mmdet's data set does not know of that.
    """
    samples = []
    for index in range(len(host)):
        info = host.get_data_info(index)
        truth = np.array([one['bbox'] for one in info['instances']], dtype=np.float32)
        labels = np.array([one['bbox_label'] for one in info['instances']])
        boxes = np.concatenate([truth, truth + 40, truth + 3, truth - 30])
        labels = np.concatenate([labels, labels, rng.integers(2, 8, 2 * len(truth))])
        boxes = np.concatenate([boxes, boxes[-3:]])
        labels = np.concatenate([labels, [2, 2, 3]])
        predictions = dict(
            bboxes=torch.from_numpy(boxes).float(),
            labels=torch.from_numpy(labels),
            scores=torch.from_numpy(rng.random(len(labels))).float(),
        )
        samples.append(dict(info, pred_instances=predictions))
    return samples


@pytest.mark.parametrize(
    'options',
    [
        {},
        pytest.param(dict(iou_thrs=[0.5, 0.75], ioa_thrs=[0.5, 0.5]), marks=pytest.mark.slow),
        pytest.param(dict(filter_labels=False), marks=pytest.mark.slow),
    ],
)
def test_equals_the_host(host, root, prepared, options):
    samples = found(host, np.random.default_rng(0))
    theirs = Evaluator(OpenImagesMetric(**options))
    theirs.dataset_meta = host.metainfo
    theirs.process(samples, {})
    expected = theirs.evaluate(len(samples))

    # A vocabulary in another order, with names of another set between; images of that set in the run.
    names = [category['name'] for category in prepared['categories']]
    row_of = {label: 2 * (len(names) - 1 - label) + 1 for label in range(len(names))}
    classes = [f'other {row}' for row in range(2 * len(names))]
    for label, row in row_of.items():
        classes[row] = names[label]
    meta = dict(
        classes=classes,
        datasets=dict(other=list(range(0, 2 * len(names), 2)), oid=[row_of[label] for label in range(len(names))]),
        dataset_classes=dict(other=classes[::2], oid=names),
    )
    ids = {image['file_name']: image['id'] for image in prepared['images']}
    ours = VocabOpenImagesMetric(str(root / 'annotations/oidv6_val_bbox_coco.json'), 'oid', **options)
    ours.dataset_meta = meta
    for sample in samples:
        predictions = sample['pred_instances']
        rows = torch.tensor([row_of[int(label)] for label in predictions['labels']])
        name = Path(sample['img_path']).name
        own = dict(img_id=ids[name], dataset_name='oid', pred_instances=dict(predictions, labels=rows))
        ours.process({}, [own, dict(own, img_id=-1, dataset_name='other')])
    result = ours.evaluate(2 * len(samples))
    assert 0.05 < expected['openimages/mAP'] < 1
    assert result == pytest.approx(expected, abs=1e-3)  # corners are rounded to a thousandth of a pixel


def test_bad_input(root, prepared, tmp_path):
    path = root / 'annotations/oidv6_val_bbox_coco.json'
    names = [category['name'] for category in prepared['categories']]
    metric = VocabOpenImagesMetric(str(path), 'oid')
    with pytest.raises(ValueError, match='500 and of 601 names.*has 3; use VocabCocoMetric'):
        metric.dataset_meta = dict(classes=names[:3])
    metric.dataset_meta = dict(classes=names)
    with pytest.raises(ValueError, match='does not list: id 77'):
        metric.process({}, [dict(img_id=77, pred_instances=dict(labels=torch.zeros(0, dtype=torch.long)))])
    for category in prepared['categories']:
        category.pop('parents')
    (tmp_path / 'old.json').write_text(json.dumps(prepared))
    with pytest.raises(ValueError, match='without `parents`.*prepare openimages'):
        VocabOpenImagesMetric(str(tmp_path / 'old.json'), 'oid')
