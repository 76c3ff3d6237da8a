"""Readers and writers: round trips, foreign formats, and files that are broken or evil."""

import gzip
import json
import os
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import DumpDetResults
from mmdet.structures import DetDataSample
from mmdet.structures.mask import PolygonMasks
from mmengine.structures import InstanceData

from mmplugins.prae.files.coco import read_ground_truth, read_results, write_results
from mmplugins.prae.files.inputs import read_detections
from mmplugins.prae.files.voc import read_voc_ground_truth, read_voc_results, write_voc_results
from mmplugins.prae.fusion.masks import as_bitmap
from mmplugins.utils.running.launch import DumpPredictions


@pytest.fixture
def gt(files):
    return read_ground_truth(files / 'fit.json')


def equal(a, b, atol=0.01) -> None:
    assert a.image.tolist() == b.image.tolist()
    assert a.category.tolist() == b.category.tolist()
    np.testing.assert_allclose(a.score, b.score, atol=1e-6)
    np.testing.assert_allclose(a.box, b.box, atol=atol)


def test_ground_truth(gt, scene):
    assert gt.dataset.classes == scene[0].dataset.classes
    assert gt.image.tolist() == scene[0].image.tolist()
    np.testing.assert_allclose(gt.box, scene[0].box)
    assert gt.ignore.tolist() == scene[0].ignore.tolist()


@pytest.mark.parametrize('suffix', ['.json', '.json.gz'])
def test_coco_results(gt, scene, tmp_path, suffix):
    write_results(scene[2][0], gt.dataset, tmp_path / f'x{suffix}')
    equal(read_detections(tmp_path / f'x{suffix}', gt.dataset), scene[2][0])


def test_results_do_not_depend_on_the_order_of_images(files, scene):
    data = json.loads((files / 'fit.json').read_text())
    data['images'].reverse()
    (files / 'turned.json').write_text(json.dumps(data))
    gt = read_ground_truth(files / 'turned.json')
    equal(read_results(files / 'a_fit.bbox.json', gt.dataset), scene[2][0])


def samples_of(table, num_images):
    """What mmdet's evaluation loop hands to a metric."""
    return [
        dict(
            img_id=image + 1,
            ori_shape=(300, 400),
            gt_instances=dict(bboxes=torch.zeros(1, 4)),
            pred_instances=dict(
                bboxes=torch.from_numpy(table.box[table.image == image]).float(),
                scores=torch.from_numpy(table.score[table.image == image]).float(),
                labels=torch.from_numpy(table.category[table.image == image]),
            ),
        )
        for image in range(num_images)
    ]


def test_pickle_of_mmdet(gt, scene, tmp_path):
    dump = DumpDetResults(str(tmp_path / 'x.pkl'))
    dump.process({}, samples_of(scene[2][0], 60))
    dump.compute_metrics(dump.results)
    equal(read_detections(tmp_path / 'x.pkl', gt.dataset), scene[2][0])


def test_pickle_with_masks(gt, scene, tmp_path):
    samples = samples_of(scene[2][0], 3)
    for sample in samples:
        count = len(sample['pred_instances']['scores'])
        sample['pred_instances']['masks'] = torch.zeros(count, 300, 400, dtype=torch.bool)
    dump = DumpDetResults(str(tmp_path / 'x.pkl'))
    dump.process({}, samples)
    dump.compute_metrics(dump.results)
    table = read_detections(tmp_path / 'x.pkl', gt.dataset)
    assert set(table.mask[0]) == {'size', 'counts'}
    write_results(table, gt.dataset, tmp_path / 'x.json')
    assert read_results(tmp_path / 'x.json', gt.dataset).mask[0] == table.mask[0]


def test_pickle_of_our_tool_with_masks(gt, scene, tmp_path):
    data_samples = []
    for sample in samples_of(scene[2][0], 2):
        found = sample['pred_instances']
        masks = torch.zeros(len(found['scores']), 300, 400, dtype=torch.bool)
        masks[:, 10:20] = True
        polygon = PolygonMasks([[np.array([0.0, 0, 5, 0, 5, 5])]], 300, 400)  # with_mask=True
        data_samples.append(
            DetDataSample(
                metainfo=dict(img_id=sample['img_id'], ori_shape=(300, 400)),
                gt_instances=InstanceData(bboxes=torch.zeros(1, 4), masks=polygon),
                ignored_instances=InstanceData(bboxes=torch.zeros(1, 4), masks=polygon),
                pred_instances=InstanceData(**found, masks=masks),
            )
        )
    hook = DumpPredictions(str(tmp_path / 'x.pkl'), 'mmdet')
    hook.after_test_iter(None, 0, outputs=data_samples)
    hook.after_test_epoch(SimpleNamespace(test_dataloader=SimpleNamespace(dataset=data_samples)))
    table = read_detections(tmp_path / 'x.pkl', gt.dataset)
    equal(replace(table, mask=None), scene[2][0].select(scene[2][0].image < 2))
    assert as_bitmap(table.mask[0]).sum() == 10 * 400


class Evil:
    def __reduce__(self):
        return os.system, ('touch was_here',)


@pytest.mark.parametrize('wrap', [lambda evil: evil, lambda evil: [dict(img_id=evil)]], ids=['top', 'inside'])
def test_malicious_pickle_is_refused_and_not_run(gt, tmp_path, monkeypatch, wrap):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(wrap(Evil())))
    with pytest.raises(ValueError, match='it names (posix|nt).system'):
        read_detections(tmp_path / 'x.pkl', gt.dataset)
    assert not (tmp_path / 'was_here').exists()


def test_malicious_storage_inside_a_tensor_is_refused(gt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), tmp_path / 'storage.pth')

    class Carrier:
        def __reduce__(self):
            return torch.storage._load_from_bytes, ((tmp_path / 'storage.pth').read_bytes(),)

    (tmp_path / 'x.pkl').write_bytes(pickle.dumps([dict(img_id=Carrier())]))
    with pytest.raises(ValueError, match='x.pkl is not read'):
        read_detections(tmp_path / 'x.pkl', gt.dataset)
    assert not (tmp_path / 'was_here').exists()


def test_voc_text_round_trip(gt, scene, tmp_path):
    write_voc_results(scene[2][0], gt.dataset, tmp_path)
    assert sorted(path.name for path in tmp_path.glob('*.txt')) == [
        f'comp4_det_test_class {number}.txt' for number in range(3)
    ]
    table = read_voc_results(tmp_path, gt.dataset)
    order = [np.lexsort((t.score, t.category, t.image)) for t in (table, scene[2][0])]
    equal(table.select(order[0]), scene[2][0].select(order[1]))


def test_voc_counts_pixels_from_one(tmp_path):
    (tmp_path / '000001.xml').write_text(
        '<annotation><size><width>20</width><height>10</height></size><object><name>dog</name><difficult>1</difficult>'
        '<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>10</ymax></bndbox></object></annotation>'
    )
    gt = read_voc_ground_truth(tmp_path)
    assert gt.box.tolist() == [[0, 0, 20, 10]]  # the whole image
    assert gt.ignore.tolist() == [True]
    (tmp_path / 'comp4_det_test_dog.txt').write_text('000001 0.5 1 1 20 10\n')
    assert read_detections(tmp_path, gt.dataset).box.tolist() == [[0, 0, 20, 10]]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('000001 0.5 1 1 20\n', 'line 1: expected name, score'),
        ('000009 0.5 1 1 20 10\n', 'unknown image id or name 000009'),
        ('000001 high 1 1 20 10\n', 'line 1: expected name, score'),
    ],
)
def test_broken_voc_text(tmp_path, gt, text, message):
    dataset = replace(gt.dataset, file_names=tuple(f'{n:06d}.jpg' for n in (1, 2)) + gt.dataset.file_names[2:])
    (tmp_path / 'comp4_det_test_class 0.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_voc_results(tmp_path, dataset)


BOX = dict(image_id=1, category_id=1, bbox=[1, 2, 3, 4], score=0.5)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'is empty'),
        ('[{"image_id": 1', 'is cut off or not JSON'),
        ('{"a": 1}', 'must be a list'),
        (json.dumps([{'image_id': 1}]), 'KeyError'),
        (json.dumps([5]), 'is not a COCO results file'),
        (json.dumps([{**BOX, 'image_id': 99999}]), 'unknown image id or name 99999'),
        (json.dumps([{**BOX, 'category_id': 77}]), 'unknown .*category id 77'),
        (json.dumps([{**BOX, 'bbox': [1, 2]}]), 'boxes have 2 numbers'),
        (json.dumps([{**BOX, 'score': 'high'}]), 'could not convert'),
    ],
)
def test_broken_results(gt, tmp_path, content, message):
    (tmp_path / 'x.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        read_detections(tmp_path / 'x.json', gt.dataset)


def test_cut_off_gzip(gt, scene, tmp_path):
    write_results(scene[2][0], gt.dataset, tmp_path / 'x.json.gz')
    whole = (tmp_path / 'x.json.gz').read_bytes()
    (tmp_path / 'x.json.gz').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match='cut off or not JSON'):
        read_detections(tmp_path / 'x.json.gz', gt.dataset)
    (tmp_path / 'x.json.gz').write_bytes(b'no gzip')
    with pytest.raises(ValueError, match='cut off or not JSON'):
        read_detections(tmp_path / 'x.json.gz', gt.dataset)


def test_cut_off_pickle(gt, scene, tmp_path):
    whole = pickle.dumps(samples_of(scene[2][0], 60))
    (tmp_path / 'x.pkl').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match='is not read'):
        read_detections(tmp_path / 'x.pkl', gt.dataset)


def test_boxes_that_are_none_are_counted(gt, tmp_path, caplog):
    bad = [{**BOX, 'score': float('nan')}, {**BOX, 'bbox': [1, 2, -3, 4]}, {**BOX, 'bbox': [1, 2, 0, 4]}, BOX]
    (tmp_path / 'x.json').write_text(json.dumps(bad))
    table = read_detections(tmp_path / 'x.json', gt.dataset, 'mine')
    assert len(table) == 1
    assert 'mine: left out 1 of 2 boxes (not finite)' in caplog.text
    assert 'mine: left out 2 of 3 boxes (no area)' in caplog.text


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.pop('categories'), 'needs the lists'),
        (lambda d: d['images'].clear(), '0 images'),
        (lambda d: d['images'].append(d['images'][0]), 'image id 1 more than once'),
        (lambda d: d['categories'].append({'id': 9, 'name': 'class 1'}), "category name 'class 1' more than once"),
        (lambda d: d['annotations'][0].update(image_id=999), 'unknown .*image id 999'),
        (lambda d: d['annotations'][0].pop('bbox'), "KeyError 'bbox'"),
    ],
)
def test_broken_annotations(files, change, message):
    data = json.loads((files / 'fit.json').read_text())
    change(data)
    (files / 'broken.json').write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message):
        read_ground_truth(files / 'broken.json')


def test_gzipped_annotations(files):
    (files / 'fit.json.gz').write_bytes(gzip.compress((files / 'fit.json').read_bytes()))
    assert len(read_ground_truth(files / 'fit.json.gz').box) == len(read_ground_truth(files / 'fit.json').box)


def test_failed_write_leaves_the_old_file(gt, scene, tmp_path, monkeypatch):
    write_results(scene[2][0], gt.dataset, tmp_path / 'x.json')
    before = (tmp_path / 'x.json').read_bytes()
    monkeypatch.setattr('mmplugins.prae.files.coco.json.dumps', lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_results(scene[2][1], gt.dataset, tmp_path / 'x.json')
    assert (tmp_path / 'x.json').read_bytes() == before
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith('.')]
