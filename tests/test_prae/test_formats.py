"""One detector's boxes in every format that people have: the same table, and the same fused file."""

import csv
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import DumpDetResults
from mmdet.structures.bbox import HorizontalBoxes

from mmplugins.prae import Dataset, Detections, GroundTruth, fit, save
from mmplugins.prae.__main__ import main
from mmplugins.prae.calibration.file import overlap
from mmplugins.prae.files.coco import read_ground_truth, read_results, write_results
from mmplugins.prae.files.inputs import read_detections
from mmplugins.prae.files.voc import read_voc_results, write_voc_results
from mmplugins.prae.fusion.masks import as_bitmap


@pytest.fixture
def gt(files) -> GroundTruth:
    return read_ground_truth(files / 'fit.json')


@pytest.fixture
def table(files, gt) -> Detections:
    return read_detections(files / 'a_fit.bbox.json', gt.dataset)


def by_image(table: Detections, gt: GroundTruth):
    for place, (image_id, name) in enumerate(zip(gt.dataset.image_ids, gt.dataset.file_names, strict=True)):
        yield image_id, name, table.select(table.image == place)


def coco_entries(part: Detections) -> list[dict]:
    xywh = np.concatenate([part.box[:, :2], part.box[:, 2:] - part.box[:, :2]], axis=1)
    return [
        dict(category_id=int(c), bbox=b.tolist(), score=float(s))
        for c, b, s in zip(part.category, xywh, part.score, strict=True)
    ]


def ultralytics(table, gt, folder) -> Path:
    """``image_id`` is the file name without suffix, classes count from 1."""
    entries = [
        {**entry, 'image_id': Path(name).stem, 'file_name': name, 'category_id': entry['category_id'] + 1}
        for _, name, part in by_image(table, gt)
        for entry in coco_entries(part)
    ]
    (folder / 'predictions.json').write_text(json.dumps(entries))
    return folder / 'predictions.json'


def text_ids(table, gt, folder) -> Path:
    """Ids as text."""
    write_results(table, gt.dataset, folder / 'x.json')
    entries = json.loads((folder / 'x.json').read_text())
    (folder / 'x.json').write_text(json.dumps([{**e, 'image_id': str(e['image_id'])} for e in entries]))
    return folder / 'x.json'


def samples(table, gt, **pred: Callable) -> list[dict]:
    return [
        dict(
            img_id=image_id,
            pred_instances=dict(
                bboxes=pred.get('bboxes', torch.from_numpy)(part.box),
                scores=torch.from_numpy(part.score),
                labels=torch.from_numpy(part.category),
            ),
        )
        for image_id, _, part in by_image(table, gt)
    ]


def mmdet_pickle(table, gt, folder) -> Path:
    dump = DumpDetResults(str(folder / 'x.pkl'))
    dump.process({}, samples(table, gt))
    dump.compute_metrics(dump.results)
    return folder / 'x.pkl'


def pickle_of_boxes(table, gt, folder) -> Path:
    """Boxes as objects of mmdet."""
    found = samples(table, gt, bboxes=lambda box: HorizontalBoxes(torch.from_numpy(box)))
    (folder / 'x.pkl').write_bytes(pickle.dumps(found))
    return folder / 'x.pkl'


def detectron2(table, gt, folder) -> Path:
    found = [
        dict(image_id=image_id, instances=[{**entry, 'image_id': image_id} for entry in coco_entries(part)])
        for image_id, _, part in by_image(table, gt)
    ]
    torch.save(found, folder / 'instances_predictions.pth')
    return folder / 'instances_predictions.pth'


def torchvision(table, gt, folder) -> Path:
    ids = torch.tensor(gt.dataset.category_ids)
    found = {
        image_id: dict(boxes=torch.from_numpy(part.box), labels=ids[part.category], scores=torch.from_numpy(part.score))
        for image_id, _, part in by_image(table, gt)
    }
    torch.save(found, folder / 'x.pth')
    return folder / 'x.pth'


def voc_text(table, gt, folder) -> Path:
    write_voc_results(table, gt.dataset, folder / 'voc')
    return folder / 'voc'


def yolo_text(table, gt, folder) -> Path:
    (folder / 'labels').mkdir()
    for _, name, part in by_image(table, gt):
        size = (part.box[:, 2:] - part.box[:, :2]) / [400, 300]
        center = (part.box[:, 2:] + part.box[:, :2]) / 2 / [400, 300]
        rows = np.concatenate([center, size, part.score[:, None]], axis=1)
        lines = [f'{c} ' + ' '.join(f'{x:.9f}' for x in row) for c, row in zip(part.category, rows, strict=True)]
        (folder / 'labels' / f'{Path(name).stem}.txt').write_text('\n'.join(lines))
    return folder / 'labels'


def open_images(table, gt, folder) -> Path:
    with open(folder / 'x.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['ImageID', 'LabelName', 'Conf', 'XMin', 'XMax', 'YMin', 'YMax'])
        for _, name, part in by_image(table, gt):
            for c, s, (x1, y1, x2, y2) in zip(part.category, part.score, part.box, strict=True):
                writer.writerow(
                    [Path(name).stem, gt.dataset.classes[c], float(s), x1 / 400, x2 / 400, y1 / 300, y2 / 300]
                )
    return folder / 'x.csv'


FORMATS = [ultralytics, text_ids, mmdet_pickle, pickle_of_boxes, detectron2, torchvision, voc_text, yolo_text,
           open_images]  # fmt: skip


def ordered(table: Detections) -> Detections:
    return table.select(np.lexsort((table.score, table.category, table.image)))


@pytest.mark.parametrize('write', FORMATS)
def test_every_format_gives_the_same_fused_file(write, table, gt, files, tmp_path, capsys):
    path = write(table, gt, tmp_path)
    read, expected = ordered(read_detections(path, gt.dataset)), ordered(table)
    assert read.image.tolist() == expected.image.tolist()
    assert read.category.tolist() == expected.category.tolist()
    np.testing.assert_allclose(read.score, expected.score, atol=1e-7)
    np.testing.assert_allclose(read.box, expected.box, atol=2e-3)

    save(fit({'a': table, 'b': table}, gt), tmp_path / 'calib.json')
    fused = []
    for number, first in enumerate((files / 'a_fit.bbox.json', path)):
        out = tmp_path / f'{number}.json'
        dets = ('--det', f'a={first}', '--det', f'b={files / "b_fit.bbox.json"}')
        assert main(['apply', str(tmp_path / 'calib.json'), '--ann', str(files / 'fit.json'), *map(str, dets),
                     '-o', str(out)]) == 0, capsys.readouterr().err  # fmt: skip
        fused.append(ordered(read_results(out, gt.dataset)))
    assert len(fused[0]) == len(fused[1])
    if write not in (voc_text, yolo_text):  # files of text round scores, and the steps of a curve lie on them
        np.testing.assert_allclose(fused[1].score, fused[0].score, atol=1e-9)


def with_placeholder(gt: GroundTruth) -> GroundTruth:
    """The same objects with a category before the others that no object has."""
    data = gt.dataset
    more = replace(data, classes=('things', *data.classes), category_ids=(0, *data.category_ids))
    return replace(gt, dataset=more, category=gt.category + 1)


@pytest.mark.parametrize('write', [mmdet_pickle, detectron2, yolo_text])
def test_labels_go_by_name_and_never_by_place_where_counts_differ(write, table, gt, tmp_path, caplog):
    path, more = write(table, gt, tmp_path), with_placeholder(gt)
    with pytest.raises(ValueError, match='labels 0 to 2, the annotation file has 4 categories.*--classes'):
        read_detections(path, more.dataset)
    read = read_detections(path, more.dataset, classes=gt.dataset.classes)
    assert ordered(read).category.tolist() == (ordered(table).category + 1).tolist()

    fewer = replace(gt.dataset, classes=gt.dataset.classes[2:], category_ids=gt.dataset.category_ids[2:])
    with caplog.at_level(logging.WARNING):
        read = read_detections(path, fewer, classes=gt.dataset.classes)
    assert len(read) == (table.category == 2).sum() and set(read.category) == {0}
    assert f'left out {(table.category < 2).sum()} boxes of classes that the annotation file has not' in caplog.text
    with pytest.raises(ValueError, match='labels 0 to 2 for 2 classes'):
        read_detections(path, gt.dataset, classes=['class 0', 'class 1'])
    with pytest.raises(ValueError, match='none of the classes'):
        read_detections(path, gt.dataset, classes=['x', 'y', 'z'])


def test_classes_in_the_pickle_are_taken(table, gt, tmp_path):
    turned = gt.dataset.classes[::-1]
    found = [{**sample, 'text': turned} for sample in samples(table, gt)]
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(found))
    read = read_detections(tmp_path / 'x.pkl', with_placeholder(gt).dataset)
    assert read.category.tolist() == (3 - table.category).tolist()


def test_numbers_of_classes_in_json_count_from_0_or_1(table, gt, tmp_path):
    for first in (0, 1):
        entries = [
            {**entry, 'image_id': image_id, 'category_id': entry['category_id'] + first}
            for image_id, _, part in by_image(table, gt)
            for entry in coco_entries(part)
        ]
        (tmp_path / 'x.json').write_text(json.dumps(entries))
        read = read_detections(tmp_path / 'x.json', with_placeholder(gt).dataset, classes=gt.dataset.classes)
        assert read.category.tolist() == (table.category + 1).tolist()


@pytest.mark.parametrize('numbers', [[1, 2], [2], [1]])
def test_json_that_does_not_tell_its_first_number_is_refused_unless_it_is_said(numbers, gt, tmp_path):
    # Ultralytics counts from 1; the last class was never predicted.
    entries = [dict(image_id=1, category_id=number, bbox=[0, 0, 9, 9], score=0.5) for number in numbers]
    (tmp_path / 'x.json').write_text(json.dumps(entries))
    data, classes = with_placeholder(gt).dataset, gt.dataset.classes
    with pytest.raises(ValueError, match='neither 0 nor 3 it does not tell .* --first-class'):
        read_detections(tmp_path / 'x.json', data, classes=classes)
    for first in (0, 1):
        read = read_detections(tmp_path / 'x.json', data, classes=classes, first_class=first)
        assert [data.classes[k] for k in read.category] == [classes[number - first] for number in numbers]


def test_json_with_more_classes_than_names_is_refused(gt, tmp_path):
    box = dict(image_id=1, bbox=[0, 0, 9, 9], score=0.5)
    for numbers in ([0, 3], [1, 4], [-1, 2]):
        (tmp_path / 'x.json').write_text(json.dumps([{**box, 'category_id': number} for number in numbers]))
        with pytest.raises(ValueError, match='for 3 (classes|names)'):
            read_detections(tmp_path / 'x.json', gt.dataset, classes=gt.dataset.classes)
    (tmp_path / 'x.json').write_text('[]')
    assert not len(read_detections(tmp_path / 'x.json', gt.dataset, classes=gt.dataset.classes))


def rotated_table(table: Detections) -> Detections:
    center, size = (table.box[:, :2] + table.box[:, 2:]) / 2, table.box[:, 2:] - table.box[:, :2]
    angle = np.random.default_rng(0).uniform(-0.7, 0.7, (len(table), 1))
    return replace(table, box=np.concatenate([center, size, angle], axis=1))


def corners_of(box: np.ndarray) -> np.ndarray:
    """Eight numbers of each rotated box."""
    cos, sin = np.cos(box[:, 4]), np.sin(box[:, 4])
    x = box[:, 2:3] / 2 * [-1, 1, 1, -1]
    y = box[:, 3:4] / 2 * [-1, -1, 1, 1]
    points = np.stack([x * cos[:, None] - y * sin[:, None], x * sin[:, None] + y * cos[:, None]], axis=2)
    return (points + box[:, None, :2]).reshape(-1, 8)


@pytest.mark.parametrize('kind', ['json', 'pickle', 'pickle of boxes', 'yolo'])
@pytest.mark.parametrize('numbers', [5, 8])
def test_rotated_boxes_are_read_as_such(kind, numbers, table, gt, tmp_path):
    structures = pytest.importorskip('mmrotate.structures.bbox')
    turned = rotated_table(table)
    written = turned if numbers == 5 else replace(turned, box=corners_of(turned.box))
    if kind == 'json':
        entries = [
            dict(image_id=image_id, category_id=gt.dataset.category_ids[c], bbox=b.tolist(), score=float(s))
            for image_id, _, part in by_image(written, gt)
            for c, b, s in zip(part.category, part.box, part.score, strict=True)
        ]
        (tmp_path / 'x.json').write_text(json.dumps(entries))
        path = tmp_path / 'x.json'
    elif kind == 'yolo':
        if numbers == 5:
            pytest.skip('YOLO has corners')
        (tmp_path / 'labels').mkdir()
        for _, name, part in by_image(written, gt):
            rows = np.concatenate([part.box / ([400, 300] * 4), part.score[:, None]], axis=1)
            lines = [f'{c} ' + ' '.join(f'{x:.9f}' for x in row) for c, row in zip(part.category, rows, strict=True)]
            (tmp_path / 'labels' / f'{Path(name).stem}.txt').write_text('\n'.join(lines))
        path = tmp_path / 'labels'
    else:
        boxes = structures.RotatedBoxes if numbers == 5 else structures.QuadriBoxes
        wrap = (lambda box: boxes(torch.from_numpy(box))) if 'boxes' in kind else torch.from_numpy
        (tmp_path / 'x.pkl').write_bytes(pickle.dumps(samples(written, gt, bboxes=wrap)))
        path = tmp_path / 'x.pkl'
    read = ordered(read_detections(path, gt.dataset))
    assert read.box.shape == (len(table), 5)
    np.testing.assert_allclose(
        np.sort(corners_of(read.box).reshape(-1, 4, 2)[..., 0]),
        np.sort(corners_of(ordered(turned).box).reshape(-1, 4, 2)[..., 0]),
        atol=0.02,
    )
    write_results(read, gt.dataset, tmp_path / 'again.json')
    np.testing.assert_allclose(read_results(tmp_path / 'again.json', gt.dataset).box[:3].shape, (3, 5))


def test_rotated_ground_truth(files, gt):
    data = json.loads((files / 'fit.json').read_text())
    for annotation in data['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['bbox'] = [x + w / 2, y + h / 2, w, h, 0.1]
    (files / 'rotated.json').write_text(json.dumps(data))
    assert read_ground_truth(files / 'rotated.json').box.shape == (len(gt.box), 5)


@pytest.mark.parametrize(
    ('box', 'message'),
    [
        (None, 'boxes have none numbers'),
        ([1, 2, 3, 4, 5, 6], 'boxes have 6 numbers'),
        ([50, 50, 20, 10, 45.0], 'must be radians'),
    ],
)
def test_boxes_of_another_shape_are_refused(gt, files, tmp_path, box, message):
    (tmp_path / 'x.json').write_text(json.dumps([dict(image_id=1, category_id=1, bbox=box, score=0.5)]))
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / 'x.json', gt.dataset)
    data = json.loads((files / 'fit.json').read_text())
    data['annotations'][0]['bbox'] = box
    (files / 'broken.json').write_text(json.dumps(data))
    with pytest.raises(ValueError, match='1 annotations without a box|boxes have'):
        read_ground_truth(files / 'broken.json')


def dataset_of(*names: str, classes=('red_cell', 'cell', 'tv/monitor')) -> Dataset:
    ids = tuple(range(1, len(names) + 1))
    return Dataset(ids, names, np.full((len(ids), 2), 100.0), classes, tuple(range(len(classes))))


def test_voc_text_of_classes_with_underscores_and_slashes(tmp_path):
    data = dataset_of('a.jpg')
    table = Detections.make([0] * 3, [0, 1, 2], [0.3, 0.2, 0.1], [[0, 0, 9, 9]] * 3)
    write_voc_results(table, data, tmp_path, prefix='comp4_det_my_test')
    assert ordered(read_voc_results(tmp_path, data)).category.tolist() == [0, 1, 2]
    (tmp_path / 'comp4_det_my_test_dog.txt').touch()
    with pytest.raises(ValueError, match='ends in no class'):
        read_voc_results(tmp_path, data)


def test_images_of_one_name_in_two_folders(tmp_path):
    data = dataset_of('one/0001.jpg', 'two/0001.jpg')
    table = Detections.make([0, 1], [0, 0], [0.3, 0.2], [[0, 0, 9, 9]] * 2)
    write_voc_results(table, data, tmp_path)
    assert read_voc_results(tmp_path, data).image.tolist() == [0, 1]
    (tmp_path / 'comp4_det_test_cell.txt').write_text('0001 0.5 1 1 9 9\n')
    with pytest.raises(ValueError, match='2 images are called 0001'):
        read_voc_results(tmp_path, data)
    (tmp_path / 'comp4_det_test_cell.txt').write_text('three/0001 0.5 1 1 9 9\n')
    with pytest.raises(ValueError, match='unknown image id or name three/0001'):
        read_voc_results(tmp_path, data)
    (tmp_path / 'comp4_det_test_cell.txt').write_text('/data/images/two/0001.jpg 0.5 1 1 9 9\n')
    assert 1 in read_voc_results(tmp_path, data).image


def test_fit_images_are_told_by_path(scene):
    gt, tables = scene[0], scene[2]
    named = [
        replace(gt, dataset=replace(gt.dataset, file_names=tuple(f'{video}/{n}' for n in gt.dataset.file_names)))
        for video in ('one', 'two')
    ]
    calib = fit({'a': tables[0]}, named[0])
    assert overlap(calib, named[0].dataset) == 60
    assert overlap(calib, named[1].dataset) == 0


def test_bitmaps_and_half_precision_in_a_pickle(gt, table, tmp_path):
    found = samples(table, gt)
    pred = found[0]['pred_instances']
    bitmap = torch.zeros(len(pred['scores']), 300, 400, dtype=torch.bool)
    bitmap[:, 5:20, 7:30] = True
    pred['masks'] = bitmap
    pred['bboxes'], pred['scores'] = pred['bboxes'].bfloat16(), pred['scores'].bfloat16()
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps(found))
    read = read_detections(tmp_path / 'x.pkl', gt.dataset)
    np.testing.assert_array_equal(as_bitmap(read.mask[0]), bitmap[0].numpy())
    np.testing.assert_allclose(read.box[0], table.box[0], rtol=0.01)
    write_results(read, gt.dataset, tmp_path / 'x.json')  # JSON can hold it


def test_a_malicious_tensor_is_refused_without_advice_to_load_it(gt, tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / 'storage.pth')

    class Carrier:
        def __reduce__(self):
            return torch.storage._load_from_bytes, ((tmp_path / 'storage.pth').read_bytes(),)

    (tmp_path / 'x.pkl').write_bytes(pickle.dumps([dict(img_id=Carrier())]))
    for name in ('x.pkl', 'storage.pth'):
        with pytest.raises(ValueError, match='do not open it|not read') as refused:
            read_detections(tmp_path / name, gt.dataset)
        assert 'weights_only' not in str(refused.value)


BROKEN = {
    'labels.txt': ('0 0.5 0.5 0.1 0.1\n', 'run with save_conf=True'),
    'x.csv': ('ImageID,PredictionString\nfit_0001,1 0.5 0 0 1 1\n', 'split the text of a PredictionString'),
}


@pytest.mark.parametrize('name', BROKEN)
def test_files_that_lack_something_say_what(name, gt, tmp_path):
    text, message = BROKEN[name]
    path = tmp_path / name
    if name.endswith('.txt'):
        path = tmp_path / 'labels'
        path.mkdir()
        (path / 'fit_0001.txt').write_text(text)
    else:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_detections(path, gt.dataset)


def test_old_results_of_mmdet_are_refused(gt, tmp_path):
    (tmp_path / 'x.pkl').write_bytes(pickle.dumps([[np.zeros((0, 5))] * 3]))
    with pytest.raises(ValueError, match='of mmdet 3: it must be a list of dicts, not of list'):
        read_detections(tmp_path / 'x.pkl', gt.dataset)


def test_dropped_masks_and_a_member_without_masks(gt, table, files, tmp_path, capsys):
    coded = [dict(size=[300, 400], counts='0')] * len(table)
    mask = np.empty(len(table), dtype=object)
    mask[:] = coded
    bitmap = np.zeros((300, 400), dtype=np.uint8, order='F')
    bitmap[:50, :50] = 1
    from pycocotools import mask as tools

    code = tools.encode(bitmap)
    mask[:] = [{**code, 'counts': code['counts'].decode()}] * len(table)
    write_results(replace(table, mask=mask), gt.dataset, tmp_path / 'a.json')
    save(fit({'a': table, 'b': table}, gt), tmp_path / 'calib.json')
    args = ['apply', tmp_path / 'calib.json', '--ann', files / 'fit.json', '--det', f'a={tmp_path / "a.json"}',
            '--det', f'b={files / "b_fit.bbox.json"}', '-o', tmp_path / 'out.json']  # fmt: skip
    for more in ([], ['--drop-masks']):
        assert main([str(arg) for arg in [*args, *more]]) == 0, capsys.readouterr().err
        entries = json.loads((tmp_path / 'out.json').read_text())
        assert any('segmentation' in entry for entry in entries) == (not more)
