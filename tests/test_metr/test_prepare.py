"""Published annotations put right, on stand-ins in the layout of the published files."""

import csv
import importlib
import json
from pathlib import Path

import pytest
from mmdet.datasets import Objects365V2Dataset
from mmdet.registry import DATASETS
from mmengine.config import Config

from mmplugins.metr.__main__ import main


@pytest.fixture(scope='module')
def write(standins):
    """Return a function that writes one family of stand-ins."""
    return lambda family, root: importlib.import_module(f'{standins.__name__}.{family}').write(root)


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8'))


def dump(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content), encoding='utf-8')


# -- Objects365 -----------------------------------------------------------------------------------------------------


def test_objects365(write, tmp_path, capsys):
    write('objects365', tmp_path)
    raw = tmp_path / 'annotations/zhiyuan_objv2_train.json'
    content = load(raw)
    names = Objects365V2Dataset.METAINFO['classes']
    category = next(c for c in content['categories'] if c['name'] == 'Bakset')
    category['name'] = 'Basket'  # as mmdet's script makes it
    content['annotations'].append({**content['annotations'][0], 'id': 999})
    dump(raw, content)
    assert main(['prepare', 'objects365', str(tmp_path)]) == 0
    lines = capsys.readouterr().out
    # One of four pictures is on mmdet's list and in no folder; each has three boxes.
    assert 'objects365v2_train.json: 3 images, 9 boxes' in lines
    assert "left out: 1 images of mmdet's list of bad ones" in lines
    assert 'left out: 3 boxes of these images' in lines
    assert 'left out: 1 boxes that were there already' in lines
    assert 'objects365v2_val.json: 2 images, 6 boxes' in lines
    for part in ('train', 'val'):
        dataset = DATASETS.build(
            dict(
                type='VocabCocoDataset',
                data_root=str(tmp_path),
                ann_file=f'annotations/objects365v2_{part}.json',
                data_prefix=dict(img=f'{part}/'),
                metainfo=dict(classes=names),
            )
        )
        assert dataset.metainfo['classes'] == names
        assert all(Path(dataset.get_data_info(i)['img_path']).is_file() for i in range(len(dataset)))
    # The raw files still read as before, without what is in no archive.
    old = load(tmp_path / 'annotations/zhiyuan_objv2_val.json')
    assert all(image['file_name'].startswith('images/') for image in old['images'])


@pytest.mark.parametrize('content', [dict(images=[]), []], ids=['a list is missing', 'no dictionary'])
def test_file_that_is_not_of_objects365(tmp_path, capsys, content):
    (tmp_path / 'annotations').mkdir()
    dump(tmp_path / 'annotations/zhiyuan_objv2_train.json', content)
    assert main(['prepare', 'objects365', str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert 'zhiyuan_objv2_train.json is not a COCO annotation file' in error
    assert error.endswith('categories, annotations\n')


def test_pictures_in_another_folder(write, tmp_path, capsys):
    write('objects365', tmp_path)
    (tmp_path / 'train').rename(tmp_path / 'training')
    assert main(['prepare', 'objects365', str(tmp_path)]) == 1
    assert 'none of 3 images lies in' in capsys.readouterr().err
    assert not (tmp_path / 'annotations/objects365v2_train.json').exists()


# -- OpenImages -----------------------------------------------------------------------------------------------------


def table(path: Path) -> list[dict]:
    with open(path, encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def test_openimages_boxes(write, tmp_path, capsys):
    """The stand-ins hold the boxes in COCO's format too."""
    write('openimages', tmp_path)
    path = tmp_path / 'annotations/oidv6_train_bbox_coco.json'
    expected = load(path)
    assert main(['prepare', 'openimages', str(tmp_path)]) == 0
    assert 'oidv6_train_bbox_coco.json: 4 images, 12 boxes, 4 of them of groups, 601 names' in capsys.readouterr().out
    found = load(path)
    assert [c['name'] for c in found['categories']] == [c['name'] for c in expected['categories']]

    def boxes(content):
        names = {image['id']: image['file_name'] for image in content['images']}
        return sorted(
            (names[a['image_id']], a['category_id'], a['iscrowd'], *(round(x, 2) for x in a['bbox']))
            for a in content['annotations']
        )

    for one, other in zip(boxes(found), boxes(expected), strict=True):
        assert one[:3] == other[:3]
        assert one[3:] == pytest.approx(other[3:], abs=0.02)
    sizes = {image['file_name']: (image['width'], image['height']) for image in expected['images']}
    assert {image['file_name']: (image['width'], image['height']) for image in found['images']} == sizes


def test_openimages_verified_labels(write, tmp_path):
    """Label 0 lies below label 1. Image 0: 0 is there; image 1: 1 is absent, and so is 0; image 2: 1 is there."""
    write('openimages', tmp_path)
    folder = tmp_path / 'annotations'
    with open(folder / 'class-descriptions-boxable.csv', encoding='utf-8', newline='') as file:
        child, parent, other = [row[0] for row in csv.reader(file)][:3]
    boxes = folder / 'oidv6-train-annotations-bbox.csv'
    rows = table(boxes)
    images = list(dict.fromkeys(row['ImageID'] for row in rows))
    labels = {images[0]: [child, other, other], images[1]: [other] * 3, images[2]: [parent] * 3, images[3]: [other] * 3}
    for image, own in labels.items():
        for row, label in zip([row for row in rows if row['ImageID'] == image], own, strict=True):
            row['LabelName'] = label
    verified = [(images[0], child, 1), (images[0], other, 1), (images[1], parent, 0), (images[2], parent, 1)]
    verified += [(images[2], child, 0), ('0' * 16, other, 1)]  # the last is in no folder
    with open(boxes, 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with open(folder / 'train-annotations-human-imagelabels-boxable.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(('ImageID', 'LabelName', 'Confidence'))
        writer.writerows(verified)
    assert main(['prepare', 'openimages', str(tmp_path), '--parts', 'train']) == 0
    found = {image['file_name']: image for image in load(folder / 'oidv6_train_bbox_coco.json')['images']}
    assert len(found) == 4
    said = [
        (found[f'{image}.jpg']['neg_category_ids'], found[f'{image}.jpg']['not_exhaustive_category_ids'])
        for image in images
    ]
    # The parent of what is there is there too, without boxes of its own: neither absent nor all boxed.
    assert said == [([], [2]), ([1, 2], []), ([1], []), ([], [])]

    dataset = DATASETS.build(
        dict(
            type='VocabCocoDataset',
            data_root=str(tmp_path),
            ann_file='annotations/oidv6_train_bbox_coco.json',
            data_prefix=dict(img='train/'),
        )
    )
    infos = {Path(info['img_path']).stem: info for info in map(dataset.get_data_info, range(4))}
    annotated = [(infos[image]['annotated_labels'], infos[image]['partly_boxed_labels']) for image in images]
    # The third box of each image is a group.
    assert annotated == [([0, 2], [2]), ([0, 1, 2], [2]), ([0, 1], [1]), ([2], [2])]


def test_openimages_label_that_has_no_name(write, tmp_path, capsys):
    write('openimages', tmp_path)
    path = tmp_path / 'annotations/class-descriptions-boxable.csv'
    path.write_text('/m/000000,Tortoise\n', encoding='utf-8')
    assert main(['prepare', 'openimages', str(tmp_path)]) == 1
    assert 'which class-descriptions-boxable.csv has not' in capsys.readouterr().err


# -- LVIS, check ----------------------------------------------------------------------------------------------------


def test_lvis(write, tmp_path, capsys):
    write('lvis', tmp_path)
    next(tmp_path.glob('val2017/*.jpg')).unlink()
    assert main(['prepare', 'lvis', str(tmp_path)]) == 0
    train, val = capsys.readouterr().out.splitlines()
    assert '4 images, 12 boxes, 0 of them of groups, 1203 names' in train
    assert '8 names known to be absent, 4 names present and not all boxed; 0 images' in train
    assert val.endswith('1 images are in no folder')


@pytest.mark.parametrize('cached', [False, True])
def test_check(write_coco, tmp_path, capsys, cached):
    box = [4, 6, 20, 10]
    sets = dict(
        A=write_coco('A', ['cat', 'mouse'], [[('cat', box), ('mouse', box)], [('cat', box)]]),
        B=write_coco('B', ['Mouse', 'dog'], [[('dog', box)]]),
    )
    Path(sets['A']['data_root'], '1.jpg').unlink()
    if cached:
        sets['A']['cache_dir'] = str(tmp_path / 'cache')
    sets['B'] = dict(type='RepeatDataset', times=3, dataset=sets['B'])
    loader = dict(dataset=dict(type='MultiVocabConcatDataset', datasets=sets))
    config = tmp_path / 'config.py'
    config.write_text(Config(dict(train_dataloader=loader, val_dataloader=loader)).pretty_text)
    assert main(['prepare', 'check', str(config)]) == 0
    lines = capsys.readouterr().out
    assert 'train_dataloader: 5 samples of 3 names' in lines
    assert 'A: 2 images, 1 of them in no folder, 3 boxes, 2 names, 0 of them without a box' in lines
    assert 'B: 1 images, 0 of them in no folder, 1 boxes, 2 names, 1 of them without a box; 3 samples after' in lines
    assert '1 names are shared by several sets' in lines
    assert '  mouse: A, B' in lines
    assert len(list(tmp_path.glob('cache/*.samples'))) == cached


def test_check_of_one_plain_set(write_coco, tmp_path, capsys):
    config = tmp_path / 'config.py'
    loader = dict(dataset=write_coco('A', ['cat'], [[('cat', [4, 6, 20, 10])]]))
    config.write_text(Config(dict(train_dataloader=loader)).pretty_text)
    assert main(['prepare', 'check', str(config)]) == 1
    assert 'is a VocabCocoDataset, no MultiVocabConcatDataset' in capsys.readouterr().err


def test_check_without_validation_or_training(write_coco, tmp_path, capsys):
    """``None`` is how a child config takes a loader away."""
    config = tmp_path / 'config.py'
    sets = dict(A=write_coco('A', ['cat'], [[('cat', [4, 6, 20, 10])]]))
    loader = dict(dataset=dict(type='MultiVocabConcatDataset', datasets=sets))
    config.write_text(Config(dict(train_dataloader=loader, val_dataloader=None)).pretty_text)
    assert main(['prepare', 'check', str(config)]) == 0
    assert 'val_dataloader: none' in capsys.readouterr().out
    config.write_text(Config(dict(val_dataloader=loader)).pretty_text)
    assert main(['prepare', 'check', str(config)]) == 1
    assert f'{config} has no train_dataloader' in capsys.readouterr().err
